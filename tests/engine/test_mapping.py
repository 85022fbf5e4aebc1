"""Mapping a function over tasks: the two ways agree, and the choice between them."""

import pytest
import torch
from torch import nn

from sklmeta.backbones import MLP, ConvNet
from sklmeta.engine.dense import is_dense
from sklmeta.engine.mapping import (
    map_module,
    map_tasks,
    mapping_method,
    task_gradients,
    tasks_per_pass,
)

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
