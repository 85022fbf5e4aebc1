r"""Proximal policy optimisation of recurrent policies over trials.

.. math::

    \max_\theta\; \mathbb{E}\big[\min(\rho_t \hat A_t,
    \operatorname{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon) \hat A_t)\big]
    - c_v (V_t - \hat V_t)^2 + c_e H_t,
    \qquad \rho_t = \pi_\theta(a_t) / \pi_{\theta_\text{old}}(a_t)

(Schulman et al. 2017, arXiv:1707.06347).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sklmeta.rl._recurrent_policy import RecurrentPolicy

__all__ = ["PPOSettings", "Sequences", "ppo_update"]


@dataclass(frozen=True)
class PPOSettings:
    """How PPO updates."""

    clip_range: float
    n_epochs: int
    n_minibatches: int
    entropy_coef: float
    value_coef: float
    max_grad_norm: float


@dataclass(frozen=True)
class Sequences:
    """Training data: L steps of N sequences."""

    inputs: Tensor  # (L, N, n_inputs)
    hidden: Tensor  # (N, H)
    action: Tensor  # (L, N) or (L, N, A)
    log_prob: Tensor  # (L, N)
    advantage: Tensor  # (L, N), standardised
    value_target: Tensor  # (L, N), in the critic's units
    valid: Tensor  # (L, N) bool

    def of(self, which: Tensor) -> Sequences:
        """Return some of the sequences."""
        return Sequences(
            self.inputs[:, which],
            self.hidden[which],
            self.action[:, which],
            self.log_prob[:, which],
            self.advantage[:, which],
            self.value_target[:, which],
            self.valid[:, which],
        )


def ppo_update(
    policy: RecurrentPolicy,
    optimizer: torch.optim.Optimizer,
    data: Sequences,
    settings: PPOSettings,
    generator: torch.Generator,
) -> dict[str, float]:
    """Update a policy by some epochs over data; return mean losses."""
    n_sequences = len(data.hidden)
    n_parts = min(settings.n_minibatches, n_sequences)
    records = []
    for _ in range(settings.n_epochs):
        order = torch.randperm(
            n_sequences, generator=generator, device=generator.device
        )
        for part in order.tensor_split(n_parts):
            losses = _losses(policy, data.of(part), settings.clip_range)
            total = (
                losses["policy_loss"]
                + settings.value_coef * losses["value_loss"]
                - settings.entropy_coef * losses["entropy"]
            )
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), settings.max_grad_norm)
            optimizer.step()
            records.append(torch.stack([v.detach() for v in losses.values()]))
    means = torch.stack(records).mean(0).tolist()
    return dict(zip(losses, means, strict=True))


def _losses(
    policy: RecurrentPolicy, data: Sequences, clip_range: float
) -> dict[str, Tensor]:
    distribution, value = policy.sequences(data.inputs, data.hidden)
    log_ratio = distribution.log_prob(data.action) - data.log_prob
    log_ratio = torch.where(data.valid, log_ratio, 0.0)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    gain = torch.minimum(ratio * data.advantage, clipped * data.advantage)
    error = (value - data.value_target).square()
    return {
        "policy_loss": -_mean(gain, data.valid),
        "value_loss": _mean(error, data.valid),
        "entropy": _mean(distribution.entropy(), data.valid),
        # Schulman's estimate, never negative: http://joschu.net/blog/kl-approx.html
        "kl": _mean(ratio - 1 - log_ratio, data.valid),
    }


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)
