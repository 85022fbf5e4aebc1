"""GPyTorch's kernels against our own, and in meta-training."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import DeepKernelClassifier, DeepKernelRegressor
from sklmeta.closed_form._gpytorch_kernel import GPyTorchKernel
from sklmeta.closed_form._kernels import make_kernel
from sklmeta.datasets import load_digits_pool, make_sinusoids

gp = pytest.importorskip("gpytorch.kernels")

N_TASKS, N_FEATURES = 3, 2
LENGTH_SCALE, VARIANCE = 1.3, 1.7
QUICK = {"batch_size": 4, "random_state": 0}


def randn(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def scaled(base):
    kernel = gp.ScaleKernel(base)
    kernel.outputscale = VARIANCE
    base.lengthscale = LENGTH_SCALE
    return GPyTorchKernel(kernel)


def scaled_rbf(n_features):
    return gp.ScaleKernel(gp.RBFKernel())


def by_feature(n_features):
    return gp.ScaleKernel(gp.RBFKernel(active_dims=(0,))) + gp.LinearKernel(
        active_dims=(1,)
    )


def smooth_and_periodic(n_features):
    return gp.ScaleKernel(gp.RBFKernel(ard_num_dims=n_features) * gp.PeriodicKernel())


def started_at_random(n_features):
    kernel = scaled_rbf(n_features)
    kernel.outputscale = torch.rand(()) + 0.5
    return kernel


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rbf", None),
        ("matern12", {"nu": 0.5}),
        ("matern32", {"nu": 1.5}),
        ("matern52", {"nu": 2.5}),
    ],
)
def test_values_and_gradients_are_those_of_our_kernels(name, options, precision):
    base = gp.RBFKernel() if options is None else gp.MaternKernel(**options)
    theirs = scaled(base).to(precision)
    ours = make_kernel(
        name, N_FEATURES, length_scale=LENGTH_SCALE, output_scale=VARIANCE
    ).double()
    a, b = randn(N_TASKS, 5, N_FEATURES), randn(N_TASKS, 4, N_FEATURES, seed=1)
    seed = randn(N_TASKS, 5, 4, seed=2)
    slopes = []
    for kernel in (theirs, ours):
        z = a.clone().requires_grad_()
        (kernel(z, b) * seed).sum().backward()
        slopes.append(z.grad)
    close = {"rtol": 1e-5, "atol": 1e-6}
    assert theirs(a, b).dtype == torch.float64
    torch.testing.assert_close(theirs(a, b), ours(a, b), **close)
    torch.testing.assert_close(theirs(a, a), ours(a, a), **close)
    torch.testing.assert_close(theirs.diagonal(a), ours.diagonal(a), **close)
    torch.testing.assert_close(slopes[0], slopes[1], **close)
    assert all(p.grad.abs().sum() > 0 for p in theirs.parameters())


@pytest.mark.parametrize("make", [by_feature, smooth_and_periodic])
def test_variances_are_the_diagonal(make):
    kernel = GPyTorchKernel(make(N_FEATURES)).float()
    a = randn(N_TASKS, 5, N_FEATURES)
    diagonal = kernel(a, a).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(kernel.diagonal(a), diagonal)
    alone = torch.stack([kernel(z[None], z[None])[0] for z in a])
    torch.testing.assert_close(kernel(a, a), alone)


def learned(name_or_function, **options):
    meta = DeepKernelRegressor(
        "identity", kernel=name_or_function, max_iter=30, outer_lr=0.03, **QUICK
    )
    return meta.set_params(**options).fit(make_sinusoids(30, random_state=0))


@pytest.fixture(scope="module")
def periodic():
    return learned(smooth_and_periodic)


def test_untrained_predictions_are_those_of_the_same_kernel_by_name():
    # GPyTorch starts from softplus(0) for both parameters.
    start = float(np.log(2))
    theirs = learned(scaled_rbf, max_iter=1, outer_lr=1e-12)
    named = {"length_scale": start, "output_scale": start}
    ours = learned("rbf", max_iter=1, outer_lr=1e-12, **named)
    task = make_sinusoids(1, random_state=1)[0]
    found, expected = (
        meta.adapt(task.X[:5], task.y[:5]).predict(task.X, return_std=True)
        for meta in (theirs, ours)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_meta_training_learns_the_parameters(periodic):
    first = learned(smooth_and_periodic, max_iter=1, outer_lr=1e-12)
    before = dict(first.learner_.kernel.named_parameters())
    after = dict(periodic.learner_.kernel.named_parameters())
    assert len(after) == 4
    assert all((after[name] - before[name]).abs().max() > 0.05 for name in after)
    new = make_sinusoids(30, random_state=2)
    losses = [
        -np.mean([log_density(meta, task) for task in new])
        for meta in (first, periodic)
    ]
    assert losses[1] < losses[0] - 0.1


def log_density(meta, task):
    mean, std = meta.adapt(task.X[:5], task.y[:5]).predict(task.X[5:], return_std=True)
    normal = torch.distributions.Normal(torch.tensor(mean), torch.tensor(std))
    return normal.log_prob(torch.tensor(task.y[5:])).mean().item()


def test_pickled_models_predict_the_same(periodic):
    task = make_sinusoids(1, random_state=1)[0]
    adapted = periodic.adapt(task.X[:5], task.y[:5])
    expected = adapted.predict(task.X, return_std=True)
    found = pickle.loads(pickle.dumps(adapted)).predict(task.X, return_std=True)
    np.testing.assert_array_equal(found, expected)


def test_the_same_seed_starts_from_the_same_and_leaves_torchs_generator():
    before = torch.get_rng_state()
    one, other = (
        learned(started_at_random, max_iter=1).learner_.state_dict() for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)
    another = learned(started_at_random, max_iter=1, random_state=1)
    changed = another.learner_.kernel.kernel.outputscale
    assert (
        abs(
            changed - torch.nn.functional.softplus(one["kernel.kernel.raw_outputscale"])
        )
        > 1e-3
    )


def test_threads_may_share_a_kernel_of_some_features():
    kernel = GPyTorchKernel(by_feature(N_FEATURES))
    a = randn(N_TASKS, 5, N_FEATURES)
    expected = kernel(a, a).detach()
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: kernel(a, a).detach(), range(200)):
            torch.testing.assert_close(found, expected)


def test_labels_too():
    pool = load_digits_pool()
    meta = DeepKernelClassifier(kernel=scaled_rbf, max_iter=10, **QUICK).fit(pool[:5])
    new = pool[5:]
    found = meta.adapt(new.X[::20], new.y[::20])
    assert found.score(new.X[1::20], new.y[1::20]) > 0.5  # chance is 0.2


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        (
            lambda n: gp.RBFKernel(batch_shape=torch.Size([2])),
            ValueError,
            r"kernel has batch_shape \(2,\): tasks share one kernel",
        ),
        (lambda n: nn.Linear(n, 1), TypeError, "or a kernel of GPyTorch; got"),
        (gp.RBFKernel(), TypeError, "Pass a function that returns it"),
    ],
)
def test_what_is_no_kernel_of_all_tasks_is_refused(kernel, error, message):
    with pytest.raises(error, match=message):
        learned(kernel)


def test_kernels_told_by_their_methods():
    assert {"batch_shape", "covar_dist", "num_outputs_per_input"} <= set(dir(gp.Kernel))
