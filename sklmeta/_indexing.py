"""Immutable tuples that index like one-dimensional arrays.

scikit-learn cuts a fold from anything with a `shape` by `x[indices, ...]`; a tuple that
answers this with its own type passes through splitters and searches unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


class PooledTuple(tuple):
    """Immutable tuple that indexes like a one-dimensional array and stays its type.

    It has a `shape`, so scikit-learn cuts folds from it with `x[indices, ...]`, which
    calls `_select` with positions.
    """

    @classmethod
    def _make(cls, items: Iterable[Any], **state: Any) -> Self:
        self = tuple.__new__(cls, items)
        vars(self).update(state)
        return self

    def _select(self, positions: NDArray[np.int64]) -> Self:
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Any:
        return self._select(np.atleast_1d(as_positions(key, len(self))))

    @property
    def shape(self) -> tuple[int]:
        """Number of items, as array shapes have it."""
        return (len(self),)

    def __setattr__(self, attribute: str, value: Any) -> None:
        raise AttributeError(f"A {type(self).__name__} is immutable.")

    def __delattr__(self, attribute: str) -> None:
        raise AttributeError(f"A {type(self).__name__} is immutable.")

    def __radd__(self, other: Any) -> Self:
        name = type(self).__name__
        raise TypeError(f"Only a {name} can be added to a {name}, got {other!r:.60}.")

    def __mul__(self, times: Any) -> Self:
        raise TypeError(
            f"A {type(self).__name__} cannot be multiplied; to repeat items, index "
            "them, for example with numpy.tile(numpy.arange(n), times)."
        )

    __rmul__ = __mul__

    def __copy__(self) -> Self:
        return self


def as_positions(key: Any, n_items: int) -> int | NDArray[np.int64]:
    """Return an index as one position, or as an array of positions."""
    if isinstance(key, tuple):
        if len(key) != 2 or key[1] is not Ellipsis:
            raise IndexError(f"There is one axis to index, got {key!r:.60}.")
        key = key[0]
    if isinstance(key, slice):
        return np.arange(n_items)[key]
    index = np.asarray(key)
    if index.size == 0 and index.ndim == 1 and index.dtype != bool:
        return np.arange(0)
    if index.dtype == bool and index.shape == (n_items,):
        return np.flatnonzero(index)
    if index.dtype.kind not in "iu" or index.ndim > 1:
        raise IndexError(
            f"Got an index of type {index.dtype} and shape {index.shape} into "
            f"{n_items} items; expected an int, a slice, integers, or a bool mask of "
            f"shape ({n_items},)."
        )
    if index.size and not -n_items <= index.min() <= index.max() < n_items:
        raise IndexError(f"Index {key!r:.60} is out of range for {n_items} items.")
    positions = np.where(index < 0, index + n_items, index).astype(np.int64)
    return int(positions) if index.ndim == 0 else positions
