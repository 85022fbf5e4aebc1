"""Laplace's approximation against quadrature, scipy and finite differences."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logsumexp

from sklmeta.closed_form import _laplace
from sklmeta.closed_form._laplace import blocks_of, fit_laplace, laplace_posterior

SIZES = (3, 1, 6, 40, 5, 9)
P = 3
EFFECTS = np.array([0, 2])
SETS = pytest.mark.parametrize("n_sets", [1, 3])


def data(n_sets, seed=0, sizes=SIZES):
    """Return columns, classes and the rows of each task."""
    rng = np.random.default_rng(seed)
    n_rows = sum(sizes)
    x = rng.normal(size=(n_rows, P))
    x[:, 0] = 1
    y = rng.integers(0, max(2, n_sets), size=n_rows)
    return x, y, np.split(np.arange(n_rows), np.cumsum(sizes)[:-1])


def parameters(n_sets, seed=1):
    generator = torch.Generator().manual_seed(seed)
    beta = torch.randn(n_sets, P, generator=generator, dtype=torch.float64)
    factor = torch.randn(n_sets, 2, 2, generator=generator, dtype=torch.float64).tril()
    return beta, factor


def height(u, x, y, beta, factor):
    """Return h of one task, as the formula has it."""
    effects = np.einsum("cij,cj->ci", factor, u)
    logits = x @ beta.T + x[:, EFFECTS] @ effects.T
    if len(beta) == 1:
        logits = np.column_stack([np.zeros(len(x)), logits])
    return -log_softmax(logits, axis=1)[np.arange(len(x)), y].sum() + (u**2).sum() / 2


@SETS
def test_modes_are_the_minima(n_sets):
    x, y, supports = data(n_sets)
    beta, factor = parameters(n_sets)
    for tasks, block in blocks_of(x, y, EFFECTS, supports, n_sets):
        start = torch.zeros(len(tasks), n_sets, 2, dtype=torch.float64)
        modes = block.modes(beta, factor, start).numpy()
        for t, mode in zip(tasks, modes, strict=True):
            own = (x[supports[t]], y[supports[t]], beta.numpy(), factor.numpy())
            found = minimize(
                lambda u, own=own: height(u.reshape(n_sets, 2), *own),
                np.zeros(2 * n_sets),
                options={"gtol": 1e-9},
                method="BFGS",
            )
            np.testing.assert_allclose(mode.ravel(), found.x, atol=1e-5)


@SETS
def test_derivatives_by_random_coefficients(n_sets):
    x, y, supports = data(n_sets)
    beta, factor = parameters(n_sets)
    ((tasks, block),) = blocks_of(x, y, EFFECTS, supports, n_sets)
    u = torch.randn(len(tasks), n_sets, 2, dtype=torch.float64)
    gradient, hessian = block.derivatives(beta, factor, u)

    def total(values):
        nll = block.nll(beta, factor, values) + values.square().sum((1, 2)) / 2
        return nll.sum()

    leaf = u.clone().requires_grad_()
    (expected,) = torch.autograd.grad(total(leaf), leaf)
    torch.testing.assert_close(gradient, expected.flatten(1))
    second = torch.autograd.functional.hessian(total, u)
    for t in range(len(tasks)):
        size = 2 * n_sets
        own = second[t, :, :, t].reshape(size, size)
        torch.testing.assert_close(hessian[t], own)
    parts = (x[supports[tasks[0]]], y[supports[tasks[0]]], beta.numpy(), factor.numpy())
    first = block.nll(beta, factor, u)[0] + u[0].square().sum() / 2
    assert float(first) == pytest.approx(height(u[0].numpy(), *parts))


@SETS
def test_gradient_of_the_objective_is_that_of_finite_differences(n_sets):
    x, y, supports = data(n_sets)
    ((tasks, block),) = blocks_of(x, y, EFFECTS, supports, n_sets)
    start = torch.zeros(len(tasks), n_sets, 2, dtype=torch.float64)

    def objective(beta, factor):
        with torch.no_grad():
            modes = block.modes(beta, factor, start)
        return block.objective(beta, factor, modes)

    leaves = [part.requires_grad_() for part in parameters(n_sets)]
    gradients = torch.autograd.grad(objective(*leaves), leaves)
    step = 1e-5
    for which, place in ((0, (0, 1)), (0, (-1, 2)), (1, (0, 1, 0)), (1, (-1, 1, 1))):
        values = []
        for sign in (1, -1):
            moved = [leaf.detach().clone() for leaf in leaves]
            moved[which][place] += sign * step
            values.append(float(objective(*moved)))
        expected = (values[0] - values[1]) / (2 * step)
        assert float(gradients[which][place]) == pytest.approx(expected, rel=1e-5)


def quadrature(x, y, beta, scale, n_nodes=60):
    """Return the log-likelihood of one task that differs by a random intercept."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    sign = 2 * y - 1
    logits = (x @ beta)[:, None] + scale * nodes
    joint = np.log(expit(sign[:, None] * logits)).sum(0)
    return logsumexp(joint, b=weights / weights.sum())


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5])
def test_marginal_likelihood_is_near_the_integral(scale):
    x, y, supports = data(1, sizes=(20, 40, 60))
    beta, _ = parameters(1)
    factor = torch.full((1, 1, 1), scale, dtype=torch.float64)
    ((_, block),) = blocks_of(x, y, np.zeros(1, dtype=int), supports, 1)
    modes = block.modes(beta, factor, torch.zeros(3, 1, 1, dtype=torch.float64))
    found = -float(block.objective(beta, factor, modes))
    expected = sum(quadrature(x[s], y[s], beta[0].numpy(), scale) for s in supports)
    assert found == pytest.approx(expected, abs=0.1 if scale else 1e-8)


