r"""Heads: from features to logits or numbers, and what adaptation starts them from.

A head is linear, with a weight (N, n_features) and a bias (N,) of its own for every
task. With shared labels and numbers to predict the start is meta-learned, row by row.
With local labels the ways of a task mean nothing before its support rows are seen:

fixed
    A meta-learned vector for each way, as in the MAML paper. Training episodes put the
    classes in random order (label permutation); when adapting, the order is taken from
    the support rows themselves, so that labels' names cannot matter. There can be no
    more ways than in meta-training.
shared
    One vector for all ways. It cancels in a softmax, after any number of gradient steps
    too, so that the vector is left at zero (arXiv:2106.15367). Any number of ways.
prototype
    The linear form of a nearest-prototype classifier,
    :math:`w_k = 2 c_k / \sqrt{F}, b_k = -\lVert c_k \rVert^2 / \sqrt{F}` with the mean
    :math:`c_k` of the class's :math:`F` features before adaptation (Proto-MAML,
    arXiv:1903.03096, section 3, which does not divide by :math:`\sqrt{F}`; without,
    wide features make for saturated probabilities, and for slow meta-training). Any
    number of ways.

The default was chosen by ``benchmarks/heads.py``, on classes of no test set and with an
inner learning rate of each head's own: prototypes are right on 90 % of held-out leaves
of tasks with 2 to 10 species, where the others reach 76 to 86 %, and ahead on Omniglot
too (section "Which head" of ``benchmarks/RESULTS.md``).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sklmeta.engine.batches import Rows
from sklmeta.engine.learner import way_mask

__all__ = [
    "DEFAULT_HEAD",
    "HEADS",
    "FixedHead",
    "Head",
    "LinearHead",
    "PrototypeHead",
    "SharedHead",
]

DEFAULT_HEAD = "prototype"
HEADS = ("auto", "fixed", "shared", "prototype", "none")

Features = Callable[[], Tensor]


class Head(nn.Module):
    """What heads have in common: where adaptation starts.

    Attributes
    ----------
    most_ways : int or None
        The most ways that a task can have; None where there may be any number, or
        labels are not local.
    """

    most_ways: int | None = None

    def start(self, support: Rows, features: Features) -> dict[str, Tensor]:
        """Return every task's weight (T, N, F) and bias (T, N) before adaptation.

        Parameters
        ----------
        support : Rows
            The tasks' support rows.
        features : callable
            Returns their features (T, S, F), for heads that need them.

        Returns
        -------
        dict of str to Tensor
            "weight" and "bias".
        """
        raise NotImplementedError


class LinearHead(Head):
    """A linear layer whose start is meta-learned, for shared labels and numbers.

    Parameters
    ----------
    n_features, n_outputs : int
        Width of features, and number of classes or targets.
    generator : torch.Generator, default=None
        Draws the initial weights.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        bound = n_features**-0.5
        self.weight = nn.Parameter(torch.empty(n_outputs, n_features))
        self.bias = nn.Parameter(torch.empty(n_outputs))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def start(self, support: Rows, features: Features) -> dict[str, Tensor]:
        """Return the same weight (T, N, F) and bias (T, N) for every task."""
        n_tasks = len(support)
        weight = self.weight.expand(n_tasks, *self.weight.shape)
        return {"weight": weight, "bias": self.bias.expand(n_tasks, -1)}


class FixedHead(LinearHead):
    """A meta-learned vector for each way, for local labels.

    Parameters
    ----------
    n_features, n_ways : int
        Width of features, and the most ways that a task can have.
    generator : torch.Generator, default=None
        Draws the initial weights.
    """

    def __init__(
        self,
        n_features: int,
        n_ways: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_features, n_ways, generator)
        self.most_ways = n_ways

    def start(self, support: Rows, features: Features) -> dict[str, Tensor]:
        """Return every task's weight (T, N, F) and bias (T, N) before adaptation.

        Raises
        ------
        ValueError
            If a task has more ways than the head.
        """
        n_ways, most = _n_ways(support), len(self.weight)
        if n_ways > most:
            raise ValueError(
                f"a task has {n_ways} classes, and head='fixed' was meta-trained with "
                f"at most {most}. Meta-train on episodes of as many (n_way={n_ways}), "
                "or with head='shared' or 'prototype', which take any number."
            )
        if self.training:  # episodes come with their classes in random order
            order = torch.arange(n_ways, device=support.x.device)
            order = order.expand(len(support), -1)
        else:
            order = _order_of_ways(support, n_ways)
        return {"weight": self.weight[order], "bias": self.bias[order]}


class SharedHead(Head):
    """One vector for all ways, for local labels: zero, since it cancels.

    Parameters
    ----------
    n_features : int
        Width of features.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features

    def start(self, support: Rows, features: Features) -> dict[str, Tensor]:
        """Return every task's weight (T, N, F) and bias (T, N) before adaptation."""
        shape = len(support), _n_ways(support)
        x = support.x
        weight = torch.zeros(*shape, self.n_features, dtype=x.dtype, device=x.device)
        return {"weight": weight, "bias": weight.new_zeros(shape)}


class PrototypeHead(Head):
    """Starts as nearest prototype in the features before adaptation; local labels."""

    def start(self, support: Rows, features: Features) -> dict[str, Tensor]:
        """Return every task's weight (T, N, F) and bias (T, N) before adaptation."""
        prototypes = _way_means(features(), support, _n_ways(support))
        scale = prototypes.shape[-1] ** -0.5
        bias = prototypes.square().sum(-1) * -scale
        return {"weight": prototypes * (2 * scale), "bias": bias}


def _n_ways(support: Rows) -> int:
    assert support.n_way is not None
    return int(support.n_way.max())


def _way_means(values: Tensor, support: Rows, n_ways: int) -> Tensor:
    """Return the mean of each way's rows, 0 where a way has none; (T, N, F)."""
    ways = torch.arange(n_ways, device=values.device)
    members = (support.y.unsqueeze(-1) == ways) & support.mask.unsqueeze(-1)
    members = members.to(values.dtype)  # (T, S, N)
    totals = torch.einsum("tsn,tsf->tnf", members, values)
    return totals / members.sum(1).clamp(min=1).unsqueeze(-1)


def _order_of_ways(support: Rows, n_ways: int) -> Tensor:
    """Return which vector each way gets, by the rows' values alone; (T, N)."""
    values = support.x.detach().flatten(2).double()
    means = _way_means(values, support, n_ways)
    # Any fixed direction that tells different means apart.
    direction = torch.arange(1.0, means.shape[2] + 1, dtype=torch.float64).cos()
    place = means @ direction.to(means.device)  # (T, N)
    assert support.n_way is not None
    present = way_mask(support.n_way, n_ways)
    place = place.masked_fill(~present, torch.inf)
    return place.argsort(dim=1, stable=True).argsort(dim=1)
