"""Owning, validating, adapting: what both few-shot estimators share.

Nothing here depends on whether labels or numbers are predicted.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    is_classifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)
from torch import Tensor
from torch.utils import _pytree as pytree

from sklmeta._checks import diverged, finite_rows
from sklmeta._parameters import resolve_device
from sklmeta._preparation import Preparation
from sklmeta.engine.batches import Rows
from sklmeta.engine.inference import adapt, predict_rows
from sklmeta.engine.learner import State
from sklmeta.engine.pool import RowPool
from sklmeta.tasks import ClassPool, Task, TaskSet

__all__ = ["FewShotEstimator"]

_FITTED = (
    *("meta_", "classes_", "n_features_in_", "feature_names_in_"),
    *("_state", "_scale"),
)


class FewShotEstimator(BaseEstimator):
    """What both few-shot estimators share: owning, validating, adapting."""

    meta: Any
    meta_: Any
    _state: State

    def set_params(self, **params: Any) -> Self:
        """Set parameters of this estimator, or of its own copy of `meta`.

        Parameters
        ----------
        **params : dict
            Names and values; ``meta__inner_lr`` and the like reach a copy of the
            meta-learner, never the object that was given.

        Returns
        -------
        self : object
            This estimator.
        """
        meta = params.get("meta", self.meta)
        nested = any(name.startswith("meta__") for name in params)
        if nested and hasattr(meta, "_own_copy"):
            params = {**params, "meta": meta._own_copy()}
        return super().set_params(**params)

    def __sklearn_clone__(self) -> Self:
        params = self.get_params(deep=False)
        if hasattr(self.meta, "_own_copy"):
            params["meta"] = self.meta._own_copy()
        return type(self)(**params)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "meta_")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with CPU tensors."""
        state = dict(super().__getstate__())
        if "_state" in state:
            state["_state"] = pytree.tree_map(_to_cpu, state["_state"])
        return state

    def _fitted_meta(self) -> Any:
        """Return an own copy of the meta-learner, whose weights are shared."""
        if not hasattr(self.meta, "_own_copy"):
            raise TypeError(
                f"meta must be a meta-trained sklmeta estimator, got {self.meta!r}."
            )
        if is_classifier(self.meta) != is_classifier(self):
            kind = "classifier" if is_classifier(self) else "regressor"
            raise TypeError(
                f"The meta of a {type(self).__name__} must be a {kind}, got "
                f"{type(self.meta).__name__}."
            )
        if not self.meta.__sklearn_is_fitted__():
            raise NotFittedError(
                f"meta is a {type(self.meta).__name__} that is not meta-trained. Call "
                "its fit(tasks) first. scikit-learn's clone empties a meta-learner "
                "that is a parameter value, as in {'meta': [a, b]}: compare "
                f"{type(self).__name__}(a) and {type(self).__name__}(b) instead."
            )
        meta = self.meta._own_copy()
        meta._check_parameters()
        meta._refuse_changed_parameters()
        return meta

    def _validated_support(
        self, meta: Any, X: Any, y: Any
    ) -> tuple[Self, NDArray[Any], NDArray[Any]]:
        """Check support rows and targets, in scikit-learn's words.

        Returns an unfitted estimator too, to adapt: a call that fails leaves this one
        as it was.
        """
        preparation = meta._preparation
        blank = type(self).__new__(type(self))
        blank.meta_ = meta
        blank.n_features_in_ = preparation.n_features_in
        if preparation.feature_names is not None:
            blank.feature_names_in_ = preparation.feature_names
        X, y = _in_memory(X), _in_memory(y)
        if len(preparation.row_shape) == 1:
            classifies = preparation.settings.classifies
            X, y = validate_data(blank, X, y, reset=False, multi_output=not classifies)
            return blank, X, y
        X = blank._validated_query(preparation, X)
        y = check_array(y, ensure_2d=False, dtype=None, input_name="y")
        check_consistent_length(X, y)
        return blank, X, y

    def _take_over(self, fitted: Self) -> Self:
        """Take the fitted attributes of an estimator that was just adapted."""
        for name in _FITTED:
            self.__dict__.pop(name, None)
        self.__dict__.update(fitted.__dict__)
        return self

    def _validated_query(self, preparation: Preparation, X: Any) -> NDArray[Any]:
        """Return checked rows; tables in scikit-learn's words, images by shape."""
        if len(preparation.row_shape) == 1:
            return validate_data(self, _in_memory(X), reset=False)
        X = check_array(_in_memory(X), allow_nd=True, input_name="X", estimator=self)
        preparation.check_row_shape(X.shape[1:])
        return X

    def _adapt(
        self,
        meta: Any,
        X: NDArray[Any],
        y: NDArray[Any],
        n_way: int | None = None,
    ) -> Rows:
        """Adapt to checked rows and encoded targets; keep the state.

        Returns the support rows as the learner gets them, targets not yet rescaled.
        """
        device = resolve_device(meta.device)
        x = meta._preparation.features(X)
        pool = RowPool.from_tasks(x, y, [0, len(x)], [None], None, device)
        support = Rows(
            pool.take(torch.arange(len(x))[None]),
            pool.y[None],
            torch.ones(1, len(x), dtype=torch.bool, device=device),
            None if n_way is None else torch.tensor([n_way], device=device),
        )
        targets = meta._preparation.task_targets
        scaled = support if targets is None else targets.standardise_support(support)
        state = adapt(meta._configured_learner(), scaled)
        _refuse_non_finite(state, meta)
        self._state = state
        return support

    def _outputs(self, X: Any) -> Tensor:
        """Return the learner's outputs (Q, N) or (Q, n_outputs) for query rows."""
        check_is_fitted(self)
        meta = self.meta_
        device = resolve_device(meta.device)
        x = meta._preparation.features(self._validated_query(meta._preparation, X))
        y = np.zeros(len(x), dtype=np.int64)
        pool = RowPool.from_tasks(x, y, [0, len(x)], [None], None, device)
        state = pytree.tree_map(lambda leaf: leaf.to(device), self._state)
        outputs = predict_rows(meta._configured_learner(), state, pool)
        if not finite_rows(outputs, meta._classifies).all():
            raise diverged(meta, "the support rows, or predicting rows far from them,")
        return outputs


def _in_memory(X: Any) -> Any:
    """Return rows or targets in a container that scikit-learn checks."""
    if isinstance(X, (Task, TaskSet, ClassPool)):
        raise TypeError(
            f"Expected rows, got {X!r}. Give the rows of one task, as in "
            "adapt(task.X, task.y) and predict(task.X)."
        )
    return X.detach().cpu().numpy() if isinstance(X, Tensor) else X


def _to_cpu(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf


def _refuse_non_finite(state: State, meta: Any) -> None:
    """Refuse a state whose numbers are not finite: adaptation diverged."""
    for leaf in pytree.tree_leaves(state):
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        if floating and not torch.isfinite(leaf).all():
            raise diverged(meta, "these support rows")
