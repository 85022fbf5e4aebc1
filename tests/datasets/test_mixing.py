"""Tasks of several sources: shares, forms and refusals."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.preprocessing import FunctionTransformer

from sklmeta import (
    BayesianLinearNetRegressor,
    RidgeNetRegressor,
    TaskSet,
    _meta_training,
)
from sklmeta._task_rows import TransformedTasks
from sklmeta.datasets import GaussianProcessTasks, MixedTasks, make_sinusoids
from sklmeta.pipeline import make_meta_pipeline
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
        (([SIMULATED], [np.inf]), ValueError, "finite"),
        (([SIMULATED, SIMULATED], "ab"), ValueError, "2 finite .* got 'ab'"),
        (([SIMULATED, SIMULATED], [[1], [1, 2]]), ValueError, "weights must be 2"),
        (([SIMULATED, 3],), TypeError, r"^sources\[1\]: Tasks cannot be made of a int"),
        (([SIMULATED, []],), ValueError, r"^sources\[1\]: There are no tasks"),
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


def test_no_tasks_are_refused():
    with pytest.raises(ValueError, match="n_tasks must be an int of at least 1, got 0"):
        MixedTasks([SIMULATED]).sample(0)


def frame_tasks(column):
    frame = pd.DataFrame({column: [0.0, 1.0], "y": [0.5, 1.5], "t": [0, 1]})
    return TaskSet.from_frame(frame, target="y", task="t")


REAL = make_sinusoids(3, random_state=0)
DIFFERING = {
    "features": (
        TaskSet([(np.zeros((2, 3)), np.array([0.5, 1.5]))]),
        r"rows of shape \(1,\) and \(3,\)",
    ),
    "outputs": (
        TaskSet([(np.zeros((2, 1)), np.full((2, 2), 0.5))]),
        "targets of shape",
    ),
    "labels": (
        TaskSet([(np.zeros((2, 1)), np.array([0.0, 1.0]))], labels="local"),
        "labels shared and local",
    ),
    "text": (
        TaskSet([(np.zeros((2, 1)), np.array(["a", "b"]))]),
        "targets that are numbers and class labels",
    ),
    "classes": (
        TaskSet([(np.zeros((2, 1)), np.array([0, 1]))]),
        "targets that are numbers and class labels.* given as floats",
    ),
}


@pytest.mark.parametrize("what", DIFFERING)
def test_real_sources_that_differ_are_refused_at_once(what):
    other, message = DIFFERING[what]
    with pytest.raises(ValueError, match=r"sources\[0\] and sources\[2\] .*" + message):
        MixedTasks([REAL, SIMULATED, other])


def test_columns_that_differ_are_refused_at_once():
    with pytest.raises(ValueError, match=r"columns \['a'\] and \['b'\]"):
        MixedTasks([frame_tasks("a"), frame_tasks("b")])


@pytest.mark.parametrize("what", ["features", "outputs", "labels", "classes"])
def test_simulated_sources_that_differ_are_refused_by_the_first_draw(what):
    other, message = DIFFERING[what]
    message = r"sources\[0\] and sources\[1\] differ: " + message
    mixed = MixedTasks([SIMULATED, other], weights=[1, 1e-9])
    with pytest.raises(ValueError, match=message):
        mixed.sample(1, random_state=0)
    wide = GaussianProcessTasks(n_features=2, n_samples=8)
    with pytest.raises(ValueError, match=r"sources\[0\] and sources\[2\] differ: rows"):
        MixedTasks([SIMULATED, REAL, wide], weights=[1, 1, 1e-9]).sample(1, 0)


def test_whole_numbers_as_floats_mix_with_all_others():
    assert len(MixedTasks([REAL, constant_tasks(3, 1.0), SIMULATED]).sample(9)) == 9


def test_a_source_that_draws_no_tasks_is_named():
    class Odd:
        def sample(self, n_tasks, random_state=None):
            return n_tasks * [(np.zeros((3, 1)), np.zeros(3))]

    with pytest.raises(TypeError, match=r"sources\[1\] draws a list; expected a TaskS"):
        MixedTasks([SIMULATED, Odd()]).sample(2)


def firsts(tasks):
    """Return the first x of each task, which is its own in `constant_tasks`."""
    rows = tasks.rows()
    return set(np.asarray(rows.X)[rows.offsets[:-1], 0].tolist())


def test_hold_out_divides_real_tasks_and_shares_simulated_ones():
    real = constant_tasks(10, 1.0)
    mixed = MixedTasks([real, SIMULATED], weights=[2, 1])
    train, held_out = mixed.hold_out(0.25, random_state=0)
    assert (len(train.sources[0]), len(held_out.sources[0])) == (7, 3)
    assert not firsts(train.sources[0]) & firsts(held_out.sources[0])
    assert firsts(train.sources[0]) | firsts(held_out.sources[0]) == firsts(real)
    assert train.sources[1] is held_out.sources[1] is SIMULATED
    assert train.weights == held_out.weights == (2, 1)
    again = mixed.hold_out(0.25, random_state=0)
    assert firsts(again[1].sources[0]) == firsts(held_out.sources[0])
    others = {
        frozenset(firsts(mixed.hold_out(0.25, seed)[1].sources[0])) for seed in range(9)
    }
    assert len(others) > 1


@pytest.mark.parametrize("fraction", [1e-9, 0.999])
def test_hold_out_leaves_a_task_in_each_part(fraction):
    mixed = MixedTasks([constant_tasks(2, 1.0), constant_tasks(5, 1.0)])
    for part in mixed.hold_out(fraction, 0):
        assert min(map(len, part.sources)) >= 1


def test_hold_out_keeps_tasks_of_several_sources_in_one_part():
    real = constant_tasks(20, 1.0)
    inner = MixedTasks([real, real[5:]])
    for seed in range(5):
        mixed = MixedTasks([real[:10], inner, real[[0, 0, 12, 13]]])
        train, held_out = mixed.hold_out(0.3, random_state=seed)
        assert not firsts(train.sample(500, 0)) & firsts(held_out.sample(500, 0))


def test_hold_out_of_sources_is_used():
    class Repeating:
        def __init__(self, tasks):
            self.tasks = tasks

        def sample(self, n_tasks, random_state=None):
            return self.tasks[np.arange(n_tasks) % len(self.tasks)]

        def hold_out(self, fraction, random_state):
            return Repeating(self.tasks[2:]), Repeating(self.tasks[:2])

    mixed = MixedTasks([Repeating(constant_tasks(5, 1.0))])
    train, held_out = mixed.hold_out(0.5, 0)
    assert firsts(held_out.sample(50)) == {0, 4}
    assert firsts(train.sample(50)) == {8, 12, 16}


def test_hold_out_refuses_what_cannot_be_divided():
    mixed = MixedTasks([SIMULATED, MixedTasks([constant_tasks(1, 1.0)])])
    message = r"sources\[1\]\.sources\[0\] holds a single task.* validation_tasks= to"
    with pytest.raises(ValueError, match=message):
        mixed.hold_out(0.5)
    with pytest.raises(ValueError, match="fraction == 2, must be < 1"):
        MixedTasks([REAL]).hold_out(2)
    with pytest.raises(ValueError, match=r"All tasks of sources\[0\] are held out"):
        MixedTasks([REAL[:2], REAL[1:], REAL[[0, 2]]]).hold_out(0.5, 0)


@pytest.fixture
def spied(monkeypatch):
    """Return what rows are trained on, and what rows are judged, by their x."""
    seen = {"train": set(), "held_out": set()}

    def noted(role, episodes):
        for rows in (episodes.support, episodes.query):
            seen[role].update(rows.x[rows.mask].flatten().tolist())
        return episodes

    training = _meta_training.training_episodes
    fixed = _meta_training.fixed_episodes

    def train(*arguments):
        return (noted("train", one) for one in training(*arguments))

    def judge(*arguments):
        found = fixed(*arguments)
        return found and [noted("held_out", one) for one in found]

    monkeypatch.setattr(_meta_training, "training_episodes", train)
    monkeypatch.setattr(_meta_training, "fixed_episodes", judge)
    return seen


@pytest.mark.parametrize("transforms", [False, True])
@pytest.mark.parametrize("options", [{"calibrate": True}, {"early_stopping": True}])
def test_held_out_tasks_are_never_trained_on(spied, options, transforms):
    rng = np.random.default_rng(0)
    X = np.arange(160, dtype=np.float32)[:, None]
    real = TaskSet.from_offsets(X, rng.normal(size=160), np.arange(0, 161, 8))
    meta = BayesianLinearNetRegressor(
        max_iter=3, normalize_x=False, n_shot=3, random_state=0, **options
    )
    if transforms:
        meta = make_meta_pipeline(FunctionTransformer(), meta)
    meta.fit(MixedTasks([real, real[:10]]))
    assert len(spied["train"]) > 50
    assert len(spied["held_out"]) >= 16
    assert not spied["train"] & spied["held_out"]


def test_held_out_fresh_tasks_are_of_the_same_distribution():
    meta = RidgeNetRegressor(early_stopping=True, random_state=0)
    for source in (SIMULATED, TransformedTasks(SIMULATED, lambda tasks: tasks)):
        assert _meta_training.split_held_out(meta, source, None, 0) == (source, source)


def test_single_real_tasks_cannot_be_held_out():
    meta = RidgeNetRegressor(early_stopping=True, max_iter=2, n_shot=3)
    mixed = MixedTasks([REAL[:1], SIMULATED])
    with pytest.raises(ValueError, match=r"sources\[0\] holds a single task"):
        meta.fit(mixed)
    meta.fit(mixed, validation_tasks=REAL[1:])
