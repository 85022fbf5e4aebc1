"""Mapping a function over tasks: the two ways agree, and the choice between them."""

import pytest
import torch
from torch import nn

from sklmeta.backbones import MLP, ConvNet
from sklmeta.engine.mapping import (
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


@pytest.mark.parametrize("method", ["loop", "vmap"])
class TestTaskGradients:
    @staticmethod
    def cubes(weights, scale):
        return scale * (weights["a"] ** 3).sum()

    def test_every_task_gets_its_own(self, method):
        weights = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.ones(2, 5)}
        scale = torch.tensor([1.0, 10.0])
        found = task_gradients(
            self.cubes, weights, scale, method=method, create_graph=False
        )
        assert torch.equal(found["a"], 3 * scale[:, None] * weights["a"] ** 2)
        assert torch.equal(found["b"], torch.zeros(2, 5))
        assert not found["a"].requires_grad and not weights["a"].requires_grad

    def test_graph_only_on_demand(self, method):
        a = torch.tensor([[1.0], [2.0]], requires_grad=True)
        for create_graph in (False, True):
            found = task_gradients(
                self.cubes,
                {"a": a},
                torch.ones(2),
                method=method,
                create_graph=create_graph,
            )["a"]
            assert found.requires_grad == create_graph
        (second,) = torch.autograd.grad(found.sum(), a)
        assert torch.equal(second, 6 * a)

    def test_works_where_gradients_are_off(self, method):
        with torch.no_grad():
            found = task_gradients(
                self.cubes,
                {"a": torch.ones(2, 1)},
                torch.ones(2),
                method=method,
                create_graph=False,
            )
        assert torch.equal(found["a"], torch.full((2, 1), 3.0))
