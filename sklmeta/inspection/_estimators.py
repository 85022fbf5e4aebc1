"""The meta-learner inside what users hand over, and copies of it to change freely."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

__all__ = [
    "adapted",
    "default_name",
    "fitted",
    "last_step",
    "named",
    "own_copy",
    "parameter_name",
]


def named(estimators: Any) -> dict[str, Any]:
    """Check that several estimators come with their names."""
    if not isinstance(estimators, Mapping):
        raise TypeError(
            "estimators must be a dict of names and estimators, such as "
            f"{{'MAML': maml}}; got {type(estimators).__name__}."
        )
    if not estimators:
        raise ValueError("estimators is empty; give at least one.")
    return {str(name): estimator for name, estimator in estimators.items()}


def own_copy(estimator: Any) -> Any:
    """Return a copy that shares what was learned and owns its parameters.

    Of a search, its best estimator.
    """
    estimator = _unwrapped(estimator)
    if hasattr(estimator, "_own_copy"):
        return estimator._own_copy()
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        own = copy.copy(estimator)
        own.steps = [*estimator.steps[:-1], (name, own_copy(last))]
        return own
    raise TypeError(
        f"Expected a meta-learner, or a pipeline or a search of one, got {estimator!r}."
        " Wrap a scikit-learn estimator as PooledClassifier, PooledRegressor, "
        "PerTaskClassifier or PerTaskRegressor."
    )


def last_step(estimator: Any) -> Any:
    """Return the meta-learner itself: the last step of a pipeline, the best found."""
    estimator = _unwrapped(estimator)
    if isinstance(estimator, Pipeline):
        return last_step(estimator.steps[-1][1])
    return estimator


def parameter_name(estimator: Any, name: str) -> str:
    """Return the name by which a pipeline knows its last step's parameter."""
    estimator = _unwrapped(estimator)
    if not isinstance(estimator, Pipeline) or "__" in name:
        return name
    step, last = estimator.steps[-1]
    return f"{step}__{parameter_name(last, name)}"


def default_name(estimator: Any) -> str:
    """Return what a curve is called that was given no name."""
    return type(last_step(estimator)).__name__


def fitted(estimator: Any) -> Any:
    """Return the estimator itself, or say that it is not fitted."""
    check_is_fitted(last_step(estimator))
    return estimator


def adapted(estimator: Any, X: Any, y: Any) -> Any:
    """Return a model adapted to support rows; the estimator is left as it was."""
    own = own_copy(fitted(estimator))
    if hasattr(own, "adapt"):
        return own.adapt(X, y)
    # scikit-learn's own pipeline has no such verb.
    name, last = own.steps[-1]
    X = own[:-1].transform(X) if len(own.steps) > 1 else X
    return Pipeline([*own.steps[:-1], (name, last.adapt(X, y))])


def _unwrapped(estimator: Any) -> Any:
    """Return the best estimator of a search; anything else as it is."""
    if hasattr(estimator, "best_estimator_"):
        return _unwrapped(estimator.best_estimator_)
    if hasattr(estimator, "cv_results_"):
        raise NotFittedError(
            f"This {type(estimator).__name__} was fitted with refit=False and keeps no "
            "best_estimator_. Use refit=True."
        )
    return estimator
