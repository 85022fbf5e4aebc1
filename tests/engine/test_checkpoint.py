"""Inner steps whose graph is made again: the same gradients, less memory."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from sklmeta import MAMLRegressor
from sklmeta.backbones import MLP, ConvNet
from sklmeta.backbones.normalization import convert_batch_norm
from sklmeta.datasets import make_sinusoids
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.checkpoint import checkpointed
from sklmeta.engine.memory import predicted_bytes
from sklmeta.gradient import ANIL, CAVIA, MAML, MetaSGD
from sklmeta.gradient import network as network_module


def rng(seed):
    return torch.Generator().manual_seed(seed)


def make_rows(shape, n_rows, seed, n_tasks=3):
    x = torch.randn(n_tasks, n_rows, *shape, generator=rng(seed), dtype=torch.double)
    y = torch.randn(n_tasks, n_rows, 1, generator=rng(seed + 1), dtype=torch.double)
    return Rows(x, y, torch.ones(n_tasks, n_rows, dtype=torch.bool))


def make_episodes(shape, n_tasks=3):
    return Episodes(make_rows(shape, 4, 0, n_tasks), make_rows(shape, 5, 2, n_tasks))


def normalised():
    return convert_batch_norm(
        nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4))
    )


def layer_norm():
    return nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4))


def dropout():
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 4))


def spectral():
    layer = parametrizations.spectral_norm(nn.Linear(3, 4))
    return nn.Sequential(layer, nn.Tanh())


class Counting(nn.Module):
    """Scales by a number of calls, kept in a buffer that is written or replaced."""

    def __init__(self, replaces):
        super().__init__()
        self.linear, self.replaces = nn.Linear(3, 4), replaces
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        if self.replaces:
            self.n = self.n + 1
        else:
            self.n.add_(1)
        return torch.tanh(self.linear(x)) * (1 + 1 / self.n.clone())


BACKBONES = {
    "dense": (lambda: MLP(3, (8, 4), generator=rng(0)), (3,), 4),
    "vmap": (layer_norm, (3,), 4),
    "batch norm": (normalised, (3,), 4),
    "dropout": (dropout, (3,), 4),
    "spectral norm": (spectral, (3,), 4),
    "counting": (lambda: Counting(False), (3,), 4),
    "replacing": (lambda: Counting(True), (3,), 4),
    "loop": (lambda: ConvNet((1, 8, 8), 4, 2, generator=rng(0)), (1, 8, 8), 16),
}


def make_learner(kind, name="dense", **options):
    factory, shape, n_features = BACKBONES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = factory()
    settings = {"inner_lr": 0.1, "inner_steps": 4, "generator": rng(1), **options}
    learner = kind(backbone, n_features, 1, task_type="regression", **settings)
    return learner.double(), make_episodes(shape)


def meta_gradient(learner, episodes, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss = learner.meta_loss(episodes).sum()
        gradients = torch.autograd.grad(
            loss, list(learner.parameters()), materialize_grads=True
        )
    return [loss, *gradients]


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", BACKBONES)
def test_same_gradients(name):
    learner, episodes = make_learner(MAML, name)
    learner.tasks_apart = name in ("spectral norm", "counting", "replacing")
    other = copy.deepcopy(learner)
    other.checkpoint_steps = True
    expected = meta_gradient(learner, episodes)
    assert_same(meta_gradient(other, episodes), expected)
    assert any(g.abs().sum() > 0 for g in expected[1:])
    assert_same(other.buffers(), learner.buffers())


@pytest.mark.parametrize(
    ("kind", "options"),
    [(MAML, {"first_order": True}), (MAML, {"multi_step_loss": 9}), (MetaSGD, {})],
)
def test_options_and_other_learners(kind, options):
    learner, episodes = make_learner(kind, **options)
    expected = meta_gradient(learner, episodes)
    learner.checkpoint_steps = True
    assert_same(meta_gradient(learner, episodes), expected)


def test_head_alone():
    learner, episodes = make_learner(ANIL)
    expected = meta_gradient(learner, episodes)
    learner.checkpoint_steps = True
    assert_same(meta_gradient(learner, episodes), expected)


def test_context_parameters():
    backbone = MLP(5, (8, 4), generator=rng(0))
    learner = CAVIA(backbone, 4, 1, n_context=2, inner_steps=3, task_type="regression")
    learner.double()
    episodes = make_episodes((3,))
    expected = meta_gradient(learner, episodes)
    learner.checkpoint_steps = True
    assert_same(meta_gradient(learner, episodes), expected)


@pytest.mark.parametrize("rates", ["layer", "parameter"])
def test_learned_rates_have_their_gradients(rates):
    learner, episodes = make_learner(MAML, learn_inner_lr=rates)
    expected = meta_gradient(learner, episodes)
    learner.checkpoint_steps = True
    assert_same(meta_gradient(learner, episodes), expected)
    by_name = dict(zip(dict(learner.named_parameters()), expected[1:], strict=True))
    rated = [g for n, g in by_name.items() if "rate" in n or "lr" in n]
    assert rated and all(g.abs().sum() > 0 for g in rated)


def test_finite_differences():
    learner, episodes = make_learner(MAML, checkpoint_steps=True)
    gradient = meta_gradient(learner, episodes)[1:]
    direction = [
        torch.randn(p.shape, generator=rng(5), dtype=p.dtype)
        for p in learner.parameters()
    ]
    total, step = 0.0, 1e-5
    for k, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
        moved = copy.deepcopy(learner)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), direction, strict=True):
                p.add_(d, alpha=k * step)
            total += weight * moved.meta_loss(episodes).sum().item()
    found = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
    assert found.item() == pytest.approx(total / (12 * step), rel=1e-7)


@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_both_ways_of_mapping(method, monkeypatch):
    monkeypatch.setattr(network_module, "mapping_method", lambda *_: method)
    learner, episodes = make_learner(MAML, "vmap")
    expected = meta_gradient(learner, episodes)
    learner.checkpoint_steps = True
    assert_same(meta_gradient(learner, episodes), expected)


@pytest.mark.parametrize("name", ["dense", "loop"])
def test_memory_grows_by_one_set_of_weights_per_step(name):
    learner, episodes = make_learner(MAML, name)
    n_bytes = sum(8 * p.numel() for p in learner.parameters()) * len(episodes)

    def growth(checkpoint):
        learner.checkpoint_steps = checkpoint
        few, many = (
            predicted_bytes(learner.with_options(inner_steps=n), episodes)
            for n in (4, 24)
        )
        return (many - few) / 20

    assert growth(True) == pytest.approx(n_bytes, rel=0.25)
    assert growth(False) > 1.4 * growth(True)


def test_random_numbers_are_drawn_once_more_and_the_generator_is_put_back():
    learner, episodes = make_learner(MAML, "dropout", checkpoint_steps=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss = learner.meta_loss(episodes).sum()
        before = torch.get_rng_state()
        loss.backward()
        assert torch.equal(torch.get_rng_state(), before)


def test_cannot_be_differentiated_twice():
    w = torch.tensor(2.0, requires_grad=True)
    out = checkpointed(lambda own: {"w": own["w"] ** 3}, {"w": w})["w"]
    (gradient,) = torch.autograd.grad(out * w, w, create_graph=True)
    assert gradient.item() == 32.0
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.backward()


def test_estimators_learn_the_same():
    tasks = make_sinusoids(20, random_state=0)
    found = [
        MAMLRegressor(max_iter=3, checkpoint_steps=steps, random_state=0).fit(tasks)
        for steps in (False, True)
    ]
    weights = [dict(meta.learner_.named_parameters()) for meta in found]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value)
    with pytest.raises(ValueError, match="checkpoint_steps must be one of"):
        MAMLRegressor(checkpoint_steps="yes").fit(tasks)
