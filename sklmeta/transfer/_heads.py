r"""Last layers of networks that are pre-trained and fine-tuned.

With the features :math:`f` of a row a linear layer gives :math:`W f + b`, and a cosine
layer, of "baseline++" in arXiv:1904.04232,

.. math:: o_k = \frac{1}{\tau} \frac{w_k^\top f}{\lVert w_k \rVert \lVert f \rVert}.

Weights are (..., N, D), those of a linear layer with the bias as their last column.
Gradients are written down: with :math:`G` (S, N) those of a loss by the outputs, a
linear layer has :math:`G^\top [f, 1]`, and a cosine layer, with :math:`u_k` the
direction of :math:`w_k`,

.. math:: \frac{(I - u_k u_k^\top) \sum_i G_{ik} f_i / \lVert f_i \rVert}
               {\tau \lVert w_k \rVert}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sklmeta.metric._cosine import unit_rows

__all__ = ["HEADS", "CosineLayer", "Layer", "LinearLayer", "make_layer"]

HEADS = ("linear", "cosine")


class Layer(Protocol):
    """How features and weights become outputs."""

    def width(self, n_features: int) -> int:
        """Return how many weights an output has."""

    def prepared(self, features: Tensor) -> Tensor:
        """Return features (..., S, n_features) as `outputs` takes them (..., S, D)."""

    def outputs(self, weight: Tensor, prepared: Tensor) -> Tensor:
        """Return outputs (..., S, N) of weights (..., N, D)."""

    def gradient(self, weight: Tensor, prepared: Tensor, error: Tensor) -> Tensor:
        """Return gradients by weights, given those by outputs (..., S, N)."""

    def pulled(self, offset: Tensor) -> Tensor:
        """Return what weight decay draws back of offsets (..., N, D), in place."""


class LinearLayer:
    """A linear layer with an intercept."""

    def width(self, n_features: int) -> int:
        """Return how many weights an output has: the bias is the last."""
        return n_features + 1

    def prepared(self, features: Tensor) -> Tensor:
        """Return features with a column of ones."""
        ones = features.new_ones(*features.shape[:-1], 1)
        return torch.cat([features, ones], -1)

    def outputs(self, weight: Tensor, prepared: Tensor) -> Tensor:
        """Return the outputs."""
        return prepared @ weight.mT

    def gradient(self, weight: Tensor, prepared: Tensor, error: Tensor) -> Tensor:
        """Return gradients by the weights."""
        return error.mT @ prepared

    def pulled(self, offset: Tensor) -> Tensor:
        """Return offsets of the weights; biases do not decay."""
        offset[..., -1] = 0.0
        return offset


@dataclass(frozen=True)
class CosineLayer:
    """Cosines between features and one vector for each output.

    Attributes
    ----------
    temperature : float
        Divides them.
    """

    temperature: float

    def width(self, n_features: int) -> int:
        """Return how many weights an output has."""
        return n_features

    def prepared(self, features: Tensor) -> Tensor:
        """Return features of length one."""
        return unit_rows(features)

    def outputs(self, weight: Tensor, prepared: Tensor) -> Tensor:
        """Return the outputs."""
        return prepared @ unit_rows(weight).mT / self.temperature

    def gradient(self, weight: Tensor, prepared: Tensor, error: Tensor) -> Tensor:
        """Return gradients by the weights; 0 for those of no length."""
        length = torch.linalg.vector_norm(weight, dim=-1, keepdim=True)
        length = length.where(length > 0, torch.inf)
        unit = weight / length
        towards = error.mT @ prepared
        along = (towards * unit).sum(-1, keepdim=True)
        return (towards - along * unit) / (length * self.temperature)

    def pulled(self, offset: Tensor) -> Tensor:
        """Return the offsets."""
        return offset


def make_layer(kind: str, temperature: float) -> Layer:
    """Return the layer of a name."""
    return LinearLayer() if kind == "linear" else CosineLayer(temperature)
