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
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    ClassifierMixin,
    RegressorMixin,
)
from sklearn.utils import Tags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import (
    column_or_1d,
)
from torch import Tensor

from sklmeta._checks import sorted_classes
from sklmeta._few_shot import FewShotEstimator
from sklmeta._parameters import check_choice, check_integer
from sklmeta._schema import TaskSchema

__all__ = ["FewShotClassifier", "FewShotRegressor"]


def _has_probabilities(few_shot: Any) -> bool:
    """Whether the meta-learner of a few-shot classifier gives probabilities."""
    meta = getattr(few_shot, "meta_", few_shot.meta)
    return not hasattr(meta, "_has_probabilities") or meta._has_probabilities()


def _is_transductive(few_shot: Any) -> bool:
    """Whether query rows can refine each other's predictions."""
    return hasattr(getattr(few_shot, "meta_", few_shot.meta), "predict_transductive")


def _gives_std(few_shot: Any) -> bool:
    """Whether the meta-learner of a few-shot regressor has predictive densities."""
    return getattr(getattr(few_shot, "meta_", few_shot.meta), "_gives_std", False)


class FewShotClassifier(ClassifierMixin, FewShotEstimator):
    """Classifier whose `fit` adapts a meta-trained classifier to support rows.

    Parameters
    ----------
    meta : meta-learner
        A fitted classifier such as `MAMLClassifier`. It is never changed: parameters
        set through ``meta__...`` go to a copy, and its weights are shared.
    missing_classes : {"raise", "allow"}, default="raise"
        With shared labels, whether `fit` accepts support rows that lack some of the
        classes of the meta-training tasks, as bootstraps do. Not for schemes such as
        `OneVsRestClassifier`, whose 0 and 1 would be read as ranks of classes.

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
        if meta._label_kind == "local":
            names = classes = np.unique(y)
            codes = np.searchsorted(classes, y)
        else:
            classes = meta._preparation.classes
            names, codes = self._shared_codes(meta._preparation, y, takes_ranks)
        adapted._model = meta._adapted_model(X, codes, classes)
        adapted.classes_ = names
        return self._take_over(adapted)

    def _of_prior(self) -> Self:
        """Take the model of a task without support rows, of shared labels."""
        meta = self._fitted_meta()
        prior = self._blank(meta)
        prior._model = meta._prior_model()
        prior.classes_ = meta._preparation.classes
        return self._take_over(prior)

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
        X = self._validated_query(X)
        return self.classes_[self._model.predict(X)]

    @available_if(_has_probabilities)
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
        X = self._validated_query(X)
        return self._model.predict_proba(X)

    @available_if(_is_transductive)
    def predict_transductive(self, X: ArrayLike) -> NDArray[Any]:
        """Predict labels of query rows together: each depends on the others.

        Only with meta-learners that have this method.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            All query rows of the task.

        Returns
        -------
        ndarray of shape (n_query,)
            The label of the most probable class of each row.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows do not fit the meta-training tasks, or there are none.
        MetaTrainingError
            If predictions are not finite.
        """
        X = self._validated_query(X)
        return self.classes_[self._model.predict_transductive(X)]

    @available_if(_is_transductive)
    def predict_proba_transductive(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predict class probabilities of query rows together.

        Only with meta-learners that have this method.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            All query rows of the task.

        Returns
        -------
        ndarray of shape (n_query, n_classes)
            Columns in the order of `classes_`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows do not fit the meta-training tasks, or there are none.
        MetaTrainingError
            If predictions are not finite.
        """
        X = self._validated_query(X)
        return self._model.predict_proba_transductive(X)

    def _shared_codes(
        self, preparation: TaskSchema, y: NDArray[Any], takes_ranks: bool
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
                "Give support rows of every class, or use missing_classes='allow'. "
                "Schemes such as OneVsRestClassifier make other classes of y: "
                "meta-train with TaskSet(..., labels='local') or a ClassPool for them."
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


class FewShotRegressor(RegressorMixin, FewShotEstimator):
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
    intercept_ : float or ndarray of shape (n_outputs,)
        Intercept of the task, in the units of the targets. This and the next two only
        with `HierarchicalLinearRegressor`.
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
        Coefficients of the task, in the units of features and targets.
    coef_covariance_ : ndarray of shape (n_random, n_random) or \
(n_outputs, n_random, n_random)
        Posterior covariance of the coefficients that differ between tasks, the
        intercept first, in the order of the meta-learner's `covariance_`.

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
        adapted, X, y = self._validated_support(meta, X, y)
        y = meta._preparation.target_columns(y)
        adapted._model = meta._adapted_model(X, y, None)
        return self._take_over(adapted)

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Predict targets.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Query rows.
        return_std : bool, default=False
            Whether to return standard deviations too; only with meta-learners that
            have predictive densities.

        Returns
        -------
        y_mean : ndarray of shape (n_query,) or (n_query, n_outputs)
            The predictions, in the units of the targets.
        y_std : ndarray of shape (n_query,) or (n_query, n_outputs)
            Standard deviations of the targets about them, in the same units. Only with
            ``return_std=True``.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If the meta-learner has no standard deviations.
        ValueError
            If the rows do not fit the meta-training tasks.
        MetaTrainingError
            If predictions are not finite.
        """
        X = self._validated_query(X)
        if not return_std:
            return self._model.predict(X)
        if not _gives_std(self):
            raise TypeError(
                f"{type(self.meta_).__name__} has no predictive standard deviations. "
                "Use return_std=False, or a probabilistic regressor such as "
                "DeepKernelRegressor."
            )
        return self._model.predict_std(X)

    @available_if(_gives_std)
    def sample_y(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: Any = 0,
        noise: bool = True,
    ) -> NDArray[np.float64]:
        """Draw targets of query rows from their joint predictive distribution.

        Only with meta-learners that have predictive densities.

        Parameters
        ----------
        X : array-like of shape (n_query, n_features) or images
            Query rows.
        n_samples : int, default=1
            Number of draws.
        random_state : int, RandomState instance or None, default=0
            Seed of the draws.
        noise : bool, default=True
            Whether draws are of targets, with the noise of each row; else of the
            function behind them.

        Returns
        -------
        ndarray of shape (n_query, n_samples) or (n_query, n_outputs, n_samples)
            One draw for all rows in each entry of the last axis.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the rows do not fit the meta-training tasks, or `n_samples` is below 1.
        """
        X = self._validated_query(X)
        check_integer("n_samples", n_samples, 1)
        check_choice("noise", noise, (True, False))
        seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        draws = np.moveaxis(self._model.sample(X, n_samples, seed, noise), 0, -1)
        return draws[:, 0] if self.meta_._preparation.flat_y else draws

    @property
    def intercept_(self) -> Any:
        """Intercept of the task, of a linear model."""
        return self._linear_model()[0]

    @property
    def coef_(self) -> NDArray[np.float64]:
        """Coefficients of the task, of a linear model."""
        return self._linear_model()[1]

    @property
    def coef_covariance_(self) -> NDArray[np.float64]:
        """Posterior covariance of the coefficients that differ between tasks."""
        return self._linear_model()[2]

    def _linear_model(self) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]]:
        """Return intercept, coefficients and covariance; AttributeError if none."""
        model: Any = getattr(self, "_model", None)
        if not hasattr(model, "coefficients"):
            raise AttributeError(
                f"{type(self).__name__} has coefficients only when it is adapted and "
                "its meta-learner is a linear model (HierarchicalLinearRegressor)."
            )
        return model.coefficients()

    def _of_prior(self) -> Self:
        """Take the model of a task without support rows."""
        meta = self._fitted_meta()
        prior = self._blank(meta)
        prior._model = meta._prior_model()
        return self._take_over(prior)


def _refuse_missing_labels(y: Any) -> None:
    """Refuse None, NaN and pandas.NA among labels, which scikit-learn cannot sort."""
    if isinstance(y, Tensor) or y is None:
        return
    labels = np.asarray(y)
    if labels.dtype.kind == "O" and np.any(pd.isna(labels)):
        raise ValueError("Input y contains NaN. Give every row a label.")
