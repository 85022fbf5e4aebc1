"""What the tests of the displays share: a canvas without a screen, and learners."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklmeta import (
    MAMLRegressor,
    ProtoNetClassifier,
    make_meta_pipeline,
)
from sklmeta.datasets import load_digits_pool, make_sinusoids

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib: the plot extra")


def make_small_net(input_shape):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(int(np.prod(input_shape)), 32), nn.Tanh()
    )


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
