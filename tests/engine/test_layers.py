"""Which layer of a module ran, wrote, or cannot be differentiated twice."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta.engine.layers import layer_not_twice, shown_layer, watch


class Distances(nn.Module):
    def forward(self, x):
        return torch.cdist(x, x.detach() + 1, p=3.0)


class Writing(nn.Module):
    def forward(self, x):
        return x.add_(1)


@pytest.fixture
def linear():
    with torch.random.fork_rng(devices=[]):
        return nn.Linear(3, 3)


def test_running_layer_is_the_innermost_that_has_not_ended(linear):
    module = nn.Sequential(linear, nn.Sequential(nn.Tanh(), nn.Unflatten(1, (5, 5))))
    seen = watch(module, lambda: module(torch.zeros(2, 3)))
    assert seen.running == ["", "1", "1.1"]
    assert shown_layer(module, "1.1") == "layer '1.1' (Unflatten)"
    assert shown_layer(module, "") == "forward (Sequential)"


def test_writers_and_inputs(linear):
    module = nn.Sequential(nn.Sequential(Writing()), linear)
    x = torch.zeros(2, 3)
    seen = watch(module, lambda: module(x))
    assert seen.writers == ["0.0", "0", ""]
    assert seen.running == []
    assert torch.equal(seen.inputs["1"][0], torch.ones(2, 3))
    assert torch.equal(seen.inputs[""][0], torch.zeros(2, 3))


def test_hooks_are_removed(linear):
    watch(linear, lambda: linear(torch.zeros(1, 3)))
    assert not linear._forward_hooks
    assert not linear._forward_pre_hooks


def test_layer_whose_gradient_has_none(linear):
    module = nn.Sequential(linear, nn.Flatten(), nn.Sequential(Distances()))
    seen = watch(module, lambda: module(torch.eye(3)))
    assert layer_not_twice(module, seen) == "2.0"
    fine = nn.Sequential(linear, nn.Tanh(), nn.Flatten())
    assert layer_not_twice(fine, watch(fine, lambda: fine(torch.eye(3)))) is None


def test_own_operations_are_the_modules(linear):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear

        def forward(self, x):
            return F.embedding_bag(torch.tensor([[0, 1]]), self.inner(x))

    module = Outer()
    seen = watch(module, lambda: module(torch.eye(3)))
    assert layer_not_twice(module, seen) == ""
