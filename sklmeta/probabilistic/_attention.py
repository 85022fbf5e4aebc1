r"""Multi-head attention blocks that read a set of rows, some of which are padding.

.. math:: a = \mathrm{Attention}(q W_q, k W_k, v W_v) W_o, \qquad
   h = \mathrm{LN}(q + a), \qquad \mathrm{block}(q) = \mathrm{LN}(h + \mathrm{FF}(h))

That is a layer of a transformer as its paper has it, normalised after each sum. What is
read is told apart from who reads it: keys and values of the rows that are read are made
once, and kept, for any number of readers.

References
----------
Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta.backbones.initialization import make_linear

__all__ = ["AttentionBlock", "Memory", "attend"]


class Memory(NamedTuple):
    """Keys and values of the rows that are read, (B, heads, S, D / heads) each."""

    keys: Tensor
    values: Tensor


def attend(query: Tensor, memory: Memory, mask: Tensor | None) -> Tensor:
    """Return what each query reads of the real rows; zeros where there are none.

    Parameters
    ----------
    query : Tensor of shape (B, heads, Q, D / heads)
    memory : Memory
    mask : Tensor of shape (B, S) or None
        True where a row is real; None: all are.

    Returns
    -------
    Tensor of shape (B, heads, Q, D / heads)
    """
    if mask is None:
        return F.scaled_dot_product_attention(query, *memory)
    some = mask.any(-1)[:, None]  # (B, 1)
    readable = (mask | ~some)[:, None, None]  # (B, 1, 1, S); nothing real: anything
    found = F.scaled_dot_product_attention(query, *memory, attn_mask=readable)
    return torch.where(some[..., None, None], found, 0.0)


class AttentionBlock(nn.Module):
    """Layer of a transformer whose queries read other rows than themselves.

    Parameters
    ----------
    width : int
        Of rows that come in and go out.
    n_heads : int
        Divides `width`.
    n_hidden : int
        Width of the feed-forward layer.
    generator : torch.Generator, default=None
        Draws the initial weights.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        n_hidden: int,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_query = make_linear(width, width, generator=generator)
        self.to_key = make_linear(width, width, generator=generator)
        self.to_value = make_linear(width, width, generator=generator)
        self.output = make_linear(width, width, generator=generator)
        self.norm = nn.LayerNorm(width)
        self.hidden = make_linear(width, n_hidden, generator=generator)
        self.feed_forward = make_linear(n_hidden, width, generator=generator)
        self.last_norm = nn.LayerNorm(width)

    def memory(self, keys: Tensor, values: Tensor) -> Memory:
        """Return what is kept of rows (B, S, width) that are going to be read."""
        return Memory(
            self._heads(self.to_key(keys)), self._heads(self.to_value(values))
        )

    def forward(self, query: Tensor, memory: Memory, mask: Tensor | None) -> Tensor:
        """Return rows (B, Q, width) after each has read the memory.

        Parameters
        ----------
        query : Tensor of shape (B, Q, width)
        memory : Memory
            Of S rows.
        mask : Tensor of shape (B, S) or None
            True where one of these is real; None: all are.

        Returns
        -------
        Tensor of shape (B, Q, width)
        """
        found = attend(self._heads(self.to_query(query)), memory, mask)
        rows = self.norm(query + self.output(found.transpose(1, 2).flatten(2)))
        return self.last_norm(rows + self.feed_forward(F.relu(self.hidden(rows))))

    def _heads(self, rows: Tensor) -> Tensor:
        """Cut rows (B, S, D) into heads (B, heads, S, D / heads)."""
        return rows.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
