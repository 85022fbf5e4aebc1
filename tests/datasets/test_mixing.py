"""Tasks of several sources: shares, forms and refusals."""

import pickle

import numpy as np
import pandas as pd
import pytest

from sklmeta import RidgeNetRegressor, TaskSet
from sklmeta.datasets import GaussianProcessTasks, MixedTasks, make_sinusoids
from sklmeta.tasks import ClassPool, TaskDistribution

SIMULATED = GaussianProcessTasks(n_samples=8)


def constant_tasks(n_tasks, value, n_rows=4, **options):
    """Return tasks whose targets are all of one value."""
    X = np.arange(n_tasks * n_rows, dtype=np.float32).reshape(-1, 1)
    offsets = np.arange(n_tasks + 1) * n_rows
    return TaskSet.from_offsets(X, np.full(len(X), value), offsets, **options)


def test_shares_are_those_of_the_weights():
    mixed = MixedTasks(
        [constant_tasks(5, 1.0), constant_tasks(3, 2.0), constant_tasks(4, 3.0)],
        weights=[1, 3, 0],
    )
    assert isinstance(mixed, TaskDistribution)
    first = mixed.sample(8000, random_state=0).rows().y[::4]
    assert np.mean(first == 2.0) == pytest.approx(0.75, abs=0.02)
    assert not (first == 3.0).any()


def test_equal_shares_without_weights_in_random_order():
    mixed = MixedTasks([constant_tasks(5, 1.0), constant_tasks(5, 2.0)])
    first = mixed.sample(2000, random_state=0).rows().y[::4]
    assert np.mean(first == 1.0) == pytest.approx(0.5, abs=0.04)
    assert np.mean(first[1:] != first[:-1]) == pytest.approx(0.5, abs=0.05)


def test_real_tasks_come_once_before_any_comes_twice():
    mixed = MixedTasks([constant_tasks(6, 1.0)])
    starts = mixed.sample(12, random_state=0).rows().X[::4, 0]
    assert sorted(starts) == sorted(2 * list(range(0, 24, 4)))
    assert len(set(mixed.sample(6, random_state=1).rows().X[::4, 0])) == 6


def test_simulated_tasks_are_fresh_and_seeded():
    mixed = MixedTasks([constant_tasks(2, 0.5, n_rows=8), SIMULATED])

    def drawn(random_state):
        return mixed.sample(10, random_state).rows().y

    np.testing.assert_array_equal(drawn(0), drawn(0))
    assert (drawn(0) != drawn(1)).any()


def test_data_frames_lend_their_columns():
    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [1.0, 2.0, 3.0], "t": [0, 0, 1]})
    real = TaskSet.from_frame(frame, target="y", task="t")
    X = MixedTasks([SIMULATED, real]).sample(30, random_state=0).rows().X
    assert list(X.columns) == ["x"]
    assert len(X) > 30


def test_fixed_supports_are_kept():
    support = np.tile([True, False, False, False], 3)
    real = constant_tasks(3, 1.0, support=support)
    rows = MixedTasks([real, SIMULATED]).sample(20, random_state=0).rows()
    is_real = rows.sizes == 4
    assert 0 < is_real.sum() < 20
    np.testing.assert_array_equal(rows.has_support, is_real)


def test_nested_sources_and_pickling():
    mixed = MixedTasks([MixedTasks([SIMULATED]), SIMULATED], weights=(1, 2))
    again = pickle.loads(pickle.dumps(mixed))
    np.testing.assert_array_equal(
        again.sample(4, 0).rows().y, mixed.sample(4, 0).rows().y
    )


def test_meta_trains():
    mixed = MixedTasks([make_sinusoids(6, 8, random_state=0), SIMULATED])
    meta = RidgeNetRegressor(max_iter=2, n_shot=3, random_state=0).fit(mixed)
    assert meta.n_iter_ == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([],), ValueError, "at least one source"),
        ((SIMULATED,), TypeError, "list of TaskSets.* got GaussianProcessTasks"),
        ((make_sinusoids(3),), TypeError, "list of TaskSets.* got TaskSet"),
        (([SIMULATED], [1, 2]), ValueError, "weights must be 1 finite"),
        (([SIMULATED], [0]), ValueError, "not all 0"),
        (([SIMULATED], [-1]), ValueError, r"got \[-1\]"),
        (([SIMULATED], [np.nan]), ValueError, "finite"),
        (
            ([ClassPool([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])],),
            TypeError,
            r"sources\[0\] is a ClassPool",
        ),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        MixedTasks(*arguments)


def test_refuses_no_tasks_and_other_features():
    with pytest.raises(ValueError, match="n_tasks must be an int of at least 1, got 0"):
        MixedTasks([SIMULATED]).sample(0)
    wide = GaussianProcessTasks(n_features=2, n_samples=8)
    with pytest.raises(ValueError, match="differ: rows of shape"):
        MixedTasks([SIMULATED, wide]).sample(50, random_state=0)
