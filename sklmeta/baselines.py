"""Baselines under the contract of meta-learners, to see whether these are worth it.

Any scikit-learn estimator, fitted to the rows of all meta-training tasks as if they
were one (*pooled*), or to the support rows of each new task alone (*per task*). A
meta-learner that is not better than both has nothing to give on these data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.base import (
    BaseEstimator,
    clone,
    is_classifier,
    is_clusterer,
    is_outlier_detector,
    is_regressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags, check_random_state, get_tags

from sklmeta import _leakage
from sklmeta._adapted import AdaptedModel
from sklmeta._baseline_models import (
    ClassMeans,
    ClassOutputs,
    Constant,
    InnerClassifier,
    InnerRegressor,
    Title,
    class_means,
    explained,
    fresh,
)
from sklmeta._episodes import representative
from sklmeta._meta_tags import MetaTags
from sklmeta._parameters import filled_in, shown
from sklmeta._row_episodes import RowEpisode, scoring_spec, targets_of
from sklmeta._row_preparation import RowPreparation
from sklmeta._schema import Settings, task_names
from sklmeta._task_rows import whereabouts
from sklmeta.base import BaseMetaLearner, MetaClassifierMixin, MetaRegressorMixin
from sklmeta.tasks import ClassPool, TaskSet, as_tasks

__all__ = [
    "PerTaskClassifier",
    "PerTaskRegressor",
    "PooledClassifier",
    "PooledRegressor",
]

# Outputs of all rows are kept at once up to this many: 256 MB.
OUTPUTS_AT_ONCE = 2**25

BASELINE_PARAMETERS = """\
n_way : int, (int, int) or None, default=None
    Ways of the episodes of `score`, with local labels: a number, a range drawn per
    episode, or None for all classes of the task (5 for a `ClassPool`).

n_shot : int or (int, int), default=5
    Support rows of the episodes of `score`: per class with local labels, per task with
    shared labels and in regression.

support_order : {"random", "first"}, default="random"
    "first" takes the first `n_shot` rows of a task as support and only later rows as
    query, for data in time order.

small_tasks : {"shrink", "drop", "raise"}, default="shrink"
    What `score` does with tasks that have no query row left after `n_shot` support
    rows: use fewer support rows, leave the task out, or refuse.

random_state : int, RandomState instance or None, default=None
    Seed of every `random_state` of `estimator` that is None, drawn by `fit`. An int
    also seeds the episodes of `score`, as for every meta-learner.
"""

BASELINE_ATTRIBUTES = """\
n_features_in_ : int
    Number of features seen during `fit`.

feature_names_in_ : ndarray of shape (n_features_in_,)
    Names of the features; only if `X` had string column names.

adapted_ : few-shot estimator
    What the last `adapt` returned; `predict` uses it.
