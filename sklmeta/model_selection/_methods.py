"""Methods to compare: checked, fitted fold by fold, scored, and put in one table."""

from __future__ import annotations

import numbers
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted

from sklmeta._leakage import already_warned
from sklmeta._schema import task_names
from sklmeta.model_selection._errors import renamed
from sklmeta.model_selection._judging import classifies, one_thread, score_episodes
from sklmeta.model_selection._metrics import Metric
from sklmeta.model_selection._predictions import refuse_without_adapt
from sklmeta.model_selection._protocol import DrawnEpisodes
from sklmeta.model_selection._training_tasks import (
    given_names,
    learns_from_tasks,
    seen_names,
)
from sklmeta.model_selection.splits import TaskKFold
from sklmeta.tasks import ClassPool, TaskSet

__all__ = [
    "Fold",
    "check_methods",
    "checked_reference",
    "folds_of",
    "in_words",
    "is_fitted",
    "joined_frame",
    "judge_all",
    "names_trained_on",
    "score_frame",
]


@dataclass(frozen=True)
class Fold:
    """Episodes to judge on, and what to fit to."""

    drawn: DrawnEpisodes
    train: Any
    refit: bool = False  # even what is fitted already
    number: int | None = None


def check_methods(estimators: Any, train_tasks: Any, cv: Any, groups: Any) -> bool:
    """Refuse what cannot be compared; return whether labels are predicted."""
    if not isinstance(estimators, Mapping):
        raise TypeError(
            "estimators must be a dict of names and estimators, got "
            f"{type(estimators).__name__}."
        )
    if not estimators:
        raise ValueError("estimators is empty; give at least one method.")
    strange = [name for name in estimators if not isinstance(name, str)]
    if strange:
        raise TypeError(f"Names of methods must be strings, got {strange[0]!r}.")
    if train_tasks is not None and cv is not None:
        raise ValueError(
            "Got train_tasks and cv, which both say what estimators are fitted to. "
            "Give train_tasks to judge on tasks, or cv to split tasks."
        )
    if groups is not None and cv is None:
        raise ValueError(
            "groups are family labels of tasks, which cv splits by, and there is no "
            "cv. Give cv=TaskKFold(5, families='together') or another splitter, or "
            "leave groups out."
        )
    kinds = {}
    for name, estimator in estimators.items():
        try:
            kinds[name] = classifies(estimator)
            refuse_without_adapt(estimator)
            fitted = is_fitted(estimator)
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


def is_fitted(estimator: Any) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def checked_reference(reference: str | None, estimators: Mapping[str, Any]) -> str:
    if reference is None:
        return list(estimators)[-1]
    if reference not in estimators:
        raise ValueError(
            f"reference={reference!r} is none of the methods {list(estimators)}."
        )
    return reference


def folds_of(
    tasks: TaskSet | ClassPool,
    cv: Any,
    groups: Any,
    train_tasks: Any,
    draw: Callable[[TaskSet | ClassPool, Any], DrawnEpisodes],
) -> list[Fold]:
    """Return the folds with their episodes; one without `cv`."""
    if cv is None:
        return [Fold(draw(tasks, train_tasks), train_tasks)]
    if not isinstance(cv, bool) and isinstance(cv, numbers.Integral):
        cv = TaskKFold(int(cv))
    if not hasattr(cv, "split") or isinstance(cv, str):
        raise TypeError(
            "cv must be a number of folds or a splitter over tasks, such as "
            f"TaskKFold(5), got {cv!r}."
        )
    _refuse_repeated(tasks)
    splits = list(cv.split(tasks, groups=groups))
    tests = np.concatenate([test for _, test in splits])
    times = np.bincount(tests, minlength=len(tasks))
    if (times != 1).any():
        raise ValueError(
            f"cv={cv!r} judges some tasks {times.min()} times and some {times.max()} "
            "times; intervals over tasks need each exactly once. Use TaskKFold or "
            "LeaveOneTaskOut."
        )
    return [
        Fold(draw(tasks[test], tasks[train]), tasks[train], True, number)
        for number, (train, test) in enumerate(splits)
    ]


def _refuse_repeated(tasks: TaskSet | ClassPool) -> None:
    """Refuse to split tasks that come twice: one could be trained on and judged."""
    counts = Counter(task_names(tasks))
    repeated = [name for name, times in counts.items() if times > 1]
    if repeated:
        raise ValueError(
            f"{len(repeated)} of {len(counts)} tasks come more than once, such as "
            f"{repeated[0]!r}, and cv could train on a task that it judges. Give each "
            "task once, or name them apart if they differ."
        )


def names_trained_on(
    estimators: Mapping[str, Any], train_tasks: Any, cv: Any
) -> dict[str, set[Any]]:
    """Return the names of the tasks that each method was, or will be, trained on."""
    if cv is not None:  # folds are never judged on what they are trained on
        return {}
    training = given_names(train_tasks)
    found = {}
    for name, one in estimators.items():
        if is_fitted(one):
            found[name] = seen_names(one)
        elif learns_from_tasks(one):
            found[name] = training
    return found


_PIPELINE_HINT = (
    " (scikit-learn's Pipeline hands tasks to transformers of rows: use "
    "make_meta_pipeline, which knows both)"
)


def _is_stock_pipeline(estimator: Any) -> bool:
    return isinstance(estimator, Pipeline) and not hasattr(estimator, "adapt")


def judge_all(
    estimators: Mapping[str, Any],
    folds: Sequence[Fold],
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
    fold: Fold,
    metrics: Sequence[Metric],
    verbose: int,
    caller: int,
) -> NDArray[np.float64]:
    """Fit a clone if need be, and score it on the episodes of a fold."""
    what = f"Method {name!r}"
    if fold.number is not None:
        what += f", fold {fold.number}"
    start = time.perf_counter()
    with one_thread(caller):
        try:
            if fold.refit or not is_fitted(estimator):
                estimator = clone(estimator).fit(fold.train)
        except Exception as error:
            hint = _PIPELINE_HINT if _is_stock_pipeline(estimator) else ""
            raise renamed(error, f"{what} fails in fit{hint}") from error
        between = time.perf_counter()
        try:
            with already_warned():
                scores = score_episodes(estimator, fold.drawn, metrics)
        except Exception as error:
            raise renamed(error, f"{what} fails in scoring") from error
    if verbose:
        seconds = between - start, time.perf_counter() - between
        times = f"fitted in {seconds[0]:.1f} s, scored in {seconds[1]:.1f} s"
        print(f"compare: {what[0].lower()}{what[1:]}: {times}", flush=True)
    return scores


def joined_frame(
    names: Sequence[str],
    folds: Sequence[Fold],
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
            frames.append(score_frame(fold.drawn, metrics, next(scores), **first))
    return pd.concat(frames, ignore_index=True)


# Tables --------------------------------------------------------------------------


def score_frame(
    drawn: DrawnEpisodes,
    metrics: Sequence[Metric],
    scores: NDArray[np.float64],
    **first: Any,
) -> pd.DataFrame:
    """Return scores (B, n_metrics) with one row per metric and episode."""
    n = len(metrics)
    tasks = pd.Series(drawn.names, dtype=object)
    if drawn.domains is not None:
        domains = pd.Series(np.tile(drawn.domains, n), dtype=object)
        first["domain"] = domains.infer_objects()
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
        return f"{_counted(n_episodes, 'episode')} of {_range(low, high)} classes"
    n_tasks = sum(len(np.unique(fold.task)) for fold in folds)
    each = _counted(n_episodes // n_tasks, "episode")
    return f"{_counted(n_tasks, 'task')}, {each} each"


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
