import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from sklmeta.backbones.fused import fused_batch_norm, moments, transforms_active

EPS = 1e-3
SHAPES = [(5, 3), (4, 2, 3), (3, 2, 2, 3), (2, 2, 2, 1, 2)]


def batch(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, shape[1], generator=generator, dtype=torch.float64)
    return tuple(tensor.clone().requires_grad_() for tensor in (x, weight, bias))


def fused(x, weight, bias):
    return fused_batch_norm(x, weight, bias, EPS)


def plain(x, weight, bias):
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, var = (values.view(shape) for values in moments(x))
    return (x - mean) / (var + EPS).sqrt() * weight.view(shape) + bias.view(shape)


# torch 2.6's own gradcheck calls what it deprecates.
@pytest.mark.filterwarnings("ignore:Please use `torch.vmap`:FutureWarning")
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_agree_with_finite_differences(shape):
    inputs = batch(shape)
    torch.testing.assert_close(fused(*inputs), plain(*inputs))
    assert gradcheck(fused, inputs, check_batched_grad=True)
    assert gradgradcheck(fused, inputs, check_batched_grad=True)


def test_third_order_agrees_with_plain_operations():
    inputs = batch((4, 2, 3))
    direction = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))

    def penalised(normalise):
        loss = (normalise(*inputs) * direction).pow(3).sum()
        for _ in range(2):
            gradients = torch.autograd.grad(loss, inputs, create_graph=True)
            loss = loss + sum(gradient.square().sum() for gradient in gradients)
        return torch.autograd.grad(loss, inputs)

    for ours, reference in zip(penalised(fused), penalised(plain), strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("change", ["contiguous", "channels_last"])
def test_memory_layout_of_gradients_does_not_matter(change):
    layout = getattr(torch, f"{change}_format" if change == "contiguous" else change)
    x, weight, bias = batch((3, 2, 4, 4))
    direction = torch.randn(3, 4, 4, 2, dtype=torch.float64).permute(0, 3, 1, 2)

    def second_order(normalise):
        y = normalise(x.contiguous(memory_format=layout), weight, bias)
        (gradient,) = torch.autograd.grad(
            (y * direction).square().sum(), x, create_graph=True
        )
        return torch.autograd.grad((gradient * direction).sum(), (x, weight))

    for ours, reference in zip(second_order(fused), second_order(plain), strict=True):
        torch.testing.assert_close(ours, reference)


def test_transforms_are_noticed():
    seen = []

    def note(x):
        seen.append(transforms_active())
        return x.sum()

    x = torch.ones(2, 3)
    note(x)
    torch.vmap(note)(x)
    torch.func.grad(note)(x)
    torch.vmap(torch.func.grad(note))(x)
    note(x)
    assert seen == [False, True, True, True, False]
