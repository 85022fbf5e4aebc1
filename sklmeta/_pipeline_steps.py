"""The steps of a MetaPipeline: what they must be, and that they stay so once fitted."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from sklearn.exceptions import NotFittedError

from sklmeta._parameters import same_value
from sklmeta.fewshot import FewShotClassifier, FewShotRegressor

__all__ = ["check_steps", "refuse_changes", "refuse_without", "step_params"]


def step_params(steps: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the type and the parameters of each step."""
    return {
        name: {"": type(step), **(step.get_params() if _is_estimator(step) else {})}
        for name, step in steps
    }


def refuse_changes(
    pipeline: Any, steps: Sequence[tuple[str, Any]], before: dict[str, Any]
) -> None:
    """Refuse transformers whose parameters changed since they were fitted."""
    now = step_params(steps)
    kind = type(pipeline).__name__
    if list(now) != list(before):
        raise NotFittedError(
            f"This {kind} was fitted with the steps {list(before)} before the "
            f"meta-learner, and now has {list(now)}. Call fit again."
        )
    for step, params in now.items():
        for name, value in params.items():
            old = before[step].get(name)
            if same_value(value, old):
                continue
            if not name:
                raise NotFittedError(
                    f"Step {step!r} of this {kind} was a {old.__name__} when it was "
                    f"fitted, and now is a {value.__name__}. Call fit again."
                )
            raise ValueError(
                f"{step}__{name}={value!r} acts in fit only, and this {kind} was "
                f"fitted with {step}__{name}={old!r}. Set it back, or call fit again."
            )


def check_steps(steps: Any) -> None:
    """Refuse steps that are not named transformers and then a meta-learner."""
    pairs = isinstance(steps, (list, tuple)) and len(steps) > 0
    pairs = pairs and all(isinstance(s, (list, tuple)) and len(s) == 2 for s in steps)
    if not pairs:
        raise TypeError(
            "steps must be a list of (name, estimator) pairs that ends in a "
            f"meta-learner, got {steps!r}."
        )
    _check_names([name for name, _ in steps])
    for name, step in steps[:-1]:
        _check_transformer(name, step)
    _check_meta_learner(*steps[-1])


def refuse_without(learner: Any, parameter: str) -> None:
    """Refuse a parameter of `fit` that the meta-learner does not have."""
    if parameter not in inspect.signature(learner.fit).parameters:
        raise TypeError(
            f"{parameter} were given, and {type(learner).__name__} takes none. Leave "
            "them out."
        )


def _check_names(names: list[Any]) -> None:
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"Names of steps must be strings, got {names!r}.")
    if len(set(names)) < len(names):
        raise ValueError(f"Names of steps must be unique, got {names!r}.")
    wrong = [name for name in names if "__" in name or name in ("memory", "verbose")]
    if wrong:
        raise ValueError(
            f"{wrong[0]!r} cannot be the name of a step: names hold no '__' and differ "
            "from the parameters of the pipeline."
        )


def _check_transformer(name: str, step: Any) -> None:
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return
    if hasattr(step, "fit_resample"):
        raise TypeError(
            f"Step {name!r}, a {type(step).__name__}, changes which rows there are. "
            "Resample the rows of each task before making tasks of them."
        )
    verbs = all(hasattr(step, verb) for verb in ("fit", "transform"))
    if not verbs or isinstance(step, type):
        raise TypeError(
            f"Step {name!r} must be a transformer with fit and transform, or "
            f"'passthrough', got {step!r}. The meta-learner comes last."
        )


def _check_meta_learner(name: str, step: Any) -> None:
    if isinstance(step, (FewShotClassifier, FewShotRegressor)):
        raise TypeError(
            f"The last step, {name!r}, is a {type(step).__name__}, which learns from "
            "the rows of one task: put it into scikit-learn's Pipeline. A MetaPipeline "
            "fits on many tasks and ends in a meta-learner, such as its `meta`."
        )
    if isinstance(step, type) or not all(
        hasattr(step, verb) for verb in ("fit", "adapt", "_own_copy")
    ):
        raise TypeError(
            f"The last step, {name!r}, must be a meta-learner such as MAMLRegressor, "
            f"got {step!r}. PooledClassifier(estimator), PerTaskRegressor(estimator) "
            "and the like make one of any scikit-learn estimator."
        )


def _is_estimator(step: Any) -> bool:
    return hasattr(step, "get_params") and not isinstance(step, type)
