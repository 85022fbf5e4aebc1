r"""Logistic mixed models: logistic regression whose coefficients differ between tasks.

Row :math:`i` of task :math:`t` belongs to class :math:`c` with probability

.. math:: p_{tic} \propto \exp\bigl(x_{ti}^\top \beta_c + z_{ti}^\top b_{tc}\bigr),
          \qquad b_{tc} \sim N(0, G_c), \qquad (1)

where two classes share one logit. Meta-training maximises Laplace's approximation of
the marginal likelihood, adapting is Laplace's approximation of the posterior, found by
Newton's method, and probabilities are averages over that posterior.

Deviations from the literature
------------------------------
- More than two classes have one set of random coefficients each, independent of one
  another, rather than contrasts with a class of reference, which would make its choice
  matter.
- Fixed effects are penalised as in ridge regression, so that classes which a feature
  separates in all tasks have finite coefficients.

References
----------
Breslow and Clayton, "Approximate inference in generalized linear mixed models", Journal
of the American Statistical Association 88(421), 1993.
MacKay, "The evidence framework applied to classification networks", Neural Computation
4(5), 1992.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import norm, qmc
from sklearn.exceptions import ConvergenceWarning

from sklmeta._meta_tags import MetaTags
from sklmeta._preparation import Preparation
from sklmeta._row_episodes import RowEpisode, naming
from sklmeta._schema import task_names
from sklmeta.base import MetaClassifierMixin
from sklmeta.closed_form._design import Design, random_columns
from sklmeta.closed_form._laplace import (
    Block,
    LogisticFit,
    NotFiniteError,
    blocks_of,
    fit_laplace,
    laplace_posterior,
)
from sklmeta.closed_form._mixed_estimator import (
    MixedModel,
    not_finite,
    with_mixed_model_parameters,
)
from sklmeta.fewshot import FewShotClassifier
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["HierarchicalLogisticClassifier"]

Array = NDArray[np.float64]

N_NODES = 40  # of the quadrature for two classes
LOG2_DRAWS = 7  # of logits for more, and as many mirrored
EPISODES_AT_ONCE = 256
LARGEST_STD = 20.0  # in logits, of what is estimated at all


@dataclass(frozen=True)
class LogisticPosterior:
    """The model of one task: a normal distribution of its coefficients.

    Attributes
    ----------
    design : Design
    mean : ndarray of shape (C, p)
        Of all coefficients; one set for two classes.
    half : ndarray of shape (C, q, Cq)
        The covariance of the random ones is the product of `half` with itself.
    """

    design: Design
    mean: Array
    half: Array

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return positions of classes (Q,)."""
        return self.predict_proba(X).argmax(1)

    def predict_proba(self, X: Any) -> Array:
        """Return probabilities (Q, K), averaged over the posterior."""
        return self.probabilities(self.design.rows(X))

    def probabilities(self, rows: Array) -> Array:
        """Return probabilities (Q, K) of rows that are columns of the model."""
        with np.errstate(all="ignore"):
            logits = rows @ self.mean.T  # (Q, C)
            spread = np.einsum("qi,cij->qcj", rows[:, self.design.effects], self.half)
            square = (spread**2).sum(2)
        if not (np.isfinite(logits).all() and np.isfinite(square).all()):
            name = HierarchicalLogisticClassifier.__name__
            raise not_finite(name, "Predicting rows far from those of", "X")
        if logits.shape[1] == 1:
            second = _averaged_sigmoid(logits[:, 0], np.sqrt(square[:, 0]))
            return np.column_stack([1 - second, second])
        return _averaged_softmax(logits, spread @ spread.swapaxes(1, 2))


def _averaged_sigmoid(mean: Array, std: Array) -> Array:
    """Return averages of the sigmoid over normal logits, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(N_NODES)
    return expit(mean[:, None] + std[:, None] * nodes) @ (weights / weights.sum())


def _averaged_softmax(mean: Array, covariance: Array) -> Array:
    """Return averages of the softmax over normal logits (Q, C), by fixed draws."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(min=0))[:, None] @ vectors.swapaxes(1, 2)
    draws = _normal_draws(mean.shape[1])
    total = np.zeros_like(mean)
    for draw in draws:
        total += softmax(mean + root @ draw, axis=1)
    return total / len(draws)


def _normal_draws(n: int) -> Array:
    """Return draws (D, n) of normal vectors that fill space evenly: always the same."""
    uniform = qmc.Sobol(n, scramble=False).random_base2(LOG2_DRAWS)
    normal = norm.ppf(uniform + 0.5 / 2**LOG2_DRAWS)
    return np.concatenate([normal, -normal])


