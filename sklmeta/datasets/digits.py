"""scikit-learn's handwritten digits as a pool of classes; no download needed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from sklearn.datasets import load_digits

from sklmeta.tasks import ClassPool

__all__ = ["load_digits_pool"]

# Pixels of scikit-learn's digits count how many of 4 x 4 fine pixels have ink.
_FULL_INK = 16


def load_digits_pool(*, classes: Iterable[int] | None = None) -> ClassPool:
    """Load scikit-learn's 1,797 handwritten digits as a pool of ten classes.

    Small enough for a first try on a laptop: meta-train on some digits, then adapt to
    digits that were never seen.

    Parameters
    ----------
    classes : iterable of int or None, default=None
        The digits to keep; None keeps all of 0 to 9.

    Returns
    -------
    pool : ClassPool
        X of shape (n_rows, 8, 8), uint8, 0 (paper) to 255 (ink); y holds the digits.
        Rows are ordered by class.

    Raises
    ------
    ValueError
        If `classes` is empty, or holds something that is not a digit.

    See Also
    --------
    sklearn.datasets.load_digits : The same images as rows of 64 numbers.

    Examples
    --------
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> train, test = pool[:6], pool[6:]
    >>> test.classes
    array([6, 7, 8, 9])
    >>> test.X.shape, test.X.dtype
    ((714, 8, 8), dtype('uint8'))
    """
    digits = load_digits()
    kept = list(range(10) if classes is None else classes)
    if not kept or not set(kept) <= set(range(10)):
        raise ValueError(f"classes must be some of the digits 0 to 9, got {kept}.")
    order = np.argsort(digits.target, kind="stable")
    order = order[np.isin(digits.target[order], kept)]
    images = np.rint(digits.images[order] * (255 / _FULL_INK)).astype(np.uint8)
    return ClassPool(images, digits.target[order])
