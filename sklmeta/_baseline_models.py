"""Models of one task that are scikit-learn estimators, and errors where they fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import softmax
from sklearn.base import clone
from sklearn.utils import check_random_state

from sklmeta._parameters import shown

__all__ = [
    "ClassMeans",
    "ClassOutputs",
    "Constant",
    "InnerClassifier",
    "InnerRegressor",
    "Title",
    "class_means",
    "explained",
    "fresh",
]

LEAST_PROBABILITY = 1e-6


def fresh(estimator: Any, seed: int) -> Any:
    """Return an unfitted clone that draws nothing from numpy's global generator.

    Every `random_state` of it and inside it that is None gets a seed.
    """
    estimator = clone(estimator)
    random = check_random_state(seed)
    names = [
        name
        for name, value in sorted(estimator.get_params(deep=True).items())
        if (name == "random_state" or name.endswith("__random_state")) and value is None
    ]
    seeds = random.randint(np.iinfo(np.int32).max, size=len(names)).tolist()
    return estimator.set_params(**dict(zip(names, seeds, strict=True)))


@dataclass(frozen=True)
class Title:
    """What messages call a model; put into words when there is something to say.

    Attributes
    ----------
    estimator : estimator
        As it was given.
    fitted_to : str
        Its training rows.
    """

    estimator: Any
    fitted_to: str

    def __str__(self) -> str:
        return f"{shown(self.estimator)} fitted to {self.fitted_to}"


@contextmanager
def explained(
    title: Title, *, fitting: Callable[[Exception], str] | None = None
) -> Iterator[None]:
    """Begin errors of a model with what it is; `fitting` says where a cause may lie."""
    try:
        yield
    except Warning:  # made an error by the user's filters
        raise
    except Exception as error:
        what = f"{title} cannot predict"
        if fitting is not None:
            inner = shown(title.estimator)
            what = f"{inner} cannot be fitted to {title.fitted_to}{fitting(error)}"
        if isinstance(error, TypeError):
            raise TypeError(f"{what}: {error}") from error
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{error}") from error


class InnerClassifier:
    """A fitted classifier as the model of one task.

    Parameters
    ----------
    estimator : classifier
        Fitted to labels.
    present : ndarray
        The labels it was fitted to, sorted.
    classes : ndarray
        All labels that can be asked for, sorted; probabilities are of them.
    title : Title
        What messages call it.
    """

    def __init__(
        self,
        estimator: Any,
        present: NDArray[Any],
        classes: NDArray[Any],
        title: Title,
    ) -> None:
        self.estimator = estimator
        self.columns = np.searchsorted(classes, present)
        self.classes = classes
        self.title = title

    def predict(self, X: Any) -> NDArray[Any]:
        """Return positions in `classes`."""
        with explained(self.title):
            labels = self.estimator.predict(X)
        return np.searchsorted(self.classes, labels)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probabilities of all classes, 0 of those that were not fitted to."""
        with explained(self.title):
            of_present = self.estimator.predict_proba(X)
        proba = np.zeros((len(of_present), len(self.classes)))
        proba[:, self.columns] = of_present
        return proba


class InnerRegressor:
    """A fitted regressor as the model of one task.

    Parameters
    ----------
    estimator : regressor
        Fitted to targets.
    n_outputs : int or None
        Number of targets; None if there is one and it has no axis of its own.
    title : Title
        What messages call it.
    """

    def __init__(self, estimator: Any, n_outputs: int | None, title: Title) -> None:
        self.estimator = estimator
        self.n_outputs = n_outputs
        self.title = title

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return targets."""
        with explained(self.title):
            y = np.asarray(self.estimator.predict(X), dtype=np.float64)
        if not np.isfinite(y).all():
            raise ValueError(
                f"{self.title} predicts numbers that are not finite. Check the scale "
                "of X and y."
            )
        return y.reshape(len(y)) if self.n_outputs is None else y.reshape(len(y), -1)


class Constant:
    """The model of a task whose support rows are all of one class."""

    def __init__(self, code: int, n_classes: int) -> None:
        self.code = code
        self.n_classes = n_classes

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return that class for every row."""
        return np.full(len(X), self.code)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return probability 1 of that class."""
        return np.eye(self.n_classes)[self.predict(X)]


class ClassMeans:
    """Nearest class mean among the outputs of a classifier for other classes.

    Parameters
    ----------
    outputs_of : ClassOutputs
        The classifier's, which was fitted to the meta-training classes.
    outputs : ndarray of shape (S, n_outputs)
        What it gives for the support rows.
    codes : ndarray of shape (S,)
        Their ways.
    """

    def __init__(
        self,
        outputs_of: ClassOutputs,
        outputs: NDArray[np.float64],
        codes: NDArray[np.int64],
    ) -> None:
        self.outputs_of = outputs_of
        self.means = class_means(outputs, codes)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return the way whose mean is nearest."""
        return self._distances(X).argmin(1)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return a softmax of negative squared distances."""
        return softmax(-self._distances(X), axis=1)

    def _distances(self, X: Any) -> NDArray[np.float64]:
        return cdist(self.outputs_of(X), self.means, "sqeuclidean")


class ClassOutputs:
    """Decision values of a fitted classifier, else its log-probabilities.

    Parameters
    ----------
    estimator : classifier
        Fitted.
    title : Title
        What messages call it.
    """

    def __init__(self, estimator: Any, title: Title) -> None:
        self.estimator = estimator
        self.title = title

    def __call__(self, X: Any) -> NDArray[np.float64]:
        """Return outputs (n, n_outputs)."""
        with explained(self.title):
            if hasattr(self.estimator, "decision_function"):
                outputs = np.asarray(self.estimator.decision_function(X))
            else:
                proba = np.asarray(self.estimator.predict_proba(X))
                outputs = np.log(proba.clip(LEAST_PROBABILITY))
        return outputs.reshape(len(outputs), -1).astype(np.float64)


def class_means(
    outputs: NDArray[np.float64], codes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the mean of the rows of each way, (n_ways, n_outputs)."""
    return np.stack([outputs[codes == way].mean(0) for way in range(codes.max() + 1)])
