"""Normalisation, pooling and ReLU in one: values, and gradients of any order."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from sklmeta.backbones.fused import moments
from sklmeta.backbones.fused_block import extremes, normalised_blocks

EPS = 1e-3
SHAPES = [(3, 2, 4, 4), (2, 3, 5, 3), (2, 2, 3, 3), (1, 2, 2, 2)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def batch(shape, seed=0, layout=torch.contiguous_format):
    """Return images, and weights of which the first is negative."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    weight = weight.abs() * torch.tensor([-1.0, *[1.0] * (shape[1] - 1)])
    inputs = z.contiguous(memory_format=layout), weight, bias
    return tuple(tensor.clone().requires_grad_() for tensor in inputs)


def fused(z, weight, bias, pool):
    return normalised_blocks(z, weight, bias, EPS, pool=pool)


def plain(z, weight, bias, pool):
    mean, var = moments(z)
    scale = (weight / (var + EPS).sqrt()).view(-1, 1, 1)
    y = ((z - mean.view(-1, 1, 1)) * scale + bias.view(-1, 1, 1)).relu()
    return F.max_pool2d(y, 2) if pool else y, mean, var


# torch 2.6's own gradcheck calls what it deprecates.
@pytest.mark.filterwarnings("ignore:Please use `torch.vmap`:FutureWarning")
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_agree_with_finite_differences(shape, pool):
    inputs = batch(shape)
    for found, expected in zip(fused(*inputs, pool), plain(*inputs, pool), strict=True):
        torch.testing.assert_close(found, expected)

    def outputs(*inputs):
        return fused(*inputs, pool)[0]

    assert gradcheck(outputs, inputs, check_batched_grad=True)
    assert gradgradcheck(outputs, inputs, check_batched_grad=True)


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("only_statistics", [True, False])
def test_statistics_are_differentiable(pool, only_statistics):
    inputs = batch((3, 2, 4, 4))

    def outputs(*inputs):
        y, mean, var = fused(*inputs, pool)
        return (mean, var) if only_statistics else (y, mean, var)

    inputs = inputs[:1] + tuple(x.detach() for x in inputs[1:])
    assert gradcheck(outputs, inputs)
    assert gradgradcheck(outputs, inputs)


@pytest.mark.parametrize("given", LAYOUTS)
@pytest.mark.parametrize("incoming", LAYOUTS)
@pytest.mark.parametrize("pool", [True, False])
def test_memory_layouts_do_not_matter(given, incoming, pool):
    generator = torch.Generator().manual_seed(1)
    inputs = batch((3, 2, 6, 4), layout=given)
    results = []
    for function in (fused, plain):
        y = function(*inputs, pool)[0]
        g = torch.randn(y.shape, generator=generator.manual_seed(2), dtype=y.dtype)
        g = g.contiguous(memory_format=incoming).requires_grad_()
        first = torch.autograd.grad(y, inputs, g, create_graph=True)
        total = sum((x.pow(2) * x.numel()).sum() for x in first)
        results.append((y, *first, *torch.autograd.grad(total, (g, *inputs[:2]))))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("pool", [True, False])
def test_third_order_agrees_with_plain_operations(pool):
    inputs = batch((3, 2, 4, 4))

    def penalised(function):
        loss = function(*inputs, pool)[0].pow(3).sum()
        for _ in range(2):
            gradients = torch.autograd.grad(loss, inputs, create_graph=True)
            loss = loss + sum(gradient.square().sum() for gradient in gradients)
        return torch.autograd.grad(loss, inputs)

    for found, expected in zip(penalised(fused), penalised(plain), strict=True):
        torch.testing.assert_close(found, expected)


def test_single_precision_is_as_accurate_as_torchs():
    inputs = [x.detach().float() for x in batch((8, 3, 12, 12))]
    inputs[0] += 10
    exact = plain(*(x.double() for x in inputs), pool=True)[0].float()
    for function in (fused, plain):
        torch.testing.assert_close(function(*inputs, True)[0], exact, atol=2e-5, rtol=0)


@pytest.mark.parametrize("signs", [(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), None])
def test_extremes_are_the_largest_after_scaling(signs):
    z = batch((2, 2, 4, 4))[0].detach()
    weight = None if signs is None else 0.5 * torch.tensor(signs, dtype=z.dtype)
    scale = torch.ones(2, 1, 1) if weight is None else weight.view(-1, 1, 1)
    expected = F.max_pool2d(z * scale, 2)
    torch.testing.assert_close(extremes(z, weight) * scale, expected)
