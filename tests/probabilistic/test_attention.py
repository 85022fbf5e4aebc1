"""Attention blocks against torch's own, masks, and empty sets."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta.probabilistic._attention import AttentionBlock, Memory, attend
from sklmeta.probabilistic._encoders import (
    CrossAttention,
    PoolingEncoder,
    RowEncoder,
    mean_of_real,
)

B, S, Q, WIDTH, HEADS = 3, 6, 4, 8, 2


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.fixture
def mask():
    return torch.arange(S) < torch.tensor([[6], [4], [1]])


@pytest.fixture
def block():
    return AttentionBlock(WIDTH, HEADS, 16, generator=generator()).double()


def torch_layer(block):
    """Return torch's multi-head attention with the weights of a block."""
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    parts = (block.to_query, block.to_key, block.to_value)
    with torch.no_grad():
        layer.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        layer.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        layer.out_proj.load_state_dict(block.output.state_dict())
    return layer


def test_attention_is_torch_s_for_the_real_rows_alone(mask):
    query, keys, values = (
        normal(B, HEADS, n, WIDTH // HEADS, seed=n) for n in (Q, S, S + 1)
    )
    values = values[:, :, :S]
    found = attend(query, Memory(keys, values), mask)
    for task, n_real in enumerate(mask.sum(1)):
        expected = F.scaled_dot_product_attention(
            query[task], keys[task, :, :n_real], values[task, :, :n_real]
        )
        torch.testing.assert_close(found[task], expected, rtol=0, atol=1e-12)


def test_without_real_rows_nothing_is_read():
    query = normal(B, HEADS, Q, 4)
    memory = Memory(normal(B, HEADS, S, 4), normal(B, HEADS, S, 4))
    mask = torch.zeros(B, S, dtype=torch.bool)
    query.requires_grad_()
    found = attend(query, memory, mask)
    assert (found == 0).all()
    found.sum().backward()
    assert query.grad.isfinite().all()


def test_a_block_is_a_layer_around_torch_s_multi_head_attention(block, mask):
    query, keys = normal(B, Q, WIDTH), normal(B, S, WIDTH, seed=1)
    found = block(query, block.memory(keys, keys), mask)
    read, _ = torch_layer(block)(query, keys, keys, key_padding_mask=~mask)
    rows = block.norm(query + read)
    hidden = block.feed_forward(F.relu(block.hidden(rows)))
    torch.testing.assert_close(found, block.last_norm(rows + hidden))


def test_self_attention_is_torch_s_encoder_layer(block):
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 16, dropout=0.0, batch_first=True, dtype=torch.float64
    )
    with torch.no_grad():
        layer.self_attn = torch_layer(block)
        layer.linear1.load_state_dict(block.hidden.state_dict())
        layer.linear2.load_state_dict(block.feed_forward.state_dict())
    rows = normal(B, S, WIDTH)
    found = block(rows, block.memory(rows, rows), None)
    torch.testing.assert_close(found, layer(rows))


def test_a_full_mask_is_no_mask(block):
    query, rows = normal(B, Q, WIDTH), normal(B, S, WIDTH, seed=1)
    memory = block.memory(rows, rows)
    full = torch.ones(B, S, dtype=torch.bool)
    torch.testing.assert_close(
        block(query, memory, full), block(query, memory, None), rtol=0, atol=1e-12
    )


def test_mean_of_real_rows(mask):
    values = normal(B, S, WIDTH)
    found = mean_of_real(values, mask)
    for task, n_real in enumerate(mask.sum(1)):
        torch.testing.assert_close(found[task], values[task, :n_real].mean(0))
    assert (mean_of_real(values, torch.zeros_like(mask)) == 0).all()


@pytest.mark.parametrize("n_heads", [None, HEADS])
def test_encoders_leave_padding_out(n_heads, mask):
    rows = normal(B, S, 3)
    encoder = PoolingEncoder(3, WIDTH, 4, n_heads, generator()).double()
    found = encoder(rows, mask, full=False)
    for task, n_real in enumerate(mask.sum(1)):
        own = rows[task : task + 1, :n_real]
        alone = encoder(own, torch.ones(1, n_real, dtype=torch.bool), full=True)
        torch.testing.assert_close(found[task], alone[0])


def test_rows_see_each_other_with_attention_alone():
    rows = normal(1, S, 3)
    other = rows.clone()
    other[0, 0] += 1
    for n_heads, sees in [(None, False), (HEADS, True)]:
        encoder = RowEncoder(3, WIDTH, 3, n_heads, generator()).double()
        changed = encoder(rows, None)[0, 1] != encoder(other, None)[0, 1]
        assert bool(changed.any()) is sees


def test_cross_attention_reads_for_each_row_by_itself(mask):
    encoder = CrossAttention(3, 1, WIDTH, 3, HEADS, generator()).double()
    memory = encoder.memory(normal(B, S, 3), normal(B, S, 1, seed=1), mask)
    asking = normal(B, Q, 3, seed=2)
    together = encoder(asking, memory, mask)
    apart = torch.cat([encoder(one, memory, mask) for one in asking.split(1, 1)], 1)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
