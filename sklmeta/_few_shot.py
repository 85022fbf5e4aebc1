"""Owning, validating, adapting: what both few-shot estimators share.

Nothing here depends on whether labels or numbers are predicted.
"""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags, get_tags
from sklearn.utils.validation import check_is_fitted

from sklmeta._pooling import without_tensors
from sklmeta.tasks import ClassPool, Task, TaskSet

__all__ = ["FewShotEstimator", "rows_of_one_task"]

_FITTED = (
    *("meta_", "classes_", "n_features_in_", "feature_names_in_"),
    "_model",
)


class FewShotEstimator(BaseEstimator):
    """What both few-shot estimators share: owning, validating, adapting."""

    meta: Any
    meta_: Any
    _model: Any  # an AdaptedModel

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

    def __sklearn_tags__(self) -> Tags:
        """Take from the meta-learner what rows it takes."""
        tags = super().__sklearn_tags__()
        meta = getattr(self, "meta", None)
        if isinstance(meta, BaseEstimator):
            tags.input_tags = get_tags(meta).input_tags
        return tags

    def _fitted_meta(self) -> Any:
        """Return an own copy of the meta-learner, whose weights are shared."""
        if not hasattr(self.meta, "_own_copy"):
            raise TypeError(
                f"meta must be a meta-trained sklmeta estimator, got {self.meta!r}."
            )
        if hasattr(self.meta, "steps"):
            raise TypeError(
                f"meta is a {type(self.meta).__name__}, whose adapt(X, y) gives what a "
                f"{type(self).__name__} is for: a fitted pipeline that adapts in fit, "
                "to be cloned and searched over, with the transformers as they are. "
                "Use that."
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
    ) -> tuple[Self, Any, NDArray[Any]]:
        """Check support rows and targets, in scikit-learn's words.

        Returns an unfitted estimator too, to adapt: a call that fails leaves this one
        as it was.
        """
        blank = self._blank(meta)
        X, y = meta._preparation.validated_support(blank, _one_task(X), _one_task(y))
        return blank, X, y

    def _blank(self, meta: Any) -> Self:
        """Return an unfitted estimator that knows what rows look like."""
        preparation = meta._preparation
        blank = type(self).__new__(type(self))
        blank.meta_ = meta
        blank.n_features_in_ = preparation.n_features_in
        if preparation.feature_names is not None:
            blank.feature_names_in_ = preparation.feature_names
        return blank

    def _take_over(self, fitted: Self) -> Self:
        """Take the fitted attributes of an estimator that was just adapted."""
        for name in _FITTED:
            self.__dict__.pop(name, None)
        self.__dict__.update(fitted.__dict__)
        return self

    def _validated_query(self, X: Any) -> Any:
        """Return checked query rows."""
        check_is_fitted(self)
        return self.meta_._preparation.validated_rows(self, _one_task(X))


def rows_of_one_task(X: Any) -> Any:
    """Return rows or targets as they are; refuse tasks.

    Raises
    ------
    TypeError
        If `X` is a task, or several.
    """
    if isinstance(X, (Task, TaskSet, ClassPool)):
        raise TypeError(
            f"Expected rows, got {X!r}. Give the rows of one task, as in "
            "adapt(task.X, task.y) and predict(task.X)."
        )
    return X


def _one_task(X: Any) -> Any:
    return without_tensors(rows_of_one_task(X))
