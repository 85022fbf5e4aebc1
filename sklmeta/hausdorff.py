r"""Nearest drawing by the modified Hausdorff distance: no training, no features.

A drawing is the set of its ink pixels' coordinates, moved so that their mean is zero.
Two drawings :math:`A` and :math:`B` are as far apart as the worse of the two mean
distances from a pixel of one to the nearest pixel of the other,

.. math:: d(A, B) = \max\left(
          \frac{1}{|A|} \sum_{a \in A} \min_{b \in B} \lVert a - b \rVert, \;
          \frac{1}{|B|} \sum_{b \in B} \min_{a \in A} \lVert a - b \rVert \right),

and a drawing gets the label of the nearest one. Omniglot's authors hold one-shot
learners against it.

References
----------
Dubuisson and Jain, "A Modified Hausdorff Distance for Object Matching", ICPR 1994,
pp. 566-568.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

__all__ = ["ModifiedHausdorffClassifier"]


class ModifiedHausdorffClassifier(ClassifierMixin, BaseEstimator):
    """Nearest-neighbour classifier of drawings by the modified Hausdorff distance.

    A scikit-learn classifier of its own, and a baseline for meta-learners on images
    of strokes as ``PerTaskClassifier(ModifiedHausdorffClassifier())``.

    Parameters
    ----------
    image_shape : tuple of two ints, default=None
        Height and width of images that come as flat rows. None: they are square.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    threshold_ : float
        Pixels above it are ink: the middle between the smallest and the largest value
        of the images in `fit`.
    n_features_in_ : int
        Pixels of a flat row, or the height of the images.

    See Also
    --------
    PerTaskClassifier : Fits a classifier to the support rows of each task.
    sklmeta.datasets.fetch_omniglot_runs : Where it is the authors' yardstick.

    Notes
    -----
    Ties go to the row that came first in `fit`. Time grows with the product of the
    numbers of ink pixels, and of the numbers of images in `fit` and in `predict`.

    References
    ----------
    .. [1] M.-P. Dubuisson, A. K. Jain, "A Modified Hausdorff Distance for Object
       Matching", ICPR 1994, pp. 566-568.

    Examples
    --------
    >>> import numpy as np
    >>> from sklmeta import ModifiedHausdorffClassifier
    >>> bar, corner = np.zeros((2, 8, 8))
    >>> bar[1, 1:6] = corner[1, 1:4] = corner[1:4, 1] = 1
    >>> model = ModifiedHausdorffClassifier().fit([bar, corner], ["bar", "corner"])
    >>> moved = np.roll(corner, (3, 2), axis=(0, 1))
    >>> model.predict([moved]).tolist()
    ['corner']
    """

    def __init__(self, image_shape: tuple[int, int] | None = None) -> None:
        self.image_shape = image_shape

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Keep labelled drawings.

        Parameters
        ----------
        X : array-like of shape (n_samples, height, width) or (n_samples, n_pixels)
            Grey images, ink brighter than paper.
        y : array-like of shape (n_samples,)
            Labels.

        Returns
        -------
        self : object
            The fitted classifier.

        Raises
        ------
        ValueError
            If X is no set of images, or an image has no ink.
        """
        X, y = validate_data(self, X, y, dtype="numeric", allow_nd=True)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        images = self._images(X)
        low, high = float(images.min()), float(images.max())
        self.threshold_ = (low + high) / 2
        self._shape = images.shape[1:]
        self._drawings = self._ink(images)
        self.classes_, self._codes = np.unique(y, return_inverse=True)
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the label of the nearest drawing.

        Parameters
        ----------
        X : array-like of shape (n_samples, height, width) or (n_samples, n_pixels)
            Images of the size that `fit` was given.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If images are of another size, or one has no ink.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype="numeric", allow_nd=True)
        images = self._images(X)
        if images.shape[1:] != self._shape:
            raise ValueError(
                f"X has images of shape {images.shape[1:]}, but "
                f"{type(self).__name__} was fitted to images of shape {self._shape}."
            )
        drawings = self._ink(images)
        nearest = [
            np.argmin([_distance(own, known) for known in self._drawings])
            for own in drawings
        ]
        return self.classes_[self._codes[nearest]]

    def _images(self, X: Any) -> NDArray[Any]:
        """Return images (n_samples, height, width)."""
        if X.ndim == 3:
            return X
        if X.ndim != 2:
            raise ValueError(
                f"X has shape {X.shape}, but {type(self).__name__} takes grey images "
                "of shape (n_samples, height, width), or flat rows of their pixels."
            )
        n_pixels = X.shape[1]
        shape = self._image_shape(n_pixels)
        if math.prod(shape) != n_pixels:
            given = "a square" if self.image_shape is None else f"{shape}"
            raise ValueError(
                f"Rows of {n_pixels} pixels do not make {given} image. Give "
                f"image_shape=(height, width) to {type(self).__name__}, or images of "
                "shape (n_samples, height, width)."
            )
        return X.reshape(len(X), *shape)

    def _image_shape(self, n_pixels: int) -> tuple[int, int]:
        """Return height and width, as given or those of a square."""
        given: Any = self.image_shape
        if given is None:
            return (math.isqrt(n_pixels),) * 2
        is_pair = isinstance(given, (tuple, list)) and len(given) == 2
        if not is_pair or not all(
            isinstance(n, Integral) and int(n) > 0 for n in given
        ):
            raise ValueError(
                "image_shape must be two positive ints, (height, width), or None for "
                f"square images; got {given!r}."
            )
        return int(given[0]), int(given[1])

    def _ink(self, images: NDArray[Any]) -> list[KDTree]:
        """Return each image's ink: coordinates (n_points, 2), centred."""
        ink = images > self.threshold_
        empty = ~ink.any(axis=(1, 2))
        if empty.any():
            raise ValueError(
                f"Image {int(empty.argmax())} of X has no ink: no pixel above "
                f"{self.threshold_:g}, the middle of the values in fit. Leave empty "
                "images out, and give ink as the brighter value."
            )
        points = [np.argwhere(one).astype(np.float64) for one in ink]
        return [KDTree(own - own.mean(axis=0)) for own in points]


def _distance(a: KDTree, b: KDTree) -> float:
    """Return the modified Hausdorff distance of two sets of points."""
    to_b, to_a = b.query(a.data)[0], a.query(b.data)[0]
    return max(to_b.mean(), to_a.mean())
