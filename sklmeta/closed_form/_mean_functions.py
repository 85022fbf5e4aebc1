"""Prior means by any scikit-learn regressor, out of fold in meta-training.

A regressor that has seen a task leaves residuals there that are smaller than those of a
new task: a Gaussian process trained on them would trust the mean too much. So the tasks
are cut into folds, and those of a fold get the predictions of a regressor fitted on the
others. New tasks get those of a regressor fitted on all.

The predictions go beside the features of a row, as further columns of the same tensor.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import KFold
from torch import Tensor, nn

from sklmeta import _checks
from sklmeta._parameters import shown
from sklmeta._preparation import Preparation, task_names
from sklmeta._row_episodes import targets_of
from sklmeta.engine.pool import RowPool
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["BesideMeans", "FoldedMean", "MeanPreparation"]

N_FOLDS = 5


class BesideMeans(nn.Module):
    """A backbone that lets the last columns of rows through as they are.

    Parameters
    ----------
    backbone : nn.Module
        Maps the other columns to features.
    n_means : int
        Number of such columns.
    """

    def __init__(self, backbone: nn.Module, n_means: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.n_means = n_means

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, F + n_means) to features (n, D + n_means)."""
        features = self.backbone(x[:, : -self.n_means])
        return torch.cat([features, x[:, -self.n_means :].to(features.dtype)], 1)


@dataclass(frozen=True)
class FoldedMean:
    """A regressor fitted on all tasks, and one on the tasks outside each fold.

    Attributes
    ----------
    of_all : regressor
    of_others : tuple of regressors
        One for each fold.
    folds : dict
        The fold of each task, by name.
    n_outputs : int
        Number of targets.
    """

    of_all: Any
    of_others: tuple[Any, ...]
    folds: dict[Hashable, int]
    n_outputs: int

    @classmethod
    def learn(
        cls,
        regressor: Any,
        X: NDArray[Any],
        y: NDArray[Any],
        names: Sequence[Hashable],
        seed: int,
    ) -> Self:
        """Fit the regressors.

        Parameters
        ----------
        regressor : object
            A scikit-learn regressor; it is cloned.
        X : ndarray of shape (n_rows, n_features)
        y : ndarray of shape (n_rows,) or (n_rows, n_outputs)
        names : sequence
            The task of each row.
        seed : int
            Of the folds, and of regressors that draw.

        Raises
        ------
        ValueError
            If there is one task only.
        """
        tasks = list(dict.fromkeys(names))
        if len(tasks) < 2:
            raise ValueError(
                "mean= is fitted out of fold, on other tasks than it predicts, which "
                f"needs at least 2 meta-training tasks; got {len(tasks)}. Use "
                "mean=None."
            )
        cuts = KFold(min(N_FOLDS, len(tasks)), shuffle=True, random_state=seed)
        folds = {
            tasks[place]: fold
            for fold, (_, inside) in enumerate(cuts.split(tasks))
            for place in inside
        }
        fold = np.array([folds[name] for name in names])
        of_others = tuple(
            _fitted(regressor, X[fold != one], y[fold != one], seed)
            for one in range(cuts.n_splits)
        )
        return cls(_fitted(regressor, X, y, seed), of_others, folds, y[:1].size)

    def predict(
        self, X: NDArray[Any], names: Sequence[Hashable] | None
    ) -> NDArray[np.float64]:
        """Return predictions (n_rows, n_outputs).

        `names` tells the task of each row, whose fold is to be left out; None takes
        the regressor of all tasks.

        Raises
        ------
        ValueError
            If predictions are not finite, or not one for each row and target.
        """
        if names is None:
            return self._checked(self.of_all, X, None)
        fold = np.array([self.folds.get(name, -1) for name in names])
        regressors = {-1: self.of_all, **dict(enumerate(self.of_others))}
        found = np.empty((len(X), self.n_outputs))
        for one in set(fold):
            rows = np.flatnonzero(fold == one)
            own = [names[row] for row in rows.tolist()]
            found[rows] = self._checked(regressors[one], X[rows], own)
        return found

    def _checked(
        self, regressor: Any, X: NDArray[Any], names: Sequence[Hashable] | None
    ) -> NDArray[np.float64]:
        """Return a regressor's predictions, (n_rows, n_outputs)."""
        found = np.asarray(regressor.predict(X), dtype=np.float64)
        shape = (len(X), self.n_outputs)
        if found.shape != shape and (self.n_outputs > 1 or found.shape != shape[:1]):
            raise ValueError(
                f"mean={shown(regressor)} must predict one number for each row and "
                f"target, {shape}; got predictions of shape {found.shape}. Use a "
                "regressor that predicts all targets, or mean=None."
            )
        found = found.reshape(shape)
        bad = ~np.isfinite(found).all(1)
        if bad.any():
            where = "" if names is None else f" of task {names[int(bad.argmax())]!r}"
            raise ValueError(
                f"mean={shown(regressor)} must predict finite numbers; got "
                f"{found[bad][0]} for a row{where}. Use a regressor that is fitted to "
                "such rows, or mean=None."
            )
        return found


