"""What a MetaPipeline has learned besides its meta-learner."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_memory, validate_data

from sklmeta._leakage import fingerprints
from sklmeta._row_episodes import check_queries
from sklmeta._task import TaskPool
from sklmeta._task_rows import representative, unlabelled_rows
from sklmeta._task_transformer import TaskTransformer
from sklmeta.tasks import TaskSet

__all__ = ["FittedTransformers", "unnamed"]


@dataclass(frozen=True)
class FittedTransformers:
    """What a pipeline has learned besides its meta-learner.

    Attributes
    ----------
    steps : tuple of (str, TaskTransformer or None)
        Fitted copies that nobody else changes; None passes rows through.
    on_rows : tuple of bool
        Which of them the user gave as transformers of rows.
    params : dict
        Type and parameters of each step of the pipeline when it was fitted.
    n_features_in : int or None
        None if the first transformer of the last steps of a pipeline does not say.
    feature_names : ndarray or None
    seen : dict
        Fingerprints of the meta-training tasks, before transformation.
    """

    steps: tuple[tuple[str, TaskTransformer | None], ...]
    on_rows: tuple[bool, ...]
    params: dict[str, Any]
    n_features_in: int | None
    feature_names: NDArray[Any] | None
    seen: dict[Any, bytes]

    @classmethod
    def learn(
        cls,
        given: Sequence[tuple[str, Any]],
        tasks: Any,
        memory: Any,
        report: Callable[[int, float], None],
    ) -> tuple[FittedTransformers, Any]:
        """Fit clones of the given steps on tasks, and transform these.

        `report` is called with the number of each step and when its fit began.
        """
        fit = check_memory(memory).cache(_fitted_clone)
        fitted, moved = [], tasks
        for number, (name, step) in enumerate(given, start=1):
            start, own = time.perf_counter(), None
            if not (step is None or isinstance(step, str)):
                on_rows = not isinstance(step, TaskTransformer)
                own, moved = fit(TaskTransformer(step) if on_rows else step, moved)
                report(number, start)
            fitted.append((name, own))
        width, names = _columns(tasks)
        learned = cls(
            steps=tuple(fitted),
            on_rows=tuple(not isinstance(step, TaskTransformer) for _, step in given),
            params={},
            n_features_in=width,
            feature_names=names,
            seen=fingerprints(tasks),
        )
        return learned, moved

    def installed(self, given: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
        """Return copies of the transformers to put in place of the given ones."""
        steps = []
        for (name, step), (_, own), on_rows in zip(
            given, self.steps, self.on_rows, strict=True
        ):
            if own is not None:
                step = copy.deepcopy(own.transformer_ if on_rows else own)
            steps.append((name, step))
        return steps

    @property
    def learns(self) -> bool:
        """Whether a transformer has learned from the training tasks."""
        return any(step is not None and not step.per_task for _, step in self.steps)

    @property
    def per_task(self) -> bool:
        """Whether a transformer is fitted to each task anew."""
        return any(step is not None and step.per_task for _, step in self.steps)

    def transform_training(self, tasks: Any) -> Any:
        """Transform tasks that are trained on, or held out while training."""
        for _, step in self.steps:
            tasks = tasks if step is None else step._transform_training(tasks)
        return tasks

    def transform(self, tasks: Any) -> Any:
        """Transform tasks; with `per_task` those that have fixed support rows."""
        for _, step in self.steps:
            tasks = tasks if step is None else step.transform(tasks)
        return tasks

    def support_and_query(self, tasks: TaskSet, query_Xs: Any) -> tuple[TaskSet, list]:
        """Transform the support rows of tasks, and query rows of each."""
        check_queries(tasks, query_Xs)
        queries = _unlabelled(query_Xs, tasks.names)
        for _, step in self.steps:
            if step is None:
                continue
            if step.per_task:
                tasks, queries = step._transform_pairs(tasks, queries)
            else:
                tasks, queries = step.transform(tasks), step.transform(queries)
        return tasks, [task.X for task in queries]

    def last_steps(self, n_steps: int, learner: Any) -> FittedTransformers:
        """Return what is left when a pipeline's first steps are cut off."""
        steps = self.steps[len(self.steps) - n_steps :]
        first = next((step for _, step in steps if step is not None), learner)
        return FittedTransformers(
            steps=steps,
            on_rows=self.on_rows[len(self.steps) - n_steps :],
            params={name: self.params[name] for name, _ in steps},
            n_features_in=getattr(first, "n_features_in_", None),
            feature_names=getattr(first, "feature_names_in_", None),
            seen={},
        )

    def adapted_to(self, X: Any, y: Any) -> tuple[list[tuple[str, Any]], Any]:
        """Return the transformers for one task, fitted, and its transformed rows.

        What was fitted in meta-training is frozen, so that neither `clone` nor `fit`
        forgets it; transformers with `per_task` are fitted to the rows.
        """
        steps: list[tuple[str, Any]] = []
        for (name, step), on_rows in zip(self.steps, self.on_rows, strict=True):
            if step is None:
                steps.append((name, "passthrough"))
                continue
            if step.per_task:
                own = TaskTransformer(clone(step.transformer)).fit(X, y)
            else:
                # A copy, since `set_output` reaches what is frozen.
                step = copy.deepcopy(step)
                own = FrozenEstimator(step.transformer_ if on_rows else step)
            moved = own.transform(X)
            if issparse(moved):
                own = FrozenEstimator(step)  # which makes it dense
                moved = own.transform(X)
            steps.append((name, own))
            X = moved
        return steps, X


def unnamed(tasks: Any) -> Any:
    """Return tasks whose names count as positions, so that no rows are compared.

    The pipeline compares the rows itself, before they are transformed: afterwards the
    same row may differ in its last bits.
    """
    if not isinstance(tasks, TaskSet):
        return tasks
    pool = TaskPool(tasks.rows(), tasks.names, np.zeros(len(tasks), dtype=bool))
    return TaskSet._of_pool(pool, tasks.labels)


def _unlabelled(query_Xs: Sequence[Any], names: Sequence[Any]) -> TaskSet:
    """Return query rows as tasks that have no targets yet."""
    named = np.zeros(len(names), dtype=bool)
    pool = TaskPool(unlabelled_rows(query_Xs, names), tuple(names), named)
    return TaskSet._of_pool(pool, "shared")


def _fitted_clone(step: TaskTransformer, tasks: Any) -> tuple[TaskTransformer, Any]:
    """Return a fitted copy of a transformer, and the training tasks transformed."""
    fitted = clone(step)
    return fitted, fitted.fit_transform(tasks)


def _columns(tasks: Any) -> tuple[int, NDArray[Any] | None]:
    """Return the number of features of tasks, and their names."""
    X = representative(tasks, 0).rows().X
    probe = BaseEstimator()
    if X.ndim == 2:
        validate_data(probe, X, skip_check_array=True)
    names = getattr(probe, "feature_names_in_", None)
    return int(np.prod(X.shape[1:])), names
