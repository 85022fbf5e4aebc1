"""Constructors that pass parameters on name all of them, and refuse others."""

import inspect

import pytest
from sklearn.base import clone

from sklmeta import (
    ABMLRegressor,
    MAMLRegressor,
    ProbabilisticMAMLClassifier,
    ProtoNetClassifier,
    ReptileClassifier,
)


class Own(MAMLRegressor):
    """A user's subclass."""

    def __init__(self, backbone=None, *, extra=1, **common):
        super().__init__(backbone, **common)
        self.extra = extra


@pytest.mark.parametrize(
    ("estimator", "name", "meant"),
    [
        (MAMLRegressor, "inner_lrr", " Did you mean 'inner_lr'?"),
        (ReptileClassifier, "train_step", " Did you mean 'train_steps'?"),
        (ProtoNetClassifier, "zzz", ""),
        (Own, "extr", " Did you mean 'extra'?"),
    ],
)
def test_unknown_names_are_refused_by_the_class_that_is_made(estimator, name, meant):
    with pytest.raises(TypeError) as caught:
        estimator(**{name: 1})
    assert str(caught.value) == (
        f"{estimator.__name__}.__init__() got an unexpected keyword argument "
        f"{name!r}.{meant}"
    )


def test_own_parameters_come_first_and_all_are_named():
    names = list(inspect.signature(Own).parameters)
    assert names[:3] == ["backbone", "extra", "inner_lr"]
    assert {"max_iter", "random_state", "normalize_y"} < set(names)
    copy = clone(Own(extra=3, inner_lr=0.2))
    assert (copy.extra, copy.inner_lr) == (3, 0.2)


def test_values_by_position_are_refused_by_the_class_that_is_made():
    with pytest.raises(TypeError, match=r"^MAMLRegressor.* takes backbone by position"):
        MAMLRegressor(None, 0.1)
    assert MAMLRegressor("identity").backbone == "identity"


@pytest.mark.parametrize("estimator", [ABMLRegressor, ProbabilisticMAMLClassifier])
def test_parameters_of_a_sibling_pass_through_a_class_that_lacks_them(estimator):
    assert clone(estimator(calibrate=0.8, head="none")).calibrate == 0.8
    with pytest.raises(TypeError, match=rf"^{estimator.__name__}.*mean 'calibrate'"):
        estimator(calibrates=True)
