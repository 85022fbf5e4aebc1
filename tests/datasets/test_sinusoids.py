"""Sine-wave tasks: the law they follow, their ranges, seeds and speed."""

import time

import numpy as np
import pytest

from sklmeta.datasets import Sinusoids, make_sinusoids
from sklmeta.tasks import TaskDistribution, TaskSet


def fit_wave(X, y):
    """Least squares of y = a sin x + b cos x: (amplitude, phase, largest residual)."""
    x = np.asarray(X, dtype=float)[:, 0]
    design = np.column_stack([np.sin(x), np.cos(x)])
    coefficients = np.linalg.lstsq(design, np.asarray(y, dtype=float), rcond=None)[0]
    a, b = coefficients  # A sin(x - p) = A cos(p) sin x - A sin(p) cos x
    residual = np.abs(design @ coefficients - y).max()
    return np.hypot(a, b), np.arctan2(-b, a), residual


def test_tasks_are_waves_within_the_ranges_of_the_paper():
    tasks = make_sinusoids(n_tasks=300, n_samples=20, random_state=0)
    waves = np.array([fit_wave(task.X, task.y) for task in tasks])
    amplitude, phase, residual = waves.T
    assert residual.max() < 1e-5
    assert 0.1 <= amplitude.min() < 0.3
    assert 4.8 < amplitude.max() <= 5.0 + 1e-5
    assert -1e-4 <= phase.min() < 0.1
    assert 3.0 < phase.max() <= np.pi + 1e-4
    x = np.concatenate([task.X for task in tasks])
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5


def test_shapes_and_types():
    tasks = make_sinusoids(n_tasks=7, n_samples=3, random_state=0)
    assert isinstance(tasks, TaskSet)
    assert tasks.shape == (7,)
    for task in tasks:
        assert task.X.shape == (3, 1)
        assert task.y.shape == (3,)
        assert task.X.dtype == task.y.dtype == np.float32


def test_ranges_are_parameters():
    waves = Sinusoids(amplitude=(2, 2), phase=(1, 1), x_range=(0, 1), n_samples=4)
    task = waves.sample(1, random_state=0)[0]
    np.testing.assert_allclose(task.y, 2 * np.sin(task.X[:, 0] - 1), rtol=1e-5)
    assert 0 <= task.X.min() <= task.X.max() <= 1


def test_noise_has_the_asked_standard_deviation():
    clean = make_sinusoids(n_tasks=50, n_samples=100, random_state=3)
    noisy = make_sinusoids(n_tasks=50, n_samples=100, noise=0.5, random_state=3)
    errors = noisy.rows().y - clean.rows().y
    assert noisy.rows().y.dtype == np.float32
    assert errors.std() == pytest.approx(0.5, rel=0.05)
    assert abs(errors.mean()) < 0.03


def test_an_int_seed_repeats_and_generators_move_on():
    waves = Sinusoids(n_samples=5)

    def rows(random_state):
        return waves.sample(2, random_state).rows().X

    np.testing.assert_array_equal(rows(0), rows(0))
    assert not np.array_equal(rows(0), rows(1))
    assert not np.array_equal(rows(None), rows(None))
    for make in (np.random.RandomState, np.random.default_rng):
        one, other = make(0), make(0)
        first = rows(one)
        np.testing.assert_array_equal(first, rows(other))
        assert not np.array_equal(first, rows(one))


@pytest.mark.parametrize("random_state", [0, None])
def test_the_global_state_is_left_alone(random_state):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    make_sinusoids(n_tasks=2, random_state=random_state)
    after = np.random.get_state()[1]  # noqa: NPY002
    np.testing.assert_array_equal(after, before)


def test_distribution_equals_maker():
    waves = Sinusoids(n_samples=6, noise=0.1)
    assert isinstance(waves, TaskDistribution)
    drawn, made = waves.sample(4, 2), make_sinusoids(4, 6, noise=0.1, random_state=2)
    np.testing.assert_array_equal(drawn.rows().y, made.rows().y)
    assert waves == Sinusoids(n_samples=6, noise=0.1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"amplitude": (5.0, 0.1)}, "amplitude must be two finite numbers"),
        ({"phase": (0.0, np.inf)}, "phase must be two finite numbers"),
        ({"x_range": (0.0,)}, "x_range must be two finite numbers"),
        ({"n_samples": 0}, "n_samples must be an int of at least 1, got 0"),
        ({"n_samples": 2.5}, "n_samples must be an int of at least 1, got 2.5"),
        ({"amplitude": "ab"}, "amplitude must be two finite numbers.*got 'ab'"),
        ({"n_samples": True}, "n_samples must be an int of at least 1, got True"),
        ({"noise": -1.0}, "noise must be a number >= 0, got -1.0"),
        ({"noise": "x"}, "noise must be a number >= 0, got 'x'"),
        ({"noise": np.nan}, "noise must be a number >= 0, got nan"),
    ],
)
def test_values_that_cannot_be_drawn_from_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Sinusoids(**parameters)
    with pytest.raises(ValueError, match=message):
        make_sinusoids(**parameters)


def test_no_tasks_are_refused():
    with pytest.raises(ValueError, match="n_tasks must be an int of at least 1, got 0"):
        Sinusoids().sample(0)


def test_a_thousand_tasks_are_drawn_in_milliseconds():
    waves = Sinusoids()
    times = []
    for seed in range(5):
        start = time.process_time()
        waves.sample(1000, random_state=seed)
        times.append(time.process_time() - start)
    # About 2 ms on one core; drawn task by task in Python it takes over 50.
    assert min(times) < 0.02
