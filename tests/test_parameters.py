"""Whether parameters are usable, and what they were."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sklmeta._parameters import (
    check_choice,
    check_fraction,
    check_not_negative,
    check_positive,
    resolve_device,
    same_value,
)


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


@pytest.mark.parametrize("value", [1e-3, 5, np.float32(0.5), np.int64(2)])
def test_rates_that_are_fine(value):
    check_positive("inner_lr", value)
    check_not_negative("cg_damping", value)
    check_not_negative("cg_damping", 0 * value)


@pytest.mark.parametrize(
    ("check", "value", "error", "match"),
    [
        *(
            (c, v, TypeError, rf"^rate must be a number, got {v}\.$")
            for c in (check_positive, check_not_negative)
            for v in (True, False)
        ),
        *(
            (c, v, ValueError, rf"^rate must be finite, got {v}\.$")
            for c in (check_positive, check_not_negative)
            for v in (np.nan, np.inf)
        ),
        (check_positive, np.True_, TypeError, "rate must be an instance of"),
        (check_positive, 0.0, ValueError, "rate == 0.0, must be > 0"),
        (check_not_negative, -0.1, ValueError, "rate == -0.1, must be >= 0"),
        (check_not_negative, "1", TypeError, "rate must be an instance of"),
        (check_fraction, np.nan, ValueError, "rate must be between 0 and 1, got nan"),
        (check_fraction, True, ValueError, "rate == True, must be < 1"),
        (check_fraction, 0.0, ValueError, "rate == 0.0, must be > 0"),
    ],
)
def test_rates_that_are_none(check, value, error, match):
    with pytest.raises(error, match=match):
        check("rate", value)


@pytest.mark.parametrize(
    "value",
    [
        np.array([True, False]),
        np.array([True]),
        torch.tensor([True]),
        pd.Series([True, False]),
        pd.DataFrame([[True]]),
        [True, False],
        [[True], [True, False]],
        "yes",
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_choices_that_are_none(value):
    with pytest.raises(ValueError, match=r"flag must be one of \[True, False\], got"):
        check_choice("flag", value, (True, False))


@pytest.mark.parametrize("value", [True, np.False_, 1])
def test_choices_that_are_fine(value):
    check_choice("flag", value, (True, False))


def test_many_devices():
    with pytest.raises(ValueError, match="is not available here"):
        resolve_device(np.array(["cpu", "cuda"]))
