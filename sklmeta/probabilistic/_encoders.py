"""Encoders of context sets: one vector for a set, or one for each row that asks.

Axes: B sets (tasks, times ways where these are told apart), S rows of a set, Q rows
that ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sklmeta.backbones.initialization import make_linear
from sklmeta.probabilistic._attention import AttentionBlock, Memory

__all__ = ["CrossAttention", "PoolingEncoder", "RowEncoder", "dense", "mean_of_real"]


def dense(
    widths: Sequence[int], generator: torch.Generator | None = None
) -> nn.Sequential:
    """Return linear layers with a ReLU between each two."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.ReLU(), make_linear(n_in, n_out, generator=generator)]
    return nn.Sequential(*layers[1:])


def mean_of_real(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of values (B, S, D) where mask (B, S) is True; 0 of none."""
    weights = mask.to(values.dtype)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return (weights.unsqueeze(1) @ values).squeeze(1)


class RowEncoder(nn.Module):
    """Encodes rows with their labels, each by itself or in the light of the others.

    Parameters
    ----------
    n_inputs : int
        Width of rows and labels together.
    width : int
        Of codes.
    depth : int
        Linear layers, self-attention counting for two.
    n_heads : int or None
        Heads of the self-attention; None: rows do not see each other.
    generator : torch.Generator, default=None
        Draws the initial weights.
    """

    def __init__(
        self,
        n_inputs: int,
        width: int,
        depth: int,
        n_heads: int | None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        n_layers = depth if n_heads is None else max(depth - 2, 1)
        self.net = dense([n_inputs, *n_layers * [width]], generator)
        self.attention = (
            None
            if n_heads is None
            else AttentionBlock(width, n_heads, width, generator=generator)
        )

    def forward(self, rows: Tensor, mask: Tensor | None) -> Tensor:
        """Return codes (B, S, width) of rows (B, S, n_inputs)."""
        codes = self.net(rows)
        if self.attention is None:
            return codes
        codes = codes.relu()
        return self.attention(codes, self.attention.memory(codes, codes), mask)


class PoolingEncoder(nn.Module):
    """Encodes a set as the mean of its rows' codes.

    Parameters
    ----------
    n_inputs, width, depth, n_heads, generator
        As in `RowEncoder`.
    """

    def __init__(
        self,
        n_inputs: int,
        width: int,
        depth: int,
        n_heads: int | None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.rows = RowEncoder(n_inputs, width, depth, n_heads, generator)

    def forward(self, rows: Tensor, mask: Tensor, full: bool) -> Tensor:
        """Return the codes (B, width) of sets; that of an empty one is 0.

        Parameters
        ----------
        rows : Tensor of shape (B, S, n_inputs)
        mask : Tensor of shape (B, S)
            True where a row is real.
        full : bool
            Whether all are.
        """
        return mean_of_real(self.rows(rows, None if full else mask), mask)


class CrossAttention(nn.Module):
    """Encodes a set anew for each row that asks, by attention.

    Parameters
    ----------
    n_features : int
        Width of rows.
    n_labels : int
        Width of labels.
    width, depth, n_heads, generator
        As in `RowEncoder`.
    """

    def __init__(
        self,
        n_features: int,
        n_labels: int,
        width: int,
        depth: int,
        n_heads: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.rows = RowEncoder(n_features + n_labels, width, depth, n_heads, generator)
        self.places = dense([n_features, width, width], generator)
        self.attention = AttentionBlock(width, n_heads, width, generator=generator)

    def memory(self, features: Tensor, labels: Tensor, mask: Tensor | None) -> Memory:
        """Return what is kept of rows (B, S, n_features) and labels (B, S, L)."""
        codes = self.rows(torch.cat([features, labels], -1), mask)
        return self.attention.memory(self.places(features), codes)

    def forward(self, features: Tensor, memory: Memory, mask: Tensor | None) -> Tensor:
        """Return codes (B, Q, width) of a set, for rows (B, Q, n_features) that ask."""
        return self.attention(self.places(features), memory, mask)
