"""Refusing rows, labels and targets that cannot be used, by the name of their task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets

from sklmeta._pooling import PooledRows, without_tensors
from sklmeta._task_rows import task_of_row
from sklmeta.exceptions import MetaTrainingError

__all__ = [
    "diverged",
    "finite_rows",
    "float_targets",
    "label_column",
    "refuse_disjoint_labels",
    "refuse_more_ways",
    "row_numbers",
    "sorted_classes",
    "target_numbers",
    "to_float32",
]

_TEXT_KINDS = "OUSMm"


def row_numbers(rows: PooledRows, names: Sequence[Any], estimator: str) -> NDArray[Any]:
    """Return X of many tasks as finite numbers, dtype kept where it is one.

    Raises
    ------
    ValueError
        Naming the task whose rows hold text, NaN or infinity.
    """
    _refuse_text(rows.X, rows.offsets, names, "X", estimator)
    X = check_array(
        without_tensors(rows.X),
        dtype="numeric",
        ensure_all_finite=False,
        allow_nd=True,
        ensure_min_samples=0,
        input_name="X",
        estimator=estimator,
    )
    if X.dtype.kind == "b":
        X = X.astype(np.float32)
    _refuse_non_finite(X, rows.offsets, names, "X", estimator)
    return X


def target_numbers(
    rows: PooledRows, names: Sequence[Any], estimator: str
) -> NDArray[np.float64]:
    """Return y of many tasks as finite numbers (R, n_outputs).

    Raises
    ------
    ValueError
        Naming the task whose targets hold text, NaN or infinity.
    """
    _refuse_text(rows.y, rows.offsets, names, "y", estimator)
    y = float_targets(rows.y)
    _refuse_non_finite(y, rows.offsets, names, "y", estimator)
    return y


def float_targets(y: Any) -> NDArray[np.float64]:
    """Return targets as float64 (R, n_outputs); NaN is left to others."""
    y = check_array(
        y,
        dtype=np.float64,
        ensure_2d=False,
        ensure_all_finite=False,
        ensure_min_samples=0,
        input_name="y",
    )
    return y.reshape(len(y), -1)


def label_column(rows: PooledRows, names: Sequence[Any]) -> NDArray[Any]:
    """Return labels (R,) of many tasks.

    Raises
    ------
    ValueError
        If there are several outputs, or naming the task with a missing label.
    """
    y = rows.y
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(
            f"y of a classifier must have one axis, got shape {y.shape}. Give one "
            "label per row."
        )
    missing = pd.isna(y)
    if missing.any():
        where = task_of_row(int(missing.argmax()), rows.offsets, names)
        raise ValueError(f"Input y contains NaN ({where}). Give every row a label.")
    return y


def sorted_classes(y: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct labels, sorted.

    Raises
    ------
    ValueError
        If `y` holds numbers that are no labels, or labels of several types.
    """
    try:
        check_classification_targets(y)
        return np.unique(y)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in y.tolist()})
        raise ValueError(
            f"Labels of different types cannot be put in order: y holds {kinds}. "
            "Make them all strings, or all numbers."
        ) from error


def refuse_disjoint_labels(offsets: NDArray[np.int64], codes: NDArray[Any]) -> None:
    """Refuse shared labels, given as integer codes, that no two tasks have in common.

    Raises
    ------
    ValueError
        Suggesting local labels.
    """
    n_tasks = len(offsets) - 1
    if n_tasks < 2:
        return
    task = np.repeat(np.arange(n_tasks), np.diff(offsets))
    pairs = np.unique(np.stack([task, codes]), axis=1)
    if np.bincount(pairs[1]).max() < 2:
        raise ValueError(
            f"No two of the {n_tasks} tasks have a class in common, so shared "
            "labels teach nothing about a new task. Did you mean labels='local' "
            "(TaskSet(..., labels='local')), where classes mean something only inside "
            "their task?"
        )


def to_float32(values: NDArray[Any], what: str = "X") -> NDArray[np.float32]:
    """Return finite numbers in single precision.

    Raises
    ------
    ValueError
        If one is too large for it.
    """
    with np.errstate(over="ignore"):
        small = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(small).all():
        raise ValueError(
            f"Input {what} contains infinity or a value too large for "
            "dtype('float32'), after scaling."
        )
    return small


