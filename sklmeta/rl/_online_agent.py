"""Agents that learn a task while they act in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklmeta.rl._online import OnlinePolicy
from sklmeta.rl._trials import Trials, run_trials
from sklmeta.rl.base import CPU, BaseAgent

__all__ = ["OnlineAgent"]


class OnlineAgent(BaseAgent):
    """Base of agents whose policy keeps what it knows of a trial in its state."""

    def _online_policy(self, device: torch.device) -> OnlinePolicy:
        """Return the policy, on a device."""
        raise NotImplementedError

    def _unadapted(self) -> tuple[OnlinePolicy, Any]:
        policy = self._online_policy(CPU)
        return policy, policy.initial(1, CPU)

    def _adapt_in(
        self, envs: Any, copies: int, n_episodes: int, generator: torch.Generator
    ) -> tuple[OnlinePolicy, Any, Tensor]:
        policy, trials = self._trials(envs, n_episodes, generator)
        return policy, trials.state, trials.returns

    def _curves_in(
        self, envs: Any, copies: int, n_episodes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        _, trials = self._trials(envs, n_episodes, generator)
        return trials.returns, trials.success

    def _trials(
        self, envs: Any, n_episodes: int, generator: torch.Generator
    ) -> tuple[OnlinePolicy, Trials]:
        policy = self._online_policy(generator.device)
        trials = run_trials(
            policy, envs, n_episodes, generator, deterministic=self.deterministic
        )
        return policy, trials
