"""Convolutions: values and gradients of any order are those of torch."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from sklmeta.backbones.fused_conv import TaskConv2d, fused_convolution

# Images, filters, geometry.
CASES = {
    "plain": ((2, 2, 4, 4), (3, 2, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
    "stride": ((2, 1, 5, 4), (2, 1, 3, 3), ([2, 1], [1, 0], [1, 1], False, [0, 0], 1)),
    "groups": ((2, 4, 3, 3), (4, 2, 2, 2), ([1, 1], [1, 1], [2, 1], False, [0, 0], 2)),
    "rows": ((2, 2, 5), (2, 2, 3), ([2], [1], [1], False, [0], 1)),
    "back": ((2, 2, 3, 3), (2, 3, 2, 2), ([2, 2], [0, 0], [1, 1], True, [1, 1], 1)),
}


def inputs_of(case):
    shape, filters, geometry = CASES[case]
    generator = torch.Generator().manual_seed(0)
    n_out = filters[1] if geometry[3] else filters[0]
    sizes = shape, filters, (n_out,)
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]
    return tuple(x.requires_grad_() for x in tensors), geometry


# torch 2.6's own gradcheck calls what it deprecates.
@pytest.mark.filterwarnings("ignore:Please use `torch.vmap`:FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_gradients_agree_with_finite_differences(case):
    inputs, geometry = inputs_of(case)

    def convolved(x, weight, bias):
        return fused_convolution(x, weight, bias, geometry)

    torch.testing.assert_close(
        convolved(*inputs), torch.convolution(*inputs, *geometry)
    )
    assert gradcheck(convolved, inputs, check_batched_grad=True)
    assert gradgradcheck(convolved, inputs, check_batched_grad=True)


@pytest.mark.parametrize("frozen", [(), (0,), (1,), (2,), (0, 2), (1, 2)])
def test_second_order_of_some_inputs_agrees_with_torch(frozen):
    inputs, geometry = inputs_of("plain")
    for position in frozen:
        inputs[position].requires_grad_(False)
    wanted = [x for x in inputs if x.requires_grad]
    results = []
    for function in (fused_convolution, lambda *a: torch.convolution(*a[:3], *a[3])):
        loss = function(*inputs, geometry).pow(3).sum()
        first = torch.autograd.grad(loss, wanted, create_graph=True)
        total = sum(x.square().sum() for x in first)
        second = torch.autograd.grad(total, wanted, create_graph=True)
        third = torch.autograd.grad(sum(x.square().sum() for x in second), wanted)
        results.append((*first, *second, *third))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False, "stride": 2},
        {"padding": 1, "groups": 2, "dilation": 2},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_layer_is_torchs(options):
    ours, theirs = TaskConv2d(2, 4, 3, **options), nn.Conv2d(2, 4, 3, **options)
    theirs.load_state_dict(ours.state_dict())
    assert repr(ours).replace("Task", "") == repr(theirs)
    x = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours(x[0]), theirs(x[0]))
    torch.testing.assert_close(ours(x), theirs(x))
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_layer_works_under_transforms_and_autocast():
    layer, x = TaskConv2d(1, 2, 3), torch.ones(2, 5, 1, 4, 4)
    torch.testing.assert_close(torch.vmap(layer)(x)[0], layer(x[0]))
    gradient = torch.func.grad(lambda x: layer(x).square().sum())(x[0])
    assert gradient.shape == x[0].shape
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x[0]).dtype == torch.bfloat16
