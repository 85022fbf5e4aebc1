"""Implicit MAML against dense solves, closed forms and finite differences."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from sklmeta import ImplicitMAMLClassifier, ImplicitMAMLRegressor
from sklmeta.backbones import ConvNet
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.gradient import MAML, ImplicitMAML, network
from sklmeta.gradient._conjugate_gradient import conjugate_gradient

N_TASKS, N_SUPPORT, N_QUERY, N_FEATURES, N_WAYS = 3, 6, 5, 3, 3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_rows(n_rows, shape, target, generator, n_way=None):
    x = torch.randn(N_TASKS, n_rows, *shape, generator=generator, dtype=torch.float64)
    if target == "numbers":
        size = (N_TASKS, n_rows, 2)
        y = torch.randn(size, generator=generator, dtype=torch.float64)
    else:
        y = torch.randint(N_WAYS, (N_TASKS, n_rows), generator=generator)
        if n_way is not None:
            y = torch.minimum(y, (n_way - 1)[:, None])
    return Rows(x, y, torch.ones(N_TASKS, n_rows, dtype=torch.bool), n_way)


def make_episodes(shape=(N_FEATURES,), target="shared", *, ragged=False, seed=0):
    generator = rng(seed)
    n_way = None
    if target == "local":
        n_way = torch.tensor([N_WAYS, N_WAYS - 1, N_WAYS])
    support = make_rows(N_SUPPORT, shape, target, generator, n_way)
    query = make_rows(N_QUERY, shape, target, generator, n_way)
    if ragged:
        support.mask[0, 4:] = False
        query.mask[2, 2:] = False
    return Episodes(support, query)


def smooth_net():
    """Return a tiny net with second derivatives everywhere."""
    net = nn.Sequential(nn.Linear(N_FEATURES, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh())
    for p in net.parameters():
        nn.init.uniform_(p, -0.8, 0.8, generator=rng(4))
    net.out_features = 3
    return net


def linear_net():
    net = nn.Identity()
    net.out_features = N_FEATURES
    return net


def make_learner(backbone, target="shared", **options):
    n_outputs = {"shared": N_WAYS, "local": None, "numbers": 2}[target]
    kind = "regression" if target == "numbers" else "classification"
    # Solved to rounding: each step leaves about half of the distance.
    solver = {"inner_lr": 0.15, "regularization": 4.0, "inner_steps": 60}
    options = {**solver, "cg_steps": 30, **options}
    learner = ImplicitMAML(
        backbone,
        backbone.out_features,
        n_outputs,
        task_type=kind,
        generator=rng(1),
        **options,
    )
    return learner.double().eval()


def meta_gradient(learner, episodes):
    loss = learner.meta_loss(episodes).sum()
    parameters = list(learner.parameters())
    return loss, torch.autograd.grad(loss, parameters, materialize_grads=True)


def assert_same_gradients(one, other, **tolerance):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def assert_finite_differences_agree(learner, episodes, step=1e-3):
    """Compare directional derivatives, by a stencil of fourth order."""
    _, gradient = meta_gradient(learner, episodes)
    generator = rng(3)
    parameters = list(learner.parameters())
    for which in [None, *range(len(parameters))]:
        direction = [
            torch.randn(p.shape, generator=generator, dtype=p.dtype)
            * (which is None or i == which)
            for i, p in enumerate(parameters)
        ]

        def loss_at(size, direction=direction):
            moved = copy.deepcopy(learner)
            with torch.no_grad():
                for p, d in zip(moved.parameters(), direction, strict=True):
                    p.add_(d, alpha=size)
                return moved.meta_loss(episodes).sum()

        near = loss_at(step) - loss_at(-step)
        far = loss_at(2 * step) - loss_at(-2 * step)
        expected = (8 * near - far) / (12 * step)
        found = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.fixture(params=["loop", "vmap"])
def method(request, monkeypatch):
    monkeypatch.setattr(network, "mapping_method", lambda module, device: request.param)
    return request.param


# Conjugate gradients -------------------------------------------------------------


def positive_definite(n_tasks=4, size=6, seed=0):
    a = torch.randn(n_tasks, size, size, generator=rng(seed), dtype=torch.float64)
    return a @ a.mT / size + torch.eye(size, dtype=torch.float64)


def test_conjugate_gradients_solve_dense_systems():
    a = positive_definite()
    b = torch.randn(4, 6, generator=rng(1), dtype=torch.float64)
    x = conjugate_gradient(lambda v: (a @ v.unsqueeze(2)).squeeze(2), b, 6)
    torch.testing.assert_close(x, torch.linalg.solve(a, b))


def test_conjugate_gradients_are_optimal_in_each_krylov_space():
    a = positive_definite(1)[0]
    b = torch.randn(6, generator=rng(1), dtype=torch.float64)
    powers = [b]
    for n_steps in range(1, 5):
        basis = torch.stack(powers, 1)
        # The minimum of (x - x*)' A (x - x*) over x = basis c.
        c = torch.linalg.solve(basis.T @ a @ basis, basis.T @ b)
        x = conjugate_gradient(lambda v: v @ a, b[None], n_steps)[0]
        torch.testing.assert_close(x, basis @ c)
        powers.append(a @ powers[-1])


def test_conjugate_gradients_of_tasks_do_not_mix():
    a = positive_definite()
    a[1] = torch.eye(6, dtype=torch.float64)  # solved after one step
    b = torch.randn(4, 6, generator=rng(1), dtype=torch.float64)
    b[2] = 0
    together = conjugate_gradient(lambda v: (a @ v.unsqueeze(2)).squeeze(2), b, 3)
    for task in range(4):
        alone = conjugate_gradient(
            lambda v, own=a[task]: v @ own, b[task : task + 1], 3
        )
        torch.testing.assert_close(together[task], alone[0])
    torch.testing.assert_close(together[1], b[1])
    assert not together[2].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conjugate_gradients_stop_at_rounding(dtype):
    a = positive_definite().to(dtype)
    b = torch.randn(4, 6, generator=rng(1)).to(dtype)
    x = conjugate_gradient(lambda v: (a @ v.unsqueeze(2)).squeeze(2), b, 200)
    torch.testing.assert_close(x, torch.linalg.solve(a, b))


def test_conjugate_gradients_stop_at_negative_curvature():
    a = torch.diag(torch.tensor([1.0, 2.0, -30.0]).double())
    first = torch.tensor([[1.0, 1.0, 1.0]]).double()  # negative at once
    later = torch.tensor([[1.0, 1.0, 1e-3]]).double()
    x = conjugate_gradient(lambda v: v @ a, first, 3)
    torch.testing.assert_close(x, first)
    one = conjugate_gradient(lambda v: v @ a, later, 1)
    kept = conjugate_gradient(lambda v: v @ a, later, 10)
    assert torch.isfinite(kept).all()
    assert ((kept @ a) * kept).sum() > 0
    assert not torch.equal(one, later)


# The meta-gradient ---------------------------------------------------------------


def dense_hessian(learner, weights, rows, ways):
    """Return the Hessian of one task's support loss, and what flattens weights."""
    sizes = [w.numel() for w in weights.values()]

    def loss(vector):
        parts = zip(weights.items(), vector.split(sizes), strict=True)
        own = {n: v.view(w.shape) for (n, w), v in parts}
        return learner.support_loss(own, rows, ways)[0]

    flat = torch.cat([w.flatten() for w in weights.values()])
    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("target", ["shared", "numbers"])
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_meta_gradient_is_the_dense_solve(method, target, damping):
    learner = make_learner(
        smooth_net(), target, inner_steps=3, regularization=2.0, cg_damping=damping
    )
    episodes = make_episodes(target=target)
    _, found = meta_gradient(learner, episodes)
    expected = 0.0
    for task in range(N_TASKS):
        own = episodes[task : task + 1]
        ways = learner.ways(own.support)
        state = learner.adapt(own.support)
        weights = {
            n: w.detach().requires_grad_() for n, w in state["parameters"].items()
        }
        query_loss = learner.loss(
            learner.outputs(weights, own.query.x, ways), own.query
        )
        gradient = torch.autograd.grad(query_loss.sum(), list(weights.values()))
        hessian = dense_hessian(learner, weights, own.support, ways)
        matrix = (1 + damping) * torch.eye(len(hessian)).double() + hessian / 2.0
        b = torch.cat([g.flatten() for g in gradient])
        expected = expected + torch.linalg.solve(matrix, b)
    found = torch.cat([g.flatten() for g in found])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("regularization", [0.5, 2.0])
