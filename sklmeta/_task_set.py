"""TaskSet: many small data sets as one value that scikit-learn can split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import Any, Literal, Self, SupportsIndex, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sklmeta._domains import (
    domain_names,
    domain_rows,
    domains_of_tasks,
    refuse_no_domains,
)
from sklmeta._indexing import PooledTuple, as_positions
from sklmeta._pooling import (
    PooledRows,
    as_container,
    as_mask,
    as_targets,
    check_lengths,
    concat_rows,
    pool_rows,
    sorted_groups,
    take_rows,
    task_name,
)
from sklmeta._task import Task, TaskPool
from sklmeta._task_tables import (
    count_text,
    feature_columns,
    row_text,
    size_text,
    task_frame,
    task_summary,
)

NO_TASKS = "There are no tasks; expected at least one."


class TaskSet(PooledTuple):
    """Many tasks with the same features; the items are tasks, so folds are of tasks.

    An immutable tuple of `Task` with the `shape` and the index rules of a
    one-dimensional array: an int gives that task; a slice, integers, or a bool mask
    give a TaskSet that shares the rows in memory and keeps the names. `+` joins sets.

    Parameters
    ----------
    tasks : iterable of Task or (X, y) pairs
        Their rows are pooled (copied) unless they already share a pool. Names that
        were not given become positions.
    labels : {"shared", "local"}, default="shared"
        Whether class labels mean the same in every task ("shared": churned or not) or
        only inside one ("local": five characters never seen before). Irrelevant for
        regression.

    Raises
    ------
    ValueError
        If there are no tasks, two have one name, or they differ in their features.

    See Also
    --------
    ClassPool : One labelled data set whose classes make the tasks.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklmeta.tasks import TaskSet
    >>> sales = pd.DataFrame(
    ...     {
    ...         "store": ["Lyon", "Lyon", "Nice", "Nice"],
    ...         "price": [1.0, 2.0, 1.0, 3.0],
    ...         "units": [9, 7, 5, 2],
    ...     }
    ... )
    >>> tasks = TaskSet.from_frame(sales, target="units", task="store")
    >>> tasks
    TaskSet(2 tasks, 2 rows each, 1 feature)
    >>> tasks[1]
    Task('Nice': 2 rows of 1 feature)
    >>> tasks[[1]].names
    ('Nice',)
    """

    _pool: TaskPool
    _positions: NDArray[np.int64]
    labels: str

    def __new__(
        cls,
        tasks: Iterable[Task | tuple[Any, Any]],
        *,
        labels: Literal["shared", "local"] = "shared",
    ) -> Self:
        """Pool the rows of the tasks."""
        items = [_as_task(item, i) for i, item in enumerate(tasks)]
        if not items:
            raise ValueError(NO_TASKS)
        named = np.array([task.named for task in items])
        names = _unique_names([task.name for task in items], named)
        first = items[0]._pool
        if all(task._pool is first for task in items):
            rows = first.rows.take(np.array([task._position for task in items]))
        else:
            parts = [task._pool.rows.take(np.array([task._position])) for task in items]
            rows = concat_rows(parts, names)
        return cls._of_pool(TaskPool(rows, names, named), labels)

    @classmethod
    def from_arrays(
        cls,
        X: Any,
        y: Any,
        groups: Any,
        *,
        labels: Literal["shared", "local"] = "shared",
        support: Any = None,
        domains: Any = None,
    ) -> Self:
        """Make one task of each group of rows.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features) or of images
            Rows of all tasks. Kept without a copy if each group's rows are together.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Targets.
        groups : array-like of shape (n_rows,)
            Name of each row's task; tasks come in order of first appearance.
        labels : {"shared", "local"}, default="shared"
            What class labels mean, see `TaskSet`.
        support : array-like of shape (n_rows,), dtype=bool, default=None
            Fixed mask of the rows to adapt on.
        domains : array-like of shape (n_rows,), default=None
            Domain of each row's task, see `from_domains`.

        Returns
        -------
        tasks : TaskSet
            The tasks; rows keep their order within each.

        Raises
        ------
        TypeError
            If X is sparse, or a name is not hashable.
        ValueError
            If lengths differ, a row has no group or no domain, rows of one task have
            several domains, or `support` leaves a task no row to adapt on or none to
            predict.
        """
        X, y = as_container(X, ""), as_targets(y, "")
        check_lengths(X, y, "")
        order, offsets, names = sorted_groups(groups, len(X))
        if order is not None:
            X, y = take_rows(X, order), y[order]
            if support is not None:
                support = as_mask(support, len(order), "")[order]
        if domains is not None:
            domains = domains_of_tasks(domains, order, offsets, names)
        return cls.from_offsets(
            X, y, offsets, names=names, labels=labels, support=support, domains=domains
        )

    @classmethod
    def from_frame(
        cls,
        df: pd.DataFrame,
        *,
        target: Any,
        task: Any,
        features: Sequence[Any] | None = None,
        support: Any = None,
        domain: Any = None,
        labels: Literal["shared", "local"] = "shared",
    ) -> Self:
        """Make one task of each group of rows of a DataFrame.

        Parameters
        ----------
        df : DataFrame
            One row per observation.
        target : str or list of str
            Column to predict, or columns.
        task : str
            Column that says to which task a row belongs.
        features : list of str, default=None
            Columns to predict from; None takes all that are nothing else.
        support : str, default=None
            Column of bools that fixes the rows to adapt on.
        domain : str, default=None
            Column that says which domain the row's task is of, see `from_domains`.
        labels : {"shared", "local"}, default="shared"
            What class labels mean, see `TaskSet`.

        Returns
        -------
        tasks : TaskSet
            Tasks in order of first appearance; `X` stays a DataFrame.

        Raises
        ------
        TypeError
            If `df` is no DataFrame, or `task`, `support` or `domain` names several
            columns.
        ValueError
            If a column is missing or has two roles, a row has no task or no domain,
            rows of one task have several domains, or no features are left.
        """
        roles = [*(target if isinstance(target, list) else [target]), task]
        roles += [column for column in (support, domain) if column is not None]
        features = feature_columns(df, roles, features)
        return cls.from_arrays(
            df[features],
            df[target],
            df[task],
            labels=labels,
            support=None if support is None else df[support].to_numpy(),
            domains=None if domain is None else df[domain],
        )

    @classmethod
    def from_domains(
        cls,
        tasks: Mapping[Any, TaskSet | Iterable[Task | tuple[Any, Any]]],
        *,
        labels: Literal["shared", "local"] = "shared",
    ) -> Self:
        """Join tasks from several sources, each with a name: its domain.

        Meta-learners learn what all have in common. Their `domain_weights` says how
        often each domain is drawn from, `evaluate` tells the scores of each.

        Parameters
        ----------
        tasks : dict of domain name to TaskSet, or to list of Task or (X, y) pairs
            The tasks of each domain; a domain that they already have gives way.
        labels : {"shared", "local"}, default="shared"
            What class labels of lists mean, see `TaskSet`; a TaskSet has its own.

        Returns
        -------
        tasks : TaskSet
            All tasks, domain after domain. Names stay as they are, unless two domains
            have one in common: then each becomes "domain/name".

        Raises
        ------
        TypeError
            If `tasks` is no dict, or a domain holds something else than tasks.
        ValueError
            If there are none, or domains differ in their features or `labels`; the
            message names the domains.

        See Also
        --------
        ClassPool.from_domains : The same of classes, for few-shot classification.
        sklmeta.datasets.MixedTasks : A source that goes on drawing tasks, simulated
            ones too.

        Examples
        --------
        >>> from sklmeta.datasets import make_sinusoids
        >>> tasks = TaskSet.from_domains(
        ...     {
        ...         "hospital": make_sinusoids(3, random_state=0),
        ...         "clinic": make_sinusoids(2, random_state=1),
        ...     }
        ... )
        >>> tasks[tasks.domains == "clinic"]
        TaskSet(2 tasks, 20 rows each, 1 feature, 1 domain)
        """
        refuse_no_domains(tasks, "tasks")
        sets = {
            task_name(domain, "domain"): _as_domain(domain, part, labels)
            for domain, part in tasks.items()
        }
        (first, one), *others = sets.items()
        for domain, other in others:
            if other.labels != one.labels:
                raise ValueError(
                    f"Domain {first!r} has labels={one.labels!r} and domain {domain!r} "
                    f"labels={other.labels!r}: make both the same with "
                    "TaskSet(tasks, labels=...)."
                )
        named = np.concatenate([part.named for part in sets.values()])
        names = _number_unnamed(_names_in_domains(sets), named)
        rows = domain_rows({d: part.rows() for d, part in sets.items()}, names)
        return cls._of_pool(TaskPool(rows, names, named), one.labels)

    @classmethod
    def from_offsets(
        cls,
        X: Any,
        y: Any,
        offsets: Any,
        *,
        names: Sequence[Any] | None = None,
        labels: Literal["shared", "local"] = "shared",
        support: Any = None,
        domains: Any = None,
    ) -> Self:
        """Make a TaskSet of rows that already lie task after task, without a copy.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features) or of images
            Rows of all tasks.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Targets.
        offsets : array-like of shape (n_tasks + 1,), dtype=int
            Task t owns the rows `offsets[t]` to `offsets[t + 1] - 1`.
        names : sequence of hashable, default=None
            Names of the tasks; None names them by position.
        labels : {"shared", "local"}, default="shared"
            What class labels mean, see `TaskSet`.
        support : array-like of shape (n_rows,), dtype=bool, default=None
            Fixed mask of the rows to adapt on.
        domains : sequence of hashable, default=None
            Domain of each task, see `from_domains`.

        Returns
        -------
        tasks : TaskSet
            The tasks; a set of a few is made in tens of microseconds.

        Raises
        ------
        ValueError
            If `offsets` do not cut the rows into tasks, a task has no rows, or two
            have one name.

        Examples
        --------
        >>> TaskSet.from_offsets([[1.0], [2.0], [3.0]], [1, 2, 3], [0, 1, 3])
        TaskSet(2 tasks, 1 to 2 rows, 1 feature)
        """
        n_tasks = len(offsets) - 1
        if n_tasks < 1:
            raise ValueError(NO_TASKS)
        if names is not None and len(names) != n_tasks:
            raise ValueError(f"Got {len(names)} names for {n_tasks} tasks.")
        named = np.full(n_tasks, names is not None)
        if names is None:
            names = tuple(range(n_tasks))
        else:
            names = _unique_names([task_name(name) for name in names], named)
        rows = pool_rows(X, y, offsets, names=names, support=support, domains=domains)
        return cls._of_pool(TaskPool(rows, names, named), labels)

    @classmethod
    def _of_pool(cls, pool: TaskPool, labels: str) -> Self:
        """Return all tasks of a pool, without checks."""
        if labels not in ("shared", "local"):
            raise ValueError(f"labels must be 'shared' or 'local', got {labels!r}.")
        n_tasks = len(pool.names)
        items = [Task._view(pool, position) for position in range(n_tasks)]
        positions = np.arange(n_tasks)
        return cls._make(items, _pool=pool, _positions=positions, labels=labels)

    @overload
    def __getitem__(self, key: SupportsIndex) -> Task: ...
    @overload
    def __getitem__(self, key: Any) -> Any: ...
    def __getitem__(self, key: Any) -> Any:
        if type(key) is int:
            return tuple.__getitem__(self, key)
        positions = as_positions(key, len(self))
        if isinstance(positions, int):
            return tuple.__getitem__(self, positions)
        return self._select(positions)

    def _select(self, positions: NDArray[np.int64]) -> Self:
        items = [tuple.__getitem__(self, i) for i in positions.tolist()]
        return self._make(
            items,
            _pool=self._pool,
            _positions=self._positions[positions],
            labels=self.labels,
        )

    @property
    def names(self) -> tuple[Any, ...]:
        """Names of the tasks, in order; an index that repeats a task repeats it."""
        names = self._pool.names
        return tuple(names[i] for i in self._positions.tolist())

    @property
    def named(self) -> NDArray[np.bool_]:
        """Which names were given rather than being positions, shape (n_tasks,)."""
        return self._pool.named[self._positions]

    @property
    def domains(self) -> NDArray[Any]:
        """Domains of the tasks, shape (n_tasks,); None where there is none."""
        domains = self._pool.rows.domains
        if domains is None:
            return np.full(len(self), None)
        return domains[self._positions]

    def rows(self) -> PooledRows:
        """Return the rows of these tasks in order.

        Returns
        -------
        rows : PooledRows
            Views of the pool where the tasks are adjacent in it; else copies, made
            once.
        """
        return self._own_rows

    @cached_property
    def _own_rows(self) -> PooledRows:
        return self._pool.rows.take(self._positions)

    def summary(self) -> pd.DataFrame:
        """Describe each task in one row.

        Returns
        -------
        table : DataFrame with the task names as index
            Columns `domain` where there are any; `n_rows`; `n_support` where masks are
            fixed; `n_labels` (distinct targets that are not floats); `y_mean` and
            `y_std` of numbers. Several outputs are numbered.
        """
        return task_summary(self.rows(), self.names)

    def to_frame(self, *, target: str = "y", task: str = "task") -> pd.DataFrame:
        """Return the rows of all tasks in long format.

        Parameters
        ----------
        target : str, default="y"
            Name of the target column; several outputs are numbered: y0, y1, ...
        task : str, default="task"
            Name of the column that holds the task's name.

        Returns
        -------
        df : DataFrame
            Columns: task, features (named x0, x1, ... if they had no names), target,
            `support` where masks are fixed, and `domain` where there are any.

        Raises
        ------
        ValueError
            If X holds images, or a feature has the name of another column.
        """
        return task_frame(self.rows(), self.names, target=target, task=task)

    def __add__(self, other: Any) -> Self:
        if not isinstance(other, TaskSet):
            return self.__radd__(other)
        if self.labels != other.labels:
            raise ValueError(
                f"Tasks with labels={self.labels!r} and labels={other.labels!r} cannot "
                "be joined: make both the same with TaskSet(tasks, labels=...)."
            )
        both = _given_names(self) & _given_names(other)
        if both:
            raise ValueError(
                f"Both sets have a task named {min(both, key=str)!r}; names must be "
                "unique to tell tasks apart. Rename one of them."
            )
        named = np.concatenate([self.named, other.named])
        names = _number_unnamed([*self.names, *other.names], named)
        rows = concat_rows([self.rows(), other.rows()], names)
        return self._of_pool(TaskPool(rows, names, named), self.labels)

    def __repr__(self) -> str:
        if not self:
            return "TaskSet(0 tasks)"
        sizes = self._pool.rows.sizes[self._positions]
        parts = [
            count_text(len(self), "task"),
            size_text(sizes),
            row_text(self._pool.rows.row_shape),
        ]
        if self.labels != "shared":
            parts.append(f"labels={self.labels!r}")
        if self._pool.rows.domains is not None:
            parts.append(count_text(len(domain_names(self.domains)), "domain"))
        return f"TaskSet({', '.join(parts)})"

    def __reduce__(self) -> Any:
        pool = TaskPool(self.rows().detached(), self.names, self.named)
        return type(self)._of_pool, (pool, self.labels)


def _as_task(item: Any, position: int) -> Task:
    """Return a Task as it is, or make one of an (X, y) pair."""
    if isinstance(item, Task):
        return item
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise TypeError(
            f"Item {position} is a {type(item).__name__}; expected a Task or an (X, y) "
            "pair. Rows with task ids make tasks by from_arrays or from_frame."
        )
    rows = pool_rows(*item, names=(position,))
    return Task._view(TaskPool(rows, (None,), np.array([False])), 0)


def _unique_names(names: Sequence[Any], named: NDArray[np.bool_]) -> tuple[Any, ...]:
    """Refuse names given twice, and number the tasks that have none."""
    seen: dict[Any, int] = {}
    for position, (name, given) in enumerate(zip(names, named.tolist(), strict=True)):
        if given and seen.setdefault(name, position) != position:
            raise ValueError(
                f"Tasks {seen[name]} and {position} are both named {name!r}; names "
                "must be unique to tell tasks apart."
            )
    return _number_unnamed(names, named)


def _number_unnamed(names: Sequence[Any], named: NDArray[np.bool_]) -> tuple[Any, ...]:
    """Name tasks by position where no name was given; avoid given names."""
    if named.all():
        return tuple(names)
    given = {name for name, is_given in zip(names, named, strict=True) if is_given}
    spare = (number for number in count(len(names)) if number not in given)
    return tuple(
        name if is_given else (next(spare) if position in given else position)
        for position, (name, is_given) in enumerate(zip(names, named, strict=True))
    )


def _given_names(tasks: TaskSet) -> set[Any]:
    return {name for name, given in zip(tasks.names, tasks.named, strict=True) if given}


def _names_in_domains(sets: Mapping[Any, TaskSet]) -> list[Any]:
    """Return all names, with the domain in front if two domains have one in common."""
    given = [_given_names(tasks) for tasks in sets.values()]
    clash = len(set().union(*given)) < sum(map(len, given))
    return [
        f"{domain}/{name}" if clash and is_given else name
        for domain, tasks in sets.items()
        for name, is_given in zip(tasks.names, tasks.named, strict=True)
    ]


def _as_domain(domain: Any, tasks: Any, labels: Any) -> TaskSet:
    """Return the tasks of one domain as a TaskSet."""
    if isinstance(tasks, TaskSet):
        if not len(tasks):
            raise ValueError(f"Domain {domain!r} has no tasks; leave it out.")
        return tasks
    if not isinstance(tasks, list):
        raise TypeError(
            f"Domain {domain!r} is a {type(tasks).__name__}; expected a TaskSet, or a "
            "list of Task or (X, y) pairs. Class pools are joined by "
            "ClassPool.from_domains, sources that draw tasks by MixedTasks; a single "
            "task gets its name by Task(X, y, name)."
        )
    try:
        return TaskSet(tasks, labels=labels)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Domain {domain!r}: {error}") from error
