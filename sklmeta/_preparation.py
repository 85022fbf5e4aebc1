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
from sklearn.utils.validation import validate_data

from sklmeta import _checks
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
    def learn(
        cls, settings: Settings, tasks: TaskSet | ClassPool, classes: Any = None
    ) -> Preparation:
        """Learn the preparation from meta-training tasks.

        `classes` lists shared labels, where these tasks may not hold all of them.

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
            mean, scale = _mean_and_scale(X.astype(np.float64), "X")
            blank = replace(blank, x_mean=mean, x_scale=scale)
        if not settings.classifies:
            return blank._with_target_scale(tasks, rows)
        if isinstance(tasks, TaskSet) and tasks.labels == "shared":
            return blank._with_shared_labels(tasks, rows, classes)
        if classes is not None:
            raise ValueError(
                "classes= is for shared labels only, and labels of these tasks are "
                "local. Leave it out."
            )
        return blank._with_local_labels(tasks, rows)

    def _with_local_labels(
        self, tasks: TaskSet | ClassPool, rows: PooledRows
    ) -> Preparation:
        if isinstance(tasks, TaskSet):
            _checks.sorted_classes(_checks.label_column(rows, task_names(tasks)))
        elif len(tasks) < 2:
            raise ValueError(
                f"{self.settings.name} needs a ClassPool of at least 2 classes, "
                f"got {len(tasks)} class."
            )
        return replace(self, labels="local")

    def _with_shared_labels(
        self, tasks: TaskSet, rows: PooledRows, listed: Any
    ) -> Preparation:
        y = _checks.label_column(rows, task_names(tasks))
        classes = found = _checks.sorted_classes(y)
        if listed is not None:
            classes = np.asarray(listed).ravel()
            if not len(classes) or pd.isna(classes).any():
                raise ValueError(
                    "classes must list the shared labels, none of them missing, got "
                    f"{listed!r}."
                )
            classes = _checks.sorted_classes(classes)
        if len(classes) < 2:
            raise ValueError(
                f"{self.settings.name} needs at least 2 classes in the meta-training "
                f"tasks, got only one class: {classes.tolist()[0]!r}."
            )
        if listed is None:
            codes = np.searchsorted(classes, y)
            _checks.refuse_disjoint_labels(rows.offsets, codes)
        learned = replace(
            self, labels="shared", classes=classes, n_outputs=len(classes)
        )
        learned.encode_labels(found, "")
        return learned

    def _with_target_scale(
        self, tasks: TaskSet | ClassPool, rows: PooledRows
    ) -> Preparation:
        if isinstance(tasks, ClassPool):
            raise ValueError(
                f"{self.settings.name} is a regressor; a ClassPool holds classes. Give "
                "a TaskSet of tasks with numbers as y."
            )
        y = _checks.target_numbers(rows, task_names(tasks), self.settings.name)
        blank = replace(self, flat_y=rows.y.ndim == 1, n_outputs=y.shape[1])
        if not self.settings.normalize_y:
            return blank
        mean, scale = _mean_and_scale(y, "y")
        blank = replace(blank, y_mean=mean, y_scale=scale)
        if self.settings.normalize_y == "task":
            targets = TaskTargets.learn((y - mean) / scale, rows.offsets)
            blank = replace(blank, task_targets=targets)
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
        if self.x_mean is not None and self.x_scale is not None:
            X = (X.astype(np.float64) - self.x_mean) / self.x_scale
        return _checks.to_float32(X)

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
        return _checks.to_float32(X)

    def _numbers(self, rows: PooledRows, names: list[Any]) -> NDArray[Any]:
        """Return X as numbers, or say which task holds something else."""
        X = _checks.row_numbers(rows, names, self.settings.name)
        shape = self.settings.image_shape
        if shape is not None and np.prod(shape) != np.prod(self.row_shape):
            raise ValueError(
                f"image_shape={shape} has {np.prod(shape)} values, but rows of X have "
                f"shape {self.row_shape}."
            )
        return X

    # Targets ---------------------------------------------------------------------

    def encode_targets(self, y: NDArray[Any]) -> NDArray[np.float32]:
        """Return checked targets (R, n_outputs) in the scale learners see."""
        y = _checks.float_targets(y)
        if y.shape[1] != self.n_outputs:
            raise ValueError(
                f"y has {y.shape[1]} outputs, but {self.settings.name} was "
                f"meta-trained on {self.n_outputs}. Give one column for each."
            )
        if self.y_mean is not None and self.y_scale is not None:
            y = (y - self.y_mean) / self.y_scale
        return _checks.to_float32(y, "y")

    def decode_targets(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return learner outputs (..., n_outputs) in the targets' own units."""
        y = np.asarray(outputs, dtype=np.float64)
        if self.y_mean is not None and self.y_scale is not None:
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
            set(pd.Series(y).unique().tolist()) - set(self.classes.tolist()),
            key=str,
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
            If rows or targets are not usable, or not of the kind that was meta-trained
            on; the message names the task.
        """
        rows, names = tasks.rows(), task_names(tasks)
        self._refuse_other_kind(tasks)
        self._refuse_other_rows(rows)
        x = self.checked_features(rows, names)
        if isinstance(tasks, ClassPool):
            return RowPool.from_classes(x, rows.offsets, names, device)
        y: NDArray[Any]
        if not self.settings.classifies:
            numbers = _checks.target_numbers(rows, names, self.settings.name)
            y = self.encode_targets(numbers)
        elif self.labels == "shared":
            labels = _checks.label_column(rows, names)
            y = self._encode_by_task(labels, rows.offsets, names)
        else:
            y = _local_codes(_checks.label_column(rows, names), rows.offsets)
        return RowPool.from_tasks(x, y, rows.offsets, names, rows.support, device)

    def _refuse_other_kind(self, tasks: TaskSet | ClassPool) -> None:
        """Refuse classes where numbers or shared labels were meta-trained on."""
        is_pool = isinstance(tasks, ClassPool)
        if is_pool and not self.settings.classifies:
            raise ValueError(
                f"{self.settings.name} is a regressor; a ClassPool holds classes. Give "
                "a TaskSet of tasks with numbers as y."
            )
        local = isinstance(tasks, ClassPool) or tasks.labels == "local"
        if self.classes is not None and local:
            what = "a ClassPool" if is_pool else "tasks with labels='local'"
            raise ValueError(
                f"{self.settings.name} was meta-trained on tasks that share the labels "
                f"{self.classes.tolist()}, and {what} has labels of its own. Give "
                "tasks with shared labels."
            )

    def _refuse_other_rows(self, rows: PooledRows) -> None:
        """Refuse another width, or columns in another order."""
        if rows.row_shape != self.row_shape:
            raise ValueError(
                f"The tasks have rows of shape {rows.row_shape}, but "
                f"{self.settings.name} was meta-trained on rows of shape "
                f"{self.row_shape}. Give the same features."
            )
        names = _columns(rows.X)[0]
        if self.feature_names is None or names is None:
            return
        if not np.array_equal(names, self.feature_names):
            raise ValueError(
                f"The tasks have the columns {names.tolist()}, but "
                f"{self.settings.name} was meta-trained on "
                f"{self.feature_names.tolist()}. Give the same, in the same order."
            )

    def _encode_by_task(
        self, y: NDArray[Any], offsets: NDArray[np.int64], names: list[Any]
    ) -> NDArray[np.int64]:
        try:
            return self.encode_labels(y, "")
        except ValueError:
            for name, start, stop in zip(names, offsets, offsets[1:], strict=False):
                self.encode_labels(y[start:stop], f" of task {name!r}")
            raise


def _local_codes(y: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each task's classes numbered as they come in it, whatever others hold."""
    codes, classes = pd.factorize(y)
    task = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return pd.factorize(task * len(classes) + codes)[0].astype(np.int64)


def task_names(tasks: TaskSet | ClassPool) -> list[Any]:
    """Return names of tasks, or labels of classes, for messages."""
    if isinstance(tasks, ClassPool):
        return tasks.classes.tolist()
    return list(tasks.names)


def _columns(X: Any) -> tuple[NDArray[Any] | None, int]:
    """Return feature names, as scikit-learn reads them, and the width of a row."""
    width = int(np.prod(X.shape[1:]))
    if not isinstance(X, pd.DataFrame):
        return None, width
    probe = BaseEstimator()
    validate_data(probe, X, skip_check_array=True)
    return getattr(probe, "feature_names_in_", None), width


def _mean_and_scale(
    values: NDArray[np.float64], what: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of columns, 1 where a column is constant."""
    with np.errstate(all="ignore"):
        mean, scale = values.mean(0), values.std(0)
    if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        raise ValueError(
            f"Input {what} contains numbers too large to take their mean and standard "
            "deviation. Scale it down first."
        )
    constant = scale <= 10 * np.finfo(np.float64).eps * np.abs(mean)
    return mean, np.where(constant, 1.0, scale)
