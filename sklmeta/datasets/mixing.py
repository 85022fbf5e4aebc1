"""Simulated tasks beside real ones: a source of both, in given proportions.

Few real tasks make a meta-learner overfit; simulated ones are as many as are asked for,
and never quite like the real ones. Meta-training on both lets the former say what tasks
are like, and the latter what functions there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from sklmeta.datasets._random import RandomStateLike, as_generator
from sklmeta.tasks import ClassPool, TaskDistribution, TaskSet, as_tasks

__all__ = ["MixedTasks"]


@dataclass(frozen=True)
class MixedTasks(TaskDistribution):
    """Distribution of tasks that come from several sources, real or simulated.

    Parameters
    ----------
    sources : sequence of TaskSet or TaskDistribution
        Where tasks come from; lists of tasks count as a TaskSet. Those of a TaskSet
        come in random order, none of them twice before all have come once in a call.
    weights : sequence of float, default=None
        Share of each source, up to a factor; None: all the same.

    Raises
    ------
    TypeError
        If a source is a ClassPool, or is none at all.
    ValueError
        If there is no source, or weights do not fit them.

    See Also
    --------
    GaussianProcessTasks : Simulated regression tasks.
    Sinusoids : The same of sine waves.

    Notes
    -----
    Rows of all sources have the same features and targets, in the same units: simulated
    targets are best scaled as real ones are, or targets are put in units of their own
    task, ``normalize_y="task"``. Where real rows are a DataFrame, simulated ones get
    its columns. Tasks lose their names.

    Examples
    --------
    >>> from sklmeta.datasets import GaussianProcessTasks, MixedTasks, make_sinusoids
    >>> real = make_sinusoids(10, n_samples=20, random_state=0)
    >>> mixed = MixedTasks([real, GaussianProcessTasks(n_samples=30)], weights=[1, 3])
    >>> mixed.sample(100, random_state=0)
    TaskSet(100 tasks, 20 to 30 rows, 1 feature)
    """

    sources: Sequence[Any]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Refuse what no task can be drawn from."""
        if not isinstance(self.sources, (list, tuple)) or isinstance(
            self.sources, TaskSet
        ):
            raise TypeError(
                "sources must be a list of TaskSets and TaskDistributions, got "
                f"{type(self.sources).__name__}."
            )
        if not self.sources:
            raise ValueError(
                "sources must hold at least one source of tasks, got none."
            )
        sources = tuple(as_tasks(source) for source in self.sources)
        for position, source in enumerate(sources):
            if isinstance(source, ClassPool):
                raise TypeError(
                    f"sources[{position}] is a ClassPool, whose items are classes; "
                    "expected a TaskSet or a TaskDistribution. Give tasks, such as "
                    "TaskSet(tasks, labels='local')."
                )
        object.__setattr__(self, "sources", sources)
        object.__setattr__(self, "weights", self._checked_weights())

    def sample(self, n_tasks: int, random_state: RandomStateLike = None) -> TaskSet:
        """Draw tasks, in random order.

        Parameters
        ----------
        n_tasks : int
            How many tasks.
        random_state : int, RandomState, Generator or None, default=None
            An int gives the same tasks each time; a generator moves on.

        Returns
        -------
        tasks : TaskSet of length n_tasks
            Tasks without names; a fixed support mask of a real task is kept.

        Raises
        ------
        ValueError
            If `n_tasks` is below 1, or sources differ in features, targets or labels.
        """
        if not isinstance(n_tasks, (int, np.integer)) or n_tasks < 1:
            raise ValueError(f"n_tasks must be an int of at least 1, got {n_tasks!r}.")
        rng = as_generator(random_state)
        weights = np.asarray(self.weights)
        counts = rng.multinomial(n_tasks, weights / weights.sum())
        drawn = [
            _drawn(source, int(count), rng)
            for source, count in zip(self.sources, counts, strict=True)
            if count
        ]
        columns = next((c for c in map(_columns, self.sources) if c is not None), None)
        mixed, *others = (_unnamed(tasks, columns) for tasks in drawn)
        for tasks in others:
            mixed = mixed + tasks
        order: Any = rng.permutation(n_tasks)
        return mixed[order]

    def _checked_weights(self) -> tuple[float, ...]:
        n_sources = len(self.sources)
        if self.weights is None:
            return (1.0,) * n_sources
        weights = np.asarray(self.weights, dtype=float)
        fits = weights.shape == (n_sources,) and np.isfinite(weights).all()
        if not fits or (weights < 0).any() or not weights.sum() > 0:
            raise ValueError(
                f"weights must be {n_sources} finite numbers >= 0, one for each source "
                f"and not all 0; got {self.weights!r}."
            )
        return tuple(weights.tolist())


def _drawn(source: Any, count: int, rng: Generator) -> Any:
    """Draw tasks from one source."""
    if not isinstance(source, TaskSet):
        return source.sample(count, int(rng.integers(2**31)))
    rounds = -(-count // len(source))
    order = [rng.permutation(len(source)) for _ in range(rounds)]
    return source[np.concatenate(order)[:count]]


def _columns(source: Any) -> Any:
    """Return the columns of real rows that are a DataFrame, else None."""
    X = source.rows().X if isinstance(source, TaskSet) else None
    return X.columns if isinstance(X, pd.DataFrame) else None


def _unnamed(tasks: TaskSet, columns: Any) -> TaskSet:
    """Return tasks without names, in a DataFrame if there are columns that fit."""
    rows = tasks.rows()
    X = rows.X
    fits = isinstance(X, np.ndarray) and X.ndim == 2 and columns is not None
    if fits and X.shape[1] == len(columns):
        X = pd.DataFrame(X, columns=columns)
    support: NDArray[np.bool_] | None = rows.support
    labels: Any = tasks.labels
    return TaskSet.from_offsets(X, rows.y, rows.offsets, labels=labels, support=support)
