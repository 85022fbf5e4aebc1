"""Rows of tasks: whose they are, where they fail, and tasks with other rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sklmeta._pooling import (
    Container,
    PooledRows,
    as_container,
    concat_rows,
    pool_rows,
    without_tensors,
)
from sklmeta._task import TaskPool
from sklmeta.tasks import ClassPool, TaskDistribution, TaskSet

__all__ = [
    "TransformedTasks",
    "called",
    "joined_rows",
    "plain_rows",
    "representative",
    "task_names",
    "task_of_row",
    "transformer_targets",
    "unlabelled_rows",
    "whereabouts",
    "with_rows",
]

SAMPLED_TASKS = 200
# How scikit-learn's estimators speak of values that they do not take.
_MISSING = {"nan", "nans", "na", "missing", "null", "none"}
_INFINITY = {"inf", "infinity", "infinite", "finite"}


@dataclass(frozen=True)
class TransformedTasks(TaskDistribution):
    """Source of fresh tasks whose rows are transformed as they are drawn."""

    tasks: TaskDistribution
    transform: Callable[[TaskSet], TaskSet]

    def sample(self, n_tasks: int, random_state: Any = None) -> TaskSet:
        """Draw tasks and transform them."""
        return self.transform(self.tasks.sample(n_tasks, random_state))


def plain_rows(X: Any) -> Any:
    """Return rows in a container that scikit-learn knows; lists stay lists."""
    X = without_tensors(X)
    return X if hasattr(X, "shape") or hasattr(X, "__len__") else np.asarray(X)


def called(method: Callable[..., Any], X: Any, *y: Any) -> Any:
    """Call a transformer with rows; where it refuses images, say what to do."""
    try:
        return method(X, *y)
    except ValueError as error:
        if np.ndim(X) < 3:
            raise
        name = type(getattr(method, "__self__", method)).__name__
        raise ValueError(
            f"{name} does not take images of shape {tuple(np.shape(X)[1:])}: {error} "
            "Give flat rows, X.reshape(len(X), -1), and tell the meta-learner "
            "their shape by image_shape=."
        ) from error


def with_rows(tasks: TaskSet | ClassPool, X: Container) -> Any:
    """Return the same tasks with other features."""
    rows = replace(tasks.rows(), X=as_container(X, "Transformed "))
    if isinstance(tasks, ClassPool):
        return ClassPool._of_rows(rows)
    return TaskSet._of_pool(TaskPool(rows, tasks.names, tasks.named), tasks.labels)


def joined_rows(parts: Sequence[Any], tasks: TaskSet) -> Container:
    """Return the transformed rows of every task as one container."""
    return unlabelled_rows(parts, tasks.names).X


def unlabelled_rows(query_Xs: Sequence[Any], names: Sequence[Any]) -> PooledRows:
    """Return rows of every task, with zeros as targets."""
    sizes = _sizes_of_like_arrays(query_Xs)
    if sizes is not None and len(sizes) == len(names):
        X = np.concatenate(query_Xs)
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        has_support = np.zeros(len(sizes), dtype=bool)
        return PooledRows(X, np.zeros(len(X)), offsets, has_support)
    parts = [
        pool_rows(X, np.zeros(len(X)), names=[name])
        for X, name in zip(query_Xs, names, strict=True)
    ]
    return concat_rows(parts, names)


def _sizes_of_like_arrays(query_Xs: Sequence[Any]) -> list[int] | None:
    """Return how many rows each entry has, if all are arrays that need no check.

    Thousands of entries then are pooled in one go.
    """
    if not len(query_Xs) or type(query_Xs[0]) is not np.ndarray:
        return None
    first = query_Xs[0]
    kind = first.shape[1:], first.dtype
    if first.ndim < 2 or first.dtype.kind not in "fiu":
        return None
    alike = all(
        type(X) is np.ndarray and (X.shape[1:], X.dtype) == kind and len(X)
        for X in query_Xs
    )
    return [len(X) for X in query_Xs] if alike else None


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


def representative(tasks: Any, seed: int) -> TaskSet | ClassPool:
    """Return tasks themselves, or a fixed sample of a TaskDistribution."""
    if isinstance(tasks, TaskSet | ClassPool):
        return tasks
    return tasks.sample(SAMPLED_TASKS, seed)


def task_names(tasks: TaskSet | ClassPool) -> list[Any]:
    """Return names of tasks, or labels of classes, for messages."""
    if isinstance(tasks, ClassPool):
        return tasks.classes.tolist()
    return list(tasks.names)


def whereabouts(error: Exception, rows: PooledRows, names: Sequence[Any]) -> str:
    """Return where rows lack values or hold text, in brackets, if an error is of that.

    For errors of scikit-learn's estimators, which know no tasks.
    """
    about = set(re.findall(r"[a-z]+", str(error).lower()))
    X = without_tensors(rows.X)
    if not isinstance(X, pd.DataFrame):
        X = pd.DataFrame(np.asarray(X).reshape(len(X), -1))
    bad, what = X.isna(), "a missing value"
    if "convert" in about:
        bad, what = ~bad & X.apply(pd.to_numeric, errors="coerce").isna(), "text"
    elif about & _INFINITY and not bad.to_numpy().any():
        bad, what = X.select_dtypes("number").abs() == np.inf, "infinity"
    elif not about & (_MISSING | _INFINITY):
        return ""
    lines = bad.to_numpy().any(axis=1)
    if not lines.any():
        return ""
    place = task_of_row(int(lines.argmax()), rows.offsets, names)
    return f" (there is {what} in {place})"


def task_of_row(row: int, offsets: NDArray[np.int64], names: Sequence[Any]) -> str:
    """Return what messages call a row of pooled tasks."""
    task = int(np.searchsorted(offsets, row, side="right")) - 1
    return f"task {names[task]!r}, row {row - offsets[task]}"
