"""Noticing that a task is scored that was meta-trained on with other rows."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from sklmeta._pooling import PooledRows, row_array
from sklmeta.exceptions import TaskLeakageWarning
from sklmeta.tasks import TaskSet

__all__ = ["already_warned", "fingerprints", "warn_of_seen"]

_WARNED: ContextVar[bool] = ContextVar("warned of tasks that were seen", default=False)


# Of a digest, the bytes that must agree: of targets, and of features that are text.
_EXACT = 8
TOLERANCE = 1e-6


def fingerprints(tasks: Any) -> dict[Any, bytes]:
    """Return a digest of the rows of each task whose name the user gave.

    Features are summed up in two numbers, to be compared with a tolerance: a row that a
    pipeline transforms again, among fewer others, may differ in its last bits.
    """
    if not isinstance(tasks, TaskSet):
        return {}
    rows, X = tasks.rows(), None
    seen: dict[Any, bytes] = {}
    for position, (name, named) in enumerate(
        zip(tasks.names, tasks.named, strict=True)
    ):
        if not named:
            continue
        if X is None:
            X = row_array(rows.X)
            weights = _weights(int(rows.sizes.max()) * int(np.prod(X.shape[1:])))
        seen[name] = _digest(X, rows, position, weights)
    return seen


def warn_of_seen(tasks: Any, seen: dict[Any, bytes], stacklevel: int) -> None:
    """Warn once if tasks were meta-trained on under the same name with other rows."""
    if _WARNED.get():
        return
    leaked = [
        name
        for name, digest in fingerprints(tasks).items()
        if name in seen and not _same_rows(seen[name], digest)
    ]
    if leaked:
        warnings.warn(
            f"{len(leaked)} of {len(tasks)} scored tasks, such as {leaked[0]!r}, were "
            "meta-trained on with other rows: the score tells nothing about new tasks. "
            "Split by task, for example with cv=TaskKFold().",
            TaskLeakageWarning,
            stacklevel=stacklevel + 1,
        )


@contextmanager
def already_warned() -> Iterator[None]:
    """Keep `warn_of_seen` silent, where who calls has looked at the tasks already."""
    token = _WARNED.set(True)
    try:
        yield
    finally:
        _WARNED.reset(token)


def _weights(n_values: int) -> np.ndarray:
    """Return fixed weights without pattern, so that other rows have another sum."""
    return np.cos(np.arange(n_values, dtype=np.float64))


def _digest(
    X: np.ndarray, rows: PooledRows, position: int, weights: np.ndarray
) -> bytes:
    part = rows.task(position)
    X, digest = X[part], hashlib.blake2b(_plain(rows.y[part]), digest_size=_EXACT)
    level = size = 0.0
    if X.dtype.kind in "fiub":
        values = X.astype(np.float64).ravel()
        np.nan_to_num(values, copy=False, posinf=0.0, neginf=0.0)
        level, size = values @ weights[: len(values)], np.abs(values).sum()
    else:
        digest.update(_plain(X))
    return digest.digest() + np.array([level, size]).tobytes()


def _same_rows(a: bytes, b: bytes) -> bool:
    """Tell whether two digests are of the same rows, but for rounding."""
    (level, size), (other, other_size) = (np.frombuffer(x[_EXACT:]) for x in (a, b))
    close = abs(level - other) <= TOLERANCE * max(size, other_size)
    return a[:_EXACT] == b[:_EXACT] and bool(close)


def _plain(values: np.ndarray) -> bytes:
    """Return numbers or text in one form, so that their type makes no difference."""
    return values.astype(np.float64 if values.dtype.kind in "fiub" else str).tobytes()
