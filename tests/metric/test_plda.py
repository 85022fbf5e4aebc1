"""PLDA against scipy's densities and simulated covariances."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from sklmeta import ClassPool, PLDAClassifier, SimpleShotClassifier, TaskSet
from sklmeta.engine.batches import Rows
from sklmeta.metric import PLDA
from sklmeta.metric.plda import _prior

N_FEATURES, N_WAYS = 3, 2


@pytest.fixture(scope="module")
def covariances():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, N_FEATURES, N_FEATURES))
    return a @ a.T + np.eye(N_FEATURES), b @ b.T  # within, between


def simulated(covariances, n_classes, n_rows, seed=0):
    rng = np.random.default_rng(seed)
    within, between = covariances
    means = rng.multivariate_normal([5.0, 0.0, -5.0], between, n_classes)
    y = np.repeat(np.arange(n_classes), n_rows)
    noise = rng.multivariate_normal(np.zeros(N_FEATURES), within, len(y))
    return means[y] + noise, y


def estimated(X, y, shrinkage=0.0):
    return _prior(torch.from_numpy(X), torch.from_numpy(y), shrinkage)


def test_covariances_of_many_classes_are_found(covariances):
    prior = estimated(*simulated(covariances, 4_000, 5))
    inverse = torch.linalg.inv(prior.basis)
    within = (inverse.mT @ inverse).numpy()
    between = (inverse.mT * prior.spread @ inverse).numpy()
    np.testing.assert_allclose(within, covariances[0], atol=0.15)
    np.testing.assert_allclose(between, covariances[1], atol=0.3)
    np.testing.assert_allclose(prior.mean, [5, 0, -5], atol=0.1)


def test_predictions_are_those_of_the_posterior(covariances):
    X, y = simulated(covariances, 200, 4)
    prior = estimated(X, y)
    inverse = torch.linalg.inv(prior.basis)
    within = (inverse.mT @ inverse).numpy()
    between = (inverse.mT * prior.spread @ inverse).numpy()
    mean = prior.mean.numpy()
    learner = PLDA(nn.Flatten(), None, prior.mean, prior.basis, prior.spread)
    x, labels = X[:5], np.array([0, 0, 1, 1, 1])
    support = Rows(
        torch.from_numpy(x)[None],
        torch.from_numpy(labels)[None],
        torch.ones(1, 5, dtype=torch.bool),
        torch.tensor([N_WAYS]),
    )
    query = X[50:70]
    state = learner.adapt(support)
    found = learner.predict(state, torch.from_numpy(query)[None])[0].softmax(-1)
    densities = []
    for way in range(N_WAYS):
        own = x[labels == way]
        gain = between @ np.linalg.inv(between + within / len(own))
        center = mean + gain @ (own.mean(0) - mean)
        covariance = within + between - gain @ between
        densities.append(multivariate_normal(center, covariance).pdf(query))
    expected = np.stack(densities, 1) / np.sum(densities, 0)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


def test_padding_and_order_of_support_rows_do_not_matter(covariances):
    X, y = simulated(covariances, 50, 4)
    prior = estimated(X, y, 0.3)
    learner = PLDA(nn.Flatten(), None, prior.mean, prior.basis, prior.spread)
    x = torch.from_numpy(X[:6])[None]
    labels = torch.tensor([[0, 1, 0, 1, 1, 0]])
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    mask, n_way = torch.ones(1, 6, dtype=torch.bool), torch.tensor([2])
    padded = torch.cat([x[:, order], torch.full((1, 2, N_FEATURES), 1e6)], 1)
    state = learner.adapt(Rows(x, labels, mask, n_way))
    other = learner.adapt(
        Rows(
            padded,
            torch.cat([labels[:, order], torch.zeros(1, 2, dtype=torch.int64)], 1),
            torch.cat([mask, ~mask[:, :2]], 1),
            n_way,
        )
    )
    for name, value in state.items():
        torch.testing.assert_close(other[name], value)


def test_directions_without_classes_are_left_out():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2_000, 12))
    y = np.repeat(np.arange(400), 5)
    X[:, 0] += 3 * rng.normal(size=400)[y]  # the only one that tells classes apart
    pool = ClassPool(X, y)
    shape = {"n_way": 5, "n_shot": 1, "random_state": 0}
    meta = PLDAClassifier(**shape).fit(pool[:300])
    means = SimpleShotClassifier(transform="none", **shape).fit(pool[:300])
    assert meta.score(pool[300:]) > means.score(pool[300:]) + 0.1
    spread = meta._learner.spread.sort().values
    assert spread[-1] > 5 and spread[-2] < 0.3


def test_shared_labels_and_other_sizes_of_classes():
    rng = np.random.default_rng(0)
    tasks = [
        (rng.normal(size=(12, 4)) + 3 * np.eye(4)[np.arange(12) % 3], np.arange(12) % 3)
        for _ in range(20)
    ]
    meta = PLDAClassifier(n_shot=6, random_state=0).fit(TaskSet(tasks))
    assert meta.score(TaskSet(tasks)) > 0.8
    X, y = tasks[0]
    assert meta.adapt(X[y < 2], y[y < 2]).predict_proba(X)[:, 2].max() == 0


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.eye(4), np.arange(4), "one with two or more rows"),
        (np.eye(4), np.zeros(4), "at least 2 classes"),
        (np.zeros((6, 2)), np.arange(6) % 3, "need"),
    ],
)
def test_what_no_covariance_can_be_learned_from_is_refused(X, y, message):
    with pytest.raises(ValueError, match=message):
        PLDAClassifier().fit(ClassPool(X, y))


@pytest.mark.parametrize("shrinkage", [-0.1, 1.5, np.nan])
def test_shrinkage_is_a_share(shrinkage):
    X, y = np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) % 3
    with pytest.raises(ValueError, match="shrinkage"):
        PLDAClassifier(shrinkage=shrinkage).fit(ClassPool(X, y))


def test_misspelt_parameters_are_answered_with_the_nearest_name():
    with pytest.raises(TypeError, match="Did you mean 'shrinkage'"):
        PLDAClassifier(shrinkge=0.1)
