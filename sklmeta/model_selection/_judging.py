"""Scores of an estimator on tasks: what scorers, `evaluate` and `compare` share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils.parallel import Parallel, delayed

from sklmeta._leakage import already_warned
from sklmeta._meta_training import representative
from sklmeta._task import TaskPool
from sklmeta.model_selection._metrics import (
    Metric,
    NeedsProbabilities,
    with_known_needs,
)
from sklmeta.model_selection._predictions import (
    episode_predictions,
    episodes_at_once,
    label_kind,
)
from sklmeta.model_selection._protocol import DrawnEpisodes, EpisodeProtocol
from sklmeta.tasks import ClassPool, TaskSet

__all__ = [
    "classifies",
    "draw_for",
    "one_thread",
    "score_episodes",
    "shared_out",
    "warn_of_undefined",
]


def classifies(estimator: Any) -> bool:
    """Tell classifiers from regressors; refuse anything else."""
    if is_classifier(estimator):
        return True
    if is_regressor(estimator):
        return False
    raise TypeError(
        f"Expected a meta-learner, a classifier or a regressor, got {estimator!r:.200}."
    )


def draw_for(
    estimators: Iterable[Any],
    tasks: Any,
    protocol: EpisodeProtocol,
    labels: bool,
    train: Any = None,
) -> DrawnEpisodes:
    """Draw the episodes that all estimators are judged on.

    Where one of them was, or will be (on `train`), meta-trained on local labels, the
    labels of the tasks are read as local.
    """
    tasks = representative(tasks, int(protocol.random_state))
    if labels and isinstance(tasks, TaskSet) and tasks.labels == "shared":
        local = isinstance(train, ClassPool) or getattr(train, "labels", "") == "local"
        if local or "local" in map(label_kind, estimators):
            tasks = with_local_labels(tasks)
    return protocol.draw(tasks, labels)


def with_local_labels(tasks: TaskSet) -> TaskSet:
    """Return the same tasks, their labels read as local."""
    pool = TaskPool(tasks.rows(), tasks.names, tasks.named)
    return TaskSet._of_pool(pool, "local")


def score_episodes(
    estimator: Any, drawn: DrawnEpisodes, metrics: Sequence[Metric]
) -> NDArray[np.float64]:
    """Return the scores of every episode, (B, n_metrics); NaN where not defined."""
    labels = classifies(estimator)
    metrics = with_known_needs(metrics, drawn, labels)
    needs = {metric.needs for metric in metrics} - {"predict", None}
    response = needs.pop() if needs else "predict"
    try:
        return _scores(estimator, drawn, metrics, str(response))
    except NeedsProbabilities:
        return _scores(estimator, drawn, metrics, "predict_proba")


def _scores(
    estimator: Any, drawn: DrawnEpisodes, metrics: Sequence[Metric], response: str
) -> NDArray[np.float64]:
    predictions = list(episode_predictions(estimator, drawn, response))
    columns = [metric.compute(predictions, drawn) for metric in metrics]
    return np.stack(columns, axis=1)


def warn_of_undefined(
    scores: NDArray[np.float64], metrics: Sequence[Metric], stacklevel: int
) -> None:
    """Warn once for each metric that some episodes have no value of; refuse if all."""
    for metric, column in zip(metrics, np.isnan(scores).T, strict=True):
        if metric.is_own and column.all():
            raise ValueError(
                f"metric {metric.name!r} gives NaN on each of the {len(column)} "
                "episodes. Return a number where it has a value."
            )
        if column.all():
            raise ValueError(
                f"metric {metric.name!r} is not defined on any of the {len(column)} "
                "episodes: the query rows of each lack a class, or are too few. "
                "Lower n_shot, raise n_query, or choose another metric."
            )
        if column.any():
            n_of = f"{int(column.sum())} of {len(column)} episodes"
            missing = f"is not defined on {n_of}, whose query rows lack a class or are "
            missing = f"gives NaN on {n_of}" if metric.is_own else f"{missing}too few"
            warnings.warn(
                f"metric {metric.name!r} {missing}; they are left out.",
                UndefinedMetricWarning,
                stacklevel=stacklevel + 1,
            )


def shared_out(
    estimator: Any, drawn: DrawnEpisodes, metrics: Sequence[Metric], n_jobs: int | None
) -> NDArray[np.float64]:
    """Score parts of the episodes in processes of their own, where there are several.

    Of leakage the caller has warned, since warnings of other processes get lost.
    Parts end where one process would begin its next block of episodes, so that numbers
    are the same.
    """
    block = episodes_at_once(estimator)
    n_blocks = -(-len(drawn) // block)
    n_parts = min(n_blocks, effective_n_jobs(n_jobs))
    if n_parts < 2:
        with already_warned():
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
    with one_thread(caller), already_warned():
        return score_episodes(estimator, drawn, metrics)


@contextmanager
def one_thread(caller: int) -> Iterator[None]:
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
