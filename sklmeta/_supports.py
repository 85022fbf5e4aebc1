"""Support and query rows of many tasks as one padded batch, and predictions back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from torch import Tensor

from sklmeta._checks import (
    diverged,
    finite_rows,
    label_column,
    refuse_more_ways,
    sorted_classes,
)
from sklmeta._parameters import resolve_device
from sklmeta._pooling import task_label
from sklmeta._preparation import Preparation
from sklmeta._row_episodes import check_queries, query_rows
from sklmeta.engine.batches import Episodes, Rows, similar_sizes
from sklmeta.engine.inference import run_episodes
from sklmeta.engine.pool import RowPool
from sklmeta.tasks import TaskSet

__all__ = ["predict_supports"]

VALUES_AT_ONCE = 2**26  # of features, padding included: 256 MB


@dataclass(frozen=True)
class SupportBatch:
    """Episodes of given supports and queries, and how to read their outputs.

    Attributes
    ----------
    episodes : Episodes
        Targets in the learner's units; query targets hold zeros.
    classes : list of ndarray, or None
        Each task's classes (local labels), in the order of its ways.
    level, spread : Tensor of shape (T, 1, n_outputs), or None
        Each task's target scale, with ``normalize_y="task"``.
    """

    preparation: Preparation
    names: Sequence[Any]
    episodes: Episodes
    classes: list[NDArray[Any]] | None = None
    level: Tensor | None = None
    spread: Tensor | None = None

    def decode(self, outputs: Tensor, meta: Any) -> list[NDArray[Any]]:
        """Return each task's predictions, from outputs (T, Q, ·) on the CPU.

        Raises
        ------
        MetaTrainingError
            Naming the task, if adapting to it diverged.
        """
        real = self.episodes.query.mask.cpu()
        sizes = real.sum(1).tolist()
        bad = (~finite_rows(outputs, meta._classifies) & real).any(1)
        if bad.any():
            raise diverged(meta, f"task {self.names[int(bad.int().argmax())]!r}")
        if not self.preparation.settings.classifies:
            decoded = self.preparation.decode_targets(self._in_units(outputs).numpy())
            return [own[:size] for own, size in zip(decoded, sizes, strict=True)]
        best = outputs.nan_to_num().argmax(-1).numpy()
        classes = self.classes
        if self.preparation.classes is not None:
            classes = [self.preparation.classes] * len(sizes)
        assert classes is not None
        return [
            own[best[task, :size]]
            for task, (own, size) in enumerate(zip(classes, sizes, strict=True))
        ]

    def _in_units(self, outputs: Tensor) -> Tensor:
        if self.level is None or self.spread is None:
            return outputs
        return outputs * self.spread.cpu() + self.level.cpu()


def predict_supports(
    meta: Any, tasks: TaskSet, query_Xs: Sequence[Any]
) -> list[NDArray[Any]]:
    """Adapt a fitted meta-learner to every task and predict its query rows.

    All in one padded batch, unless tasks are so ragged that it would not fit memory.

    Raises
    ------
    ValueError
        If rows do not fit the meta-training tasks, or `adapt` would refuse their
        labels; the message names the task.
    MetaTrainingError
        Naming the task, if adapting to it diverged.
    """
    check_queries(tasks, query_Xs)
    if meta._preparation.labels == "local":
        _refuse_no_labels(tasks)
    learner = meta._configured_learner()
    sizes = tasks.rows().sizes + np.array([len(X) for X in query_Xs])
    values = torch.from_numpy(sizes * meta.n_features_in_)
    predictions: dict[int, NDArray[Any]] = {}
    for part in similar_sizes(values, VALUES_AT_ONCE):
        places = part.tolist()
        batch = _encoded(meta, tasks[places], [query_Xs[i] for i in places])
        decoded = batch.decode(run_episodes(learner, batch.episodes), meta)
        predictions.update(zip(places, decoded, strict=True))
    return [predictions[i] for i in range(len(tasks))]


def _encoded(meta: Any, tasks: TaskSet, query_Xs: Sequence[ArrayLike]) -> SupportBatch:
    """Return the padded batch of supports and queries."""
    preparation, device = meta._preparation, resolve_device(meta.device)
    pool = preparation.pool(tasks, device)
    query_pool = _query_pool(meta, query_Xs, tasks.names, device)
    classes, n_way = None, None
    y = pool.y
    if preparation.labels == "local":
        classes, codes = _local_codes(tasks)
        y = torch.from_numpy(codes).to(device)
        n_way = torch.tensor([len(own) for own in classes], device=device)
        names = tasks.names
        learner = meta._configured_learner()
        refuse_more_ways(meta, learner, n_way, lambda task: f"task {names[task]!r}")
    support = _padded(pool, y, n_way)
    query = _padded(query_pool, y.new_zeros(query_pool.n_rows, *y.shape[1:]), n_way)
    episodes = Episodes(support, query)
    if preparation.task_targets is None:
        return SupportBatch(preparation, tasks.names, episodes, classes)
    level, spread = preparation.task_targets.scale(support)
    episodes = preparation.task_targets.standardise(episodes)
    return SupportBatch(preparation, tasks.names, episodes, None, level, spread)


def _query_pool(
    meta: Any, query_Xs: Sequence[Any], names: Sequence[Any], device: torch.device
) -> RowPool:
    """Return the query rows of every task on the device, without targets."""
    rows = query_rows(meta, query_Xs, names)
    x = meta._preparation.checked_features(rows, list(names))
    y = np.zeros(len(x), dtype=np.int64)
    return RowPool.from_tasks(x, y, rows.offsets, names, None, device)


def _local_codes(tasks: TaskSet) -> tuple[list[NDArray[Any]], NDArray[np.int64]]:
    """Return each task's sorted classes, and every row's position among them."""
    rows = tasks.rows()
    y = label_column(rows, list(tasks.names))
    labels, codes = np.unique(y, return_inverse=True)
    task = np.repeat(np.arange(len(rows)), rows.sizes)
    pairs, ways = np.unique(task * len(labels) + codes, return_inverse=True)
    first = np.searchsorted(pairs, np.arange(len(rows) + 1) * len(labels))
    classes = np.split(labels[pairs % len(labels)], first[1:-1])
    return classes, (ways - first[task]).astype(np.int64)


def _refuse_no_labels(tasks: TaskSet) -> None:
    """Refuse what `adapt` refuses as local labels, by the name of the task."""
    rows = tasks.rows()
    y = label_column(rows, list(tasks.names))
    if _are_labels(y):
        return
    for position, name in enumerate(tasks.names):
        own = y[rows.task(position)]
        try:
            sorted_classes(
                check_array(own, ensure_2d=False, dtype=None, input_name="y")
            )
        except ValueError as error:
            raise ValueError(f"{task_label(name)}{error}") from error


def _are_labels(y: NDArray[Any]) -> bool:
    """Whether all entries are labels for sure: a look at many tasks at once."""
    if y.dtype.kind == "O":
        return pd.api.types.infer_dtype(y, skipna=False) == "string"
    if y.dtype.kind == "f":
        return bool(((y == np.floor(y)) & (np.abs(y) < 2**53)).all())
    return y.dtype.kind not in "cSV"


def _padded(pool: RowPool, y: Tensor, n_way: Tensor | None) -> Rows:
    """Return all rows of every task of a pool, padded to the longest task."""
    sizes = pool.offsets.diff()
    position = torch.arange(int(sizes.max()))
    mask = position < sizes[:, None]
    index = pool.offsets[:-1, None] + torch.minimum(position, sizes[:, None] - 1)
    index = index.clamp_(max=pool.n_rows - 1).to(pool.device)
    return Rows(pool.take(index), y[index], mask.to(pool.device), n_way)
