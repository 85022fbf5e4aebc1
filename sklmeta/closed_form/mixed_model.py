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
- Noise is not estimated below 1e-4 of the targets' standard deviation, since without
  noise the likelihood has no maximum.
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
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from sklmeta import _leakage
from sklmeta._parameters import check_choice, check_not_negative, check_positive
from sklmeta._preparation import Preparation, Settings
from sklmeta._row_episodes import RowEpisode, scoring_spec
from sklmeta._schema import task_names
from sklmeta._task_rows import representative
from sklmeta.base import BaseMetaLearner, MetaProbabilisticRegressorMixin
from sklmeta.closed_form._coefficients import CoefficientPosterior, adapted
from sklmeta.closed_form._design import Design, random_columns
from sklmeta.closed_form._likelihood import (
    Fit,
    Likelihood,
    TaskSums,
    fit_better,
    fit_likelihood,
    posterior,
)
from sklmeta.tasks import ClassPool, TaskSet, as_tasks

__all__ = ["HierarchicalLinearRegressor"]

Array = NDArray[np.float64]

EPISODES_AT_ONCE = 1024


class HierarchicalLinearRegressor(MetaProbabilisticRegressorMixin, BaseMetaLearner):
    """Linear mixed model: linear regression whose coefficients differ between tasks.

    What tasks have in common, and how much they differ, is estimated from all of them
    by restricted maximum likelihood; a new task's coefficients are their posterior
    given its support rows, in closed form [1]_ [2]_. With no row known, that is the
    prior: ``adapt()``. Standard deviations are those of new targets, noise included.

    Parameters
    ----------
    random_effects : {"all", "intercept"} or list of str or int, default="all"
        Whose coefficients differ between tasks: those of all features, none, or those
        of the features listed by name or position. The intercept always differs.

    covariance : {"auto", "full", "diagonal"}, default="auto"
        Of the random coefficients between tasks. "diagonal" has fewer parameters:
        coefficients of the scaled features (with `normalize_x`) are independent. It is
        also used, after a warning, where there are fewer tasks than random
        coefficients. "auto" fits both and takes the better by Akaike's criterion.

    method : {"reml", "ml"}, default="reml"
        Restricted or ordinary maximum likelihood.

    alpha : float, default=0.0
        Ridge penalty on fixed effects of the (scaled) features, in units of the noise
        variance, as in `sklearn.linear_model.Ridge`. The intercept is not penalised.

    normalize_x : bool, default=True
        Scale features to mean 0 and standard deviation 1 over the meta-training tasks.
        With ``covariance="full"`` and no penalty, predictions do not depend on it.

    tol : float, default=1e-6
        When to stop: largest derivative of the deviance per task by relative changes of
        the covariance.

    n_way : None
        Not used: here for a common interface.

    n_shot : int or (int, int), default=5
        Support rows of the episodes of `score`.

    support_order : {"random", "first"}, default="random"
        "first" takes the first `n_shot` rows of a task as support and only later rows
        as query, for data in time order.

    small_tasks : {"shrink", "drop", "raise"}, default="shrink"
        What `score` does with tasks that have no query row left after `n_shot` support
        rows: use fewer support rows, leave the task out, or refuse.

    random_state : int, RandomState instance or None, default=None
        Seed of the sample of a TaskDistribution; an int also seeds the episodes of
        `score`. The estimates involve no chance.

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

    n_features_in_ : int
        Number of features seen during `fit`.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; only if `X` had string column names.

    adapted_ : few-shot estimator
        What the last `adapt` returned; `predict` uses it.

    See Also
    --------
    HierarchicalLogisticClassifier : The same for labels.
    PooledRegressor : With a linear model: the same coefficients for all tasks.
    PerTaskRegressor : With a linear model: coefficients from each task alone.

    Notes
    -----
    Several targets are as many models. A feature that is constant, or a linear function
    of those before it, gets no coefficient. One noise variance is shared by all tasks:
    where their targets have different units, scale them first.

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
    (array([5.9]), array([0.3]))
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
        check_choice("covariance", self.covariance, ("auto", "full", "diagonal"))
        check_choice("method", self.method, ("reml", "ml"))
        check_choice("normalize_x", self.normalize_x, (True, False))
        check_not_negative("alpha", self.alpha)
        check_positive("tol", self.tol)

    def fit(
        self, X: Any, y: ArrayLike | None = None, *, groups: ArrayLike | None = None
    ) -> Self:
        """Estimate what tasks have in common and how they differ.

        Parameters
        ----------
        X : TaskSet, TaskDistribution, list of tasks, or array-like
            Tasks in any form; rows of shape (n_samples, n_features) in long format. A
            TaskDistribution is sampled once, 200 tasks.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If tasks or parameters are not usable; the message names the task.
        """
        self._check_parameters()
        state = check_random_state(self.random_state)
        tasks = representative(as_tasks(X, y, groups), state.randint(2**31 - 1))
        settings = Settings(type(self).__name__, False, None, self.normalize_x)
        preparation = Preparation.learn(settings, tasks)
        scoring_spec(self, preparation)  # refuses wrong counts
        self._refuse_too_few(tasks, preparation)
        design, fits, modes = self._estimated(tasks, preparation)
        self._keep_learned(preparation, _leakage.fingerprints(tasks))
        self._design, self._fits = design, fits
        self._describe(design, fits, modes, task_names(tasks))
        return self

    def _refuse_too_few(
        self, tasks: TaskSet | ClassPool, preparation: Preparation
    ) -> None:
        name = type(self).__name__
        if len(preparation.row_shape) > 1:
            raise ValueError(
                f"{name} takes rows of a table, got images of shape "
                f"{preparation.row_shape}. Make features of them first."
            )
        if len(tasks) < 2:
            raise ValueError(
                f"{name} needs at least 2 tasks to see how they differ, got 1 task."
            )

    def _estimated(
        self, tasks: TaskSet | ClassPool, preparation: Preparation
    ) -> tuple[Design, tuple[Fit, ...], Array]:
        """Return the columns, the estimates, and the modes (n_outputs, T, q)."""
        rows, names = tasks.rows(), task_names(tasks)
        X = preparation.task_rows(rows, names)
        wanted = random_columns(self.random_effects, preparation)
        design = Design.learn(preparation, X, wanted, drop=self.alpha == 0)
        x, y = design.rows(X), design.scaled(preparation.target_columns(rows.y))
        penalty = np.full(x.shape[1], float(self.alpha))
        penalty[0] = 0.0
        covariance = self._usable_covariance(len(tasks), len(design.effects))
        fits, modes = [], []
        for output in range(y.shape[1]):
            sums = TaskSums.of_rows(x, y[:, output], rows.offsets, design.effects)
            likelihood = Likelihood(sums, self.method == "reml", penalty)
            self._refuse_no_freedom(likelihood)
            if covariance == "auto":
                fit = fit_better(likelihood, tol=self.tol)
            else:
                diagonal = covariance == "diagonal"
                fit = fit_likelihood(likelihood, diagonal=diagonal, tol=self.tol)
            fits.append(fit)
            gram = sums.cross[:, :, design.effects]
            moment = sums.cross @ np.append(-fit.beta, 1.0)
            modes.append(posterior(fit, gram, moment)[0])
        if not all(fit.converged for fit in fits):
            warnings.warn(
                f"{type(self).__name__} has not converged to tol={self.tol}. Raise "
                "tol, or use covariance='diagonal' or fewer random_effects.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return design, tuple(fits), np.stack(modes)

    def _usable_covariance(self, n_tasks: int, n_effects: int) -> str:
        """Return the kind of covariance; warn where tasks are too few for it."""
        if self.covariance == "diagonal" or n_tasks >= n_effects:
            return self.covariance
        warnings.warn(
            f"{n_tasks} tasks are fewer than the {n_effects} random coefficients, "
            "whose covariance is taken as diagonal. Choose fewer random_effects, or "
            "covariance='diagonal' to silence this warning.",
            UserWarning,
            stacklevel=4,
        )
        return "diagonal"

    def _refuse_no_freedom(self, likelihood: Likelihood) -> None:
        sums = likelihood.sums
        if not np.isfinite(sums.total).all():
            raise ValueError(
                "Input X contains numbers too large to add up their squares. Use "
                "normalize_x=True, or scale them down first."
            )
        n_fixed = sums.total.shape[0] - 1
        if likelihood.degrees < 1 or (self.alpha == 0 and sums.n_rows <= n_fixed):
            raise ValueError(
                f"{sums.n_rows} rows in all are too few for {n_fixed} fixed effects. "
                "Use alpha > 0, fewer features, or more tasks."
            )

    def _describe(
        self, design: Design, fits: tuple[Fit, ...], modes: Array, names: list[Any]
    ) -> None:
        """Set the fitted attributes, in the units of features and targets."""
        y_mean, y_scale = design.y_mean, design.y_scale
        beta = design.unscaled(np.stack([fit.beta for fit in fits])) * y_scale[:, None]
        noise = np.array([fit.noise_variance for fit in fits]) * y_scale**2
        unit = np.stack([design.unscaled_covariance(fit.factor) for fit in fits])
        values = {
            "intercept_": beta[:, 0] + y_mean,
            "coef_": beta[:, 1:],
            "covariance_": unit * noise[:, None, None],
            "noise_variance_": noise,
            "log_likelihood_": -0.5 * self._deviances(design, fits),
        }
        for name, value in values.items():
            setattr(self, name, value[0] if design.flat_y else value)
        effects = design.unscaled_effects(modes) * y_scale[:, None, None]
        columns: Any = design.effect_names(self._preparation)
        if not design.flat_y:
            outputs = range(len(fits))
            columns = pd.MultiIndex.from_product([outputs, columns])
        table = effects.transpose(1, 0, 2).reshape(len(names), -1)
        index = pd.Index(names, name="task", tupleize_cols=False)
        self.random_effects_ = pd.DataFrame(table, index=index, columns=columns)

    def _deviances(self, design: Design, fits: tuple[Fit, ...]) -> Array:
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
                yield design.targets(query[episode.query] @ own.T)
