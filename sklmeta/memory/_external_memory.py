r"""An LSTM with an external memory that is written where it was least used.

Axes: T tasks, S steps, Q query rows, D inputs, H units, R reads, L memory rows, M
their width. With input :math:`x_t` and reads :math:`r_{t-1}`, one step is

.. math:: h_t, c_t &= \mathrm{LSTM}([x_t, r_{t-1}], h_{t-1}, c_{t-1}), \qquad
          k_t = \tanh(W_k h_t + b_k), \\
          w^w_t &= \sigma(\alpha_t)\, w^r_{t-1} + (1 - \sigma(\alpha_t))\, w^{lu}_{t-1},
          \qquad M_t = E_t M_{t-1} + (w^w_t)^\top k_t, \\
          w^r_t &= \mathrm{softmax}(\beta_t \cos(k_t, M_t)), \qquad r_t = w^r_t M_t, \\
          w^u_t &= \gamma w^u_{t-1} + w^r_t + w^w_t,

with a key, an :math:`\alpha` and a :math:`\beta` for each of R reads; :math:`w^{lu}`
marks the R rows of least usage :math:`w^u`, one for each read, which :math:`E_t`
erases. Gradients do not pass through usage.

Fifty steps of small operations cost autograd more than their arithmetic, so that
`unroll` brings its own backward pass, in which the gradients of weights are one matrix
product over all steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["MemoryState", "Sizes", "Weights", "answer", "initial_state", "unroll"]

EPSILON = 1e-6  # what memory holds at first, and keeps norms from zero


class Sizes(NamedTuple):
    """H, R, L and M, and the decay of usage."""

    hidden: int
    reads: int
    rows: int
    width: int
    decay: float


class Weights(NamedTuple):
    """Weights of a step but those of its input.

    Attributes
    ----------
    recurrent : Tensor of shape (H + R * M, 4 * H)
        From state and reads to the gates: input, forget, output, candidate.
    interface : Tensor of shape (H, R * M + 2 * R)
        From state to keys, alphas and strengths.
    bias : Tensor of shape (R * M + 2 * R,)
        Of the interface.
    """

    recurrent: Tensor
    interface: Tensor
    bias: Tensor


class MemoryState(NamedTuple):
    """What a step leaves to the next.

    Attributes
    ----------
    hidden, cell : Tensor of shape (T, H)
    reads : Tensor of shape (T, R * M)
    memory : Tensor of shape (T, L, M)
    read_weights : Tensor of shape (T, R, L)
    usage : Tensor of shape (T, L)
    """

    hidden: Tensor
    cell: Tensor
    reads: Tensor
    memory: Tensor
    read_weights: Tensor
    usage: Tensor


class _Trace(NamedTuple):
    """What the backward pass of a step needs."""

    gates: Tensor
    cell_before: Tensor
    tanh_cell: Tensor
    interface: Tensor
    strength: Tensor
    difference: Tensor  # previous read weights less least-used ones
    write_weights: Tensor
    keep: Tensor
    memory: Tensor
    inverse_norm: Tensor  # of memory rows
    inverse_key_norm: Tensor
    scaled_key: Tensor
    similarity: Tensor
    read_weights: Tensor


def initial_state(n_tasks: int, sizes: Sizes, like: Tensor) -> MemoryState:
    """Return the state before the first step."""
    _, R, L, M, _ = sizes
    hidden = like.new_zeros(n_tasks, sizes.hidden)
    return MemoryState(
        hidden,
        hidden,
        like.new_zeros(n_tasks, R * M),
        like.new_full((n_tasks, L, M), EPSILON),
        like.new_zeros(n_tasks, R, L),
        like.new_zeros(n_tasks, L),
    )


def unroll(
    inputs: Tensor, state: MemoryState, weights: Weights, sizes: Sizes
) -> tuple[Tensor, MemoryState]:
    """Take one step for each input.

    Parameters
    ----------
    inputs : Tensor of shape (T, S, 4 * H)
        What the inputs give to the gates, bias included.
    state : MemoryState
    weights : Weights
    sizes : Sizes

    Returns
    -------
    outputs : Tensor of shape (T, S, H + R * M)
        State and reads after each step.
    state : MemoryState
        After the last step.
    """
    gates = inputs.transpose(0, 1).contiguous()
    # Within a function gradients are off: it is told whether it will need its steps.
    keeps = torch.is_grad_enabled()
    outputs, *last = _Unrolled.apply(gates, *weights, *state, sizes, keeps)
    return outputs.transpose(0, 1), MemoryState(*last)


class _Unrolled(torch.autograd.Function):
    """All steps, and their backward pass through time."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *args: Any) -> tuple[Tensor, ...]:
        weights, state, sizes = Weights(*args[:3]), MemoryState(*args[3:9]), args[9]
        traces, before, outputs = [], [], []
        keeps = args[10] and any(ctx.needs_input_grad)
        now = torch.cat([state.hidden, state.reads], 1)
        for step_input in inputs:
            if keeps:
                before.append(now)
            state, trace = _step(step_input, now, state, weights, sizes)
            now = torch.cat([state.hidden, state.reads], 1)
            outputs.append(now)
            if keeps:
                traces.append(trace)
        ctx.traces, ctx.before, ctx.outputs, ctx.sizes = traces, before, outputs, sizes
        ctx.save_for_backward(*weights)
        # What a function keeps and returns as well would never be freed.
        last = MemoryState(*(leaf.clone() for leaf in state))
        ctx.mark_non_differentiable(last.usage)
        return torch.stack(outputs), *last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor, *d_state: Tensor) -> tuple[Any, ...]:
        weights, sizes = Weights(*ctx.saved_tensors), ctx.sizes
        d_hidden, d_cell, d_reads, d_memory, d_read_weights, _ = d_state
        d_now = torch.cat([d_hidden, d_reads], 1)
        d_memory = d_memory.clone()
        turned = weights.recurrent.mT.contiguous(), weights.interface.mT.contiguous()
        d_gates, d_interfaces = [], []
        for trace, d_output in zip(
            reversed(ctx.traces), d_outputs.flip(0), strict=True
        ):
            d_now = d_now + d_output
            d_reads = d_now[:, sizes.hidden :]
            d_interface, d_read_weights = _memory_gradients(
                trace, d_reads, d_memory, d_read_weights, sizes
            )
            d_hidden = torch.addmm(d_now[:, : sizes.hidden], d_interface, turned[1])
            d_gate, d_cell = _cell_gradients(trace, d_hidden, d_cell, sizes)
            d_now = d_gate @ turned[0]
            d_gates.append(d_gate)
            d_interfaces.append(d_interface)
        d_input = torch.stack(d_gates[::-1])
        d_interface = torch.cat(d_interfaces[::-1])
        states = torch.cat(ctx.outputs)[:, : sizes.hidden]
        d_hidden, d_reads = d_now.split([sizes.hidden, sizes.reads * sizes.width], 1)
        return (
            d_input,
            torch.cat(ctx.before).mT @ d_input.flatten(0, 1),
            states.mT @ d_interface,
            d_interface.sum(0),
            *(d_hidden, d_cell, d_reads, d_memory, d_read_weights, None, None, None),
        )


