"""Task: one small supervised problem, a view of rows pooled with those of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklmeta._pooling import Container, PooledRows, pool_rows, slice_rows, task_name
from sklmeta._task_tables import count_text, row_text


@dataclass(frozen=True, eq=False)
class TaskPool:
    """Rows that many Tasks look into, and their names."""

    rows: PooledRows
    names: tuple[Any, ...]
    named: NDArray[np.bool_]  # (T,), False where the name is only a position


class Task:
    """One small supervised problem: a few rows with their targets.

    A Task is immutable and compares by identity. The tasks of a `TaskSet` are views
    of its rows.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features), (n_rows, height, width) or \
            (n_rows, height, width, channels)
        Rows; numpy, pandas and torch containers are kept as they are.
    y : array-like of shape (n_rows,) or (n_rows, n_outputs)
        Labels of any kind, or numbers.
    name : hashable, default=None
        Name of the task; without one, a `TaskSet` names it by its position.
    support : array-like of shape (n_rows,), dtype=bool, default=None
        Fixed mask of the rows to adapt on (calibration rows); the others are to be
        predicted. None lets each episode draw its own.
    domain : hashable, default=None
        Name of the source that the task is from, if there are several: a hospital, a
        kind of sensor. See `TaskSet.from_domains`.

    Raises
    ------
    ValueError
        If there are no rows, X and y differ in length, or `support` leaves no row to
        adapt on or none to predict.

    Examples
    --------
    >>> from sklmeta.tasks import Task
    >>> task = Task([[0.0], [1.0]], [1.0, 3.0], name="Lyon")
    >>> task
    Task('Lyon': 2 rows of 1 feature)
    >>> len(task), task.X.shape
    (2, (2, 1))
    """

    __slots__ = ("_pool", "_position")
    _pool: TaskPool
    _position: int

    def __init__(
        self,
        X: Any,
        y: Any,
        name: Any = None,
        *,
        support: Any = None,
        domain: Any = None,
    ):
        name = task_name(name)
        rows = pool_rows(X, y, names=(name,), support=support, domains=[domain])
        pool = TaskPool(rows, (name,), np.array([name is not None]))
        object.__setattr__(self, "_pool", pool)
        object.__setattr__(self, "_position", 0)

    @classmethod
    def _view(cls, pool: TaskPool, position: int) -> Task:
        """Return a task that looks into a pool's rows."""
        task = object.__new__(cls)
        object.__setattr__(task, "_pool", pool)
        object.__setattr__(task, "_position", position)
        return task

    @property
    def _slice(self) -> slice:
        return self._pool.rows.task(self._position)

    @property
    def X(self) -> Container:
        """Rows, in the container they came in; shares the pool's memory."""
        return slice_rows(self._pool.rows.X, self._slice)

    @property
    def y(self) -> NDArray[Any]:
        """Targets, shape (n_rows,) or (n_rows, n_outputs)."""
        return self._pool.rows.y[self._slice]

    @property
    def support(self) -> NDArray[np.bool_] | None:
        """Fixed support mask, shape (n_rows,), or None."""
        rows = self._pool.rows
        if rows.support is None or not rows.has_support[self._position]:
            return None
        return rows.support[self._slice]

    @property
    def name(self) -> Any:
        """Name as given; else the position in the TaskSet it was made with, or None."""
        return self._pool.names[self._position]

    @property
    def named(self) -> bool:
        """Whether the name was given, rather than being a position."""
        return bool(self._pool.named[self._position])

    @property
    def domain(self) -> Any:
        """Name of the source that the task is from, or None."""
        domains = self._pool.rows.domains
        return None if domains is None else domains[self._position]

    def __len__(self) -> int:
        offsets = self._pool.rows.offsets
        return int(offsets[self._position + 1] - offsets[self._position])

    def __float__(self) -> float:
        # What numpy asks of the items of a TaskSet that is taken for rows.
        raise TypeError(
            f"{self!r} is no row: row transformers and estimators of scikit-learn take "
            "the rows of one task. On tasks use make_meta_pipeline, or "
            "TaskTransformer(transformer)."
        )

    def __setattr__(self, attribute: str, value: Any) -> None:
        raise AttributeError("A Task is immutable.")

    def __delattr__(self, attribute: str) -> None:
        raise AttributeError("A Task is immutable.")

    def __repr__(self) -> str:
        name = "" if self.name is None else f"{self.name!r}: "
        rows = count_text(len(self), "row")
        return f"Task({name}{rows} of {row_text(self._pool.rows.row_shape)})"

    def __copy__(self) -> Task:
        return self

    def __reduce__(self) -> Any:
        rows = self._pool.rows.take(np.array([self._position])).detached()
        pool = TaskPool(rows, (self.name,), np.array([self.named]))
        return Task._view, (pool, 0)
