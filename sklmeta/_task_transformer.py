"""TaskTransformer: scikit-learn's row transformers on tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import Tags, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from sklmeta._pooling import (
    Container,
    PooledRows,
    slice_rows,
    task_label,
)
from sklmeta._task_rows import (
    TransformedTasks,
    called,
    joined_rows,
    plain_rows,
    representative,
    task_names,
    transformer_targets,
    whereabouts,
    with_rows,
)
from sklmeta.tasks import (
    ClassPool,
    Task,
    TaskDistribution,
    TaskSet,
    ValidationTasks,
    as_tasks,
    is_tasks,
)

__all__ = ["TaskTransformer"]


class TaskTransformer(  # type: ignore[call-arg]
    TransformerMixin, BaseEstimator, auto_wrap_output_keys=None
):
    """Transform the rows of tasks with any scikit-learn transformer.

    The transformer is fitted on the rows of all given tasks together, or, with
    `per_task`, on each task's own. Tasks stay what they are: names, targets, fixed
    support rows and the kind of their container are kept.

    Parameters
    ----------
    transformer : transformer
        Any transformer of rows, a ColumnTransformer or a pipeline of transformers
        included. It is cloned, never fitted itself.
    per_task : bool, default=False
        Whether to fit the transformer anew for every task, on its support rows: those
        given to `adapt`, or the task's fixed `support`; in meta-training on all rows
        of a task that has no fixed ones. Query rows of a task that is scored never
        reach the transformer's `fit`; `MetaPipeline` sees to it.

    Attributes
    ----------
    transformer_ : transformer
        The fitted transformer; with `per_task`, that of the first training task,
        kept for the names of its features.
    n_features_in_ : int
        Number of features, if the transformer says.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if the tasks had any.

    See Also
    --------
    MetaPipeline : Chains transformers and a meta-learner.

    Notes
    -----
    The transformer is given targets too: those of the tasks, except that with local
    labels, which mean nothing across tasks, every pair of task and label is a class of
    its own, coded as an integer. Sparse output is made dense. Images are handed over
    as they are; most of scikit-learn's transformers take flat rows only.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklmeta import TaskSet, TaskTransformer
    >>> tasks = TaskSet([([[0.0], [2.0]], [0, 1]), ([[4.0], [6.0]], [1, 0])])
    >>> scaled = TaskTransformer(StandardScaler()).fit_transform(tasks)
    >>> scaled
    TaskSet(2 tasks, 2 rows each, 1 feature)
    >>> scaled[1].X.ravel().round(2)
    array([0.45, 1.34])
    >>> own = TaskTransformer(StandardScaler(), per_task=True).fit_transform(tasks)
    >>> own[1].X.ravel()
    array([-1.,  1.])
    """

    transformer_: Any

    __metadata_request__fit: ClassVar[dict[str, Any]] = {"groups": True}

    def __init__(self, transformer: Any, *, per_task: bool = False) -> None:
        self.transformer = transformer
        self.per_task = per_task

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> Self:
        """Fit the transformer on the rows of training tasks.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form; of a distribution, 200 tasks are drawn. Or rows of shape
            (n_samples, n_features), which are handed to the transformer as they are.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Targets of rows; None with tasks.
        groups : array-like of shape (n_samples,), default=None
            The task of each row in long format. Makes no difference: rows of all tasks
            are transformed alike, and `per_task` takes no rows.

        Returns
        -------
        self : object
            The fitted transformer.

        Raises
        ------
        TypeError
            If `transformer` is none.
        ValueError
            If the rows cannot be transformed.
        """
        self._check_transformer()
        if self._takes_as_rows(X):
            self.transformer_ = called(clone(self.transformer).fit, plain_rows(X), y)
            return self
        tasks = representative(as_tasks(X, y, groups), 0)
        if self.per_task:
            tasks = self._not_classes(tasks)
            self.transformer_ = self._fitted_to(tasks.rows(), tasks.names, 0)[0]
        else:
            X, y = plain_rows(tasks.rows().X), transformer_targets(tasks)
            with self._telling_where(tasks):
                self.transformer_ = called(clone(self.transformer).fit, X, y)
        return self

    def fit_transform(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> Any:
        """Fit the transformer on training tasks and transform them.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks in any form, or rows, as in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Targets of rows; None with tasks.
        groups : array-like of shape (n_samples,), default=None
            The task of each row in long format. Makes no difference.

        Returns
        -------
        TaskSet, ClassPool, TaskDistribution, or array-like
            The same with its rows transformed.

        Raises
        ------
        TypeError
            If `transformer` is none.
        ValueError
            If the rows cannot be transformed.
        """
        self._check_transformer()
        if self._takes_as_rows(X):
            return self._fit_transform_rows(plain_rows(X), y)
        tasks = as_tasks(X, y, groups)
        if isinstance(tasks, TaskDistribution):
            return self.fit(tasks)._transform_training(tasks)
        if self.per_task:
            return self.fit(tasks)._transform_each(tasks)
        X, y = plain_rows(tasks.rows().X), transformer_targets(tasks)
        with self._telling_where(tasks):
            moved = self._fit_transform_rows(X, y)
        return with_rows(tasks, moved)

    def transform(self, X: Any) -> Any:
        """Transform the rows of tasks, or rows.

        Parameters
        ----------
        X : TaskSet, ClassPool, TaskDistribution, list of tasks, or array-like
            Tasks, or rows of shape (n_samples, n_features). With `per_task`, tasks
            with fixed support rows.

        Returns
        -------
        TaskSet, ClassPool, TaskDistribution, or array-like
            The same with its rows transformed; a distribution transforms what it draws.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows cannot be transformed, or `per_task` meets a task without fixed
            support rows.
        """
        check_is_fitted(self)
        if not _holds_tasks(X):
            self._refuse_rows()
            return self._transform_rows(self.transformer_, plain_rows(X))
        tasks = as_tasks(X)
        if isinstance(tasks, TaskDistribution):
            return TransformedTasks(tasks, self.transform)
        if not self.per_task:
            X = plain_rows(tasks.rows().X)
            with self._telling_where(tasks):
                return with_rows(tasks, self._transform_rows(self.transformer_, X))
        rows, tasks = tasks.rows(), self._not_classes(tasks)
        if not rows.has_support.all():
            name = tasks.names[int(np.argmin(rows.has_support))]
            raise ValueError(
                f"{task_label(name)}it has no fixed support rows, and query rows must "
                "not reach the fit of a transformer with per_task=True. Put it into a "
                "MetaPipeline, which draws support rows as score does, or give tasks "
                "with support masks."
            )
        return self._transform_each(tasks)

    @available_if(lambda self: hasattr(self.transformer, "get_feature_names_out"))
    def get_feature_names_out(
        self, input_features: ArrayLike | None = None
    ) -> NDArray[Any]:
        """Return the names of the transformed features.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of the features, where the transformer has not seen any.

        Returns
        -------
        ndarray of str
            What the transformer calls them.
        """
        check_is_fitted(self)
        return self.transformer_.get_feature_names_out(input_features)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Set the container of the transformed rows.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None
            As in scikit-learn's transformers; with "pandas", the rows of transformed
            tasks are a DataFrame. None changes nothing.

        Returns
        -------
        self : object
            This transformer.

        Raises
        ------
        ValueError
            If the transformer has no `set_output`.
        """
        if transform is not None and not hasattr(self.transformer, "set_output"):
            raise ValueError(
                f"{self.transformer!r} has no set_output: its container cannot be set."
            )
        if transform is not None:
            self.transformer.set_output(transform=transform)
            if hasattr(self, "transformer_"):
                self.transformer_.set_output(transform=transform)
        return self

    @property
    def n_features_in_(self) -> int:
        """Number of features."""
        check_is_fitted(self)
        return self.transformer_.n_features_in_

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the features."""
        check_is_fitted(self)
        return self.transformer_.feature_names_in_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "transformer_")

    def __sklearn_tags__(self) -> Tags:
        """Take from the transformer what rows it takes."""
        tags = super().__sklearn_tags__()
        if isinstance(self.transformer, BaseEstimator):
            inner = get_tags(self.transformer)
            tags.input_tags, tags.requires_fit = inner.input_tags, inner.requires_fit
        return tags

    # Rows ------------------------------------------------------------------------

    def _check_transformer(self) -> None:
        has = [hasattr(self.transformer, verb) for verb in ("fit", "transform")]
        if not all(has) or isinstance(self.transformer, type):
            raise TypeError(
                "transformer must be a scikit-learn transformer with fit and "
                f"transform, got {self.transformer!r}."
            )
        if not isinstance(self.per_task, (bool, np.bool_)):
            raise TypeError(f"per_task must be True or False, got {self.per_task!r}.")

    def _takes_as_rows(self, X: Any) -> bool:
        """Whether X is rows to be handed on as they are."""
        if _holds_tasks(X):
            return False
        self._refuse_rows()
        return True

    def _refuse_rows(self) -> None:
        if self.per_task:
            raise ValueError(
                "A transformer with per_task=True takes tasks and got rows. Give a "
                "TaskSet, such as TaskSet.from_arrays(X, y, groups); or put it into a "
                "MetaPipeline, whose fit takes long format, and whose adapt fits it on "
                "the support rows."
            )

    def _not_classes(self, tasks: TaskSet | ClassPool) -> TaskSet:
        if isinstance(tasks, ClassPool):
            raise ValueError(
                "per_task=True cannot transform a ClassPool: its tasks are only drawn "
                "later. Use per_task=False, or give a TaskSet with labels='local'."
            )
        return tasks

    @contextmanager
    def _telling_where(self, tasks: TaskSet | ClassPool) -> Iterator[None]:
        """Begin errors of missing values, infinity and text with where they are."""
        try:
            yield
        except ValueError as error:
            where = whereabouts(error, tasks.rows(), task_names(tasks))
            if not where:
                raise
            name = type(self.transformer).__name__
            raise ValueError(
                f"{name} cannot transform these tasks{where}: {error}"
            ) from error

    def _fit_transform_rows(self, X: Any, y: Any) -> Container:
        """Fit and transform as scikit-learn's pipelines do, in one go if there is."""
        transformer = clone(self.transformer)
        if not hasattr(transformer, "fit_transform"):
            transformer = called(transformer.fit, X, y)
            moved = self._transform_rows(transformer, X)
        else:
            moved = self._checked(called(transformer.fit_transform, X, y), X)
        self.transformer_ = transformer
        return moved

    def _transform_rows(self, transformer: Any, X: Any, where: str = "") -> Container:
        return self._checked(called(transformer.transform, X), X, where)

    def _checked(self, moved: Any, X: Any, where: str = "") -> Container:
        """Return transformed rows, dense, and as many as there were."""
        kind = type(self.transformer).__name__
        moved = moved.toarray() if issparse(moved) else moved
        n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
        if len(moved) != n_rows:
            raise ValueError(
                f"{where}{kind} returned {len(moved)} rows for {n_rows}, so that they "
                "no longer belong to their targets. Transformers of tasks must keep "
                "every row: drop or add rows before making tasks of them."
            )
        return moved

    # Each task by itself ---------------------------------------------------------

    def _transform_training(self, tasks: Any) -> Any:
        """Transform tasks whose query rows need not be kept from the transformer."""
        if not self.per_task:
            return self.transform(tasks)
        if isinstance(tasks, TaskDistribution):
            return TransformedTasks(tasks, self._transform_each)
        return self._transform_each(tasks)

    def _transform_each(self, tasks: TaskSet | ClassPool) -> TaskSet:
        """Transform every task by a transformer of its own."""
        tasks = self._not_classes(tasks)
        rows, moved = tasks.rows(), []
        for position, name in enumerate(tasks.names):
            transformer, X = self._fitted_to(rows, tasks.names, position)
            moved.append(self._transform_rows(transformer, X, task_label(name)))
        return with_rows(tasks, joined_rows(moved, tasks))

    def _transform_pairs(
        self, supports: TaskSet, queries: TaskSet
    ) -> tuple[TaskSet, TaskSet]:
        """Transform support and query rows of each task, fitted on the former."""
        rows, asked = replace(supports.rows(), support=None), queries.rows()
        moved: list[Container] = []
        answers: list[Container] = []
        for position, name in enumerate(supports.names):
            transformer, X = self._fitted_to(rows, supports.names, position)
            query = plain_rows(slice_rows(asked.X, asked.task(position)))
            for given, found in ((X, moved), (query, answers)):
                found.append(self._transform_rows(transformer, given, task_label(name)))
        return (
            with_rows(supports, joined_rows(moved, supports)),
            with_rows(queries, joined_rows(answers, queries)),
        )

    def _fitted_to(
        self, rows: PooledRows, names: Any, position: int
    ) -> tuple[Any, Container]:
        """Return a transformer fitted to one task's support or all rows, and its X."""
        own = rows.task(position)
        X, y = plain_rows(slice_rows(rows.X, own)), rows.y[own]
        transformer = clone(self.transformer)
        try:
            if rows.support is None or not rows.has_support[position]:
                return called(transformer.fit, X, y), X
            mask = rows.support[own]
            return called(transformer.fit, X[mask], y[mask]), X
        except ValueError as error:
            raise ValueError(f"{task_label(names[position])}{error}") from error


def _holds_tasks(X: Any) -> bool:
    """Tell tasks from rows; one task is refused by `as_tasks`."""
    return isinstance(X, (Task, ValidationTasks)) or is_tasks(X)
