"""The default scores of meta-learners, summed up over batches of episodes."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from sklmeta.engine.batches import Rows

__all__ = ["MeanAccuracy", "PooledR2"]


class MeanAccuracy:
    """Accuracy on each task's query rows, averaged over tasks."""

    def __init__(self) -> None:
        self.tasks: list[Tensor] = []

    def add(self, outputs: Tensor, query: Rows) -> None:
        """Add episodes: outputs (T, Q, N) on the CPU and what they should be."""
        mask = query.mask.cpu()
        right = (outputs.nan_to_num().argmax(-1) == query.y.cpu()) & mask
        self.tasks.append(right.sum(1).double() / mask.sum(1))

    def value(self) -> float:
        """Return the mean over all tasks added."""
        return float(torch.cat(self.tasks).mean())


class PooledR2:
    """1 - SSE / sum of squares about each task's own query mean, pooled over tasks."""

    def __init__(self) -> None:
        self.errors: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        self.n_tasks = 0
        self.n_skipped = 0

    def add(self, outputs: Tensor, query: Rows) -> None:
        """Add episodes: outputs (T, Q, n_outputs) on the CPU and what they should be.

        Tasks with one query row are left out: their mean is that row.
        """
        mask = query.mask.cpu()
        enough = mask.sum(1) > 1
        self.n_tasks += int(enough.sum())
        self.n_skipped += int((~enough).sum())
        y, real = query.y.cpu()[enough].double(), mask[enough].unsqueeze(-1)
        outputs = torch.where(real, outputs[enough].double(), 0.0)
        y = torch.where(real, y, 0.0)
        mean = y.sum(1, keepdim=True) / real.sum(1, keepdim=True)
        self.errors = self.errors + ((outputs - y) * real).square().sum((0, 1))
        self.squares = self.squares + ((y - mean) * real).square().sum((0, 1))

    def value(self) -> float:
        """Return the score, averaged over outputs."""
        if not self.n_tasks:
            raise ValueError(
                f"All {self.n_skipped} scored tasks have only one query row, which "
                "says nothing about the fit inside a task. Lower n_shot, or give tasks "
                "more rows."
            )
        if self.n_skipped:
            warnings.warn(
                f"{self.n_skipped} tasks with only one query row are left out of the "
                "score.",
                UserWarning,
                stacklevel=3,
            )
        squares = torch.as_tensor(self.squares)
        if (squares <= 0).any():
            raise ValueError(
                "The scored tasks' targets do not vary inside any task, so there is no "
                "variance to explain. Score with another metric."
            )
        return float((1 - torch.as_tensor(self.errors) / squares).mean())
