"""Programs: replayed, as graphs, and compiled."""

import threading
import warnings

import pytest
import torch
from torch.nn import functional as F

from sklmeta.engine import compiled as compiling
from sklmeta.engine.compiled import CompilationFailed, captured, compilations, compiled
from sklmeta.engine.programs import as_graph, replayed
from sklmeta.engine.simplify import simplified
from sklmeta.engine.tracing import record


def drawn(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def update(x, y, weight):
    """Return loss and gradient after a gradient step."""
    weight = weight.detach().requires_grad_()
    loss = F.mse_loss((x @ weight).relu(), y)
    (inner,) = torch.autograd.grad(loss, weight, create_graph=True)
    loss = F.mse_loss((x @ (weight - inner)).relu(), y)
    return [loss.detach(), *torch.autograd.grad(loss, weight)]


SHAPES = [(2, 5, 3), (2, 5, 4), (2, 3, 4)]


def recorded(function, *inputs):
    outputs, recording = record(lambda: function(*inputs), inputs)
    return recording, outputs


def assert_same(found, expected):
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x.masked_fill(x > 0, -torch.inf), x.clamp(max=float("nan"))],
        lambda x: list(x.unbind()),
        lambda x: [x.sort(1).values, x.sort(1).indices],
        lambda x: list(torch.aminmax(x, dim=1)),
        lambda x: [F.layer_norm(x, (3,)), torch.cat([x, 2 * x], dim=1)],
        lambda x: [x.to(torch.float64), torch.zeros_like(x, dtype=torch.int64)],
        lambda x: [x.sum((0, 1)), x[:, 1], x[..., None].expand(-1, -1, 2)],
        lambda x: [None, x + 1],
    ],
)
def test_replays_and_graphs_do_what_the_function_does(function):
    recording, _ = recorded(function, *drawn((4, 3)))
    (x,) = drawn((4, 3), seed=1)
    expected = function(x)
    for run in (replayed(recording), lambda given: as_graph(recording)(*given)):
        for own, other in zip(run([x]), expected, strict=True):
            assert (own is None) == (other is None)
            if own is not None:
                torch.testing.assert_close(own, other, equal_nan=True)


def test_a_replay_keeps_no_graph():
    recording, _ = recorded(update, *drawn(*SHAPES))
    given = drawn(*SHAPES, seed=1)
    given[2].requires_grad_()
    assert not any(one.requires_grad for one in replayed(recording)(given))


@pytest.fixture
def no_compiler(monkeypatch):
    """Leave no program compiled, and let torch's compiler fail."""

    def fail(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found in cpp.cxx: (None, 'g++')\n")

    monkeypatch.setattr(compiling, "_compiled_with", fail)
    monkeypatch.setattr(compiling, "_kept", type(compiling._kept)())


def test_without_a_compiler_programs_are_replays(no_compiler):
    inputs = drawn(*SHAPES)
    recording, outputs = recorded(update, *inputs)
    with pytest.raises(CompilationFailed, match="No working C\\+\\+ compiler"):
        compiled(recording)
    reasons = []
    programs = compilations(recording, {}, reasons.append)
    assert_same(next(programs)(inputs), outputs)
    assert len(reasons) == 1 and "g++" in reasons[0]


@pytest.fixture
def counted(monkeypatch):
    """Replace torch's compiler by a replay that is counted."""
    made = []

    def compile_(recording):
        made.append(recording)
        run = as_graph(recording)
        return lambda *given: run(*given)

    monkeypatch.setattr(compiling, "_compile", compile_)
    monkeypatch.setattr(compiling, "_kept", type(compiling._kept)())
    return made


def test_programs_are_compiled_once_whoever_recorded_them(counted):
    for seed in range(3):
        inputs = drawn(*SHAPES, seed=seed)
        recording, outputs = recorded(update, *inputs)
        assert_same(compiled(simplified(recording))(inputs), outputs)
    assert len(counted) == 1
    recording, _ = recorded(lambda x: [x * 2.0], *drawn(3))
    other, _ = recorded(lambda x: [x * 2.5], *drawn(3))
    assert compiled(recording)(drawn(3))[0] is not None and compiled(other)
    assert len(counted) == 3


def test_kept_programs_use_the_constants_of_their_own_recording(counted):
    for scale in (2.0, 3.0):
        constant = torch.full((3,), scale)
        recording, _ = recorded(lambda x, c=constant: [x * c], *drawn(3))
        x = drawn(3, seed=1)
        torch.testing.assert_close(compiled(recording)(x)[0], scale * x[0])
    assert len(counted) == 1


def test_few_programs_are_kept(counted, monkeypatch):
    monkeypatch.setattr(compiling, "MOST_KEPT", 2)
    for factor in (2.0, 3.0, 4.0):
        compiled(recorded(lambda x, f=factor: [x * f], *drawn(3))[0])
    assert len(compiling._kept) == 2


def test_threads_compile_one_after_another(counted):
    recording, outputs = recorded(update, *drawn(*SHAPES))
    found = []

    def run():
        found.append(compiled(recording)(drawn(*SHAPES)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 1 and len(found) == 4
    for one in found:
        assert_same(one, outputs)


@pytest.mark.slow
def test_compiled_programs_give_the_same_numbers():
    inputs = drawn(*SHAPES)
    recording, _ = recorded(update, *inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        program = compiled(simplified(recording))
    others = drawn(*SHAPES, seed=1)
    assert_same(program(others), update(*others))


@pytest.mark.gpu
def test_cuda_graphs_give_the_same_numbers():
    inputs = [tensor.cuda() for tensor in drawn(*SHAPES)]
    recording, outputs = recorded(update, *inputs)
    program = captured(simplified(recording))
    first = program(inputs)
    others = [tensor.cuda() for tensor in drawn(*SHAPES, seed=1)]
    assert_same(program(others), update(*others))
    assert_same(first, outputs)  # what a replay returned is not overwritten