def _step(
    gates: Tensor, now: Tensor, state: MemoryState, weights: Weights, sizes: Sizes
) -> tuple[MemoryState, _Trace]:
    """Take one step; `now` holds state and reads (T, H + R * M)."""
    gates = torch.addmm(gates, now, weights.recurrent)
    hidden, cell, tanh_cell = _cell(gates, state.cell)
    interface = torch.addmm(weights.bias, hidden, weights.interface)
    key, alpha, strength = _split(interface, sizes)
    key.tanh_()
    alpha.sigmoid_()
    strength = F.softplus(strength)
    least_used = _least_used(state.usage, sizes)
    keep = (1 - least_used.sum(1)).unsqueeze(2)
    difference = state.read_weights - least_used
    write = torch.addcmul(least_used, alpha, difference)
    memory = (state.memory * keep).baddbmm_(write.mT, key)
    norm = torch.linalg.vector_norm(memory, dim=2).square_().add_(EPSILON)
    inverse_norm = norm.rsqrt_().unsqueeze(1)
    inverse_key_norm = _inverse_norm(key)
    scaled_key = key * (inverse_key_norm * strength)
    similarity = torch.bmm(scaled_key, memory.mT).mul_(inverse_norm)
    read = similarity.softmax(2)
    reads = torch.bmm(read, memory).flatten(1)
    usage = (state.usage * sizes.decay).add_(read.sum(1)).add_(write.sum(1))
    return MemoryState(hidden, cell, reads, memory, read, usage), _Trace(
        *(gates, state.cell, tanh_cell, interface, strength, difference, write, keep),
        *(memory, inverse_norm, inverse_key_norm, scaled_key, similarity, read),
    )


