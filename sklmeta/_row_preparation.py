"""Rows for scikit-learn estimators: in the container that meta-training had."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

from sklmeta._pooling import PooledRows, row_array
from sklmeta._schema import Settings, TaskSchema
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["RowPreparation"]


@dataclass(frozen=True)
class RowPreparation(TaskSchema):
    """Rows as the meta-training tasks had them, their values unchecked.

    Images become rows of pixels, uint8 scaled to [0, 1].

    Attributes
    ----------
    columns : pandas.Index or None
        Of the meta-training tasks, if they came as DataFrames.
    """

    columns: pd.Index | None = None

    @classmethod
    def learn(cls, settings: Settings, tasks: TaskSet | ClassPool) -> RowPreparation:
        """Learn what rows and targets of the meta-training tasks look like.

        Raises
        ------
        ValueError
            If labels or targets are not usable; the message names the task.
        """
        rows = tasks.rows()
        blank = cls.of_rows(settings, rows)
        if isinstance(rows.X, pd.DataFrame):
            blank = replace(blank, columns=rows.X.columns)
        elif blank.is_image:
            blank = replace(blank, eight_bit=row_array(rows.X[:1]).dtype == np.uint8)
        if settings.classifies:
            return blank._with_labels(tasks, rows)
        return blank._with_targets(tasks, rows)[0]

    @property
    def is_image(self) -> bool:
        """Whether rows have several axes."""
        return len(self.row_shape) > 1

    def task_rows(self, rows: PooledRows, names: list[Any]) -> Any:
        """Return the rows of tasks as `validated_rows` returns those of one."""
        return self._as_trained(rows.X)

    def _as_trained(self, X: Any) -> Any:
        """Return rows in a DataFrame with the columns of meta-training, or an array.

        Images become rows of pixels.
        """
        if self.columns is not None:
            if isinstance(X, pd.DataFrame):
                return X
            return pd.DataFrame(row_array(X), columns=self.columns)
        X = row_array(X)
        if not self.is_image:
            return X
        self._refuse_otherwise_scaled(X)
        flat = X.reshape(len(X), -1)
        return flat / 255 if X.dtype == np.uint8 else flat

    def validated_rows(self, estimator: BaseEstimator, X: Any) -> Any:
        """Return rows whose shape and names are checked, ready for a model."""
        if self.is_image:
            X = _checked_array(estimator, X, allow_nd=True)
            self.check_row_shape(X.shape[1:])
            return self._as_trained(X)
        if isinstance(X, pd.DataFrame):
            validate_data(estimator, X, reset=False, skip_check_array=True)
            _refuse_no_rows(estimator, X)
            return self._as_trained(X)
        array = _checked_array(estimator, X)
        validate_data(estimator, X, reset=False, skip_check_array=True)
        return self._as_trained(array)


def _checked_array(
    estimator: BaseEstimator, X: Any, *, allow_nd: bool = False
) -> NDArray[Any]:
    """Return rows as an array of any type, without a look at their values."""
    return check_array(
        X,
        dtype=None,
        ensure_all_finite=False,
        allow_nd=allow_nd,
        input_name="X",
        estimator=estimator,
    )


def _refuse_no_rows(estimator: BaseEstimator, X: pd.DataFrame) -> None:
    if not len(X):
        raise ValueError(
            f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is "
            f"required by {type(estimator).__name__}."
        )
