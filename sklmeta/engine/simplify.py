r"""Recordings with fewer operations: the same values up to rounding.

What autograd does for any function is done here for one that is known, with shapes and
some numbers known too:

- views of views: ``transpose(transpose(x))`` is ``x``, a detached tensor is itself;
- tensors filled with one number (masks of batches without padding, the ones that
  gradients start from) become that number, and what it does to others is simplified;
- factors are taken out, :math:`f(c x) = c f(x)` for linear :math:`f`, and put where
  they cost nothing: :math:`x + c (a b)` is one operation, ``baddbmm``;
- what was computed before, or is used by nothing, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sklmeta.engine.fusion import fused, without_unused, without_writes
from sklmeta.engine.tracing import (
    Operation,
    Recording,
    Spec,
    Value,
    leaves,
    mapped,
    spec_of,
)

__all__ = ["simplified"]

_aten = torch.ops.aten
Number = bool | int | float

_SAME = (_aten.detach.default, _aten.alias.default, _aten.lift_fresh.default)
_FILLED_LIKE = {_aten.ones_like.default: 1, _aten.zeros_like.default: 0}
_VIEWS = {
    *(_aten.expand.default, _aten.reshape.default, _aten.squeeze.dim),
    *(_aten.transpose.int, _aten.unsqueeze.default),
}
# Linear in the first argument.
_LINEAR = {
    *_VIEWS,
    *(_aten.sum.default, _aten.sum.dim_IntList, _aten.mean.default, _aten.mean.dim),
    *(_aten.threshold_backward.default, _aten.mul.Tensor, _aten.bmm.default),
}
# Their results depend on memory layout, which is not kept here.
_REFUSED = (_aten.as_strided.default, _aten.new_empty_strided.default)


def simplified(
    recording: Recording, filled: Mapping[Value, Number] | None = None
) -> Recording:
    """Return a recording of the same outputs, up to rounding, in fewer operations.

    Parameters
    ----------
    recording : Recording
        Returned as it is where an operation writes into a tensor.
    filled : dict of Value to number, default=None
        Inputs that are known to hold one number everywhere.

    Returns
    -------
    Recording
        With the same inputs and outputs.
    """
    functional = without_writes(recording)
    if functional is None or any(
        one.function in _REFUSED for one in recording.operations
    ):
        return recording
    recording = functional
    rewriter = _Rewriter(recording, filled or {})
    for operation in recording.operations:
        rewriter.add(operation)
    return without_unused(fused(without_unused(rewriter.finished())))


class _Rewriter:
    """Writes a recording anew, operation by operation."""

    def __init__(self, recording: Recording, filled: Mapping[Value, Number]) -> None:
        self._old = recording
        self._new = replace(
            recording, operations=[], outputs=[], specs=dict(recording.specs)
        )
        self._became: dict[Value, Value] = {}
        self._filled: dict[Value, Number] = dict(filled)
        self._made_by: dict[Value, Operation] = {}
        self._known: dict[str, Value] = {}
        self._rules: dict[Any, Callable[..., Value | None]] = {
            _aten.add.Tensor: self._add,
            _aten.div.Scalar: self._divide,
            _aten.div.Tensor: self._divide,
            _aten.expand.default: self._expand,
            _aten.mul.Scalar: self._multiply,
            _aten.mul.Tensor: self._multiply,
            _aten.neg.default: lambda x: self._scaled(x, -1.0),
            _aten.pow.Tensor_Scalar: self._power,
            _aten.reshape.default: self._reshape,
            _aten.squeeze.dim: self._squeeze,
            _aten.sub.Tensor: self._subtract,
            _aten.transpose.int: self._transpose,
            _aten.unsqueeze.default: self._unsqueeze,
            _aten.where.self: self._where,
            _aten.bmm.default: self._product,
        }

    def add(self, operation: Operation) -> None:
        """Write one operation of the old recording, or what stands for it."""
        args, kwargs = mapped(self._current, (operation.args, operation.kwargs))
        function = operation.function
        if function in (_aten.view.default, _aten._unsafe_view.default):
            function = _aten.reshape.default  # layouts may have changed
        if function is _aten.t.default:
            function, args = _aten.transpose.int, (args[0], 0, 1)
        if not isinstance(operation.results, Value):
            self._add_many(replace(operation, function=function, args=args), kwargs)
            return
        spec = self._old.specs[operation.results]
        found = self._simpler(function, args, kwargs, spec)
        if found is None:
            found = self._write(function, args, kwargs, spec)
        self._became[operation.results] = found

    def finished(self) -> Recording:
        """Return the new recording."""
        for output in self._old.outputs:
            own = None if output is None else self._whole(self._current(output))
            self._new.outputs.append(own)
        return self._new

    # Writing ---------------------------------------------------------------------

    def _current(self, leaf: Any) -> Any:
        return self._became.get(leaf, leaf) if isinstance(leaf, Value) else leaf

    def _add_many(self, operation: Operation, kwargs: Any) -> None:
        args, kwargs = mapped(self._whole, (operation.args, kwargs))
        for value in operation.outputs():
            self._became[value] = value
        self._new.operations.append(replace(operation, args=args, kwargs=kwargs))

    def _write(
        self, function: Any, args: Any, kwargs: Any, spec: Spec | None = None
    ) -> Value:
        """Add an operation, unless the same one was added before."""
        args, kwargs = mapped(self._whole, (tuple(args), kwargs))
        key = repr((function, args, kwargs))
        if key in self._known:
            return self._known[key]
        if spec is None:
            spec = self._spec_after(function, args, kwargs)
        value = Value(len(self._new.specs))
        self._new.specs[value] = spec
        operation = Operation(function, args, kwargs, value)
        self._new.operations.append(operation)
        self._made_by[value] = operation
        self._known[key] = value
        return value

    def _do(self, function: Any, *args: Any, **kwargs: Any) -> Value:
        """Write an operation of one result in its simplest form."""
        found = self._simpler(function, args, kwargs, None)
        return self._write(function, args, kwargs) if found is None else found

    def _spec_after(self, function: Any, args: Any, kwargs: Any) -> Spec:
        """Return the spec of what an operation returns."""
        device = next(self._spec(v).device for v in args if isinstance(v, Value))

        def meta(leaf: Any) -> Any:
            if not isinstance(leaf, Value):
                return leaf
            spec = self._spec(leaf)
            return torch.empty(spec.shape, dtype=spec.dtype, device="meta")

        result = function(*mapped(meta, args), **kwargs)
        return replace(spec_of(result), device=device)

    def _whole(self, leaf: Any) -> Any:
        """Return a value that operations can take: a filled one is made first."""
        if not isinstance(leaf, Value) or leaf not in self._filled:
            return leaf
        if leaf in self._old.inputs:
            return leaf
        spec, number = self._spec(leaf), self._filled[leaf]
        options = {"dtype": spec.dtype, "device": spec.device}
        return self._write(
            _aten.full.default, (list(spec.shape), number), options, spec
        )

    def _spec(self, value: Value) -> Spec:
        return self._new.specs[value]

    def _shape(self, value: Value) -> tuple[int, ...]:
        return self._new.specs[value].shape

    # What is simpler ---------------------------------------------------------------

    def _simpler(
        self, function: Any, args: Any, kwargs: Any, spec: Spec | None
    ) -> Value | None:
        """Return a value that stands for an operation's result, None if none does."""
        if function in _SAME:
            return args[0]
        filled = self._filled_result(function, args, kwargs, spec)
        if filled is not None:
            return filled
        factored = self._factor_out(function, args, kwargs)
        if factored is not None:
            return factored
        rule = self._rules.get(function)
        return None if rule is None else rule(*args, **kwargs)

    def _filled_result(
        self, function: Any, args: Any, kwargs: Any, spec: Spec | None
    ) -> Value | None:
        """Return a filled value where the result is known to be one."""
        if function in _FILLED_LIKE and spec is not None:
            return self._filled_with(_FILLED_LIKE[function], spec)
        given = leaves((args, kwargs))
        values = [leaf for leaf in given if isinstance(leaf, Value)]
        if not all(value in self._filled for value in values):
            return None
        if function is _aten.full.default or (not values and spec is None):
            return None

        def real(leaf: Any) -> Any:
            if not isinstance(leaf, Value):
                return leaf
            own = self._spec(leaf)
            return torch.full(own.shape, self._filled[leaf], dtype=own.dtype)

        if any(isinstance(leaf, torch.device) for leaf in given):
            kwargs = {**kwargs, "device": torch.device("cpu")}
        result = function(*mapped(real, args), **mapped(real, kwargs))
        if not isinstance(result, Tensor) or not result.numel():
            return None
        number = result.flatten()[0].item()
        if not bool((result == number).all()):
            return None
        device = spec.device if spec is not None else self._spec(values[0]).device
        return self._filled_with(number, replace(spec_of(result), device=device))

    def _filled_with(self, number: Number, spec: Spec) -> Value:
        value = Value(len(self._new.specs))
        self._new.specs[value] = spec
        self._filled[value] = number
        return value

    def _factor(self, value: Any) -> tuple[Any, float]:
        """Return a value without the factor that it was last multiplied with."""
        made_by = self._made_by.get(value)
        if made_by is None or made_by.function is not _aten.mul.Scalar:
            return value, 1.0
        factor = float(made_by.args[1])
        usable = factor != 0 and math.isfinite(factor)
        return (made_by.args[0], factor) if usable else (value, 1.0)

    def _factor_out(self, function: Any, args: Any, kwargs: Any) -> Value | None:
        """Apply a linear operation before the factor of its argument."""
        if function not in _LINEAR:
            return None
        first, factor = self._factor(args[0])
        others = list(args[1:])
        if function in (_aten.bmm.default, _aten.mul.Tensor):
            others[0], second = self._factor(others[0])
            factor *= second
        if factor == 1.0 or not self._spec(first).dtype.is_floating_point:
            return None
        return self._scaled(self._do(function, first, *others, **kwargs), factor)

    def _scaled(self, x: Value, factor: float) -> Value | None:
        if not self._spec(x).dtype.is_floating_point:
            return None
        if factor == 0 or not math.isfinite(factor):
            return None  # 0 * inf is no number, wherever it is multiplied
        x, before = self._factor(x)
        if factor * before == 1.0:
            return x
        return self._write(_aten.mul.Scalar, (x, factor * before), {}, self._spec(x))

    def _number(self, operand: Any) -> float | None:
        """Return the number that an operand is, or is filled with."""
        if isinstance(operand, Value):
            number = self._filled.get(operand)
            return None if number is None else float(number)
        return None if isinstance(operand, complex) else float(operand)

    def _with_number(self, x: Any, y: Any) -> float | None:
        """Return the number in `y` if combining it with `x` gives what is like `x`."""
        number = self._number(y)
        if number is None or not isinstance(x, Value):
            return None
        if not isinstance(y, Value):
            return number
        wider = torch.broadcast_shapes(self._shape(x), self._shape(y))
        dtype = torch.promote_types(self._spec(x).dtype, self._spec(y).dtype)
        like_x = wider == self._shape(x) and dtype == self._spec(x).dtype
        return number if like_x else None

    def _multiply(self, x: Any, y: Any) -> Value | None:
        for one, other in ((x, y), (y, x)):
            number = self._with_number(one, other)
            if number is not None:
                return self._scaled(one, number)
        return None

    def _divide(self, x: Any, y: Any) -> Value | None:
        number = self._with_number(x, y)
        return None if not number else self._scaled(x, 1 / number)

    def _add(self, x: Any, y: Any, *, alpha: Number = 1) -> Value | None:
        number = self._with_number(x, y)
        if number is not None and number * alpha == 0:
            return x
        number = self._with_number(y, x)
        if number == 0 and alpha == 1:
            return y
        if not (isinstance(x, Value) and isinstance(y, Value)):
            return None
        x, of_x = self._factor(x)
        y, of_y = self._factor(y)
        of_y *= alpha
        if (of_x, of_y) == (1.0, 1.0) and alpha == 1:
            return None
        if of_x == 1.0:
            return self._write(_aten.add.Tensor, (x, y), {"alpha": of_y})
        if of_y == 1.0:
            return self._write(_aten.add.Tensor, (y, x), {"alpha": of_x})
        options = {} if of_y == of_x else {"alpha": of_y / of_x}
        return self._scaled(self._write(_aten.add.Tensor, (x, y), options), of_x)

    def _subtract(self, x: Any, y: Any, *, alpha: Number = 1) -> Value | None:
        if not (isinstance(x, Value) and isinstance(y, Value)):
            return None
        if not self._spec(x).dtype.is_floating_point or self._number(x) is not None:
            return None
        return self._do(_aten.add.Tensor, x, y, alpha=-float(alpha))

    def _power(self, x: Value, exponent: Number) -> Value | None:
        if exponent == 1:
            return x
        return self._filled_with(1, self._spec(x)) if exponent == 0 else None

    def _where(self, condition: Value, x: Value, y: Value) -> Value | None:
        number = self._filled.get(condition)
        if number is None:
            return None
        chosen, other = (x, y) if number else (y, x)
        if self._spec(chosen).dtype != self._spec(other).dtype:
            return None
        shapes = [self._shape(value) for value in (condition, x, y)]
        return self._do(_aten.expand.default, chosen, torch.broadcast_shapes(*shapes))

    def _product(self, a: Value, b: Value) -> Value | None:
        """Return an outer product as what it is: (T, M, 1) times (T, 1, N)."""
        if self._shape(a)[2] != 1 or not self._spec(a).dtype.is_floating_point:
            return None
        return self._do(_aten.mul.Tensor, a, b)

    def _call_of(self, value: Value) -> tuple[Any, list[Any]]:
        """Return the operation that made a value, and its arguments but the first."""
        made_by = self._made_by.get(value)
        return (
            (None, []) if made_by is None else (made_by.function, [*made_by.args[1:]])
        )

    # Views -----------------------------------------------------------------------

    def _expand(self, x: Value, shape: Any, **options: Any) -> Value | None:
        own = self._shape(x)
        missing = len(shape) - len(own)
        full = [own[place - missing] if n == -1 else n for place, n in enumerate(shape)]
        if tuple(full) == own:
            return x
        return self._write(_aten.expand.default, (x, full), {})

    def _reshape(self, x: Value, shape: Any) -> Value | None:
        return x if tuple(shape) == self._shape(x) else None

    def _transpose(self, x: Value, first: int, second: int) -> Value | None:
        n = len(self._shape(x))
        if n == 0 or first % n == second % n:
            return x
        dims = sorted((first % n, second % n))
        if self._call_of(x) == (_aten.transpose.int, dims):
            return self._made_by[x].args[0]
        return self._write(_aten.transpose.int, (x, *dims), {})

    def _unsqueeze(self, x: Value, dim: int) -> Value | None:
        dim %= len(self._shape(x)) + 1
        if self._call_of(x) == (_aten.squeeze.dim, [dim]):
            return self._made_by[x].args[0]
        return self._write(_aten.unsqueeze.default, (x, dim), {})

    def _squeeze(self, x: Value, dim: int) -> Value | None:
        shape = self._shape(x)
        if not shape or shape[dim] != 1:
            return x
        return self._write(_aten.squeeze.dim, (x, dim % len(shape)), {})