"""

_with_shared_docs = partial(
    filled_in,
    texts={
        "<baseline parameters>": BASELINE_PARAMETERS,
        "<baseline attributes>": BASELINE_ATTRIBUTES,
    },
)


class _Baseline(BaseMetaLearner):
    """What all baselines share: an inner estimator, and rows as they come."""

    _preparation: RowPreparation
    _seed: int

    def __init__(
        self,
        estimator: Any = None,
        *,
        n_way: Any = None,
        n_shot: Any = 5,
        support_order: str = "random",
        small_tasks: str = "shrink",
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.n_way = n_way
        self.n_shot = n_shot
        self.support_order = support_order
        self.small_tasks = small_tasks
        self.random_state = random_state

    def fit(
        self, X: Any, y: ArrayLike | None = None, *, groups: ArrayLike | None = None
    ) -> Self:
        """Learn from tasks what this baseline can learn from them.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form; rows of shape (n_samples, n_features) in long format. A
            TaskDistribution is sampled once, 200 tasks.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        TypeError
            If `estimator` is of another kind.
        ValueError
            If tasks or parameters are not usable, or `estimator` cannot be fitted; the
            message names the task.
        """
        self._check_parameters()
        state = check_random_state(self.random_state)
        sample_seed, seed = state.randint(np.iinfo(np.int32).max, size=2).tolist()
        tasks = representative(as_tasks(X, y, groups), sample_seed)
        settings = Settings(type(self).__name__, self._classifies)
        preparation = RowPreparation.learn(settings, tasks)
        scoring_spec(self, preparation)  # refuses wrong counts
        learned = self._learned(tasks, preparation, seed)
        # Who learns nothing from tasks can be scored on them.
        learns = self.__sklmeta_tags__().learns_from_tasks
        seen = _leakage.fingerprints(tasks) if learns else {}
        self._keep_learned(preparation, seen)
        self._seed = seed
        for name, value in learned.items():
            setattr(self, name, value)
        return self

    def _learned(
        self, tasks: TaskSet | ClassPool, preparation: RowPreparation, seed: int
    ) -> dict[str, Any]:
        """Return further fitted attributes."""
        return {}

    def _check_parameters(self) -> None:
        super()._check_parameters()
        name, given = type(self).__name__, self.estimator
        if given is None:
            return
        wanted = "classifier" if self._classifies else "regressor"
        if isinstance(given, type) or not hasattr(given, "predict"):
            raise TypeError(
                f"The estimator of a {name} must be a scikit-learn {wanted}, got "
                f"{shown(given)}."
            )
        if hasattr(given, "adapt"):
            raise TypeError(
                f"The estimator of a {name} learns from rows, and {shown(given)} from "
                "tasks: use it beside this baseline, not inside."
            )
        others = {
            "regressor" if self._classifies else "classifier": (
                is_regressor if self._classifies else is_classifier
            ),
            "clusterer": is_clusterer,
            "outlier detector": is_outlier_detector,
        }
        for other, is_other in others.items():
            if is_other(given):
                raise TypeError(
                    f"The estimator of a {name} must be a {wanted}, got the {other} "
                    f"{shown(given)}."
                )

    def _inner(self) -> Any:
        """Return the estimator that the parameters ask for."""
        if self.estimator is not None:
            return self.estimator
        if self._classifies:
            return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        return make_pipeline(StandardScaler(), Ridge())

    def _has_probabilities(self) -> bool:
        """Whether the inner estimator can give probabilities."""
        return hasattr(self._inner(), "predict_proba")

    def __sklearn_tags__(self) -> Tags:
        """Take from the inner estimator what rows it takes."""
        tags = super().__sklearn_tags__()
        inner = self._inner()
        if isinstance(inner, BaseEstimator):
            tags.input_tags = get_tags(inner).input_tags
        return tags


class _Pooled(_Baseline):
    """What both pooled baselines share: one model of all rows."""

    estimator_: Any
    _title: Title

    def __sklmeta_tags__(self) -> MetaTags:
        """Say where support rows matter."""
        tags = super().__sklmeta_tags__()
        tags.uses_support = ("local",)
        return tags

    def _learned(
        self, tasks: TaskSet | ClassPool, preparation: RowPreparation, seed: int
    ) -> dict[str, Any]:
        rows, names = tasks.rows(), task_names(tasks)
        y = self._pooled_targets(tasks, preparation)
        estimator = fresh(self._inner(), seed)
        unit = "classes" if isinstance(tasks, ClassPool) else "tasks"
        fitted_to = f"{len(rows.y)} rows of {len(tasks)} {unit}"
        title = Title(clone(self._inner()), fitted_to)
        where = partial(whereabouts, rows=rows, names=names)
        with explained(title, fitting=where):
            estimator.fit(preparation.task_rows(rows, names), y)
        gives = [
            n for n in ("decision_function", "predict_proba") if hasattr(estimator, n)
        ]
        if preparation.labels == "local" and not gives:
            raise TypeError(
                f"{shown(title.estimator)} gives neither decision values nor "
                "probabilities, and classes of new tasks are told apart by these. Use "
                "another estimator."
            )
        return {"estimator_": estimator, "_title": title}

    def _pooled_targets(
        self, tasks: TaskSet | ClassPool, preparation: RowPreparation
    ) -> NDArray[Any]:
        """Return what the inner estimator learns to predict."""
        if preparation.labels != "local":
            y = targets_of(preparation, tasks)
            return y[:, 0] if preparation.flat_y and y.ndim == 2 else y
        if isinstance(tasks, ClassPool):
            return np.repeat(np.arange(len(tasks)), tasks.rows().sizes)
        return preparation.coded_labels(tasks)  # (task, label) pairs, numbered

    def _adapted_model(
        self, X: Any, y: NDArray[Any], classes: NDArray[Any] | None
    ) -> AdaptedModel:
        if self._preparation.labels == "local":
            outputs_of = ClassOutputs(self.estimator_, self._title)
            return ClassMeans(outputs_of, outputs_of(X), y)
        model = self._pooled_model()
        model.predict(X)  # refuses what is no row
        return model

    def _pooled_model(self) -> InnerClassifier | InnerRegressor:
        """Return the model of every task, where labels mean the same in all."""
        preparation, title = self._preparation, self._title
        if not self._classifies:
            n_outputs = None if preparation.flat_y else preparation.n_outputs
            return InnerRegressor(self.estimator_, n_outputs, title)
        classes = preparation.classes
        assert classes is not None
        return InnerClassifier(self.estimator_, classes, classes, title)

    def _predict_episodes(
        self, X: Any, y: NDArray[Any], query_X: Any, episodes: Sequence[RowEpisode]
    ) -> Iterator[NDArray[Any]]:
        try:
            known = self._predicted_at_once(X, y, query_X, episodes)
        except (TypeError, ValueError):
            known = None  # one by one, to say which task it is
        if known is None:
            known = super()._predict_episodes(X, y, query_X, episodes)
        yield from known

    def _predicted_at_once(
        self, X: Any, y: NDArray[Any], query_X: Any, episodes: Sequence[RowEpisode]
    ) -> Iterator[NDArray[Any]] | None:
        """Return the predictions from one call for all rows; None if too many."""
        if self._preparation.labels == "local":
            n_outputs = len(getattr(self.estimator_, "classes_", ()))
            if n_outputs * (len(X) + len(query_X)) > OUTPUTS_AT_ONCE:
                return None
            outputs_of = ClassOutputs(self.estimator_, self._title)
            of_support = outputs = outputs_of(query_X)
            if X is not query_X:
                of_support = outputs_of(X)
            return _nearest_means(of_support, y, outputs, episodes)
        model = self._pooled_model()
        predictions = model.predict(query_X)
        if X is not query_X:
            model.predict(X)  # refuses what is no row
        if self._preparation.classes is not None:
            predictions = self._preparation.classes[predictions]
        return (predictions[episode.query] for episode in episodes)


class _PerTask(_Baseline):
    """What both per-task baselines share: a model of each task's support rows."""

    _adaptation_parameters = ("estimator",)

    def __sklmeta_tags__(self) -> MetaTags:
        """Say that other tasks teach nothing."""
        tags = super().__sklmeta_tags__()
        tags.learns_from_tasks = False
        return tags

    def _adapted_model(
        self, X: Any, y: NDArray[Any], classes: NDArray[Any] | None
    ) -> AdaptedModel:
        if classes is not None and len(np.unique(y)) == 1:
            return Constant(int(y[0]), len(classes))
        rows = "1 support row" if len(y) == 1 else f"{len(y)} support rows"
        title = Title(self._inner(), rows)
        preparation = self._preparation
        if classes is not None:
            y = classes[y]
        elif preparation.flat_y:
            y = y[:, 0]
        estimator = fresh(self._inner(), self._seed)
        with explained(title, fitting=lambda error: ""):
            estimator.fit(X, y)
        if classes is not None:
            return InnerClassifier(estimator, np.unique(y), classes, title)
        n_outputs = None if preparation.flat_y else preparation.n_outputs
        return InnerRegressor(estimator, n_outputs, title)


