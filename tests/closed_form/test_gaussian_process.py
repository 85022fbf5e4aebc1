"""Factors and densities of many Gaussian processes at once, and odd tasks."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from sklmeta import DeepKernelRegressor, TaskSet
from sklmeta.closed_form import DeepKernel
from sklmeta.closed_form import _gaussian_process as gp
from sklmeta.closed_form._gaussian_process import covariance, factored, log_density
from sklmeta.closed_form._kernels import make_kernel

NOISE = 0.25


def randn(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def kernels(n_tasks, n_rows):
    """Return covariances of full rank."""
    root = randn(n_tasks, n_rows, n_rows + 2)
    return root @ root.mT / n_rows


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_density_is_scipys_of_the_rows_there_are(n_outputs):
    kernel, y = kernels(3, 6), randn(3, 6, n_outputs, seed=1)
    mask = torch.arange(6) < torch.tensor([[6], [4], [1]])
    y = y * mask.unsqueeze(-1)
    factor = factored(covariance(kernel, torch.tensor(NOISE).double(), mask))
    found = log_density(factor, y, mask)
    for task, n_rows in enumerate((6, 4, 1)):
        own = kernel[task, :n_rows, :n_rows].numpy() + NOISE * np.eye(n_rows)
        normal = multivariate_normal(np.zeros(n_rows), own)
        expected = np.mean([normal.logpdf(t) for t in y[task, :n_rows].numpy().T])
        assert found[task].item() == pytest.approx(expected / n_rows, rel=1e-9)


def test_outputs_that_do_not_occur_count_for_none():
    kernel, mask = kernels(2, 5), torch.ones(2, 5, dtype=torch.bool)
    factor = factored(covariance(kernel, torch.tensor(NOISE).double(), mask))
    y = randn(2, 5, 3, seed=1)
    y[1, :, 2] = 0
    found = log_density(factor, y, mask, torch.tensor([3, 2]))
    torch.testing.assert_close(found[0], log_density(factor, y, mask)[0])
    alone = log_density(factor[1:], y[1:, :, :2], mask[1:])[0]
    torch.testing.assert_close(found[1], alone)


def test_a_task_without_rows_has_density_0():
    mask = torch.zeros(1, 4, dtype=torch.bool)
    factor = factored(covariance(kernels(1, 4), torch.tensor(NOISE).double(), mask))
    assert log_density(factor, torch.zeros(1, 4, 1), mask).item() == 0


# Matrices that rounding has spoilt ----------------------------------------------------


def spoilt(share, n_rows=4):
    """Return a matrix with one eigenvalue of -share times its mean diagonal."""
    basis = torch.linalg.qr(randn(n_rows, n_rows))[0]
    values = torch.ones(n_rows, dtype=torch.float64)
    values[0] = -share
    return basis @ values.diag() @ basis.T


def test_what_is_added_is_the_least_that_helps_and_only_where_it_is_needed():
    sound = kernels(1, 4)[0] + torch.eye(4)
    shares = (3e-11, 3e-7, 3e-5)
    matrices = torch.stack([sound, *(1e6 * spoilt(share) for share in shares)])
    factor = factored(matrices)
    rebuilt = factor @ factor.mT
    torch.testing.assert_close(rebuilt[0], sound, rtol=1e-14, atol=1e-14)
    for place, share in enumerate(shares, start=1):
        added = (rebuilt[place] - matrices[place]).diagonal()
        size = matrices[place].diagonal().mean()
        assert (added >= share * size * 0.9).all()
        # Failed attempts add nothing, and the next is a hundred times larger.
        assert (added <= 101 * share * size).all()
        off = rebuilt[place] - added.diag()
        torch.testing.assert_close(off, matrices[place], rtol=1e-9, atol=1e-3)


def test_one_that_stays_indefinite_is_nan_and_leaves_its_neighbours():
    sound = kernels(1, 4)[0] + torch.eye(4)
    matrices = torch.stack([sound, spoilt(0.5), spoilt(3e-7)])
    factor = factored(matrices)
    assert factor[1].isnan().all()
    torch.testing.assert_close(factor[0], torch.linalg.cholesky(sound))
    assert factor[2].isfinite().all()


def test_gradients_pass_the_jitter():
    matrix = spoilt(3e-7).unsqueeze(0).requires_grad_()
    factored(matrix).diagonal(dim1=-2, dim2=-1).log().sum().backward()
    assert matrix.grad.isfinite().all() and matrix.grad.abs().sum() > 0


# Memory -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return DeepKernelRegressor(max_iter=3, batch_size=4, random_state=0).fit(tasks(12))


def tasks(n_tasks, n_rows=20, units=None, seed=0):
    """Sines of unit size, or of a unit for each task; Gaussian-process-like."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n_tasks, n_rows, 1))
    phase = rng.uniform(0, 2 * np.pi, size=(n_tasks, 1))
    y = np.sin(2 * X[..., 0] + phase) + 0.1 * rng.normal(size=(n_tasks, n_rows))
    units = np.ones(n_tasks) if units is None else units
    return TaskSet(list(zip(X, units[:, None] * (y + 3), strict=True)))


