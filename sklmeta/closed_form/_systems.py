"""Linear systems of many tasks at once."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ridge_weights"]


def ridge_weights(z: Tensor, y: Tensor, alpha: Tensor | float) -> Tensor:
    r"""Minimise :math:`\lVert Y - ZW \rVert^2 + \alpha \lVert W \rVert^2` task by task.

    Of both forms of the solution, the one with the smaller system is taken:

    .. math:: W = (Z^\top Z + \alpha I)^{-1} Z^\top Y
                = Z^\top (Z Z^\top + \alpha I)^{-1} Y.

    Parameters
    ----------
    z : Tensor of shape (T, S, D)
        Rows of zeros count for nothing.
    y : Tensor of shape (T, S, n_outputs)
        Targets, 0 in such rows.
    alpha : Tensor of shape () or float
        The penalty.

    Returns
    -------
    Tensor of shape (T, D, n_outputs)
        The weights.
    """
    n_rows, n_features = z.shape[1:]
    if n_rows <= n_features:
        return z.mT @ _solved(z @ z.mT, y, alpha)
    return _solved(z.mT @ z, z.mT @ y, alpha)


def _solved(gram: Tensor, right: Tensor, alpha: Tensor | float) -> Tensor:
    """Return (G + alpha I)^-1 B for Gram matrices G (T, n, n) and B (T, n, m)."""
    n = gram.shape[-1]
    trace = gram.detach().diagonal(dim1=-2, dim2=-1).sum(-1)
    # A sum of squares is known up to such an error; below it there is no factor.
    penalty = (n * torch.finfo(gram.dtype).eps * trace).clamp(min=alpha)
    identity = torch.eye(n, dtype=gram.dtype, device=gram.device)
    # What is not finite stays so, and is refused where models and losses are.
    factor, _ = torch.linalg.cholesky_ex(gram + penalty[:, None, None] * identity)
    return torch.cholesky_solve(right, factor)