@dataclass(frozen=True)
class MeanPreparation(Preparation):
    """Rows with the predictions of a prior mean beside their features.

    Attributes
    ----------
    mean : FoldedMean
    out_of_fold : bool
        Whether tasks that the mean was fitted on get predictions of other folds.
    """

    mean: FoldedMean | None = None
    out_of_fold: bool = False

    @classmethod
    def beside(
        cls, plain: Preparation, mean: Any, tasks: TaskSet, seed: int
    ) -> MeanPreparation:
        """Fit the mean on meta-training tasks."""
        rows, names = tasks.rows(), task_names(tasks)
        X = plain.task_rows(rows, names)
        y = targets_of(plain, tasks)
        y = y[:, 0] if y.shape[1] == 1 else y
        folded = FoldedMean.learn(mean, X, y, _of_rows(names, rows.sizes), seed)
        own = {field.name: getattr(plain, field.name) for field in fields(plain)}
        return cls(**own, mean=folded, out_of_fold=True)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one row: its features, then the means of its targets."""
        (n_features,) = super().input_shape
        assert self.n_outputs is not None
        return (n_features + self.n_outputs,)

    def features(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return checked rows as they are stored, with means beside their features."""
        return self._with_means(X, None)

    def pool(self, tasks: TaskSet | ClassPool, device: torch.device) -> RowPool:
        """Return the tasks' rows on the device, prepared."""
        if not self.out_of_fold:
            return super().pool(tasks, device)
        self.refuse_other_tasks(tasks)
        rows, names = tasks.rows(), task_names(tasks)
        X = self.task_rows(rows, names)
        x = self._with_means(X, _of_rows(names, rows.sizes))
        return self.row_pool(tasks, x, device)

    def _with_means(
        self, X: NDArray[Any], names: Sequence[Hashable] | None
    ) -> NDArray[np.float32]:
        assert self.mean is not None
        means = self.mean.predict(X, names)
        if self.y_mean is not None and self.y_scale is not None:
            means = (means - self.y_mean) / self.y_scale
        columns = _checks.to_float32(means, "predictions of mean")
        return np.concatenate([super().features(X), columns], axis=1)


def _of_rows(names: Sequence[Hashable], sizes: NDArray[Any]) -> list[Hashable]:
    """Return the name of the task of each row."""
    pairs = zip(names, sizes.tolist(), strict=True)
    return [name for name, size in pairs for _ in range(size)]


def _fitted(regressor: Any, X: NDArray[Any], y: NDArray[Any], seed: int) -> Any:
    """Return a fitted clone, which draws by the seed unless it has one."""
    own = clone(regressor)
    unset = {
        name: seed
        for name, value in own.get_params().items()
        if name.rpartition("__")[2] == "random_state" and value is None
    }
    return own.set_params(**unset).fit(X, y)
