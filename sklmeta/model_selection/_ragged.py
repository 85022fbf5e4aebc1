"""Lists of row numbers of different lengths, in one flat array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Padded", "RaggedRows"]

Padded: TypeAlias = tuple[
    NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64] | None
]
"""Which lists, their values (b, W), which values are real, and the way of each."""


@dataclass(frozen=True)
class RaggedRows:
    """B lists of row numbers.

    Attributes
    ----------
    values : ndarray of shape (R,)
        The row numbers of all lists.
    start, size : ndarray of shape (B,)
        Where each list lies in `values`.
    way : ndarray of shape (R,) or None
        The way that each row stands for.
    """

    values: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    way: NDArray[np.int64] | None = None

    @classmethod
    def of_padded(cls, parts: Sequence[Padded]) -> Self:
        """Collect padded lists; together they hold each list once."""
        values = [rows[mask] for _, rows, mask, _ in parts]
        sizes = [mask.sum(1) for _, _, mask, _ in parts]
        size_in_order = np.concatenate(sizes)
        start_in_order = np.cumsum(size_in_order) - size_in_order
        where = np.concatenate([where for where, _, _, _ in parts])
        start, size = np.empty_like(start_in_order), np.empty_like(size_in_order)
        start[where], size[where] = start_in_order, size_in_order
        ways = [way[mask] for _, _, mask, way in parts if way is not None]
        return cls(
            np.concatenate(values),
            start,
            size,
            np.concatenate(ways) if ways else None,
        )

    def __len__(self) -> int:
        return len(self.size)

    def __getitem__(self, lists: Any) -> Self:
        """Return some of the lists."""
        return replace(self, start=self.start[lists], size=self.size[lists])

    def of(self, which: int) -> NDArray[np.int64]:
        """Return one list."""
        start = self.start[which]
        return self.values[start : start + self.size[which]]

    def all(self) -> NDArray[np.int64]:
        """Return the values of all lists, end to end."""
        before = np.cumsum(self.size) - self.size
        position = np.arange(self.size.sum()) + np.repeat(
            self.start - before, self.size
        )
        return self.values[position]

    def padded(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the lists, which entries are real, and their ways; (B, longest)."""
        position = np.arange(self.size.max(initial=0))
        mask = position < self.size[:, None]
        inside = np.minimum(position, self.size[:, None] - 1)
        where = self.start[:, None] + np.maximum(inside, 0)
        way = None if self.way is None else torch.from_numpy(self.way[where])
        return torch.from_numpy(self.values[where]), torch.from_numpy(mask), way