def test_linear_regression_in_closed_form(regularization):
    learner = make_learner(
        linear_net(), "numbers", regularization=regularization, inner_steps=600
    )
    episodes = make_episodes(target="numbers")
    loss, gradient = meta_gradient(learner, episodes)

    theta = np.c_[learner.head.weight.detach(), learner.head.bias.detach()].T
    expected_loss, expected = 0.0, np.zeros_like(theta)
    for task in range(N_TASKS):
        a, b = (
            np.c_[rows.x[task].numpy(), np.ones(rows.x.shape[1])]
            for rows in (episodes.support, episodes.query)
        )
        ys, yq = episodes.support.y[task].numpy(), episodes.query.y[task].numpy()
        hessian = 2 / ys.size * a.T @ a
        matrix = hessian + regularization * np.eye(len(theta))
        pull = regularization * theta + 2 / ys.size * a.T @ ys
        residual = b @ np.linalg.solve(matrix, pull) - yq
        expected_loss += (residual**2).mean()
        by_adapted = 2 / yq.size * b.T @ residual
        expected += np.linalg.solve(matrix, regularization * by_adapted)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-10)
    found = np.c_[gradient[0], gradient[1]].T
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("target", ["shared", "local", "numbers"])
@pytest.mark.parametrize("ragged", [False, True])
def test_finite_differences_of_the_exact_inner_optimum(method, target, ragged):
    learner = make_learner(smooth_net(), target)
    assert_finite_differences_agree(
        learner, make_episodes(target=target, ragged=ragged)
    )


