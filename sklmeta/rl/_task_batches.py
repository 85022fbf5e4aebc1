"""What policies did in T tasks, as rows with advantages for policy gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklmeta.rl._advantages import advantage_estimates, discounted_sums
from sklmeta.rl._distributions import (
    ActionDistribution,
    CategoricalActions,
    NormalActions,
)
from sklmeta.rl._stacked_policy import PolicyNet
from sklmeta.rl._trials import Rollout

__all__ = ["TaskBatch", "task_batch"]

# Added to the diagonal of the baseline's normal equations.
RIDGE = 1e-5


@dataclass(frozen=True)
class TaskBatch:
    """Rows of T tasks, N each."""

    code: Tensor  # (T, N, width) what the net reads
    chosen: Tensor  # (T, N) or (T, N, A) actions as the distribution gave them
    log_prob: Tensor  # (T, N) when they were chosen
    distribution: ActionDistribution  # (T, N, ...) they were chosen from
    advantage: Tensor  # (T, N) standardised in each task; 0 where not valid
    valid: Tensor  # (T, N) bool

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values (T, N) over the valid rows of each task, (T,)."""
        kept = torch.where(self.valid, values, 0.0)
        return kept.sum(1) / self.valid.sum(1).clamp(min=1)


def task_batch(
    net: PolicyNet, rollout: Rollout, n_tasks: int, gamma: float, gae_lambda: float
) -> TaskBatch:
    """Return what happened in the environments of T tasks, (T R) of them."""
    advantage = _advantages(net, rollout, n_tasks, gamma, gae_lambda)
    valid = _by_task(rollout.valid, n_tasks)
    recorded = {k: _by_task(v, n_tasks) for k, v in rollout.recorded.items()}
    if net.action.is_discrete:
        distribution: ActionDistribution = CategoricalActions(recorded["logits"])
    else:
        distribution = NormalActions(recorded["mean"], recorded["log_std"])
    return TaskBatch(
        recorded["code"],
        recorded["chosen"],
        recorded["log_prob"],
        distribution,
        _standardised(_by_task(advantage, n_tasks), valid),
        valid,
    )


def _by_task(steps: Tensor, n_tasks: int) -> Tensor:
    """Return (L, T R, ...) as (T, L R, ...)."""
    n_steps, n_envs = steps.shape[:2]
    own = steps.view(n_steps, n_tasks, n_envs // n_tasks, *steps.shape[2:])
    return own.transpose(0, 1).flatten(1, 2)


def _standardised(values: Tensor, valid: Tensor) -> Tensor:
    count = valid.sum(1, keepdim=True).clamp(min=1)
    mean = values.sum(1, keepdim=True) / count  # values are 0 where not valid
    centred = torch.where(valid, values - mean, 0.0)
    spread = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / (spread + 1e-8)


def _advantages(
    net: PolicyNet, rollout: Rollout, n_tasks: int, gamma: float, gae_lambda: float
) -> Tensor:
    """Return advantages (L, B) above a baseline that is fitted in each task."""
    ended = rollout.ended
    reward = torch.where(rollout.valid, rollout.reward, 0.0)
    time = _steps_since_start(ended, rollout.valid)
    now = _features(net.observation.code(rollout.observation), time)
    then = _features(net.observation.code(rollout.next_observation), time + 1)
    returns = discounted_sums(reward, ended, gamma)
    weights = _least_squares(
        _by_task(now, n_tasks),
        _by_task(returns, n_tasks),
        _by_task(rollout.valid, n_tasks),
    )
    n_each = rollout.valid.shape[1] // n_tasks
    own = weights.repeat_interleave(n_each, 0)  # (B, F)
    value, next_value = (now * own).sum(-1), (then * own).sum(-1)
    advantage = advantage_estimates(
        reward, value, next_value, rollout.terminated, ended, gamma, gae_lambda
    )
    return torch.where(rollout.valid, advantage, 0.0)


def _steps_since_start(ended: Tensor, valid: Tensor) -> Tensor:
    """Return the place of each step in its episode, (L, B)."""
    count = torch.zeros_like(ended[0], dtype=torch.float32)
    places = []
    for over, counts in zip(ended, valid, strict=True):
        places.append(count)
        count = torch.where(over, 0.0, count + counts)
    return torch.stack(places)


def _features(code: Tensor, time: Tensor) -> Tensor:
    """Return the features of the linear baseline of Duan et al. 2016, (L, B, F).

    They are observations and their squares, and powers of time (arXiv:1604.06778).
    """
    code = code.clamp(-10, 10)
    t = time[..., None] / 100
    return torch.cat([code, code.square(), t, t.square(), t**3, torch.ones_like(t)], -1)


def _least_squares(features: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Return ridge regression weights (T, F) of rows (T, N, F), in float64."""
    X = torch.where(valid[..., None], features, 0.0).double()
    y = torch.where(valid, targets, 0.0).double()
    gram = X.mT @ X
    ridge = RIDGE * (1 + gram.diagonal(dim1=-2, dim2=-1).mean(-1))
    eye = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    system = gram + ridge[:, None, None] * eye
    return torch.linalg.solve(system, (X.mT @ y[..., None]))[..., 0].float()
