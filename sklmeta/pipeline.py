"""Pipelines that end in a meta-learner: row transformers before it, its verbs kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar, Self

from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.metaestimators import available_if

from sklmeta import _leakage
from sklmeta._few_shot import rows_of_one_task
from sklmeta._fitted_transformers import unnamed
from sklmeta._learning_steps import LearningSteps
from sklmeta._pipeline_steps import check_steps, refuse_without
from sklmeta._row_episodes import as_support_tasks
from sklmeta._task_transformer import TaskTransformer
from sklmeta.base import BaseMetaLearner
from sklmeta.model_selection._episode_tasks import (
    episode_tasks,
    episodes_of_tasks,
    scored_episodes,
)
from sklmeta.model_selection._predictions import episode_predictions
from sklmeta.tasks import as_tasks

__all__ = ["MetaPipeline", "TaskTransformer", "make_meta_pipeline"]


# Of transformers with `per_task`: each episode's rows are then transformed anew.
EPISODES_AT_ONCE = 256


class MetaPipeline(LearningSteps):
    """Chain of row transformers that ends in a meta-learner.

    Fits on tasks in any form, as the meta-learner does: every transformer is fitted on
    the rows of the meta-training tasks only. `adapt` gives an ordinary fitted
    pipeline for one new task.

    Parameters
    ----------
    steps : list of (str, estimator) tuples
        Names and estimators: transformers of rows (scikit-learn's, or a
        `TaskTransformer`, or "passthrough"), then a meta-learner.
    memory : str or object with the joblib.Memory interface, default=None
        Where fitted transformers are cached, as in scikit-learn's Pipeline.
    verbose : bool, default=False
        Whether to print the time that fitting each step took.

    Attributes
    ----------
    adapted_ : Pipeline
        What the last `adapt` returned.
    classes_ : ndarray of shape (n_classes,)
        The shared labels of the meta-training tasks, if they have any.
    n_features_in_ : int
        Number of features before the first step.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if the meta-training tasks had any.

    See Also
    --------
    make_meta_pipeline : Names the steps by itself.
    TaskTransformer : A row transformer on tasks.

    Notes
    -----
    `fit` works on clones and then puts the fitted ones in place of the steps, as
    scikit-learn's Pipeline does when it caches: what was given stays unfitted. Of a
    TaskDistribution, the transformers see 200 tasks. Tasks held out by
    ``early_stopping=True`` are held out of the meta-learner's training, not of the
    transformers'; `validation_tasks` are held out of both.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklmeta import MAMLRegressor, make_meta_pipeline
    >>> from sklmeta.datasets import make_sinusoids
    >>> waves = make_sinusoids(60, random_state=0)
    >>> meta = MAMLRegressor(max_iter=20, random_state=0)
    >>> pipe = make_meta_pipeline(StandardScaler(), meta).fit(waves[:50])
    >>> new = waves[50]
    >>> model = pipe.adapt(new.X[:5], new.y[:5])
    >>> model.predict(new.X[5:]).shape
    (15,)
    """

    adapted_: Pipeline

    __metadata_request__fit: ClassVar[dict[str, Any]] = {"groups": True}
    __metadata_request__partial_fit: ClassVar[dict[str, Any]] = {"groups": True}
    __metadata_request__score: ClassVar[dict[str, Any]] = {"groups": True}

    # Meta-training ---------------------------------------------------------------

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        validation_tasks: Any = None,
    ) -> Self:
        """Fit the transformers on the rows of tasks, and meta-train on the result.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form; rows of shape (n_samples, n_features) in long format.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.
        validation_tasks : tasks in any form, default=None
            Held-out tasks for early stopping, transformed as the others; no
            transformer is fitted on them unless it is with `per_task`.

        Returns
        -------
        self : object
            The fitted pipeline.

        Raises
        ------
        TypeError
            If the steps are not transformers and a meta-learner.
        ValueError
            If tasks or parameters are not usable; the message names the task.
        MetaTrainingError
            If the meta-loss stops being finite. What was learned before is kept.
        """
        check_steps(self.steps)
        fitted, moved = self._fit_transformers(as_tasks(X, y, groups))
        options = {}
        if validation_tasks is not None:
            refuse_without(self._last, "validation_tasks")
            held_out = fitted.transform_training(as_tasks(validation_tasks))
            options["validation_tasks"] = held_out
        return self._train("fit", fitted, moved, **options)

    @available_if(lambda self: hasattr(self._last, "partial_fit"))
    def partial_fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Meta-train for one pass over the given tasks, going on from the last call.

        The transformers are fitted by the first call, and stay as they are.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form, as in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.
        classes : array-like of shape (n_classes,), default=None
            All shared labels that later calls can hold; read on the first call.

        Returns
        -------
        self : object
            The fitted pipeline.

        Raises
        ------
        ValueError
            If tasks or parameters are not usable; the message names the task.
        MetaTrainingError
            If the meta-loss stops being finite. What was learned before is kept.
        """
        check_steps(self.steps)
        tasks = as_tasks(X, y, groups)
        if not hasattr(self, "_fitted"):
            fitted, moved = self._fit_transformers(tasks)
        else:
            self._refuse_changes()
            seen = {**self._fitted.seen, **_leakage.fingerprints(tasks)}
            fitted = replace(self._fitted, seen=seen)
            moved = fitted.transform_training(tasks)
        return self._train("partial_fit", fitted, moved, classes=classes)

    # Adapting and predicting -----------------------------------------------------

    def adapt(
        self,
        X_support: ArrayLike | None = None,
        y_support: ArrayLike | None = None,
    ) -> Pipeline:
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
        Pipeline
            A fitted pipeline of scikit-learn's for this task, with the same names of
            steps; the last is a FewShotClassifier or FewShotRegressor. Independent of
            what is done to this one later; also kept as `adapted_`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If tasks are given instead of rows; or no rows, where the meta-learner has
            no prior or a transformer is fitted to each task.
        ValueError
            If the rows do not fit the meta-training tasks.
        """
        if X_support is None and y_support is None:
            self.adapted_ = self._adapted_to_no_rows()
        else:
            self.adapted_ = self._adapted_to(X_support, y_support)
        return self.adapted_

    _last_adapted = BaseMetaLearner._last_adapted

    def predict(self, X: ArrayLike, **params: Any) -> Any:
        """Predict rows of the task that was adapted to last.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Rows of that task.
        **params : dict
            For the last step, such as ``return_std=True`` with predictive densities.

        Returns
        -------
        ndarray of shape (n_query,) or (n_query, n_outputs)
            Labels or numbers; what the last step returns.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        TypeError
            If tasks are given instead of rows.
        """
        return self._last_adapted().predict(rows_of_one_task(X), **params)

    @available_if(lambda self: hasattr(self._last, "predict_proba"))
    def predict_proba(self, X: ArrayLike) -> NDArray[Any]:
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
        TypeError
            If tasks are given instead of rows.
        """
        return self._last_adapted().predict_proba(rows_of_one_task(X))

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
        self._check_ready()
        tasks = as_support_tasks(support_tasks)
        supports, queries = self._fitted.support_and_query(tasks, query_Xs)
        return self._last.predict_tasks(supports, queries)

    def _adapted_to(self, X: Any, y: Any) -> Pipeline:
        """Return the fitted pipeline for rows of one task; nothing is kept."""
        self._check_ready()
        steps, X = self._fitted.adapted_to(rows_of_one_task(X), y)
        few_shot = self._last._own_copy().adapt(X, y)
        return Pipeline([*steps, (self.steps[-1][0], few_shot)])

    def _adapted_to_no_rows(self) -> Pipeline:
        """Return the fitted pipeline of a task of which no row is known."""
        self._check_ready()
        few_shot = self._last._own_copy().adapt()
        steps: list[tuple[str, Any]] = []
        for name, step in self._fitted.steps:
            if step is not None and step.per_task:
                raise TypeError(
                    f"adapt() was called without rows, and step {name!r} of this "
                    f"{type(self).__name__} has per_task=True: it is fitted to the "
                    "support rows of a task. Call adapt(X_support, y_support), or use "
                    "per_task=False."
                )
            # A copy, since `set_output` reaches what is frozen.
            own = "passthrough" if step is None else FrozenEstimator(deepcopy(step))
            steps.append((name, own))
        return Pipeline([*steps, (self.steps[-1][0], few_shot)])

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

        The same episodes as the meta-learner's own `score`.

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
        self._check_ready()
        tasks, last = as_tasks(X, y, groups), self._last
        judged = tasks
        if self._fitted.per_task:
            judged = episode_tasks(scored_episodes(last, tasks))
            last = last._own_copy().set_params(n_way=None, n_shot=1)
        moved = unnamed(self._fitted.transform(judged))
        value = last.score(moved, sample_weight=sample_weight)
        _leakage.warn_of_seen(tasks, self._fitted.seen, stacklevel=2)
        return value

    def _episode_predictions(self, drawn: Any, response: str) -> Iterator[Any]:
        """Yield the predictions for drawn episodes; for sklmeta's judges."""
        self._check_ready()
        _leakage.warn_of_seen(drawn.tasks, self._fitted.seen, stacklevel=4)
        if not self._fitted.per_task:
            moved = drawn.with_tasks(unnamed(self._fitted.transform(drawn.tasks)))
            yield from episode_predictions(self._last, moved, response)
            return
        for start in range(0, len(drawn), EPISODES_AT_ONCE):
            part = drawn[start : start + EPISODES_AT_ONCE]
            tasks = unnamed(self._fitted.transform(episode_tasks(part)))
            own = episodes_of_tasks(part, tasks)
            yield from episode_predictions(self._last, own, response)

    def get_metadata_routing(self) -> Any:
        """Return which metadata are asked for: `groups`, by the pipeline itself.

        Returns
        -------
        MetadataRequest
            Requests `groups` in `fit` and `score`. Nothing is routed to the steps.
        """
        return BaseEstimator.get_metadata_routing(self)


def make_meta_pipeline(
    *steps: Any, memory: Any = None, verbose: bool = False
) -> MetaPipeline:
    """Chain row transformers and a meta-learner, named after their types.

    Parameters
    ----------
    *steps : estimators
        Transformers of rows, then a meta-learner.
    memory : str or object with the joblib.Memory interface, default=None
        Where fitted transformers are cached.
    verbose : bool, default=False
        Whether to print the time that fitting each step took.

    Returns
    -------
    MetaPipeline
        Unfitted.

    See Also
    --------
    MetaPipeline : With names of one's own.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklmeta import MAMLRegressor, make_meta_pipeline
    >>> pipe = make_meta_pipeline(StandardScaler(), MAMLRegressor())
    >>> list(pipe.named_steps)
    ['standardscaler', 'mamlregressor']
    """
    return MetaPipeline(make_pipeline(*steps).steps, memory=memory, verbose=verbose)
