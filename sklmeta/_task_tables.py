"""Tasks as tables and as text: what summary, to_frame and repr show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from sklmeta._pooling import Container, PooledRows


def task_summary(rows: PooledRows, names: Sequence[Any]) -> pd.DataFrame:
    """Describe each task in one row; see `TaskSet.summary`."""
    table = {} if rows.domains is None else {"domain": rows.domains}
    table["n_rows"] = rows.sizes
    if rows.support is not None:
        table["n_support"] = np.add.reduceat(
            rows.support, rows.offsets[:-1], dtype=np.int64
        )
    outputs = rows.y[:, None] if rows.y.ndim == 1 else rows.y
    for j in range(outputs.shape[1]):
        suffix = f"_{j}" if rows.y.ndim == 2 else ""
        for key, value in _describe(outputs[:, j], rows).items():
            table[key + suffix] = value
    return pd.DataFrame(table, index=_name_index(names).rename("task"))


def task_frame(
    rows: PooledRows, names: Sequence[Any], *, target: Any, task: Any
) -> pd.DataFrame:
    """Return rows in long format; see `TaskSet.to_frame`."""
    if len(rows.row_shape) != 1:
        raise ValueError(
            f"to_frame needs flat rows, got images of shape {rows.row_shape}; use "
            "rows() for the arrays."
        )
    features = _features_frame(rows.X)
    named = _name_index(names).take(np.repeat(np.arange(len(rows)), rows.sizes))
    extra: dict[Any, Any] = {task: named}
    if rows.y.ndim == 1:
        extra[target] = rows.y
    else:
        extra |= {f"{target}{j}": rows.y[:, j] for j in range(rows.y.shape[1])}
    if rows.support is not None:
        extra["support"] = rows.support
    if rows.domains is not None:
        extra["domain"] = np.repeat(rows.domains, rows.sizes)
    clash = [name for name in extra if name in features.columns]
    if clash:
        raise ValueError(
            f"A feature is named {clash[0]!r}, as is another column of the result; "
            "choose other names by task= and target=, or rename the feature."
        )
    rest = pd.DataFrame(extra, index=features.index)
    return pd.concat([rest[[task]], features, rest.drop(columns=task)], axis=1)


def _name_index(names: Sequence[Any]) -> pd.Index:
    return pd.Index(list(names), tupleize_cols=False)


def _features_frame(X: Container) -> pd.DataFrame:
    """Return flat rows as a DataFrame with a fresh index where they had none."""
    if isinstance(X, pd.DataFrame):
        return X
    values = X.cpu().numpy() if isinstance(X, Tensor) else X
    return pd.DataFrame(values, columns=[f"x{j}" for j in range(X.shape[1])])


def _describe(y: NDArray[Any], rows: PooledRows) -> dict[str, NDArray[Any]]:
    """Describe one target column task by task."""
    task = np.repeat(np.arange(len(rows)), rows.sizes)
    table: dict[str, NDArray[Any]] = {}
    if y.dtype.kind != "f":
        pairs = pd.DataFrame({"task": task, "label": y}).drop_duplicates()
        labelled = pairs["task"][pairs["label"].notna()]
        table["n_labels"] = np.bincount(labelled, minlength=len(rows))
    if y.dtype.kind in "iuf":
        starts = rows.offsets[:-1]
        mean = np.add.reduceat(y.astype(float), starts) / rows.sizes
        squares = np.add.reduceat((y - mean[task]) ** 2, starts)
        table |= {"y_mean": mean, "y_std": np.sqrt(squares / rows.sizes)}
    return table


def feature_columns(
    df: Any, roles: Sequence[Any], features: Sequence[Any] | None
) -> list[Any]:
    """Return the columns to predict from: those asked for, or all without a role.

    Refuses columns that are not there, and columns asked for twice.
    """
    if not isinstance(df, pd.DataFrame):
        remedy = " of another library: use df.to_pandas()"
        raise TypeError(
            f"Expected a pandas DataFrame, got a {type(df).__name__}"
            f"{remedy if hasattr(df, 'to_pandas') else ''}."
        )
    for role in roles:
        if isinstance(role, (pd.Series, pd.Index, pd.DataFrame, np.ndarray)):
            raise TypeError(
                "target, task, support and domain are names of columns of df, got an "
                f"object of type {type(role).__name__}. Give the name, or a list for "
                "target."
            )
    if isinstance(features, str):
        raise TypeError(f"features must be a list of columns, got {features!r}.")
    if any(isinstance(role, (list, dict, set)) for role in roles):
        raise TypeError(
            "task, support and domain name one column each; make one of several "
            "columns with df.groupby(columns).ngroup()."
        )
    if not df.columns.is_unique:
        name = df.columns[df.columns.duplicated()][0]
        raise ValueError(f"The DataFrame has two columns named {name!r}; rename one.")
    if features is None:
        features = [column for column in df.columns if column not in roles]
    wanted = [*roles, *features]
    missing = [column for column in wanted if column not in df.columns]
    if missing:
        raise ValueError(
            f"The DataFrame has no column {missing[0]!r}; it has {list(df.columns)!r}."
        )
    twice = [column for column, times in Counter(wanted).items() if times > 1]
    if twice:
        raise ValueError(
            f"Column {twice[0]!r} is asked for twice; target, task, support, domain "
            "and features must be different columns."
        )
    if not len(features):
        raise ValueError("No columns are left to predict from.")
    return list(features)


def count_text(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def row_text(row_shape: tuple[int, ...]) -> str:
    """Describe the shape of a row: 3 features, or an image's sides."""
    if len(row_shape) == 1:
        return count_text(row_shape[0], "feature")
    return " x ".join(map(str, row_shape))


def size_text(sizes: NDArray[np.int64]) -> str:
    """Describe how many rows the tasks have."""
    low, high = int(sizes.min()), int(sizes.max())
    return f"{count_text(low, 'row')} each" if low == high else f"{low} to {high} rows"
