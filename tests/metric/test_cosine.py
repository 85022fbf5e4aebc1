"""Features of length one."""

import pytest
import torch
from torch.nn import functional as F

from sklmeta.engine.batches import Episodes, Rows
from sklmeta.metric import MatchingNet, ProtoNet
from sklmeta.metric._cosine import unit_rows


def test_rows_have_length_one_and_gradients_are_slopes():
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(unit_rows(x), F.normalize(x, dim=-1))
    assert torch.autograd.gradcheck(unit_rows, x.requires_grad_())


@pytest.mark.parametrize("kind", [ProtoNet, MatchingNet])
def test_features_of_zeros_have_small_gradients(kind):
    backbone = torch.nn.Linear(4, 5)
    torch.nn.init.zeros_(backbone.bias)
    x = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    x[:, :3] = 0
    mask, y = torch.ones(1, 6, dtype=torch.bool), torch.tensor([[0, 1, 2, 0, 1, 2]])
    rows, query = Rows(x, y, mask), Rows(x[:, 1:], y[:, 1:], mask[:, 1:])
    learner = kind(backbone, 3, metric="cosine")
    loss = learner.meta_loss(Episodes(rows, query))
    loss.sum().backward()
    assert backbone.bias.grad.norm() < 1e3
