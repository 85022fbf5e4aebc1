"""Judging fitted meta-learners, and comparing methods, on held-out tasks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sklmeta._meta_training import representative
from sklmeta._parameters import check_fraction
from sklmeta.model_selection._judging import (
    classifies,
    draw_for,
    shared_out,
    warn_of_undefined,
)
from sklmeta.model_selection._methods import (
    check_methods,
    checked_reference,
    folds_of,
    in_words,
    is_fitted,
    joined_frame,
    judge_all,
    names_trained_on,
    score_frame,
)
from sklmeta.model_selection._metrics import as_metrics
from sklmeta.model_selection._predictions import refuse_without_adapt
from sklmeta.model_selection._protocol import DrawnEpisodes, EpisodeProtocol
from sklmeta.model_selection._results import Comparison, Evaluation
from sklmeta.model_selection._told_once import told_once
from sklmeta.model_selection._training_tasks import (
    seen_names,
    warn_of_training_tasks,
)
from sklmeta.tasks import ClassPool, TaskSet, as_tasks

__all__ = ["Comparison", "Evaluation", "compare", "evaluate"]


def evaluate(
    estimator: Any,
    tasks: Any,
    *,
    metric: Any = None,
    n_shot: Any = 5,
    n_query: Any = None,
    n_way: Any = None,
    n_episodes: int | None = None,
    support_order: str = "random",
    small_tasks: str = "shrink",
    random_state: int = 0,
    confidence: float = 0.95,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> Evaluation:
    """Adapt a fitted meta-learner to episodes of tasks and score its predictions.

    Parameters
    ----------
    estimator : meta-learner, pipeline that ends in one, or fitted search
        Fitted; it is not changed.
    tasks : TaskSet, ClassPool, TaskDistribution, or list of tasks
        Held-out tasks; of a distribution, 200 are drawn.
    metric : str, callable, or list or dict of them, default=None
        As `make_episode_scorer` takes them. "rmse", "mse", "mae", "nlpd", "crps",
        "interval_width", "log_loss", "brier_score" and "ece" are reported as they are:
        lower is better. "coverage" is best at its level, 0.9. None: accuracy of
        classifiers, root mean squared error of regressors.
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
    confidence : float, default=0.95
        Level of the interval.
    n_jobs : int, default=None
        Processes that share the episodes, each on one thread; worth it where
        adapting takes long.
    verbose : int, default=0
        Print a line at the end if not 0.

    Returns
    -------
    result : Evaluation
        Its `scores` hold every episode, `summary()` means and intervals; printing it
        shows a table.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator cannot adapt to tasks.
    ValueError
        If tasks are not usable, or the metric fails; the message names the task.

    Warns
    -----
    TaskLeakageWarning
        If tasks are judged that the estimator was meta-trained on, by the names that
        were given to them.

    See Also
    --------
    compare : Several estimators on the same episodes.

    Notes
    -----
    The interval is Student's t over tasks: each task counts once, by the mean over its
    episodes, since episodes of one task are no independent evidence on other tasks; one
    that is given twice, as in a bootstrap over tasks, counts twice. The episodes of a
    ClassPool are taken as independent; their interval does not cover what other classes
    would change. None of the intervals covers what another meta-training would change.
    With about ten tasks, most of them near the ceiling, t intervals are too narrow:
    90 % instead of 95 % of them cover the mean where accuracies are distributed as
    Beta(19, 1).

    Where tasks have domains, `scores` names them and `by_domain` sums up each. Episodes
    of a ClassPool take every class equally often, so that a domain of few classes gets
    few of them; judge it by itself, ``pool[pool.domains == "digits"]``, to see more.

    Where a metric has no value, as ROC AUC on query rows that lack a class, `scores`
    holds NaN, and one warning says how often; means leave such episodes out.

    Expected calibration errors ("ece") of single episodes are biased upwards: of the
    few query rows in a bin, the share that is right differs from what was stated by
    chance alone, and deviations do not cancel. `ReliabilityDisplay` takes the rows of
    all episodes together. Coverage and width of intervals, which must be read together,
    are unbiased on few rows; `IntervalCoverageDisplay` shows all levels.

    Examples
    --------
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> from sklmeta.model_selection import evaluate
    >>> pool = load_digits_pool()
    >>> meta = ProtoNetClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> result = evaluate(meta, pool[5:], n_shot=1, n_episodes=50)
    >>> list(result.scores.columns)
    ['task', 'episode', 'metric', 'score']
    >>> list(result.summary().columns)
    ['mean', 'low', 'high', 'n_episodes']
    """
    protocol = EpisodeProtocol(
        n_shot, n_query, n_way, n_episodes, support_order, small_tasks, random_state
    )
    check_fraction("confidence", confidence)
    labels, tasks = classifies(estimator), as_tasks(tasks)
    refuse_without_adapt(estimator)
    check_is_fitted(estimator)
    metrics = as_metrics(metric, labels)
    start = time.perf_counter()
    drawn = draw_for([estimator], tasks, protocol, labels)
    warn_of_training_tasks(drawn.tasks, seen_names(estimator), stacklevel=2)
    with told_once(stacklevel=2):
        scores = shared_out(estimator, drawn, metrics, n_jobs)
    warn_of_undefined(scores, metrics, stacklevel=2)
    if verbose:
        seconds = time.perf_counter() - start
        print(f"evaluate: {len(drawn)} episodes in {seconds:.1f} s", flush=True)
    return Evaluation(
        score_frame(drawn, metrics, scores), drawn.unit, confidence, in_words([drawn])
    )


def compare(
    estimators: Mapping[str, Any],
    tasks: Any,
    *,
    train_tasks: Any = None,
    cv: Any = None,
    groups: Any = None,
    metric: Any = None,
    reference: str | None = None,
    n_shot: Any = 5,
    n_query: Any = None,
    n_way: Any = None,
    n_episodes: int | None = None,
    support_order: str = "random",
    small_tasks: str = "shrink",
    random_state: int = 0,
    confidence: float = 0.95,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> Comparison:
    """Score several methods on the same episodes, with paired differences.

    Parameters
    ----------
    estimators : dict of str to estimator
        Methods by name: meta-learners, baselines, pipelines or searches. They are not
        changed; what has to be fitted is fitted as a clone.
    tasks : TaskSet, ClassPool, TaskDistribution, or list of tasks
        Tasks to judge on; of a distribution, 200 are drawn.
    train_tasks : tasks in any form, default=None
        What estimators that are not fitted are fitted to.
    cv : int or splitter over tasks, default=None
        Such as ``TaskKFold(5)``, which an int of 5 means: clones of all estimators are
        fitted for each fold, and every task is judged once.
    groups : array-like of shape (n_tasks,), default=None
        Family labels of `tasks` (of a `ClassPool`, of its classes) for the splitter,
        such as ``TaskKFold(5, families="together")``; only with `cv`.
    metric : str, callable, or list or dict of them, default=None
        As `evaluate` takes them. More counts as a win (of "coverage" too, whatever its
        level), but of the losses that are listed there; wrap a function that is a loss
        with ``sklearn.metrics.make_scorer(loss, greater_is_better=False)``.
    reference : str, default=None
        The method that differences are taken to; None: the last.
    n_shot : int or (int, int), default=5
        Support rows: per class with local labels, per task with shared labels and in
        regression. A pair is a range that each episode draws from.
    n_query : int, (int, int) or None, default=None
        At most this many query rows, counted like `n_shot`; None: all others.
    n_way : int, (int, int) or None, default=None
        Classes of an episode, with local labels. None: all of the task, and at most 5
        of a `ClassPool`.
    n_episodes : int, default=None
        Episodes of each task; of a `ClassPool`, in all (with `cv`, of each fold's
        classes). None: 200 in all, at least one of each task.
    support_order : {"random", "first"}, default="random"
        "first": the first `n_shot` rows are support, and query rows come after them.
    small_tasks : {"shrink", "drop", "raise"}, default="shrink"
        What to do with tasks that have no query row left.
    random_state : int, default=0
        Seed of the episodes, mixed with each task's name.
    confidence : float, default=0.95
        Level of the intervals.
    n_jobs : int, default=None
        Processes that share methods and folds, each on one thread.
    verbose : int, default=0
        Print a line for each finished method and fold if not 0.

    Returns
    -------
    result : Comparison
        Its `scores` hold every episode of every method, `summary()` means, paired
        differences and intervals; printing it shows a table.

    Raises
    ------
    TypeError
        If `estimators` is no dict, or one of them cannot adapt to tasks.
    ValueError
        If there is nothing to fit an estimator to, `train_tasks` and `cv` are both
        given, tasks come more than once with `cv`, or they are not usable. Errors of
        a method name it.

    Warns
    -----
    TaskLeakageWarning
        Once, before anything is fitted, if tasks are judged that a method was, or will
        be, meta-trained on, by the names that were given to them.

    See Also
    --------
    evaluate : One fitted estimator.

    Notes
    -----
    Intervals are Student's t over tasks, as in `evaluate`; those of differences are
    paired: over each task's difference. With `cv`, methods of different folds share
    training tasks, which these intervals do not account for.

    Examples
    --------
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> from sklmeta.model_selection import compare
    >>> pool = load_digits_pool()
    >>> result = compare(
    ...     {
    ...         "learned": ProtoNetClassifier(max_iter=20, random_state=0),
    ...         "pixels": ProtoNetClassifier("identity"),
    ...     },
    ...     pool[5:],
    ...     train_tasks=pool[:5],
    ...     n_episodes=20,
    ... )
    >>> list(result.summary().index)
    ['learned', 'pixels']
    """
    protocol = EpisodeProtocol(
        n_shot, n_query, n_way, n_episodes, support_order, small_tasks, random_state
    )
    check_fraction("confidence", confidence)
    labels = check_methods(estimators, train_tasks, cv, groups)
    reference = checked_reference(reference, estimators)
    metrics = as_metrics(metric, labels)
    tasks = representative(as_tasks(tasks), int(random_state))
    known = [one for one in estimators.values() if cv is None and is_fitted(one)]
    if cv is not None and isinstance(tasks, TaskSet):
        protocol = protocol.with_episodes(tasks)  # as many of each task as without

    def draw(own: TaskSet | ClassPool, train: Any) -> DrawnEpisodes:
        return draw_for(known, own, protocol, labels, train)

    train = None if train_tasks is None else as_tasks(train_tasks)
    folds = folds_of(tasks, cv, groups, train, draw)
    trained_on = names_trained_on(estimators, train, cv)
    warn_of_training_tasks(tasks, trained_on, stacklevel=2)
    with told_once(stacklevel=2):
        found = judge_all(estimators, folds, metrics, n_jobs, verbose)
    warn_of_undefined(np.concatenate(found), metrics, stacklevel=2)
    return Comparison(
        joined_frame(list(estimators), folds, found, metrics),
        folds[0].drawn.unit,
        confidence,
        in_words([fold.drawn for fold in folds]),
        reference,
        {metric.name: metric.greater_is_better for metric in metrics},
    )
