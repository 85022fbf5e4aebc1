"""Judging fitted meta-learners, and comparing methods, on held-out tasks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import effective_n_jobs
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from sklmeta._meta_training import representative
from sklmeta._parameters import check_fraction
from sklmeta.model_selection._judging import (
    classifies,
    draw_for,
    renamed,
    score_episodes,
    warn_of_undefined,
)
from sklmeta.model_selection._metrics import Metric, as_metrics
from sklmeta.model_selection._predictions import episodes_at_once
from sklmeta.model_selection._protocol import DrawnEpisodes, EpisodeProtocol
from sklmeta.model_selection._results import Comparison, Evaluation
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
        As `make_episode_scorer` takes them. "rmse", "mse", "mae", "log_loss",
        "brier_score" and "nlpd" are reported as they are: lower is better. None:
        accuracy of classifiers, root mean squared error of regressors.
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
        Processes that share the episodes.
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

    See Also
    --------
    compare : Several estimators on the same episodes.

    Notes
    -----
    The interval is Student's t over tasks: each task counts once, by the mean over its
    episodes, since episodes of one task are no independent evidence on other tasks. The
    episodes of a ClassPool are taken as independent; their interval does not cover what
    other classes would change. None of the intervals covers what another
    meta-training would change.

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
    check_is_fitted(estimator)
    metrics = as_metrics(metric, labels)
    start = time.perf_counter()
    drawn = draw_for([estimator], tasks, protocol, labels)
    scores = _shared_out(estimator, drawn, metrics, n_jobs)
    warn_of_undefined(scores, metrics, stacklevel=2)
    if verbose:
        seconds = time.perf_counter() - start
        print(f"evaluate: {len(drawn)} episodes in {seconds:.1f} s", flush=True)
    return Evaluation(
        _frame(drawn, metrics, scores), drawn.unit, confidence, in_words([drawn])
    )


def compare(
    estimators: Mapping[str, Any],
    tasks: Any,
    *,
    train_tasks: Any = None,
    cv: Any = None,
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
    cv : splitter over tasks, default=None
        Such as ``TaskKFold(5)``: clones of all estimators are fitted for each fold,
        and every task is judged once.
    metric : str, callable, or list or dict of them, default=None
        As `evaluate` takes them.
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
        Processes that share methods and folds.
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
        given, or tasks are not usable. Errors of a method name it.

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
    labels = _checked_methods(estimators, train_tasks, cv)
    reference = _checked_reference(reference, estimators)
    metrics = as_metrics(metric, labels)
    tasks = representative(as_tasks(tasks), int(random_state))
    known = [one for one in estimators.values() if cv is None and _is_fitted(one)]
    if cv is not None and isinstance(tasks, TaskSet):
        protocol = protocol.with_episodes(tasks)  # as many of each task as without

    def draw(own: TaskSet | ClassPool, train: Any) -> DrawnEpisodes:
        return draw_for(known, own, protocol, labels, train)

    folds = _folds(tasks, cv, train_tasks, draw)
    found = _judge_all(estimators, folds, metrics, n_jobs, verbose)
    warn_of_undefined(np.concatenate(found), metrics, stacklevel=2)
    return Comparison(
        _collected(list(estimators), folds, found, metrics),
        folds[0].drawn.unit,
        confidence,
        in_words([fold.drawn for fold in folds]),
        reference,
        {metric.name: metric.greater_is_better for metric in metrics},
    )


# One estimator -------------------------------------------------------------------


def _shared_out(
    estimator: Any, drawn: DrawnEpisodes, metrics: Sequence[Metric], n_jobs: int | None
) -> NDArray[np.float64]:
    """Score parts of the episodes in processes of their own, where there are several.

    Parts end where one process would begin its next block of episodes, so that numbers
    are the same.
    """
    block = episodes_at_once(estimator)
    n_blocks = -(-len(drawn) // block)
    n_parts = min(n_blocks, effective_n_jobs(n_jobs))
    if n_parts < 2:
        return score_episodes(estimator, drawn, metrics)
    ends = np.linspace(0, n_blocks, n_parts + 1).round().astype(int) * block
    parts = Parallel(n_jobs=n_jobs)(
        delayed(_scored_elsewhere)(estimator, drawn[start:stop], metrics, os.getpid())
        for start, stop in pairwise(ends)
    )
    return np.concatenate(parts)


def _scored_elsewhere(
    estimator: Any, drawn: DrawnEpisodes, metrics: Sequence[Metric], caller: int
) -> NDArray[np.float64]:
    with _one_thread(caller):
        return score_episodes(estimator, drawn, metrics)


@contextmanager
def _one_thread(caller: int) -> Iterator[None]:
    """Compute on one thread in processes beside the caller's, so that they share."""
    before = torch.get_num_threads()
    elsewhere = os.getpid() != caller
    if elsewhere:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if elsewhere:
            torch.set_num_threads(before)


def _frame(
    drawn: DrawnEpisodes,
    metrics: Sequence[Metric],
    scores: NDArray[np.float64],
    **first: Any,
) -> pd.DataFrame:
    """Return scores (B, n_metrics) with one row per metric and episode."""
    n = len(metrics)
    tasks = pd.Series(drawn.names, dtype=object)
    return pd.DataFrame(
        {
            **first,
            "task": pd.concat([tasks] * n, ignore_index=True).infer_objects(),
            "episode": np.tile(drawn.number, n),
            "metric": np.repeat([metric.name for metric in metrics], len(drawn)),
            "score": scores.T.ravel(),
        }
    )


