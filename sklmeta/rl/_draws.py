"""Draws from Gamma distributions with a generator of one's own.

Those of torch.distributions draw from the global generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_gamma_draws"]


def log_gamma_draws(shapes: Tensor, generator: torch.Generator) -> Tensor:
    """Return logarithms of draws from Gamma(shape, 1), one for each shape.

    Of independent G_i ~ Gamma(a_i, 1), the shares ``G_i / sum G`` follow
    Dirichlet(a): the softmax of what is returned, which no small shape underflows.

    References
    ----------
    Marsaglia and Tsang, *A Simple Method for Generating Gamma Variables*, ACM
    Transactions on Mathematical Software 26, 2000.
    """
    flat = shapes.flatten()
    # G(a) = G(a + 1) U^(1 / a): the method itself takes shapes from 1.
    d = torch.where(flat < 1, flat + 1, flat) - 1 / 3
    draws = torch.empty_like(d)
    waiting = torch.arange(len(d), device=d.device)
    while len(waiting):
        log_cubes, accepted = _proposals(d[waiting], generator)
        draws[waiting[accepted]] = log_cubes[accepted]
        waiting = waiting[~accepted]
    draws = draws + d.log()
    boost = _exponential(flat, generator) / flat
    return torch.where(flat < 1, draws - boost, draws).reshape(shapes.shape)


def _proposals(d: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return log v of one proposal ``d v`` each, and which are accepted."""
    normal = torch.empty_like(d).normal_(generator=generator)
    log_v = 3 * torch.log1p(normal * (9 * d).rsqrt())  # nan below v = 0: not accepted
    limit = normal.square() / 2 + d * (1 - log_v.exp() + log_v)
    return log_v, -_exponential(d, generator) < limit


def _exponential(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).exponential_(generator=generator)
