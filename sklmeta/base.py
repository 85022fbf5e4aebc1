"""The estimator contract: fit on tasks, adapt to a new one, predict its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklmeta import _leakage
from sklmeta._adapted import AdaptedModel
from sklmeta._episodes import representative, scoring_seed
from sklmeta._meta_tags import MetaTags
from sklmeta._parameters import same_value, shown
from sklmeta._pooling import take_rows
from sklmeta._row_episodes import (
    RowEpisode,
    as_support_tasks,
    check_queries,
    given_episodes,
    naming,
    query_rows,
    scored_episodes,
    targets_of,
)
from sklmeta._schema import TaskSchema, task_names
from sklmeta._scores import MeanAccuracy, PooledR2
from sklmeta.fewshot import FewShotClassifier, FewShotRegressor
from sklmeta.tasks import ClassPool, TaskSet, as_tasks

__all__ = [
    "BaseMetaLearner",
    "MetaClassifierMixin",
    "MetaProbabilisticRegressorMixin",
    "MetaRegressorMixin",
]

NO_PRIOR = (
    "adapt() was called without rows, and this {} has no prior for a task of which "
    "none is known. Call adapt(X_support, y_support) with some labelled rows of the "
    "task. Regressors with predictive densities, such as NeuralProcessRegressor, "
    "DeepKernelRegressor and HierarchicalLinearRegressor, have a prior, and so have, "
    "with labels that mean the same in all tasks, NeuralProcessClassifier, "
    "InContextClassifier, ABMLClassifier and ProbabilisticMAMLClassifier."
)


class BaseMetaLearner(BaseEstimator):
    """Base of all meta-learners: their verbs, whatever the algorithm.

    Subclasses add their parameters (`n_way`, `n_shot`, `support_order`, `small_tasks`
    and `random_state` among them), one of the two mixins, `fit`, which ends in
    `_keep_learned`, and `_adapted_model`. Torch learners that are trained by gradients
    derive from `EpisodicMetaLearner`, which has all but the torch module.
    """

    _classifies: ClassVar[bool]
    _gives_std: ClassVar[bool] = False
    n_features_in_: int
    _preparation: Any  # a TaskSchema
    _seen_tasks: dict[Any, bytes]
    _trained_with: dict[str, Any]

    # Parameters that act when adapting; all others only in meta-training.
    _adaptation_parameters: ClassVar[tuple[str, ...]] = ()
    # What to lower when meta-training or adapting diverges.
    _step_sizes: ClassVar[tuple[str, ...]] = ()
    # Changed freely after meta-training: they shape episodes, or are set by wrappers.
    _exempt_parameters: ClassVar[tuple[str, ...]] = (
        *("random_state", "verbose", "n_shot", "n_way"),
        *("support_order", "small_tasks"),
    )

    __metadata_request__fit: ClassVar[dict[str, Any]] = {"groups": True}
    __metadata_request__score: ClassVar[dict[str, Any]] = {"groups": True}

    # What subclasses say ---------------------------------------------------------

    def _check_parameters(self) -> None:
        """Raise TypeError or ValueError if a parameter is not usable."""

    def _adapted_model(
        self, X: Any, y: NDArray[Any], classes: NDArray[Any] | None
    ) -> AdaptedModel:
        """Return the model of one task: what `fit` has learned, adapted to rows.

        `X` holds rows as `_preparation` validates them; `y` holds positions in
        `classes`, or targets in a regressor, where `classes` is None.
        """
        raise NotImplementedError

    def _predict_episodes(
        self, X: Any, y: NDArray[Any], query_X: Any, episodes: Sequence[RowEpisode]
    ) -> Iterator[NDArray[Any]]:
        """Adapt to the support rows of each episode, and predict its query rows.

        Support rows lie in `X`, with their labels or targets in `y`, and query rows in
        `query_X`, which is `X` itself where tasks are scored.
        """
        for episode in episodes:
            with naming(episode):
                classes, own = self._encoded(y[episode.support])
                support = take_rows(X, episode.support)
                model = self._adapted_model(support, own, classes)
                predictions = model.predict(take_rows(query_X, episode.query))
            yield predictions if classes is None else classes[predictions]

    def _encoded(self, y: NDArray[Any]) -> tuple[NDArray[Any] | None, NDArray[Any]]:
        """Return the classes of a task and its labels as positions among them."""
        if not self._classifies:
            return None, y
        if self._label_kind == "local":
            return np.unique(y, return_inverse=True)
        classes = self._preparation.classes
        return classes, np.searchsorted(classes, y)

    def _predict_supports(
        self, tasks: TaskSet, query_Xs: Sequence[ArrayLike]
    ) -> list[NDArray[Any]]:
        """Adapt to every task and predict its query rows."""
        check_queries(tasks, query_Xs)
        X, y = self._rows_and_targets(tasks)
        queries = query_rows(self, query_Xs, tasks.names)
        query_X = self._preparation.task_rows(queries, list(tasks.names))
        episodes = given_episodes(tasks, queries)
        return list(self._predict_episodes(X, y, query_X, episodes))

    def _score_tasks(
        self, tasks: TaskSet | ClassPool, seed: int, total: MeanAccuracy | PooledR2
    ) -> None:
        """Adapt to an episode of every task and add up how query rows are predicted."""
        X, y = self._rows_and_targets(tasks)
        episodes = list(scored_episodes(self, tasks, seed))
        predictions = self._predict_episodes(X, y, X, episodes)
        for episode, predicted in zip(episodes, predictions, strict=True):
            total.add_task(predicted, y[episode.query])

    def _rows_and_targets(self, tasks: TaskSet | ClassPool) -> tuple[Any, NDArray[Any]]:
        """Return rows as `_adapted_model` takes them, and labels or targets."""
        self._refuse_changed_parameters()
        self._preparation.refuse_other_tasks(tasks)
        y = targets_of(self._preparation, tasks)
        return self._preparation.task_rows(tasks.rows(), task_names(tasks)), y

    def _has_probabilities(self) -> bool:
        """Whether a classifier has `predict_proba`."""
        return True

    def __sklmeta_tags__(self) -> MetaTags:
        """Return what this meta-learner promises, for `check_meta_learner`."""
        return MetaTags(gives_std=self._gives_std)

    # What is learned -------------------------------------------------------------

    @property
    def _label_kind(self) -> str | None:
        """What labels meant in meta-training: "local", "shared"; None of numbers."""
        return self._preparation.labels

    def _keep_learned(
        self, preparation: TaskSchema, seen: dict[Any, bytes], goes_on: bool = False
    ) -> None:
        """Set what every fitted meta-learner has; forget what was adapted before."""
        self.n_features_in_ = preparation.n_features_in
        for name, value in (
            ("feature_names_in_", preparation.feature_names),
            ("classes_", preparation.classes),
        ):
            if value is not None:
                setattr(self, name, value)
            elif hasattr(self, name):
                delattr(self, name)
        self._preparation = preparation
        # Estimators among the parameters can be changed later without being replaced.
        parameters = self.get_params(deep=False)
        self._trained_with = {n: _own(value) for n, value in parameters.items()}
        # What is scored is compared with it, to warn of leakage.
        self._seen_tasks = {**self._seen_tasks, **seen} if goes_on else seen
        self.__dict__.pop("adapted_", None)

    # Adapting and predicting -----------------------------------------------------

    def adapt(
        self,
        X_support: ArrayLike | None = None,
        y_support: ArrayLike | None = None,
    ) -> Any:
        """Adapt to a new task; without arguments, to one of which no row is known.

        Parameters
        ----------
        X_support : array-like of shape (n_support, n_features) or images, default=None
            Rows of the new task; only meta-learners with a prior go without.
        y_support : array-like of shape (n_support,) or (n_support, n_outputs), \
