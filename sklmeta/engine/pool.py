"""The rows of every task as one tensor on the device, from which episodes are taken."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["RowPool"]


class RowPool:
    """Rows of many tasks, pooled into one tensor each for features and targets.

    Features and targets live on `device`; the small tables that say which row belongs
    to which task stay on the CPU, where episodes are drawn.

    Parameters
    ----------
    x : Tensor of shape (R, *F), floating, or uint8 for images
        Features, tasks one after another. Four axes mean images, (R, H, W, C).
    y : Tensor of shape (R,) int64, or (R,) or (R, n_outputs) floating
        Class indices or targets.
    offsets : array-like of shape (n_tasks + 1,)
        Task `t` owns the rows ``offsets[t]:offsets[t + 1]``.
    names : sequence of hashable, length n_tasks
        Names of the tasks (of the classes with `from_classes`), for messages.
    support : array-like of bool, shape (R,), default=None
        Fixed support rows. A task without any has its support drawn.
    is_class_pool : bool, default=False
        Whether this is one task made of many classes, `names` being theirs and `y`
        their positions (see `from_classes`).
    domains : sequence of hashable, of the length of `names`, default=None
        Where each task (class of a class pool) is from. A class pool of several domains
        has one task for each, since an episode takes all its classes from one.

    Attributes
    ----------
    domain_names : tuple of hashable
        The domains, in order of first appearance; empty if there are none.
    domain : Tensor of int64, of the length of `names`, or None
        Number of each task's (class's) domain.

    Raises
    ------
    TypeError
        If features or targets are of another type.
    ValueError
        If lengths do not fit each other, or `offsets` do not rise over all rows.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.pool import RowPool
    >>> pool = RowPool(torch.rand(5, 3), torch.rand(5), [0, 2, 5], names=["a", "b"])
    >>> pool.n_tasks, pool.n_rows, pool.input_shape
    (2, 5, (3,))
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        offsets: ArrayLike | Tensor,
        *,
        names: Sequence[Hashable],
        support: ArrayLike | Tensor | None = None,
        is_class_pool: bool = False,
        domains: Sequence[Hashable] | NDArray[Any] | None = None,
    ) -> None:
        self.x = x
        self.y = y
        self.offsets = torch.as_tensor(offsets, dtype=torch.int64).cpu()
        self.names = tuple(names)
        self.support = (
            None
            if support is None
            else _tensor(support).to(dtype=torch.bool, device="cpu")
        )
        self.is_class_pool = is_class_pool
        self.domain_names = tuple(dict.fromkeys(() if domains is None else domains))
        self.domain: Tensor | None = None
        if domains is not None:
            number = {name: i for i, name in enumerate(self.domain_names)}
            self.domain = torch.tensor([number[name] for name in domains])
        self._validate()

    @classmethod
    def from_tasks(
        cls,
        x: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        offsets: ArrayLike | Tensor,
        names: Sequence[Hashable],
        support: ArrayLike | Tensor | None = None,
        device: torch.device | str = "cpu",
        domains: Sequence[Hashable] | NDArray[Any] | None = None,
    ) -> RowPool:
        """Move the rows of a set of tasks to `device`.

        Parameters
        ----------
        x : array-like of shape (R, *F)
            Features of all tasks, task by task.
        y : array-like of shape (R,) or (R, n_outputs)
            Class indices (int64) or targets (floating).
        offsets : array-like of shape (n_tasks + 1,)
            Where each task begins and ends.
        names : sequence of hashable, length n_tasks
            Names of the tasks.
        support : array-like of bool, shape (R,), default=None
            Fixed support rows.
        device : torch.device or str, default="cpu"
            Where features and targets live.
        domains : sequence of hashable, length n_tasks, default=None
            Where each task is from.

        Returns
        -------
        RowPool
            The pool; it shares memory with `x` and `y` where the device allows it.
        """
        x, y = _tensor(x).to(device), _tensor(y).to(device)
        return cls(x, y, offsets, names=names, support=support, domains=domains)

    @classmethod
    def from_classes(
        cls,
        x: ArrayLike | Tensor,
        offsets: ArrayLike | Tensor,
        names: Sequence[Hashable],
        device: torch.device | str = "cpu",
        domains: Sequence[Hashable] | NDArray[Any] | None = None,
    ) -> RowPool:
        """Make one task out of many classes, from which N-way episodes are drawn.

        Parameters
        ----------
        x : array-like of shape (R, *F)
            Features, class by class.
        offsets : array-like of shape (n_classes + 1,)
            Where each class begins and ends.
        names : sequence of hashable, length n_classes
            Labels of the classes.
        device : torch.device or str, default="cpu"
            Where features and targets live.
        domains : sequence of hashable, length n_classes, default=None
            Where each class is from.

        Returns
        -------
        RowPool
            A pool of one task (one for each domain), whose `y` are class positions
            0..n_classes-1.

        Raises
        ------
        ValueError
            If `offsets` and `names` do not cut the rows into classes.
        """
        sizes = torch.as_tensor(offsets, dtype=torch.int64).diff().cpu()
        x = _tensor(x).to(device)
        if (sizes < 0).any() or sizes.sum() != len(x):
            raise ValueError(
                f"offsets must rise from 0 to the number of rows, {len(x)}."
            )
        if len(names) != len(sizes):
            raise ValueError(f"got {len(names)} names for {len(sizes)} classes.")
        y = torch.arange(len(sizes)).repeat_interleave(sizes).to(device)
        return cls(x, y, [0, len(x)], names=names, is_class_pool=True, domains=domains)

    def with_features(self, x: Tensor) -> RowPool:
        """Return the same rows with other features (R, *F)."""
        return RowPool(
            x,
            self.y,
            self.offsets,
            names=self.names,
            support=self.support,
            is_class_pool=self.is_class_pool,
            domains=self.domain_of_each(),
        )

    def domain_of_each(self) -> list[Hashable] | None:
        """Return the domain of each task (class of a class pool); None without any."""
        if self.domain is None:
            return None
        return [self.domain_names[number] for number in self.domain.tolist()]

    @property
    def n_tasks(self) -> int:
        """How many tasks there are; a class pool is one, or one for each domain."""
        if self.is_class_pool and self.domain is not None:
            return len(self.domain_names)
        return len(self.offsets) - 1

    def task_of_rows(self) -> Tensor:
        """Return the task, or a class pool's domain, of each row; (R,), on the CPU."""
        if self.is_class_pool and self.domain is not None:
            return self.domain[self.y.cpu()]
        n_tasks = len(self.offsets) - 1
        return torch.arange(n_tasks).repeat_interleave(self.offsets.diff())

    @property
    def n_rows(self) -> int:
        """How many rows all tasks have together."""
        return len(self.x)

    @property
    def device(self) -> torch.device:
        """Where features and targets live."""
        return self.x.device

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row as `take` gives it: (F,), or (C, H, W) for images."""
        shape = tuple(self.x.shape[1:])
        return (shape[2], *shape[:2]) if self.x.ndim == 4 else shape

    def take(self, index: Tensor) -> Tensor:
        """Return the features of some rows, as a backbone takes them.

        Parameters
        ----------
        index : Tensor of int64, any shape
            Rows of the pool.

        Returns
        -------
        Tensor of shape (*index.shape, *input_shape)
            Floating; uint8 is scaled to [0, 1]. Images are a channels-first view of
            channels-last memory, which is the layout convolutions are fastest in.
        """
        flat = index.to(self.device).reshape(-1)
        x = self.x.index_select(0, flat).reshape(*index.shape, *self.x.shape[1:])
        if x.dtype == torch.uint8:
            x = x.to(torch.float32).div_(255)
        return x.movedim(-1, -3) if self.x.ndim == 4 else x

    def _validate(self) -> None:
        if not (self.x.is_floating_point() or self.x.dtype == torch.uint8):
            raise TypeError(f"x must be floating or uint8, got {self.x.dtype}.")
        if self.x.dtype == torch.uint8 and self.x.ndim != 4:
            raise TypeError(
                "uint8 is kept for images of shape (R, H, W, C), got x of shape "
                f"{tuple(self.x.shape)}. Cast other rows to float32."
            )
        if not (self.y.is_floating_point() or self.y.dtype == torch.int64):
            raise TypeError(f"y must be int64 or floating, got {self.y.dtype}.")
        if len(self.y) != len(self.x):
            raise ValueError(f"x has {len(self.x)} rows and y has {len(self.y)}.")
        offsets = self.offsets
        if offsets.ndim != 1 or len(offsets) < 2:
            raise ValueError("offsets must hold n_tasks + 1 >= 2 row numbers.")
        if offsets[0] != 0 or offsets[-1] != len(self.x) or (offsets.diff() < 0).any():
            raise ValueError(
                f"offsets must rise from 0 to the number of rows, {len(self.x)}."
            )
        if not self.is_class_pool and len(self.names) != self.n_tasks:
            raise ValueError(f"got {len(self.names)} names for {self.n_tasks} tasks.")
        if self.domain is not None and len(self.domain) != len(self.names):
            raise ValueError(
                f"got {len(self.domain)} domains for {len(self.names)} names."
            )
        if self.support is not None and self.support.shape != (len(self.x),):
            raise ValueError(
                f"support must be of shape ({len(self.x)},), "
                f"got {tuple(self.support.shape)}."
            )


def _tensor(values: ArrayLike | Tensor) -> Tensor:
    """Return `values` as a tensor, without a copy where the memory allows it."""
    if isinstance(values, Tensor):
        return values
    values = np.asarray(values)
    # torch refuses negative strides and warns about read-only arrays.
    if not values.flags.writeable or any(step < 0 for step in values.strides):
        values = values.copy()
    return torch.from_numpy(values)
