"""Kernels against scikit-learn's, and their formulas in numpy."""

import math

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import kernels as sk

from sklmeta.closed_form._gaussian_process import factored
from sklmeta.closed_form._kernels import KERNELS, make_kernel

N_TASKS, N_A, N_B, N_FEATURES = 2, 7, 5, 3
NAMES = (*KERNELS, "cosine", "spectral")


def randn(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def made(name, n_features=N_FEATURES, **options):
    """A kernel in double precision, no parameter of which is as it started."""
    generator = torch.Generator().manual_seed(1)
    kernel = make_kernel(name, n_features, generator=generator, **options).double()
    with torch.no_grad():
        for seed, parameter in enumerate(kernel.parameters()):
            parameter += 0.3 * randn(*parameter.shape, seed=seed + 5)
    return kernel


def sklearns(name, kernel):
    variance = kernel.log_output_scale.exp().item()
    length_scale = kernel.log_length_scale.detach().exp().numpy()
    if name == "linear":
        (length_scale,) = length_scale
        return variance / length_scale**2 * sk.DotProduct(length_scale)
    if name == "rbf":
        return variance * sk.RBF(length_scale)
    nu = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}[name]
    return variance * sk.Matern(length_scale, nu=nu)


@pytest.mark.parametrize("ard", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_is_sklearns(name, ard):
    if name == "linear" and ard:
        pytest.skip("scikit-learn's DotProduct has no length scales")
    kernel = made(name, ard=ard, length_scale=1.3, output_scale=2.0)
    assert kernel.log_length_scale.shape == (N_FEATURES if ard else 1,)
    a, b = randn(N_TASKS, N_A, N_FEATURES), randn(N_TASKS, N_B, N_FEATURES, seed=1)
    expected = sklearns(name, kernel)
    for task in range(N_TASKS):
        own_a, own_b = a[task].numpy(), b[task].numpy()
        found = kernel(a, b)[task].detach()
        np.testing.assert_allclose(found, expected(own_a, own_b), rtol=1e-12)
        diagonal = kernel.diagonal(a)[task].detach()
        np.testing.assert_allclose(diagonal, expected.diag(own_a), rtol=1e-12)


def test_linear_with_a_scale_for_each_feature_is_linear_in_scaled_features():
    kernel, a = made("linear", ard=True), randn(1, N_A, N_FEATURES)
    scaled = (a[0] / kernel.log_length_scale.exp()).detach().numpy()
    expected = kernel.log_output_scale.exp().item() * (1 + scaled @ scaled.T)
    np.testing.assert_allclose(kernel(a, a)[0].detach(), expected, rtol=1e-12)


def spectral_mixture(kernel, a, b):
    """The sum over mixtures, one pair of rows after the other."""
    weights = kernel.log_weights.exp().tolist()
    bandwidths = kernel.log_bandwidths.detach().exp().numpy()
    frequencies = kernel.frequencies.detach().numpy()
    found = np.zeros((len(a), len(b)))
    for i, row in enumerate(a):
        for j, other in enumerate(b):
            tau = row - other
            for w, sd, mu in zip(weights, bandwidths, frequencies, strict=True):
                decay = np.exp(-2 * math.pi**2 * np.sum((tau * sd) ** 2))
                found[i, j] += w * decay * np.cos(2 * math.pi * mu @ tau)
    return found


@pytest.mark.parametrize("n_features", [1, N_FEATURES])
def test_spectral_mixture_is_its_formula(n_features):
    kernel = made("spectral", n_features, length_scale=0.5, n_mixtures=3)
    a, b = randn(N_TASKS, N_A, n_features), randn(N_TASKS, N_B, n_features, seed=1)
    found = kernel(a, b).detach()
    for task in range(N_TASKS):
        expected = spectral_mixture(kernel, a[task].numpy(), b[task].numpy())
        np.testing.assert_allclose(found[task], expected, rtol=1e-10, atol=1e-12)
    total = kernel.log_weights.exp().sum()
    torch.testing.assert_close(kernel.diagonal(a), total.expand(N_TASKS, N_A))


def test_spectral_mixture_is_gpytorchs_with_one_feature():
    gpytorch = pytest.importorskip("gpytorch")
    kernel = made("spectral", 1, length_scale=0.5, n_mixtures=3)
    theirs = gpytorch.kernels.SpectralMixtureKernel(num_mixtures=3).double()
    theirs.mixture_weights = kernel.log_weights.detach().exp()
    theirs.mixture_means = kernel.frequencies.detach().abs().unsqueeze(1)
    theirs.mixture_scales = kernel.log_bandwidths.detach().exp().unsqueeze(1)
    a, b = randn(N_A, 1), randn(N_B, 1, seed=1)
    torch.testing.assert_close(kernel(a[None], b[None])[0], theirs(a, b).to_dense())


def test_cosine_is_of_directions():
    kernel = made("cosine")
    a, b = randn(1, N_A, N_FEATURES), randn(1, N_B, N_FEATURES, seed=1)
    norms = a[0].norm(dim=1)[:, None] * b[0].norm(dim=1)
    expected = kernel.log_output_scale.exp() * (a[0] @ b[0].T) / norms
    torch.testing.assert_close(kernel(a, b)[0], expected)
    torch.testing.assert_close(kernel(7 * a, b), kernel(a, b))
    none = torch.zeros(1, 2, N_FEATURES, dtype=torch.float64)
    assert not kernel(none, b).any() and not kernel.diagonal(none).any()


@pytest.mark.parametrize("name", NAMES)
def test_diagonal_is_that_of_the_matrix(name):
    kernel, a = made(name), randn(N_TASKS, N_A, N_FEATURES)
    matrix = kernel(a, a)
    torch.testing.assert_close(kernel.diagonal(a), matrix.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(matrix, matrix.mT, rtol=0, atol=1e-14)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-10


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_differences(name):
    kernel = made(name, length_scale=1.0)
    a, b = randn(1, 3, N_FEATURES), randn(1, 2, N_FEATURES, seed=1)
    a.requires_grad_()
    weights = list(kernel.parameters())

    def function(a, *values):
        names = [name for name, _ in kernel.named_parameters()]
        own = dict(zip(names, values, strict=True))
        return torch.func.functional_call(kernel, own, (a, b))

    assert torch.autograd.gradcheck(function, (a, *weights))


def test_gradient_at_distance_zero_is_finite():
    for name in NAMES:
        kernel, a = made(name), randn(1, N_A, N_FEATURES)
        a[0, 1] = a[0, 0]
        a.requires_grad_()
        kernel(a, a).sum().backward()
        assert torch.isfinite(a.grad).all(), name


def test_length_scale_starts_at_the_root_of_the_number_of_features():
    kernel = make_kernel("rbf", 16)
    assert kernel.log_length_scale.exp().item() == pytest.approx(4.0)


def test_indefinite_matrices_get_jitter_one_by_one():
    fine = randn(4, 4)
    fine = fine @ fine.T + torch.eye(4, dtype=torch.float64)
    row = randn(1, 4)
    rank_one = row.T @ row - 1e-9 * torch.eye(4, dtype=torch.float64)
    hopeless = -torch.eye(4, dtype=torch.float64)
    factor = factored(torch.stack([fine, rank_one, hopeless]))
    torch.testing.assert_close(factor[0] @ factor[0].T, fine)
    error = (factor[1] @ factor[1].T - rank_one).abs().max()
    assert 0 < error < 1e-5
    assert factor[2].isnan().all()
    assert factored(torch.zeros(1, 2, 2, dtype=torch.float64)).isfinite().all()