@with_mixed_model_parameters
class HierarchicalLogisticClassifier(MetaClassifierMixin, MixedModel):
    """Logistic mixed model: logistic regression that differs between tasks.

    For labels that mean the same in all tasks. What tasks have in common, and how much
    their coefficients differ, is estimated from all of them by Laplace's approximation
    of the marginal likelihood [1]_; a new task's coefficients are their approximate
    posterior given its support rows. Probabilities are averages over that posterior
    [2]_, so that they are the less sure the less is known; classes without support rows
    keep what the prior says of them. With no row known, that is all there is:
    ``adapt()``.

    Parameters
    ----------
    <mixed model parameters>

    covariance : {"auto", "full", "diagonal"}, default="diagonal"
        Of the random coefficients between tasks. "diagonal" has fewer parameters:
        intercept and coefficients of the scaled features are independent, or, with
        ``normalize_x=False``, those of the features as they are given. It is also used,
        after a warning, where there are fewer tasks than random coefficients. "auto"
        fits both and takes the better by Akaike's criterion. Full covariances take
        several times as long to fit.

    alpha : float, default=1.0
        Ridge penalty on fixed effects of the (scaled) features, as ``1 / C`` in
        `sklearn.linear_model.LogisticRegression`. Intercepts are not penalised.

    normalize_x : bool, default=True
        Scale features to mean 0 and standard deviation 1 over the meta-training tasks,
        for the penalty and for diagonal covariances.

    tol : float, default=1e-5
        When to stop: largest derivative of the approximate log-likelihood per row.

    <parameters of score>

    Attributes
    ----------
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Mean intercepts of tasks. With two classes there is one logit, that of the
        second. This and the other estimates are in the units of the features.

    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Mean coefficients of tasks.

    covariance_ : ndarray of shape (1, n_random, n_random) or \
(n_classes, n_random, n_random)
        Covariances between tasks of the random coefficients, the intercept first.

    log_likelihood_ : float
        Laplace's approximation, less the penalty.

    <mixed model attributes>

    classes_ : ndarray of shape (n_classes,)
        The labels.

    See Also
    --------
    HierarchicalLinearRegressor : The same for numbers.
    PooledClassifier : With logistic regression: the same coefficients for all tasks.
    PLDAClassifier : For labels that mean something only inside one task.

    Notes
    -----
    With few rows of two classes per task, Laplace's approximation makes variances
    between tasks somewhat too small.

    References
    ----------
    .. [1] N. E. Breslow, D. G. Clayton, "Approximate inference in generalized linear
       mixed models", Journal of the American Statistical Association 88(421), 1993.
    .. [2] D. J. C. MacKay, "The evidence framework applied to classification networks",
       Neural Computation 4(5), 1992.

    Examples
    --------
    >>> import numpy as np
    >>> from sklmeta import HierarchicalLogisticClassifier, TaskSet
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 20, 1))
    >>> shift = rng.normal(0, 2, size=(60, 1))
    >>> y = X[..., 0] + shift + rng.logistic(size=(60, 20)) > 0
    >>> meta = HierarchicalLogisticClassifier().fit(TaskSet(list(zip(X, y))))
    >>> few, more = ([[0.0]], [True]), ([[0.0]] * 4, [True] * 4)
    >>> proba = [meta.adapt(*rows).predict_proba([[0.0]])[0, 1] for rows in (few, more)]
    >>> bool(proba[0] < proba[1])
    True
    """

    _preparation: Preparation
    _design: Design
    _fit: LogisticFit

    def __init__(
        self,
        *,
        random_effects: Any = "all",
        covariance: str = "diagonal",
        alpha: float = 1.0,
        normalize_x: bool = True,
        tol: float = 1e-5,
        n_way: Any = None,
        n_shot: Any = 5,
        support_order: str = "random",
        small_tasks: str = "shrink",
        random_state: Any = None,
    ) -> None:
        self.random_effects = random_effects
        self.covariance = covariance
        self.alpha = alpha
        self.normalize_x = normalize_x
        self.tol = tol
        self.n_way = n_way
        self.n_shot = n_shot
        self.support_order = support_order
        self.small_tasks = small_tasks
        self.random_state = random_state

    def __sklmeta_tags__(self) -> MetaTags:
        """Say that labels must mean the same in all tasks."""
        tags = super().__sklmeta_tags__()
        tags.labels = ("shared",)
        return tags

    def _estimated(
        self, tasks: TaskSet | ClassPool, preparation: Preparation
    ) -> dict[str, Any]:
        assert isinstance(tasks, TaskSet)
        rows, names = tasks.rows(), task_names(tasks)
        X = preparation.task_rows(rows, names)
        wanted = random_columns(self.random_effects, preparation)
        design = Design.learn(preparation, X, wanted, drop=self.alpha == 0)
        x, y = design.rows(X), preparation.coded_labels(tasks)
        penalty = torch.from_numpy(design.penalty(self.alpha, preparation))
        supports = np.split(np.arange(len(x)), rows.offsets[1:-1])
        n_sets = _n_sets(preparation)
        n_effects = len(design.effects)
        self._refuse_too_large(
            Block.n_bytes(supports, x.shape[1], n_effects, n_sets),
            len(tasks),
            n_effects,
        )
        blocks = [b for _, b in blocks_of(x, y, design.effects, supports, n_sets)]
        kind = self._usable_covariance(len(tasks), design, preparation)
        basis = design.basis(preparation)
        options: dict[str, Any] = {"tol": self.tol, "basis": basis}
        try:
            fits = [
                fit_laplace(blocks, n_sets, penalty, diagonal=diagonal, **options)
                for diagonal in (True, False)
                if kind in ("auto", "diagonal" if diagonal else "full")
            ]
        except NotFiniteError as error:
            name = type(self).__name__
            where = f"Task {names[error.task]!r}: meta-training"
            raise not_finite(name, where, "X") from error
        fit = min(fits, key=lambda one: one.deviance + 2 * one.n_parameters)
        self._warn_unless(fit.converged)
        _warn_of_endless(fit, design, preparation)
        beta = design.unscaled(fit.beta.numpy())
        is_diagonal = fit.n_parameters == n_sets * n_effects
        factor = fit.factor.numpy()
        covariance = design.unscaled_covariance(factor, basis if is_diagonal else None)
        return {
            "_design": design,
            "_fit": fit,
            "intercept_": beta[:, 0],
            "coef_": beta[:, 1:],
            "covariance_": covariance,
            "log_likelihood_": -0.5 * fit.deviance,
        }

    # Adapting --------------------------------------------------------------------

    def _adapted_model(
        self, X: Any, y: NDArray[Any], classes: NDArray[Any] | None
    ) -> LogisticPosterior:
        rows = self._design.rows(X)
        try:
            return self._adapted(rows, y, [np.arange(len(rows))])[0]
        except NotFiniteError as error:
            raise not_finite(
                type(self).__name__, "Adapting to these rows", "X"
            ) from error

    def _adapted_to_no_rows(self) -> FewShotClassifier:
        few_shot = FewShotClassifier(self._own_copy(), missing_classes="allow")
        meta = few_shot._fitted_meta()
        prior = few_shot._blank(meta)
        prior._model = self._prior_model()
        prior.classes_ = meta._preparation.classes
        return few_shot._take_over(prior)

    def _prior_model(self) -> LogisticPosterior:
        """Return the model of a task without support rows."""
        no_rows = np.zeros((0, len(self._design.columns)))
        no_codes = np.zeros(0, dtype=np.int64)
        (model,) = self._adapted(no_rows, no_codes, [np.arange(0)])
        return model

    def _adapted(
        self,
        rows: Array,
        codes: NDArray[np.int64],
        supports: Sequence[NDArray[np.int64]],
    ) -> list[LogisticPosterior]:
        """Return the model of each task, of which `supports` says the rows.

        Raises
        ------
        NotFiniteError
            With the position among `supports` of a task that has no posterior.
        """
        design, fit = self._design, self._fit
        models: list[Any] = [None] * len(supports)
        blocks = blocks_of(rows, codes, design.effects, supports, len(fit.beta))
        for tasks, block in blocks:
            modes, half = (part.numpy() for part in laplace_posterior(block, fit))
            for t, own, spread in zip(tasks, modes, half, strict=True):
                mean = fit.beta.numpy().copy()
                mean[:, design.effects] += own
                models[t] = LogisticPosterior(design, mean, spread)
        return models

    def _predict_episodes(
        self, X: Any, y: NDArray[Any], query_X: Any, episodes: Sequence[RowEpisode]
    ) -> Iterator[NDArray[Any]]:
        classes, codes = self._encoded(y)
        assert classes is not None
        rows = self._design.rows(X)
        query = rows if query_X is X else self._design.rows(query_X)
        for start in range(0, len(episodes), EPISODES_AT_ONCE):
            part = episodes[start : start + EPISODES_AT_ONCE]
            supports = [episode.support for episode in part]
            try:
                models = self._adapted(rows, codes, supports)
            except NotFiniteError as error:
                where = f"{part[error.task].name}: adapting to its support rows"
                raise not_finite(type(self).__name__, where, "X") from error
            for model, episode in zip(models, part, strict=True):
                with naming(episode):
                    codes_of = model.probabilities(query[episode.query]).argmax(1)
                yield classes[codes_of]


def _warn_of_endless(
    fit: LogisticFit, design: Design, preparation: Preparation
) -> None:
    """Warn of random coefficients that labels set no limit to."""
    std = fit.factor.square().sum(2).sqrt().amax(0).numpy()  # (q,)
    if not (std > LARGEST_STD).any():
        return
    names = design.effect_names(preparation)
    known = np.flatnonzero(np.isin(design.random, design.columns[design.effects]))
    which = [names[place] for place in known[std > LARGEST_STD]]
    warnings.warn(
        f"The random coefficients of {which} have a standard deviation of "
        f"{std.max():.0f} in logits, where nothing limits them: each task has one "
        "class only, or features separate the classes of each. Use tasks with rows of "
        "several classes, or fewer random_effects.",
        ConvergenceWarning,
        stacklevel=4,
    )


def _n_sets(preparation: Preparation) -> int:
    """Return how many logits there are: one for two classes."""
    assert preparation.classes is not None
    n_classes = len(preparation.classes)
    return 1 if n_classes == 2 else n_classes