default=None
            Their labels or targets.

        Returns
        -------
        FewShotClassifier or FewShotRegressor
            A fitted estimator for this task, independent of what is done to this
            meta-learner later; also kept as `adapted_`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If there are no rows, and no prior.
        ValueError
            If the rows do not fit the meta-training tasks.
        """
        check_is_fitted(self)
        self._check_parameters()
        if X_support is None and y_support is None:
            self.adapted_ = self._adapted_to_no_rows()
        else:
            self.adapted_ = self._adapted_to(X_support, y_support)
        return self.adapted_

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict rows of the task that was adapted to last.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Rows of that task.

        Returns
        -------
        ndarray of shape (n_query,) or (n_query, n_outputs)
            Labels or numbers.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().predict(X)

    def predict_tasks(
        self, support_tasks: Any, query_Xs: Sequence[ArrayLike]
    ) -> list[NDArray[Any]]:
        """Adapt to many tasks and predict rows of each, together.

        Parameters
        ----------
        support_tasks : TaskSet or list of tasks
            Support rows of each task.
        query_Xs : list of array-like of shape (n_query, n_features) or images
            Query rows, one entry per task.

        Returns
        -------
        list of ndarray of shape (n_query,) or (n_query, n_outputs)
            The predictions for each entry of `query_Xs`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows do not fit the meta-training tasks; the message names the task.
        """
        check_is_fitted(self)
        self._check_parameters()
        tasks = as_support_tasks(support_tasks)
        self._preparation.check_width(self, tasks.rows())
        return self._predict_supports(tasks, query_Xs)

    def _adapted_to(self, X: Any, y: Any) -> Any:
        """Return the few-shot estimator of this meta-learner, fitted to rows."""
        raise NotImplementedError

    def _adapted_to_no_rows(self) -> Any:
        """Return the few-shot estimator of a task of which no row is known."""
        raise TypeError(NO_PRIOR.format(type(self).__name__))

    def _last_adapted(self) -> Any:
        check_is_fitted(self)
        if not hasattr(self, "adapted_"):
            raise NotFittedError(
                f"This {type(self).__name__} is not adapted to a task yet. Call "
                "adapt(X_support, y_support) with some labelled rows of the task "
                "first. To score it on many tasks, use score, evaluate, or in "
                "scikit-learn's searches scoring=make_episode_scorer(metric), which "
                "adapt to each task by themselves; to predict many, predict_tasks."
            )
        return self.adapted_

    def _own_copy(self) -> Self:
        """Return a copy that shares the immutable weights and owns its parameters."""
        own = object.__new__(type(self))
        own.__dict__.update(self.__dict__)
        own.__dict__.pop("adapted_", None)
        for name, value in self.get_params(deep=False).items():
            setattr(own, name, _own(value))
        return own

    def _refuse_changed_parameters(self) -> None:
        """Refuse meta-training parameters that changed since meta-training."""
        free = {*self._adaptation_parameters, *self._exempt_parameters}
        names = [name for name in self.get_params(deep=False) if name not in free]
        self._refuse_changes_of(names, "in meta-training only")

    def _refuse_changes_of(self, names: Sequence[str], when: str) -> None:
        for name in names:
            if name not in self._trained_with:
                continue  # not a parameter of this learner
            now, before = getattr(self, name), self._trained_with[name]
            if same_value(now, before):
                continue
            raise ValueError(
                f"{name}={shown(now)} acts {when}, and this {type(self).__name__} was "
                f"meta-trained with {name}={shown(before)}. Set it back, or meta-train "
                "anew with fit on tasks (where a search over tasks can tune it)."
            )

    # Judging ---------------------------------------------------------------------

    def score(
        self,
        X: Any,
        y: ArrayLike | None = None,
        sample_weight: None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> float:
        """Adapt to support rows of each task and score the predictions of the rest.

        Support rows are drawn by the estimator's `n_shot`, `n_way`, `support_order` and
        `small_tasks`, seeded by `random_state` (0 unless an int) and the task's name.
        A ClassPool gives 200 fixed episodes, a TaskDistribution 200 tasks.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        sample_weight : None
            Refused: tasks weigh the same.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.

        Returns
        -------
        float
            Classifiers: accuracy, mean over tasks. Regressors: 1 - SSE / sum of
            squares about each task's own query mean, pooled over tasks.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If tasks are not usable; the message names the task.
        """
        check_is_fitted(self)
        self._check_parameters()
        if sample_weight is not None:
            raise ValueError(
                "sample_weight is not supported: score weighs all tasks the same. Use "
                "sample_weight=None."
            )
        tasks = as_tasks(X, y, groups)
        seed = scoring_seed(self.random_state)
        tasks = representative(tasks, seed)
        self._preparation.check_width(self, tasks.rows())
        total = self._new_score()
        self._score_tasks(tasks, seed, total)
        value = total.value()
        _leakage.warn_of_seen(tasks, self._seen_tasks, stacklevel=2)
        return value

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_preparation")


class MetaClassifierMixin(ClassifierMixin):
    """What classifiers add to `BaseMetaLearner`."""

    _classifies = True
    score = BaseMetaLearner.score  # ClassifierMixin has its own, on rows

    @available_if(lambda meta: meta._has_probabilities())
    def predict_proba(self: Any, X: ArrayLike) -> NDArray[np.float64]:
        """Predict class probabilities for the task that was adapted to last.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Rows of that task.

        Returns
        -------
        ndarray of shape (n_query, n_classes)
            Columns in the order of ``adapted_.classes_``.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().predict_proba(X)

    def _adapted_to(self: Any, X: Any, y: Any) -> FewShotClassifier:
        few_shot = FewShotClassifier(self._own_copy(), missing_classes="allow")
        return few_shot._fit(X, y, takes_ranks=False)

    def _adapted_to_no_rows(self: Any) -> FewShotClassifier:
        if not hasattr(self, "_prior_model"):
            return super()._adapted_to_no_rows()
        few_shot = FewShotClassifier(self._own_copy(), missing_classes="allow")
        return few_shot._of_prior()

    def _new_score(self) -> MeanAccuracy:
        return MeanAccuracy()


