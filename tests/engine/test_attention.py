"""Attention by its formula is torch's, with second derivatives, in one thread."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta.engine.attention import plain_attention


def draw(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.double)


MASK = torch.tensor([[True, False, True], [True, True, True]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": MASK},
        {"attn_mask": draw(2, 3)},
        {"enable_gqa": True},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_equals_torchs(options):
    n_heads = 2 if "enable_gqa" in options else 4
    q, k, v = draw(2, 4, 2, 5), draw(2, n_heads, 3, 5), draw(2, n_heads, 3, 6)
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    with plain_attention():
        found = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(found, expected)


def test_has_second_derivatives():
    def attend(q, k, v):
        with plain_attention():
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    inputs = [draw(1, 2, 3, 4).requires_grad_() for _ in range(3)]
    assert torch.autograd.gradgradcheck(attend, inputs)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_multi_head_attention_keeps_what_it_returns(training, need_weights):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.MultiheadAttention(4, 2, batch_first=True).double()
    layer.train(training)
    x = draw(2, 3, 4)
    expected, weights = layer(x, x, x, need_weights=need_weights)
    with plain_attention():
        found, own = layer(x, x, x, need_weights=need_weights)
    torch.testing.assert_close(found, expected)
    assert (own is None) == (weights is None) == (not need_weights)
    if need_weights:
        torch.testing.assert_close(own, weights)


def test_other_threads_are_left_alone():
    q = draw(1, 1, 2, 4).requires_grad_()
    names = []

    def attend():
        names.append(F.scaled_dot_product_attention(q, q, q).grad_fn.name())

    attend()
    with plain_attention():
        thread = threading.Thread(target=attend)
        thread.start()
        thread.join()
        attend()
    assert names[0] == names[1] != names[2]
