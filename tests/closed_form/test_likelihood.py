"""The likelihood of linear mixed models against dense matrices of all rows."""

import itertools

import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from sklmeta.closed_form import _likelihood
from sklmeta.closed_form._likelihood import (
    Likelihood,
    TaskSums,
    fit_better,
    fit_likelihood,
    independent,
    posterior,
)

SIZES = (3, 1, 6, 4, 5, 9)
P = 4
EFFECTS = np.array([0, 2])
METHODS = pytest.mark.parametrize("restricted", [True, False])


@pytest.fixture
def rows():
    """Return columns, targets and where tasks start and end."""
    rng = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(SIZES)])
    x = rng.normal(size=(offsets[-1], P))
    x[:, 0] = 1
    effects = np.repeat(rng.normal(size=(len(SIZES), 2)), SIZES, axis=0)
    y = x @ [0.3, 1, -1, 0] + (x[:, EFFECTS] * effects).sum(1)
    return x, y + rng.normal(size=len(y)), offsets


@pytest.fixture
def factor():
    return np.array([[1.2, 0.0], [-0.5, 0.7]])


def likelihood_of(rows, restricted, alpha=0.0, effects=EFFECTS):
    x, y, offsets = rows
    penalty = np.full(x.shape[1], alpha)
    penalty[0] = 0
    sums = TaskSums.of_rows(x, y, offsets, effects)
    return Likelihood(sums, restricted, penalty)


def covariance_of(rows, factor, effects=EFFECTS):
    """Return that of all targets, in units of the noise."""
    x, _, offsets = rows
    z = [x[a:b, effects] for a, b in itertools.pairwise(offsets)]
    scaled = block_diag(*z) @ np.kron(np.eye(len(z)), factor)
    return np.eye(len(x)) + scaled @ scaled.T


