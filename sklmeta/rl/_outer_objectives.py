"""Meta-updates of initial weights, by what adapted policies did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sklmeta.rl._distributions import ActionDistribution
from sklmeta.rl._inner_loop import Objective, adapted_weights
from sklmeta.rl._stacked_policy import PolicyNet
from sklmeta.rl._task_batches import TaskBatch
from sklmeta.rl._trust_region import trust_region_step

__all__ = ["clipped_updates", "trust_region_update"]

MAX_GRAD_NORM = 10.0


def clipped_updates(
    net: Any,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[TaskBatch],
    inner_lr: float,
    objective: Objective,
    *,
    n_epochs: int,
    clip_range: float,
    kl_coef: float,
) -> dict[str, float]:
    """Make clipped updates with the same rows, as PPO does; return the last losses."""
    losses: dict[str, Tensor] = {}
    for _ in range(n_epochs):
        adapted, before = _adapted(net, batches, inner_lr, objective)
        ratio = _ratio(adapted, batches[-1])
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        advantage = batches[-1].advantage
        gain = torch.minimum(ratio * advantage, clipped * advantage)
        kl = _inner_kl(before, batches)
        losses = {"policy_loss": -batches[-1].mean(gain).mean(), "kl": kl}
        optimizer.zero_grad(set_to_none=True)
        (losses["policy_loss"] + kl_coef * kl).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), MAX_GRAD_NORM)
        optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def trust_region_update(
    net: Any,
    batches: Sequence[TaskBatch],
    inner_lr: float,
    objective: Objective,
    *,
    max_kl: float,
) -> dict[str, float]:
    """Make a trust-region step of the initial weights."""

    def loss_and_kl() -> tuple[Tensor, Tensor]:
        adapted, _ = _adapted(net, batches, inner_lr, objective)
        batch = batches[-1]
        gain = batch.mean(_ratio(adapted, batch) * batch.advantage)
        divergence = batch.mean(batch.distribution.kl_to(adapted))  # type: ignore[arg-type]
        return -gain.mean(), divergence.mean()

    return trust_region_step(list(net.parameters()), loss_and_kl, max_kl)


def _adapted(
    net: PolicyNet, batches: Sequence[TaskBatch], inner_lr: float, objective: Objective
) -> tuple[ActionDistribution, list[ActionDistribution]]:
    """Return the adapted policies' distributions, and those before each step."""
    weights, before = adapted_weights(
        net,
        net.stacked(len(batches[0].code)),
        batches[:-1],
        inner_lr,
        objective,
        differentiable=True,
    )
    return net.distribution(weights, batches[-1].code), before


def _ratio(distribution: ActionDistribution, batch: TaskBatch) -> Tensor:
    log_ratio = distribution.log_prob(batch.chosen) - batch.log_prob
    return torch.where(batch.valid, log_ratio, 0.0).exp()


def _inner_kl(
    distributions: Sequence[ActionDistribution], batches: Sequence[TaskBatch]
) -> Tensor:
    """Return the mean divergence of policies before each step from what acted."""
    parts = [
        batch.mean(batch.distribution.kl_to(now)).mean()  # type: ignore[arg-type]
        for now, batch in zip(distributions, batches, strict=False)
    ]
    return torch.stack(parts).mean()
