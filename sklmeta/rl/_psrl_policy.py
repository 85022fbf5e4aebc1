r"""Posterior sampling for tabular processes (PSRL).

At the start of each episode a process is drawn from the posterior, and the optimal
policy of what was drawn is followed: transitions have Dirichlet(1) priors, mean rewards
N(1, 1) priors and unit noise (Strens 2000; Osband et al. 2013, arXiv:1306.0940).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sklmeta.rl._online import Decision, Experience

__all__ = ["PSRLPolicy", "TabularKnowledge", "optimal_actions"]


class TabularKnowledge(NamedTuple):
    """What B trials know of processes with S states and A actions."""

    transitions: Tensor  # (B, S, A, S) counts
    reward_sums: Tensor  # (B, S, A)
    plan: Tensor  # (B, H, S) actions of this episode
    step: Tensor  # (B,) of this episode; the plan is made at 0


class PSRLPolicy:
    """Posterior sampling: an `OnlinePolicy`.

    Parameters
    ----------
    n_states, n_actions : int
        Size of the processes.
    horizon : int
        Steps of an episode.
    """

    def __init__(self, n_states: int, n_actions: int, horizon: int) -> None:
        self.n_states, self.n_actions, self.horizon = n_states, n_actions, horizon

    def initial(self, n_trials: int, device: torch.device) -> TabularKnowledge:
        shape = (n_trials, self.n_states, self.n_actions)
        return TabularKnowledge(
            torch.zeros(*shape, self.n_states, device=device),
            torch.zeros(shape, device=device),
            torch.zeros(
                (n_trials, self.horizon, self.n_states), dtype=torch.long, device=device
            ),
            torch.zeros(n_trials, dtype=torch.long, device=device),
        )

    def act(
        self,
        state: TabularKnowledge,
        observation: Tensor,
        generator: torch.Generator,
        deterministic: bool = False,
    ) -> Decision:
        state = self._planned(state, generator, deterministic)
        rows = torch.arange(len(observation), device=observation.device)
        step = state.step.clamp(max=self.horizon - 1)
        return Decision(state.plan[rows, step, observation], state, {})

    def observe(
        self, state: TabularKnowledge, experience: Experience
    ) -> TabularKnowledge:
        rows = torch.arange(len(state.step), device=state.step.device)
        where = rows, experience.observation, experience.action
        one = torch.ones_like(experience.reward)
        transitions = state.transitions.index_put(
            (*where, experience.next_observation), one, accumulate=True
        )
        sums = state.reward_sums.index_put(where, experience.reward, accumulate=True)
        return TabularKnowledge(transitions, sums, state.plan, state.step + 1)

    def begin_episode(
        self, state: TabularKnowledge, mask: Tensor, generator: torch.Generator
    ) -> TabularKnowledge:
        return state._replace(step=state.step.masked_fill(mask, 0))

    def _planned(
        self, state: TabularKnowledge, generator: torch.Generator, mean: bool
    ) -> TabularKnowledge:
        """Return the state with plans where an episode begins.

        Optimal ones for processes drawn from the posterior, or for its `mean`.
        """
        begins = state.step == 0
        if not begins.any():
            return state
        counts, sums = state.transitions[begins], state.reward_sums[begins]
        seen = counts.sum(-1)
        reward_mean, reward_precision = (1 + sums) / (1 + seen), 1 + seen
        if mean:
            transitions, rewards = counts + 1, reward_mean
        else:
            transitions = _gamma(counts + 1, generator)
            noise = torch.empty_like(sums).normal_(generator=generator)
            rewards = reward_mean + noise / reward_precision.sqrt()
        transitions = transitions / transitions.sum(-1, keepdim=True)
        plan = state.plan.clone()
        plan[begins] = optimal_actions(transitions, rewards, self.horizon)
        return state._replace(plan=plan)


def optimal_actions(transitions: Tensor, rewards: Tensor, horizon: int) -> Tensor:
    """Return the best actions (B, horizon, S) of processes, by backward induction."""
    value = torch.zeros_like(rewards[..., 0])
    plan = []
    for _ in range(horizon):
        gain = rewards + (transitions @ value[:, None, :, None])[..., 0]
        value, action = gain.max(-1)
        plan.append(action)
    return torch.stack(plan[::-1], 1)


def _gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Return gamma draws; torch's own take no generator."""
    seed = torch.randint(2**31, (), generator=generator, device=generator.device)
    rng = np.random.default_rng(int(seed))
    drawn = rng.standard_gamma(shape.cpu().numpy())
    return torch.as_tensor(drawn, dtype=shape.dtype, device=shape.device)
