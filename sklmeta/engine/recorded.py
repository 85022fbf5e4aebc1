"""Meta-updates that are recorded once for each shape of episodes, then replayed.

What makes this safe: a recording is used only while everything that Python could have
looked at is as it was (`PythonState`), if a second recording on other episodes is the
same operation for operation, and if its replay there gives the same loss and
gradients. Otherwise the update goes on as autograd makes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.eager import EagerUpdate
from sklmeta.engine.learner import Learner, Progress
from sklmeta.engine.mapping import mapping_method
from sklmeta.engine.programs import Program
from sklmeta.engine.python_state import PythonState
from sklmeta.engine.tracing import Recording, Value, record

__all__ = ["RecordedUpdate", "can_be_compiled", "can_be_recorded"]

# Updates of a shape before it is recorded: recording costs a few dozen of them.
PATIENCE = 32
# Values of rows and of the tasks' own weights in an update: with more, arithmetic is
# what takes the time, and a recording would keep too much memory while it is made.
MOST_VALUES = 2**22
MOST_SHAPES = 64  # that are counted
MOST_PROGRAMS = 16
TOLERANCE = 1e-3  # of the largest entry: other orders of summation, kinks included

# Layers that do the same operations on whatever they get. Others may, and are left
# alone unless a compiled program is asked for.
_PURE = (
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Flatten, nn.Unflatten),
    *(nn.ParameterList, nn.ParameterDict),
    *(nn.Linear, nn.Bilinear, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.Identity),
    *(nn.CELU, nn.ELU, nn.GELU, nn.GLU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh),
    *(nn.LeakyReLU, nn.LogSigmoid, nn.LogSoftmax, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6),
    *(nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softmax, nn.Softplus, nn.Softsign, nn.Tanh),
)


class _WatchedProgress(Progress):
    """Tells whether a learner looks at how far training has come."""

    was_read = False

    def __getattribute__(self, name: str) -> Any:
        if name in ("n_done", "n_planned", "fraction"):
            object.__setattr__(self, "was_read", True)
        return super().__getattribute__(name)


def can_be_recorded(learner: Learner) -> bool:
    """Whether updates of a learner are recorded without being asked for.

    On the CPU, where what Python and autograd cost was measured, for layers that are
    known and have no hooks, and learners that hold tensors and plain values alone.
    """
    weights = list(learner.parameters())
    state = PythonState(learner)
    return (
        all(weight.device.type == "cpu" for weight in weights)
        and mapping_method(learner, torch.device("cpu")) == "vmap"
        and not getattr(learner, "checkpoint_steps", False)
        and state.obstacle() is None
        and state.unseen() is None
        and all(_is_pure(module) for module in learner.modules())
    )


def can_be_compiled(learner: Learner) -> bool:
    """Whether updates of a learner are compiled if that is asked for.

    Not where tasks are taken one after another: convolutions on a CPU spend their time
    in kernels that compiling does not touch.
    """
    weight = next(learner.parameters(), None)
    return weight is not None and mapping_method(learner, weight.device) == "vmap"


def _is_pure(module: nn.Module) -> bool:
    ours = type(module).__module__.startswith("sklmeta.")
    return ours or type(module) in _PURE or isinstance(module, Learner)


# What a class may compute otherwise, so that a `stage` that it inherits may be wrong.
_STAGED = ("adapt", "loss", "meta_loss", "predict", "progress")


def _says_its_stage(kind: type[Learner]) -> bool:
    """Whether `stage` is of the class that says what a meta-update does."""
    for one in kind.__mro__:
        if "stage" in vars(one):
            return one is not Learner
        if any(name in vars(one) for name in _STAGED):
            return False
    return False


@dataclass
class _Course:
    """How far the recording of one shape has come."""

    n_seen: int = 0
    first: Recording | None = None
    program: Program | None = None
    given_up: bool = False


class RecordedUpdate:
    """Loss and gradients by recorded programs, where there are any.

    `n_programs` have been made, in so many `seconds`.

    Parameters
    ----------
    learner : Learner
    parts : callable
        Cuts a batch into the parts that go through the learner one after another.
    programs : callable
        Takes a recording, and those of its inputs that are known to be True all over;
        yields programs of it, the best first.
    patience : int, default=PATIENCE
        Updates of a shape before it is recorded.
    most_values : int or None, default=MOST_VALUES
        Larger parts are left to autograd; None sets no limit.
    prepare : callable, default=None
        Changes parts that are to be recorded, such as by padding.
    on_refusal : callable, default=None
        Gets the reason where updates cannot be recorded, every time.
    """

    def __init__(
        self,
        learner: Learner,
        parts: Callable[[Learner, Episodes], Iterator[Episodes]],
        programs: Callable[[Recording, dict[Value, bool]], Iterator[Program]],
        *,
        patience: int = PATIENCE,
        most_values: int | None = MOST_VALUES,
        prepare: Callable[[Episodes], Episodes] | None = None,
        on_refusal: Callable[[str], None] | None = None,
    ) -> None:
        self.learner = learner
        self.n_programs = 0
        self.seconds = 0.0
        self._parts = parts
        self._programs = programs
        self._patience = patience
        self._most_values = most_values
        self._prepare = prepare
        self._on_refusal = on_refusal or (lambda reason: None)
        self._by_autograd = EagerUpdate(learner)
        self._all_parameters = list(learner.parameters())
        self._parameters: list[Tensor] = []
        self._state = PythonState(learner)
        self._courses: dict[Hashable, _Course] = {}

    def __call__(self, batch: Episodes) -> Tensor:
        """Add the gradients of a batch, and return its mean loss."""
        obstacle = self._state.obstacle()
        if obstacle is not None:
            self._on_refusal(obstacle)
            return self._by_autograd(batch)
        # Those that are trained now: callbacks freeze and thaw.
        self._parameters = [p for p in self._all_parameters if p.requires_grad]
        total: Tensor | None = None
        for part in self._parts(self.learner, batch):
            if self._prepare is not None and not self._is_large(part):
                part = self._prepare(part)
            loss, *gradients = self._results(part, len(batch))
            assert loss is not None
            add_gradients(self._parameters, gradients)
            total = loss if total is None else total + loss
        assert total is not None
        return total

    def _results(self, part: Episodes, n_tasks: int) -> Sequence[Tensor | None]:
        """Return the loss and the gradients of a part, by whichever way is due."""
        course = self._course(part, n_tasks)
        if course is not None and course.program is not None:
            return course.program(self._inputs(part))

        def compute() -> list[Tensor | None]:
            return part_gradients(self.learner, part, n_tasks, self._parameters)

        if course is None or course.given_up or self._is_large(part):
            return compute()
        course.n_seen += 1
        if course.n_seen <= self._patience or self.n_programs >= MOST_PROGRAMS:
            return compute()
        return self._advance(course, part, compute)

    def _is_large(self, part: Episodes) -> bool:
        if self._most_values is None:
            return False
        n_weights = sum(p.numel() for p in self._all_parameters)
        n_values = part.support.x.numel() + part.query.x.numel()
        return len(part) * n_weights + n_values > self._most_values

    def _course(self, part: Episodes, n_tasks: int) -> _Course | None:
        """Return how far the recording of this shape is; None if it has none."""
        state = self._state.key()
        if state is None:
            self._on_refusal(self._state.unseen() or "its attributes change")
            return None
        trained = tuple(p.requires_grad for p in self._all_parameters)
        key = (n_tasks, _shapes(part), trained, self.learner.stage, state)
        course = self._courses.get(key)
        if course is None and len(self._courses) < MOST_SHAPES:
            course = self._courses[key] = _Course()
        return course

    def _advance(
        self,
        course: _Course,
        part: Episodes,
        compute: Callable[[], list[Tensor | None]],
    ) -> Sequence[Tensor | None]:
        """Record the update once more; make the program when two agree."""
        inputs = self._inputs(part)
        outputs, recording = self._recorded(compute, inputs, part)
        problem, first = recording.problem, course.first
        course.first = recording if first is None else None
        if problem is None and first is not None:
            problem = first.differs_from(recording)
            if problem is None:
                problem = self._make_program(course, recording, part, outputs)
        if problem is not None:
            course.given_up, course.first = True, None
            self._on_refusal(problem)
        return outputs

    def _recorded(
        self,
        compute: Callable[[], list[Tensor | None]],
        inputs: list[Tensor],
        part: Episodes,
    ) -> tuple[list[Tensor | None], Recording]:
        progress, is_own = self.learner.progress, "progress" in vars(self.learner)
        watched = _WatchedProgress(progress.n_done, progress.n_planned)
        self.learner.progress = watched
        watched.was_read = False  # by a setter, which is called before every update
        n_ways = [n for n in (part.support.n_way, part.query.n_way) if n is not None]
        # Given as inputs where they differ from task to task.
        known = [] if any(n is inputs[-1] for n in n_ways) else n_ways
        try:
            outputs, recording = record(compute, inputs, static=known, bounded=n_ways)
        finally:
            self.learner.progress = progress
            if not is_own:
                vars(self.learner).pop("progress", None)
        if watched.was_read and not _says_its_stage(type(self.learner)):
            recording.problem = "it reads `progress`, and its class has no `stage`"
        return outputs, recording

    def _make_program(
        self,
        course: _Course,
        recording: Recording,
        part: Episodes,
        outputs: Sequence[Tensor | None],
    ) -> str | None:
        """Keep the first program that gives these outputs, or say that none does."""
        start = time.perf_counter()
        inputs = self._inputs(part)
        filled = {
            value: True
            for value, tensor in zip(recording.inputs, inputs, strict=True)
            if _is_full(tensor)
        }
        problem: str | None = "its replay does not give the same loss and gradients"
        for program in self._programs(recording, filled):
            found = program(inputs)
            if _agree(found, outputs):
                others = (*inputs, *recording.constants.values())
                course.program, problem = _set_apart(program, found, others), None
                self.n_programs += 1
                break
        self.seconds += time.perf_counter() - start
        return problem

    def _inputs(self, part: Episodes) -> list[Tensor]:
        rows = (*_tensors(part.support), *_tensors(part.query))
        n_ways = (part.support.n_way, part.query.n_way)
        ways = [n for n in n_ways if n is not None and not _are_equal(n)]
        return [*self._parameters, *rows, *ways]

    def __reduce__(self) -> Any:
        """Leave programs behind in copies: they belong to these very weights."""
        return type(None), ()


def part_gradients(
    learner: Learner, part: Episodes, n_tasks: int, parameters: Sequence[Tensor]
) -> list[Tensor | None]:
    """Return the share of a part in the mean loss of `n_tasks`, and its gradients.

    Gradients are laid out as their parameters are, and share no memory.
    """
    loss = learner.meta_loss(part).sum() / n_tasks
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    taken = {
        _memory(t)
        for t in (*parameters, *_tensors(part.support), *_tensors(part.query))
    }
    own: list[Tensor | None] = [loss.detach()]
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if gradient is not None:
            if _memory(gradient) in taken or gradient.stride() != parameter.stride():
                gradient = _laid_out_as(parameter, gradient)
            taken.add(_memory(gradient))
        own.append(gradient)
    return own


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Return a copy of a gradient in the memory layout of its parameter."""
    channels_last = torch.channels_last
    if parameter.dim() == 4 and parameter.is_contiguous(memory_format=channels_last):
        return gradient.clone(memory_format=channels_last)
    return gradient.clone(memory_format=torch.contiguous_format)


