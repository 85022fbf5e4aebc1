"""Recording: what a function does, and what cannot be replayed."""

import pytest
import torch

from sklmeta.engine.programs import replayed
from sklmeta.engine.tracing import record


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def gradient_of(x, w):
    w = w.requires_grad_()
    (inner,) = torch.autograd.grad((x @ w).tanh().square().sum(), w, create_graph=True)
    loss = (x @ (w - 0.1 * inner)).sin().sum()
    return [loss.detach(), *torch.autograd.grad(loss, w)]


def test_a_recording_replays_second_derivatives_on_other_numbers():
    x, w = tensors((4, 3), (3, 2))
    outputs, recording = record(lambda: gradient_of(x, w), [x, w])
    assert recording.problem is None and recording.is_functional
    for own, expected in zip(outputs, gradient_of(x, w), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=0)
    x, w = tensors((4, 3), (3, 2), seed=1)
    found = replayed(recording)([x, w])
    for own, expected in zip(found, gradient_of(x, w), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=0)


def test_what_a_function_finds_elsewhere_is_read_when_replayed():
    (x,) = tensors(3)
    scale = torch.ones(3)
    _, recording = record(lambda: [x * scale, None], [x])
    scale.fill_(2.0)
    assert list(recording.constants.values()) == [scale]
    found, nothing = replayed(recording)([x])
    assert nothing is None
    torch.testing.assert_close(found, 2 * x)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda x: x * torch.rand(3), "draws random numbers"),
        (lambda x: torch.nn.functional.dropout(x, 0.5), "draws random numbers"),
        (lambda x: x * x.max().item(), "reads a number out of a tensor"),
        (lambda x: x * (2.0 if x.sum() > 0 else 3.0), "reads a number"),
        (lambda x: x[x > 0].sum(), "a shape that depends on values"),
        (lambda x: x.nonzero().sum(), "a shape that depends on values"),
    ],
)
def test_what_differs_from_batch_to_batch_is_a_problem(function, problem):
    (x,) = tensors(3)
    outputs, recording = record(lambda: [function(x)], [x])
    assert problem in recording.problem
    assert len(outputs) == 1  # the update goes on with them


def test_selecting_by_numbers_is_none():
    x, places = torch.arange(5.0), torch.tensor([3, 1])
    _, recording = record(lambda: [x[places]], [x, places])
    assert recording.problem is None
    assert replayed(recording)([x, torch.tensor([0, 4])])[0].tolist() == [0, 4]


def test_numbers_of_static_tensors_may_be_read():
    (x,), n_way = tensors((2, 3)), torch.tensor([3, 3])

    def function():
        return [x[:, : int(n_way.max())]]

    assert record(function, [x])[1].problem is not None
    assert record(function, [x], static=[n_way])[1].problem is None


def test_the_largest_of_a_bounded_tensor_may_be_read_and_no_more():
    (x,), n_way = tensors((2, 3)), torch.tensor([2, 3])

    def padded():
        return [x[:, : int(n_way.max())] * (torch.arange(3) < n_way[:, None])]

    def smallest():
        return [x[:, : int(n_way.min())]]

    _, recording = record(padded, [x, n_way], bounded=[n_way])
    assert recording.problem is None
    found = replayed(recording)([x, torch.tensor([3, 1])])[0]
    torch.testing.assert_close(found[1, 1:], torch.zeros(2))
    assert record(smallest, [x, n_way], bounded=[n_way])[1].problem is not None


def test_two_recordings_tell_what_changes():
    (x,), counts = tensors(3), iter(range(9))

    def recorded(function):
        return record(lambda: [function()], [x])[1]

    same = recorded(lambda: x * 2), recorded(lambda: x * 2)
    assert same[0].differs_from(same[1]) is None
    counted = [recorded(lambda: x * next(counts)) for _ in range(2)]
    assert "operations" in counted[0].differs_from(counted[1])
    made = [recorded(lambda: x * torch.tensor(float(next(counts)))) for _ in range(2)]
    assert "tensors" in made[0].differs_from(made[1])


def test_layouts_are_kept():
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    outputs, recording = record(lambda: [x * 2, (x + 1).clone()], [x])
    for value, output in zip(recording.outputs, outputs, strict=True):
        assert recording.specs[value].stride == output.stride()
        assert recording.specs[value].empty().stride() == output.stride()
