"""From tasks as users have them to tensors as learners take them, and back.

What is learned from the meta-training tasks here (feature scale, classes, target
scale) is part of the learned state: new tasks are prepared the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from sklmeta._pooling import PooledRows
from sklmeta.engine.pool import RowPool
from sklmeta.engine.targets import TaskTargets
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["Preparation"]


@dataclass(frozen=True)
class Settings:
    """The estimator's parameters that preparing rows depends on."""

    name: str
    classifies: bool
    image_shape: tuple[int, ...] | None = None
    normalize_x: bool = True
    normalize_y: bool | str = True


@dataclass(frozen=True)
class Preparation:
    """How rows are checked, scaled and encoded, as learned from meta-training tasks.

    Attributes
    ----------
    settings : Settings
    n_features_in : int
        Width of a row; of an image, its number of values.
    feature_names : ndarray or None
    row_shape : tuple of int
        Shape of one row as given: (F,), (H, W), (H, W, C) or any other.
    eight_bit : bool
        Whether images came as uint8 and are scaled by 1/255.
    x_mean, x_scale : ndarray of shape (F,) or None
    labels : {"shared", "local"} or None
        None in regression.
    classes : ndarray or None
        Shared labels, sorted.
    n_outputs : int or None
        Classes or targets; None with local labels.
    flat_y : bool
        Whether targets came with one axis.
    y_mean, y_scale : ndarray of shape (n_outputs,) or None
    task_targets : TaskTargets or None
        With ``normalize_y="task"``.
    """

    settings: Settings
    n_features_in: int
    feature_names: NDArray[Any] | None
    row_shape: tuple[int, ...]
    eight_bit: bool = False
    x_mean: NDArray[np.float64] | None = None
    x_scale: NDArray[np.float64] | None = None
    labels: str | None = None
    classes: NDArray[Any] | None = None
    n_outputs: int | None = None
    flat_y: bool = True
    y_mean: NDArray[np.float64] | None = None
    y_scale: NDArray[np.float64] | None = None
    task_targets: TaskTargets | None = None

    # Learning it -----------------------------------------------------------------

    @classmethod
    def learn(cls, settings: Settings, tasks: TaskSet | ClassPool) -> Preparation:
        """Learn the preparation from meta-training tasks.

        Raises
        ------
        ValueError
            If rows or targets are not usable; the message names the task.
        """
        rows = tasks.rows()
        names, width = _columns(rows.X)
        blank = cls(settings, width, names, rows.row_shape)
        X = blank._numbers(rows, task_names(tasks))
        blank = replace(blank, eight_bit=X.dtype == np.uint8 and blank.is_image)
        if settings.normalize_x and not blank.is_image and X.ndim == 2:
            mean, scale = _mean_and_scale(X.astype(np.float64))
            blank = replace(blank, x_mean=mean, x_scale=scale)
        if settings.classifies:
            return blank._with_labels(tasks, rows)
        return blank._with_target_scale(tasks, rows)

    def _with_labels(self, tasks: TaskSet | ClassPool, rows: PooledRows) -> Preparation:
        if isinstance(tasks, ClassPool):
            if len(tasks) < 2:
                raise ValueError(
                    f"{self.settings.name} needs a ClassPool of at least 2 classes, "
                    f"got {len(tasks)} class."
                )
            return replace(self, labels="local")
        y = _label_column(rows.y)
        check_classification_targets(y)
        if tasks.labels == "local":
            return replace(self, labels="local")
        classes = np.unique(y)
        if len(classes) < 2:
            raise ValueError(
                f"{self.settings.name} needs at least 2 classes in the meta-training "
                f"tasks, got only one class: {classes[0]!r}."
            )
        _refuse_disjoint_labels(tasks, rows.offsets, np.searchsorted(classes, y))
        return replace(self, labels="shared", classes=classes, n_outputs=len(classes))

    def _with_target_scale(
        self, tasks: TaskSet | ClassPool, rows: PooledRows
    ) -> Preparation:
        if isinstance(tasks, ClassPool):
            raise ValueError(
                f"{self.settings.name} is a regressor; a ClassPool holds classes. Give "
                "a TaskSet of tasks with numbers as y."
            )
        blank = replace(self, flat_y=rows.y.ndim == 1)
        y = blank._target_numbers(rows.y, rows, task_names(tasks))
        blank = replace(blank, n_outputs=y.shape[1])
        if self.settings.normalize_y is False:
            return blank
        mean, scale = _mean_and_scale(y)
        blank = replace(blank, y_mean=mean, y_scale=scale)
        if self.settings.normalize_y == "task":
            targets = TaskTargets.learn((y - mean) / scale, rows.offsets)
            blank = replace(blank, task_targets=targets)
        return blank

    def with_classes(self, classes: Any) -> Preparation:
        """Return the preparation for a given list of shared labels.

        Raises
        ------
        ValueError
            If labels are not shared, or the tasks have a label that is not listed.
        """
        if classes is None:
            return self
        if self.labels != "shared":
            raise ValueError(
                "classes= is for shared labels only, and labels of these tasks are "
                f"{self.labels or 'numbers'}. Leave it out."
            )
        listed = np.unique(np.asarray(classes))
        blank = replace(self, classes=listed, n_outputs=len(listed))
        blank.encode_labels(self.classes, "")
        return blank

    # Shapes ----------------------------------------------------------------------

    @property
    def is_image(self) -> bool:
        """Whether rows are images, or are made into images."""
        return self.settings.image_shape is not None or len(self.row_shape) in (2, 3)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one row in the pool: (F,), or (H, W, C) for images."""
        shape = self.settings.image_shape or self.row_shape
        return (*shape, 1) if len(shape) == 2 else tuple(shape)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row as the backbone sees it: (F,) or (C, H, W)."""
        shape = self.stored_shape
        return (shape[2], *shape[:2]) if self.is_image else shape

    # Features --------------------------------------------------------------------

    def check_width(self, estimator: BaseEstimator, rows: PooledRows) -> None:
        """Refuse rows of another width or with other column names.

        Raises
        ------
        ValueError
            In scikit-learn's words.
        """
        self.check_row_shape(rows.row_shape)
        if rows.X.ndim == 2:
            validate_data(estimator, rows.X, reset=False, skip_check_array=True)

    def check_row_shape(self, row_shape: tuple[int, ...]) -> None:
        """Refuse rows of another shape than the meta-training tasks' rows.

        Raises
        ------
        ValueError
            If the shapes differ; rows of a table are left to scikit-learn's check.
        """
        tables = len(row_shape) == 1 and len(self.row_shape) == 1
        if not tables and tuple(row_shape) != self.row_shape:
            raise ValueError(
                f"X has rows of shape {tuple(row_shape)}, but {self.settings.name} was "
                f"meta-trained on rows of shape {self.row_shape}. Bring all rows to "
                "that shape."
            )

    def features(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return checked rows as they are stored: float32, or uint8 for images.

        Raises
        ------
        ValueError
            If images are scaled otherwise than those of the meta-training tasks.
        """
        if self.is_image:
            return self._image_values(X).reshape(len(X), *self.stored_shape)
        if self.x_mean is not None:
            X = (X.astype(np.float64) - self.x_mean) / self.x_scale
        return _to_float32(X)

    def checked_features(self, rows: PooledRows, names: list[Any]) -> NDArray[Any]:
        """Check the rows of tasks and return them as they are stored."""
        return self.features(self._numbers(rows, names))

    def _image_values(self, X: NDArray[Any]) -> NDArray[Any]:
        if X.dtype == np.uint8:
            if not self.eight_bit:
                raise ValueError(
                    f"X holds uint8 images, but {self.settings.name} was meta-trained "
                    "on other numbers. Convert the images as for the meta-training "
                    "tasks."
                )
            return X
        if self.eight_bit and X.size and X.max() > 1:
            raise ValueError(
                f"{self.settings.name} was meta-trained on uint8 images, which it "
                f"scales to [0, 1]; X holds {X.dtype} up to {X.max():g}. Pass uint8, "
                "or values in [0, 1]."
            )
        return _to_float32(X)

    def _numbers(self, rows: PooledRows, names: list[Any]) -> NDArray[Any]:
        """Return X as numbers, or say which task holds something else."""
        _refuse_text(rows, names, self.settings.name)
        X = check_array(
            _without_torch(rows.X),
            dtype="numeric",
            ensure_all_finite=False,
            allow_nd=True,
            ensure_min_samples=0,
            input_name="X",
            estimator=self.settings.name,
        )
        if X.dtype.kind == "b":
            X = X.astype(np.float32)
        _refuse_non_finite(X, rows.offsets, names, "X", self.settings.name)
        shape = self.settings.image_shape
        if shape is not None and np.prod(shape) != np.prod(self.row_shape):
            raise ValueError(
                f"image_shape={shape} has {np.prod(shape)} values, but rows of X have "
                f"shape {self.row_shape}."
            )
        return X

    # Targets ---------------------------------------------------------------------

    def _target_numbers(
        self, y: NDArray[Any], rows: PooledRows, names: list[Any]
    ) -> NDArray[np.float64]:
        """Return targets (R, n_outputs) as numbers, or name the task that has none."""
        y = _float_targets(y)
        _refuse_non_finite(y, rows.offsets, names, "y", self.settings.name)
        return y

    def encode_targets(self, y: NDArray[Any]) -> NDArray[np.float32]:
        """Return checked targets (R, n_outputs) in the scale learners see."""
        y = _float_targets(y)
        if y.shape[1] != self.n_outputs:
            raise ValueError(
                f"y has {y.shape[1]} outputs, but {self.settings.name} was "
                f"meta-trained on {self.n_outputs}."
            )
        if self.y_mean is not None:
            y = (y - self.y_mean) / self.y_scale
        return _to_float32(y, "y")

    def decode_targets(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return learner outputs (..., n_outputs) in the targets' own units."""
        y = np.asarray(outputs, dtype=np.float64)
        if self.y_mean is not None:
            y = y * self.y_scale + self.y_mean
        return y[..., 0] if self.flat_y else y

    def encode_labels(self, y: NDArray[Any], where: str) -> NDArray[np.int64]:
        """Return positions of shared labels in `classes`.

        Raises
        ------
        ValueError
            If a label is not among the classes of the meta-training tasks.
        """
        assert self.classes is not None
        unseen = sorted(
            set(pd.unique(pd.Series(y))) - set(self.classes.tolist()), key=str
        )
        if unseen:
            raise ValueError(
                f"y{where} holds labels that the meta-training tasks never had: "
                f"{unseen[:5]}; they had {self.classes.tolist()}. If labels mean "
                "something else in every task, meta-train with "
                "TaskSet(..., labels='local') or a ClassPool."
            )
        return np.searchsorted(self.classes, y)

    # Pools -----------------------------------------------------------------------

    def pool(self, tasks: TaskSet | ClassPool, device: torch.device) -> RowPool:
        """Return the tasks' rows on the device, prepared.

        Raises
        ------
        ValueError
            If rows or targets are not usable; the message names the task.
        """
        rows, names = tasks.rows(), task_names(tasks)
        x = self.checked_features(rows, names)
        if isinstance(tasks, ClassPool):
            return RowPool.from_classes(x, rows.offsets, names, device)
        if not self.settings.classifies:
            y = self.encode_targets(self._target_numbers(rows.y, rows, names))
        elif self.labels == "shared":
            y = self._encode_by_task(_label_column(rows.y), rows.offsets, names)
        else:
            y = pd.factorize(_label_column(rows.y))[0].astype(np.int64)
        return RowPool.from_tasks(x, y, rows.offsets, names, rows.support, device)

    def _encode_by_task(
        self, y: NDArray[Any], offsets: NDArray[np.int64], names: list[Any]
    ) -> NDArray[np.int64]:
        try:
            return self.encode_labels(y, "")
        except ValueError:
            for name, start, stop in zip(names, offsets, offsets[1:], strict=False):
                self.encode_labels(y[start:stop], f" of task {name!r}")
            raise


def task_names(tasks: TaskSet | ClassPool) -> list[Any]:
    """Return names of tasks, or labels of classes, for messages."""
    if isinstance(tasks, ClassPool):
        return list(tasks.classes)
    return list(tasks.names)


def _columns(X: Any) -> tuple[NDArray[Any] | None, int]:
    """Return feature names, as scikit-learn reads them, and the width of a row."""
    width = int(np.prod(X.shape[1:]))
    if not isinstance(X, pd.DataFrame):
        return None, width
    probe = BaseEstimator()
    validate_data(probe, X, skip_check_array=True)
    return getattr(probe, "feature_names_in_", None), width


def _without_torch(X: Any) -> Any:
    return X.detach().cpu().numpy() if isinstance(X, torch.Tensor) else X


def _mean_and_scale(
    values: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of columns, 1 where a column is constant."""
    mean, scale = values.mean(0), values.std(0)
    constant = scale <= 10 * np.finfo(np.float64).eps * np.abs(mean)
    return mean, np.where(constant, 1.0, scale)


def _to_float32(values: NDArray[Any], name: str = "X") -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        small = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(small).all():
        raise ValueError(
            f"Input {name} contains infinity or a value too large for "
            "dtype('float32'), after scaling."
        )
    return small


def _float_targets(y: NDArray[Any]) -> NDArray[np.float64]:
    y = check_array(
        y,
        dtype=np.float64,
        ensure_2d=False,
        ensure_all_finite=False,
        ensure_min_samples=0,
        input_name="y",
    )
    return y.reshape(len(y), -1)


def _label_column(y: NDArray[Any]) -> NDArray[Any]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(
            f"y of a classifier must have one axis, got shape {y.shape}. Give one label "
            "per row."
        )
    if pd.isna(y).any():
        raise ValueError("Input y contains NaN. Give every row a label.")
    return y


def _task_of_row(row: int, offsets: NDArray[np.int64], names: list[Any]) -> str:
    task = int(np.searchsorted(offsets, row, side="right")) - 1
    return f"task {names[task]!r}, row {row - offsets[task]}"


def _refuse_text(rows: PooledRows, names: list[Any], name: str) -> None:
    """Refuse columns that hold no numbers, saying which and what to do."""
    if not isinstance(rows.X, pd.DataFrame):
        return
    for column in rows.X.columns:
        values = rows.X[column]
        if pd.api.types.is_numeric_dtype(values.dtype):
            continue
        bad = pd.to_numeric(values, errors="coerce").isna() & values.notna()
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(
                f"could not convert string to float: column {column!r} of X holds "
                f"{values.iloc[row]!r} ({_task_of_row(row, rows.offsets, names)}), and "
                f"{name} takes numbers. Encode such columns first, for example with "
                "pd.get_dummies."
            )


def _refuse_non_finite(
    values: NDArray[Any],
    offsets: NDArray[np.int64],
    names: list[Any],
    what: str,
    name: str,
) -> None:
    if values.dtype.kind != "f" or np.isfinite(values.sum()):
        return
    bad = ~np.isfinite(values).reshape(len(values), -1).all(1)
    if not bad.any():
        return
    row = int(np.flatnonzero(bad)[0])
    kind = "NaN" if np.isnan(values[row]).any() else "infinity"
    raise ValueError(
        f"Input {what} contains {kind} ({_task_of_row(row, offsets, names)}; "
        f"{int(bad.sum())} rows in all). {name} does not accept missing or infinite "
        "values: impute or drop them first."
    )


def _refuse_disjoint_labels(
    tasks: TaskSet, offsets: NDArray[np.int64], codes: NDArray[np.int64]
) -> None:
    """Refuse shared labels that no two tasks have in common."""
    if len(tasks) < 2:
        return
    task = np.repeat(np.arange(len(tasks)), np.diff(offsets))
    pairs = np.unique(np.stack([task, codes]), axis=1)
    if np.bincount(pairs[1]).max() < 2:
        raise ValueError(
            f"No two of the {len(tasks)} tasks have a class in common, so shared "
            "labels teach nothing about a new task. Did you mean labels='local' "
            "(TaskSet(..., labels='local')), where classes mean something only inside "
            "their task?"
        )
