r"""Gaussian-process regression of many tasks at once, by Cholesky factors.

With the covariance :math:`K` of the rows of a task, the variance :math:`\sigma^2` of
their noise and targets :math:`y` about the prior mean, all follows from the factor of
:math:`C = K + \sigma^2 I` (Rasmussen and Williams, "Gaussian Processes for Machine
Learning", 2006, algorithm 2.1). Padded rows get a 1 on the diagonal of :math:`C`,
zeros beside it and the target 0, and count for nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sklmeta.closed_form._kernels import Kernel
from sklmeta.engine.byte_counts import free_bytes, shown_bytes

__all__ = ["covariance", "factored", "log_density", "refuse_too_large"]

# Added to the diagonal, as shares of its mean, where a matrix is not positive definite.
JITTERS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)
SMALLEST_SIZE = 1e-100  # of such a mean

# Matrices below this size are never what memory is too small for.
ALWAYS_FITS = 2**28


def covariance(kernel: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """Return the covariance of targets (T, S, S), without padded rows.

    Parameters
    ----------
    kernel : Tensor of shape (T, S, S)
        Covariances of the function.
    noise : Tensor of shape ()
        Variance.
    mask : Tensor of shape (T, S)
    """
    real = mask.unsqueeze(-1) & mask.unsqueeze(-2)
    own = torch.where(mask, noise, 1.0)
    return torch.where(real, kernel, 0.0) + torch.diag_embed(own.to(kernel.dtype))


def factored(matrix: Tensor) -> Tensor:
    """Return lower Cholesky factors (T, S, S), NaN where there is none.

    A matrix that rounding has made indefinite is tried again with more and more on its
    diagonal, up to a share of 1e-4 of its mean.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    if not info.any():
        return factor
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    size = matrix.detach().diagonal(dim1=-2, dim2=-1).mean(-1)
    size = size.abs().clamp(min=SMALLEST_SIZE)
    for share in JITTERS:
        jitter = torch.where(info > 0, share * size, 0.0)
        shifted = matrix + jitter[:, None, None] * identity
        factor, again = torch.linalg.cholesky_ex(shifted)
        if not (again > 0).any():
            return factor
        # Those that have a factor keep their jitter: the others get more.
        matrix = torch.where((again > 0)[:, None, None], matrix, shifted)
        info = again
    return torch.where((info > 0)[:, None, None], torch.nan, factor)


def log_density(
    factor: Tensor, y: Tensor, mask: Tensor, n_outputs: Tensor | None = None
) -> Tensor:
    r"""Return the log density of each task's targets, a mean over rows and outputs.

    .. math:: \log p(y) = -\tfrac12 y^\top C^{-1} y - \tfrac12 \log |C|
              - \tfrac n2 \log 2 \pi.

    Parameters
    ----------
    factor : Tensor of shape (T, S, S)
        Of the covariance C.
    y : Tensor of shape (T, S, n_outputs)
        About the prior mean, 0 in padded rows.
    mask : Tensor of shape (T, S)
    n_outputs : Tensor of shape (T,), default=None
        How many outputs there are; others are 0. None: all.

    Returns
    -------
    Tensor of shape (T,)
    """
    white = torch.linalg.solve_triangular(factor, y, upper=False)
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # half of it
    n_rows = mask.sum(-1).to(y.dtype)
    n_targets = y.shape[-1] if n_outputs is None else n_outputs.clamp(min=1)
    quadratic = 0.5 * white.square().sum((1, 2)) / n_targets
    total = quadratic + log_det + 0.5 * math.log(2 * math.pi) * n_rows
    return -total / n_rows.clamp(min=1)


def refuse_too_large(learner: Any, z: Tensor, what: str) -> None:
    """Refuse rows (T, S, D) whose covariance does not fit the memory there is.

    Raises
    ------
    ValueError
        With the size of the matrix.
    """
    n_tasks, n_rows = z.shape[:2]
    one = n_rows**2 * z.element_size()
    if n_tasks * one < ALWAYS_FITS:
        return
    budget = learner.budget
    limited = budget is not None and budget.limit is not None
    most = budget.limit if limited else free_bytes(z.device)
    copies = getattr(learner.kernel, "n_copies", Kernel.n_copies)
    if most is None or copies * n_tasks * one <= most:
        return
    tasks = "" if n_tasks == 1 else f", of each of {n_tasks} tasks"
    raise ValueError(
        f"The kernel matrix of {n_rows:,} {what} takes {shown_bytes(one)}{tasks}, and "
        f"{copies} matrices of that size are needed; "
        f"{'memory_limit' if limited else 'free memory'} is {shown_bytes(most)}. Give "
        "fewer rows of a task (a random part of them, or means of rows that are "
        "alike), or take BayesianLinearNetRegressor, whose memory does not grow with "
        "the square of the rows."
    )
