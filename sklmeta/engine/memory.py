"""Memory of a meta-update: measured on one task, predicted for many, kept in bounds.

The backward pass of a meta-update goes through every inner step, so that second-order
learners keep the graph of them all: memory grows linearly in the inner steps, in the
tasks taken at once and in their rows. One task is run beforehand, with every storage
that its operations make counted for as long as it lives; a batch is then taken in
parts that fit, and what does not fit with a single task is refused before training.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from sklmeta.engine.batches import Episodes
from sklmeta.engine.byte_counts import free_bytes, shown_bytes
from sklmeta.engine.learner import Learner
from sklmeta.engine.modules import no_trace

__all__ = [
    "MemoryBudget",
    "MemoryLimitExceeded",
    "TaskMemory",
    "meta_update",
    "peak_bytes",
    "predicted_bytes",
    "task_memory",
]

SHARE = 0.5  # of what is free, where no limit is given
ROW_STEPS = 4  # measurements for as many numbers of rows, from one to twice as many
# Where modules draw, parts of a batch must not be others on other machines.
SAME_EVERYWHERE = 2 * 10**9


# What a computation takes -----------------------------------------------------------


class MemoryLimitExceeded(Exception):
    """A computation was stopped because it took more than it may."""


class _LiveStorages(TorchDispatchMode):
    """Adds up the storages that operations make, for as long as they live."""

    def __init__(self, known: Iterable[Tensor], limit: int | None) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.limit = limit
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.layout is torch.strided:
                self._add(leaf)
        if self.limit is not None and self.live > self.limit:
            raise MemoryLimitExceeded
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes or key in self.known:
            return
        self.sizes[key] = storage.nbytes()
        weakref.finalize(storage, self._drop, key)
        self.live += self.sizes[key]
        self.peak = max(self.peak, self.live)

    def _drop(self, key: int) -> None:
        self.live -= self.sizes.pop(key)


def peak_bytes(
    function: Callable[[], Any],
    known: Iterable[Tensor] = (),
    limit: int | None = None,
) -> int:
    """Return the most bytes that the tensors made by a function take at one time.

    Parameters
    ----------
    function : callable
        Run once. What it returns lives until the end.
    known : iterable of Tensor
        Those that are there before, which are not counted.
    limit : int, default=None
        Stops as soon as more is taken.

    Returns
    -------
    int
        Working memory inside an operation is not seen.

    Raises
    ------
    MemoryLimitExceeded
        If `limit` is.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.memory import peak_bytes
    >>> peak_bytes(lambda: torch.zeros(1000).exp().sum())
    8000
    """
    with _LiveStorages(known, limit) as counted:
        kept = function()
    del kept
    return counted.peak


@dataclass(frozen=True)
class TaskMemory:
    """Bytes that a pass takes: a part that all tasks share, and one for each.

    Attributes
    ----------
    shared, per_task : int
        Bytes, for tasks of `n_rows` rows.
    n_rows : int
        Support and query rows of a task.
    """

    shared: int
    per_task: int
    n_rows: int

    def of(self, n_tasks: int, n_rows: int) -> int:
        """Return the bytes of a pass; more rows count by their square, to be safe."""
        return self.shared + n_tasks * self._per_task(n_rows)

    def n_tasks(self, limit: int, n_rows: int) -> int:
        """Return how many tasks fit; 0 where not even one does."""
        return max(0, limit - self.shared) // max(1, self._per_task(n_rows))

    def _per_task(self, n_rows: int) -> int:
        return int(self.per_task * max(1.0, n_rows / self.n_rows) ** 2)


Pass = Callable[[Learner, Episodes], Any]
"""What is measured: a meta-update, or adapting and predicting."""


def meta_update(learner: Learner, episodes: Episodes) -> Any:
    """Return the meta-gradient of episodes; ``.grad`` is left alone."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    loss = learner.meta_loss(episodes).sum()
    if not loss.requires_grad:
        return loss
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def task_memory(
    learner: Learner,
    episodes: Episodes,
    run: Pass = meta_update,
    *,
    apart: bool = True,
    limit: int | None = None,
) -> TaskMemory:
    """Measure the memory of a pass on one task, and on two.

    Parameters
    ----------
    learner : Learner
        Left as it is.
    episodes : Episodes
        Of which the first is run, twice over for two tasks.
    run : callable, default=meta_update
        What is measured.
    apart : bool, default=True
        Tell what tasks share from what each takes, by a run on two.
    limit : int, default=None
        Stops as soon as a single task takes more.

    Returns
    -------
    TaskMemory

    Raises
    ------
    MemoryLimitExceeded
        If one task takes more than `limit`.
    """
    n_rows = _n_rows(episodes)
    one = _peak(learner, episodes, run, 1, limit)
    if not apart:
        return TaskMemory(0, one, n_rows)
    two = _peak(learner, episodes, run, 2, None)
    per_task = min(max(two - one, 1), one)
    return TaskMemory(one - per_task, per_task, n_rows)


def predicted_bytes(learner: Learner, episodes: Episodes) -> int:
    """Return the memory of a meta-update that takes all tasks at once, in bytes."""
    return task_memory(learner, episodes).of(len(episodes), _n_rows(episodes))


def _n_rows(episodes: Episodes) -> int:
    return episodes.support.x.shape[1] + episodes.query.x.shape[1]


def _peak(
    learner: Learner, episodes: Episodes, run: Pass, n_tasks: int, limit: int | None
) -> int:
    """Return the peak of a pass over the first episode, `n_tasks` times."""
    probe = learner.at_full_cost()
    part = episodes[torch.zeros(n_tasks, dtype=torch.int64)]
    known = [*learner.parameters(), *learner.buffers(), *_tensors(part)]
    with no_trace(learner):
        if run is meta_update:
            learner.train()
        return peak_bytes(lambda: run(probe, part), known, limit)


