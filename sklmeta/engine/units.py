"""The groups of rows that episodes draw from, and what happens to those too small.

A *unit* is what `n_shot` counts in: a task, or one class of a task. A task is drawn
by drawing from one or several of its units, so both kinds of episodes share all code.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from sklmeta.engine.pool import RowPool
from sklmeta.engine.spec import EpisodeSpec, bounds
from sklmeta.exceptions import SmallTaskWarning

__all__ = ["Units", "usable_units"]


@dataclass(frozen=True)
class Units:
    """Groups of rows, ordered by task.

    Attributes
    ----------
    rows : Tensor of shape (R,)
        Pool rows, unit by unit, in task order inside each.
    task, start, size : Tensor of shape (U,)
        The task of each unit, and where its rows lie in `rows`.
    fixed : Tensor of bool, shape (R,), or None
        Which of `rows` are fixed support rows.
    n_fixed : Tensor of shape (U,)
        How many of a unit's rows are fixed support.
    """

    rows: Tensor
    task: Tensor
    start: Tensor
    size: Tensor
    fixed: Tensor | None
    n_fixed: Tensor

    def where(self, keep: Tensor) -> Units:
        """Return some of the units."""
        return Units(
            self.rows,
            self.task[keep],
            self.start[keep],
            self.size[keep],
            self.fixed,
            self.n_fixed[keep],
        )


def usable_units(pool: RowPool, spec: EpisodeSpec) -> Units:
    """Return the units episodes may draw from, after applying `spec.small_tasks`.

    Parameters
    ----------
    pool : RowPool
        Rows of the tasks.
    spec : EpisodeSpec
        What episodes are made of.

    Returns
    -------
    Units
        Units of the usable tasks only.

    Raises
    ------
    ValueError
        If a task is small and `spec.small_tasks` is "raise", or no task is usable.

    Warns
    -----
    SmallTaskWarning
        Once, with how many tasks (classes of a class pool) are affected.
    """
    if pool.is_class_pool and not spec.per_class:
        raise ValueError("Episodes of a class pool are drawn with per_class=True.")
    units = _class_units(pool) if spec.per_class else _task_units(pool)
    small, impossible = _too_small(units, pool.n_tasks, bounds(spec.n_shot)[0])
    ways = _least_ways(spec)
    small_tasks = _per_task(small, units, pool) > 0
    small_tasks |= _per_task(~small, units, pool) < ways
    if spec.small_tasks == "raise" and bool(small_tasks.any()):
        task = int(small_tasks.int().argmax())
        raise ValueError(_refusal(pool, spec, units, small, task))
    if spec.small_tasks == "shrink":
        keep, ways = ~impossible, min(ways, 2)
    else:
        keep = ~small
    left_out = _per_task(keep, units, pool) < ways
    if bool(left_out.all()):
        raise ValueError(_nothing_left(pool, spec, units, keep, ways))
    if bool(small_tasks.any()):
        _warn(pool, spec, units, small, keep, small_tasks, left_out)
    return units.where(keep & ~left_out[units.task])


def _task_units(pool: RowPool) -> Units:
    """Return every task as one unit."""
    task = torch.arange(pool.n_tasks)
    return _units(pool, torch.arange(pool.n_rows), task, pool.offsets)


def _class_units(pool: RowPool) -> Units:
    """Return every class of every task as one unit."""
    if pool.y.ndim != 1 or pool.y.is_floating_point():
        raise ValueError(
            "Episodes are drawn class by class (per_class=True) only from class "
            f"labels; y is {pool.y.dtype} of shape {tuple(pool.y.shape)}."
        )
    y = pool.y.cpu()
    task = pool.task_of_rows()
    rows = y.argsort(stable=True)
    rows = rows[task[rows].argsort(stable=True)]
    y, task = y[rows], task[rows]
    first = torch.ones(len(rows), dtype=torch.bool)
    first[1:] = (y[1:] != y[:-1]) | (task[1:] != task[:-1])
    start = first.nonzero()[:, 0]
    return _units(
        pool, rows, task[start], torch.cat([start, start.new_tensor([len(rows)])])
    )


def _units(pool: RowPool, rows: Tensor, task: Tensor, offsets: Tensor) -> Units:
    start, size = offsets[:-1], offsets.diff()
    if pool.support is None:
        return Units(rows, task, start, size, None, torch.zeros_like(size))
    fixed = pool.support[rows]
    before = torch.cat([offsets.new_zeros(1), fixed.cumsum(0)])
    return Units(rows, task, start, size, fixed, before[offsets].diff())


def _too_small(units: Units, n_tasks: int, n_shot: int) -> tuple[Tensor, Tensor]:
    """Say which units are too small for `n_shot`, and which for any episode at all."""
    n_fixed = units.n_fixed.new_zeros(n_tasks).index_add(0, units.task, units.n_fixed)
    fixed = n_fixed[units.task] > 0
    unfit = (units.n_fixed == 0) | (units.n_fixed == units.size)
    small = torch.where(fixed, unfit, units.size < n_shot + 1)
    impossible = torch.where(fixed, unfit, units.size < 2)
    return small, impossible


def _least_ways(spec: EpisodeSpec) -> int:
    if not spec.per_class:
        return 1
    return 2 if spec.n_way is None else bounds(spec.n_way)[0]


def _per_task(flag: Tensor, units: Units, pool: RowPool) -> Tensor:
    """Count the units of each task for which `flag` holds."""
    return units.task[flag].bincount(minlength=pool.n_tasks)


def _warn(
    pool: RowPool,
    spec: EpisodeSpec,
    units: Units,
    small: Tensor,
    keep: Tensor,
    small_tasks: Tensor,
    left_out: Tensor,
) -> None:
    n_shot, ways = bounds(spec.n_shot)[0], _least_ways(spec)
    rows = f"fewer than {n_shot + 1} rows (n_shot={n_shot} and one query row)"
    if pool.is_class_pool:
        found = f"{int(small.sum())} of {len(small)} classes have {rows}"
        found += _lacking(_per_task(keep, units, pool), ways)
        lost = f"classes left out altogether: {int((~keep).sum())}"
    else:
        found = f"{int(small_tasks.sum())} of {pool.n_tasks} tasks have {rows}"
        if spec.per_class:
            found += f" in some class, or fewer than {ways} larger classes"
        lost = f"tasks left out altogether: {int(left_out.sum())}"
    if pool.support is not None and bool(pool.support.any()):
        found += ", or no row besides their fixed support"
    if spec.small_tasks == "shrink":
        done = "Their episodes have smaller supports or fewer ways"
    else:
        done = "small_tasks='drop' draws from no task or class that small"
    warnings.warn(f"{found}. {done}; {lost}.", SmallTaskWarning, stacklevel=4)


def _lacking(n_classes: Tensor, ways: int) -> str:
    """Say whether a class pool, or domains of one, have too few classes."""
    lacking = n_classes[n_classes < ways].tolist()
    if not lacking:
        return ""
    where = f" in {len(lacking)} of {len(n_classes)} domains"
    n = " or ".join(map(str, sorted(set(lacking))))
    return (
        f", and {n} classes{where * (len(n_classes) > 1)} are too few for n_way={ways}"
    )


def _refusal(
    pool: RowPool, spec: EpisodeSpec, units: Units, small: Tensor, task: int
) -> str:
    """Say what the first small task lacks."""
    own = units.task == task
    name = f"Task {pool.names[task]!r}"
    if pool.is_class_pool:
        several = pool.n_tasks > 1
        name = f"Domain {pool.domain_names[task]!r}" if several else "The class pool"
    remedy = "or set small_tasks='shrink' or 'drop'."
    if not bool((own & small).any()):
        return (
            f"{name} has {int(own.sum())} classes, but an episode needs at least "
            f"{_least_ways(spec)} (n_way={spec.n_way}). Lower n_way, {remedy}"
        )
    unit = int((own & small).int().argmax())
    size, n_fixed = int(units.size[unit]), int(units.n_fixed[unit])
    if pool.is_class_pool:
        name = f"Class {pool.names[int(pool.y[units.rows[units.start[unit]]])]!r}"
    elif spec.per_class:
        name = f"A class of task {pool.names[task]!r}"
    if bool((units.n_fixed[own] > 0).any()):
        return (
            f"{name} has {size} rows, {n_fixed} of them fixed support rows; an episode "
            f"needs fixed support rows and other rows. Mark other rows, {remedy}"
        )
    n_shot = bounds(spec.n_shot)[0]
    return (
        f"{name} has {size} rows, but n_shot={n_shot} and one query row need "
        f"{n_shot + 1}. Lower n_shot, {remedy}"
    )


def _nothing_left(
    pool: RowPool, spec: EpisodeSpec, units: Units, keep: Tensor, ways: int
) -> str:
    """Say what an episode needs and what the best task has."""
    n_shot = 1 if spec.small_tasks == "shrink" else bounds(spec.n_shot)[0]
    rows = f"{n_shot} support + 1 query = {n_shot + 1} rows"
    if spec.per_class:
        best = int(_per_task(keep, units, pool).max())
        found = f"the best of {pool.n_tasks} tasks has {best} such classes"
        needs = f"{ways} classes of {rows} each"
        if pool.is_class_pool:
            whose = (
                "best domain of the class pool" if pool.n_tasks > 1 else "class pool"
            )
            found = f"the {whose} has {best} such classes of {len(pool.names)}"
    else:
        needs = rows
        found = f"the largest of {pool.n_tasks} tasks has {int(units.size.max())}"
    if bool((units.n_fixed > 0).any()):
        found += ", where fixed support leaves no query row"
    remedy = "Give tasks with more rows"
    if spec.per_class:
        remedy = "Give more classes, or more rows of each"
    if spec.small_tasks != "shrink":
        remedy += ", lower n_shot or n_way, or set small_tasks='shrink'"
    return f"No task can make an episode: it needs {needs}, and {found}. {remedy}."
