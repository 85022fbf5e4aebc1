"""Where episodes come from: tasks and classes held out, whatever ways are given as."""

import numpy as np
import pytest

from sklmeta import ClassPool, ProtoNetClassifier, ReptileRegressor
from sklmeta._episodes import hold_out
from sklmeta.datasets import make_sinusoids

QUICK = {"max_iter": 2, "batch_size": 2, "random_state": 0}


def class_pool(n_classes=12, n_rows=8):
    y = np.repeat(np.arange(n_classes), n_rows)
    return ClassPool(np.random.default_rng(0).normal(size=(len(y), 3)), y)


@pytest.mark.parametrize("n_way", [3, np.int64(3), (2, 3), [2, np.int32(3)]])
def test_as_many_classes_are_held_out_as_an_episode_has_ways(n_way):
    pool = class_pool()
    rest, held = hold_out(pool, 0.1, n_way, seed=0)
    assert (len(rest), len(held)) == (9, 3)
    expected = hold_out(pool, 0.1, 3, seed=0)[1]
    assert [c for c in held.classes] == [c for c in expected.classes]


def test_ways_that_are_no_count():
    with pytest.raises(TypeError, match=r"n_way must be an int or a .* got 'many'"):
        hold_out(class_pool(), 0.1, "many", seed=0)


@pytest.mark.parametrize("kind", [np.int64, np.int32, lambda n: [n, n]])
def test_counts_of_a_grid_fit_like_plain_ones(kind):
    pool, own = class_pool(), {"early_stopping": True, **QUICK}
    plain = ProtoNetClassifier(n_way=3, n_shot=2, n_query=4, **own).fit(pool)
    other = ProtoNetClassifier(n_way=kind(3), n_shot=kind(2), n_query=kind(4), **own)
    assert other.fit(pool).history_[-1]["valid_loss"] == pytest.approx(
        plain.history_[-1]["valid_loss"]
    )
    assert other.score(pool) == plain.score(pool)


@pytest.mark.parametrize("n_shot", [np.int64(2), [2, 5], (2, 5)], ids=str)
def test_shots_of_reptile_with_rows_of_its_own(n_shot):
    tasks = make_sinusoids(8, random_state=0)
    meta = ReptileRegressor(n_shot=n_shot, train_shots=10, inner_steps=2, **QUICK)
    assert np.isfinite(meta.fit(tasks).score(tasks))
    with pytest.raises(TypeError, match=r"n_shot must be an int or a .* got 'many'"):
        meta.set_params(n_shot="many").fit(tasks)