def _cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return state, cell and its tanh; `gates` (T, 4 * H) are activated in place."""
    n = 3 * gates.shape[1] // 4
    gates[:, :n].sigmoid_()
    gates[:, n:].tanh_()
    i, f, o, g = gates.chunk(4, 1)
    cell = torch.addcmul(i * g, f, cell)
    tanh_cell = cell.tanh()
    return o * tanh_cell, cell, tanh_cell


def _split(interface: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """Return views: keys (..., R, M), alphas and strengths (..., R, 1)."""
    R, M = sizes.reads, sizes.width
    key, alpha, strength = interface.split([R * M, R, R], -1)
    return key.unflatten(-1, (R, M)), alpha.unsqueeze(-1), strength.unsqueeze(-1)


def _least_used(usage: Tensor, sizes: Sizes) -> Tensor:
    """Return 1 at the least-used row of each read, else 0; (T, R, L)."""
    rows = usage.topk(sizes.reads, 1, largest=False).indices.unsqueeze(2)
    return usage.new_zeros(len(usage), sizes.reads, sizes.rows).scatter_(2, rows, 1.0)


def _inverse_norm(key: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(key, dim=-1, keepdim=True)
    return norm.clamp(min=EPSILON).reciprocal()


def _memory_gradients(
    trace: _Trace, d_reads: Tensor, d_memory: Tensor, d_read: Tensor, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Return gradients by the interface and by the previous read weights.

    `d_memory` is changed in place, to the gradient by the previous memory.
    """
    memory, read, write = trace.memory, trace.read_weights, trace.write_weights
    key, alpha, _ = _split(trace.interface, sizes)
    d_reads = d_reads.unflatten(1, key.shape[1:])
    d_read = torch.baddbmm(d_read, d_reads, memory.mT)
    d_similarity = (d_read - (d_read * read).sum(2, keepdim=True)) * read
    radial = (d_similarity * trace.similarity).sum(1, keepdim=True)
    radial.mul_(trace.inverse_norm).mul_(trace.inverse_norm)
    d_similarity.mul_(trace.inverse_norm)
    d_scaled = torch.bmm(d_similarity, memory)
    d_memory.baddbmm_(
        torch.cat([read, d_similarity], 1).mT, torch.cat([d_reads, trace.scaled_key], 1)
    ).addcmul_(memory, radial.mT, value=-1)
    unit = key * trace.inverse_key_norm
    d_strength = (d_scaled * unit).sum(2, keepdim=True)
    d_key = (d_scaled - unit * d_strength) * (trace.inverse_key_norm * trace.strength)
    d_key.baddbmm_(write, d_memory)
    d_write = torch.bmm(key, d_memory.mT)
    d_alpha = (d_write * trace.difference).sum(2, keepdim=True)
    d_memory.mul_(trace.keep)
    d_interface = torch.cat(
        [
            (d_key * (1 - key * key)).flatten(1),
            (d_alpha * alpha * (1 - alpha)).squeeze(2),
            (d_strength * (1 - torch.exp(-trace.strength))).squeeze(2),
        ],
        1,
    )
    return d_interface, d_write * alpha


def _cell_gradients(
    trace: _Trace, d_hidden: Tensor, d_cell: Tensor, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """Return gradients by the gates before activation, and by the previous cell."""
    n = 3 * sizes.hidden
    gates, tanh_cell = trace.gates, trace.tanh_cell
    i, f, o, g = gates.chunk(4, 1)
    d_cell = torch.addcmul(d_cell, d_hidden * o, 1 - tanh_cell * tanh_cell)
    d_gates = torch.cat(
        [d_cell * g, d_cell * trace.cell_before, d_hidden * tanh_cell, d_cell * i], 1
    )
    d_gates[:, :n] *= gates[:, :n] - gates[:, :n].square()
    d_gates[:, n:] *= 1 - g * g
    return d_gates, d_cell * f


def answer(
    inputs: Tensor, state: MemoryState, weights: Weights, sizes: Sizes
) -> Tensor:
    r"""Take a step for each query row, all from the same state, which stays as it is.

    What a row writes only itself sees. Its memory is not made: with a read key k, row i
    of it has the product :math:`M_i k + w_i (k k^\top)` and the read is
    :math:`w^r M + (w^r w^\top) k`.

    Parameters
    ----------
    inputs : Tensor of shape (T, Q, 4 * H)
        What the inputs give to the gates, bias included.
    state : MemoryState
        Of the adapted tasks.
    weights : Weights
    sizes : Sizes

    Returns
    -------
    Tensor of shape (T, Q, H + R * M)
        State and reads after each row's step.
    """
    now = torch.cat([state.hidden, state.reads], 1)
    gates = inputs + (now @ weights.recurrent).unsqueeze(1)
    i, f, o, g = gates.chunk(4, 2)
    cell = f.sigmoid() * state.cell.unsqueeze(1) + i.sigmoid() * g.tanh()
    hidden = o.sigmoid() * cell.tanh()
    key, alpha, strength = _split(hidden @ weights.interface + weights.bias, sizes)
    key = key.tanh()  # (T, Q, R, M)
    least_used = _least_used(state.usage, sizes)
    memory = state.memory * (1 - least_used.sum(1)).unsqueeze(2)
    difference = (state.read_weights - least_used).unsqueeze(1)
    write = least_used.unsqueeze(1) + alpha.sigmoid() * difference  # (T, Q, R, L)
    by_key = (key.flatten(1, 2) @ memory.mT).unflatten(1, key.shape[1:3])
    written = (key @ key.mT) @ write  # (T, Q, R, L)
    squares = memory.square().sum(2)[:, None] + (write * (2 * by_key + written)).sum(2)
    inverse_norm = (squares.clamp(min=0) + EPSILON).rsqrt().unsqueeze(2)
    scale = _inverse_norm(key) * F.softplus(strength)
    read = ((by_key + written) * inverse_norm * scale).softmax(3)
    old = (read.flatten(1, 2) @ memory).unflatten(1, key.shape[1:3])
    reads = old + (read @ write.mT) @ key
    return torch.cat([hidden, reads.flatten(2)], 2)
