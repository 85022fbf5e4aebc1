r"""Scaling and shifting of frozen layers, of meta-transfer learning.

A layer with frozen weights :math:`W` and biases :math:`b` becomes (equations 6 and 7 of
arXiv:1812.02391)

.. math:: SS(x) = (W \odot \Phi_1) * x + b + \Phi_2,

with :math:`\Phi_1`, one at first, of one number per kernel of a convolution, a ninth of
its weights for kernels of 3 x 3, and :math:`\Phi_2`, zero at first, of one per channel.
The paper has convolutions only; a dense layer gets one scale and shift per output.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sklmeta.backbones.parametrized import picklable

__all__ = ["Scale", "Shift", "scaled_and_shifted"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Scale(nn.Module):
    """Multiplies a weight by a factor of each of its kernels.

    Parameters
    ----------
    shape : tuple of int
        Of the factors; it broadcasts to that of the weight.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(shape))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the scaled weight."""
        return weight * self.factor


class Shift(nn.Module):
    """Adds to a bias.

    Parameters
    ----------
    n_channels : int
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(n_channels))

    def forward(self, bias: Tensor) -> Tensor:
        """Return the shifted bias."""
        return bias + self.offset


def scaled_and_shifted(backbone: nn.Module) -> nn.Module:
    """Freeze the weights of a module, and give its layers scales and shifts to learn.

    Parameters
    ----------
    backbone : nn.Module
        Changed in place.

    Returns
    -------
    nn.Module
        The module. It gives the same features as before.

    Raises
    ------
    ValueError
        If it has no convolution and no dense layer.
    """
    layers = list(_layers(backbone))
    if not layers:
        raise ValueError(
            "The backbone has no convolution (torch.nn.Conv1d, Conv2d, Conv3d) and no "
            "torch.nn.Linear, and these are what meta-transfer learning scales and "
            "shifts. Use another backbone, or FineTuneClassifier."
        )
    backbone.requires_grad_(False)
    for layer in layers:
        weight = layer.weight
        if layer.bias is None:
            layer.bias = nn.Parameter(weight.new_zeros(len(weight)), False)
        shape = (len(weight), *[1] * (weight.dim() - 1))
        if isinstance(layer, CONVOLUTIONS):
            shape = (*weight.shape[:2], *shape[2:])
        scale, shift = Scale(shape).to(weight), Shift(len(weight)).to(weight)
        parametrize.register_parametrization(layer, "weight", scale)
        parametrize.register_parametrization(layer, "bias", shift)
    return picklable(backbone)


def _layers(backbone: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    for layer in backbone.modules():
        if isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
            yield layer  # type: ignore[misc]