def _nearest_means(
    support: NDArray[np.float64],
    y: NDArray[Any],
    query: NDArray[np.float64],
    episodes: Sequence[RowEpisode],
) -> Iterator[NDArray[Any]]:
    """Predict each episode's query rows by the nearest of its classes' means."""
    for episode in episodes:
        classes, codes = np.unique(y[episode.support], return_inverse=True)
        means = class_means(support[episode.support], codes)
        distances = cdist(query[episode.query], means, "sqeuclidean")
        yield classes[distances.argmin(1)]


@_with_shared_docs
class PooledClassifier(MetaClassifierMixin, _Pooled):
    """One scikit-learn classifier fitted to the rows of all tasks: tasks are ignored.

    A baseline. With labels that mean the same in all tasks, `adapt` checks the support
    rows and otherwise ignores them. With labels that mean something only inside one
    task (a `ClassPool`, or tasks with ``labels="local"``), the classifier learns to
    tell all meta-training classes apart, and a new task's rows get the class whose
    support rows have the nearest mean among its outputs: decision values, else
    log-probabilities. Probabilities are then a softmax of negative squared distances.

    Parameters
    ----------
    estimator : classifier or None, default=None
        Any scikit-learn classifier or pipeline; it is cloned. Rows reach it in the
        container they came in, missing values included, images as rows of pixels in
        [0, 1]. None means logistic regression on scaled features, which takes long
        where hundreds of classes have labels of their own.

    <baseline parameters>

    Attributes
    ----------
    estimator_ : classifier
        The classifier fitted to all rows.

    <baseline attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    PerTaskClassifier : The other baseline: a classifier for each task's support rows.

    Examples
    --------
    >>> from sklmeta import PooledClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = PooledClassifier().fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """

    def _has_probabilities(self) -> bool:
        fitted = getattr(self, "_preparation", None)
        local = fitted is not None and fitted.labels == "local"
        return local or super()._has_probabilities()


