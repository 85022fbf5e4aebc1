"""Scorers that adapt to each task: what `scoring=` needs to judge meta-learners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import get_scorer_names
from sklearn.utils.metadata_routing import MetadataRequest

from sklmeta.model_selection._intervals import unit_means
from sklmeta.model_selection._judging import (
    classifies,
    draw_for,
    score_episodes,
    warn_of_undefined,
)
from sklmeta.model_selection._metrics import (
    CLASSIFICATION,
    REGRESSION,
    Metric,
    as_metric,
    as_metrics,
    own_metric,
    takes_estimator,
    unknown_name,
)
from sklmeta.model_selection._protocol import EpisodeProtocol
from sklmeta.model_selection._told_once import told_once
from sklmeta.tasks import as_tasks

__all__ = ["EpisodeScorer", "make_episode_scorer"]


@dataclass(frozen=True, kw_only=True)
class EpisodeScorer:
    """Scorer that adapts to support rows of each task and scores the query rows.

    Made by `make_episode_scorer`, which documents the parameters; give it as
    ``scoring=`` to scikit-learn's searches and cross-validation.

    Parameters
    ----------
    metric : str, callable, or list or dict of them, default=None
        What is measured.
    n_shot : int or (int, int), default=5
        Support rows.
    n_query : int, (int, int) or None, default=None
        Query rows.
    n_way : int, (int, int) or None, default=None
        Classes of an episode.
    n_episodes : int, default=None
        Episodes of each task.
    support_order : {"random", "first"}, default="random"
        Which rows are support.
    small_tasks : {"shrink", "drop", "raise"}, default="shrink"
        What to do with tasks that are too small.
    random_state : int, default=0
        Seed of the episodes.
    greater_is_better : bool, default=True
        Direction of a metric function.
    response_method : str or tuple of str, default="predict"
        What a metric function takes.

    See Also
    --------
    make_episode_scorer : Makes one.

    Examples
    --------
    >>> from sklmeta.model_selection import make_episode_scorer
    >>> make_episode_scorer("log_loss", n_shot=1)
    make_episode_scorer('log_loss', n_shot=1)
    """

    draws_episodes: ClassVar[bool] = True

    metric: Any = None
    n_shot: Any = 5
    n_query: Any = None
    n_way: Any = None
    n_episodes: int | None = None
    support_order: str = "random"
    small_tasks: str = "shrink"
    random_state: int = 0
    greater_is_better: bool = True
    response_method: Any = "predict"

    def __post_init__(self) -> None:
        self._protocol()
        metrics = self.metric
        if isinstance(metrics, Mapping):
            metrics = list(metrics.values())
        elif not isinstance(metrics, (list, tuple)):
            metrics = [metrics]
        for metric in metrics:
            _check_metric(metric)
        if not (self.greater_is_better is True and self.response_method == "predict"):
            _refuse_direction(self.metric)

    def __call__(
        self,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> float | dict[str, float]:
        """Score a fitted estimator on tasks.

        Parameters
        ----------
        estimator : meta-learner, pipeline that ends in one, or fitted search
            Fitted; it is not changed.
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.

        Returns
        -------
        float or dict of str to float
            Mean over tasks of each task's mean over episodes; larger is better.

        Raises
        ------
        NotFittedError
            Before the estimator's `fit`.
        ValueError
            If tasks are not usable, or the metric fails; the message names the task.
        """
        tasks, labels = as_tasks(X, y, groups), classifies(estimator)
        metrics = self._metrics(labels)
        drawn = draw_for([estimator], tasks, self._protocol(), labels)
        with told_once(stacklevel=2):
            scores = score_episodes(estimator, drawn, metrics)
        warn_of_undefined(scores, metrics, stacklevel=2)
        values = {
            metric.name: (1 if metric.greater_is_better else -1)
            * float(np.nanmean(unit_means(column, drawn.units)))
            for metric, column in zip(metrics, scores.T, strict=True)
        }
        several = isinstance(self.metric, (Mapping, list, tuple))
        return values if several else values.popitem()[1]

    def get_metadata_routing(self) -> MetadataRequest:
        """Say to scikit-learn that scoring takes `groups`.

        Returns
        -------
        MetadataRequest
            The request.
        """
        request = MetadataRequest(owner=type(self).__name__)
        request.score.add_request(param="groups", alias=True)
        return request

    def __repr__(self) -> str:
        given = [] if self.metric is None else [repr(self.metric)]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                given.append(f"{field.name}={value!r}")
        return f"make_episode_scorer({', '.join(given)})"

    def _protocol(self) -> EpisodeProtocol:
        names = [field.name for field in fields(EpisodeProtocol)]
        return EpisodeProtocol(**{name: getattr(self, name) for name in names})

    def _metrics(self, labels: bool) -> list[Metric]:
        if not callable(self.metric):
            return as_metrics(self.metric, labels)
        return [
            as_metric(
                self.metric,
                labels,
                greater_is_better=self.greater_is_better,
                response_method=self.response_method,
            )
        ]


def _check_metric(metric: Any) -> None:
    """Refuse what no estimator can be scored by."""
    if metric is None or (callable(metric) and not isinstance(metric, str)):
        return
    if not isinstance(metric, str):
        raise TypeError(
            "metric must be a name, a scorer, a function (estimator, X, y) or a metric "
            f"function (y_true, y_pred), or a list or dict of them; got {metric!r}."
        )
    is_own = any(own_metric(metric, labels) for labels in (True, False))
    if not is_own and metric not in get_scorer_names():
        raise ValueError(unknown_name(metric, {*CLASSIFICATION, *REGRESSION}))


def _refuse_direction(metric: Any) -> None:
    """Refuse to turn what is no metric function, or several."""
    if isinstance(metric, (list, tuple, Mapping)):
        remedy = "got several. Wrap each function with sklearn.metrics.make_scorer"
    elif not callable(metric) or takes_estimator(metric):
        remedy = f"metric={metric!r} knows its own. Leave them out"
    else:
        return
    raise ValueError(
        "greater_is_better and response_method describe one metric function "
        f"(y_true, y_pred); {remedy}."
    )


def make_episode_scorer(
    metric: Any = None,
    *,
    n_shot: Any = 5,
    n_query: Any = None,
    n_way: Any = None,
    n_episodes: int | None = None,
    support_order: str = "random",
    small_tasks: str = "shrink",
    random_state: int = 0,
    greater_is_better: bool = True,
    response_method: Any = "predict",
) -> EpisodeScorer:
    """Make a scorer that adapts to support rows of each task.

    Its episodes depend on tasks, seed and the parameters here alone: all candidates of
    a search are judged on the same, whatever their own `n_shot`.

    Parameters
    ----------
    metric : str, callable, or list or dict of them, default=None
        A name that scikit-learn's scorers have; "rmse", "mse", "mae", "log_loss",
        "brier_score", or one of stated uncertainty, which Notes list, where the sign of
        what is better if lower is turned; a scorer; a function (estimator, X, y); or a
        metric function (y_true, y_pred). None: accuracy, or minus the root mean squared
        error. Several give a dict of scores, as scikit-learn's multi-metric searches
        take it.
    n_shot : int or (int, int), default=5
        Support rows: per class with local labels, per task with shared labels and in
        regression. A pair is a range that each episode draws from.
    n_query : int, (int, int) or None, default=None
        At most this many query rows, counted like `n_shot`; None: all others.
    n_way : int, (int, int) or None, default=None
        Classes of an episode, with local labels. None: all of the task, and at most 5
        of a `ClassPool`.
    n_episodes : int, default=None
        Episodes of each task; of a `ClassPool`, in all. None: 200 in all, at least one
        of each task.
    support_order : {"random", "first"}, default="random"
        "first": the first `n_shot` rows are support, and query rows come after them.
    small_tasks : {"shrink", "drop", "raise"}, default="shrink"
        What to do with tasks that have no query row left.
    random_state : int, default=0
        Seed of the episodes, mixed with each task's name.
    greater_is_better : bool, default=True
        Of one metric function, whether more is better; else its sign is turned.
    response_method : str or tuple of str, default="predict"
        Of one metric function, what it takes, as in `sklearn.metrics.make_scorer`.

    Returns
    -------
    scorer : EpisodeScorer
        Callable (estimator, X, y=None, *, groups=None) -> float.

    Raises
    ------
    TypeError
        If a parameter is of a wrong type.
    ValueError
        If a value is not usable or a metric's name unknown.

    See Also
    --------
    evaluate : Scores of every episode, and intervals.

    Notes
    -----
    scikit-learn's searches turn an exception in scoring into a missing score and a
    warning; with ``error_score="raise"`` they show it.

    Each task counts once, by the mean over its episodes. Where a metric has no value,
    as ROC AUC on query rows that lack a class, the episode is left out, with one
    warning that says how many are. Scorers that take decision functions are given
    probabilities. Several metrics in one scorer adapt once; a dict of scorers adapts
    anew for each.

    Of regressors with ``predict(X, return_std=True)``, under a normal of that mean and
    standard deviation, and with several outputs the mean over them: "nlpd" is the
    negative log predictive density; "crps" the continuous ranked probability score, in
    the units of the target; "coverage" the share of targets inside central 90 %
    intervals, "interval_width" the width of these, in the units of the target;
    "coverage_80" and "interval_width_80" are those of 80 %, and likewise of other
    levels from 1 to below 100 %. Of classifiers, "ece" is the expected calibration
    error of the most probable label, in 10 bins of equal width, which is biased upwards
    on the few rows of an episode: see `evaluate`.

    Choose parameters by "nlpd" or "crps", and of classifiers by "log_loss" or
    "brier_score", which are best where what is stated is true. A search over "coverage"
    picks the widest intervals and one over "interval_width" the narrowest, however
    wrong; "ece" is best for whoever states the frequency of the classes. They are to be
    reported beside, as by ``GridSearchCV(..., scoring=make_episode_scorer(["nlpd",
    "coverage"]), refit="nlpd")``.

    A row-wise metric, as in ``scoring="r2"``, does not know of adapting. With tasks as
    X scikit-learn then raises a TypeError, since tasks bring no separate ``y_true``;
    in long format the meta-learner raises NotFittedError and names this function.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> from sklmeta.model_selection import TaskKFold, make_episode_scorer
    >>> scoring = make_episode_scorer("log_loss", n_shot=1, n_query=15, n_episodes=20)
    >>> meta = ProtoNetClassifier(max_iter=5, random_state=0)
    >>> search = GridSearchCV(
    ...     meta,
    ...     {"metric": ["sqeuclidean", "cosine"]},
    ...     scoring=scoring,
    ...     cv=TaskKFold(2),
    ...     error_score="raise",
    ... )
    >>> bool(search.fit(load_digits_pool()).best_score_ < 0)
    True
    """
    return EpisodeScorer(
        metric=metric,
        n_shot=n_shot,
        n_query=n_query,
        n_way=n_way,
        n_episodes=n_episodes,
        support_order=support_order,
        small_tasks=small_tasks,
        random_state=random_state,
        greater_is_better=greater_is_better,
        response_method=response_method,
    )
