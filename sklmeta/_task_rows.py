"""Tasks with other rows: what transforming the features of tasks is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sklmeta._pooling import Container, as_container, concat_rows, pool_rows
from sklmeta._task import TaskPool
from sklmeta.tasks import ClassPool, TaskDistribution, TaskSet

__all__ = [
    "TransformedTasks",
    "joined_rows",
    "transformer_targets",
    "with_rows",
]


@dataclass(frozen=True)
class TransformedTasks(TaskDistribution):
    """Source of fresh tasks whose rows are transformed as they are drawn."""

    tasks: TaskDistribution
    transform: Callable[[TaskSet], TaskSet]

    def sample(self, n_tasks: int, random_state: Any = None) -> TaskSet:
        """Draw tasks and transform them."""
        return self.transform(self.tasks.sample(n_tasks, random_state))


def with_rows(tasks: TaskSet | ClassPool, X: Container) -> Any:
    """Return the same tasks with other features."""
    rows = replace(tasks.rows(), X=as_container(X, "Transformed "))
    if isinstance(tasks, ClassPool):
        return ClassPool._of_rows(rows)
    return TaskSet._of_pool(TaskPool(rows, tasks.names, tasks.named), tasks.labels)


def joined_rows(parts: Sequence[Any], tasks: TaskSet) -> Container:
    """Return the transformed rows of every task as one container."""
    rows = [
        pool_rows(X, np.zeros(len(X)), names=(name,))
        for X, name in zip(parts, tasks.names, strict=True)
    ]
    return concat_rows(rows, tasks.names).X


def transformer_targets(tasks: TaskSet | ClassPool) -> NDArray[Any]:
    """Return the targets that a transformer of all rows may use, shape (R, ...).

    Local labels mean nothing across tasks: every pair of task and label has a code.
    """
    rows = tasks.rows()
    if isinstance(tasks, ClassPool) or tasks.labels == "shared":
        return rows.y
    if rows.y.ndim > 1 or _holds_fractions(rows.y):
        return rows.y
    number = {name: i for i, name in enumerate(dict.fromkeys(tasks.names))}
    task = np.repeat([number[name] for name in tasks.names], rows.sizes)
    labels, classes = pd.factorize(rows.y)
    return pd.factorize(task * len(classes) + labels)[0]


def _holds_fractions(y: NDArray[Any]) -> bool:
    return y.dtype.kind == "f" and bool((y != np.floor(y)).any())
