"""What learners see: padded batches of rows, task by task, on one device.

Axes, here and everywhere: T tasks, S support rows, Q query rows, F features, N ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Episodes", "Rows", "similar_sizes"]


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

    def trimmed(self) -> Rows:
        """Return the same rows without the padding that all tasks share."""
        longest = int(self.mask.sum(1).max())
        if longest == self.mask.shape[1]:
            return self
        return Rows(
            self.x[:, :longest], self.y[:, :longest], self.mask[:, :longest], self.n_way
        )

    def to(self, device: torch.device | str) -> Rows:
        """Return the same rows on another device."""
        n_way = None if self.n_way is None else self.n_way.to(device)
        return Rows(self.x.to(device), self.y.to(device), self.mask.to(device), n_way)


@dataclass(frozen=True)
class Episodes:
    """T episodes: the support rows to adapt on and the query rows to judge on."""

    support: Rows
    query: Rows

    def __len__(self) -> int:
        return len(self.support)

    def __getitem__(self, tasks: slice | Tensor) -> Episodes:
        """Return some of the episodes."""
        return Episodes(self.support[tasks], self.query[tasks])

    def parts(self, size: int | None, *, equal_rows: bool) -> Iterator[Episodes]:
        """Yield the episodes in parts, for learners that cannot take them at once.

        Parameters
        ----------
        size : int or None
            Largest number of tasks in a part; None sets no limit.
        equal_rows : bool
            Whether the tasks of a part must have equal numbers of rows, so that no
            row is padding.

        Yields
        ------
        Episodes
        """
        if size is None and not equal_rows:
            yield self
            return
        for _, part in self.indexed_parts(size, equal_rows=equal_rows):
            yield part

    def indexed_parts(
        self, size: int | None, *, equal_rows: bool
    ) -> Iterator[tuple[Tensor, Episodes]]:
        """Yield what `parts` does, each after the indices (CPU) of its tasks."""
        groups = [torch.arange(len(self))]
        if equal_rows and size != 1:
            groups = _equal_counts(self.support.mask, self.query.mask)
        for tasks in groups:
            for run in tasks.split(size or len(tasks)):
                part = self._part(run)
                # Padding holds ways of tasks that may be in another part.
                yield run, part.trimmed() if equal_rows or size is not None else part

    def _part(self, tasks: Tensor) -> Episodes:
        """Return tasks in rising order, as a view where they are neighbours."""
        first, last = int(tasks[0]), int(tasks[-1])
        if last - first == len(tasks) - 1:
            return self if len(tasks) == len(self) else self[first : last + 1]
        return self[tasks.to(self.support.x.device)]

    def trimmed(self) -> Episodes:
        """Return the same episodes without the padding that all of them share."""
        return Episodes(self.support.trimmed(), self.query.trimmed())


def similar_sizes(sizes: Tensor, limit: int) -> list[Tensor]:
    """Cut items into parts that stay below a limit when padded to their largest.

    Parameters
    ----------
    sizes : Tensor of shape (n,)
        Size of each item, at least 1. A part takes its number of items times its
        largest size.
    limit : int
        What a part may take, unless it is a single item.

    Returns
    -------
    list of Tensor
        The items of each part, in rising order: all in one part where that fits, else
        items together of which none is twice as large as another.
    """
    if len(sizes) * int(sizes.max()) <= limit:
        return [torch.arange(len(sizes))]
    order = sizes.argsort(descending=True, stable=True)
    parts = []
    while len(order):
        largest = int(sizes[order[0]])
        n_similar = int((2 * sizes[order] > largest).sum())
        n_items = min(max(1, limit // largest), n_similar)
        parts.append(order[:n_items].sort().values)
        order = order[n_items:]
    return parts


def _equal_counts(*masks: Tensor) -> list[Tensor]:
    """Return groups of task indices (on the CPU) with equal row counts per mask."""
    if all(bool(mask.all()) for mask in masks):
        return [torch.arange(len(masks[0]))]
    counts = torch.stack([mask.sum(1) for mask in masks], 1).cpu()
    _, group = counts.unique(dim=0, return_inverse=True)
    return [(group == g).nonzero().squeeze(1) for g in range(int(group.max()) + 1)]
