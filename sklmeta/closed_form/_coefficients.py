"""Normal distributions of the coefficients of new tasks, of linear mixed models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from sklmeta.closed_form._design import Design
from sklmeta.closed_form._likelihood import Fit, posterior
from sklmeta.closed_form._mixed_estimator import not_finite

__all__ = ["CoefficientPosterior", "adapted", "finite"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CoefficientPosterior:
    """The model of one task: normal distributions of its coefficients.

    Attributes
    ----------
    design : Design
    mean : ndarray of shape (n_outputs, p)
        Of all coefficients, the random ones among them.
    half : ndarray of shape (n_outputs, q, q)
        The covariance of the random coefficients is ``half @ half.T``.
    noise_variance : ndarray of shape (n_outputs,)
    """

    design: Design
    mean: Array
    half: Array
    noise_variance: Array

    def coefficients(self) -> tuple[Any, Array, Array]:
        """Return intercept, coefficients and covariance of the random ones.

        In the units of features and targets, of shapes (n_outputs,), (n_outputs, F) and
        (n_outputs, n_random, n_random); without the first axis for flat targets.
        """
        design = self.design
        scale = design.y_scale[:, None]
        mean = design.unscaled(self.mean) * scale
        covariance = design.unscaled_covariance(self.half) * (scale**2)[..., None]
        parts = mean[:, 0] + design.y_mean, mean[:, 1:], covariance
        return tuple(part[0] for part in parts) if design.flat_y else parts

    def predict(self, X: Any) -> Array:
        """Return targets (Q,) or (Q, n_outputs)."""
        with np.errstate(all="ignore"):
            return finite(self.design.targets(self.design.rows(X) @ self.mean.T))

    def predict_std(self, X: Any) -> tuple[Array, Array]:
        """Return means and standard deviations of targets, noise included."""
        with np.errstate(all="ignore"):
            rows = self.design.rows(X)
            spread = rows[:, self.design.effects] @ self.half  # (n_outputs, Q, q)
            variance = (spread**2).sum(-1).T + self.noise_variance
            mean = self.design.targets(rows @ self.mean.T)
            return finite(mean), finite(self.design.spreads(np.sqrt(variance)))

    def sample(self, X: Any, n_samples: int, random_state: Any, noise: bool) -> Array:
        """Return joint draws (n_samples, Q, n_outputs)."""
        state = check_random_state(random_state)
        n_outputs, q = self.half.shape[:2]
        normal = state.normal(size=(n_samples, n_outputs, q, 1))
        with np.errstate(all="ignore"):
            rows = self.design.rows(X)
            effects = (self.half @ normal)[..., 0]  # (n_samples, n_outputs, q)
            drawn = rows @ self.mean.T + rows[
                :, self.design.effects
            ] @ effects.swapaxes(1, 2)
            if noise:
                drawn += state.normal(size=drawn.shape) * np.sqrt(self.noise_variance)
            return finite(drawn * self.design.y_scale + self.design.y_mean)


def finite(outputs: Array) -> Array:
    """Return predictions as they are.

    Raises
    ------
    MetaTrainingError
        If one is not finite.
    """
    if np.isfinite(outputs).all():
        return outputs
    where = "Adapting to the support rows, or predicting rows far from them,"
    raise not_finite("HierarchicalLinearRegressor", where, "X and y")


def adapted(
    design: Design,
    fits: Sequence[Fit],
    rows: Array,
    y: Array,
    supports: Sequence[NDArray[np.int64]],
) -> tuple[Array, Array]:
    """Return the posterior of each task's coefficients, given its support rows.

    Parameters
    ----------
    design : Design
    fits : sequence of Fit
        One for each output.
    rows : ndarray of shape (R, p)
        Columns of rows.
    y : ndarray of shape (R, n_outputs)
        Targets, in their own units.
    supports : sequence of ndarray of int
        Which rows are each task's.

    Returns
    -------
    mean : ndarray of shape (T, n_outputs, p)
    half : ndarray of shape (T, n_outputs, q, q)

    Both are NaN for tasks whose sums of squares are not finite.
    """
    q = len(design.effects)
    z = rows[:, design.effects]
    betas = np.stack([fit.beta for fit in fits])
    with np.errstate(all="ignore"):
        residuals = design.scaled(y) - rows @ betas.T
    grams = np.empty((len(supports), q, q))
    moments = np.empty((len(supports), q, len(fits)))
    for t, support in enumerate(supports):
        own = z[support].T
        with np.errstate(all="ignore"):
            grams[t], moments[t] = own @ own.T, own @ residuals[support]
    spoilt = ~(np.isfinite(grams).all((1, 2)) & np.isfinite(moments).all((1, 2)))
    grams[spoilt], moments[spoilt] = 0.0, np.nan
    mean = np.tile(betas, (len(supports), 1, 1))
    half = np.empty((len(supports), len(fits), q, q))
    for k, fit in enumerate(fits):
        with np.errstate(all="ignore"):
            modes, half[:, k] = posterior(fit, grams, moments[:, :, k])
        mean[:, k, design.effects] += modes
    half[spoilt] = np.nan
    return mean, half
