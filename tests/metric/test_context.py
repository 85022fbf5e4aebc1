"""Full context embeddings against plain loops over rows, and torch's LSTM cells."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta.metric import _context
from sklmeta.metric._context import QueryContext, SupportContext

N_FEATURES = 4


def features(n_tasks=2, n_rows=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (n_tasks, n_rows, N_FEATURES)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def real(n_tasks=2, n_rows=7):
    return torch.ones(n_tasks, n_rows, dtype=torch.bool)


def support_context():
    return SupportContext(N_FEATURES, torch.Generator().manual_seed(0)).double()


def query_context(n_steps=3):
    generator = torch.Generator().manual_seed(0)
    return QueryContext(N_FEATURES, n_steps, generator).double()


def lstm_cell(from_input, from_hidden, bias):
    """Return torch's LSTM cell with given weights; its gates are i, f, g, o, too."""
    width = from_input.shape[1] // 4
    cell = nn.LSTMCell(len(from_input), width).double()
    with torch.no_grad():
        cell.weight_ih.copy_(from_input.T)
        cell.weight_hh.copy_(from_hidden.T)
        cell.bias_ih.copy_(bias)
        cell.bias_hh.zero_()
    return cell


def read_in_order(context, rows):
    """Return rows (S, D) in context, one after another from either end."""
    order = (rows @ context.projection).argsort()
    embedded = rows.clone()
    for direction, places in enumerate((order, order.flip(0))):
        cell = lstm_cell(
            context.from_input[direction],
            context.from_hidden[direction],
            context.bias[direction, 0],
        )
        state = torch.zeros(2, 1, N_FEATURES, dtype=torch.float64).unbind()
        for place in places:
            state = cell(rows[place, None], state)
            embedded[place] += state[0][0]
    return embedded


@torch.no_grad()
def test_support_is_read_from_both_ends():
    context, x = support_context(), features()
    found = context(x, real())
    for task in range(2):
        torch.testing.assert_close(found[task], read_in_order(context, x[task]))


@torch.no_grad()
def test_long_supports_are_read_in_blocks(monkeypatch):
    context, x = support_context(), features()
    want = context(x, real())
    monkeypatch.setattr(_context, "STEPS_PER_BLOCK", 3)
    torch.testing.assert_close(context(x, real()), want)


@torch.no_grad()
def test_padding_of_the_support_has_no_influence():
    context, x, mask = support_context(), features(), real()
    mask[0, 2:5] = False
    want = context(x[:1, mask[0]], real(1, 4))
    for padding in (0.0, 1e3, -1e3):
        x[0, 2:5] = padding
        torch.testing.assert_close(context(x, mask)[:1, mask[0]], want)


@torch.no_grad()
def test_order_of_the_support_is_no_matter():
    context, x = support_context(), features()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        context(x[:, order], real()), context(x, real())[:, order]
    )


@torch.no_grad()
def test_rows_that_are_the_same_are_embedded_the_same():
    context, x = support_context(), features()
    x[:, 3] = x[:, 5] = x[:, 0]
    x[:, 3] *= 1 + 4e-16  # by rounding
    found = context(x, real())
    torch.testing.assert_close(found[:, 3], found[:, 0])
    assert torch.equal(found[:, 5] - x[:, 5], found[:, 0] - x[:, 0])
    # What others see is the sequence of rows, in which equal rows change places.
    want = torch.stack([read_in_order(context, rows) for rows in x])
    others = [1, 2, 4, 6]
    torch.testing.assert_close(found[:, others], want[:, others])
    torch.testing.assert_close(found[:, [0, 3, 5]].mean(1), want[:, [0, 3, 5]].mean(1))


@torch.no_grad()
def test_context_matters():
    context, x = support_context(), features()
    changed = x.clone()
    changed[:, 0] += 1
    moved = (context(changed, real()) - context(x, real()))[:, 1:].abs().amax(-1)
    assert (moved > 1e-6).all()


def attend(context, row, support):
    """Return one query row (D,) in context, by the equations of the appendix."""
    cell = lstm_cell(
        torch.cat([context.from_input, context.from_hidden[N_FEATURES:]]),
        context.from_hidden[:N_FEATURES],
        context.bias,
    )
    hidden, state = row, torch.zeros_like(row)
    for _ in range(context.n_steps):
        read = sum(
            a * g for a, g in zip(_attention(hidden, support), support, strict=True)
        )
        inputs = torch.cat([row, read])[None]
        new, state = (part[0] for part in cell(inputs, (hidden[None], state[None])))
        hidden = new + row
    return hidden


def _attention(hidden, support):
    return F.softmax(torch.stack([hidden @ g for g in support]), 0)


@torch.no_grad()
@pytest.mark.parametrize("n_steps", [1, 4])
def test_query_rows_attend_step_by_step(n_steps):
    context, x, support = query_context(n_steps), features(seed=1), features()
    found = context(x, support, real())
    for task in range(2):
        for row in range(7):
            want = attend(context, x[task, row], support[task])
            torch.testing.assert_close(found[task, row], want)


@torch.no_grad()
def test_query_rows_are_processed_by_themselves():
    context, x, support = query_context(), features(seed=1), features()
    together = context(x, support, real())
    torch.testing.assert_close(context(x[:, 2:3], support, real()), together[:, 2:3])


@torch.no_grad()
def test_padding_of_the_support_gets_no_attention():
    context, x, support, mask = query_context(), features(seed=1), features(), real()
    mask[0, 2:5] = False
    want = context(x[:1], support[:1, mask[0]], real(1, 4))
    torch.testing.assert_close(context(x, support, mask)[:1], want)


def test_gradients_are_those_of_finite_differences():
    support_net, query_net = support_context(), query_context(2)
    x, support, mask = features(n_rows=3, seed=1), features(n_rows=3), real(2, 3)
    mask[1, 2] = False

    def embedded(x, support):
        return query_net(x, support_net(support, mask), mask)

    inputs = (x.requires_grad_(), support.requires_grad_())
    assert torch.autograd.gradcheck(embedded, inputs)


def test_the_same_generator_gives_the_same_weights_and_the_global_one_is_left_alone():
    before = torch.get_rng_state()
    one, other = support_context(), support_context()
    query_context(), SupportContext(2), QueryContext(2, 1)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert "projection" in one.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
