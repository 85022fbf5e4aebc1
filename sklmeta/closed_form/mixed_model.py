r"""Linear mixed models: linear regression whose coefficients differ between tasks.

Row :math:`i` of task :math:`t` has

.. math:: y_{ti} = x_{ti}^\top \beta + z_{ti}^\top b_t + \varepsilon_{ti}, \qquad
          b_t \sim N(0, G), \quad \varepsilon_{ti} \sim N(0, \sigma^2), \qquad (1)

where :math:`x` holds an intercept and the features, and :math:`z` those of them whose
coefficients are random. Meta-training estimates :math:`\beta`, :math:`G` and
:math:`\sigma^2` by restricted or by maximum likelihood, and adapting to a new task is
the posterior given these,

.. math:: b \mid y \sim N\bigl(\Sigma Z^\top (y - X\beta) / \sigma^2,\; \Sigma\bigr),
          \qquad \Sigma = (G^{-1} + Z^\top Z / \sigma^2)^{-1}. \qquad (2)

Deviations from the literature
------------------------------
- Fixed effects can be penalised as in ridge regression, which is a normal prior of them
  in units of the noise; restricted likelihood then integrates over that prior.
- Noise is not estimated below 1e-4 of the targets' standard deviation in tasks, since
  without noise the likelihood has no maximum.
- That the estimates are uncertain themselves is left out of (2), as is usual.

References
----------
Laird and Ware, "Random-effects models for longitudinal data", Biometrics 38(4), 1982.
Bates, Mächler, Bolker and Walker, "Fitting linear mixed-effects models using lme4",
Journal of Statistical Software 67(1), 2015, arXiv:1406.5823.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sklmeta._parameters import check_choice
from sklmeta._preparation import Preparation
from sklmeta._row_episodes import RowEpisode, naming
from sklmeta._schema import task_names
from sklmeta.base import MetaProbabilisticRegressorMixin
from sklmeta.closed_form._coefficients import CoefficientPosterior, adapted, finite
from sklmeta.closed_form._design import CONSTANT, Design, random_columns
from sklmeta.closed_form._likelihood import (
    Fit,
    Likelihood,
    TaskSums,
    fit_better,
    fit_likelihood,
    posterior,
)
from sklmeta.closed_form._mixed_estimator import (
    MixedModel,
    with_mixed_model_parameters,
)
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["HierarchicalLinearRegressor"]

Array = NDArray[np.float64]

EPISODES_AT_ONCE = 1024
# Targets of one task that spread this much more than others' are in other units.
OTHER_UNITS = 1000.0
LEAST_TARGET = 1e-140


@with_mixed_model_parameters
class HierarchicalLinearRegressor(MetaProbabilisticRegressorMixin, MixedModel):
    """Linear mixed model: linear regression whose coefficients differ between tasks.

    What tasks have in common, and how much they differ, is estimated from all of them
    by restricted maximum likelihood; a new task's coefficients are their posterior
    given its support rows, in closed form [1]_ [2]_. With no row known, that is the
    prior: ``adapt()``. Standard deviations are those of new targets, noise included.

    Parameters
    ----------
    <mixed model parameters>

    covariance : {"auto", "full", "diagonal"}, default="auto"
        Of the random coefficients between tasks. "diagonal" has fewer parameters:
        intercept and coefficients of the scaled features are independent, or, with
        ``normalize_x=False``, those of the features as they are given. It is also used,
        after a warning, where there are fewer tasks than random coefficients. "auto"
        fits both and takes the better by Akaike's criterion.

    method : {"reml", "ml"}, default="reml"
        Restricted or ordinary maximum likelihood.

    alpha : float, default=0.0
        Ridge penalty on fixed effects of the (scaled) features, in units of the noise
        variance, as in `sklearn.linear_model.Ridge`. The intercept is not penalised.

    normalize_x : bool, default=True
        Scale features to mean 0 and standard deviation 1 over the meta-training tasks,
        for the penalty and for diagonal covariances. With ``covariance="full"`` and no
        penalty, predictions do not depend on it.

    tol : float, default=1e-6
        When to stop: largest derivative of the deviance per task by relative changes of
        the covariance.

    <parameters of score>

    Attributes
    ----------
    intercept_ : float or ndarray of shape (n_outputs,)
        Mean intercept of tasks. This and all other estimates are in the units of the
        features and of the targets.

    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
        Mean coefficients of tasks.

    covariance_ : ndarray of shape (n_random, n_random) or \