def _tensors(episodes: Episodes) -> list[Tensor]:
    rows = (episodes.support, episodes.query)
    return [t for r in rows for t in (r.x, r.y, r.mask, r.n_way) if t is not None]


# Staying within a limit -------------------------------------------------------------


class MemoryBudget:
    """How many tasks of a batch go through a learner at once, by what they take.

    Parameters
    ----------
    limit : int or None
        Bytes that a pass may take; None keeps to a share of what is free on the device
        when the first tasks come, and refuses only what all of it is too little for.
        Meta-updates of modules that draw random numbers keep to the same number of
        bytes on every machine that has so many: other parts have other draws.
    run : callable, default=meta_update
        What is done with the tasks.
    """

    def __init__(self, limit: int | None, run: Pass = meta_update) -> None:
        self.limit = limit
        self.run = run
        self._bounds: tuple[int | None, int | None] | None = None
        self._measured: dict[tuple[Any, ...], TaskMemory] = {}

    def bounds(self, device: torch.device) -> tuple[int | None, int | None]:
        """Return what several tasks may take together, and what a single one may.

        None stands for no bound: where nobody tells what is free.
        """
        if self._bounds is None:
            most = free_bytes(device) if self.limit is None else self.limit
            together = most
            if self.limit is None and most is not None:
                together = int(SHARE * most)
            self._bounds = together, most
        return self._bounds

    def n_tasks(self, learner: Learner, episodes: Episodes) -> int | None:
        """Return how many of the episodes go together; None for all.

        Raises
        ------
        ValueError
            If not even one does.
        """
        limit, most = self.bounds(episodes.support.x.device)
        if self.limit is None and self.run is meta_update and learner.draws_randomly:
            limit = SAME_EVERYWHERE if most is None else min(SAME_EVERYWHERE, most)
        if limit is None:
            return None
        n_rows = _n_rows(episodes)
        memory = self._measured.get(_kind(episodes))
        enough = memory is not None and (most is None or memory.n_tasks(most, n_rows))
        if memory is None or not enough:
            memory = self._measure(learner, episodes, most, apart=False)
        if memory.of(len(episodes), n_rows) <= limit:
            return None
        if not memory.shared:
            memory = self._measure(learner, episodes, most, apart=True)
        return max(1, memory.n_tasks(limit, n_rows))

    def _measure(
        self, learner: Learner, episodes: Episodes, most: int | None, *, apart: bool
    ) -> TaskMemory:
        try:
            memory = task_memory(learner, episodes, self.run, apart=apart, limit=most)
        except MemoryLimitExceeded:
            assert most is not None
            raise ValueError(self._refusal(learner, episodes, most)) from None
        self._measured[_kind(episodes)] = memory
        return memory

    def _refusal(self, learner: Learner, episodes: Episodes, most: int) -> str:
        """Return why not even one task fits, and what to do."""
        what = "A meta-update with" if self.run is meta_update else "Predicting"
        needed = _needed(learner, episodes, self.run, most)
        allowed = "memory_limit" if self.limit is not None else "free memory"
        rows = f"{episodes.support.x.shape[1]} + {episodes.query.x.shape[1]} rows"
        return (
            f"{what} a single task ({rows} of support and query) is predicted to take "
            f"{needed}, and {allowed} is {shown_bytes(most)}. {_remedies(learner)}"
        )


def _kind(episodes: Episodes) -> tuple[Any, ...]:
    """Return what a measurement holds for.

    That is a shape, numbers of rows that differ by a fifth at most, and whether there
    are gradients: validation has none.
    """
    size = int(ROW_STEPS * math.log2(_n_rows(episodes)))
    return torch.is_grad_enabled(), size, *episodes.support.x.shape[2:]


def _needed(learner: Learner, episodes: Episodes, run: Pass, most: int) -> str:
    """Return the memory of one task; of many inner steps, along a line through few.

    As far as that can be tried: free memory may be more than the limit is.
    """
    free = free_bytes(episodes.support.x.device)
    limit = most if free is None else max(most, int(SHARE * free))
    steps = getattr(learner, "inner_steps", 0)
    few, more = (2, 4) if steps > 4 else (steps, steps)
    try:
        sizes = [
            _peak(_with_steps(learner, n), episodes, run, 1, limit) for n in (few, more)
        ]
    except (MemoryLimitExceeded, ValueError):  # options may go with so many steps
        return f"more than {shown_bytes(limit)}"
    growth = (sizes[1] - sizes[0]) / max(more - few, 1)
    return f"about {shown_bytes(sizes[0] + (steps - few) * growth)}"


def _with_steps(learner: Learner, n_steps: int) -> Learner:
    if "inner_steps" not in learner.adaptation_options:
        return learner
    return learner.with_options(inner_steps=n_steps)


def _remedies(learner: Learner) -> str:
    if "inner_steps" not in learner.adaptation_options:
        return "Use fewer rows (n_shot, n_query), a smaller backbone or more memory."
    options = ["fewer inner_steps", "fewer rows (n_shot, n_query)"]
    if not getattr(learner, "checkpoint_steps", True):
        options.insert(1, "checkpoint_steps=True")
    if not getattr(learner, "first_order", True):
        options.insert(1, "first_order=True")
    return (
        f"Use {', '.join(options)}, a smaller backbone, ANIL (which adapts the head "
        "alone) or implicit MAML (whose memory does not grow with inner steps)."
    )
