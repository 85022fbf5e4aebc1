"""What linear and logistic mixed models share: parameters, `fit` and refusals."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from sklmeta import _leakage
from sklmeta._parameters import (
    check_choice,
    check_not_negative,
    check_positive,
    filled_in,
)
from sklmeta._preparation import Preparation, Settings
from sklmeta._row_episodes import scoring_spec
from sklmeta._task_rows import representative
from sklmeta.base import BaseMetaLearner
from sklmeta.closed_form._design import FAR_FROM_ZERO, Design
from sklmeta.engine.byte_counts import free_bytes, shown_bytes
from sklmeta.exceptions import MetaTrainingError
from sklmeta.tasks import ClassPool, TaskSet, as_tasks

__all__ = ["MixedModel", "not_finite", "with_mixed_model_parameters"]

PARAMETERS = """\
random_effects : {"all", "intercept"} or list of str or int, default="all"
    Whose coefficients differ between tasks: those of all features, none, or those of
    the features listed by name or position. The intercept always differs.
"""

EPISODES_OF_SCORE = """\
n_way : None
    Not used: it is here for a common interface.

n_shot : int or (int, int), default=5
    Support rows per task of the episodes of `score`.

support_order : {"random", "first"}, default="random"
    "first" takes the first `n_shot` rows of a task as support and only later rows as
    query, for data in time order.

small_tasks : {"shrink", "drop", "raise"}, default="shrink"
    What `score` does with tasks that have no query row left after `n_shot` support
    rows: use fewer support rows, leave the task out, or refuse.

random_state : int, RandomState instance or None, default=None
    Seed of the sample of a TaskDistribution; an int also seeds the episodes of `score`.
    The estimates involve no chance.
"""

ATTRIBUTES = """\
n_features_in_ : int
    Number of features seen during `fit`.

feature_names_in_ : ndarray of shape (n_features_in_,)
    Names of the features; only if `X` had string column names.

adapted_ : few-shot estimator
    What the last `adapt` returned; `predict` uses it.
"""

with_mixed_model_parameters = partial(
    filled_in,
    texts={
        "<mixed model parameters>": PARAMETERS,
        "<parameters of score>": EPISODES_OF_SCORE,
        "<mixed model attributes>": ATTRIBUTES,
    },
)


def not_finite(name: str, where: str, what: str) -> MetaTrainingError:
    """Return the error of estimates or predictions beyond all floating-point range."""
    return MetaTrainingError(
        f"{where} gave numbers that are not finite ({name}). Check the scale of {what}."
    )


class MixedModel(BaseMetaLearner):
    """Base of mixed models. Subclasses have `_estimated`."""

    random_effects: Any
    covariance: str
    alpha: float
    normalize_x: bool
    tol: float
    random_state: Any

    def _check_parameters(self) -> None:
        check_choice("covariance", self.covariance, ("auto", "full", "diagonal"))
        check_choice("normalize_x", self.normalize_x, (True, False))
        check_not_negative("alpha", self.alpha)
        check_positive("tol", self.tol)

    def fit(
        self, X: Any, y: ArrayLike | None = None, *, groups: ArrayLike | None = None
    ) -> Self:
        """Estimate what tasks have in common and how they differ.

        Parameters
        ----------
        X : TaskSet, TaskDistribution, list of tasks, or array-like
            Tasks in any form; rows of shape (n_samples, n_features) in long format. A
            TaskDistribution is sampled once, 200 tasks.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Labels or targets; long format only.
        groups : array-like of shape (n_samples,), default=None
            The task of each row; long format only.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If tasks or parameters are not usable; the message names the task.
        MetaTrainingError
            If numbers are not finite.
        """
        self._check_parameters()
        state = check_random_state(self.random_state)
        tasks = representative(as_tasks(X, y, groups), state.randint(2**31 - 1))
        self._refuse_local_labels(tasks)
        settings = Settings(
            type(self).__name__, self._classifies, None, self.normalize_x
        )
        preparation = Preparation.learn(settings, tasks)
        scoring_spec(self, preparation)  # refuses wrong counts
        self._refuse_too_few(tasks, preparation)
        estimates = self._estimated(tasks, preparation)
        self._keep_learned(preparation, _leakage.fingerprints(tasks))
        for name, value in estimates.items():
            setattr(self, name, value)
        return self

    def _estimated(
        self, tasks: TaskSet | ClassPool, preparation: Preparation
    ) -> dict[str, Any]:
        """Return what is fitted, by the name of its attribute."""
        raise NotImplementedError

    def _refuse_local_labels(self, tasks: TaskSet | ClassPool) -> None:
        """Refuse labels without a meaning that tasks share."""
        local = isinstance(tasks, ClassPool) or tasks.labels == "local"
        if self._classifies and local:
            raise ValueError(
                f"{type(self).__name__} needs labels that mean the same in all tasks: "
                "what tasks have in common are the coefficients of each class. For "
                "labels='local' and a ClassPool, use a metric learner, such as "
                "ProtoNetClassifier or PLDAClassifier."
            )

    def _refuse_too_few(
        self, tasks: TaskSet | ClassPool, preparation: Preparation
    ) -> None:
        name = type(self).__name__
        if len(preparation.row_shape) > 1:
            raise ValueError(
                f"{name} takes rows of a table, got images of shape "
                f"{preparation.row_shape}. Make features of them first."
            )
        if len(tasks) < 2:
            raise ValueError(
                f"{name} needs at least 2 tasks to see how they differ, got 1 task."
            )

    def _refuse_too_large(self, n_bytes: int, n_tasks: int, n_effects: int) -> None:
        """Refuse sums of tasks that do not fit the memory there is."""
        free = free_bytes(torch.device("cpu"))
        if free is None or n_bytes <= free:
            return
        raise ValueError(
            f"{type(self).__name__} needs about {shown_bytes(n_bytes)} for "
            f"{n_tasks:,} tasks with {n_effects:,} random coefficients, and "
            f"{shown_bytes(free)} of memory is free. List fewer random_effects, or use "
            "random_effects='intercept'."
        )

    def _usable_covariance(
        self, n_tasks: int, design: Design, preparation: Preparation
    ) -> str:
        """Return the kind of covariance; warn where it does not suit the tasks."""
        n_effects = len(design.effects)
        far = design.far_from_zero(preparation)
        if self.covariance == "diagonal" and far:
            warnings.warn(
                f"Means of the features {far} are over {FAR_FROM_ZERO:.0f} times their "
                "standard deviations. With covariance='diagonal' and "
                "normalize_x=False, their coefficients are taken as independent of an "
                "intercept far from all rows, so that levels can hardly differ without "
                "them. Use normalize_x=True, or covariance='full'.",
                UserWarning,
                stacklevel=4,
            )
        if self.covariance == "diagonal" or n_tasks >= n_effects:
            return self.covariance
        warnings.warn(
            f"{n_tasks} tasks are fewer than the {n_effects} random coefficients, "
            "whose covariance is taken as diagonal. Choose fewer random_effects, or "
            "covariance='diagonal' to silence this warning.",
            UserWarning,
            stacklevel=4,
        )
        return "diagonal"

    def _warn_unless(self, converged: bool) -> None:
        if not converged:
            warnings.warn(
                f"{type(self).__name__} has not converged to tol={self.tol}. Raise "
                "tol, or use covariance='diagonal' or fewer random_effects.",
                ConvergenceWarning,
                stacklevel=4,
            )