def random_intercepts(seed, n_tasks, variance):
    """Return rows of tasks of different sizes that differ by intercepts alone."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 12, size=n_tasks)
    y = np.repeat(rng.normal(0, variance**0.5, size=n_tasks), sizes)
    y += rng.normal(size=len(y))
    y = (y - y.mean()) / y.std()
    return np.ones((len(y), 1)), y, np.concatenate([[0], np.cumsum(sizes)])


@pytest.mark.parametrize("alpha", [0.0, 2.5])
def test_deviance_is_that_of_a_dense_normal_distribution(rows, factor, alpha):
    likelihood = likelihood_of(rows, restricted=False, alpha=alpha)
    deviance, beta, variance, _ = likelihood.profile(factor)
    x, y, _ = rows
    dense = multivariate_normal(x @ beta, variance * covariance_of(rows, factor))
    penalty = alpha * (beta[1:] ** 2).sum() / variance
    assert deviance == pytest.approx(-2 * dense.logpdf(y) + penalty, abs=1e-8)
    inverse = np.linalg.inv(covariance_of(rows, factor))
    penalised = x.T @ inverse @ x + np.diag(likelihood.penalty)
    np.testing.assert_allclose(beta, np.linalg.solve(penalised, x.T @ inverse @ y))


@pytest.mark.parametrize("alpha", [0.0, 2.5])
def test_restricted_deviance_integrates_over_fixed_effects(rows, factor, alpha):
    deviance, _, variance, _ = likelihood_of(rows, True, alpha).profile(factor)
    x, y, _ = rows
    covariance = covariance_of(rows, factor)
    flat = x
    if alpha:  # what is penalised is a random effect of all rows
        covariance = covariance + x[:, 1:] @ x[:, 1:].T / alpha
        flat = x[:, :1]
    inverse = np.linalg.inv(covariance)
    information = flat.T @ inverse @ flat
    residuals = y - flat @ np.linalg.solve(information, flat.T @ inverse @ y)
    degrees, square = len(y) - flat.shape[1], residuals @ inverse @ residuals
    assert variance == pytest.approx(square / degrees)
    expected = (
        degrees * np.log(2 * np.pi * variance)
        + np.linalg.slogdet(covariance)[1]
        + np.linalg.slogdet(information)[1]
        + square / variance
    )
    assert deviance == pytest.approx(expected, abs=1e-8)


@METHODS
@pytest.mark.parametrize("alpha", [0.0, 2.5])
def test_gradient_is_that_of_finite_differences(rows, factor, restricted, alpha):
    likelihood = likelihood_of(rows, restricted, alpha)
    deviance, gradient = likelihood.gradient(factor)
    assert deviance == likelihood.profile(factor)[0]
    psi, step = factor @ factor.T, 1e-5
    for i, j in ((0, 0), (0, 1), (1, 1)):
        change = np.zeros((2, 2))
        change[i, j] = change[j, i] = step
        ahead, behind = (
            likelihood.profile(np.linalg.cholesky(psi + sign * change))[0]
            for sign in (1, -1)
        )
        expected = (ahead - behind) / (2 * step)
        found = (gradient * change).sum() / step
        assert found == pytest.approx(expected, rel=1e-5)


@METHODS
def test_blocks_of_tasks_add_up(rows, factor, restricted, monkeypatch):
    likelihood = likelihood_of(rows, restricted)
    deviance, gradient = likelihood.gradient(factor)
    monkeypatch.setattr(_likelihood, "BLOCK_ENTRIES", 2 * 2 * (P + 1))
    assert len(list(likelihood.sums.blocks())) == 3
    found = likelihood.gradient(factor)
    assert found[0] == pytest.approx(deviance)
    np.testing.assert_allclose(found[1], gradient)


@METHODS
def test_order_of_tasks_and_of_rows_does_not_matter(rows, restricted):
    x, y, offsets = rows
    parts = [part[::-1] for part in np.split(np.arange(len(y)), offsets[1:-1])]
    order = np.concatenate(parts[::-1])
    moved = x[order], y[order], np.concatenate([[0], np.cumsum(SIZES[::-1])])
    one, other = (
        fit_likelihood(likelihood_of(own, restricted), diagonal=False, tol=1e-6)
        for own in (rows, moved)
    )
    assert one.deviance == pytest.approx(other.deviance, abs=1e-6)
    np.testing.assert_allclose(one.beta, other.beta, atol=1e-4)


@METHODS
@pytest.mark.parametrize("diagonal", [True, False])
def test_fit_minimises_the_dense_deviance(rows, restricted, diagonal):
    likelihood = likelihood_of(rows, restricted)
    fit = fit_likelihood(likelihood, diagonal=diagonal, tol=1e-6)
    assert fit.converged
    assert fit.n_parameters == (2 if diagonal else 3)
    assert (fit.factor[1, 0] == 0) == diagonal
    x, y, _ = rows

    def deviance(values):
        factor = np.zeros((2, 2))
        factor[0, 0], factor[1, 1] = values[:2]
        factor[1, 0] = 0 if diagonal else values[2]
        covariance = covariance_of(rows, factor)
        inverse = np.linalg.inv(covariance)
        information = x.T @ inverse @ x
        residuals = y - x @ np.linalg.solve(information, x.T @ inverse @ y)
        degrees = len(y) - P * restricted
        square = residuals @ inverse @ residuals
        value = degrees * (1 + np.log(2 * np.pi * square / degrees))
        value += np.linalg.slogdet(covariance)[1]
        return value + restricted * np.linalg.slogdet(information)[1]

    options = {"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000}
    found = minimize(deviance, [1, 1, 0], method="Nelder-Mead", options=options)
    assert fit.deviance == pytest.approx(found.fun, abs=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_columns_in_other_units_have_the_same_fit(rows, scale):
    x, y, offsets = rows
    units = np.array([1, scale, 1 / scale, 1])
    fits = [
        fit_likelihood(likelihood_of(own, False), diagonal=False, tol=1e-6)
        for own in (rows, (x * units, y, offsets))
    ]
    assert fits[0].deviance == pytest.approx(fits[1].deviance, abs=1e-4)
    np.testing.assert_allclose(fits[0].beta, fits[1].beta * units, atol=1e-3)


def test_without_noise_the_least_is_taken():
    offsets = np.arange(0, 51, 10)
    x = np.column_stack([np.ones(50), np.random.default_rng(0).normal(size=50)])
    y = x[:, 1] + np.repeat([-1.0, 2, 0, 1, -2], 10)
    likelihood = likelihood_of((x, y, offsets), True, effects=np.zeros(1, dtype=int))
    fit = fit_likelihood(likelihood, diagonal=True, tol=1e-6)
    assert fit.converged
    assert fit.noise_variance == pytest.approx(1e-8, rel=0.5)
    np.testing.assert_allclose(fit.beta, [0, 1], atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_one_variance_is_found_wherever_it_is(seed):
    rows = random_intercepts(seed, 11, variance=0.1)
    likelihood = likelihood_of(rows, True, effects=np.zeros(1, dtype=int))
    fit = fit_likelihood(likelihood, diagonal=True, tol=1e-6)
    grid = np.concatenate([[0.0], np.geomspace(1e-4, 10, 400)])
    least = min(likelihood.profile(np.full((1, 1), value))[0] for value in grid)
    assert fit.converged
    assert fit.deviance <= least + 1e-6


def test_a_variance_stuck_at_zero_is_released():
    rows = random_intercepts(3, 30, variance=1.0)
    likelihood = likelihood_of(rows, True, effects=np.zeros(1, dtype=int))
    stuck = np.zeros((1, 1))
    released = _likelihood._released(likelihood, stuck, True, 1e-6, np.eye(1))
    assert likelihood.profile(released)[0] < likelihood.profile(stuck)[0]
    fit = fit_likelihood(likelihood, diagonal=True, tol=1e-6)
    again = _likelihood._released(likelihood, fit.factor, True, 1e-4, np.eye(1))
    assert again is None


def test_criterion_of_akaike_chooses_the_covariance():
    rng = np.random.default_rng(0)
    offsets = np.arange(0, 601, 10)
    x = np.column_stack([np.ones(600), rng.normal(size=600)])
    noise = rng.normal(size=600)
    for factor, n_parameters in (([[1, 0], [0, 1]], 2), ([[1, 0], [0.9, 0.3]], 3)):
        effects = rng.normal(size=(60, 2)) @ np.transpose(factor)
        y = noise + (x * np.repeat(effects, 10, axis=0)).sum(1)
        likelihood = likelihood_of((x, y, offsets), True, effects=np.arange(2))
        assert fit_better(likelihood, tol=1e-6).n_parameters == n_parameters


def test_posterior_is_that_of_dense_matrices(rows):
    x, y, offsets = rows
    fit = fit_likelihood(likelihood_of(rows, True), diagonal=False, tol=1e-6)
    psi = fit.factor @ fit.factor.T
    residuals = y - x @ fit.beta
    for start, stop in itertools.pairwise(offsets):
        z, own = x[start:stop, EFFECTS], residuals[start:stop]
        mean, half = posterior(fit, (z.T @ z)[None], (z.T @ own)[None])
        gain = psi @ z.T @ np.linalg.inv(np.eye(len(z)) + z @ psi @ z.T)
        np.testing.assert_allclose(mean[0], gain @ own, rtol=1e-8, atol=1e-10)
        expected = fit.noise_variance * (psi - gain @ z @ psi)
        np.testing.assert_allclose(half[0] @ half[0].T, expected, atol=1e-10)


def test_dependent_columns_are_left_out():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50)) * [[1e6], [1e-6]]
    x = np.column_stack([np.ones(50), a, 0 * a, 2 * a - 3, b, a + 1e6 * b, 0 * a + 7])
    assert independent(x, constant_only=False).tolist() == [0, 1, 4]
    assert independent(x, constant_only=True).tolist() == [0, 1, 3, 4, 5]
