"""Ordinary scikit-learn estimators whose `fit` adapts a fitted meta-learner.

What must hold, and why nothing simpler does: the meta-learned weights are shared and
never change; the meta-learner's *parameters* are this estimator's own, so that neither
side's `set_params` reaches the other; `clone` keeps the weights, which cloning a plain
nested estimator would lose.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    RegressorMixin,
    is_classifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)
from torch import Tensor
from torch.utils import _pytree as pytree

from sklmeta._checks import diverged, finite_rows, sorted_classes
from sklmeta._parameters import check_choice, resolve_device
from sklmeta._preparation import Preparation
from sklmeta.engine.batches import Rows
from sklmeta.engine.inference import adapt, predict_rows
from sklmeta.engine.learner import State
from sklmeta.engine.pool import RowPool
from sklmeta.tasks import ClassPool, Task, TaskSet

__all__ = ["FewShotClassifier", "FewShotRegressor"]

_FITTED = (
    *("meta_", "classes_", "n_features_in_", "feature_names_in_"),
    *("_state", "_scale"),
)


class _FewShotEstimator(BaseEstimator):
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
        if not hasattr(self.meta, "learner_"):
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


class FewShotClassifier(ClassifierMixin, _FewShotEstimator):
    """Classifier whose `fit` adapts a meta-trained classifier to support rows.

    Parameters
    ----------
    meta : meta-learner
        A fitted classifier such as `MAMLClassifier`. It is never changed: parameters
        set through ``meta__...`` go to a copy, and its weights are shared.
    missing_classes : {"raise", "allow"}, default="raise"
        With shared labels, whether `fit` accepts support rows that lack some of the
        classes of the meta-training tasks.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels that are predicted.
    meta_ : meta-learner
        The meta-learner as it was when adapting.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if the meta-training tasks had any.

    See Also
    --------
    FewShotRegressor : The same for regressors.

    Notes
    -----
    With shared labels, `y` holds the labels of the meta-training tasks, or their ranks
    0..K-1, as wrappers that encode labels hand them over.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklmeta import FewShotClassifier, ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = ProtoNetClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> X, y = pool[5:].X[:60], pool[5:].y[:60]
    >>> len(cross_val_score(FewShotClassifier(meta), X, y, cv=3))
    3
    """

    def __init__(self, meta: Any = None, *, missing_classes: str = "raise") -> None:
        self.meta = meta
        self.missing_classes = missing_classes

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Adapt to the support rows of one task.

        Parameters
        ----------
        X : array-like of shape (n_support, n_features) or images
            Support rows.
        y : array-like of shape (n_support,)
            Their labels.

        Returns
        -------
        self : object
            The adapted estimator.

        Raises
        ------
        NotFittedError
            If `meta` is not meta-trained.
        TypeError
            If `meta` is no meta-learner, or a regressor.
        ValueError
            If the rows do not fit the meta-training tasks, or a parameter of `meta`
            that acts in meta-training only was changed since.
        MetaTrainingError
            If adaptation diverges.
        """
        return self._fit(X, y, takes_ranks=True)

    def _fit(self, X: Any, y: Any, *, takes_ranks: bool) -> Self:
        """Adapt; ranks of shared labels are for wrappers, which encode labels."""
        check_choice("missing_classes", self.missing_classes, ("raise", "allow"))
        meta = self._fitted_meta()
        _refuse_missing_labels(y)
        adapted, X, y = self._validated_support(meta, X, y)
        y = np.asarray(column_or_1d(y, warn=True))
        sorted_classes(y)  # refuses what is no label
        if meta._preparation.labels == "local":
            classes, codes = np.unique(y, return_inverse=True)
            adapted._adapt(meta, X, codes.astype(np.int64), n_way=len(classes))
        else:
            classes, codes = self._shared_codes(meta._preparation, y, takes_ranks)
            adapted._adapt(meta, X, codes)
        adapted.classes_ = classes
        return self._take_over(adapted)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Query rows.

        Returns
        -------
        ndarray of shape (n_query,)
            The label of the most probable class of each row.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows do not fit the meta-training tasks.
        MetaTrainingError
            If predictions are not finite.
        """
        best = self._outputs(X).argmax(-1).numpy()
        return self.classes_[best]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Query rows.

        Returns
        -------
        ndarray of shape (n_query, n_classes)
            Columns in the order of `classes_`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows do not fit the meta-training tasks.
        MetaTrainingError
            If predictions are not finite.
        """
        return torch.softmax(self._outputs(X).double(), dim=-1).numpy()

    def _shared_codes(
        self, preparation: Preparation, y: NDArray[Any], takes_ranks: bool
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return classes, and codes of labels that are classes or their ranks."""
        assert preparation.classes is not None
        known, present = preparation.classes.tolist(), np.unique(y).tolist()
        ranks = list(range(len(known)))
        as_labels = set(present) <= set(known)
        as_ranks = takes_ranks and set(present) <= set(ranks)
        if not (as_labels or as_ranks):
            preparation.encode_labels(y, "")  # says which are unknown
        complete = len(present) == len(known)
        if not complete and self.missing_classes == "raise":
            raise ValueError(
                f"y holds {len(present)} {'class' if len(present) == 1 else 'classes'}"
                f", {present}, but the meta-training tasks had {len(known)}: {known}. "
                "Give support rows of every class, or use missing_classes='allow'."
            )
        if as_labels and as_ranks and known != ranks and not complete:
            raise ValueError(
                f"y={present} can be read as labels and as ranks of the classes "
                f"{known}. Meta-train on labels 0..{len(known) - 1} to use this "
                "wrapper with missing classes."
            )
        if as_ranks and not as_labels:
            return np.asarray(ranks), y.astype(np.int64)
        return preparation.classes, preparation.encode_labels(y, "")


class FewShotRegressor(RegressorMixin, _FewShotEstimator):
    """Regressor whose `fit` adapts a meta-trained regressor to support rows.

    Parameters
    ----------
    meta : meta-learner
        A fitted regressor such as `MAMLRegressor`. It is never changed: parameters
        set through ``meta__...`` go to a copy, and its weights are shared.

    Attributes
    ----------
    meta_ : meta-learner
        The meta-learner as it was when adapting.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if the meta-training tasks had any.

    See Also
    --------
    FewShotClassifier : The same for classifiers.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklmeta import FewShotRegressor, MAMLRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> meta = MAMLRegressor(max_iter=50, random_state=0)
    >>> meta = meta.fit(make_sinusoids(100, random_state=0))
    >>> new = make_sinusoids(1, random_state=1)[0]
    >>> steps = {"meta__inner_steps": [1, 5]}
    >>> search = GridSearchCV(FewShotRegressor(meta), steps, cv=3, error_score="raise")
    >>> len(search.fit(new.X, new.y).cv_results_["params"])
    2
    """

    def __init__(self, meta: Any = None) -> None:
        self.meta = meta

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Adapt to the support rows of one task.

        Parameters
        ----------
        X : array-like of shape (n_support, n_features) or images
            Support rows.
        y : array-like of shape (n_support,) or (n_support, n_outputs)
            Their targets.

        Returns
        -------
        self : object
            The adapted estimator.

        Raises
        ------
        NotFittedError
            If `meta` is not meta-trained.
        TypeError
            If `meta` is no meta-learner, or a classifier.
        ValueError
            If the rows do not fit the meta-training tasks, or a parameter of `meta`
            that acts in meta-training only was changed since.
        MetaTrainingError
            If adaptation diverges.
        """
        meta = self._fitted_meta()
        preparation = meta._preparation
        adapted, X, y = self._validated_support(meta, X, y)
        support = adapted._adapt(meta, X, preparation.encode_targets(y))
        adapted._scale = None
        if preparation.task_targets is not None:
            scale = preparation.task_targets.scale(support)
            adapted._scale = tuple(part[0].cpu() for part in scale)
        return self._take_over(adapted)

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict targets.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Query rows.

        Returns
        -------
        ndarray of shape (n_query,) or (n_query, n_outputs)
            The predictions, in the units of the targets.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows do not fit the meta-training tasks.
        MetaTrainingError
            If predictions are not finite.
        """
        outputs = self._outputs(X)
        if self._scale is not None:
            level, spread = self._scale
            outputs = outputs * spread + level
        return self.meta_._preparation.decode_targets(outputs.numpy())


def _in_memory(X: Any) -> Any:
    """Return rows or targets in a container that scikit-learn checks."""
    if isinstance(X, (Task, TaskSet, ClassPool)):
        raise TypeError(
            f"Expected rows, got {X!r}. Give the rows of one task, as in "
            "adapt(task.X, task.y) and predict(task.X)."
        )
    return X.detach().cpu().numpy() if isinstance(X, Tensor) else X


def _refuse_missing_labels(y: Any) -> None:
    """Refuse None, NaN and pandas.NA among labels, which scikit-learn cannot sort."""
    if isinstance(y, Tensor) or y is None:
        return
    labels = np.asarray(y)
    if labels.dtype.kind == "O" and np.any(pd.isna(labels)):
        raise ValueError("Input y contains NaN. Give every row a label.")


def _to_cpu(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf


def _refuse_non_finite(state: State, meta: Any) -> None:
    """Refuse a state whose numbers are not finite: adaptation diverged."""
    for leaf in pytree.tree_leaves(state):
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        if floating and not torch.isfinite(leaf).all():
            raise diverged(meta, "these support rows")
