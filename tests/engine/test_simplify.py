"""Simpler recordings give the same values."""

import pytest
import torch
from torch.nn import functional as F

from sklmeta.engine.fusion import spread
from sklmeta.engine.programs import replayed
from sklmeta.engine.simplify import simplified
from sklmeta.engine.tracing import record

A, B, C = (3, 4, 5), (3, 5, 2), (3, 4, 2)


def drawn(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes
    ]


def names(recording):
    return [str(one.function).split(".")[1] for one in recording.operations]


def check(function, shapes, filled=()):
    """Return the names of the operations that are left."""
    inputs = drawn(*shapes)
    for place in filled:
        inputs[place] = torch.ones(shapes[place], dtype=torch.bool)
    outputs, recording = record(lambda: [function(*inputs)], inputs)
    known = {recording.inputs[place]: True for place in filled}
    simple = simplified(recording, known)
    others = drawn(*shapes, seed=1)
    for place in filled:
        others[place] = inputs[place]
    for values, expected in ((inputs, outputs[0]), (others, function(*others))):
        (found,) = replayed(simple)(values)
        torch.testing.assert_close(found, expected)
    return names(simple)


@pytest.mark.parametrize(
    ("function", "shapes", "left"),
    [
        (lambda x: x.mT.mT.detach() + 0, [A], []),
        (lambda x: x.sum(1, keepdim=True).squeeze(1).unsqueeze(1), [A], ["sum"]),
        (lambda x: x.expand(3, 4, 5).reshape(3, 4, 5), [A], []),
        (lambda x: x * 1, [A], []),
        (lambda x: x.neg().neg(), [A], []),
        (lambda x: x / 4 * 2 * 2, [A], []),
        (lambda x: x.pow(1) * x.pow(0), [A], []),
        (lambda x: x + torch.zeros_like(x), [A], []),
        (lambda x: (torch.ones(5).double() / 2 * x).mT, [A], ["transpose", "mul"]),
        (lambda x: (2 * x).mT.sum((0, 1)), [A], ["transpose", "sum", "mul"]),
        (lambda x, y: x - y, [A, A], ["add"]),
        (lambda x, y: 2 * x + 3 * y, [A, A], ["add", "mul"]),
        (lambda x, y: x + 3 * y, [A, A], ["add"]),
        (lambda x, y: 3 * x - y, [A, A], ["add", "mul"]),
        (lambda x, y: x * (y + y) + (y + y) * x, [A, A], None),
        (lambda a, b: (2 * a) @ (3 * b), [A, B], ["bmm", "mul"]),
        (lambda a, b, c: c + a @ b, [A, B, C], ["baddbmm"]),
        (lambda a, b, c: a @ b + c, [A, B, C], ["baddbmm"]),
        (lambda a, b, c: c - 0.5 * (a @ b), [A, B, C], ["baddbmm"]),
        (lambda a, b: a @ b + a @ b, [A, B], None),
        (lambda a, b, c: c.mT - (a @ b).mT, [A, B, C], None),
        (lambda a, b: a + a.sum(2, keepdim=True) @ b, [A, (3, 1, 5)], None),
    ],
)
def test_rules(function, shapes, left):
    found = check(function, shapes)
    if left is not None:
        assert found == left


def test_products_that_others_use_stay_apart():
    found = check(lambda a, b, c: c + (a @ b) + (a @ b).sin(), [A, B, C])
    assert found.count("bmm") == 1 and "baddbmm" not in found


def test_full_masks_cost_nothing():
    def masked_mean(x, mask):
        return (torch.where(mask, x, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).mean()

    assert check(masked_mean, [(3, 4), (3, 4)], filled=[1]) == ["sum", "mean", "mul"]


def test_masks_that_are_not_known_stay():
    x, mask = drawn((2, 3))[0], torch.tensor([[True, False, True], [False] * 3])
    _, recording = record(lambda: [torch.where(mask, x, 0.0).sum(-1)], [x, mask])
    (found,) = replayed(simplified(recording))([x, mask])
    torch.testing.assert_close(found, (x * mask).sum(-1))


def second_order(net, x, y, *weights):
    """Return the gradient of a loss after a gradient step."""
    weights = [w.detach().requires_grad_() for w in weights]
    loss = net(x, *weights).square().mean()
    inner = torch.autograd.grad(loss, weights, create_graph=True)
    stepped = [w - 0.3 * g for w, g in zip(weights, inner, strict=True)]
    loss = F.mse_loss(net(x, *stepped), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])