def _refuse_text(
    values: Any,
    offsets: NDArray[np.int64],
    names: Sequence[Any],
    what: str,
    estimator: str,
) -> None:
    """Refuse columns that hold something else than numbers, and say which."""
    for column, entries in _odd_columns(values):
        missing = pd.isna(entries)
        bad = next(
            (
                row
                for row, (entry, no_entry) in enumerate(
                    zip(entries, missing, strict=True)
                )
                if not no_entry and not _is_number(entry)
            ),
            None,
        )
        if bad is not None:
            remedy = "Encode such values first, for example with OneHotEncoder."
            if what == "y":
                remedy = "Labels are for classifiers, such as MAMLClassifier."
            kind = type(entries[bad]).__name__.rstrip("_")
            raise ValueError(
                f"could not convert {'string' if kind == 'str' else kind} to float: "
                f"{column}{what} holds {entries[bad]!r} "
                f"({task_of_row(bad, offsets, names)}), and {estimator} takes "
                f"numbers. {remedy}"
            )
        if missing.any():
            _raise_non_finite(missing, True, offsets, names, what, estimator)


def _odd_columns(values: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield columns whose type is no number's, and how messages name them."""
    if isinstance(values, pd.DataFrame):
        for position, (column, dtype) in enumerate(values.dtypes.items()):
            if not pd.api.types.is_numeric_dtype(dtype):
                entries = values.iloc[:, position].to_numpy(dtype=object)
                yield f"column {column!r} of ", entries
    elif isinstance(values, np.ndarray) and values.dtype.kind in _TEXT_KINDS:
        flat = values.reshape(len(values), -1).astype(object)
        for position in range(flat.shape[1]):
            one = flat.shape[1] == 1
            yield "" if one else f"column {position} of ", flat[:, position]


def _is_number(entry: Any) -> bool:
    try:
        float(entry)
    except (TypeError, ValueError):
        return False
    return True


def _refuse_non_finite(
    values: NDArray[Any],
    offsets: NDArray[np.int64],
    names: Sequence[Any],
    what: str,
    estimator: str,
) -> None:
    if values.dtype.kind != "f":
        return
    with np.errstate(all="ignore"):
        if np.isfinite(values.sum()):  # one pass, no copy: the usual case
            return
    bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if bad.any():
        is_nan = bool(np.isnan(values[bad.argmax()]).any())
        _raise_non_finite(bad, is_nan, offsets, names, what, estimator)


def _raise_non_finite(
    bad: NDArray[np.bool_],
    is_nan: bool,
    offsets: NDArray[np.int64],
    names: Sequence[Any],
    what: str,
    estimator: str,
) -> None:
    where = task_of_row(int(bad.argmax()), offsets, names)
    raise ValueError(
        f"Input {what} contains {'NaN' if is_nan else 'infinity'} ({where}; "
        f"{int(bad.sum())} rows in all). {estimator} does not accept missing or "
        "infinite values: impute or drop them first."
    )


def finite_rows(outputs: torch.Tensor, classifies: bool) -> torch.Tensor:
    """Return which rows of outputs (..., N) can be read: one bool per row, (...,).

    Logits of ways that a task does not have are -inf; a row needs one finite logit.
    """
    if classifies:
        return outputs.amax(-1).isfinite()
    return outputs.isfinite().all(-1)


def refuse_more_ways(
    meta: Any, learner: Any, n_way: torch.Tensor | None, where: Callable[[int], str]
) -> None:
    """Refuse tasks with more ways than the learner takes.

    Parameters
    ----------
    meta, learner
        The estimator, and its torch learner.
    n_way : Tensor of shape (T,) or None
        Number of ways of each task; None where labels are not local.
    where : callable
        Returns what messages call a task, by its number.

    Raises
    ------
    ValueError
        Naming the first such task.
    """
    most = learner.most_ways
    if most is None or n_way is None or int(n_way.max()) <= most:
        return
    first = int((n_way > most).int().argmax())
    n_ways = int(n_way[first])
    others = ""
    if hasattr(meta, "head"):
        others = ", or with head='shared' or 'prototype', which take any number"
    raise ValueError(
        f"Got {n_ways} classes in {where(first)}, and this {type(meta).__name__} takes "
        f"at most {most}, as many as a task had in its meta-training. Meta-train on "
        f"episodes of as many (n_way={n_ways}){others}."
    )


def diverged(meta: Any, where: str) -> MetaTrainingError:
    """Return the error of an adaptation whose numbers are not finite."""
    known = (*meta._step_sizes, "inner_lr")
    sizes = [name for name in meta._adaptation_parameters if name in known]
    remedies = [f"lower {name} (now {getattr(meta, name)!r})" for name in sizes]
    remedies.append("check the scale of X" + ("" if meta._classifies else " and y"))
    remedy = ", or ".join(remedies)
    return MetaTrainingError(
        f"Adapting {type(meta).__name__} to {where} gave numbers that are not finite. "
        f"{remedy[0].upper()}{remedy[1:]}."
    )
