"""Tasks of 2 to 10 classes and 3 to 60 rows: trained on, adapted to, predicted."""

import warnings

import numpy as np
import pytest

from sklmeta import MAMLClassifier, TaskSet
from sklmeta.exceptions import SmallTaskWarning
from sklmeta.model_selection import evaluate
from sklmeta.utils._check_problems import _rotation as rotation

N_FEATURES, MOST_WAYS, MORE_WAYS = 8, 10, 12


def make_tasks(n_tasks, seed, n_ways=(2, MOST_WAYS), n_rows=(3, 60)):
    """Classes differ in two hidden directions, under nuisance that is larger."""
    rng, pairs = np.random.default_rng(seed), []
    for _ in range(n_tasks):
        k = rng.integers(n_ways[0], n_ways[1] + 1)
        n = rng.integers(max(n_rows[0], k), n_rows[1] + 1)
        y = rng.permutation(np.arange(n) % k)
        signal = rng.normal(0, 3, (k, 2))[y] + 0.5 * rng.normal(size=(n, 2))
        nuisance = rng.normal(0, 3, (n, N_FEATURES - 2))
        pairs.append((np.c_[signal, nuisance] @ rotation(), y))
    return TaskSet(pairs, labels="local")


@pytest.fixture(scope="module")
def train():
    tasks = make_tasks(150, seed=0)
    ways = [len(np.unique(task.y)) for task in tasks]
    sizes = [len(task) for task in tasks]
    assert (min(ways), max(ways)) == (2, 10)
    assert min(sizes) <= 5
    assert max(sizes) == 60
    return tasks


@pytest.fixture(scope="module", params=["fixed", "shared", "prototype"])
def meta(request, train):
    estimator = MAMLClassifier(
        head=request.param,
        n_shot=(1, 5),
        inner_lr=0.1,
        inner_steps=2,
        outer_lr=5e-3,
        max_iter=120,
        random_state=0,
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTaskWarning)
        return estimator.fit(train)


def test_small_tasks_are_counted(train):
    with pytest.warns(SmallTaskWarning, match="of 150 tasks have fewer than 2 rows"):
        MAMLClassifier(n_shot=(1, 5), max_iter=1).fit(train)


def accuracy(meta, tasks, n_shot=3):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTaskWarning)
        return evaluate(meta, tasks, n_shot=n_shot).scores["score"].mean()


def test_new_ragged_tasks_are_told_apart(meta):
    """Better than the same learner without meta-training, and than guessing."""
    new = make_tasks(60, seed=1)
    untrained = MAMLClassifier(
        **(meta.get_params() | {"max_iter": 1, "outer_lr": 1e-9})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTaskWarning)
        untrained.fit(make_tasks(20, seed=2))
    guessing = np.mean([1 / len(np.unique(task.y)) for task in new])
    trained = accuracy(meta, new)
    assert trained > guessing + 0.1
    assert trained > accuracy(untrained, new) + 0.05


def test_more_ways_than_any_training_task(meta):
    new = make_tasks(30, seed=3, n_ways=(MORE_WAYS, MORE_WAYS), n_rows=(60, 60))
    if meta.head == "fixed":
        with pytest.raises(ValueError, match=r"Got 12 classes in task 0.*at most 10"):
            accuracy(meta, new)
        return
    assert accuracy(meta, new) > 2 / MORE_WAYS
    adapted = meta.adapt(new[0].X, new[0].y)
    assert adapted.predict_proba(new[1].X).shape == (60, MORE_WAYS)


def test_ragged_tasks_are_predicted_together_as_alone(meta):
    tasks = make_tasks(40, seed=4)
    query_Xs = [task.X[: 1 + i % 7] for i, task in enumerate(make_tasks(40, seed=5))]
    together = meta.predict_tasks(tasks, query_Xs)
    for task, X, found in zip(tasks, query_Xs, together, strict=True):
        assert found.tolist() == meta.adapt(task.X, task.y).predict(X).tolist()
