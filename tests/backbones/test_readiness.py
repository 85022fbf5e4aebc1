"""Layers are changed where torch cannot differentiate twice, and nowhere else."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

from sklmeta.backbones.readiness import (
    WeightNorm,
    check_ready,
    copy_of,
    twice_differentiable,
)


def seeded(factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return factory()


LAYERS = {
    "linear": (lambda: nn.Linear(3, 4), (5, 3), 0),
    "columns": (lambda: nn.Linear(3, 4), (5, 3), 1),
    "one size": (lambda: nn.Linear(3, 4), (5, 3), None),
    "one size by its number": (lambda: nn.Linear(3, 4), (5, 3), -1),
    "rows from behind": (lambda: nn.Linear(3, 4), (5, 3), -2),
    "convolution": (lambda: nn.Conv2d(2, 3, 2), (2, 2, 4, 4), 0),
    "convolution's rows": (lambda: nn.Conv2d(2, 3, 2), (2, 2, 4, 4), -2),
    "convolution from behind": (lambda: nn.Conv2d(2, 3, 2), (2, 2, 4, 4), -4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_weight_norm_is_torchs_with_right_second_derivatives(name):
    factory, shape, dim = LAYERS[name]
    layer = seeded(lambda: parametrizations.weight_norm(factory(), dim=dim)).double()
    x = torch.randn(shape, dtype=torch.double, generator=torch.Generator())
    expected, weight = layer(x), layer.weight.clone()
    names = [n for n, _ in layer.named_parameters()]
    changed = twice_differentiable(layer)
    assert changed is layer
    assert isinstance(layer.parametrizations.weight[0], WeightNorm)
    assert [n for n, _ in layer.named_parameters()] == names
    torch.testing.assert_close(layer(x), expected)

    def outputs(*weights):
        own = dict(zip(names, weights, strict=True))
        return torch.tanh(functional_call(layer, own, (x,)))

    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradgradcheck(outputs, weights)
    layer.weight = 2 * weight  # takes the parametrization backwards
    torch.testing.assert_close(layer.weight, 2 * weight)


def test_embeddings_have_dense_gradients():
    module = nn.ModuleList(
        [
            seeded(lambda: nn.Embedding(3, 2, sparse=True)),
            seeded(lambda: nn.EmbeddingBag(3, 2, sparse=True)),
        ]
    )
    for layer in twice_differentiable(module):
        layer(torch.tensor([[0, 2]])).sum().backward()
        assert layer.weight.grad.layout is torch.strided


def test_copies_share_nothing_or_say_why_not():
    layer = seeded(lambda: nn.Linear(2, 2))
    assert copy_of(layer).weight.data_ptr() != layer.weight.data_ptr()
    layer.cached = layer.weight * 2
    with pytest.raises(ValueError, match=r"a Linear, cannot be copied.*a callable"):
        copy_of(layer)


def test_what_is_ready_passes():
    check_ready(nn.Sequential(nn.Flatten(), nn.Identity()))


class Hiding(nn.Module):
    """Holds a layer in something that torch does not look into."""

    def __init__(self, held):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.held = held(nn.Linear(2, 2), self.first)


@pytest.mark.parametrize(
    ("held", "kind"),
    [
        (lambda new, old: [new], "list"),
        (lambda new, old: (1, new), "tuple"),
        (lambda new, old: {"a": new}, "dict"),
    ],
)
def test_layers_that_torch_does_not_see(held, kind):
    module = nn.Sequential(nn.Identity(), seeded(lambda: Hiding(held)))
    message = rf"layer '1' \(Hiding\) holds layers in a {kind}, 'held'.*ModuleList"
    with pytest.raises(ValueError, match=message):
        check_ready(module)


@pytest.mark.parametrize(
    "held", [lambda new, old: [old, 3], lambda new, old: {"relu": nn.ReLU()}]
)
def test_lists_of_layers_that_torch_sees_or_need_not_see(held):
    check_ready(seeded(lambda: Hiding(held)))
