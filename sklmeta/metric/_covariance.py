r"""Covariances of classes and of their task, and distances in their units.

.. math:: Q_k = \lambda_k \Sigma_k + (1 - \lambda_k) \Sigma + \beta I, \qquad
          \lambda_k = \frac{n_k}{n_k + 1}

shrinks the covariance :math:`\Sigma_k` of a class of :math:`n_k` rows towards that of
all support rows of the task, :math:`\Sigma` (equation 2 of [1]_): a class with one row
takes half of the task's, and :math:`\beta` makes all of them invertible. Covariances
are of double precision, where the device has it, and a :math:`\beta` below their
rounding errors counts as these: features may be of any scale.

References
----------
.. [1] P. Bateni et al., "Improved Few-Shot Visual Classification", CVPR 2020,
   arXiv:1912.03432.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sklmeta.engine.embedding import precise

__all__ = ["covariance_factors", "mahalanobis"]


def covariance_factors(
    features: Tensor, member: Tensor, prototypes: Tensor, floor: float
) -> Tensor:
    """Return the lower Cholesky factor of every class's shrunk covariance.

    Parameters
    ----------
    features : Tensor of shape (T, S, D)
    member : Tensor of shape (T, S, N)
        1 where a row is of a class, else 0; padded rows are of none.
    prototypes : Tensor of shape (T, N, D)
        Class means.
    floor : float
        What is added to the diagonal, beta.

    Returns
    -------
    Tensor of shape (T, N, D, D)
        NaN for classes whose features are not finite. In double precision, where the
        device has it.
    """
    features, member, prototypes = map(precise, (features, member, prototypes))
    real = member.sum(2, keepdim=True)  # (T, S, 1)
    mean = (real * features).sum(1, keepdim=True) / _at_least_one(real.sum(1)[:, None])
    of_task = _covariance(features - mean, real)  # (T, D, D)
    factors = []
    # Class by class: all deviations at once would take N times the support's memory.
    for own, center in zip(member.unbind(2), prototypes.unbind(1), strict=True):
        n_rows = own.sum(1)[:, None, None]
        share = n_rows / (n_rows + 1)  # lambda
        of_class = _covariance(features - center.unsqueeze(1), own.unsqueeze(2))
        shrunk = share * of_class + (1 - share) * of_task
        factors.append(_cholesky(shrunk, floor))
    return torch.stack(factors, 1)


def mahalanobis(features: Tensor, prototypes: Tensor, factors: Tensor) -> Tensor:
    """Return squared Mahalanobis distances (T, Q, N) to the prototypes.

    Parameters
    ----------
    features : Tensor of shape (T, Q, D)
    prototypes : Tensor of shape (T, N, D)
    factors : Tensor of shape (T, N, D, D)
        Lower Cholesky factors of the classes' covariances.
    """
    offsets = features.unsqueeze(1) - prototypes.unsqueeze(2)  # (T, N, Q, D)
    offsets = offsets.to(factors.dtype)
    white = torch.linalg.solve_triangular(factors, offsets.mT, upper=False)
    return white.square().sum(2).mT.to(features.dtype)


def _cholesky(matrices: Tensor, floor: float) -> Tensor:
    """Return lower factors; NaN where features are not finite, for callers to name."""
    n_features, eps = matrices.shape[-1], torch.finfo(matrices.dtype).eps
    trace = matrices.detach().diagonal(dim1=-2, dim2=-1).sum(-1)
    added = (n_features * eps * trace).clamp(min=floor).unsqueeze(-1)
    matrices = matrices + added.expand(matrices.shape[:-1]).diag_embed()
    factors, failed = torch.linalg.cholesky_ex(matrices)
    return factors.where(failed[..., None, None] == 0, torch.nan)


def _covariance(deviations: Tensor, weight: Tensor) -> Tensor:
    """Return covariances (T, D, D) of deviations (T, S, D) that weights (T, S, 1) pick.

    Divided by one less than the number of rows, and by one where there is one row.
    """
    deviations = weight * deviations
    n_rows = weight.sum(1, keepdim=True)
    return deviations.mT @ deviations / _at_least_one(n_rows - 1)


def _at_least_one(count: Tensor) -> Tensor:
    return count.clamp(min=1)
