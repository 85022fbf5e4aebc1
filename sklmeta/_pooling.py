"""Rows of many tasks in one container, with offsets that say where each task starts.

The pool keeps the container it is given (numpy, pandas or torch); numbers are made of
it only by the estimators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import Tensor

Container: TypeAlias = np.ndarray | pd.DataFrame | Tensor

_REMEDY_1D = (
    "use X.reshape(-1, 1) if it has one feature, X.reshape(1, -1) if it is one row"
)


@dataclass(frozen=True, eq=False)
class PooledRows:
    """Rows of T tasks, task after task.

    Attributes
    ----------
    X : ndarray, DataFrame or Tensor of shape (R, *row_shape)
        Rows of all tasks in task order.
    y : ndarray of shape (R,) or (R, n_outputs)
        Targets.
    offsets : ndarray of shape (T + 1,), dtype=int64
        Task t owns the rows `offsets[t]` to `offsets[t + 1] - 1`.
    has_support : ndarray of shape (T,), dtype=bool
        True where the task came with a fixed support mask.
    support : ndarray of shape (R,), dtype=bool, or None
        Fixed support masks; all False in tasks without one, None if no task has one.
    domains : ndarray of shape (T,), dtype=object, or None
        Where tasks are from; None in tasks without one, None if no task has one.
    """

    X: Container
    y: NDArray[Any]
    offsets: NDArray[np.int64]
    has_support: NDArray[np.bool_]
    support: NDArray[np.bool_] | None = None
    domains: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of rows of each task, shape (T,)."""
        return np.diff(self.offsets)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row of X: (F,), (H, W) or (H, W, C)."""
        return tuple(self.X.shape[1:])

    def task(self, position: int) -> slice:
        """Return the rows of one task as a slice."""
        return slice(int(self.offsets[position]), int(self.offsets[position + 1]))

    def take(self, tasks: NDArray[np.int64]) -> PooledRows:
        """Return the rows of some tasks; views, not copies, where they are adjacent."""
        n_taken = len(tasks)
        first = int(tasks[0]) if n_taken else 0
        if np.array_equal(tasks, np.arange(first, first + n_taken)):
            return self if n_taken == len(self) else self._run(first, first + n_taken)
        sizes = self.sizes[tasks]
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        # Each task's rows are a run: shift a plain count by where the run starts.
        shift = np.repeat(self.offsets[tasks] - offsets[:-1], sizes)
        index = np.arange(offsets[-1]) + shift
        support = None if self.support is None else self.support[index]
        domains = None if self.domains is None else self.domains[tasks]
        X, y = take_rows(self.X, index), self.y[index]
        return PooledRows(X, y, offsets, self.has_support[tasks], support, domains)

    def _run(self, start: int, stop: int) -> PooledRows:
        """Return the tasks from `start` to `stop - 1` as views."""
        rows = slice(int(self.offsets[start]), int(self.offsets[stop]))
        support = None if self.support is None else self.support[rows]
        return PooledRows(
            slice_rows(self.X, rows),
            self.y[rows],
            self.offsets[start : stop + 1] - self.offsets[start],
            self.has_support[start:stop],
            support,
            None if self.domains is None else self.domains[start:stop],
        )

    def detached(self) -> PooledRows:
        """Return the same rows in containers that pickle without their neighbours."""
        if not isinstance(self.X, Tensor):
            return self
        # A pickled tensor brings its whole storage along, a clone only its own rows.
        return replace(self, X=self.X.clone())

    def in_domain(self, domain: Any) -> PooledRows:
        """Return the same rows, all tasks of one domain."""
        return replace(self, domains=as_domains([domain] * len(self), len(self)))


def slice_rows(X: Container, rows: slice) -> Container:
    """Return a run of rows of X, sharing its memory."""
    return X.iloc[rows] if isinstance(X, pd.DataFrame) else X[rows]


def take_rows(X: Container, index: NDArray[np.int64]) -> Container:
    """Return rows of X by position, as a copy."""
    if isinstance(X, pd.DataFrame):
        return X.take(index)
    if isinstance(X, Tensor):
        return X[torch.from_numpy(index).to(X.device)]
    return np.take(X, index, axis=0)


def without_tensors(X: Any) -> Any:
    """Return rows or targets in a container that scikit-learn knows."""
    return X.detach().cpu().numpy() if isinstance(X, Tensor) else X


def row_array(X: Any) -> NDArray[Any]:
    """Return rows in any container as an array."""
    X = without_tensors(X)
    return X.to_numpy() if isinstance(X, pd.DataFrame) else np.asarray(X)


def as_container(X: Any, where: str) -> Container:
    """Return X as a DataFrame, Tensor or array with rows along its first axis.

    `where` opens the error messages: the task's name, or nothing.
    """
    if issparse(X):
        raise TypeError(
            f"{where}X is a sparse matrix; sklmeta needs dense rows: use X.toarray()."
        )
    if isinstance(X, Tensor):
        X = X.detach()
    elif not isinstance(X, pd.DataFrame):
        X = _as_array(X, f"{where}X")
    if X.ndim < 2:
        raise ValueError(
            f"{where}X has shape {tuple(X.shape)}, expected (n_rows, n_features), or "
            f"images (n_rows, height, width[, channels]): {_REMEDY_1D}."
        )
    return X


def as_targets(y: Any, where: str) -> NDArray[Any]:
    """Return targets as an array of shape (R,) or (R, n_outputs)."""
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    elif isinstance(y, pd.Series):
        y = _series_values(y)
    else:
        y = _as_array(y, f"{where}y")
    if y.ndim not in (1, 2):
        raise ValueError(
            f"{where}y has shape {y.shape}, expected (n_rows,) or (n_rows, n_outputs)."
        )
    return y


def pool_rows(
    X: Any,
    y: Any,
    offsets: Any = None,
    *,
    names: Sequence[Any] = (None,),
    support: Any = None,
    domains: Any = None,
) -> PooledRows:
    """Check the rows of many tasks, or of one (no `offsets`), and pool them."""
    where = task_label(names[0]) if offsets is None else ""
    X, y = as_container(X, where), as_targets(y, where)
    check_lengths(X, y, where)
    offsets = np.asarray([0, len(y)] if offsets is None else offsets)
    if offsets.dtype.kind not in "iu":
        raise ValueError(f"offsets must be integers, got dtype {offsets.dtype}.")
    offsets = offsets.astype(np.int64, copy=False)
    _check_offsets(offsets, len(y), names)
    n_tasks = len(names)
    domains = as_domains(domains, n_tasks)
    if support is None:
        has_support = np.zeros(n_tasks, dtype=bool)
        return PooledRows(X, y, offsets, has_support, None, domains)
    mask = as_mask(support, len(y), where)
    _check_mask_sizes(mask, offsets, names)
    return PooledRows(X, y, offsets, np.ones(n_tasks, dtype=bool), mask, domains)


def as_domains(domains: Any, n_tasks: int) -> NDArray[Any] | None:
    """Return the domain of each task as an array."""
    if domains is None:
        return None
    if len(domains) != n_tasks:
        raise ValueError(f"Got {len(domains)} domains for {n_tasks} tasks.")
    values = [task_name(domain, "domain") for domain in domains]
    if all(value is None for value in values):
        return None
    array = np.empty(n_tasks, dtype=object)
    for position, value in enumerate(values):  # one by one, as values can be tuples
        array[position] = value
    return array


def check_lengths(X: Container, y: NDArray[Any], where: str) -> None:
    """Refuse targets that are not one per row."""
    if len(X) != len(y):
        raise ValueError(
            f"{where}X has {len(X)} rows but y has {len(y)}; they must be equal."
        )


def _check_offsets(
    offsets: NDArray[np.int64], n_rows: int, names: Sequence[Any]
) -> None:
    """Refuse offsets that do not cut the rows into one run for each task."""
    n_tasks = len(names)
    if offsets.shape != (n_tasks + 1,) or offsets[0] != 0 or offsets[-1] != n_rows:
        raise ValueError(
            f"offsets of shape {offsets.shape} do not cut {n_rows} rows into {n_tasks} "
            f"tasks; expected {n_tasks + 1} of them, from 0 to {n_rows}."
        )
    sizes = offsets[1:] - offsets[:-1]
    if sizes.min(initial=1) < 1:
        name = names[int(np.argmin(sizes))]
        raise ValueError(f"{task_label(name)}it has no rows; leave such tasks out.")


def as_mask(support: Any, n_rows: int, where: str) -> NDArray[np.bool_]:
    """Return a fixed support mask as a bool array of shape (n_rows,)."""
    mask = np.asarray(support)
    if mask.shape != (n_rows,) or mask.dtype != bool:
        raise ValueError(
            f"{where}support has shape {mask.shape} and dtype {mask.dtype}, expected "
            f"a bool mask of shape ({n_rows},), True where a row is for adapting."
        )
    return mask


def _check_mask_sizes(
    mask: NDArray[np.bool_], offsets: NDArray[np.int64], names: Sequence[Any]
) -> None:
    """Refuse fixed support masks that leave a task no support or no query row."""
    marked = np.add.reduceat(mask, offsets[:-1], dtype=np.int64)
    sizes = np.diff(offsets)
    bad = (marked == 0) | (marked == sizes)
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"{task_label(names[first])}support marks {marked[first]} of "
            f"{sizes[first]} rows; it must leave at least one row to adapt on "
            "and one to judge on. Leave such tasks out, or give them no mask."
        )


def concat_rows(parts: Sequence[PooledRows], names: Sequence[Any]) -> PooledRows:
    """Pool the rows of several pools; `names` are those of all their tasks."""
    if len(parts) == 1:
        return parts[0]
    _check_alike(parts, names)
    sizes = np.concatenate([part.sizes for part in parts])
    has_support = np.concatenate([part.has_support for part in parts])
    support = None
    if has_support.any():
        support = np.concatenate(
            [
                np.zeros(len(part.y), bool) if part.support is None else part.support
                for part in parts
            ]
        )
    offsets = np.concatenate(([0], np.cumsum(sizes)))
    X = _concat_containers([part.X for part in parts])
    y = _concat_arrays([part.y for part in parts])
    domains = None
    if any(part.domains is not None for part in parts):
        none = np.array([None])
        domains = np.concatenate(
            [
                none.repeat(len(part)) if part.domains is None else part.domains
                for part in parts
            ]
        )
    return PooledRows(X, y, offsets, has_support, support, domains)


def task_label(name: Any) -> str:
    """Return how error messages begin that are about one task."""
    return "" if name is None else f"Task {name!r}: "


def sorted_groups(
    groups: Any, n_rows: int, what: str = "groups"
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64], list[Any]]:
    """Find the order of rows that brings each group's together.

    Returns
    -------
    order : ndarray of shape (n_rows,), or None
        Rows group by group, in their own order within; None if they already are.
    offsets : ndarray of shape (n_groups + 1,)
        Where each group starts.
    names : list
        Labels of the groups, in order of first appearance.
    """
    codes, names = group_codes(groups, n_rows, what)
    counts = np.bincount(codes, minlength=len(names))
    offsets = np.concatenate(([0], np.cumsum(counts)))
    if (codes[1:] >= codes[:-1]).all():
        return None, offsets, names
    return np.argsort(codes, kind="stable"), offsets, names


def group_codes(
    groups: Any, n_rows: int, what: str = "groups"
) -> tuple[NDArray[np.intp], list[Any]]:
    """Return the number of each row's group, in order of first appearance.

    Parameters
    ----------
    groups : array-like of shape (n_rows,)
        One label per row, of any hashable kind.
    n_rows : int
        Expected length.
    what : str, default="groups"
        What the groups are called in error messages.

    Returns
    -------
    codes : ndarray of shape (n_rows,)
        Number of each row's group.
    names : list
        Labels of the groups as Python scalars.
    """
    if isinstance(groups, Tensor):
        groups = groups.detach().cpu().numpy()
    if isinstance(groups, (list, tuple)):
        groups = pd.Series(groups)  # np.asarray would make strings of [1, "a"]
    if not isinstance(groups, (pd.Series, pd.Index, pd.Categorical)):
        groups = np.asarray(groups)
    if groups.shape != (n_rows,):
        raise ValueError(
            f"{what} has shape {groups.shape}, expected ({n_rows},): one per row."
        )
    try:
        codes, uniques = pd.factorize(groups)
    except TypeError as error:
        raise TypeError(
            f"{what} must hold hashable labels, such as str or int: {error}."
        ) from error
    if len(codes) and codes.min() < 0:
        missing = np.flatnonzero(codes < 0)
        raise ValueError(
            f"{what} is missing (NaN or None) in {len(missing)} rows, first in row "
            f"{missing[0]}; drop those rows first."
        )
    return codes, [
        task_name(name) for name in pd.Index(uniques, tupleize_cols=False).tolist()
    ]


def task_name(name: Any, what: str = "name") -> Any:
    """Return a task's name as a Python scalar; an integral float becomes an int.

    Its domain too: `what` is what messages call it.
    """
    if getattr(name, "ndim", None) == 0 and hasattr(name, "item"):
        name = name.item()
    if isinstance(name, float):
        if np.isnan(name):
            raise ValueError(
                f"A task's {what} is NaN; give a {what}, or None for none."
            )
        if name.is_integer():
            name = int(name)
    try:
        hash(name)
    except TypeError:
        raise TypeError(
            f"A task's {what} must be hashable, such as a str or int; got {name!r}."
        ) from None
    return name


def _as_array(values: Any, what: str) -> NDArray[Any]:
    """Return np.asarray(values), saying what could not be made one."""
    if isinstance(values, pd.DataFrame):
        return values.to_numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{what} cannot be made an array: {error}") from error


def _series_values(y: pd.Series) -> NDArray[Any]:
    """Return a Series as an array; missing numbers of nullable types become NaN."""
    dtype = y.dtype
    if isinstance(dtype, pd.api.extensions.ExtensionDtype):
        if pd.api.types.is_numeric_dtype(dtype) and y.isna().any():
            return y.to_numpy(dtype=float, na_value=np.nan)
        if not pd.api.types.is_numeric_dtype(dtype):
            return np.asarray(y)
    return y.to_numpy()


def _check_alike(parts: Sequence[PooledRows], names: Sequence[Any]) -> None:
    """Refuse to pool rows of different kinds, naming two tasks that differ."""
    first, start = parts[0], 0
    for part in parts:
        differs = _difference(first, part)
        if differs:
            raise ValueError(
                f"Task {names[0]!r} and task {names[start]!r} differ: {differs}. "
                "All tasks of one set need the same features in the same order."
            )
        if "O" not in first.y.dtype.kind + part.y.dtype.kind and (
            _is_number(part.y) != _is_number(first.y)
        ):
            raise ValueError(
                f"Task {names[0]!r} has y of type {first.y.dtype} and task "
                f"{names[start]!r} of type {part.y.dtype}; use one type for all tasks."
            )
        start += len(part)


def _difference(a: PooledRows, b: PooledRows) -> str:
    """Say in what two pools differ that must agree, or return an empty string."""
    if a.row_shape != b.row_shape:
        return f"rows of shape {a.row_shape} and {b.row_shape}"
    if type(a.X) is not type(b.X):
        return f"X is a {type(a.X).__name__} and a {type(b.X).__name__}"
    if isinstance(a.X, pd.DataFrame) and isinstance(b.X, pd.DataFrame):
        columns, others = a.X.columns, b.X.columns
        if not columns.equals(others):
            return f"columns {list(columns)} and {list(others)}"
    if a.y.shape[1:] != b.y.shape[1:]:
        return f"targets of shape {('n', *a.y.shape[1:])} and {('n', *b.y.shape[1:])}"
    return ""


def _is_number(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "biufc"


def _concat_containers(parts: Sequence[Any]) -> Container:
    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts)
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return _concat_arrays(parts)


def _concat_arrays(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    # numpy would turn numbers beside strings into strings; object keeps them apart.
    mixed = len({_is_number(part) for part in parts}) > 1
    return np.concatenate([part.astype(object) for part in parts] if mixed else parts)
