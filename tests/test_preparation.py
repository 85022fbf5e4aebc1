"""Rows as learners see them: scaled by the meta-training tasks, and scaled back."""

import numpy as np
import pandas as pd
import pytest
import torch

from sklmeta import ClassPool, TaskSet
from sklmeta._preparation import Preparation, Settings

CPU = torch.device("cpu")


def learn(X, y, groups=None, *, labels="shared", classes=None, **settings):
    groups = np.zeros(len(X)) if groups is None else groups
    tasks = TaskSet.from_arrays(X, y, groups, labels=labels)
    settings = {"name": "Meta", "classifies": False, **settings}
    return Preparation.learn(Settings(**settings), tasks, classes), tasks


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_features_get_mean_0_and_deviation_1_over_all_tasks(rng):
    X = rng.normal([5.0, -100.0, 3.0], [1e-3, 1e4, 0.0], size=(40, 3))
    preparation, tasks = learn(X, rng.normal(size=40), np.arange(40) // 8)
    x = preparation.pool(tasks, CPU).x
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, unbiased=False), torch.tensor([1.0, 1.0, 0.0]))
    # New rows are scaled by what was learned, not by themselves.
    new = X[:1] + np.array([1e-3, 1e4, 0.0])
    scaled = (new - X.mean(0))[:, :2] / X.std(0)[:2]
    np.testing.assert_allclose(preparation.features(new)[:, :2], scaled, rtol=1e-5)


def test_features_far_out_go_on_like_a_logarithm(rng):
    X = rng.normal(size=(400, 1))
    preparation, _ = learn(X, rng.normal(size=400))
    z = np.array([-1e6, -20.0, -3.0, -2.999, 0.0, 1.5, 3.0, 3.001, 4.0, 1e6])
    got = preparation.features(X.mean() + X.std() * z[:, None])[:, 0]
    tail = 3 + np.log(np.abs(z) - 2, where=np.abs(z) > 3, out=np.zeros_like(z))
    expected = np.where(np.abs(z) > 3, np.sign(z) * tail, z)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert (np.diff(got) > 0).all()


def test_large_offsets_keep_their_digits(rng):
    small = rng.normal(size=(40, 1))
    preparation, _ = learn(1e9 + small, rng.normal(size=40))
    got = preparation.features(1e9 + small)
    expected = (small - small.mean()) / small.std()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_without_normalisation_features_are_as_given(rng):
    X = rng.normal(7.0, 3.0, size=(10, 2))
    preparation, tasks = learn(X, rng.normal(size=10), normalize_x=False)
    np.testing.assert_array_equal(preparation.pool(tasks, CPU).x, X.astype(np.float32))