@SETS
def test_posterior_is_the_mode_and_the_curvature_there(n_sets):
    x, y, supports = data(n_sets)
    beta, factor = parameters(n_sets)
    fit = _laplace.LogisticFit(beta, factor, 0.0, 0, True)
    ((tasks, block),) = blocks_of(x, y, EFFECTS, supports, n_sets)
    mean, half = laplace_posterior(block, fit)
    wide = torch.block_diag(*factor)
    start = torch.zeros(len(tasks), n_sets, 2, dtype=torch.float64)
    modes = block.modes(beta, factor, start)
    _, hessian = block.derivatives(beta, factor, modes)
    for t in range(len(tasks)):
        torch.testing.assert_close(mean[t].ravel(), wide @ modes[t].ravel())
        flat = half[t].reshape(2 * n_sets, -1)
        expected = wide @ torch.linalg.inv(hessian[t]) @ wide.T
        torch.testing.assert_close(flat @ flat.T, expected)


def test_without_rows_the_posterior_is_the_prior():
    x, y, _ = data(3)
    beta, factor = parameters(3)
    fit = _laplace.LogisticFit(beta, factor, 0.0, 0, True)
    ((_, block),) = blocks_of(x, y, EFFECTS, [np.arange(0)], 3)
    mean, half = laplace_posterior(block, fit)
    assert not mean.any()
    for c in range(3):
        torch.testing.assert_close(half[0, c] @ half[0, c].T, factor[c] @ factor[c].T)


def test_hessians_spoilt_by_rounding_have_roots():
    x, y, supports = data(1)
    ((tasks, block),) = blocks_of(x, y, EFFECTS, supports, 1)
    wide = torch.tensor([[1.0, 1.0 + 1e-15], [1.0 + 1e-15, 1.0]]).double()
    hessian = wide.repeat(len(tasks), 1, 1)
    hessian[2] = torch.eye(2)
    root = block.root(hessian)
    torch.testing.assert_close(root[2], torch.eye(2).double())
    torch.testing.assert_close(root @ root.mT, hessian)
    for bad in (torch.nan, torch.inf, -1.0):
        hessian[3, 0, 0] = bad
        with pytest.raises(_laplace.NotFiniteError) as error:
            block.root(hessian)
        assert error.value.task == tasks[3]


@SETS
def test_blocks_hold_every_task_once(n_sets, monkeypatch):
    x, y, supports = data(n_sets)
    beta, factor = parameters(n_sets)

    def objective():
        total, seen = 0.0, []
        for tasks, block in blocks_of(x, y, EFFECTS, supports, n_sets):
            start = torch.zeros(len(tasks), n_sets, 2, dtype=torch.float64)
            modes = block.modes(beta, factor, start)
            total += float(block.objective(beta, factor, modes))
            seen.append(tasks)
        return total, seen

    whole, seen = objective()
    assert len(seen) == 1
    monkeypatch.setattr(_laplace, "BLOCK_ENTRIES", 60 * n_sets)
    parts, seen = objective()
    assert len(seen) > 2
    assert sorted(np.concatenate(seen)) == list(range(len(supports)))
    assert parts == pytest.approx(whole)


def test_blocks_of_few_and_many_rows_are_padded_little():
    sizes = np.array([1] * 2000 + [200])
    x = np.random.default_rng(0).normal(size=(sizes.sum(), 300))
    y = np.zeros(len(x), dtype=np.int64)
    supports = np.split(np.arange(len(x)), np.cumsum(sizes)[:-1])
    blocks = list(blocks_of(x, y, np.zeros(1, dtype=int), supports, 1))
    assert sum(block.x.shape[0] * block.x.shape[1] for _, block in blocks) <= 2 * len(x)
    assert max(block.x.numel() for _, block in blocks) <= _laplace.BLOCK_ENTRIES
    assert len(blocks) < 10
    tasks = np.concatenate([tasks for tasks, _ in blocks])
    assert sorted(tasks) == list(range(len(sizes)))


@SETS
@pytest.mark.parametrize("diagonal", [True, False])
def test_fit_is_a_minimum(n_sets, diagonal):
    x, y, supports = data(n_sets, sizes=(8,) * 12)
    shift = np.repeat(np.random.default_rng(2).integers(0, 2, size=12), 8)
    y = np.where(x[:, 1] + x[:, 2] * (2 * shift - 1) > 0, shift, y)
    blocks = [b for _, b in blocks_of(x, y, EFFECTS, supports, n_sets)]
    penalty = torch.tensor([0.0, 1, 1], dtype=torch.float64)
    fit = fit_laplace(blocks, n_sets, penalty, diagonal=diagonal, tol=1e-7)
    assert fit.converged
    assert fit.n_parameters == n_sets * (2 if diagonal else 3)
    assert (fit.factor[:, 1, 0] == 0).all() == diagonal
    assert not fit.factor[:, 0, 1].any()

    def deviance(beta, factor):
        total = (penalty * beta.square()).sum() / 2
        for block in blocks:
            start = torch.zeros(len(block.x), n_sets, 2, dtype=torch.float64)
            modes = block.modes(beta, factor, start)
            total += block.objective(beta, factor, modes)
        return 2 * float(total)

    least = deviance(fit.beta, fit.factor)
    assert fit.deviance == pytest.approx(least)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        beta, factor = (
            part + 0.1 * torch.randn(part.shape, generator=generator, dtype=part.dtype)
            for part in (fit.beta, fit.factor)
        )
        factor = factor.tril()
        if diagonal:
            factor = torch.diag_embed(factor.diagonal(dim1=1, dim2=2))
        assert deviance(beta, factor) > least - 1e-6
