"""Tasks drawn from Gaussian processes: their covariance, ranges, sizes and seeds."""

import pickle

import numpy as np
import pytest
from sklearn.gaussian_process.kernels import RBF, ExpSineSquared, Matern

from sklmeta.datasets import GaussianProcessTasks, make_gaussian_process_tasks
from sklmeta.tasks import TaskDistribution, TaskSet

LENGTH, SCALE, PERIOD = 0.4, 0.7, 0.9
KERNELS = {
    "rbf": RBF(LENGTH),
    "matern12": Matern(LENGTH, nu=0.5),
    "matern32": Matern(LENGTH, nu=1.5),
    "matern52": Matern(LENGTH, nu=2.5),
}


@pytest.mark.parametrize("n_features", [1, 3])
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_covariance_is_that_of_scikit_learn(kernel, n_features):
    X = np.random.default_rng(0).uniform(-2, 2, (12, n_features))
    tasks = GaussianProcessTasks(kernel, n_features=n_features)
    found = tasks.covariance(X, length_scale=LENGTH, output_scale=SCALE)
    np.testing.assert_allclose(found, SCALE**2 * KERNELS[kernel](X), atol=1e-12)


def test_periodic_covariance_is_that_of_scikit_learn():
    X = np.random.default_rng(0).uniform(-2, 2, (12, 1))
    found = GaussianProcessTasks("periodic").covariance(
        X, length_scale=LENGTH, output_scale=SCALE, period=PERIOD
    )
    expected = ExpSineSquared(length_scale=LENGTH, periodicity=PERIOD)(X)
    np.testing.assert_allclose(found, SCALE**2 * expected, atol=1e-12)


@pytest.mark.parametrize("kernel", [*sorted(KERNELS), "periodic"])
def test_targets_have_the_covariance_of_the_kernel(kernel):
    # All rows of a task lie in a narrow range, so that products of targets at two rows
    # have nearly the expectation that the kernel gives for their distance.
    tasks = GaussianProcessTasks(
        kernel,
        length_scale=(LENGTH, LENGTH),
        output_scale=(SCALE, SCALE),
        period=(PERIOD, PERIOD),
        noise=0.2,
        x_range=(0, 0.8),
        n_samples=2,
    )
    rows = tasks.sample(60_000, random_state=0).rows()
    X, y = rows.X.reshape(-1, 2, 1), rows.y.reshape(-1, 2)
    expected = tasks.covariance(
        X, length_scale=LENGTH, output_scale=SCALE, period=PERIOD
    )
    assert abs(y.mean()) < 0.01
    assert y.var() == pytest.approx(SCALE**2 + 0.2**2, rel=0.02)
    near = np.abs(X[:, 0, 0] - X[:, 1, 0]) < 0.3
    for chosen in (near, ~near):
        product = y[chosen, 0] * y[chosen, 1]
        error = product.mean() - expected[chosen, 0, 1].mean()
        assert abs(error) < 4 * product.std() / np.sqrt(chosen.sum())


def test_scales_are_drawn_from_their_ranges():
    tasks = GaussianProcessTasks(output_scale=(0.5, 2.0), noise=0.0, n_samples=40)
    rows = tasks.sample(4000, random_state=0).rows()
    # E[s^2] of s ~ U[0.5, 2]
    expected = (2.0**3 - 0.5**3) / (3 * 1.5)
    assert rows.y.var() == pytest.approx(expected, rel=0.06)


def test_shapes_and_types():
    tasks = make_gaussian_process_tasks(7, 5, n_features=3, random_state=0)
    assert isinstance(tasks, TaskSet)
    assert tasks.shape == (7,)
    for task in tasks:
        assert task.X.shape == (5, 3)
        assert task.y.shape == (5,)
        assert task.X.dtype == task.y.dtype == np.float32
        assert np.abs(task.X).max() <= 2


def test_sizes_are_drawn_from_their_range():
    tasks = make_gaussian_process_tasks(300, (3, 6), random_state=0)
    sizes = tasks.rows().sizes
    assert set(sizes) == {3, 4, 5, 6}
    assert isinstance(GaussianProcessTasks(n_samples=(3, 6)), TaskDistribution)


def test_many_rows_are_drawn_in_parts():
    tasks = GaussianProcessTasks(n_samples=300)
    assert np.isfinite(tasks.sample(60, random_state=0).rows().y).all()


def test_smooth_functions_without_noise():
    tasks = GaussianProcessTasks(length_scale=(5, 5), noise=0.0, n_samples=60)
    task = tasks.sample(1, random_state=0)[0]
    order = np.argsort(task.X[:, 0])
    assert np.abs(np.diff(task.y[order])).max() < 0.1


def test_seeds():
    tasks = GaussianProcessTasks(n_samples=(4, 9))

    def drawn(random_state):
        return tasks.sample(5, random_state).rows().y

    np.testing.assert_array_equal(drawn(3), drawn(3))
    generator = np.random.default_rng(3)
    first, second = drawn(generator), drawn(generator)
    assert first.shape != second.shape or (first != second).any()


def test_draws_of_a_seed_stay_what_they_are():
    tasks = make_gaussian_process_tasks(2, (2, 3), random_state=0).rows()
    np.testing.assert_allclose(
        tasks.X[:3, 0], [0.54784673, -0.92085314, -1.9338895], rtol=1e-6
    )
    np.testing.assert_allclose(
        tasks.y[:3], [-1.37084234, -0.13080674, -0.68963295], rtol=1e-5
    )


def test_pickling_and_equality():
    tasks = GaussianProcessTasks("matern32", n_samples=(3, 6))
    assert pickle.loads(pickle.dumps(tasks)) == tasks


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kernel": "linear"}, "kernel must be one of .*'rbf'.*got 'linear'"),
        ({"length_scale": (0.0, 1.0)}, "length_scale must be two .* above 0"),
        ({"output_scale": (2.0, 1.0)}, r"output_scale must be .*got \(2.0, 1.0\)"),
        ({"period": 3}, "period must be two"),
        ({"x_range": (0, np.inf)}, "x_range must be two finite"),
        ({"n_features": 0}, "n_features must be an int"),
        ({"n_samples": (5, 2)}, r"n_samples must be .*got \(5, 2\)"),
        ({"n_samples": 2.5}, "n_samples must be .*got 2.5"),
        ({"n_samples": True}, "n_samples must be .*got True"),
        ({"n_samples": (1, 2, 3)}, r"n_samples must be .*got \(1, 2, 3\)"),
        ({"n_samples": (True, 5)}, r"n_samples must be .*got \(True, 5\)"),
        ({"n_features": True}, "n_features must be an int .*got True"),
        ({"noise": -1.0}, "noise must be a number >= 0"),
        ({"noise": "x"}, "noise must be a number >= 0, got 'x'"),
        ({"noise": None}, "noise must be a number >= 0, got None"),
        ({"kernel": ["rbf"]}, r"kernel must be one of .*got \['rbf'\]"),
        ({"length_scale": "ab"}, "length_scale must be two .*got 'ab'"),
        ({"length_scale": ("1", "2")}, "length_scale must be two"),
        ({"period": (0.1, [0.2, 0.3])}, "period must be two"),
    ],
)
def test_refusals(parameters, message):
    with pytest.raises(ValueError, match=message):
        GaussianProcessTasks(**parameters)


def test_refuses_no_tasks():
    with pytest.raises(ValueError, match="n_tasks must be an int of at least 1, got 0"):
        GaussianProcessTasks().sample(0)