(n_outputs, n_random, n_random)
        Covariance between tasks of the random coefficients, the intercept first.

    noise_variance_ : float or ndarray of shape (n_outputs,)
        Variance of targets about their task's line.

    log_likelihood_ : float or ndarray of shape (n_outputs,)
        Restricted with ``method="reml"``; minus twice it is what lme4 prints as the
        REML criterion, or as the deviance.

    random_effects_ : DataFrame of shape (n_tasks, n_random)
        Conditional modes: by how much each meta-training task's coefficients differ
        from their means. With several targets, columns are pairs of output and effect.

    <mixed model attributes>

    See Also
    --------
    HierarchicalLogisticClassifier : The same for labels.
    PooledRegressor : With a linear model: the same coefficients for all tasks.
    PerTaskRegressor : With a linear model: coefficients from each task alone.

    Notes
    -----
    Several targets are as many models. A feature that is constant, or a linear function
    of those before it, gets no coefficient. One noise variance is shared by all tasks:
    where their targets have different units, scale them first (`fit` warns of targets
    that spread over 1000 times as much as those of other tasks).

    References
    ----------
    .. [1] N. M. Laird, J. H. Ware, "Random-effects models for longitudinal data",
       Biometrics 38(4), 1982.
    .. [2] D. Bates, M. Mächler, B. Bolker, S. Walker, "Fitting linear mixed-effects
       models using lme4", Journal of Statistical Software 67(1), 2015,
       arXiv:1406.5823.

    Examples
    --------
    >>> import numpy as np
    >>> from sklmeta import HierarchicalLinearRegressor, TaskSet
    >>> rng = np.random.default_rng(0)
    >>> slopes = rng.normal(2.0, 0.5, size=50)
    >>> X = rng.normal(size=(50, 10, 1))
    >>> y = slopes[:, None] * X[..., 0] + 0.1 * rng.normal(size=(50, 10))
    >>> meta = HierarchicalLinearRegressor().fit(TaskSet(list(zip(X, y))))
    >>> mean, std = meta.adapt([[1.0]], [3.0]).predict([[2.0]], return_std=True)
    >>> mean.round(1), std.round(1)
    (array([5.9]), array([0.2]))
    """

    _preparation: Preparation
    _design: Design
    _fits: tuple[Fit, ...]

    def __init__(
        self,
        *,
        random_effects: Any = "all",
        covariance: str = "auto",
        method: str = "reml",
        alpha: float = 0.0,
        normalize_x: bool = True,
        tol: float = 1e-6,
        n_way: Any = None,
        n_shot: Any = 5,
        support_order: str = "random",
        small_tasks: str = "shrink",
        random_state: Any = None,
    ) -> None:
        self.random_effects = random_effects
        self.covariance = covariance
        self.method = method
        self.alpha = alpha
        self.normalize_x = normalize_x
        self.tol = tol
        self.n_way = n_way
        self.n_shot = n_shot
        self.support_order = support_order
        self.small_tasks = small_tasks
        self.random_state = random_state

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("method", self.method, ("reml", "ml"))

    def _estimated(
        self, tasks: TaskSet | ClassPool, preparation: Preparation
    ) -> dict[str, Any]:
        rows, names = tasks.rows(), task_names(tasks)
        X = preparation.task_rows(rows, names)
        wanted = random_columns(self.random_effects, preparation)
        design = Design.learn(preparation, X, wanted, drop=self.alpha == 0)
        targets = preparation.target_columns(rows.y)
        _refuse_tiny(targets)
        design = design.scaled_within(targets, rows.offsets)
        x, y = design.rows(X), design.scaled(targets)
        self._refuse_no_freedom(len(x), x.shape[1], X.shape[1])
        levels = np.abs(design.y_mean / design.y_scale)
        _warn_of_other_units(y, levels, rows.offsets, names)
        penalty = design.penalty(self.alpha, preparation)
        n_effects = len(design.effects)
        self._refuse_too_large(
            TaskSums.n_bytes(len(tasks), x.shape[1], n_effects), len(tasks), n_effects
        )
        covariance = self._usable_covariance(len(tasks), design, preparation)
        basis = design.basis(preparation)
        fits, modes = [], []
        for output in range(y.shape[1]):
            sums = TaskSums.of_rows(x, y[:, output], rows.offsets, design.effects)
            likelihood = Likelihood(sums, self.method == "reml", penalty)
            if covariance == "auto":
                fit = fit_better(likelihood, tol=self.tol, basis=basis)
            else:
                diagonal = covariance == "diagonal"
                fit = fit_likelihood(
                    likelihood, diagonal=diagonal, tol=self.tol, basis=basis
                )
            fits.append(fit)
            gram = sums.cross[:, :, design.effects]
            moment = sums.cross @ np.append(-fit.beta, 1.0)
            modes.append(posterior(fit, gram, moment)[0])
        self._warn_unless(all(fit.converged for fit in fits))
        described = self._described(design, fits, np.stack(modes), preparation, names)
        return {"_design": design, "_fits": tuple(fits), **described}

    def _refuse_no_freedom(self, n_rows: int, n_columns: int, n_features: int) -> None:
        """Refuse no more rows than columns; of features, some are left out of these."""
        if n_rows <= (n_columns if self.alpha == 0 else 1):
            raise ValueError(
                f"{n_rows} rows in all are too few for {n_features + 1} fixed effects, "
                f"those of the intercept and of {n_features} features. Use alpha > 0, "
                "fewer features, or more tasks."
            )

    def _described(
        self,
        design: Design,
        fits: Sequence[Fit],
        modes: Array,
        preparation: Preparation,
        names: list[Any],
    ) -> dict[str, Any]:
        """Return the fitted attributes, in the units of features and targets.

        `modes` are those of the meta-training tasks, (n_outputs, T, q).
        """
        y_mean, y_scale = design.y_mean, design.y_scale
        beta = design.unscaled(np.stack([fit.beta for fit in fits])) * y_scale[:, None]
        noise = np.array([fit.noise_variance for fit in fits]) * y_scale**2
        basis = design.basis(preparation)
        unit = np.stack(
            [
                design.unscaled_covariance(
                    fit.factor, basis if fit.n_parameters == len(basis) else None
                )
                for fit in fits
            ]
        )
        values: dict[str, Any] = {
            "intercept_": beta[:, 0] + y_mean,
            "coef_": beta[:, 1:],
            "covariance_": unit * noise[:, None, None],
            "noise_variance_": noise,
            "log_likelihood_": -0.5 * self._deviances(design, fits),
        }
        if design.flat_y:
            values = {name: value[0] for name, value in values.items()}
        effects = design.unscaled_effects(modes) * y_scale[:, None, None]
        columns: Any = design.effect_names(preparation)
        if not design.flat_y:
            outputs = range(len(fits))
            columns = pd.MultiIndex.from_product([outputs, columns])
        table = effects.transpose(1, 0, 2).reshape(len(names), -1)
        index = pd.Index(names, name="task", tupleize_cols=False)
        values["random_effects_"] = pd.DataFrame(table, index=index, columns=columns)
        return values

    def _deviances(self, design: Design, fits: Sequence[Fit]) -> Array:
        """Return deviances in the units of features and targets."""
        scaled = np.array([fit.deviance for fit in fits])
        degrees = np.array([fit.degrees for fit in fits])
        scaled += 2 * degrees * np.log(design.y_scale)
        if self.method == "reml" and self.alpha == 0:
            scaled += 2 * design.log_volume
        return scaled

    # Adapting --------------------------------------------------------------------

    def _adapted_model(
        self, X: Any, y: NDArray[Any], classes: NDArray[Any] | None
    ) -> CoefficientPosterior:
        rows = self._design.rows(X)
        support = [np.arange(len(rows))]
        mean, half = adapted(self._design, self._fits, rows, y, support)
        finite(mean)
        noise = np.array([fit.noise_variance for fit in self._fits])
        return CoefficientPosterior(self._design, mean[0], half[0], noise)

    def _prior_model(self) -> CoefficientPosterior:
        design = self._design
        no_rows, no_targets = np.zeros((0, len(design.columns))), design.y_mean[None]
        mean, half = adapted(
            design, self._fits, no_rows, no_targets[:0], [np.arange(0)]
        )
        noise = np.array([fit.noise_variance for fit in self._fits])
        return CoefficientPosterior(design, mean[0], half[0], noise)

    def _predict_episodes(
        self, X: Any, y: NDArray[Any], query_X: Any, episodes: Sequence[RowEpisode]
    ) -> Iterator[NDArray[Any]]:
        design = self._design
        rows = design.rows(X)
        query = rows if query_X is X else design.rows(query_X)
        for start in range(0, len(episodes), EPISODES_AT_ONCE):
            part = episodes[start : start + EPISODES_AT_ONCE]
            supports = [episode.support for episode in part]
            mean, _ = adapted(design, self._fits, rows, y, supports)
            for episode, own in zip(part, mean, strict=True):
                with naming(episode), np.errstate(all="ignore"):
                    predicted = finite(design.targets(query[episode.query] @ own.T))
                yield predicted


def _refuse_tiny(y: Array) -> None:
    """Refuse targets whose squares are too small for floating-point numbers."""
    for largest in np.abs(y).max(0):
        if 0 < largest < LEAST_TARGET:
            raise ValueError(
                f"The largest target is {largest:.0e}, and squares of such numbers are "
                "too small for floating-point numbers. Scale y up first, for all tasks "
                "by the same factor."
            )


def _warn_of_other_units(
    y: Array, levels: Array, offsets: NDArray[np.int64], names: Sequence[Any]
) -> None:
    """Warn of a task whose targets (N, n_outputs) spread far more than others'.

    Before they were centred, they were about `levels`.
    """
    sizes = np.diff(offsets)
    means = np.add.reduceat(y, offsets[:-1]) / sizes[:, None]
    squares = np.add.reduceat((y - np.repeat(means, sizes, axis=0)) ** 2, offsets[:-1])
    spreads = np.sqrt(squares / sizes[:, None])
    rounding = CONSTANT * (np.abs(y).max(0) + levels)
    for own, least in zip(spreads.T, rounding, strict=True):
        known = own[(sizes > 1) & (own > least)]
        if known.size == 0:
            continue
        usual = np.quantile(known, 0.25, method="lower")
        if own.max() > OTHER_UNITS * usual:
            warnings.warn(
                f"Targets of task {names[own.argmax()]!r} spread "
                f"{own.max() / usual:.0e} times as much as those of other tasks, but "
                "one noise variance is shared by all. Scale the targets of each task "
                "first, if their units differ.",
                UserWarning,
                stacklevel=4,
            )
            return
