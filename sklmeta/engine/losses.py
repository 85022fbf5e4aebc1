"""Losses over masked rows: padding contributes neither value nor gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cross_entropy", "gaussian_nll", "masked_mean", "squared_error"]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` over the last axis where `mask` is True, 0 where none is."""
    total = torch.where(mask, values, 0.0).sum(-1)
    return total / mask.sum(-1).clamp(min=1)


def cross_entropy(logits: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of the real rows.

    Parameters
    ----------
    logits : Tensor of shape (..., Q, N)
        Ways that a task does not have hold -inf.
    y : Tensor of shape (..., Q)
    mask : Tensor of shape (..., Q)

    Returns
    -------
    Tensor of shape (...)
    """
    log_p = F.log_softmax(logits, dim=-1)
    return masked_mean(-log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1), mask)


def squared_error(outputs: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the real rows, averaged over outputs.

    Parameters
    ----------
    outputs, y : Tensor of shape (..., Q, n_outputs)
    mask : Tensor of shape (..., Q)

    Returns
    -------
    Tensor of shape (...)
    """
    return masked_mean((outputs - y).square().mean(-1), mask)


def gaussian_nll(mean: Tensor, variance: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log density of the real rows under normals, averaged over outputs.

    Parameters
    ----------
    mean, variance, y : Tensor of shape (..., Q, n_outputs)
    mask : Tensor of shape (..., Q)

    Returns
    -------
    Tensor of shape (...)
    """
    squares = (y - mean).square() / variance
    density = (squares + variance.log() + math.log(2 * math.pi)) / 2
    return masked_mean(density.mean(-1), mask)
