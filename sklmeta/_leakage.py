"""Noticing that a task is scored that was meta-trained on with other rows."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

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
            X = _as_array(rows.X)
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


def _as_array(X: Any) -> np.ndarray:
    if isinstance(X, pd.DataFrame):
        return X.to_numpy()
    return X.cpu().numpy() if isinstance(X, Tensor) else X


def _digest(X: np.ndarray, rows: PooledRows, position: int) -> bytes:
    part = rows.task(position)
    digest = hashlib.blake2b(_plain(X[part]), digest_size=8)
    digest.update(_plain(rows.y[part]))
    return digest.digest()


def _plain(values: np.ndarray) -> bytes:
    """Return numbers or text in one form, so that their type makes no difference."""
    return values.astype(np.float64 if values.dtype.kind in "fiub" else str).tobytes()