def in_words(folds: Sequence[DrawnEpisodes]) -> str:
    """Return what was judged, such as "13 tasks, 16 episodes each"."""
    n_episodes = sum(map(len, folds))
    if folds[0].unit == "episode":
        ways = np.concatenate([fold.n_way for fold in folds])
        low, high = ways.min(), ways.max()
        return f"{n_episodes} episodes of {_range(low, high)} classes"
    n_tasks = sum(len(np.unique(fold.task)) for fold in folds)
    each = n_episodes // n_tasks
    tasks = f"{n_tasks} task{'s' if n_tasks > 1 else ''}"
    return f"{tasks}, {each} episode{'s' if each > 1 else ''} each"


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


# Several estimators --------------------------------------------------------------


@dataclass(frozen=True)
class _Fold:
    """Episodes to judge on, and what to fit to."""

    drawn: DrawnEpisodes
    train: Any
    refit: bool = False  # even what is fitted already
    number: int | None = None


def _checked_methods(estimators: Any, train_tasks: Any, cv: Any) -> bool:
    """Refuse what cannot be compared; return whether labels are predicted."""
    if not isinstance(estimators, Mapping):
        raise TypeError(
            "estimators must be a dict of names and estimators, got "
            f"{type(estimators).__name__}."
        )
    if not estimators:
        raise ValueError("estimators is empty; give at least one method.")
    if train_tasks is not None and cv is not None:
        raise ValueError(
            "Got train_tasks and cv, which both say what estimators are fitted to. "
            "Give train_tasks to judge on tasks, or cv to split tasks."
        )
    kinds = {}
    for name, estimator in estimators.items():
        try:
            kinds[name] = classifies(estimator)
            fitted = _is_fitted(estimator)
        except TypeError as error:
            raise renamed(error, f"Method {name!r}") from error
        if not fitted and train_tasks is None and cv is None:
            raise ValueError(
                f"Method {name!r} is not fitted, and there is nothing to fit it to. "
                "Give train_tasks=, or cv= (such as TaskKFold(5)) to split tasks, or "
                "fit it first."
            )
    if len(set(kinds.values())) > 1:
        raise ValueError(
            "Classifiers and regressors cannot be compared: "
            f"{[name for name, is_one in kinds.items() if is_one]} are classifiers."
        )
    return next(iter(kinds.values()))


def _is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def _checked_reference(reference: str | None, estimators: Mapping[str, Any]) -> str:
    if reference is None:
        return list(estimators)[-1]
    if reference not in estimators:
        raise ValueError(
            f"reference={reference!r} is none of the methods {list(estimators)}."
        )
    return reference


def _folds(
    tasks: TaskSet | ClassPool,
    cv: Any,
    train_tasks: Any,
    draw: Callable[[TaskSet | ClassPool, Any], DrawnEpisodes],
) -> list[_Fold]:
    """Return the folds with their episodes; one without `cv`."""
    if cv is None:
        train = None if train_tasks is None else as_tasks(train_tasks)
        return [_Fold(draw(tasks, train), train)]
    if not hasattr(cv, "split"):
        raise TypeError(
            f"cv must be a splitter over tasks, such as TaskKFold(5), got {cv!r}."
        )
    splits = list(cv.split(tasks))
    tests = np.concatenate([test for _, test in splits])
    times = np.bincount(tests, minlength=len(tasks))
    if (times != 1).any():
        raise ValueError(
            f"cv={cv!r} judges some tasks {times.min()} times and some {times.max()} "
            "times; intervals over tasks need each exactly once. Use TaskKFold or "
            "LeaveOneTaskOut."
        )
    return [
        _Fold(draw(tasks[test], tasks[train]), tasks[train], True, number)
        for number, (train, test) in enumerate(splits)
    ]


def _judge_all(
    estimators: Mapping[str, Any],
    folds: Sequence[_Fold],
    metrics: Sequence[Metric],
    n_jobs: int | None,
    verbose: int,
) -> list[NDArray[np.float64]]:
    """Return the scores of every method on every fold, method after method."""
    return Parallel(n_jobs=n_jobs)(
        delayed(_fit_and_score)(name, one, fold, metrics, verbose, os.getpid())
        for name, one in estimators.items()
        for fold in folds
    )


def _fit_and_score(
    name: str,
    estimator: Any,
    fold: _Fold,
    metrics: Sequence[Metric],
    verbose: int,
    caller: int,
) -> NDArray[np.float64]:
    """Fit a clone if need be, and score it on the episodes of a fold."""
    what = f"Method {name!r}"
    if fold.number is not None:
        what += f", fold {fold.number}"
    start = time.perf_counter()
    with _one_thread(caller):
        try:
            if fold.refit or not _is_fitted(estimator):
                estimator = clone(estimator).fit(fold.train)
        except Exception as error:
            raise renamed(error, f"{what} fails in fit") from error
        between = time.perf_counter()
        try:
            scores = score_episodes(estimator, fold.drawn, metrics)
        except Exception as error:
            raise renamed(error, f"{what} fails in scoring") from error
    if verbose:
        seconds = between - start, time.perf_counter() - between
        times = f"fitted in {seconds[0]:.1f} s, scored in {seconds[1]:.1f} s"
        print(f"compare: {what[0].lower()}{what[1:]}: {times}", flush=True)
    return scores


def _collected(
    names: Sequence[str],
    folds: Sequence[_Fold],
    found: Sequence[NDArray[np.float64]],
    metrics: Sequence[Metric],
) -> pd.DataFrame:
    """Return the scores of all methods and folds as one frame."""
    scores = iter(found)
    frames = []
    for name in names:
        for fold in folds:
            first: dict[str, Any] = {"method": name}
            if fold.number is not None:
                first["fold"] = fold.number
            frames.append(_frame(fold.drawn, metrics, next(scores), **first))
    return pd.concat(frames, ignore_index=True)
