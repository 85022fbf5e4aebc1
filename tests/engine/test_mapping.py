"""Mapping a function over tasks: the two ways agree, and the choice between them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta.backbones import MLP, ConvNet
from sklmeta.backbones.build import build_backbone
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.dense import is_dense
from sklmeta.engine.mapping import (
    map_module,
    map_tasks,
    mapping_method,
    shares_out_tasks,
    task_gradients,
    tasks_per_pass,
)
from sklmeta.gradient import MAML, network

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("module", "device", "method"),
    [
        (MLP(2), CPU, "vmap"),
        (MLP(2), GPU, "vmap"),
        (ConvNet((1, 8, 8), 2), CPU, "loop"),
        (ConvNet((1, 8, 8), 2), GPU, "vmap"),
        (nn.Sequential(nn.Flatten(), nn.GRU(2, 2)), CPU, "loop"),
        (nn.LSTM(2, 2), GPU, "loop"),
    ],
)
def test_method_suits_module_and_device(module, device, method):
    assert mapping_method(module, device) == method
    assert tasks_per_pass(module, device) == (1 if method == "loop" else None)
    convolves = isinstance(module, ConvNet)
    assert shares_out_tasks(module, device) == (convolves and device is CPU)


def test_loop_and_vmap_return_the_same_tree():
    def function(weights, shared, x):
        return {"y": (x @ weights["w"] + shared, [x.sum()])}

    generator = torch.Generator().manual_seed(0)
    weights = {"w": torch.randn(3, 4, 2, generator=generator)}
    shared = torch.randn(2, generator=generator)
    x = torch.randn(3, 5, 4, generator=generator)
    one, other = (
        map_tasks(function, weights, shared, x, in_dims=(0, None, 0), method=method)
        for method in ("loop", "vmap")
    )
    torch.testing.assert_close(one, other)
    expected = torch.einsum("tsf,tfo->tso", x, weights["w"]) + shared
    torch.testing.assert_close(one["y"][0], expected)
    torch.testing.assert_close(one["y"][1][0], x.sum((1, 2)))


def test_empty_trees_and_unmapped_modules_are_handed_through():
    def function(nothing, x):
        assert nothing == {}
        return x + 1

    x = torch.arange(3.0)
    for method in ("loop", "vmap"):
        found = map_tasks(function, {}, x, in_dims=(0, 0), method=method)
        assert torch.equal(found, x + 1)


class TestTaskGradients:
    @staticmethod
    def cubes(weights):
        return torch.tensor([1.0, 10.0]) * (weights["a"] ** 3).sum(1)

    def test_every_task_gets_its_own(self):
        weights = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.ones(2, 5)}
        found = task_gradients(self.cubes, weights, create_graph=False)
        expected = 3 * torch.tensor([[1.0], [10.0]]) * weights["a"] ** 2
        assert torch.equal(found["a"], expected)
        assert torch.equal(found["b"], torch.zeros(2, 5))
        assert not found["a"].requires_grad and not weights["a"].requires_grad

    def test_graph_only_on_demand(self):
        a = torch.tensor([[1.0], [2.0]], requires_grad=True)
        for create_graph in (False, True):
            found = task_gradients(self.cubes, {"a": a}, create_graph=create_graph)["a"]
            assert found.requires_grad == create_graph
        (second,) = torch.autograd.grad(found.sum(), a)
        assert second.tolist() == [[6.0], [120.0]]

    def test_works_where_gradients_are_off(self):
        with torch.no_grad():
            found = task_gradients(
                self.cubes, {"a": torch.ones(2, 1)}, create_graph=False
            )
        assert found["a"].tolist() == [[3.0], [30.0]]


def frozen(module, name):
    module.get_parameter(name).requires_grad_(False)
    return module


@pytest.mark.parametrize(
    "module",
    [
        MLP(4, (6, 5)),
        MLP(4, ()),
        nn.Linear(4, 3),
        nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), MLP(6, (3,))),
        frozen(MLP(4, (6, 5)), "layers.0.weight"),
        frozen(MLP(4, (6, 5)), "layers.2.bias"),
        frozen(frozen(MLP(4, (6, 5)), "layers.0.bias"), "layers.0.weight"),
    ],
)
def test_dense_net_equals_the_module_task_by_task(module):
    assert is_dense(module)
    generator = torch.Generator().manual_seed(0)
    weights = {
        n: torch.randn(3, *p.shape, generator=generator)
        for n, p in module.named_parameters()
        if p.requires_grad
    }
    x = torch.randn(3, 7, 4, generator=generator)
    found, expected = (
        map_module(module, weights, x, method=method) for method in ("vmap", "loop")
    )
    torch.testing.assert_close(found, expected)


def tied():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def tied_weight():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    return module


def hooked():
    module = nn.Sequential(nn.Linear(4, 4))
    module[0].register_forward_hook(lambda module, args, output: output * 2)
    return module


def overridden():
    module = nn.Linear(4, 4)
    module.forward = lambda x: x * module.weight.sum()
    return module


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


# What torch 2.6 says of a function that it does not batch.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize(
    "module",
    [
        tied(),
        tied_weight(),
        hooked(),
        overridden(),
        Residual(nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4), nn.Softmax(0)),
        nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_other_nets_are_mapped_as_they_are(module):
    weights = {n: p.detach().expand(3, *p.shape) for n, p in module.named_parameters()}
    x = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    found, expected = (
        map_module(module, weights, x, method=method) for method in ("vmap", "loop")
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, torch.stack([module(rows) for rows in x]))


# Normalisation -----------------------------------------------------------------------


class Normalised(nn.Module):
    """A convolution, a normalisation by a function, and a smooth activation."""

    def __init__(self, normalise):
        super().__init__()
        self.conv, self.normalise = nn.Conv2d(1, 4, 3, padding=1), normalise
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.bias = nn.Parameter(torch.linspace(-1, 1, 4))

    def forward(self, x):
        x = self.normalise(torch.tanh(self.conv(x)), self.weight, self.bias)
        return torch.tanh(x).flatten(1)


def last(normalise):
    """Return a function of channels that come last, for channels that come second."""
    return lambda x, w, b: normalise(x.movedim(1, -1), w, b).movedim(-1, 1)


FUNCTIONS = {
    "F.batch_norm": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
    "torch.batch_norm": lambda x, w, b: torch.batch_norm(
        x, w, b, None, None, True, 0.1, 1e-5, False
    ),
    "F.batch_norm, averages": lambda x, w, b: F.batch_norm(
        x, torch.zeros_like(w), torch.ones_like(w), w, b
    ),
    "F.instance_norm": lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
    "F.group_norm": lambda x, w, b: F.group_norm(x, 2, w, b),
    "F.layer_norm": last(lambda x, w, b: F.layer_norm(x, (4,), w, b)),
    "F.rms_norm": last(lambda x, w, b: F.rms_norm(x, (4,), w) + b),
    "F.normalize": last(lambda x, w, b: F.normalize(x, dim=-1) * w + b),
}
LAYERS = {
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "LayerNorm": lambda: nn.LayerNorm((4, 3, 3)),
    "RMSNorm": lambda: nn.RMSNorm((4, 3, 3)),
    "LocalResponseNorm": lambda: nn.LocalResponseNorm(2),
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
}


def normalised(kind):
    """Return a learner whose net, as an estimator builds it, has such a layer."""
    if kind in FUNCTIONS:
        net = Normalised(FUNCTIONS[kind])
    else:
        first = nn.Conv2d(1, 4, 3, padding=1)
        net = nn.Sequential(first, nn.Tanh(), LAYERS[kind](), nn.Tanh(), nn.Flatten())
    learner = MAML(
        build_backbone(net, (1, 3, 3), seed=0),
        *(36, 2),
        task_type="classification",
        inner_lr=0.3,
        inner_steps=2,
        transductive=True,
        generator=torch.Generator().manual_seed(0),
    ).double()
    with torch.no_grad():  # away from ones and zeros
        for seed, p in enumerate(learner.parameters()):
            generator = torch.Generator().manual_seed(seed)
            p.add_(torch.randn(p.shape, generator=generator, dtype=p.dtype), alpha=0.2)
    return learner.train()


def small_images(n_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, n_rows, 1, 3, 3, generator=generator, dtype=torch.float64)
    y = torch.arange(n_rows).remainder(2).expand(3, -1)
    return Rows(x, y, torch.ones(3, n_rows, dtype=torch.bool))


@pytest.mark.parametrize("method", ["loop", "vmap"])
@pytest.mark.parametrize("kind", [*FUNCTIONS, *LAYERS])
def test_second_order_through_normalisation(kind, method, monkeypatch):
    """Vectorised batch normalisation has wrong ones in torch 2.13, over func.grad."""
    monkeypatch.setattr(network, "mapping_method", lambda *_: method)
    learner = normalised(kind)
    episodes = Episodes(small_images(4, seed=1), small_images(5, seed=2))
    weights = list(learner.parameters())
    loss = learner.meta_loss(episodes).sum()
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
    generator = torch.Generator().manual_seed(3)
    towards = [torch.randn(w.shape, generator=generator).to(w) for w in weights]
    start = [w.detach().clone() for w in weights]

    def at(step):
        with torch.no_grad():
            for w, origin, direction in zip(weights, start, towards, strict=True):
                w.copy_(origin + step * direction)
        return learner.meta_loss(episodes).sum().item()

    h = 1e-5  # a stencil of fourth order
    slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    found = sum((g * d).sum() for g, d in zip(gradients, towards, strict=True))
    assert found.item() == pytest.approx(slope, rel=1e-7)