@pytest.mark.parametrize("normalize_y", [True, False, 0, "task"])
@pytest.mark.parametrize("n_outputs", [0, 1, 3])
def test_targets_come_back_in_their_units(rng, normalize_y, n_outputs):
    shape = (30, n_outputs) if n_outputs else (30,)
    y = 1000 + 50 * rng.normal(size=shape)
    preparation, _ = learn(
        rng.normal(size=(30, 2)), y, np.arange(30) // 5, normalize_y=normalize_y
    )
    encoded = preparation.encode_targets(y)
    assert encoded.shape == (30, max(n_outputs, 1))
    assert preparation.n_outputs == max(n_outputs, 1)
    if normalize_y:
        np.testing.assert_allclose(encoded.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(encoded.std(0), 1, atol=1e-5)
    else:
        np.testing.assert_allclose(encoded, y.reshape(30, -1), rtol=1e-6)
    decoded = preparation.decode_targets(encoded)
    assert decoded.shape == shape
    np.testing.assert_allclose(decoded, y, rtol=1e-5)
    assert (preparation.task_targets is not None) == (normalize_y == "task")


def test_constant_targets_are_only_moved(rng):
    preparation, _ = learn(rng.normal(size=(6, 2)), np.full(6, 4.0))
    np.testing.assert_array_equal(preparation.encode_targets(np.full(6, 4.0)), 0)
    np.testing.assert_array_equal(preparation.decode_targets(np.ones((2, 1))), 5)


def test_shared_labels_are_positions_in_sorted_order(rng):
    y = np.array(["yes", "no", "maybe"] * 4)
    preparation, tasks = learn(
        rng.normal(size=(12, 2)), y, np.arange(12) // 6, classifies=True
    )
    assert preparation.classes.tolist() == ["maybe", "no", "yes"]
    assert preparation.n_outputs == 3
    assert preparation.pool(tasks, CPU).y.tolist() == [2, 1, 0] * 4
    more, _ = learn(
        rng.normal(size=(12, 2)),
        y,
        classifies=True,
        classes=["yes", "no", "never", "maybe"],
    )
    assert more.classes.tolist() == ["maybe", "never", "no", "yes"]
    assert more.encode_labels(np.array(["yes", "never"]), "").tolist() == [3, 1]


def test_local_labels_are_numbered_task_by_task(rng):
    y = np.array(["a", "b", "b", "z", "b", "a"])
    groups = [0, 0, 0, 1, 1, 1]
    X = rng.normal(size=(6, 2))
    preparation, tasks = learn(X, y, groups, labels="local", classifies=True)
    assert preparation.classes is None
    assert preparation.n_outputs is None

    def ranks(codes):
        return np.unique(codes, return_inverse=True)[1].tolist()

    y_both = preparation.pool(tasks, CPU).y
    assert ranks(y_both[:3]) == [0, 1, 1]
    assert ranks(y_both[3:]) == [0, 1, 2]
    # The order of a task's classes is its own, whatever the tasks beside it hold.
    alone = preparation.pool(tasks[[1]], CPU).y
    assert ranks(alone) == ranks(y_both[3:])


def test_class_pools_have_local_labels(rng):
    pool = ClassPool(rng.normal(size=(9, 2)), np.repeat(["x", "y", "z"], 3))
    preparation = Preparation.learn(Settings("Meta", True), pool)
    assert preparation.labels == "local"
    row_pool = preparation.pool(pool, CPU)
    assert row_pool.is_class_pool
    assert row_pool.y.tolist() == [0] * 3 + [1] * 3 + [2] * 3


def test_images_are_stored_channels_last_and_unscaled(rng):
    images = rng.integers(0, 256, size=(8, 5, 4), dtype=np.uint8)
    preparation, tasks = learn(images, rng.normal(size=8))
    assert preparation.eight_bit
    assert preparation.x_mean is None
    assert preparation.stored_shape == (5, 4, 1)
    assert preparation.input_shape == (1, 5, 4)
    pool = preparation.pool(tasks, CPU)
    assert pool.x.dtype == torch.uint8
    np.testing.assert_array_equal(pool.x[..., 0], images)
    colour, _ = learn(rng.random(size=(8, 5, 4, 3)), rng.normal(size=8))
    assert colour.input_shape == (3, 5, 4)
    flat, _ = learn(images.reshape(8, 20), rng.normal(size=8), image_shape=(5, 4))
    assert flat.input_shape == (1, 5, 4)
    assert flat.n_features_in == 20
    with pytest.raises(ValueError, match=r"image_shape=\(5, 5\) has 25 values, but"):
        learn(images.reshape(8, 20), rng.normal(size=8), image_shape=(5, 5))


def test_columns_of_every_number_type(rng):
    frame = pd.DataFrame(
        {
            "float": rng.normal(size=12).astype(np.float32),
            "int": np.arange(12),
            "bool": np.arange(12) % 2 == 0,
            "nullable": pd.array(np.arange(12), dtype="Int64"),
            "text": [str(i) for i in range(12)],
        }
    )
    preparation, tasks = learn(frame, rng.normal(size=12))
    assert preparation.feature_names.tolist() == list(frame.columns)
    numbers = frame.astype(float).to_numpy()
    expected = (numbers - numbers.mean(0)) / numbers.std(0)
    np.testing.assert_allclose(preparation.pool(tasks, CPU).x, expected, atol=1e-6)


@pytest.mark.parametrize("missing", [np.nan, None, pd.NA])
def test_missing_values_name_task_and_row(rng, missing):
    frame = pd.DataFrame({"a": np.arange(6.0), "b": np.arange(6.0)}).astype(object)
    frame.iloc[4, 1] = missing
    with pytest.raises(ValueError, match=r"X contains NaN \(task 'Nice', row 1; 1 row"):
        learn(frame, rng.normal(size=6), ["Lyon"] * 3 + ["Nice"] * 3)
    nullable = pd.DataFrame({"a": pd.array([1, 2, 3, 4, None, 6], dtype="Int64")})
    with pytest.raises(ValueError, match=r"X contains NaN \(task 'Nice', row 1; 1 row"):
        learn(nullable, rng.normal(size=6), ["Lyon"] * 3 + ["Nice"] * 3)


def test_numbers_too_large_are_refused(rng):
    X, y = rng.normal(size=(6, 2)), rng.normal(size=6)
    with pytest.raises(ValueError, match="X contains numbers too large"):
        learn(X * 1e200, y)
    with pytest.raises(ValueError, match="y contains numbers too large"):
        learn(X, y * 1e200)
    preparation, tasks = learn(X * 1e60, y, normalize_x=False)
    with pytest.raises(ValueError, match="too large for dtype"):
        preparation.pool(tasks, CPU)