@pytest.mark.parametrize("head", ["fixed", "prototype"])
def test_finite_differences_with_other_heads(head):
    """A head's start that depends on the backbone passes the gradient on."""
    learner = make_learner(smooth_net(), "local", head=head, n_ways=N_WAYS)
    assert_finite_differences_agree(learner, make_episodes(target="local"))


class SmoothConvNet(nn.Sequential):
    """A convolution net with batch normalisation and second derivatives everywhere."""

    out_features = 8

    def __init__(self):
        norm = ConvNet((1, 4, 4), 2, 1, generator=rng(2)).blocks[0][1]
        convolution = nn.Conv2d(1, 2, 3, stride=2, padding=1, bias=False)
        super().__init__(convolution, norm, nn.Tanh(), nn.Flatten())
        nn.init.uniform_(convolution.weight, -0.5, 0.5, generator=rng(5))


@pytest.mark.parametrize("transductive", [False, True])
def test_finite_differences_with_batch_normalisation(method, transductive):
    # Normalised outputs of small weights are steep: a stronger pull, shorter steps.
    learner = make_learner(
        SmoothConvNet(),
        "numbers",
        transductive=transductive,
        regularization=20.0,
        inner_lr=0.03,
        inner_steps=60,
    )
    assert_finite_differences_agree(learner, make_episodes((1, 4, 4), "numbers"))


