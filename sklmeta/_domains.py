"""Domains: sources of tasks or classes, such as hospitals, that are trained on as one.

A domain is a name that tasks (classes of a pool) carry. What several have in common is
learned from all; how often each is drawn from can be weighed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklmeta._pooling import PooledRows, concat_rows, group_codes, task_label

__all__ = [
    "domain_names",
    "domain_rows",
    "domains_of_tasks",
    "refuse_no_domains",
]


def domain_names(domains: NDArray[Any] | None) -> list[Any]:
    """Return the distinct domains in order of first appearance."""
    return [] if domains is None else list(dict.fromkeys(domains.tolist()))


def refuse_no_domains(parts: Any, kind: str) -> None:
    """Refuse what is no dict of domains.

    Raises
    ------
    TypeError, ValueError
        If it is something else, or empty.
    """
    if not isinstance(parts, Mapping):
        raise TypeError(
            f"Expected a dict of domain name to {kind}, got a {type(parts).__name__}."
        )
    if not parts:
        raise ValueError(
            f"There are no domains; give at least one name and its {kind}."
        )


def domain_rows(parts: Mapping[Any, PooledRows], names: Sequence[Any]) -> PooledRows:
    """Pool the rows of several domains; `names` are those of all their tasks.

    Raises
    ------
    ValueError
        If rows differ in shape or, of images, in scale; naming two domains.
    """
    (first, a), *others = parts.items()
    for domain, b in others:
        pair = f"Domains {first!r} and {domain!r}"
        if a.row_shape != b.row_shape:
            raise ValueError(
                f"{pair} have rows of shape {a.row_shape} and {b.row_shape}, expected "
                f"one shape. {_remedy(a.row_shape, b.row_shape)}"
            )
        types = _type(a), _type(b)
        if len(a.row_shape) > 1 and types[0] != types[1] and "uint8" in types:
            raise ValueError(
                f"{pair} hold images of type {types[0]} and {types[1]}, and only those "
                "of uint8 are scaled by 1/255. Give all as uint8 from 0 to 255, or all "
                "as numbers from 0 to 1."
            )
    return concat_rows([rows.in_domain(name) for name, rows in parts.items()], names)


def _remedy(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    """Say how rows of two shapes become rows of one."""
    if len(a) > 1 and len(b) > 1 and a[:2] != b[:2]:
        return (
            "Bring all images to one size, for example by "
            "sklmeta.datasets.resize_images(X, "
            f"{(max(a[0], b[0]), max(a[1], b[1]))})."
        )
    if len(a) > 1 and len(b) > 1:
        return (
            "Give all images the same channels: np.repeat(X[..., None], 3, axis=-1) "
            "has three of grey images."
        )
    return (
        "Give the same features of all; flat images of several sizes as (n, height, "
        "width), brought to one size by sklmeta.datasets.resize_images."
    )


def _type(rows: PooledRows) -> str:
    """Return the type of numbers of arrays and tensors, "uint8" of both alike."""
    return str(getattr(rows.X, "dtype", "")).removeprefix("torch.")


def domains_of_tasks(
    domains: Any,
    order: NDArray[np.int64] | None,
    offsets: NDArray[np.int64],
    names: Sequence[Any],
) -> list[Any]:
    """Return the domain of each task, given those of rows as they came.

    `order` brings the rows of each task together, see `sorted_groups`.

    Raises
    ------
    ValueError
        Naming the task whose rows have several domains.
    """
    codes, found = group_codes(domains, int(offsets[-1]), "domains")
    codes = codes if order is None else codes[order]
    low, high = (
        pick.reduceat(codes, offsets[:-1]) for pick in (np.minimum, np.maximum)
    )
    if (low < high).any():
        task = int((low < high).argmax())
        raise ValueError(
            f"{task_label(names[task])}its rows have the domains {found[low[task]]!r} "
            f"and {found[high[task]]!r}; a task has one. Make a task of each pair of "
            "domain and task: groups=df.groupby([domain, task]).ngroup()."
        )
    return [found[code] for code in low.tolist()]
