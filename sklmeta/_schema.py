"""What meta-training has seen of rows and targets, and new tasks must agree with.

Nothing here depends on the algorithm: widths and names of columns, shapes of images,
what labels mean, which shared labels there are, how many targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    validate_data,
)

from sklmeta import _checks
from sklmeta._pooling import PooledRows
from sklmeta._task_rows import task_names
from sklmeta.engine.pool import RowPool
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["Settings", "TaskSchema", "local_codes", "task_names"]


@dataclass(frozen=True)
class Settings:
    """The estimator's name, kind and parameters that preparing rows depends on."""

    name: str
    classifies: bool
    image_shape: tuple[int, ...] | None = None
    normalize_x: bool = True
    normalize_y: bool | str = True


@dataclass(frozen=True)
class TaskSchema(ABC):
    """Rows and targets as meta-training has seen them.

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
    labels : {"shared", "local"} or None
        None in regression.
    classes : ndarray or None
        Shared labels, sorted.
    n_outputs : int or None
        Classes or targets; None with local labels.
    most_ways, usual_ways : int or None
        With local labels: the most classes that an episode of the meta-training tasks
        can have, and that it has unless `n_way` says otherwise.
    flat_y : bool
        Whether targets came with one axis.
    """

    settings: Settings
    n_features_in: int
    feature_names: NDArray[Any] | None
    row_shape: tuple[int, ...]
    eight_bit: bool = False
    labels: str | None = None
    classes: NDArray[Any] | None = None
    n_outputs: int | None = None
    most_ways: int | None = None
    usual_ways: int | None = None
    flat_y: bool = True

    @classmethod
    def of_rows(cls, settings: Settings, rows: PooledRows) -> Self:
        """Return what rows alone say."""
        names, width = _columns(rows.X)
        return cls(settings, width, names, rows.row_shape)

    # What subclasses say ---------------------------------------------------------

    @abstractmethod
    def validated_rows(self, estimator: BaseEstimator, X: Any) -> Any:
        """Return rows of a task as `estimator` was given them, checked."""

    @abstractmethod
    def task_rows(self, rows: PooledRows, names: list[Any]) -> Any:
        """Return the rows of tasks as `validated_rows` returns those of one."""

    # Labels ----------------------------------------------------------------------

    def _with_labels(
        self, tasks: TaskSet | ClassPool, rows: PooledRows, classes: Any = None
    ) -> Self:
        """Learn what labels mean; `classes` lists shared ones these may not hold."""
        if isinstance(tasks, TaskSet) and tasks.labels == "shared":
            return self._with_shared_labels(tasks, rows, classes)
        if classes is not None:
            raise ValueError(
                "classes= is for shared labels only, and labels of these tasks are "
                "local. Leave it out."
            )
        return self._with_local_labels(tasks, rows)

    def _with_local_labels(self, tasks: TaskSet | ClassPool, rows: PooledRows) -> Self:
        if isinstance(tasks, TaskSet):
            y = _checks.label_column(rows, task_names(tasks))
            _checks.sorted_classes(y)
            most = max(len(np.unique(y[rows.task(t)])) for t in range(len(rows)))
            return replace(self, labels="local", most_ways=most, usual_ways=most)
        most = len(tasks)
        if rows.domains is not None:  # an episode has classes of one domain
            most = max(Counter(rows.domains.tolist()).values())
        if most < 2:
            of_one = "" if rows.domains is None else " of one domain"
            raise ValueError(
                f"{self.settings.name} needs a ClassPool of at least 2 classes"
                f"{of_one}, got {most} class."
            )
        return replace(self, labels="local", most_ways=most, usual_ways=min(most, 5))

    def _with_shared_labels(
        self, tasks: TaskSet, rows: PooledRows, listed: Any
    ) -> Self:
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

    def _encode_by_task(
        self, y: NDArray[Any], offsets: NDArray[np.int64], names: list[Any]
    ) -> NDArray[np.int64]:
        try:
            return self.encode_labels(y, "")
        except ValueError:
            for name, start, stop in zip(names, offsets, offsets[1:], strict=False):
                self.encode_labels(y[start:stop], f" of task {name!r}")
            raise

    def coded_labels(self, tasks: TaskSet) -> NDArray[np.int64]:
        """Return labels as positions in `classes`, or numbered task by task.

        Raises
        ------
        ValueError
            Naming the task with a missing or an unknown label.
        """
        rows, names = tasks.rows(), task_names(tasks)
        y = _checks.label_column(rows, names)
        if self.labels == "shared":
            return self._encode_by_task(y, rows.offsets, names)
        return local_codes(y, rows.offsets)

    # Targets ---------------------------------------------------------------------

    def _with_targets(
        self, tasks: TaskSet | ClassPool, rows: PooledRows
    ) -> tuple[Self, NDArray[np.float64]]:
        """Learn how many targets there are; return them as numbers too."""
        if isinstance(tasks, ClassPool):
            raise ValueError(
                f"{self.settings.name} is a regressor; a ClassPool holds classes. Give "
                "a TaskSet of tasks with numbers as y."
            )
        y = _checks.target_numbers(rows, task_names(tasks), self.settings.name)
        return replace(self, flat_y=rows.y.ndim == 1, n_outputs=y.shape[1]), y

    def target_columns(self, y: Any) -> NDArray[np.float64]:
        """Return checked targets (R, n_outputs) in their own units.

        Raises
        ------
        ValueError
            If there are more or fewer outputs than in meta-training.
        """
        y = _checks.float_targets(y)
        if y.shape[1] != self.n_outputs:
            raise ValueError(
                f"y has {y.shape[1]} outputs, but {self.settings.name} was "
                f"meta-trained on {self.n_outputs}. Give one column for each."
            )
        return y

    # Rows ------------------------------------------------------------------------

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

    def validated_support(
        self, estimator: BaseEstimator, X: Any, y: Any
    ) -> tuple[Any, NDArray[Any]]:
        """Return support rows and targets, checked in scikit-learn's words."""
        X = self.validated_rows(estimator, X)
        if y is None:
            raise ValueError(
                f"This {type(estimator).__name__} estimator requires y to be passed, "
                "but the target y is None."
            )
        y = check_array(y, ensure_2d=False, dtype=None, input_name="y")
        check_consistent_length(X, y)
        return X, y

    def _refuse_otherwise_scaled(self, X: NDArray[Any]) -> None:
        """Refuse images that are scaled otherwise than those of meta-training."""
        if X.dtype == np.uint8:
            if not self.eight_bit:
                raise ValueError(
                    f"X holds uint8 images, but {self.settings.name} was meta-trained "
                    "on other numbers. Convert the images as for the meta-training "
                    "tasks."
                )
        elif self.eight_bit and X.size and X.max() > 1:
            raise ValueError(
                f"{self.settings.name} was meta-trained on uint8 images, which it "
                f"scales to [0, 1]; X holds {X.dtype} up to {X.max():g}. Pass uint8, "
                "or values in [0, 1]."
            )

    # Tasks -----------------------------------------------------------------------

    def refuse_other_tasks(self, tasks: TaskSet | ClassPool) -> None:
        """Refuse tasks unlike those of meta-training: other labels, width or names.

        Raises
        ------
        ValueError
            If they do not fit.
        """
        self._refuse_other_kind(tasks)
        self._refuse_other_rows(tasks.rows())

    def row_pool(
        self, tasks: TaskSet | ClassPool, x: Any, device: torch.device
    ) -> RowPool:
        """Return features `x` with the coded labels or targets of their tasks."""
        rows, names = tasks.rows(), task_names(tasks)
        if isinstance(tasks, ClassPool):
            return RowPool.from_classes(x, rows.offsets, names, device, rows.domains)
        y: NDArray[Any]
        if self.settings.classifies:
            y = self.coded_labels(tasks)
        else:
            numbers = _checks.target_numbers(rows, names, self.settings.name)
            y = self.encode_targets(numbers)
        return RowPool.from_tasks(
            x, y, rows.offsets, names, rows.support, device, rows.domains
        )

    def encode_targets(self, y: NDArray[Any]) -> NDArray[Any]:
        """Return checked targets (R, n_outputs) in the scale learners see."""
        return self.target_columns(y)

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


def local_codes(y: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each task's classes numbered as they come in it, whatever others hold."""
    codes, classes = pd.factorize(y)
    task = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return pd.factorize(task * len(classes) + codes)[0].astype(np.int64)


def _columns(X: Any) -> tuple[NDArray[Any] | None, int]:
    """Return feature names, as scikit-learn reads them, and the width of a row."""
    width = int(np.prod(X.shape[1:]))
    if not isinstance(X, pd.DataFrame):
        return None, width
    probe = BaseEstimator()
    validate_data(probe, X, skip_check_array=True)
    return getattr(probe, "feature_names_in_", None), width
