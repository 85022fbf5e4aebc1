"""Episodes as row numbers, for meta-learners that are no torch learners.

They take a task's rows in the container they came in, one task after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sklmeta import _episodes
from sklmeta._checks import label_column, target_numbers
from sklmeta._pooling import PooledRows
from sklmeta._schema import TaskSchema, task_names
from sklmeta._task_rows import unlabelled_rows
from sklmeta.engine.episodes import EpisodeIndex, EpisodeSampler, EpisodeSpec
from sklmeta.exceptions import MetaTrainingError
from sklmeta.tasks import ClassPool, Task, TaskSet, as_tasks

__all__ = [
    "RowEpisode",
    "as_support_tasks",
    "check_queries",
    "given_episodes",
    "naming",
    "query_rows",
    "scored_episodes",
    "scoring_spec",
    "targets_of",
]


@dataclass(frozen=True)
class RowEpisode:
    """Rows to adapt on and rows to predict, as positions in their containers.

    Attributes
    ----------
    name : str
        What messages call it: "Task 'Lyon'" or "An episode".
    support, query : ndarray of shape (S,) and (Q,)
    """

    name: str
    support: NDArray[np.int64]
    query: NDArray[np.int64]


@contextmanager
def naming(episode: RowEpisode) -> Iterator[None]:
    """Begin errors about values with the name of the episode's task."""
    try:
        yield
    except MetaTrainingError as error:
        raise MetaTrainingError(f"{episode.name}: {error}") from error
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{episode.name}: {error}") from error


def scored_episodes(
    meta: Any, tasks: TaskSet | ClassPool, seed: int
) -> Iterator[RowEpisode]:
    """Yield the episodes that `score` judges, by the meta-learner's parameters.

    They are those of every meta-learner with these parameters and this seed.
    """
    schema = meta._preparation
    spec = scoring_spec(meta, schema)
    no_features = np.zeros((len(tasks.rows().y), 1), dtype=np.float32)
    pool = schema.row_pool(tasks, no_features, torch.device("cpu"))
    sampler = EpisodeSampler(pool, spec)
    names = [f"Task {name!r}" for name in task_names(tasks)]
    if isinstance(tasks, ClassPool):
        names = ["An episode"] * len(names)  # of any domain
    for index in _episodes.scoring_parts(sampler, seed):
        yield from _unpadded(index, names)


def scoring_spec(meta: Any, schema: TaskSchema) -> EpisodeSpec:
    """Return the shape of the episodes that a meta-learner's parameters ask for."""
    return EpisodeSpec(
        n_shot=meta.n_shot,
        n_way=meta.n_way,
        per_class=schema.labels == "local",
        support_order=meta.support_order,
        small_tasks=meta.small_tasks,
    )


def _unpadded(index: EpisodeIndex, names: Sequence[str]) -> Iterator[RowEpisode]:
    support, support_mask = index.support.numpy(), index.support_mask.numpy()
    query, query_mask = index.query.numpy(), index.query_mask.numpy()
    for i, task in enumerate(index.task.tolist()):
        yield RowEpisode(
            names[task], support[i][support_mask[i]], query[i][query_mask[i]]
        )


def given_episodes(tasks: TaskSet, queries: PooledRows) -> list[RowEpisode]:
    """Return one episode per task: all its rows as support, and its query rows."""
    supports = tasks.rows()
    return [
        RowEpisode(f"Task {name!r}", _places(supports, t), _places(queries, t))
        for t, name in enumerate(tasks.names)
    ]


def _places(rows: PooledRows, task: int) -> NDArray[np.int64]:
    return np.arange(rows.offsets[task], rows.offsets[task + 1])


def as_support_tasks(support_tasks: Any) -> TaskSet:
    """Return the tasks whose rows `predict_tasks` adapts to.

    Raises
    ------
    TypeError
        If they are no TaskSet and no list of tasks.
    """
    tasks = as_tasks(support_tasks)
    if not isinstance(tasks, TaskSet):
        raise TypeError(
            "support_tasks must be a TaskSet or a list of tasks, got "
            f"{type(tasks).__name__}."
        )
    return tasks


def check_queries(tasks: TaskSet, query_Xs: Sequence[Any]) -> None:
    """Refuse query rows that are not one entry of rows for each task.

    Raises
    ------
    TypeError, ValueError
        If they are tasks, or more or fewer.
    """
    if isinstance(query_Xs, TaskSet) or any(isinstance(X, Task) for X in query_Xs):
        raise TypeError(
            "query_Xs holds tasks, expected their rows: [task.X for task in tasks]."
        )
    if len(tasks) != len(query_Xs):
        raise ValueError(
            f"got {len(tasks)} support tasks and {len(query_Xs)} entries of query_Xs; "
            "give one entry of query rows per task."
        )


def query_rows(meta: Any, query_Xs: Sequence[Any], names: Sequence[Any]) -> PooledRows:
    """Return the query rows of every task, whose targets are unknown."""
    rows = unlabelled_rows(query_Xs, names)
    meta._preparation.check_width(meta, rows)
    return rows


def targets_of(schema: TaskSchema, tasks: TaskSet | ClassPool) -> NDArray[Any]:
    """Return labels (R,), or targets (R, n_outputs), of the rows of tasks.

    Raises
    ------
    ValueError
        Naming the task with a missing or unknown one.
    """
    rows, names = tasks.rows(), task_names(tasks)
    if not schema.settings.classifies:
        return schema.target_columns(target_numbers(rows, names, schema.settings.name))
    if isinstance(tasks, TaskSet):
        schema.coded_labels(tasks)  # refuses unknown ones by the name of their task
    return label_column(rows, names)
