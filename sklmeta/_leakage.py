"""Noticing that a task is scored that was meta-trained on with other rows."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import pandas as pd

from sklmeta._pooling import PooledRows
from sklmeta.exceptions import TaskLeakageWarning
from sklmeta.tasks import TaskSet

__all__ = ["fingerprints", "warn_of_seen"]


def fingerprints(tasks: Any) -> dict[Any, bytes]:
    """Return a digest of the rows of each task whose name the user gave."""
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
            X = _plain(rows.X)
        seen[name] = _digest(X, rows, position)
    return seen


def warn_of_seen(tasks: Any, seen: dict[Any, bytes], stacklevel: int) -> None:
    """Warn once if tasks were meta-trained on under the same name with other rows."""
    leaked = [
        name
        for name, digest in fingerprints(tasks).items()
        if name in seen and seen[name] != digest
    ]
    if leaked:
        warnings.warn(
            f"{len(leaked)} of {len(tasks)} scored tasks, such as {leaked[0]!r}, were "
            "meta-trained on with other rows: the score tells nothing about new tasks. "
            "Split by task, for example with cv=TaskKFold().",
            TaskLeakageWarning,
            stacklevel=stacklevel + 1,
        )


def _plain(X: Any) -> np.ndarray:
    """Return rows in one form, so that the container makes no difference."""
    if isinstance(X, pd.DataFrame):
        X = X.to_numpy()
    X = np.asarray(X)
    return X.astype(np.float64) if X.dtype.kind in "fiub" else X.astype(str)


def _digest(X: np.ndarray, rows: PooledRows, position: int) -> bytes:
    part = rows.task(position)
    digest = hashlib.blake2b(np.ascontiguousarray(X[part]).tobytes(), digest_size=8)
    y = rows.y[part]
    plain = y.astype(np.float64) if y.dtype.kind in "fiub" else y.astype(str)
    digest.update(np.ascontiguousarray(plain).tobytes())
    return digest.digest()
