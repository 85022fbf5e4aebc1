"""A temperature that meta-training learns."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Temperature"]


class Temperature(nn.Module):
    r"""A positive scalar :math:`\tau = e^\theta`, with :math:`\theta` learned.

    Parameters
    ----------
    start : float
        Its value before meta-training, positive.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.log_value = nn.Parameter(torch.tensor(math.log(start)))

    def forward(self) -> Tensor:
        """Return the temperature, a scalar."""
        return self.log_value.exp()
