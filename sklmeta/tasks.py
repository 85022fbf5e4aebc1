"""Tasks: what every meta-learner is trained on, and the one normaliser of its forms.

`TaskSet` (items are tasks) and `ClassPool` (items are classes) are immutable tuples
whose slices stay what they are, so that scikit-learn's splitters and searches fold
over tasks as they fold over rows. `as_tasks` makes one of them of every input form.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sklmeta._class_pool import ClassPool
from sklmeta._pooling import PooledRows
from sklmeta._task import Task
from sklmeta._task_set import NO_TASKS, TaskSet

__all__ = [
    "ClassPool",
    "PooledRows",
    "Task",
    "TaskDistribution",
    "TaskSet",
    "ValidationTasks",
    "as_tasks",
]

_NO_GROUPS = (
    "X and y alone do not say which rows belong to which task, and sklmeta does not "
    "guess. Give the task of each row, fit(X, y, groups=task_ids) (inside "
    "scikit-learn's searches and pipelines after "
    "sklearn.set_config(enable_metadata_routing=True)); or give ClassPool(X, y) to "
    "draw N-way K-shot episodes from one labelled data set; or give a TaskSet, as "
    "TaskSet.from_frame(df, target=, task=) makes it of a DataFrame."
)


class TaskDistribution(ABC):
    """Source of fresh tasks; meta-training sees new ones in every meta-update.

    Inheriting is optional: whatever has a method `sample(n_tasks, random_state)`
    counts as one.

    Notes
    -----
    Early stopping and ``calibrate=`` judge fresh tasks. A source that repeats tasks has
    a second method, ``hold_out(fraction, random_state)``, which returns two sources
    without common tasks: one to train on, and one to judge. `MixedTasks` has it.

    Examples
    --------
    >>> import numpy as np
    >>> from sklmeta.tasks import TaskDistribution, TaskSet
    >>> class Lines:
    ...     def sample(self, n_tasks, random_state=None):
    ...         rng = np.random.default_rng(random_state)
    ...         x, slope = (
    ...             rng.uniform(size=(n_tasks, 10)),
    ...             rng.normal(size=(n_tasks, 1)),
    ...         )
    ...         offsets = np.arange(n_tasks + 1) * 10
    ...         y = slope * x
    ...         return TaskSet.from_offsets(x.reshape(-1, 1), y.ravel(), offsets)
    >>> isinstance(Lines(), TaskDistribution)
    True
    >>> Lines().sample(3, random_state=0)
    TaskSet(3 tasks, 10 rows each, 1 feature)
    """

    @abstractmethod
    def sample(self, n_tasks: int, random_state: Any = None) -> TaskSet:
        """Draw tasks.

        Parameters
        ----------
        n_tasks : int
            Number of tasks to draw.
        random_state : int, RandomState or Generator, default=None
            Where the randomness comes from.

        Returns
        -------
        tasks : TaskSet
            `n_tasks` tasks.
        """

    @property
    def shape(self) -> Any:
        """Refuse to be taken for data: scikit-learn's splitters and searches ask."""
        raise TypeError(
            f"A {type(self).__name__} draws fresh tasks whenever asked, so it has no "
            "items to split, search over or count. Draw some: "
            "X.sample(n_tasks, random_state)."
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.shape  # refuses

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        # Data frames have a method `sample` too, of rows: the first parameter tells.
        sample = getattr(other, "sample", None)
        if cls is not TaskDistribution or not callable(sample):
            return NotImplemented
        try:
            return "n_tasks" in inspect.signature(sample).parameters or NotImplemented
        except (TypeError, ValueError):
            return NotImplemented


@dataclass(frozen=True)
class ValidationTasks:
    """Held-out tasks that scikit-learn's searches hand on whole.

    A search cuts every fit parameter that has as many items as there are tasks; this
    wrapper has no length, so it is left alone.

    Parameters
    ----------
    tasks : TaskSet, ClassPool, list of Task or (X, y) pairs, or ValidationTasks
        Held-out tasks.

    Examples
    --------
    >>> from sklmeta.tasks import Task, ValidationTasks
    >>> ValidationTasks([Task([[0.0], [1.0]], [0.0, 1.0])]).tasks
    TaskSet(1 task, 2 rows each, 1 feature)
    """

    tasks: TaskSet | ClassPool | TaskDistribution

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", as_tasks(self.tasks))


def as_tasks(
    X: Any, y: Any = None, groups: Any = None
) -> TaskSet | ClassPool | TaskDistribution:
    """Normalise every form in which tasks can be given.

    Parameters
    ----------
    X : TaskSet, ClassPool, TaskDistribution, list of Task or of (X, y) pairs, or \
            array-like of shape (n_rows, n_features)
        Tasks, or the rows of all tasks in long format. A dict of domain name to
        ClassPool or to tasks is joined by `from_domains`, as is a list of ClassPools,
        whose domains are called by position.
    y : array-like of shape (n_rows,) or (n_rows, n_outputs), default=None
        Targets of rows in long format; None with tasks.
    groups : array-like, default=None
        The task of each row in long format. With tasks: one family label for each
        task, for splitters only, and ignored here.

    Returns
    -------
    tasks : TaskSet, ClassPool or TaskDistribution
        The tasks; those already in one of these classes are returned as they are.

    Raises
    ------
    TypeError
        If X is one Task, or nothing that tasks can be made of.
    ValueError
        If there are no tasks, or long format comes without `groups`.

    Examples
    --------
    >>> from sklmeta.tasks import as_tasks
    >>> as_tasks([[0.0], [1.0], [2.0]], [1, 2, 3], groups=["Lyon", "Nice", "Lyon"])
    TaskSet(2 tasks, 1 to 2 rows, 1 feature)
    """
    if isinstance(X, ValidationTasks):
        X = X.tasks
    if is_domains(X):
        X = _of_domains(X)
    if isinstance(X, Task):
        raise TypeError(
            f"Got one task, {X!r}; expected many. Give a list, [task], or to adapt a "
            "fitted meta-learner to it, adapt(task.X, task.y)."
        )
    if not is_tasks(X):
        return _from_long_format(X, y, groups)
    if y is not None:
        raise ValueError(
            "Got y beside tasks, which bring their own targets; call fit(tasks) or "
            "score(tasks) without y."
        )
    if isinstance(X, TaskDistribution):
        return _from_distribution(X, groups)
    if not len(X):
        raise ValueError(NO_TASKS)
    if groups is not None and len(groups) != len(X):
        raise ValueError(
            f"groups has length {len(groups)} beside {len(X)} tasks; expected one "
            "family label per task, or none. The tasks of rows in long format are "
            "given by fit(X, y, groups=task_ids)."
        )
    return X if isinstance(X, (TaskSet, ClassPool)) else TaskSet(X)


def is_tasks(X: Any) -> bool:
    """Tell tasks in any form from rows in long format."""
    if isinstance(X, (TaskSet, ClassPool)) or is_domains(X):
        return True
    if isinstance(X, (list, tuple)):
        return not X or isinstance(X[0], Task) or all(map(_is_pair, X))
    if isinstance(X, np.ndarray):
        return X.dtype == object and X.ndim == 1 and len(X) > 0 and is_tasks(list(X))
    return isinstance(X, TaskDistribution)


def is_domains(X: Any) -> bool:
    """Tell a dict of domains, or a list of class pools, which are domains too."""
    if isinstance(X, Mapping):
        return not hasattr(X, "shape")  # SciPy has sparse matrices that are dicts
    is_list = isinstance(X, (list, tuple)) and not isinstance(X, (TaskSet, ClassPool))
    return is_list and len(X) > 0 and all(isinstance(x, ClassPool) for x in X)


def _of_domains(X: Any) -> TaskSet | ClassPool:
    """Join domains; those of a list are called by position."""
    parts = X if isinstance(X, Mapping) else dict(enumerate(X))
    if any(isinstance(part, ClassPool) for part in parts.values()):
        return ClassPool.from_domains(parts)
    return TaskSet.from_domains(parts)


def _is_pair(item: Any) -> bool:
    """Tell an (X, y) pair or a Task from a row of two numbers."""
    if isinstance(item, Task):
        return True
    return isinstance(item, tuple) and len(item) == 2 and np.ndim(item[0]) > 0


def _from_long_format(X: Any, y: Any, groups: Any) -> TaskSet:
    if not isinstance(X, (list, tuple, pd.DataFrame)) and not hasattr(X, "__array__"):
        raise TypeError(
            f"Tasks cannot be made of a {type(X).__name__}; expected a TaskSet, a "
            "ClassPool, a TaskDistribution, a list of Task or (X, y) pairs, or "
            "X, y and groups."
        )
    if groups is None:
        raise ValueError(_NO_GROUPS)
    if y is None:
        raise ValueError(
            "Got groups but no y; rows in long format need all of X, y and groups."
        )
    return TaskSet.from_arrays(X, y, groups)


def _from_distribution(X: TaskDistribution, groups: Any) -> TaskDistribution:
    if groups is not None:
        raise ValueError(
            f"Got groups beside a {type(X).__name__}, which draws its own tasks; "
            "leave groups out."
        )
    return X
