"""Tasks of a batch shared out over the cores of a CPU.

Two threads that compute one task each are faster than two threads that share every
operation of one: convolutions of a few small images are too short to be cut. Every
thread has a copy of the learner's modules (calls with a task's own weights swap a
module's attributes) around the same weights, and torch computes with one thread in
each. Gradients are added in the order of the tasks, whoever comes first: the result is
to the last bit that of one thread taking task after task.

Not for learners on which a task leaves a trace, as running averages, counters and
random draws are: they would depend on who comes first. Whether one does is seen on the
first batch, by the values of all that a learner's modules hold; what cannot be compared
is taken for a trace.
"""

from __future__ import annotations

import copy
import hashlib
import io
import pickle
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sklmeta.engine.batches import Episodes
from sklmeta.engine.learner import Learner

__all__ = ["ThreadedUpdate", "in_threads", "one_thread", "replicas"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Parts = Callable[[Learner, Episodes], Iterator[Episodes]]


class ThreadedUpdate:
    """Loss and gradients of a batch, tasks shared out over threads.

    Parameters
    ----------
    learner : Learner
        On the CPU.
    parts_of : callable
        Cuts a batch into the parts that go through the learner.
    otherwise : callable
        The update of learners and batches that threads do not suit.
    """

    def __init__(
        self,
        learner: Learner,
        parts_of: Parts,
        otherwise: Callable[[Episodes], Tensor],
    ) -> None:
        self.learner = learner
        self.parts_of = parts_of
        self.otherwise = otherwise
        self.leaves_trace: bool | None = None

    def __call__(self, batch: Episodes) -> Tensor:
        """Add the gradients of a batch, and return its mean loss."""
        if self.leaves_trace or torch.get_num_threads() == 1:
            return self.otherwise(batch)
        if any(p._post_accumulate_grad_hooks for p in self.learner.parameters()):
            return self.otherwise(batch)  # `Tensor.backward` alone calls them
        if self.leaves_trace is None:
            before = _snapshot(self.learner)
            with one_thread():
                loss = self.otherwise(batch)
            self.leaves_trace = before is None or before != _snapshot(self.learner)
            return loss
        parts = list(self.parts_of(self.learner, batch))
        n_threads = min(torch.get_num_threads(), len(parts), self._most(batch))
        workers = replicas(self.learner, n_threads) if n_threads > 1 else []
        if not workers:
            with one_thread():
                return self.otherwise(batch)
        return self._shared_out(workers, parts, len(batch))

    def _most(self, batch: Episodes) -> int:
        """Return how many tasks at once the memory is enough for."""
        budget = self.learner.budget
        fits = None if budget is None else budget.n_tasks(self.learner, batch)
        return len(batch) if fits is None else max(fits, 1)

    def _shared_out(
        self, workers: list[Learner], parts: list[Episodes], n_tasks: int
    ) -> Tensor:
        weights = [p for p in self.learner.parameters() if p.requires_grad]
        losses: list[Tensor] = []

        def compute(worker: Learner, part: Episodes) -> tuple[Tensor, Any]:
            loss = worker.meta_loss(part).sum() / n_tasks
            return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

        def add(result: tuple[Tensor, Any]) -> None:
            loss, gradients = result
            losses.append(loss)
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is None:
                    continue
                if weight.grad is None:
                    weight.grad = torch.empty_like(weight).copy_(gradient)
                else:
                    weight.grad.add_(gradient)

        in_threads(compute, workers, parts, add)
        return sum(losses[1:], start=losses[0])


def in_threads(
    function: Callable[[Learner, Item], Result],
    workers: Sequence[Learner],
    items: Sequence[Item],
    take: Callable[[Result], None],
) -> None:
    """Call a function on every item, in as many threads as there are workers.

    Parameters
    ----------
    function : callable
        Takes a worker, which nobody else uses meanwhile, and an item.
    workers : sequence of Learner
    items : sequence
    take : callable
        Is given what the function returns, in the order of the items.

    Raises
    ------
    Exception
        What the function raises on the first of the items that it fails on, or `take`
        does. By then all threads have ended, as they have after Ctrl-C.
    """
    work = _Work(function, items, take)
    threads = [_Thread(work, worker) for worker in workers]
    n_threads = torch.get_num_threads()
    try:
        _run(threads, work, n_threads)
    finally:
        work.stop()
        for thread in threads:
            if thread.ident is not None:
                # A join that Ctrl-C has interrupted would take it for ended already.
                thread.ended.wait()
                thread.join()
        torch.set_num_threads(n_threads)
    if work.errors:
        raise work.errors[min(work.errors)]


def _run(threads: Sequence[_Thread], work: _Work, n_threads: int) -> None:
    """Let threads begin together, and wait until they have ended."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.ready.wait()
    # What a thread sets is what threads of others would begin with.
    torch.set_num_threads(n_threads)
    work.may_begin.set()
    for thread in threads:
        thread.ended.wait()


class _Thread(threading.Thread):
    """Does work with a worker of its own and one thread of torch."""

    def __init__(self, work: _Work, worker: Any) -> None:
        super().__init__(daemon=True)
        self.work, self.worker = work, worker
        self.ready, self.ended = threading.Event(), threading.Event()

    def run(self) -> None:
        """Wait until all are ready, and do what there is."""
        try:
            # A thread that has not computed yet would take the number of others when
            # it first does; asking for it comes before.
            torch.get_num_threads()
            torch.set_num_threads(1)
            self.ready.set()
            self.work.may_begin.wait()
            self.work.do(self.worker)
        finally:
            self.ended.set()


class _Work:
    """Items to be done, and results that wait for those before them."""

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        items: Sequence[Any],
        take: Callable[[Any], None],
    ) -> None:
        self.function, self.items, self.take = function, items, take
        self.may_begin = threading.Event()
        self.errors: dict[int, BaseException] = {}
        self._lock = threading.Lock()
        self._remaining = iter(range(len(items)))
        self._waiting: dict[int, Any] = {}
        self._n_taken = 0

    def do(self, worker: Any) -> None:
        """Take one item after another until there are none, or one fails."""
        while (index := self._next()) is not None:
            try:
                self._finish(index, self.function(worker, self.items[index]))
            except BaseException as error:
                self._fail(index, error)

    def stop(self) -> None:
        """Let threads end after the item that they are at."""
        with self._lock:
            self._remaining = iter(())
        self.may_begin.set()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._remaining, None)

    def _finish(self, index: int, result: Any) -> None:
        with self._lock:
            self._waiting[index] = result
            while self._n_taken in self._waiting:
                self.take(self._waiting.pop(self._n_taken))
                self._n_taken += 1

    def _fail(self, index: int, error: BaseException) -> None:
        with self._lock:
            self.errors[index] = error
        self.stop()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread, and with as many as before afterwards."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def replicas(learner: Learner, n: int) -> list[Learner]:
    """Return copies of a learner around the same parameters and buffers.

    None at all, where it holds what cannot be copied.
    """
    shared = {id(t): t for t in (*learner.parameters(), *learner.buffers())}
    if learner.budget is not None:
        shared[id(learner.budget)] = learner.budget
    try:
        return [copy.deepcopy(learner, dict(shared)) for _ in range(n)]
    except Exception:  # whatever it is, one thread works
        return []


def _snapshot(learner: Learner) -> bytes | None:
    """Return all that a task could change, None where it holds what has no value.

    That is what modules hold, tensors by identity and value, and the states of the
    global generators of torch, numpy and Python.
    """
    numpys = np.random.get_state()  # noqa: NPY002
    written = io.BytesIO()
    snapshot = _Snapshot(written, learner)
    try:
        snapshot.dump([vars(module) for module in learner.modules()])
        snapshot.dump((_digest(torch.get_rng_state()), numpys, random.getstate()))
    except Exception:  # whatever it is, one thread works
        return None
    return written.getvalue()


class _Snapshot(pickle.Pickler):
    """Writes what objects are at this moment, to be compared and never read."""

    def __init__(self, file: io.BytesIO, learner: Learner) -> None:
        super().__init__(file)
        self.apart = {id(module) for module in learner.modules()}
        self.apart.add(id(learner.budget))  # one for all threads

    def persistent_id(self, value: Any) -> Any:
        """Return what stands for a value; None for pickle's own way."""
        if id(value) in self.apart and value is not None:
            return id(value)
        if isinstance(value, Tensor):
            return id(value), str(value.dtype), tuple(value.shape), _digest(value)
        if isinstance(value, torch.Generator):
            return _digest(value.get_state())
        if isinstance(value, FunctionType):  # its state is what it closes over
            cells = value.__closure__ or ()
            return id(value), tuple(cell.cell_contents for cell in cells)
        return None


def _digest(tensor: Tensor) -> bytes:
    values = tensor.detach().cpu().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(values.data).digest()
