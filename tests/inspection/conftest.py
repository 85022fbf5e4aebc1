"""What the tests of the displays share: a canvas without a screen, and learners."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklmeta import (
    MAMLRegressor,
    ProtoNetClassifier,
    TaskSet,
    make_meta_pipeline,
)
from sklmeta.datasets import load_digits_pool, make_sinusoids

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib: the plot extra")


def make_small_net(input_shape):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(int(np.prod(input_shape)), 32), nn.Tanh()
    )


class StatedClassifier(ClassifierMixin, BaseEstimator):
    """A meta-learner whose feature is the probability of class 1, more or less sure."""

    def __init__(self, sharpness=1.0):
        self.sharpness = sharpness

    def fit(self, X=None, y=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X):
        p = X[:, 0] ** self.sharpness
        q = (1 - X[:, 0]) ** self.sharpness
        return np.stack([q, p], 1) / (p + q)[:, None]

    def predict(self, X):
        return self.predict_proba(X).argmax(1)


class StatedRegressor(RegressorMixin, BaseEstimator):
    """A meta-learner whose feature is the mean, of a standard deviation of `std`."""

    def __init__(self, std=1.0):
        self.std = std

    def fit(self, X=None, y=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        return self

    def predict(self, X, return_std=False):
        return (X[:, 0], np.full(len(X), self.std)) if return_std else X[:, 0]


def stated_tasks(draw, n_tasks=60):
    """Ragged tasks of one feature in (0, 1), and of what `draw` makes of it."""
    rng, pairs = np.random.default_rng(0), []
    for n in rng.integers(20, 61, n_tasks):
        X = rng.uniform(size=(n, 1))
        pairs.append((X, draw(rng, X[:, 0])))
    return TaskSet(pairs)


QUICK = {"backbone": make_small_net, "batch_size": 4, "random_state": 0}


@pytest.fixture(autouse=True)
def pyplot():
    """matplotlib.pyplot, without a screen; its figures are closed afterwards."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture(scope="session")
def small_net():
    """A backbone of one layer, for rows and images."""
    return make_small_net


@pytest.fixture(scope="session")
def waves():
    """Tasks of one feature that nothing here was meta-trained on."""
    return make_sinusoids(12, n_samples=25, random_state=1)


@pytest.fixture(scope="session")
def maml():
    tasks = make_sinusoids(40, random_state=0)
    return MAMLRegressor(inner_steps=3, max_iter=40, eval_every=10, **QUICK).fit(tasks)


@pytest.fixture(scope="session")
def pipeline():
    tasks = make_sinusoids(20, random_state=0)
    last = MAMLRegressor(max_iter=4, **QUICK)
    return make_meta_pipeline(StandardScaler(), last).fit(tasks)


@pytest.fixture(scope="session")
def digits():
    """Digits that nothing here was meta-trained on."""
    return load_digits_pool(classes=range(5, 10))


@pytest.fixture(scope="session")
def protonet():
    pool = load_digits_pool(classes=range(5))
    return ProtoNetClassifier(max_iter=10, n_way=3, **QUICK).fit(pool)


@pytest.fixture(scope="session")
def coins():
    """Tasks whose labels have the probabilities that `stated_classifier` states."""
    return stated_tasks(lambda rng, p: (rng.uniform(size=len(p)) < p).astype(int))


@pytest.fixture(scope="session")
def noise():
    """Tasks whose targets have the deviations that `stated_regressor` states."""
    return stated_tasks(lambda rng, mean: mean + rng.normal(size=len(mean)))


@pytest.fixture(scope="session")
def stated_classifier():
    return lambda sharpness=1.0: StatedClassifier(sharpness).fit()


@pytest.fixture(scope="session")
def stated_regressor():
    return lambda std=1.0: StatedRegressor(std).fit()


@pytest.fixture
def untouched():
    """Context in which estimators must stay as they are, adapted models included."""

    @contextmanager
    def check(*estimators):
        states = [dict(one.__dict__) for one in estimators]
        params = [copy.copy(one.get_params()) for one in estimators]
        weights = [
            {k: v.clone() for k, v in one.learner_.state_dict().items()}
            for one in estimators
            if hasattr(one, "learner_")
        ]
        yield
        assert [one.__dict__ for one in estimators] == states
        assert [one.get_params() for one in estimators] == params
        learners = [one.learner_ for one in estimators if hasattr(one, "learner_")]
        for learner, before in zip(learners, weights, strict=True):
            for name, weight in learner.state_dict().items():
                assert torch.equal(weight, before[name])

    return check


@pytest.fixture
def texts():
    """Return what a legend says."""
    return lambda legend: [text.get_text() for text in legend.get_texts()]