def test_free_memory_is_looked_at_where_no_limit_is_set(fitted, monkeypatch):
    asked = []

    def little(device):
        asked.append(device.type)
        return 10**9

    monkeypatch.setattr(gp, "free_bytes", little)
    X = np.linspace(0, 1, 9000)[:, None]
    message = r"9,000 rows takes 648 MB, and 5 matrices.*free memory is 1 GB"
    with pytest.raises(ValueError, match=message):
        fitted.adapt(X, X[:, 0])
    assert asked == ["cpu"]
    fitted.adapt(X[:100], X[:100, 0])  # too small to be asked about
    assert asked == ["cpu"]


def test_many_tasks_at_once_count_together(fitted, monkeypatch):
    monkeypatch.setattr(gp, "ALWAYS_FITS", 1000)
    monkeypatch.setattr(gp, "free_bytes", lambda device: 60_000)
    learner = fitted.learner_
    gp.refuse_too_large(learner, torch.zeros(1, 30, 2).double(), "rows")
    with pytest.raises(ValueError, match=r"of each of 3 tasks.* 5 matrices"):
        gp.refuse_too_large(learner, torch.zeros(3, 30, 2).double(), "rows")


def test_spectral_kernels_need_matrices_for_each_mixture(monkeypatch):
    monkeypatch.setattr(gp, "ALWAYS_FITS", 1000)
    monkeypatch.setattr(gp, "free_bytes", lambda device: 60_000)
    z = torch.zeros(1, 30, 2).double()
    learners = [
        DeepKernel(torch.nn.Identity(), make_kernel("spectral", 2, n_mixtures=n), 1)
        for n in (1, 4)
    ]
    gp.refuse_too_large(learners[0], z, "rows")
    with pytest.raises(ValueError, match="and 20 matrices of that size are needed"):
        gp.refuse_too_large(learners[1], z, "rows")


# The prior, tasks of one row, and of units of their own -------------------------------


@pytest.fixture
def in_double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_prior_is_the_same_where_torch_makes_doubles(fitted, request):
    X = np.linspace(-2, 2, 5)[:, None]
    expected = fitted.adapt().predict(X, return_std=True)
    request.getfixturevalue("in_double")
    found = fitted.adapt().predict(X, return_std=True)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("normalize_y", [True, "task"])
def test_a_task_of_one_support_row(fitted, normalize_y):
    meta = fitted
    if normalize_y == "task":
        meta = DeepKernelRegressor(
            normalize_y="task", max_iter=3, batch_size=4, random_state=0
        ).fit(tasks(12))
    task = tasks(1, seed=5)[0]
    model = meta.adapt(task.X[:1], task.y[:1])
    mean, std = model.predict(task.X, return_std=True)
    assert np.isfinite(mean).all() and (std > 0).all()
    assert std[0] < std[np.argmax(np.abs(task.X[:, 0] - task.X[0, 0]))]


def test_wild_units_are_each_tasks_own():
    units = 10.0 ** np.random.default_rng(0).uniform(-3, 3, size=150)
    options = {"n_shot": 8, "max_iter": 120, "outer_lr": 0.05, "random_state": 0}
    meta = DeepKernelRegressor(
        "identity", normalize_y="task", length_scale=0.5, **options
    ).fit(tasks(150, units=units))
    errors, inside = [], []
    new = tasks(60, units=units[:60], seed=1)
    for task, unit in zip(new, units, strict=False):
        mean, std = meta.adapt(task.X[:8], task.y[:8]).predict(task.X[8:], True)
        errors.append(np.mean((mean - task.y[8:]) ** 2) / unit**2)
        inside.append(np.mean(np.abs(task.y[8:] - mean) <= 1.6449 * std))
    assert np.median(errors) < 0.1  # the function's own variance is 0.5
    assert 0.8 <= np.mean(inside) <= 0.97
