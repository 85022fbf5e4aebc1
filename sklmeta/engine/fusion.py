"""Writes into tensors, and operations that are two in one: recordings rewritten.

Autograd writes into few tensors; where it does, nothing could be computed earlier or
later, or only once.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from sklmeta.engine.tracing import Operation, Recording, Spec, Value, mapped

__all__ = ["fused", "spread", "without_unused", "without_writes"]

_aten = torch.ops.aten
Number = bool | int | float


def without_writes(recording: Recording) -> Recording | None:
    """Return a recording that makes new tensors instead of writing into its own.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    Recording or None
        None where it writes into what is seen elsewhere too: inputs and views.
    """
    became: dict[Value, Value] = {}
    shared = {*recording.inputs, *recording.constants}
    specs = dict(recording.specs)
    operations = []
    for one in recording.operations:
        function, results = one.function, one.results
        args, kwargs = mapped(
            lambda leaf: became.get(leaf, leaf) if isinstance(leaf, Value) else leaf,
            (one.args, one.kwargs),
        )
        if function._schema.is_mutable:
            target = one.args[0] if one.args else None
            function = _functional(function)
            if function is None or target is not results or target in shared:
                return None
            results = became[target] = Value(len(specs))
            specs[results] = specs[target]
        elif _is_view(function):
            shared.update((*one.inputs(), *one.outputs()))
        operations.append(Operation(function, args, kwargs, results))
    outputs = [None if v is None else became.get(v, v) for v in recording.outputs]
    return replace(recording, operations=operations, outputs=outputs, specs=specs)


def _is_view(function: Any) -> bool:
    return any(one.alias_info is not None for one in function._schema.returns)


def _functional(function: Any) -> Any:
    """Return the operation that does the same and writes into nothing, or None."""
    name = function._schema.name.removeprefix("aten::")
    if not name.endswith("_") or name.endswith("__"):
        return None
    packet = getattr(_aten, name.removesuffix("_"), None)
    return getattr(packet, function._overloadname, None)


def without_unused(recording: Recording) -> Recording:
    """Leave out operations whose results nothing uses.

    Parameters
    ----------
    recording : Recording

    Returns
    -------
    Recording
        With the same outputs.
    """
    used = {value for value in recording.outputs if value is not None}
    kept = []
    for operation in reversed(recording.operations):
        if used.isdisjoint(operation.outputs()):
            continue
        used.update(operation.inputs())
        kept.append(operation)
    return replace(recording, operations=kept[::-1])


def _n_uses(recording: Recording) -> Counter[Value]:
    uses: Counter[Value] = Counter()
    for operation in recording.operations:
        uses.update(operation.inputs())
    uses.update(value for value in recording.outputs if value is not None)
    return uses


def fused(recording: Recording) -> Recording:
    """Put products into the sums that alone use them: ``x + c * bmm(a, b)``.

    Parameters
    ----------
    recording : Recording
        Without writes.

    Returns
    -------
    Recording
        With the same outputs up to rounding.
    """
    uses = _n_uses(recording)
    made_by = {one.results: one for one in recording.operations if _is_single(one)}
    specs = dict(recording.specs)
    found: list[Operation] = []
    for operation in recording.operations:
        found.extend(_as_fused(operation, made_by, uses, specs) or [operation])
    return replace(recording, operations=found, specs=specs)


def _is_single(operation: Operation) -> bool:
    return isinstance(operation.results, Value)


def _as_fused(
    operation: Operation,
    made_by: Mapping[Value, Operation],
    uses: Mapping[Value, int],
    specs: dict[Value, Spec],
) -> Iterable[Operation] | None:
    if operation.function is not _aten.add.Tensor:
        return None
    x, y = operation.args
    alpha = operation.kwargs.get("alpha", 1)
    if not (isinstance(x, Value) and isinstance(y, Value)):
        return None
    # Either summand can be the product, as long as none has a factor.
    for one, other, factor in ((x, y, alpha), (y, x, 1)):
        if alpha != 1 and one is y:
            continue
        factors = _factors(other, made_by, uses)
        if factors is None or specs[one].dtype != specs[other].dtype:
            continue
        if specs[other].shape != specs[operation.results].shape:
            continue
        return _fused_sum(operation, one, factors, factor, specs)
    return None


def _factors(
    value: Value, made_by: Mapping[Value, Operation], uses: Mapping[Value, int]
) -> tuple[Operation, bool] | None:
    """Return the product that a value is, and whether it is transposed."""
    producer = made_by.get(value)
    if producer is None or uses[value] != 1:
        return None
    if producer.function is _aten.bmm.default or _is_outer(producer):
        return producer, False
    if producer.function is not _aten.transpose.int or producer.args[1:] != (1, 2):
        return None
    inner = producer.args[0]
    producer = made_by.get(inner)
    if producer is None or uses[inner] != 1:
        return None
    return (producer, True) if producer.function is _aten.bmm.default else None


def _is_outer(producer: Operation) -> bool:
    return producer.function is _aten.mul.Tensor and all(
        isinstance(arg, Value) for arg in producer.args
    )


def _fused_sum(
    operation: Operation,
    summand: Value,
    product: tuple[Operation, bool],
    factor: Number,
    specs: dict[Value, Spec],
) -> list[Operation]:
    producer, is_transposed = product
    a, b = producer.args
    if producer.function is _aten.mul.Tensor:
        options = {} if factor == 1 else {"value": factor}
        function = _aten.addcmul.default
        return [Operation(function, (summand, a, b), options, operation.results)]
    written = []
    if is_transposed:  # (a b)' = b' a'
        turned = []
        for matrix in (b, a):
            spec = specs[matrix]
            value = Value(len(specs))
            shape = operator.itemgetter(0, 2, 1)(spec.shape)
            specs[value] = replace(spec, shape=shape)
            args = (matrix, 1, 2)
            written.append(Operation(_aten.transpose.int, args, {}, value))
            turned.append(value)
        a, b = turned
    options = {} if factor == 1 else {"alpha": factor}
    function = _aten.baddbmm.default
    return [*written, Operation(function, (summand, a, b), options, operation.results)]


def spread(recording: Recording) -> Recording:
    """Write products with single columns or rows as sums, which compilers fuse.

    Parameters
    ----------
    recording : Recording
        Without writes.

    Returns
    -------
    Recording
        With the same outputs up to rounding.
    """
    specs = dict(recording.specs)
    found: list[Operation] = []
    for operation in recording.operations:
        found.extend(_as_sum(operation, specs) or [operation])
    return replace(recording, operations=found, specs=specs)


def _as_sum(operation: Operation, specs: dict[Value, Spec]) -> list[Operation] | None:
    if operation.function is _aten.bmm.default:
        a, b = operation.args
    elif operation.function is _aten.baddbmm.default:
        a, b = operation.args[1:]
    else:
        return None
    column, row = specs[b].shape[2] == 1, specs[a].shape[1] == 1
    # Half precision would be lost in sums that matrix products keep in single.
    is_precise = specs[a].dtype in (torch.float32, torch.float64)
    if not (column or row) or not is_precise or "beta" in operation.kwargs:
        return None
    written: list[Operation] = []

    def write(function: Any, args: Any, **options: Any) -> Value:
        value = Value(len(specs))
        specs[value] = specs[operation.results]  # nobody looks at its shape
        written.append(Operation(function, args, options, value))
        return value

    vector = write(_aten.transpose.int, (b if column else a, 1, 2))
    terms = write(_aten.mul.Tensor, (a, vector) if column else (vector, b))
    total = write(_aten.sum.dim_IntList, (terms, [2 if column else 1], True))
    if operation.function is _aten.baddbmm.default:
        write(_aten.add.Tensor, (operation.args[0], total), **operation.kwargs)
    written[-1] = replace(written[-1], results=operation.results)
    return written
