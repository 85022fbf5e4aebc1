"""Adapting the policies of T tasks by policy gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sklmeta.rl._distributions import ActionDistribution
from sklmeta.rl._stacked_policy import PolicyNet, Weights
from sklmeta.rl._task_batches import TaskBatch

__all__ = [
    "Objective",
    "adapted_weights",
    "likelihood_ratio",
    "score_function",
]

# What the inner loop ascends, (T,).
Objective = Callable[[ActionDistribution, TaskBatch], Tensor]


def score_function(distribution: ActionDistribution, batch: TaskBatch) -> Tensor:
    """Return mean(log pi(a) A), the inner objective of MAML (its equation 5)."""
    return batch.mean(distribution.log_prob(batch.chosen) * batch.advantage)


def likelihood_ratio(distribution: ActionDistribution, batch: TaskBatch) -> Tensor:
    """Return mean(pi(a) / pi_old(a) A): ProMP's objective (its equation 10)."""
    ratio = (distribution.log_prob(batch.chosen) - batch.log_prob).exp()
    return batch.mean(ratio * batch.advantage)


def adapted_weights(
    net: PolicyNet,
    weights: Weights,
    batches: Sequence[TaskBatch],
    inner_lr: float,
    objective: Objective,
    *,
    differentiable: bool = False,
) -> tuple[Weights, list[ActionDistribution]]:
    """Take a gradient step for each batch; also return the distributions before each.

    `differentiable`: the result can be differentiated by the weights before, gradients
    of gradients included.
    """
    distributions = []
    if not differentiable:
        weights = tuple(w.detach().requires_grad_() for w in weights)
    for batch in batches:
        distribution = net.distribution(weights, batch.code)
        gain = objective(distribution, batch).sum()
        gradients = torch.autograd.grad(gain, weights, create_graph=differentiable)
        weights = tuple(
            w + inner_lr * g for w, g in zip(weights, gradients, strict=True)
        )
        if not differentiable:
            weights = tuple(w.detach().requires_grad_() for w in weights)
        distributions.append(distribution)
    return weights, distributions
