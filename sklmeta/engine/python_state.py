"""What the modules of a learner hold besides tensors, and whether it changes.

A recorded meta-update is what Python made of a learner once. It stands for later ones
while all that Python could have looked at is as it was.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Hashable, Iterable
from enum import Enum
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sklmeta.engine.learner import Learner, Progress

__all__ = ["PythonState"]

_SIMPLE = {
    *(bool, int, float, complex, str, bytes, type(None), type, range, torch.dtype),
    *(torch.device, torch.memory_format, types.FunctionType, types.BuiltinFunctionType),
}
# What every module has, or what a recording cannot depend on.
_NOT_LOOKED_AT = {
    *(name for name in vars(nn.Module()) if name != "training"),
    *("budget", "progress", "weights_id"),
}
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks"),
    *("_backward_hooks", "_backward_pre_hooks"),
)
_flat = chain.from_iterable


class _Unseen(Exception):
    """An object that may change without being another one."""


class _Same:
    """Equal to itself alone; holds what it is of, so that no other gets its id."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


class PythonState:
    """What the modules of a learner hold besides the values of tensors.

    Parameters
    ----------
    learner : Learner
    """

    def __init__(self, learner: Learner) -> None:
        # The lists hold what `_ids` are of.
        self._modules = list(learner.modules())
        self._parameters = list(learner.parameters())
        self._attributes = [vars(module) for module in self._modules]
        self._hooks = [one[name] for one in self._attributes for name in _HOOKS]
        self._children = [
            one[name]
            for one in self._attributes
            for name in ("_modules", "_parameters")
        ]
        self._ids = self._ids_now()
        self._buffers = [one["_buffers"] for one in self._attributes]
        self._look_at(self._names_now())

    def _look_at(self, names: list[str]) -> None:
        """Take note of the attributes that there are."""
        self._names = names
        self._values = [
            (one, name)
            for one in self._attributes
            for name in one
            if name not in _NOT_LOOKED_AT
        ]
        self._looked_at = tuple(name for _, name in self._values)
        self._has_own_forward = "forward" in self._looked_at

    def _names_now(self) -> list[str]:
        return [*_flat(self._attributes)]

    def _ids_now(self) -> list[int]:
        return [*map(id, _flat([*map(dict.values, self._children)]))]

    def obstacle(self) -> str | None:
        """Say why a meta-update must be made by `Tensor.backward`; None if not so.

        Recordings leave out the calls of hooks, and know nothing of modules and
        parameters that took the place of others.
        """
        if self._ids_now() != self._ids:
            return "a module or a parameter has been replaced"
        names = self._names_now()
        if names != self._names:
            self._look_at(names)
        if self._has_own_forward or any(self._hooks):
            return "a module has hooks, or a `forward` of its own"
        if any([p._backward_hooks for p in self._parameters]) or any(
            [p._post_accumulate_grad_hooks for p in self._parameters]
        ):
            return "a parameter has hooks"
        return None

    def unseen(self) -> str | None:
        """Name an attribute whose changes would not be seen; None if there is none."""
        for attributes, name in self._values:
            try:
                _frozen(attributes.get(name))
            except _Unseen as one:
                return f"changes of the attribute {name!r} ({one}) could not be seen"
        return None

    def key(self) -> Hashable:
        """Return a value that is another one whenever the state is.

        None if it holds anything whose changes would not be seen.
        """
        values = [attributes.get(name) for attributes, name in self._values]
        try:
            frozen = [v if type(v) in _SIMPLE else _frozen(v) for v in values]
        except _Unseen:
            return None
        buffers = _flat([*map(dict.values, self._buffers)])
        return (self._looked_at, *frozen, *map(_Same, buffers))


def _frozen(value: Any) -> Hashable:
    if type(value) in _SIMPLE or isinstance(value, Enum):
        return value
    if isinstance(value, np.generic):
        return type(value), value.item()
    if isinstance(value, list | tuple | deque):
        return _of_kind(value, value)
    if isinstance(value, dict):
        return _of_kind(value, _flat(value.items()))
    if isinstance(value, set | frozenset):
        return type(value), frozenset(map(_frozen, value))
    if isinstance(value, functools.partial):
        return _of_kind(value, (value.func, value.args, value.keywords))
    if isinstance(value, Progress):
        return None  # watched, see `RecordedUpdate`
    if isinstance(value, Tensor):
        return _Same(value)  # its numbers are read anew in every replay
    raise _Unseen(type(value).__name__)


def _of_kind(value: Any, held: Iterable[Any]) -> Hashable:
    return (type(value), *map(_frozen, held))