@pytest.mark.parametrize(
    "activation",
    [torch.relu, torch.tanh, F.softplus, F.gelu, lambda x: F.layer_norm(x, (5,))],
)
def test_second_derivatives_of_nets(activation):
    def net(x, first, bias, second):
        return torch.baddbmm(bias, activation(x @ first), second)

    shapes = [(3, 6, 4), (3, 6, 2), (3, 4, 5), (3, 1, 2), (3, 5, 2)]
    found = check(lambda x, y, *w: second_order(net, x, y, *w), shapes)
    full = record(lambda: [second_order(net, *drawn(*shapes))], [])[1]
    assert len(found) < 0.75 * len(full.operations)


def test_classification_with_absent_ways():
    labels = torch.tensor([[0, 1, 1, 0]] * 3)
    absent = torch.tensor([False, False, True]).expand(3, 4, 3)

    def loss(x, weight):
        weight = weight.detach().requires_grad_()
        logits = (x @ weight).masked_fill(absent, -torch.inf)
        value = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        (inner,) = torch.autograd.grad(value, weight, create_graph=True)
        logits = (x @ (weight - inner)).masked_fill(absent, -torch.inf)
        value = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return torch.autograd.grad(value, weight)[0]

    check(loss, [(3, 4, 5), (3, 5, 3)])


def test_writes_into_own_tensors_become_operations():
    found = check(lambda x: (x + 1).mul_(3).sub_(x).relu_(), [A])
    assert not any(name.endswith("_") for name in found)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clone().t().mul_(2).t() + x,
        lambda x: torch.stack([own.add_(1) for own in x.clone().unbind()]),
    ],
)
def test_writes_into_views_are_left_as_they_are(function):
    inputs = drawn((3, 4))
    outputs, recording = record(lambda: [function(*inputs)], inputs)
    assert simplified(recording) is recording
    torch.testing.assert_close(replayed(recording)(inputs)[0], outputs[0])


def test_inputs_and_numbers_can_be_outputs():
    (x,) = drawn((2, 3))
    _, recording = record(lambda: [x, x.detach(), torch.zeros_like(x), None], [x])
    found = replayed(simplified(recording))([x])
    assert found[0] is x and found[1] is x and found[3] is None
    torch.testing.assert_close(found[2], torch.zeros(2, 3, dtype=torch.float64))


def test_integers_are_not_scaled():
    x = torch.arange(6).reshape(2, 3)
    _, recording = record(lambda: [-x * 2 // 3, (x / 2).sum(), x * 1.0], [x])
    for own, expected in zip(
        replayed(simplified(recording))([x]),
        [-x * 2 // 3, (x / 2).sum(), x * 1.0],
        strict=True,
    ):
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize(
    ("a", "b"), [(A, (3, 5, 1)), ((3, 1, 5), (3, 5, 2)), ((3, 1, 5), (3, 5, 1)), (A, B)]
)
@pytest.mark.parametrize("factor", [None, 1, -0.5])
def test_products_with_vectors_become_sums(a, b, factor):
    def function(a, b):
        product = a @ b
        return product if factor is None else a.sum(2, keepdim=True) + factor * product

    inputs = drawn(a, b)
    _, recording = record(lambda: [function(*inputs)], inputs)
    found = spread(simplified(recording))
    others = drawn(a, b, seed=1)
    torch.testing.assert_close(replayed(found)(others)[0], function(*others))
    is_vector = a[1] == 1 or b[2] == 1
    assert ("bmm" in " ".join(names(found))) is not is_vector