def test_no_steps_of_conjugate_gradients_are_first_order_maml():
    """Without regulariser's pull, which one inner step does not feel."""
    episodes = make_episodes()
    implicit = make_learner(smooth_net(), inner_steps=1, cg_steps=0)
    explicit = MAML(
        smooth_net(),
        3,
        N_WAYS,
        task_type="classification",
        inner_lr=0.15,
        first_order=True,
        generator=rng(1),
    ).double()
    loss, gradient = meta_gradient(implicit, episodes)
    expected_loss, expected = meta_gradient(explicit.eval(), episodes)
    torch.testing.assert_close(loss, expected_loss)
    assert_same_gradients(gradient, expected)


def test_meta_loss_is_the_query_loss_with_and_without_gradients():
    learner = make_learner(smooth_net(), inner_steps=4)
    episodes = make_episodes(ragged=True)
    with torch.no_grad():
        state = learner.adapt(episodes.support)
        outputs = learner.predict(state, episodes.query.x)
        expected = learner.loss(outputs, episodes.query)
        torch.testing.assert_close(learner.meta_loss(episodes), expected)
    torch.testing.assert_close(learner.meta_loss(episodes).detach(), expected)


def test_loop_and_vmap_agree_on_the_conv_net(monkeypatch):
    learner = make_learner(
        ConvNet((1, 6, 6), 4, 2, generator=rng(2)), "local", inner_steps=4, cg_steps=5
    )
    episodes, found = make_episodes((1, 6, 6), "local"), {}
    for method in ("loop", "vmap"):
        monkeypatch.setattr(network, "mapping_method", lambda *_, m=method: m)
        found[method] = meta_gradient(learner, episodes)
    torch.testing.assert_close(found["loop"][0], found["vmap"][0])
    assert_same_gradients(found["loop"][1], found["vmap"][1])


@pytest.mark.parametrize("conv", [False, True])
def test_tasks_and_padding_do_not_mix(conv):
    shape = (1, 6, 6) if conv else (N_FEATURES,)
    net = ConvNet(shape, 4, 2, generator=rng(2)) if conv else smooth_net()
    learner = make_learner(net, inner_steps=4, cg_steps=4)
    episodes = make_episodes(shape, ragged=True)
    episodes.support.x[~episodes.support.mask] = 1e3
    episodes.query.x[~episodes.query.mask] = -1e3
    parameters = list(learner.parameters())
    together, alone = 0.0, 0.0
    for part in episodes.parts(None, equal_rows=learner.needs_equal_rows):
        together = together + learner.meta_loss(part).sum()
    for task in range(N_TASKS):
        alone = alone + learner.meta_loss(episodes[task : task + 1].trimmed()).sum()
    torch.testing.assert_close(together, alone)
    assert_same_gradients(
        torch.autograd.grad(together, parameters),
        torch.autograd.grad(alone, parameters),
    )


def test_unused_and_frozen_weights():
    net = smooth_net()
    net.unused = nn.Parameter(torch.ones(2))
    net.forward = lambda x: nn.Sequential.forward(net, x)
    net[0].requires_grad_(False)
    learner = make_learner(net, inner_steps=3, cg_steps=3)
    before = copy.deepcopy(learner.state_dict())
    learner.meta_loss(make_episodes()).sum().backward()
    assert net[0].weight.grad is None
    assert not net.unused.grad.any()
    assert learner.head.weight.grad.any()
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])


def kept_for_backward(learner, episodes):
    """Return how many values are kept at once for backward passes, at most."""
    now, most = 0, 0

    class Kept:
        def __init__(self, tensor):
            nonlocal now, most
            self.tensor = tensor
            now += tensor.numel()
            most = max(now, most)

        def __del__(self):
            nonlocal now
            now -= self.tensor.numel()

    hooks = torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor)
    with hooks:
        learner.meta_loss(episodes)
    return most


