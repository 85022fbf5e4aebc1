r"""Generalised advantage estimates (Schulman et al. 2016, arXiv:1506.02438).

.. math::

    \hat A_t = \delta_t + \gamma \lambda \hat A_{t+1}, \qquad
    \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t),

where :math:`V(s_{t+1})` counts unless the step terminated, and :math:`\hat A_{t+1}`
unless it was the last of its sequence: what is truncated is bootstrapped.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["advantage_estimates", "discounted_sums"]


def advantage_estimates(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    last: Tensor,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    """Return the advantages of T steps of B sequences, all arguments (T, B).

    `terminated`: nothing follows; `last`: a sequence ends (terminated or truncated).
    """
    delta = reward + gamma * next_value * ~terminated - value
    return discounted_sums(delta, last, gamma * gae_lambda)


def discounted_sums(terms: Tensor, last: Tensor, discount: float) -> Tensor:
    r"""Return :math:`\sum_k d^k x_{t+k}` to the end of each sequence, (T, B)."""
    goes_on = discount * (~last)
    sums = torch.empty_like(terms)
    following = torch.zeros_like(terms[0])
    for t in range(len(terms) - 1, -1, -1):
        following = terms[t] + goes_on[t] * following
        sums[t] = following
    return sums
