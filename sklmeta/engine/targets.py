r"""Putting a task's targets on the scale of its own support rows.

Five rows say little about a task's level and spread, so both are shrunk to what the
meta-training tasks have in common. With support targets :math:`y_1, \dots, y_n`,
variances :math:`\sigma_w^2` within and :math:`\sigma_b^2` between the meta-training
tasks and grand mean :math:`\mu`, the level is its best linear unbiased prediction

.. math:: m = \mu + \frac{n}{n + \sigma_w^2 / \sigma_b^2} (\bar y - \mu),

and the spread the posterior scale under :math:`\nu` prior observations of
:math:`\sigma_w^2`:

.. math:: s^2 = \frac{\nu \sigma_w^2 + \sum_i (y_i - \bar y)^2}{\nu + n - 1}.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sklmeta.engine.batches import Episodes, Rows

__all__ = ["TaskTargets"]

PRIOR_ROWS = 5.0


@dataclass(frozen=True)
class TaskTargets:
    """Level and spread of targets, learned from the meta-training tasks.

    Attributes
    ----------
    mean : tuple of float
        Grand mean of each output.
    within, between : tuple of float
        Variance of each output inside tasks, and of the tasks' means.
    """

    mean: tuple[float, ...]
    within: tuple[float, ...]
    between: tuple[float, ...]

    @classmethod
    def learn(cls, y: NDArray[np.float64], offsets: NDArray[np.int64]) -> TaskTargets:
        """Estimate the three from targets (R, n_outputs) of tasks at `offsets`."""
        counts = np.diff(offsets)
        means = np.add.reduceat(y, offsets[:-1], axis=0) / counts[:, None]
        residual = y - np.repeat(means, counts, axis=0)
        freedom = max(len(y) - len(counts), 1)
        within = np.maximum((residual**2).sum(0) / freedom, 1e-12)
        between = means.var(0) - within * (1 / counts).mean()
        between = np.maximum(between, 1e-12 * within)
        return cls(tuple(means.mean(0)), tuple(within), tuple(between))

    def scale(self, support: Rows) -> tuple[Tensor, Tensor]:
        """Return level and spread of each task, both (T, 1, n_outputs)."""
        y, real = support.y, support.mask.unsqueeze(-1)
        within, between = y.new_tensor(self.within), y.new_tensor(self.between)
        grand_mean = y.new_tensor(self.mean)
        n = real.sum(1, keepdim=True)  # (T, 1, 1)
        own = (y * real).sum(1, keepdim=True) / n.clamp(min=1)
        level = grand_mean + n / (n + within / between) * (own - grand_mean)
        squares = ((y - own).square() * real).sum(1, keepdim=True)
        freedom = PRIOR_ROWS + (n - 1).clamp(min=0)
        return level, ((PRIOR_ROWS * within + squares) / freedom).sqrt()

    def standardise_support(self, support: Rows) -> Rows:
        """Return support rows whose targets are in units of themselves."""
        level, spread = self.scale(support)
        return replace(support, y=(support.y - level) / spread)

    def standardise(self, episodes: Episodes) -> Episodes:
        """Return episodes whose targets are in units of their own support rows."""
        level, spread = self.scale(episodes.support)
        support = replace(episodes.support, y=(episodes.support.y - level) / spread)
        query = replace(episodes.query, y=(episodes.query.y - level) / spread)
        return Episodes(support, query)
