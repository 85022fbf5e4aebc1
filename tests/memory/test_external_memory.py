"""The external memory against a plain loop, and its gradients against differences."""

import gc
import weakref

import numpy as np
import pytest
import torch

from sklmeta.memory import _external_memory
from sklmeta.memory._external_memory import (
    EPSILON,
    MemoryState,
    Sizes,
    Weights,
    answer,
    initial_state,
    unroll,
)

SIZES = Sizes(hidden=4, reads=2, rows=6, width=3, decay=0.9)
N_READ = SIZES.reads * SIZES.width


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def weights(seed=1):
    n_interface = N_READ + 2 * SIZES.reads
    return Weights(
        randn(SIZES.hidden + N_READ, 4 * SIZES.hidden, seed=seed) / 2,
        randn(SIZES.hidden, n_interface, seed=seed + 1),
        randn(n_interface, seed=seed + 2),
    )


def inputs(n_steps=8, n_tasks=2, seed=5):
    return randn(n_tasks, n_steps, 4 * SIZES.hidden, seed=seed)


def some_state(n_tasks=2):
    return unroll(inputs(3, n_tasks, seed=9), empty(n_tasks), weights(), SIZES)[1]


def empty(n_tasks=2):
    return initial_state(n_tasks, SIZES, randn(1))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_step(gates, state, w):
    """Take one step of one task by the equations, row by row."""
    R, L, M = SIZES.reads, SIZES.rows, SIZES.width
    hidden, cell, reads, memory, read, usage = state
    gates = gates + np.concatenate([hidden, reads]) @ w.recurrent.numpy()
    i, f, o, g = np.split(gates, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(cell)
    interface = hidden @ w.interface.numpy() + w.bias.numpy()
    keys = np.tanh(interface[:N_READ]).reshape(R, M)
    alpha = sigmoid(interface[N_READ : N_READ + R])
    strength = np.log1p(np.exp(interface[N_READ + R :]))
    least_used = np.zeros((R, L))
    for head, row in enumerate(np.argsort(usage, kind="stable")[:R]):
        least_used[head, row] = 1
    write = alpha[:, None] * read + (1 - alpha[:, None]) * least_used
    memory = memory.copy()
    for row in range(L):
        if least_used[:, row].any():
            memory[row] = 0
        for head in range(R):
            memory[row] += write[head, row] * keys[head]
    read = np.empty((R, L))
    for head, key in enumerate(keys):
        norms = np.sqrt((memory**2).sum(1) + EPSILON) * np.linalg.norm(key)
        scores = np.exp(strength[head] * (memory @ key) / norms)
        read[head] = scores / scores.sum()
    usage = SIZES.decay * usage + read.sum(0) + write.sum(0)
    return hidden, cell, (read @ memory).ravel(), memory, read, usage


def test_steps_are_those_of_a_plain_loop():
    w, x = weights(), inputs()
    # Rows that are never used are all the same: their order is no matter, but for usage
    # that tells them apart.
    start = empty()._replace(usage=torch.rand(2, SIZES.rows, dtype=torch.float64) / 9)
    found, last = unroll(x, start, w, SIZES)
    for task in range(2):
        state = tuple(leaf[task].numpy() for leaf in start)
        for step in range(x.shape[1]):
            state = plain_step(x[task, step].numpy(), state, w)
            expected = np.concatenate([state[0], state[2]])
            np.testing.assert_allclose(found[task, step], expected, rtol=1e-9)
        for leaf, value in zip(last, state, strict=True):
            np.testing.assert_allclose(leaf[task], value, rtol=1e-9)


def test_gradients_are_differences():
    tensors = [inputs(4), *weights(), *some_state()[:5]]
    usage = some_state().usage
    for tensor in tensors:
        tensor.requires_grad_()

    def run(x, recurrent, interface, bias, *state):
        w = Weights(recurrent, interface, bias)
        found, last = unroll(x, MemoryState(*state, usage), w, SIZES)
        return found, *last[:5]

    assert torch.autograd.gradcheck(run, tensors)


def test_all_steps_at_once_are_steps_one_by_one():
    w, x, state = weights(), inputs(), empty()
    found, last = unroll(x, state, w, SIZES)
    for step in range(x.shape[1]):
        one, state = unroll(x[:, step : step + 1], state, w, SIZES)
        torch.testing.assert_close(one[:, 0], found[:, step])
    torch.testing.assert_close(state, last)


def test_answers_are_steps_of_their_own_that_leave_the_state():
    w, state, x = weights(), some_state(), inputs(5, seed=11)
    before = [leaf.clone() for leaf in state]
    found = answer(x, state, w, SIZES)
    for row in range(x.shape[1]):
        alone, _ = unroll(x[:, row : row + 1], state, w, SIZES)
        torch.testing.assert_close(found[:, row], alone[:, 0])
    for leaf, value in zip(state, before, strict=True):
        assert torch.equal(leaf, value)


def test_gradients_of_answers_are_those_of_steps():
    w, state, x = weights(), some_state(), inputs(3, seed=11)
    gradients = []
    for run in (
        lambda w: answer(x, state, w, SIZES),
        lambda w: torch.cat(
            [unroll(one, state, w, SIZES)[0] for one in x.split(1, dim=1)], 1
        ),
    ):
        own = Weights(*(leaf.clone().requires_grad_() for leaf in w))
        gradients.append(torch.autograd.grad(run(own).square().sum(), own))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("strength", [30.0, 300.0])
def test_read_of_a_row_just_written_returns_it(strength):
    # Keys do not hang on what comes in; orthogonal ones, written to free rows alone.
    keys = torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.5, 0.0]], dtype=torch.float64)
    two = torch.ones(2, dtype=torch.float64)
    bias = torch.cat([keys.flatten().atanh(), -50 * two, strength * two])
    w = weights()
    w = Weights(w.recurrent, torch.zeros_like(w.interface), bias)
    _, state = unroll(inputs(1), empty(), w, SIZES)
    torch.testing.assert_close(
        state.reads,
        keys.flatten().expand(2, -1),
        rtol=0,
        atol=8 * np.exp(-strength) + 1e-15,
    )
    written = state.read_weights.argmax(-1)
    torch.testing.assert_close(
        state.memory[torch.arange(2)[:, None], written], keys.expand(2, -1, -1)
    )


