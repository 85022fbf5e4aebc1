"""Features of length one, whose products are cosines."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["unit_rows"]


def unit_rows(features: Tensor) -> Tensor:
    """Return features (..., D) divided by their lengths; zeros stay as they are.

    Dividing those by a tiny number, as `torch.nn.functional.normalize` does, would
    make their gradients 1e12 times too large.
    """
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / length.where(length > 0, 1.0)
