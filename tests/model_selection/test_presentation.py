"""Accuracy by presentation against what can be counted by hand."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from sklmeta import (
    ClassPool,
    MAMLRegressor,
    PerTaskClassifier,
    ProtoNetClassifier,
    RecurrentNetClassifier,
    TaskSet,
)
from sklmeta.model_selection import presentation_accuracy
from sklmeta.model_selection.presentation import _by_appearance

N_WAYS = 4


def make_pool(n_classes=8, n_rows=6, spread=0.0):
    """Return classes whose rows are the class's own point, or around it."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.normal(size=(n_classes, 5)), n_rows, axis=0)
    X = centres + spread * rng.normal(size=centres.shape)
    return ClassPool(X, np.repeat(np.arange(n_classes), n_rows))


def nearest_mean():
    return ProtoNetClassifier("identity", max_iter=1, random_state=0).fit(make_pool())


class Remembers(torch.nn.Module):
    """Sequence learner that knows each point again, and guesses way 0 otherwise."""

    most_ways = None

    def sequence_outputs(self, rows):
        same = (rows.x.unsqueeze(2) == rows.x.unsqueeze(1)).all(-1)  # (T, S, S)
        same = same.tril(-1).to(rows.x.dtype)
        logits = same @ torch.nn.functional.one_hot(rows.y).to(rows.x.dtype)
        logits[..., 0] += 0.5
        return logits


def test_one_look_is_enough_where_rows_repeat():
    meta = nearest_mean()
    meta._configured_learner = Remembers
    found = presentation_accuracy(
        meta, make_pool(), n_way=N_WAYS, n_presentations=6, n_episodes=30
    )
    assert list(found.index) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(found["mean"], [1 / N_WAYS, 1, 1, 1, 1, 1])
    assert (found["n_episodes"] == 30).all()


def test_others_adapt_to_the_rows_before():
    found = presentation_accuracy(
        nearest_mean(), make_pool(), n_way=N_WAYS, n_presentations=3, n_episodes=70
    )
    # The very first row of an episode counts its chance; a class not seen is missed.
    np.testing.assert_allclose(found["mean"], [1 / N_WAYS**2, 1, 1])


def test_intervals_hold_the_mean_and_seeds_decide():
    pool, meta = make_pool(spread=1.0), nearest_mean()
    options = {"n_way": N_WAYS, "n_presentations": 4, "n_episodes": 20}
    found = presentation_accuracy(meta, pool, **options)
    assert (found["low"][1:] < found["mean"][1:]).all()
    assert (found["mean"][1:] < found["high"][1:]).all()
    again = presentation_accuracy(meta, pool, **options)
    other = presentation_accuracy(meta, pool, **options, random_state=1)
    assert found.equals(again)
    assert not found.equals(other)


def test_order_of_appearance():
    label, n_seen = _by_appearance(torch.tensor([[2, 0, 2, 1], [1, 1, 0, 2]]))
    assert label.tolist() == [[0, 1, 0, 2], [0, 0, 1, 2]]
    assert n_seen.tolist() == [[1, 2, 2, 3], [1, 1, 2, 3]]


def test_refusals():
    pool, meta = make_pool(), nearest_mean()
    with pytest.raises(NotFittedError):
        presentation_accuracy(ProtoNetClassifier(), pool)
    recurrent = RecurrentNetClassifier(hidden_size=4, n_way=3, max_iter=1).fit(pool)
    with pytest.raises(ValueError, match=r"n_way=5.*at most 3"):
        presentation_accuracy(recurrent, pool)
    with pytest.raises(ValueError, match=r"n_presentations=10.*class 0 has 6 rows"):
        presentation_accuracy(meta, pool)
    with pytest.raises(ValueError, match=r"n_way=9.*8 classes"):
        presentation_accuracy(meta, pool, n_way=9)
    with pytest.raises(TypeError, match=r"ClassPool.*TaskSet"):
        tasks = TaskSet([(pool.X, pool.y)], labels="local")
        presentation_accuracy(meta, tasks)
    with pytest.raises(TypeError, match=r"torch learner.*PerTaskClassifier"):
        presentation_accuracy(PerTaskClassifier().fit(pool), pool)
    pairs = [(np.eye(6), np.arange(6.0)), (np.eye(6), np.ones(6))]
    with pytest.raises(TypeError, match=r"torch learner.*MAMLRegressor"):
        presentation_accuracy(
            MAMLRegressor(max_iter=1, n_shot=2).fit(TaskSet(pairs)), pool
        )
    shared = ProtoNetClassifier(max_iter=1, n_shot=2).fit(
        TaskSet([(np.eye(4), [0, 1, 0, 1]), (np.eye(4), [1, 0, 1, 0])])
    )
    with pytest.raises(ValueError, match="shared labels"):
        presentation_accuracy(shared, pool)
    with pytest.raises(ValueError, match="confidence == 95"):
        presentation_accuracy(meta, pool, confidence=95)
    with pytest.raises(TypeError, match=r"random_state must be an int.*None"):
        presentation_accuracy(meta, pool, random_state=None)
