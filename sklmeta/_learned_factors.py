"""Factors of parameters that meta-training learns, as logarithms: they stay positive.

A factor starts from 1, so that before meta-training the parameter is as it was given.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["log_factor", "times"]


def log_factor(wanted: bool) -> nn.Parameter | None:
    """Return the logarithm of a factor that starts from 1, None for no factor."""
    return nn.Parameter(torch.zeros(())) if wanted else None


def times(value: float, log_factor: Tensor | None) -> Tensor | float:
    """Return the value times its factor, as it is where there is none."""
    return value if log_factor is None else value * log_factor.exp()
