"""Drawn episodes as tasks of their own, whose fixed support rows are the episode's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklmeta._episodes import scoring_seed
from sklmeta._pooling import PooledRows, take_rows
from sklmeta._task import TaskPool
from sklmeta.model_selection._protocol import DrawnEpisodes, EpisodeProtocol
from sklmeta.model_selection._ragged import RaggedRows
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["episode_tasks", "episodes_of_tasks", "scored_episodes"]


def scored_episodes(meta: Any, tasks: Any) -> DrawnEpisodes:
    """Draw the episodes that a meta-learner's own `score` judges."""
    protocol = EpisodeProtocol(
        n_shot=meta.n_shot,
        n_way=meta.n_way,
        n_episodes=None if isinstance(tasks, ClassPool) else 1,
        support_order=meta.support_order,
        small_tasks=meta.small_tasks,
        random_state=scoring_seed(meta.random_state),
    )
    return protocol.draw(tasks, meta._classifies)


def episode_tasks(drawn: DrawnEpisodes) -> TaskSet:
    """Return each episode as a task of its support rows, then its query rows."""
    pairs = [(drawn.support_rows(e), drawn.query_rows(e)) for e in range(len(drawn))]
    index = np.concatenate([rows for pair in pairs for rows in pair])
    support = np.concatenate([[True] * len(s) + [False] * len(q) for s, q in pairs])
    offsets = np.cumsum([0] + [len(s) + len(q) for s, q in pairs])
    rows = PooledRows(
        take_rows(drawn.rows.X, index),
        drawn.rows.y[index],
        offsets,
        np.ones(len(drawn), dtype=bool),
        support,
        drawn.domains,
    )
    named = np.zeros(len(drawn), dtype=bool)
    pool = TaskPool(rows, tuple(drawn.names), named)
    return TaskSet._of_pool(pool, "local" if drawn.is_local else "shared")


def episodes_of_tasks(drawn: DrawnEpisodes, tasks: TaskSet) -> DrawnEpisodes:
    """Return the same episodes as rows of the tasks that `episode_tasks` made."""
    start, n_support = tasks.rows().offsets[:-1], drawn.support.size
    return replace(
        drawn,
        tasks=tasks,
        task=np.arange(len(drawn)),
        support=_runs(drawn.support, start),
        query=_runs(drawn.query, start + n_support),
    )


def _runs(rows: RaggedRows, start: NDArray[np.int64]) -> RaggedRows:
    """Return lists of the same lengths and ways that count up from `start`."""
    first = np.cumsum(rows.size) - rows.size
    position = np.arange(rows.size.sum()) - np.repeat(first, rows.size)
    way = None
    if rows.way is not None:
        way = rows.way[position + np.repeat(rows.start, rows.size)]
    return RaggedRows(position + np.repeat(start, rows.size), first, rows.size, way)
