"""ClassPool: one labelled data set whose classes make few-shot tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sklmeta._domains import domain_names, domain_rows, refuse_no_domains
from sklmeta._indexing import PooledTuple
from sklmeta._pooling import (
    Container,
    PooledRows,
    as_container,
    as_targets,
    check_lengths,
    concat_rows,
    sorted_groups,
    take_rows,
    task_name,
)


class ClassPool(PooledTuple):
    """One labelled data set with many classes, to draw N-way K-shot episodes from.

    The items are classes, so that `KFold` over a pool makes folds without a common
    class. Indexing follows `TaskSet`, and every index, an int too, gives a ClassPool.

    Parameters
    ----------
    X : array-like of shape (n_rows, n_features), (n_rows, height, width) or \
            (n_rows, height, width, channels)
        Rows, kept in their container and grouped by class: without a copy if the rows
        of each class already lie together.
    y : array-like of shape (n_rows,)
        Class labels of any kind.

    Raises
    ------
    ValueError
        If `y` are not labels, or there are no rows.

    See Also
    --------
    TaskSet : Many small data sets, each with its own rows.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklmeta.tasks import ClassPool
    >>> pool = ClassPool(*load_digits(return_X_y=True))
    >>> pool
    ClassPool(10 classes, 174 to 183 rows each, rows of shape (64,))
    >>> pool[7:].classes
    array([7, 8, 9])
    """

    _rows: PooledRows
    _positions: NDArray[np.int64]

    def __new__(cls, X: Any, y: Any) -> Self:
        """Group the rows by class."""
        X, y = as_container(X, ""), _as_labels(y)
        check_lengths(X, y, "")
        if not len(y):
            raise ValueError("X and y have no rows; expected at least one.")
        order, offsets, _ = sorted_groups(y, len(y), what="y")
        if order is not None:
            X, y = take_rows(X, order), y[order]
        rows = PooledRows(X, y, offsets, np.zeros(len(offsets) - 1, dtype=bool))
        return cls._of_rows(rows)

    @classmethod
    def from_domains(cls, pools: Mapping[Any, ClassPool]) -> Self:
        """Join class pools from several sources, each with a name: its domain.

        An episode takes all its classes from one domain: to tell a letter from a leaf
        teaches nothing. Of meta-training, `domain_weights` says how often each domain
        is drawn from; elsewhere all classes are as likely.

        Parameters
        ----------
        pools : dict of domain name to ClassPool
            The classes of each domain; a domain that they already have gives way.

        Returns
        -------
        pool : ClassPool
            All classes, domain after domain; `y` holds strings, "domain/label".

        Raises
        ------
        TypeError
            If `pools` is no dict, or a domain is no ClassPool.
        ValueError
            If there are none, or rows of domains differ in shape; the message names
            the domains.

        See Also
        --------
        sklmeta.datasets.resize_images : Brings images of several domains to one size.
        TaskSet.from_domains : The same of tasks.

        Examples
        --------
        >>> from sklmeta.datasets import load_digits_pool
        >>> digits = load_digits_pool()
        >>> pool = ClassPool.from_domains({"even": digits[::2], "odd": digits[1::2]})
        >>> pool
        ClassPool(10 classes, 174 to 183 rows each, rows of shape (8, 8), 2 domains)
        >>> pool.classes[:2].tolist()
        ['even/0', 'even/2']
        >>> pool[pool.domains == "odd"]
        ClassPool(5 classes, 179 to 183 rows each, rows of shape (8, 8), 1 domain)
        """
        refuse_no_domains(pools, "classes")
        parts = {
            task_name(domain, "domain"): _labelled(domain, pool)
            for domain, pool in pools.items()
        }
        labels = [y for rows in parts.values() for y in rows.y[rows.offsets[:-1]]]
        if len(set(labels)) < len(labels):
            twice = max(labels, key=labels.count)
            raise ValueError(
                f"Two classes would be called {twice!r}; rename a domain or a class."
            )
        return cls._of_rows(domain_rows(parts, labels))

    @classmethod
    def _of_rows(cls, rows: PooledRows) -> Self:
        """Return a pool of rows that lie class after class, without checks."""
        labels = rows.y[rows.offsets[:-1]].tolist()
        return cls._make(labels, _rows=rows, _positions=np.arange(len(labels)))

    def _select(self, positions: NDArray[np.int64]) -> Self:
        if len(np.unique(positions)) < len(positions):
            raise ValueError(
                "A class is taken twice; an episode could then ask to tell it from "
                "itself. Index each class of a ClassPool once."
            )
        labels = [tuple.__getitem__(self, i) for i in positions.tolist()]
        taken = self._positions[positions]
        return self._make(labels, _rows=self._rows, _positions=taken)

    def __iter__(self) -> Iterator[Any]:
        for label, position in zip(tuple.__iter__(self), self._positions, strict=True):
            taken = np.array([position])
            yield _OneClass._make([label], _rows=self._rows, _positions=taken)

    # Pools with equal labels may hold different rows, so pools compare by identity.
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __hash__ = object.__hash__

    def rows(self) -> PooledRows:
        """Return the rows of these classes, class after class.

        Returns
        -------
        rows : PooledRows
            Its "tasks" are the classes in order; views of the pool where the classes
            are adjacent in it; else copies, made once.
        """
        return self._own_rows

    @cached_property
    def _own_rows(self) -> PooledRows:
        return self._rows.take(self._positions)

    @property
    def X(self) -> Container:
        """Rows of these classes, class after class."""
        return self.rows().X

    @property
    def y(self) -> NDArray[Any]:
        """Labels of the rows of `X`, shape (n_rows,)."""
        return self.rows().y

    @property
    def classes(self) -> NDArray[Any]:
        """Labels of the classes in order of their first appearance in the data."""
        return self._rows.y[self._rows.offsets[self._positions]]

    @property
    def domains(self) -> NDArray[Any]:
        """Domains of the classes, shape (n_classes,); None where there is none."""
        if self._rows.domains is None:
            return np.full(len(self), None)
        return self._rows.domains[self._positions]

    def __add__(self, other: Any) -> Self:
        if not isinstance(other, ClassPool):
            return self.__radd__(other)
        both = set(self.classes.tolist()) & set(other.classes.tolist())
        if both:
            raise ValueError(
                f"Both pools have a class {min(both, key=str)!r}; rename it in one, or "
                "make one pool of all rows if it means the same."
            )
        labels = [*self.classes.tolist(), *other.classes.tolist()]
        return self._of_rows(concat_rows([self.rows(), other.rows()], labels))

    def __repr__(self) -> str:
        if not len(self):
            return "ClassPool(0 classes)"
        sizes = self._rows.sizes[self._positions]
        low, high = sizes.min(), sizes.max()
        n_classes = "1 class" if len(self) == 1 else f"{len(self)} classes"
        n_rows = f"{low}" if low == high else f"{low} to {high}"
        shape = self._rows.row_shape
        text = f"{n_classes}, {n_rows} rows each, rows of shape {shape}"
        if self._rows.domains is not None:
            n_domains = len(domain_names(self.domains))
            text += f", {n_domains} domain{'s' if n_domains > 1 else ''}"
        return f"ClassPool({text})"

    def __reduce__(self) -> Any:
        return type(self)._of_rows, (self.rows().detached(),)


class _OneClass(ClassPool):
    """What iterating over a pool gives: a pool of one class, whose item is its label.

    A pool of one class would otherwise hold itself, and so on: libraries that walk
    through nested tuples, as Dask does, would never come to an end.
    """

    # What is added to it is a pool as any other.
    _of_rows = ClassPool._of_rows  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Any]:
        return tuple.__iter__(self)


def _labelled(domain: Any, pool: Any) -> PooledRows:
    """Return the rows of one domain, its name in front of each label."""
    if not isinstance(pool, ClassPool) or isinstance(pool, _OneClass):
        what = "one class of a pool" if isinstance(pool, _OneClass) else None
        raise TypeError(
            f"Domain {domain!r} is {what or f'a {type(pool).__name__}'}, expected a "
            "ClassPool. Tasks are joined by TaskSet.from_domains."
        )
    if not len(pool):
        raise ValueError(f"Domain {domain!r} has no classes; leave it out.")
    rows = pool.rows()
    labels = [f"{domain}/{task_name(label)}" for label in pool.classes.tolist()]
    return replace(rows, y=np.array(labels, dtype=object).repeat(rows.sizes))


def _as_labels(y: Any) -> NDArray[Any]:
    """Return class labels as an array, refusing numbers that are no labels."""
    y = as_targets(y, "")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(
            f"y has shape {y.shape}, expected one label per row, (n_rows,)."
        )
    if y.dtype.kind == "f" and (np.isinf(y) | (y != np.floor(y)) & ~np.isnan(y)).any():
        raise ValueError(
            "y holds fractions, expected class labels. A ClassPool is for "
            "classification; for regression give tasks, as TaskSet.from_arrays does."
        )
    return y