class MetaRegressorMixin(RegressorMixin):
    """What regressors add to `BaseMetaLearner`."""

    _classifies = False
    score = BaseMetaLearner.score  # RegressorMixin has its own, on rows

    def _adapted_to(self: Any, X: Any, y: Any) -> FewShotRegressor:
        return FewShotRegressor(self._own_copy()).fit(X, y)

    def _new_score(self) -> PooledR2:
        return PooledR2()


class MetaProbabilisticRegressorMixin(MetaRegressorMixin):
    """What regressors with predictive densities add to `BaseMetaLearner`.

    Subclasses have `_prior_model`, and what `_adapted_model` returns has `predict_std`
    and `sample`, as `AdaptedModel` says.
    """

    _gives_std = True

    def _prior_model(self) -> AdaptedModel:
        """Return the model of a task without support rows."""
        raise NotImplementedError

    def _episode_moments(
        self: Any,
        X: Any,
        y: NDArray[Any],
        query_X: Any,
        episodes: Sequence[RowEpisode],
    ) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Yield targets and deviations, as `_predict_episodes` does targets."""
        for episode in episodes:
            with naming(episode):
                support = take_rows(X, episode.support)
                model = self._adapted_model(support, y[episode.support], None)
                yield model.predict_std(take_rows(query_X, episode.query))

    def _adapted_to_no_rows(self: Any) -> FewShotRegressor:
        return FewShotRegressor(self._own_copy())._of_prior()

    def predict(self: Any, X: ArrayLike, return_std: bool = False) -> Any:
        """Predict rows of the task that was adapted to last.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Rows of that task.
        return_std : bool, default=False
            Whether to return standard deviations too.

        Returns
        -------
        y_mean : ndarray of shape (n_query,) or (n_query, n_outputs)
            The predictions, in the units of the targets.
        y_std : ndarray of shape (n_query,) or (n_query, n_outputs)
            Standard deviations of the targets about them, in the same units. Only with
            ``return_std=True``.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().predict(X, return_std)

    def sample_y(
        self: Any,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: Any = 0,
        noise: bool = True,
    ) -> NDArray[np.float64]:
        """Draw targets of rows of the task that was adapted to last, jointly.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Rows of that task.
        n_samples : int, default=1
            Number of draws.
        random_state : int, RandomState instance or None, default=0
            Seed of the draws.
        noise : bool, default=True
            Whether draws are of targets, with the noise of each row; else of the
            function behind them.

        Returns
        -------
        ndarray of shape (n_query, n_samples) or (n_query, n_outputs, n_samples)
            One draw for all rows in each entry of the last axis.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().sample_y(X, n_samples, random_state, noise)


def _own(value: Any) -> Any:
    """Return a copy of a parameter that is an estimator, other values as they are.

    So are meta-learners, which a copy by `clone` would empty.
    """
    if isinstance(value, BaseMetaLearner):
        return value
    nested = hasattr(value, "get_params") and not isinstance(value, type)
    return clone(value) if nested else value
