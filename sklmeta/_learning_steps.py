"""A MetaPipeline as an estimator: its steps, what they have learned, and copies."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import Any, Self

from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklmeta._fitted_transformers import FittedTransformers, unnamed
from sklmeta._meta_tags import MetaTags
from sklmeta._pipeline_steps import refuse_changes, step_params

__all__ = ["LearningSteps"]


class LearningSteps(Pipeline):
    """Row transformers and a meta-learner, fitted together or not at all."""

    steps: list[tuple[str, Any]]
    _fitted: FittedTransformers

    def __init__(
        self,
        steps: list[tuple[str, Any]],
        *,
        memory: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(steps, memory=memory, verbose=verbose)

    @property
    def _last(self) -> Any:
        """The meta-learner."""
        return self.steps[-1][1]

    # Fitting ---------------------------------------------------------------------

    def _fit_transformers(self, tasks: Any) -> tuple[FittedTransformers, Any]:
        """Return fitted copies of the transformers, and the transformed tasks."""
        return FittedTransformers.learn(self.steps[:-1], tasks, self.memory, self._say)

    def _train(
        self, verb: str, fitted: FittedTransformers, moved: Any, **options: Any
    ) -> Self:
        """Meta-train an own copy of the last step, and keep all if nothing failed."""
        before, start = self._last, time.perf_counter()
        last = before._own_copy()
        try:
            getattr(last, verb)(unnamed(moved), **options)
        except KeyboardInterrupt:
            if getattr(last, "learner_", None) is not getattr(before, "learner_", None):
                self._install(fitted, last)  # what was learned until then
            raise
        self._say(len(self.steps), start)
        return self._install(fitted, last)

    def _install(self, fitted: FittedTransformers, last: Any) -> Self:
        """Set the fitted state."""
        steps = fitted.installed(self.steps[:-1])
        tags = getattr(last, "__sklmeta_tags__", MetaTags)()
        learns = fitted.learns or tags.learns_from_tasks
        # Who learns nothing from tasks can be scored on them.
        seen = fitted.seen if learns else {}
        self._fitted = replace(fitted, params=step_params(steps), seen=seen)
        self.steps = [*steps, (self.steps[-1][0], last)]
        self.__dict__.pop("adapted_", None)
        return self

    def _say(self, number: int, start: float) -> None:
        if self.verbose:
            name, seconds = self.steps[number - 1][0], time.perf_counter() - start
            print(
                f"[MetaPipeline] (step {number} of {len(self.steps)}) "
                f"fitted {name}, {seconds:.1f} s"
            )

    # As an estimator -------------------------------------------------------------

    def __getitem__(self, ind: Any) -> Any:
        if not isinstance(ind, slice):
            return super().__getitem__(ind)
        if ind.step not in (1, None):
            raise ValueError("A pipeline is cut in steps of 1.")
        steps = self.steps[ind]
        if not steps or steps[-1] is not self.steps[-1]:
            return Pipeline(steps)
        part = type(self)(steps, memory=self.memory, verbose=self.verbose)
        if hasattr(self, "_fitted"):
            part._fitted = self._fitted.last_steps(len(steps) - 1, self._last)
        return part

    @property
    def n_features_in_(self) -> int:
        """Number of features before the first step."""
        check_is_fitted(self)
        if self._fitted.n_features_in is None:
            raise AttributeError("The first step does not say how many features.")
        return self._fitted.n_features_in

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the features before the first step."""
        check_is_fitted(self)
        if self._fitted.feature_names is None:
            raise AttributeError("The meta-training tasks had no feature names.")
        return self._fitted.feature_names

    @property
    def _classifies(self) -> bool:
        return is_classifier(self._last)

    @property
    def _label_kind(self) -> str | None:
        return self._last._label_kind

    def _check_ready(self) -> None:
        """Refuse to go on unfitted, or with transformers changed since."""
        check_is_fitted(self)
        self._refuse_changes()

    def _refuse_changes(self) -> None:
        refuse_changes(self, self.steps[:-1], self._fitted.params)

    def _own_copy(self) -> Self:
        """Return a copy that shares what was learned and owns its parameters."""
        own = object.__new__(type(self))
        own.__dict__.update(self.__dict__)
        own.__dict__.pop("adapted_", None)
        fitted = getattr(self, "_fitted", None)
        params = None if fitted is None else fitted.params
        # Together, since parameters are compared with those at fit by identity.
        steps, params = copy.deepcopy((self.steps[:-1], params))
        own.steps = [*steps, (self.steps[-1][0], self._last._own_copy())]
        if fitted is not None:
            own._fitted = replace(fitted, params=params)
        return own

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_fitted")

    def __sklmeta_tags__(self) -> MetaTags:
        return getattr(self._last, "__sklmeta_tags__", MetaTags)()
