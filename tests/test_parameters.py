"""Whether parameters are what they were."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklmeta._parameters import same_value


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (Ridge(1.0), Ridge(1.0), True),
        (Ridge(1.0), Ridge(2.0), False),
        (make_pipeline(StandardScaler(), Ridge()), None, False),
        (
            make_pipeline(StandardScaler(), Ridge()),
            make_pipeline(StandardScaler(), Ridge()),
            True,
        ),
        (
            make_pipeline(StandardScaler(), Ridge()),
            make_pipeline(StandardScaler(with_mean=False), Ridge()),
            False,
        ),
        (Pipeline([("a", Ridge())]), Pipeline([("b", Ridge())]), False),
        (np.nan, float("nan"), True),
        (np.arange(3), np.arange(3), True),
        (np.arange(3), np.arange(4), False),
        (np.arange(3), 1, False),
        ({"a": [1, (2, 3)]}, {"a": [1, (2, 3)]}, True),
        ({"a": [1, (2, 3)]}, {"a": [1, (2, 4)]}, False),
        ([1, 2], (1, 2), False),
        (1e-3, 0.001, True),
        ("sgd", None, False),
        (KFold(3), KFold(3), True),
        (KFold(3), KFold(4), False),
        (np.random.RandomState(0), np.random.RandomState(0), True),
        (np.random.RandomState(0), np.random.RandomState(1), False),
        (Ridge, StandardScaler, False),
        (Ridge(), StandardScaler, False),
        (lambda x: x, lambda x: x, False),
    ],
)
def test_whether_a_parameter_changed(a, b, same):
    assert same_value(a, b) is same
    assert same_value(b, a) is same