def add_gradients(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> None:
    """Add gradients to ``.grad``, as `Tensor.backward` does."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        if parameter.grad is None:
            parameter.grad = gradient
        else:
            parameter.grad += gradient


def _tensors(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    return rows.x, rows.y, rows.mask


def _shapes(part: Episodes) -> Hashable:
    """Return what tells apart batches that are recorded separately."""
    tensors = (*_tensors(part.support), *_tensors(part.query))
    n_way = part.support.n_way
    full = _is_full(part.support.mask), _is_full(part.query.mask)
    ways: Hashable = None
    if n_way is not None:
        ways = int(n_way.max()), _are_equal(n_way)
    return (*[(t.shape, t.stride(), t.dtype) for t in tensors], ways, full)


def _is_full(mask: Tensor) -> bool:
    """Whether nothing is padding; a GPU is not asked, which would wait for it."""
    is_mask = mask.dtype == torch.bool and mask.device.type == "cpu"
    return is_mask and bool(mask.all())


def _are_equal(n_way: Tensor) -> bool:
    return bool((n_way == n_way[0]).all())


def _set_apart(
    program: Program, found: Sequence[Tensor | None], others: Iterable[Tensor]
) -> Program:
    """Return a program whose outputs, unlike those found, share no memory.

    Optimizers and clipping write into gradients.
    """
    taken = set(map(_memory, others))
    shared = []
    for place, output in enumerate(found):
        if output is not None:
            if _memory(output) in taken:
                shared.append(place)
            taken.add(_memory(output))

    def set_apart(inputs: Sequence[Tensor]) -> list[Tensor | None]:
        outputs = program(inputs)
        for place in shared:
            output = outputs[place]
            outputs[place] = None if output is None else output.clone()
        return outputs

    return set_apart if shared else program


def _agree(found: Sequence[Tensor | None], expected: Sequence[Tensor | None]) -> bool:
    """Whether a program's results are those of autograd, up to rounding."""
    scale = max((float(t.abs().max()) for t in expected if t is not None), default=0.0)
    if len(found) != len(expected):
        return False
    for own, other in zip(found, expected, strict=True):
        if (own is None) != (other is None):
            return False
        if own is None or other is None:
            continue
        if own.shape != other.shape or own.stride() != other.stride():
            return False
        error = float((own - other).abs().max())
        if not error <= TOLERANCE * float(other.abs().max()) + 1e-6 * scale:
            return False
    return True
