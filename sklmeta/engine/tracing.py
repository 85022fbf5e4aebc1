"""Recording what a function computes, as a flat list of torch operations.

Autograd, modules and Python itself cost small nets more than arithmetic does. What they
do for one batch of episodes they do for the next of the same shape: the same operations
on other numbers. `record` writes these down, below autograd, gradients included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "Operation",
    "Recording",
    "Spec",
    "Value",
    "leaves",
    "mapped",
    "record",
    "spec_of",
]

_aten = torch.ops.aten

# What operations do that may be others for other values, by the tags torch gives them.
_BY_VALUE = {
    torch.Tag.data_dependent_output: "reads a number out of a tensor",
    torch.Tag.dynamic_output_shape: "makes a shape that depends on values",
}
# Tagged for the boolean masks that they also take.
_BY_INDEX = (
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._unsafe_index.Tensor,
)


@dataclass(frozen=True)
class Value:
    """A tensor that a recorded function takes, makes or knows, by its number."""

    number: int

    def __repr__(self) -> str:
        return f"v{self.number}"


@dataclass(frozen=True)
class Spec:
    """What a program is made for: shape, layout, type and place of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def empty(self) -> Tensor:
        """Return a tensor like that."""
        return torch.empty_strided(
            self.shape, self.stride, dtype=self.dtype, device=self.device
        )