@_with_shared_docs
class PooledRegressor(MetaRegressorMixin, _Pooled):
    """One scikit-learn regressor fitted to the rows of all tasks: tasks are ignored.

    A baseline: `adapt` checks the support rows and otherwise ignores them.

    Parameters
    ----------
    estimator : regressor or None, default=None
        Any scikit-learn regressor or pipeline; it is cloned. Rows reach it in the
        container they came in, missing values included, images as rows of pixels in
        [0, 1]. None means ridge regression on scaled features.

    <baseline parameters>

    Attributes
    ----------
    estimator_ : regressor
        The regressor fitted to all rows.

    <baseline attributes>

    See Also
    --------
    PerTaskRegressor : The other baseline: a regressor for each task's support rows.

    Examples
    --------
    >>> from sklearn.ensemble import HistGradientBoostingRegressor
    >>> from sklmeta import PooledRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> meta = PooledRegressor(HistGradientBoostingRegressor(max_iter=10))
    >>> meta = meta.fit(make_sinusoids(50, random_state=0))
    >>> meta.score(make_sinusoids(50, random_state=1)) < 0.2
    True
    """


@_with_shared_docs
class PerTaskClassifier(MetaClassifierMixin, _PerTask):
    """A scikit-learn classifier for the support rows of each task, and nothing else.

    A baseline: `fit` learns the names and the number of features and what labels mean;
    `adapt` fits a clone of `estimator` to the support rows. Where these are all of one
    class, that class is predicted.

    Parameters
    ----------
    estimator : classifier or None, default=None
        Any scikit-learn classifier or pipeline; it is cloned. Rows reach it in the
        container they came in, missing values included, images as rows of pixels in
        [0, 1]. None means logistic regression on scaled features. Read when adapting.

    <baseline parameters>

    Attributes
    ----------
    <baseline attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    PooledClassifier : The other baseline: one classifier for the rows of all tasks.

    Examples
    --------
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from sklmeta import PerTaskClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = PerTaskClassifier(KNeighborsClassifier(1)).fit(pool[:5])
    >>> meta.score(pool[5:]) > 0.8
    True
    """


@_with_shared_docs
class PerTaskRegressor(MetaRegressorMixin, _PerTask):
    """A scikit-learn regressor for the support rows of each task, and nothing else.

    A baseline: `fit` learns the names and the number of features and of targets;
    `adapt` fits a clone of `estimator` to the support rows.

    Parameters
    ----------
    estimator : regressor or None, default=None
        Any scikit-learn regressor or pipeline; it is cloned. Rows reach it in the
        container they came in, missing values included, images as rows of pixels in
        [0, 1]. None means ridge regression on scaled features. Read when adapting.

    <baseline parameters>

    Attributes
    ----------
    <baseline attributes>

    See Also
    --------
    PooledRegressor : The other baseline: one regressor for the rows of all tasks.

    Examples
    --------
    >>> from sklmeta import PerTaskRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(20, random_state=0)
    >>> meta = PerTaskRegressor().fit(tasks)
    >>> meta.adapt(tasks[0].X[:5], tasks[0].y[:5]).predict(tasks[0].X[5:8]).shape
    (3,)
    """
