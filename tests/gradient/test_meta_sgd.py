"""Meta-SGD against closed forms, finite differences and MAML, in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import MetaSGDClassifier, MetaSGDRegressor, TaskSet
from sklmeta.backbones import MLP, ConvNet
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.gradient import MAML, MetaSGD, network

N_TASKS, N_SUPPORT, N_QUERY, N_FEATURES, N_WAYS = 3, 6, 5, 4, 3
WAVES = make_sinusoids(30, random_state=0)
NEW = make_sinusoids(1, random_state=1)[0]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_rows(n_rows, shape, target, generator):
    x = torch.randn(N_TASKS, n_rows, *shape, generator=generator, dtype=torch.float64)
    mask = torch.ones(N_TASKS, n_rows, dtype=torch.bool)
    if target == "numbers":
        size = (N_TASKS, n_rows, 2)
        y = torch.randn(size, generator=generator, dtype=torch.float64)
        return Rows(x, y, mask)
    n_way = None
    y = torch.randint(N_WAYS, (N_TASKS, n_rows), generator=generator)
    if target == "local":
        n_way = torch.tensor([N_WAYS, N_WAYS - 1, N_WAYS])
        y.clamp_(max=(n_way - 1)[:, None])
    return Rows(x, y, mask, n_way)


def make_episodes(shape=(N_FEATURES,), target="numbers"):
    generator = rng()
    rows = [make_rows(n, shape, target, generator) for n in (N_SUPPORT, N_QUERY)]
    return Episodes(*rows)


def make_learner(backbone, target="numbers", kind=MetaSGD, **options):
    n_outputs = {"shared": N_WAYS, "local": None, "numbers": 2}[target]
    learner = kind(
        backbone,
        backbone.out_features,
        n_outputs,
        task_type="regression" if target == "numbers" else "classification",
        n_ways=N_WAYS,
        generator=rng(1),
        **options,
    )
    return learner.double().eval()


def mlp():
    return MLP(N_FEATURES, (8, 7), generator=rng(2))


def conv_net():
    return ConvNet((1, 6, 6), 4, 2, generator=rng(2))


def assert_finite_differences_agree(learner, episodes, step=1e-7):
    """Compare directional derivatives, by a stencil of fourth order."""
    parameters = list(learner.parameters())
    loss = learner.meta_loss(episodes).sum()
    gradient = torch.autograd.grad(loss, parameters, materialize_grads=True)
    generator = rng(3)
    for which in [None, *range(len(parameters))]:
        direction = [
            torch.randn(p.shape, generator=generator, dtype=p.dtype)
            * (which is None or i == which)
            for i, p in enumerate(parameters)
        ]

        def at(length, direction=direction):
            moved = copy.deepcopy(learner)
            with torch.no_grad():
                for p, d in zip(moved.parameters(), direction, strict=True):
                    p.add_(d, alpha=length)
                return moved.meta_loss(episodes).sum()

        near, far = (at(h) - at(-h) for h in (step, 2 * step))
        expected = (8 * near - far) / (12 * step)
        found = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.fixture(params=["loop", "vmap"])
def method(request, monkeypatch):
    monkeypatch.setattr(network, "mapping_method", lambda module, device: request.param)
    return request.param


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    ("target", "head"),
    [
        *(("numbers", "auto"), ("shared", "auto"), ("local", "shared")),
        *(("local", "prototype"), ("local", "fixed")),
    ],
)
def test_meta_gradient_of_mlp(method, target, head, steps):
    learner = make_learner(mlp(), target, head=head, inner_steps=steps)
    assert_finite_differences_agree(learner, make_episodes(target=target))


def test_meta_gradient_of_conv_net(method):
    learner = make_learner(conv_net(), "local", head="prototype")
    assert_finite_differences_agree(learner, make_episodes((1, 6, 6), "local"))


def test_gradient_of_rates_in_closed_form_for_linear_regression():
    """Of one step: minus the support gradient times the query gradient after it."""
    backbone = nn.Identity()
    backbone.out_features = N_FEATURES
    learner = make_learner(backbone)
    episodes = make_episodes()
    loss = learner.meta_loss(episodes).sum()
    rates = learner.inner_rates.rates
    found = torch.autograd.grad(loss, [rates["head/weight"], rates["head/bias"]])

    theta = np.c_[learner.head.weight.detach(), learner.head.bias.detach()].T  # (F+1,2)
    by_name = learner.inner_rates.by_name()
    alpha = np.c_[by_name["head.weight"][0], by_name["head.bias"][0]].T
    expected_loss, expected = 0.0, np.zeros_like(theta)
    for task in range(N_TASKS):
        a, b = (
            np.c_[rows.x[task].numpy(), np.ones(rows.x.shape[1])]
            for rows in (episodes.support, episodes.query)
        )
        ys, yq = episodes.support.y[task].numpy(), episodes.query.y[task].numpy()
        support_gradient = 2 / ys.size * a.T @ (a @ theta - ys)
        residual = b @ (theta - alpha * support_gradient) - yq
        expected_loss += (residual**2).mean()
        expected -= support_gradient * (2 / yq.size * b.T @ residual)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    own = np.c_[found[0].view(2, -1), found[1].view(2)].T
    np.testing.assert_allclose(own, expected, rtol=1e-10)


@pytest.mark.parametrize("target", ["numbers", "shared", "local"])
def test_is_maml_where_rates_are_equal(target):
    episodes, same = make_episodes(target=target), {"inner_lr": 0.125, "inner_steps": 2}
    one = make_learner(mlp(), target, **same)
    other = make_learner(mlp(), target, MAML, **same)
    losses = [learner.meta_loss(episodes) for learner in (one, other)]
    torch.testing.assert_close(*losses)
    weights = list(other.parameters())
    expected = torch.autograd.grad(losses[1].sum(), weights)
    found = torch.autograd.grad(losses[0].sum(), list(one.parameters()))
    for own, wanted in zip(found, expected, strict=False):
        torch.testing.assert_close(own, wanted)
    assert len(found) > len(expected)  # and gradients of the rates


def test_rates_start_as_the_paper_has_them():
    rates = make_learner(mlp()).inner_rates.by_name()
    drawn = torch.cat([rate.flatten() for rate in rates.values()])
    assert 0.005 <= drawn.min() < 0.015 and 0.09 < drawn.max() <= 0.1
    same = make_learner(mlp(), inner_lr=0.25).inner_rates.by_name()
    assert all((rate == 0.25).all() for rate in same.values())


def test_the_backbone_adapts_in_its_one_step_by_default():
    meta = MetaSGDClassifier(max_iter=1, n_way=3, random_state=0, device="cpu")
    new = load_digits_pool(classes=[5, 6])
    meta.fit(load_digits_pool(classes=[0, 1, 2]))
    state = meta.adapt(new.X[::40], new.y[::40])._model.state["parameters"]
    for name, weight in meta.learner_.backbone.named_parameters():
        if weight.requires_grad:
            assert not torch.equal(state[f"backbone.{name}"][0], weight)


def small_net(input_shape):
    return MLP(input_shape[0], (6,))


QUICK = {"backbone": small_net, "max_iter": 2, "random_state": 0, "device": "cpu"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"inner_lr": -1.0}, "inner_lr == -1.0, must be > 0"),
        ({"inner_lr": (0.1, 0.005)}, r"\(low, high\) with low <= high.*\(0.1, 0.005\)"),
        ({"inner_lr": [0.1, 0.1, 0.1]}, "got .*learn_inner_lr='parameter'"),
        ({"inner_lr": (0.0, 0.1)}, r"inner_lr\[0\] == 0.0, must be > 0"),
        ({"inner_lr": "fast"}, "inner_lr must be an instance of"),
        ({"inner_steps": -1}, "inner_steps == -1, must be >= 0"),
    ],
)
def test_what_fit_refuses(options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        MetaSGDRegressor(**QUICK).set_params(**options).fit(WAVES)


def test_first_rates_cannot_change_after_meta_training():
    meta = MetaSGDRegressor(warm_start=True, **QUICK).fit(WAVES)
    support = TaskSet([(NEW.X[:5], NEW.y[:5])])
    meta.set_params(inner_lr=0.5)
    for call in (
        lambda: meta.adapt(NEW.X[:5], NEW.y[:5]),
        lambda: meta.predict_tasks(support, [NEW.X]),
        lambda: meta.fit(WAVES),
    ):
        with pytest.raises(ValueError, match=r"inner_lr=0.5 acts .*\(0.005, 0.1\)"):
            call()


def test_learns_sine_waves():
    meta = MetaSGDRegressor(max_iter=300, random_state=0, device="cpu").fit(WAVES)
    assert meta.score(make_sinusoids(50, random_state=2)) > 0.3
