"""Moments of streams, kept with the policy that needs them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RunningMoments"]


class RunningMoments(nn.Module):
    """Mean and mean square of all rows seen so far (..., width).

    The first `patience` updates weigh by their rows, later ones 1 / `patience`, so that
    the scale follows a policy that earns more and more.
    """

    mean: Tensor
    mean_square: Tensor
    n_updates: Tensor

    def __init__(self, width: int, patience: int = 100) -> None:
        super().__init__()
        self.patience = patience
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("mean_square", torch.ones(width))
        self.register_buffer("n_updates", torch.zeros(()))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Take in rows (n, width)."""
        self.n_updates += 1
        weight = 1 / self.n_updates.clamp(max=self.patience)
        self.mean.lerp_(rows.mean(0), weight)
        self.mean_square.lerp_(rows.square().mean(0), weight)

    @property
    def std(self) -> Tensor:
        variance = self.mean_square - self.mean.square()
        return variance.clamp(min=1e-8).sqrt()

    def standardised(self, rows: Tensor) -> Tensor:
        """Return rows with mean 0 and deviation 1, none beyond 10."""
        if not self.n_updates:
            return rows
        return ((rows - self.mean) / (self.std + 1e-4)).clamp(-10, 10)

    def scaled(self, rows: Tensor) -> Tensor:
        """Return rows with a root mean square of 1, zeros staying zeros."""
        if not self.n_updates:
            return rows
        return (rows / (self.mean_square.sqrt() + 1e-4)).clamp(-10, 10)