def test_memory_does_not_grow_with_inner_steps():
    """What is kept for backward passes is that of one step; in MAML, of all."""
    episodes = make_episodes()
    implicit = [
        kept_for_backward(make_learner(smooth_net(), inner_steps=n), episodes)
        for n in (2, 20)
    ]
    assert implicit[0] == implicit[1] > 0

    def explicit(n_steps):
        options = {"task_type": "classification", "inner_steps": n_steps}
        learner = MAML(smooth_net(), 3, N_WAYS, generator=rng(1), **options).double()
        return kept_for_backward(learner.eval(), episodes)

    assert explicit(20) > 5 * explicit(2)


# The estimators ------------------------------------------------------------------


def test_regressor_learns_sinusoids():
    tasks = make_sinusoids(240, random_state=0)
    options = {"inner_lr": 0.1, "regularization": 0.5, "random_state": 0}
    untrained = ImplicitMAMLRegressor(max_iter=1, outer_lr=1e-9, **options)
    trained = ImplicitMAMLRegressor(max_iter=60, outer_lr=5e-3, **options)
    before = untrained.fit(tasks[:200]).score(tasks[200:])
    assert trained.fit(tasks[:200]).score(tasks[200:]) > before + 0.2


def test_adaptation_parameters_can_be_changed_after_fit():
    tasks = make_sinusoids(20, random_state=0)
    meta = ImplicitMAMLRegressor(max_iter=2, random_state=0).fit(tasks)
    task = tasks[0]

    def predictions(**options):
        return meta.set_params(**options).adapt(task.X[:5], task.y[:5]).predict(task.X)

    held_back, free = predictions(), predictions(regularization=0)
    assert np.abs(held_back - free).max() > 1e-3
    still = predictions(inner_steps=0)
    assert np.abs(still - free).max() > np.abs(still - held_back).max()
    with pytest.raises(ValueError, match="regularization"):
        meta.fit(tasks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_lr": 1.0, "regularization": 2.0}, "must be below 2"),
        ({"regularization": -1.0}, "regularization"),
        ({"regularization": 0.0}, "regularization"),
        ({"cg_steps": -1}, "cg_steps"),
        ({"cg_damping": -0.1}, "cg_damping"),
        ({"cg_damping": float("nan")}, "cg_damping must be finite, got nan"),
        ({"cg_damping": float("inf")}, "cg_damping must be finite, got inf"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"inner_lr": 0.0}, "inner_lr"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        ImplicitMAMLRegressor(**options).fit(make_sinusoids(10, random_state=0))


def test_changes_of_meta_training_parameters_are_refused():
    tasks = make_sinusoids(20, random_state=0)
    meta = ImplicitMAMLRegressor(max_iter=2, random_state=0).fit(tasks)
    with pytest.raises(ValueError, match="cg_steps=7 acts in meta-training only"):
        meta.set_params(cg_steps=7).adapt(tasks[0].X, tasks[0].y)
    with pytest.raises(ValueError, match="cg_steps=7 acts in the first fit"):
        meta.set_params(warm_start=True).fit(tasks)


def test_classifier_takes_more_ways_than_in_meta_training():
    pool = load_digits_pool()
    meta = ImplicitMAMLClassifier(
        lambda shape: ConvNet(shape, 4, 2), n_way=3, max_iter=2, random_state=0
    )
    meta.fit(pool[:5])
    adapted = meta.adapt(pool.X[::100], pool.y[::100])
    assert len(adapted.classes_) == 10


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class Once(nn.Module):
    def forward(self, x):
        return OnceDifferentiable.apply(x)


def test_second_derivatives_that_do_not_exist_are_not_taken_for_zero():
    """torch.autograd.grad would do that without a word."""

    def backbone(shape):
        return nn.Sequential(nn.Linear(shape[0], 4), Once())

    tasks = make_sinusoids(10, random_state=0)
    options = {"inner_steps": 2, "max_iter": 1, "random_state": 0}
    with pytest.raises(ValueError, match="cannot be differentiated twice"):
        ImplicitMAMLRegressor(backbone, **options).fit(tasks)
    ImplicitMAMLRegressor(backbone, cg_steps=0, **options).fit(tasks)
