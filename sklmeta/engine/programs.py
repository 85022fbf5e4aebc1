"""Programs: recorded meta-updates as functions of their inputs, replayed or compiled.

A recording is written out as one Python function without branches, objects or
autograd, which is what `replayed` returns; `compiled` hands the same operations to
torch's compiler.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sklmeta.engine.simplify import simplified
from sklmeta.engine.tracing import Operation, Recording, Value, mapped

__all__ = ["Program", "as_graph", "replayed", "replays"]

Program = Callable[[Sequence[Tensor]], list[Tensor | None]]
"""Takes the inputs of a recording, in their order; returns its outputs."""

_aten = torch.ops.aten
# torch's own functions cost a microsecond less per call than its table of operations.
_DIRECT: dict[Any, Callable[..., Any]] = {
    _aten.add.Tensor: torch.add,
    _aten.addmm.default: torch.addmm,
    _aten.baddbmm.default: torch.baddbmm,
    _aten.bmm.default: torch.bmm,
    _aten.clamp.default: torch.clamp,
    _aten.div.Scalar: torch.div,
    _aten.div.Tensor: torch.div,
    _aten.addcmul.default: torch.addcmul,
    _aten.exp.default: torch.exp,
    _aten.reshape.default: Tensor.reshape,
    _aten.masked_fill.Scalar: torch.masked_fill,
    _aten.expand.default: Tensor.expand,
    _aten.mm.default: torch.mm,
    _aten.mul.Scalar: torch.mul,
    _aten.mul.Tensor: torch.mul,
    _aten.neg.default: torch.neg,
    _aten.pow.Tensor_Scalar: torch.pow,
    _aten.relu.default: torch.relu,
    _aten.squeeze.dim: torch.squeeze,
    _aten.sub.Tensor: torch.sub,
    _aten.sum.dim_IntList: torch.sum,
    _aten.t.default: torch.t,
    _aten.tanh.default: torch.tanh,
    _aten.transpose.int: torch.transpose,
    _aten.unsqueeze.default: torch.unsqueeze,
    _aten.view.default: Tensor.view,
    _aten.where.self: torch.where,
}
_LITERALS = (bool, int, str, type(None))


def replays(recording: Recording, filled: dict[Value, bool]) -> Iterator[Program]:
    """Yield replays of a recording: in its simplest form, then as it is.

    Parameters
    ----------
    recording : Recording
    filled : dict of Value to bool
        Inputs that are known to hold one value everywhere.

    Yields
    ------
    callable
        A `Program`.
    """
    simple = simplified(recording, filled)
    if simple is not recording:
        yield replayed(simple)
    yield replayed(recording)


def replayed(recording: Recording) -> Program:
    """Return a recording as a Python function that calls its operations in turn."""
    writer = _Writer(recording)
    source = writer.source()
    scope: dict[str, Any] = dict(writer.names)
    exec(compile(source, "<meta-update>", "exec"), scope)
    run: Callable[..., list[Tensor | None]] = scope["run"]

    def program(inputs: Sequence[Tensor]) -> list[Tensor | None]:
        with torch.no_grad():
            return run(*inputs)

    return program


class _Writer:
    """Writes a recording as the source of a function, and the names that it uses."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.names: dict[str, Any] = {
            repr(value): tensor for value, tensor in recording.constants.items()
        }
        self._given: dict[int, str] = {}

    def source(self) -> str:
        recording = self._recording
        taken = ", ".join(map(repr, recording.inputs))
        returned = ", ".join(map(repr, recording.outputs))
        body = [line for one, dead in self._with_last_uses() for line in one + dead]
        lines = [f"def run({taken}):", *body, f"return [{returned}]"]
        return "\n    ".join(lines) + "\n"

    def _with_last_uses(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield each operation's line, and one that lets go of what was used last."""
        recording = self._recording
        uses: Counter[Value] = Counter()
        for operation in recording.operations:
            uses.update(operation.inputs())
        kept = {*recording.outputs, *recording.constants, *recording.inputs}
        for operation in recording.operations:
            uses.subtract(operation.inputs())
            involved = dict.fromkeys((*operation.inputs(), *operation.outputs()))
            dead = [v for v in involved if not uses[v] and v not in kept]
            freed = [" = ".join([*map(repr, dead), "None"])] if dead else []
            yield [self._call(operation)], freed

    def _call(self, operation: Operation) -> str:
        function = _DIRECT.get(operation.function, operation.function)
        args = [self._text(arg) for arg in operation.args]
        args += [f"{k}={self._text(arg)}" for k, arg in operation.kwargs.items()]
        call = f"{self._name(function)}({', '.join(args)})"
        target = self._target(operation.results)
        return call if target is None else f"{target} = {call}"

    def _target(self, results: Any) -> str | None:
        if isinstance(results, list | tuple):
            parts = [self._target(one) or "_" for one in results]
            return f"({', '.join(parts)},)"
        return repr(results) if isinstance(results, Value) else None

    def _text(self, argument: Any) -> str:
        """Return an argument as Python writes it, or the name of what it is."""
        if isinstance(argument, Value) or type(argument) in _LITERALS:
            return repr(argument)
        if type(argument) is float and math.isfinite(argument):
            return repr(argument)
        if isinstance(argument, list | tuple):
            return f"[{', '.join(map(self._text, argument))}]"
        return self._name(argument)

    def _name(self, thing: Any) -> str:
        if id(thing) not in self._given:
            self._given[id(thing)] = name = f"c{len(self._given)}"
            self.names[name] = thing  # and kept alive, so that its id stays its own
        return self._given[id(thing)]


def as_graph(recording: Recording) -> torch.fx.GraphModule:
    """Return a recording as a graph, which torch's compiler takes.

    Its inputs are those of the recording, then its constants.
    """
    graph = torch.fx.Graph()
    nodes: dict[Value, Any] = {}
    for value in (*recording.inputs, *recording.constants):
        nodes[value] = graph.placeholder(repr(value))
        nodes[value].meta["val"] = recording.specs[value]

    def node_of(leaf: Any) -> Any:
        return nodes[leaf] if isinstance(leaf, Value) else leaf

    for one in recording.operations:
        args, kwargs = mapped(node_of, (one.args, one.kwargs))
        node = graph.call_function(one.function, args, kwargs)
        if isinstance(one.results, Value):
            nodes[one.results] = node
        elif isinstance(one.results, list | tuple):
            for place, value in enumerate(one.results):
                if isinstance(value, Value):
                    nodes[value] = graph.call_function(operator.getitem, (node, place))
    graph.output([node_of(output) for output in recording.outputs])
    return torch.fx.GraphModule(torch.nn.Module(), graph)
