"""From tasks as users have them to tensors as learners take them, and back.

What is learned from the meta-training tasks here (feature scale, classes, target
scale) is part of the learned state: new tasks are prepared the same way.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

from sklmeta import _checks
from sklmeta._pooling import PooledRows
from sklmeta._schema import Settings, TaskSchema, local_codes, task_names
from sklmeta.engine.pool import RowPool
from sklmeta.engine.targets import TaskTargets
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["Preparation", "Settings", "local_codes", "task_names"]

CHANNELS = (1, 3, 4)  # that images usually have
USUAL_RANGE = 3.0  # standard deviations within which features are left as they are


@dataclass(frozen=True)
class Preparation(TaskSchema):
    """How rows are checked, scaled and encoded, as learned from meta-training tasks.

    Attributes
    ----------
    x_mean, x_scale : ndarray of shape (F,) or None
    y_mean, y_scale : ndarray of shape (n_outputs,) or None
    task_targets : TaskTargets or None
        With ``normalize_y="task"``.
    """

    x_mean: NDArray[np.float64] | None = None
    x_scale: NDArray[np.float64] | None = None
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
        blank = cls.of_rows(settings, rows)
        X = blank.task_rows(rows, task_names(tasks))
        blank = replace(blank, eight_bit=X.dtype == np.uint8 and blank.is_image)
        blank._warn_of_channels_first()
        if settings.normalize_x and not blank.is_image and X.ndim == 2:
            mean, scale = _mean_and_scale(X.astype(np.float64), "X")
            blank = replace(blank, x_mean=mean, x_scale=scale)
        if settings.classifies:
            return blank._with_labels(tasks, rows, classes)
        return blank._with_target_scale(tasks, rows)

    def _with_target_scale(
        self, tasks: TaskSet | ClassPool, rows: PooledRows
    ) -> Preparation:
        blank, y = self._with_targets(tasks, rows)
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

    def _warn_of_channels_first(self) -> None:
        """Warn of images whose order is probably torch's."""
        if not self.is_image or self.settings.image_shape is not None:
            return
        height, width, channels = shape = self.stored_shape
        if height in CHANNELS and min(width, channels) > max(CHANNELS):
            warnings.warn(
                f"Images of shape {shape} are taken as (height, width, channels): "
                f"{channels} channels of {height} x {width} pixels. If they are in "
                "torch's order, (channels, height, width), give "
                "X.transpose(0, 2, 3, 1).",
                UserWarning,
                stacklevel=6,
            )

    # Features --------------------------------------------------------------------

    def validated_rows(self, estimator: BaseEstimator, X: Any) -> NDArray[Any]:
        """Return checked rows; tables in scikit-learn's words, images by shape."""
        if len(self.row_shape) == 1:
            return validate_data(estimator, X, reset=False)
        X = check_array(X, allow_nd=True, input_name="X", estimator=estimator)
        self.check_row_shape(X.shape[1:])
        return X

    def validated_support(
        self, estimator: BaseEstimator, X: Any, y: Any
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return support rows and targets, checked in scikit-learn's words."""
        if len(self.row_shape) > 1:
            return super().validated_support(estimator, X, y)
        several = not self.settings.classifies
        return validate_data(estimator, X, y, reset=False, multi_output=several)

    def features(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return checked rows as they are stored: float32, or uint8 for images.

        Raises
        ------
        ValueError
            If images are scaled otherwise than those of the meta-training tasks.
        """
        if self.is_image:
            return self._image_values(X).reshape(len(X), *self.stored_shape)
        if self.x_mean is None or self.x_scale is None:
            return _checks.to_float32(X)
        z = (X.astype(np.float64) - self.x_mean) / self.x_scale
        return _short_tailed(_checks.to_float32(z))

    def checked_features(self, rows: PooledRows, names: list[Any]) -> NDArray[Any]:
        """Check the rows of tasks and return them as they are stored."""
        return self.features(self.task_rows(rows, names))

    def _image_values(self, X: NDArray[Any]) -> NDArray[Any]:
        self._refuse_otherwise_scaled(X)
        return X if X.dtype == np.uint8 else _checks.to_float32(X)

    def task_rows(self, rows: PooledRows, names: list[Any]) -> NDArray[Any]:
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
        y = self.target_columns(y)
        if self.y_mean is not None and self.y_scale is not None:
            y = (y - self.y_mean) / self.y_scale
        return _checks.to_float32(y, "y")

    def decode_targets(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return learner outputs (..., n_outputs) in the targets' own units."""
        y = np.asarray(outputs, dtype=np.float64)
        if self.y_mean is not None and self.y_scale is not None:
            y = y * self.y_scale + self.y_mean
        return y[..., 0] if self.flat_y else y

    def decode_spread(self, std: NDArray[Any]) -> NDArray[np.float64]:
        """Return standard deviations (..., n_outputs) in the targets' own units."""
        std = np.asarray(std, dtype=np.float64)
        if self.y_scale is not None:
            std = std * self.y_scale
        return std[..., 0] if self.flat_y else std

    # Pools -----------------------------------------------------------------------

    def pool(self, tasks: TaskSet | ClassPool, device: torch.device) -> RowPool:
        """Return the tasks' rows on the device, prepared.

        Raises
        ------
        ValueError
            If rows or targets are not usable, or not of the kind that was meta-trained
            on; the message names the task.
        """
        self.refuse_other_tasks(tasks)
        x = self.checked_features(tasks.rows(), task_names(tasks))
        return self.row_pool(tasks, x, device)


def _short_tailed(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return standardised values, those beyond the usual range on a log scale.

    A few rows far out make inner loops diverge, at step sizes that suit all others.
    The map is smooth and keeps the order; within the usual range it changes nothing.
    """
    beyond = np.abs(z) - np.float32(USUAL_RANGE)
    if not (beyond > 0).any():
        return z
    tail = np.copysign(np.float32(USUAL_RANGE) + np.log1p(np.maximum(beyond, 0)), z)
    return np.where(beyond > 0, tail, z)


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
