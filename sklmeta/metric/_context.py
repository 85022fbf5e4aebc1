r"""Full context embeddings of matching networks: features in the light of the support.

Support rows are read by a bidirectional LSTM with a skip connection (appendix A.2 of
the paper), query rows by an LSTM that attends to the support in K steps (appendix A.1):

.. math:: g(x_i, S) &= \overrightarrow{h}_i + \overleftarrow{h}_i + g'(x_i) \\
          \hat h_k, c_k &= \mathrm{LSTM}(f'(x), [h_{k-1}, r_{k-1}], c_{k-1}), \qquad
          h_k = \hat h_k + f'(x) \\
          r_{k-1} &= \sum_i \mathrm{softmax}_i\bigl(h_{k-1}^\top g(x_i, S)\bigr)
          \, g(x_i, S), \qquad f(x, S) = h_K

Deviations from the paper
-------------------------
- The support is a set, and an LSTM reads a sequence. The paper leaves the order open;
  here rows are read in the order of their features' projection on a fixed random
  vector, so that the order in which rows are given changes nothing. Rows that cannot be
  told apart by it share the mean of what is read at their places.
- The state that processing starts from, which the paper does not say, is
  :math:`h_0 = f'(x), c_0 = 0`.

References
----------
Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra, "Matching Networks for One Shot
Learning", NeurIPS 2016, arXiv:1606.04080. Vinyals, Bengio and Kudlur, "Order Matters:
Sequence to sequence for sets", ICLR 2016, arXiv:1511.06391.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sklmeta.backbones.initialization import new_generator

__all__ = ["QueryContext", "SupportContext"]

# Steps of an LSTM whose inputs are mapped at once: thousands of rows take their time,
# but not the memory of as many gates.
STEPS_PER_BLOCK = 256
# Projections that differ by less, in units of rounding, are of rows that are the same.
TOLERANCE = 64


class SupportContext(nn.Module):
    """Features of support rows, read in a fixed order from both ends: g of the paper.

    Parameters
    ----------
    n_features : int
        Width of the features, and of the LSTM.
    generator : torch.Generator, default=None
        Where the first weights are drawn from; None draws different ones every time.
    """

    projection: Tensor

    def __init__(
        self, n_features: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        width = n_features
        generator = generator or new_generator()
        # One weight for each direction, forwards and backwards.
        self.from_input = _uniform((2, width, 4 * width), width, generator)
        self.from_hidden = _uniform((2, width, 4 * width), width, generator)
        self.bias = _uniform((2, 1, 4 * width), width, generator)
        vector = torch.randn(width, generator=generator)
        self.register_buffer("projection", vector / vector.norm())

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return features (T, S, D) in the context of the real rows of their task.

        Parameters
        ----------
        features : Tensor of shape (T, S, D)
            Of support rows; those of padded rows mean nothing.
        mask : Tensor of shape (T, S)
            True where a row is real.

        Returns
        -------
        Tensor of shape (T, S, D)
        """
        key = (features.detach() * self.projection).sum(-1)
        key, order = key.masked_fill(~mask, torch.inf).sort(-1)  # padding last
        place = order.unsqueeze(-1).expand_as(features)
        read = self._read(features.gather(1, place), mask.gather(1, order))
        context = _mean_of_ties(read, key)
        return features + torch.zeros_like(features).scatter(1, place, context)

    def _read(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the hidden states of both directions after each row, added up.

        Padding comes last: no row comes after it forwards, and backwards the state is
        kept at 0 until the first real row.
        """
        n_tasks, _, width = x.shape
        both = torch.stack([x, x.flip(1)])  # (2, T, S, D)
        real = torch.stack([mask, mask.flip(1)]).unsqueeze(-1).to(x.dtype)
        hidden = cell = x.new_zeros(2, n_tasks, width)
        states = []
        for rows, kept in zip(
            both.split(STEPS_PER_BLOCK, 2), real.split(STEPS_PER_BLOCK, 2), strict=True
        ):
            inputs = torch.baddbmm(self.bias, rows.flatten(1, 2), self.from_input)
            inputs = inputs.unflatten(1, rows.shape[1:3])  # (2, T, s, 4 D)
            for step, keep in zip(inputs.unbind(2), kept.unbind(2), strict=True):
                gates = torch.baddbmm(step, hidden, self.from_hidden)
                hidden, cell = _lstm(gates, cell)
                hidden, cell = hidden * keep, cell * keep
                states.append(hidden)
        forwards, backwards = torch.stack(states, 2)
        return forwards + backwards.flip(1)


class QueryContext(nn.Module):
    """Features of query rows after attending to the support: f of the paper.

    Parameters
    ----------
    n_features : int
        Width of the features, and of the LSTM.
    n_steps : int
        Steps of processing, K.
    generator : torch.Generator, default=None
        Where the first weights are drawn from; None draws different ones every time.
    """

    def __init__(
        self,
        n_features: int,
        n_steps: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        width = n_features
        generator = generator or new_generator()
        self.n_steps = n_steps
        self.from_input = _uniform((width, 4 * width), width, generator)
        self.from_hidden = _uniform((2 * width, 4 * width), width, generator)
        self.bias = _uniform((4 * width,), width, generator)

    def forward(self, features: Tensor, support: Tensor, mask: Tensor) -> Tensor:
        """Return features (T, Q, D) in the context of the support.

        Parameters
        ----------
        features : Tensor of shape (T, Q, D)
            Of query rows, each of which is processed by itself.
        support : Tensor of shape (T, S, D)
            Of support rows, in their own context.
        mask : Tensor of shape (T, S)
            True where a support row is real.

        Returns
        -------
        Tensor of shape (T, Q, D)
        """
        padding = ~mask.unsqueeze(1)
        inputs = features @ self.from_input + self.bias
        hidden, cell = features, torch.zeros_like(features)
        for _ in range(self.n_steps):
            scores = hidden @ support.transpose(1, 2)  # (T, Q, S)
            attention = scores.masked_fill(padding, -torch.inf).softmax(-1)
            state = torch.cat([hidden, attention @ support], -1)
            hidden, cell = _lstm(inputs + state @ self.from_hidden, cell)
            hidden = hidden + features
        return hidden


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden state and cell of an LSTM, from its gates (..., 4 D)."""
    into, forget, new, out = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


def _mean_of_ties(values: Tensor, key: Tensor) -> Tensor:
    """Return values (T, S, D), each the mean over places whose keys are the same.

    Rows that are the same may have different labels: which of them was read first must
    not matter. `key` (T, S) is sorted.
    """
    size = key.masked_fill(key.isinf(), 0.0).abs().amax(-1, keepdim=True)
    tolerance = TOLERANCE * torch.finfo(key.dtype).eps * size
    group = (key.diff(dim=-1) > tolerance).cumsum(-1)
    group = nn.functional.pad(group, (1, 0)).unsqueeze(-1)  # (T, S, 1)
    count = torch.zeros_like(values[..., :1])
    count = count.scatter_add(1, group, torch.ones_like(count))
    group_of = group.expand_as(values)
    total = torch.zeros_like(values).scatter_add(1, group_of, values)
    return (total / count.clamp(min=1)).gather(1, group_of)


def _uniform(
    shape: tuple[int, ...], width: int, generator: torch.Generator
) -> nn.Parameter:
    """Return weights drawn as those of torch's LSTMs are."""
    bound = 1 / math.sqrt(width)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))
