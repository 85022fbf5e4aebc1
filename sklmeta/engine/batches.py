"""What learners see: padded batches of rows, task by task, on one device.

Axes, here and everywhere: T tasks, S support rows, Q query rows, F features, N ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Episodes", "Rows"]


@dataclass(frozen=True)
class Rows:
    """Rows of T tasks, padded to the longest task.

    Attributes
    ----------
    x : Tensor of shape (T, S, *F)
        Features as the backbone takes them: float, images as (C, H, W) in [0, 1].
    y : Tensor of shape (T, S) or (T, S, n_outputs)
        Class or way indices (int64), or float targets.
    mask : Tensor of shape (T, S)
        True where a row is real; padded rows are never used in any statistic.
    n_way : Tensor of shape (T,) or None
        Number of ways of each task (local labels); None where labels are shared or
        targets are numbers.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    n_way: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, tasks: slice | Tensor) -> Rows:
        """Return the rows of some of the tasks; T stays the leading axis."""
        n_way = None if self.n_way is None else self.n_way[tasks]
        return Rows(self.x[tasks], self.y[tasks], self.mask[tasks], n_way)

    def to(self, device: torch.device | str) -> Rows:
        """Return the same rows on another device."""
        n_way = None if self.n_way is None else self.n_way.to(device)
        return Rows(
            self.x.to(device), self.y.to(device), self.mask.to(device), n_way
        )


@dataclass(frozen=True)
class Episodes:
    """T episodes: the support rows to adapt on and the query rows to judge on."""

    support: Rows
    query: Rows

    def __len__(self) -> int:
        return len(self.support)

    def chunks(self, size: int) -> Iterator[Episodes]:
        """Yield the episodes in runs of at most `size` tasks."""
        for start in range(0, len(self), size):
            run = slice(start, start + size)
            yield Episodes(self.support[run], self.query[run])