def test_least_used_rows_are_erased_and_written():
    w = weights()
    w.bias[N_READ : N_READ + SIZES.reads] = -50  # only least-used rows are written
    w.interface[:, N_READ : N_READ + SIZES.reads] = 0
    state = some_state()
    state.usage[:] = torch.tensor([5.0, 1.0, 4.0, 0.5, 3.0, 2.0])
    _, after = unroll(inputs(1), state, w, SIZES)
    others = [0, 2, 4, 5]
    torch.testing.assert_close(after.memory[:, others], state.memory[:, others])
    keys = torch.tanh((after.hidden @ w.interface + w.bias)[:, :N_READ])
    torch.testing.assert_close(
        after.memory[:, [3, 1]], keys.unflatten(1, (SIZES.reads, SIZES.width))
    )


@pytest.mark.parametrize(("wanted", "most"), [(True, 7), (False, 1)])
def test_steps_are_kept_for_a_backward_pass_alone(monkeypatch, wanted, most):
    traces, alive = [], []

    def step(*args):
        alive.append(sum(trace() is not None for trace in traces))
        after, trace = plain(*args)
        traces.append(weakref.ref(trace.write_weights))  # no part of the state
        return after, trace

    plain = _external_memory._step
    monkeypatch.setattr(_external_memory, "_step", step)
    w = Weights(*(leaf.clone().requires_grad_() for leaf in weights()))
    with torch.set_grad_enabled(wanted):
        unroll(inputs(8), empty(), w, SIZES)
    assert max(alive) == most


def test_what_the_backward_pass_needs_is_freed():
    w = Weights(*(leaf.clone().requires_grad_() for leaf in weights()))
    kept = weakref.ref(w.recurrent)
    found, last = unroll(inputs(), empty(), w, SIZES)
    found.sum().backward()
    del w, found, last
    gc.collect()
    assert kept() is None