def spec_of(tensor: Tensor) -> Spec:
    """Return the spec of a tensor."""
    return Spec(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


# Reads of numbers that no operation is called for.
_READS = {
    Tensor.tolist: "tolist",
    Tensor.numpy: "numpy",
    Tensor.__array__: "__array__",
    Tensor.__dlpack__: "__dlpack__",
}

# Arguments are tuples, lists and dicts of plain things: torch's own trees, which take
# more, take ten times as long.


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a tree with a function applied to what is neither sequence nor dict."""
    kind = type(tree)
    if kind is tuple:
        return tuple([mapped(function, leaf) for leaf in tree])
    if kind is dict:
        return {name: mapped(function, leaf) for name, leaf in tree.items()}
    return [mapped(function, leaf) for leaf in tree] if kind is list else function(tree)


def leaves(tree: Any) -> list[Any]:
    """Return what is neither sequence nor dict in a tree, in order."""
    found: list[Any] = []
    mapped(found.append, tree)
    return found


@dataclass(frozen=True)
class Operation:
    """One call of a torch operation.

    Attributes
    ----------
    function : callable
        The operation, as torch dispatches it.
    args, kwargs : tuple and dict
        Its arguments, with a `Value` for every tensor.
    results : Value or sequence of Value or None
        What it returns, in the same structure.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Any

    def inputs(self) -> list[Value]:
        """Return the values it takes, as often as it does."""
        found = leaves((self.args, self.kwargs))
        return [leaf for leaf in found if type(leaf) is Value]

    def outputs(self) -> list[Value]:
        """Return the values it makes."""
        return [leaf for leaf in leaves(self.results) if type(leaf) is Value]


@dataclass
class Recording:
    """What a function did with its inputs.

    Attributes
    ----------
    inputs : list of Value
        In the order they were given.
    constants : dict of Value to Tensor
        Tensors that the function found elsewhere, such as a module's buffers.
    operations : list of Operation
    outputs : list of Value or None
        None where the function returned none.
    specs : dict of Value to Spec
    problem : str or None
        Why it cannot be replayed; None if it can.
    """

    inputs: list[Value] = field(default_factory=list)
    constants: dict[Value, Tensor] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    outputs: list[Value | None] = field(default_factory=list)
    specs: dict[Value, Spec] = field(default_factory=dict)
    problem: str | None = None

    @property
    def is_functional(self) -> bool:
        """Whether no operation writes into a tensor that was there before."""
        return not any(one.function._schema.is_mutable for one in self.operations)

    def text(self) -> str:
        """Return what it does in words: two with the same text do the same."""
        values = (*self.inputs, *self.constants)
        given = [(value, self.specs[value]) for value in values]
        return repr((given, self.operations, self.outputs))

    def differs_from(self, other: Recording) -> str | None:
        """Say in what another recording of the same function differs, or None."""
        if self.text() != other.text():
            return "its operations are not the same in every meta-update"
        for value, tensor in self.constants.items():
            if not _same_tensor(tensor, other.constants[value]):
                return "it uses tensors that are not the same in every meta-update"
        return None


def _same_tensor(a: Tensor, b: Tensor) -> bool:
    return a is b or (spec_of(a) == spec_of(b) and torch.equal(a, b))


def record(
    function: Callable[[], Sequence[Tensor | None]],
    inputs: Sequence[Tensor],
    static: Sequence[Tensor] = (),
    bounded: Sequence[Tensor] = (),
) -> tuple[list[Tensor | None], Recording]:
    """Run a function and write down what it does.

    Parameters
    ----------
    function : callable
        Without arguments; returns a sequence of tensors or None.
    inputs : sequence of Tensor
        The tensors whose values will be others when the recording is replayed. All
        others that the function uses are constants.
    static : sequence of Tensor, default=()
        Constants that are known to have the same values in every replay, so that what
        follows from them alone may decide what the function does.
    bounded : sequence of Tensor, default=()
        Inputs that are known to have the same largest value in every replay.

    Returns
    -------
    outputs : list of Tensor or None
        What the function returned: a recording costs time, and changes nothing.
    recording : Recording
        With a `problem` where it cannot be replayed.
    """
    recorder = _Recorder(inputs, static, bounded)
    with recorder, _Reads(recorder):
        outputs = list(function())
    recording = recorder.recording
    recording.outputs = [
        None if output is None else recorder.value(output) for output in outputs
    ]
    return outputs, recording


class _Recorder(TorchDispatchMode):
    """Sees every operation that reaches a kernel while it is on."""

    def __init__(
        self,
        inputs: Sequence[Tensor],
        static: Sequence[Tensor],
        bounded: Sequence[Tensor],
    ) -> None:
        super().__init__()
        self.recording = Recording()
        self._static_tensors = {id(tensor): tensor for tensor in static}
        self._bounded_tensors = {id(tensor): tensor for tensor in bounded}
        self._static: set[Value] = set()
        # Tensors are told apart by their ids, which are theirs while they live.
        self._values: dict[int, tuple[Tensor, Value]] = {}
        self.recording.inputs = [self._new(tensor) for tensor in inputs]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        own_args, own_kwargs = mapped(self._seen, (args, kwargs))
        own_results = mapped(self._made, results)
        operation = Operation(func, own_args, own_kwargs, own_results)
        self.recording.operations.append(operation)
        if func is _aten.max.default and id(args[0]) in self._bounded_tensors:
            self._static.update(operation.outputs())
        if self._static.issuperset(operation.inputs()):
            self._static.update(operation.outputs())
        elif func not in _BY_INDEX or _holds_mask(args[1]):
            self._note_problems(func)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.recording.problem = f"{func} draws random numbers"
        return results

    def note_read(self, tensor: Tensor, how: str) -> None:
        """Take note of numbers that are read out of a tensor by a method."""
        if self.value(tensor) not in self._static:
            self.recording.problem = f"`{how}` reads numbers out of a tensor"

    def value(self, tensor: Tensor) -> Value:
        """Return the value of a tensor; one not seen before is a constant."""
        known = self._values.get(id(tensor))
        if known is not None:
            return known[1]
        value = self._new(tensor)
        self.recording.constants[value] = tensor
        if id(tensor) in self._static_tensors:
            self._static.add(value)
        return value

    def _new(self, tensor: Tensor) -> Value:
        value = Value(len(self.recording.specs))
        self._values[id(tensor)] = tensor, value
        self.recording.specs[value] = spec_of(tensor)
        return value

    def _seen(self, leaf: Any) -> Any:
        return self.value(leaf) if isinstance(leaf, Tensor) else leaf

    def _made(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        known = self._values.get(id(leaf))
        return known[1] if known is not None else self._new(leaf)

    def _note_problems(self, function: Any) -> None:
        for tag, what in _BY_VALUE.items():
            if tag in function.tags:
                self.recording.problem = f"{function} {what}"


class _Reads(TorchFunctionMode):
    """Sees the reads that go past operations."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _READS:
            self._recorder.note_read(args[0], _READS[func])
        return func(*args, **(kwargs or {}))


def _holds_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(
        index is not None and index.dtype in (torch.bool, torch.uint8)
        for index in indices
    )
