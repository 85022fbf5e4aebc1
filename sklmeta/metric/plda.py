r"""Probabilistic linear discriminant analysis: a prior over class means, from tasks.

Features of a row are those of its class plus noise, and classes are drawn as well
(section 2 of Ioffe 2006, in the notation of a linear mixed model):

.. math:: f = m_k + \varepsilon, \qquad m_k \sim N(m, B), \qquad
          \varepsilon \sim N(0, W).

The classes of the meta-training tasks show the mean :math:`m`, the covariance
:math:`B` between classes and :math:`W` within them. In a basis that makes W the unit
matrix and B diagonal, with entries :math:`\lambda`, a new class with :math:`n_k`
support rows of mean :math:`\bar z_k` has, dimension by dimension, the posterior mean
and the predictive variance

.. math:: \hat m_k = \frac{n_k \lambda}{1 + n_k \lambda} \bar z_k, \qquad
          v_k = 1 + \frac{\lambda}{1 + n_k \lambda}, \qquad (1)

and query rows are classified by the densities :math:`N(z; \hat m_k, v_k)`. Directions
in which classes do not differ have :math:`\lambda = 0` and say nothing; with few rows
means are drawn towards :math:`m`.

Deviations from the paper
-------------------------
- B and W are estimated by moments (analysis of variance), with directions of negative
  variance set to zero, instead of by maximum likelihood.
- W is shrunk towards a multiple of the unit matrix, so that features may be more than
  rows.
- All classes are equally likely before a query row is seen.

References
----------
Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006.
Prince and Elder, "Probabilistic Linear Discriminant Analysis for Inferences About
Identity", ICCV 2007.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from sklmeta._parameters import check_fraction
from sklmeta.engine.batches import Rows
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.engine.learner import State
from sklmeta.engine.pool import RowPool
from sklmeta.metric._fixed_backbone_classifier import (
    FixedBackboneClassifier,
    FixedBackboneParameters,
    with_fixed_backbone_parameters,
)

__all__ = ["PLDA", "PLDAClassifier"]

ROWS_PER_BLOCK = 512


@dataclass(frozen=True)
class _Prior:
    """What the classes of the meta-training tasks have in common.

    Attributes
    ----------
    mean : Tensor of shape (D,)
    basis : Tensor of shape (D, D)
        Makes the covariance within classes the unit matrix.
    spread : Tensor of shape (D,)
        Variances of class means in that basis.
    """

    mean: Tensor
    basis: Tensor
    spread: Tensor

    @classmethod
    def of_covariances(cls, mean: Tensor, within: Tensor, between: Tensor) -> _Prior:
        """Diagonalise both covariances (D, D) at once."""
        inverse = torch.linalg.inv(torch.linalg.cholesky(within))
        spread, turn = torch.linalg.eigh(inverse @ between @ inverse.mT)
        return cls(mean, inverse.mT @ turn, spread.clamp(min=0))


class PLDA(EmbeddingLearner):
    """Probabilistic linear discriminant analysis as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels), None for local labels.
    mean : Tensor of shape (n_features,)
        Of all classes.
    basis : Tensor of shape (n_features, n_features)
        Features less their mean, times this, have unit covariance within a class.
    spread : Tensor of shape (n_features,)
        Variances of class means in that basis.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.metric import PLDA
    >>> prior = torch.zeros(1), torch.eye(1), torch.ones(1)
    >>> learner = PLDA(torch.nn.Identity(), None, *prior)
    >>> x, y = torch.tensor([[[2.0], [-2.0]]]), torch.tensor([[0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 2).bool(), n_way=torch.tensor([2]))
    >>> learner.adapt(support)["means"].flatten()
    tensor([ 1., -1.])
    """

    mean: Tensor
    basis: Tensor
    spread: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        n_outputs: int | None,
        mean: Tensor,
        basis: Tensor,
        spread: Tensor,
    ) -> None:
        super().__init__("classification", backbone, n_outputs)
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)
        self.register_buffer("spread", spread)

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the posterior of each class mean, equation (1).

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "means" and "variances" (T, N, n_features) of new rows of each way, and
            "ways" (T, N), True where a way has support rows.
        """
        z = self._in_basis(features)
        member = self.members(support, z.dtype)  # (T, S, N)
        count = member.sum(1).unsqueeze(-1)  # (T, N, 1)
        total = member.mT @ z  # (T, N, n_features)
        shrinking = self.spread / (1 + count * self.spread)
        return {
            "means": shrinking * total,
            "variances": 1 + shrinking,
            "ways": count.squeeze(-1) > 0,
        }

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return logits: log densities of the ways, less what they share.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N)
            -inf for ways without support rows.
        """
        z = self._in_basis(features)
        logits = [
            -((z - mean.unsqueeze(1)).square() / variance.unsqueeze(1)).sum(-1)
            - variance.log().sum(-1, keepdim=True)
            for mean, variance in zip(
                state["means"].unbind(1), state["variances"].unbind(1), strict=True
            )
        ]
        joined = torch.stack(logits, -1) / 2  # (T, Q, N)
        return joined.masked_fill(~state["ways"].unsqueeze(1), -torch.inf)

    def _in_basis(self, features: Tensor) -> Tensor:
        return (features - self.mean) @ self.basis


@with_fixed_backbone_parameters
class PLDAClassifier(FixedBackboneClassifier):
    """Bayesian class means, with a prior that tasks have shown, on fixed features.

    Probabilistic linear discriminant analysis [1]_ [2]_ learns from many classes how
    class means are spread and how rows scatter about them; with a few rows of a new
    class the posterior of its mean follows exactly. Directions that do not tell classes
    apart lose their say, which nearest class means cannot know. `fit` trains nothing by
    gradients: one pass over the rows is all.

    Parameters
    ----------
    <fixed backbone>

    shrinkage : float, default=0.3
        Between 0 and 1: how far the covariance within classes is moved to a multiple of
        the unit matrix. More for fewer meta-training rows.

    <parameters of score>

    Attributes
    ----------
    <fixed attributes>

    See Also
    --------
    SimpleShotClassifier : Nearest class means on fixed features.
    ProtoNetClassifier : Trains its backbone for nearest class means.

    Notes
    -----
    C meta-training classes show at most C - 1 directions in which classes differ, and
    others are left out: with fewer classes than features, compare with nearest class
    means (`SimpleShotClassifier`). With shared labels a class of one task
    counts as another class in another task.

    References
    ----------
    .. [1] S. Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006.

    .. [2] S. J. D. Prince, J. H. Elder, "Probabilistic Linear Discriminant Analysis for
       Inferences About Identity", ICCV 2007.

    Examples
    --------
    >>> from sklmeta import PLDAClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = PLDAClassifier().fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """

    def __init__(
        self,
        backbone: Any = "identity",
        *,
        shrinkage: float = 0.3,
        **common: Unpack[FixedBackboneParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.shrinkage = shrinkage

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_fraction("shrinkage", self.shrinkage, boundaries="both")

    def _learned(
        self, backbone: nn.Module, n_outputs: int | None, pool: RowPool
    ) -> PLDA:
        prior = _prior(_features(backbone, pool), _classes(pool), self.shrinkage)
        return PLDA(
            backbone,
            n_outputs,
            *(part.float() for part in (prior.mean, prior.basis, prior.spread)),
        )


def _features(backbone: nn.Module, pool: RowPool) -> Tensor:
    """Return the features (R, D) of all rows of a pool, in double precision."""
    blocks = torch.arange(pool.n_rows).split(ROWS_PER_BLOCK)
    with torch.no_grad():
        return torch.cat([backbone(pool.take(block)).double() for block in blocks])


def _classes(pool: RowPool) -> Tensor:
    """Return the class of every row of a pool, numbered 0 .. C-1 over all tasks."""
    sizes = pool.offsets.diff()
    task = torch.arange(len(sizes)).repeat_interleave(sizes).to(pool.device)
    pairs = torch.stack([task, pool.y], 1)
    return pairs.unique(dim=0, return_inverse=True)[1]


def _prior(features: Tensor, classes: Tensor, shrinkage: float) -> _Prior:
    """Estimate the prior by moments, from features (R, D) and classes (R,)."""
    n_rows, n_features = features.shape
    count = classes.bincount().to(features)  # (C,)
    n_classes = len(count)
    if n_classes < 2 or n_rows == n_classes:
        raise ValueError(
            "PLDAClassifier learns how classes differ, and how rows of a class do: it "
            "needs two or more classes, and one with two or more rows; the "
            f"meta-training tasks have {n_rows} rows of {n_classes} classes."
        )
    sums = features.new_zeros(n_classes, n_features).index_add_(0, classes, features)
    means = sums / count.unsqueeze(1)
    residuals = features - means[classes]
    within = residuals.mT @ residuals / (n_rows - n_classes)
    mean = features.mean(0)
    scatter = (means - mean).mT @ (count.unsqueeze(1) * (means - mean))
    usual_count = n_rows - count.square().sum() / n_rows
    between = (scatter - (n_classes - 1) * within) / usual_count
    unit = torch.eye(n_features, dtype=features.dtype, device=features.device)
    level = within.diagonal().mean()
    within = (1 - shrinkage) * within + shrinkage * level * unit
    return _Prior.of_covariances(mean, _invertible(within, level), between)


def _invertible(within: Tensor, level: Tensor) -> Tensor:
    """Return the covariance with what rounding takes away from its diagonal."""
    if not torch.isfinite(within).all() or level <= 0:
        raise ValueError(
            "The features of the meta-training rows are not finite, or all rows of "
            "each class have the same: PLDAClassifier needs features that vary."
        )
    tiny = 1e-8 * level
    return within + tiny * torch.eye(len(within), dtype=within.dtype).to(within.device)
