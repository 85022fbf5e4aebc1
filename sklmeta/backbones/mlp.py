"""The default backbone for rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sklmeta.backbones.initialization import make_linear, new_generator

__all__ = ["MLP"]


class MLP(nn.Module):
    """Fully connected layers, each followed by a ReLU.

    Parameters
    ----------
    n_features : int
        Number of features of a row.
    hidden : sequence of int, default=(64, 64)
        Width of each layer; empty passes the features on as they are.
    generator : torch.Generator, default=None
        Where the weights are drawn from, by the distributions of `torch.nn.Linear`;
        None draws different ones every time. The global generator is left alone.

    Attributes
    ----------
    out_features : int
        Number of features that come out.

    Raises
    ------
    ValueError
        If a width is below 1.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.backbones import MLP
    >>> backbone = MLP(3, hidden=(40, 40), generator=torch.Generator().manual_seed(0))
    >>> backbone(torch.zeros(5, 3)).shape
    torch.Size([5, 40])
    """

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int] = (64, 64),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        widths = [n_features, *hidden]
        if min(widths) < 1:
            raise ValueError(
                "MLP needs positive widths, got "
                f"n_features={n_features!r} and hidden={tuple(hidden)!r}."
            )
        generator = new_generator() if generator is None else generator
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [make_linear(n_in, n_out, generator=generator), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.out_features = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, n_features) to features (n, out_features)."""
        return self.layers(x)
