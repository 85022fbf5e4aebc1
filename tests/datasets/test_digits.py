"""scikit-learn's digits as a pool of classes."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sklmeta.datasets import load_digits_pool
from sklmeta.tasks import ClassPool


def test_all_digits_are_there_once():
    pool, digits = load_digits_pool(), load_digits()
    assert isinstance(pool, ClassPool)
    assert len(pool) == 10
    assert pool.X.shape == (1797, 8, 8)
    assert pool.X.dtype == np.uint8
    assert pool.X.min() == 0
    assert pool.X.max() == 255
    # Row by row the same drawings, which scaling to [0, 1] keeps to half a grey level.
    order = np.argsort(digits.target, kind="stable")
    np.testing.assert_array_equal(pool.y, digits.target[order])
    np.testing.assert_allclose(
        pool.X / 255, digits.images[order] / 16, atol=0.5 / 255 + 1e-12
    )


def test_classes_keeps_some_digits():
    pool = load_digits_pool(classes=(9, 2, 2))
    np.testing.assert_array_equal(pool.classes, [2, 9])
    np.testing.assert_array_equal(np.unique(pool.y), [2, 9])
    np.testing.assert_array_equal(pool.X, load_digits_pool()[[2, 9]].X)


@pytest.mark.parametrize("classes", [[], [3, 10], [-1], ["1"]])
def test_other_classes_are_refused(classes):
    with pytest.raises(ValueError, match=r"classes must be some of the digits 0 to 9"):
        load_digits_pool(classes=classes)
