"""Trials: a number of episodes of one policy in each of B environments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from sklmeta.rl._batched import BatchedEnvs, Step
from sklmeta.rl._online import Decision, Experience, OnlinePolicy

__all__ = ["Rollout", "Trials", "run_trials"]

# Steps after which an episode that does not end is taken for one that never will.
LONGEST_EPISODE = 100_000


@dataclass(frozen=True)
class Rollout:
    """Every step of B trials, time first; T is the longest trial."""

    observation: Tensor  # (T, B, *observation)
    action: Tensor  # (T, B, *action)
    reward: Tensor  # (T, B)
    next_observation: Tensor  # (T, B, *observation)
    terminated: Tensor  # (T, B) bool
    truncated: Tensor  # (T, B) bool
    # False after the end of a trial; such steps must enter no statistic.
    valid: Tensor  # (T, B) bool
    episode: Tensor  # (T, B) which episode of its trial
    recorded: dict[str, Tensor]  # (T, B, ...) what the policy recorded when acting

    @property
    def ended(self) -> Tensor:
        """Where an episode ended, (T, B) bool."""
        return (self.terminated | self.truncated) & self.valid


@dataclass(frozen=True)
class Trials:
    """What B trials gave."""

    returns: Tensor  # (B, n_episodes) undiscounted, of each episode
    lengths: Tensor  # (B, n_episodes) steps of each episode
    # Whether each episode reached what the environment calls success at any step; NaN
    # where environments do not say.
    success: Tensor  # (B, n_episodes)
    state: Any  # what the policy knows at the end
    rollout: Rollout | None  # every step, where asked for

    @property
    def n_steps(self) -> int:
        """Environment steps in all."""
        return int(self.lengths.sum())


def run_trials(
    policy: OnlinePolicy,
    envs: BatchedEnvs,
    n_episodes: int,
    generator: torch.Generator,
    *,
    state: Any = None,
    deterministic: bool = False,
    record: bool = False,
) -> Trials:
    """Let a policy act for a number of episodes in every environment.

    Parameters
    ----------
    policy : OnlinePolicy
        Who acts.
    envs : BatchedEnvs
        Where, one trial each; not closed.
    n_episodes : int
        Episodes of each trial.
    generator : torch.Generator
        Chance of the policy.
    state : pytree, default=None
        What the policy knows already; by default nothing.
    deterministic : bool, default=False
        Whether the likeliest actions are taken.
    record : bool, default=False
        Whether the result holds every step.

    Returns
    -------
    Trials
        Returns of the episodes, and the steps where asked for.
    """
    if state is None:
        state = policy.initial(envs.n_envs, generator.device)
    observation = envs.reset()
    count = _EpisodeCount(envs.n_envs, n_episodes, observation.device)
    steps: list[_Recorded] = []
    while count.running.any():
        decision = policy.act(state, observation, generator, deterministic)
        step = envs.step(decision.action)
        valid = count.running & step.valid
        if record:
            steps.append(_Recorded(observation, decision, step, valid, count.episode))
        state = _known_after(policy, state, observation, decision, step, valid)
        again = count.add(step, valid)
        observation = step.observation
        if again.any():
            observation = envs.reset(again)
            state = policy.begin_episode(state, again, generator)
    rollout = _stacked(steps) if record else None
    return Trials(count.returns, count.lengths, count.success, state, rollout)


@dataclass(frozen=True)
class _Recorded:
    observation: Tensor
    decision: Decision
    step: Step
    valid: Tensor
    episode: Tensor


class _EpisodeCount:
    """Adds up rewards by episode, and knows which trials go on."""

    def __init__(self, n_trials: int, n_episodes: int, device: torch.device) -> None:
        self.n_episodes = n_episodes
        self.returns = torch.zeros(n_trials, n_episodes, device=device)
        self.lengths = torch.zeros(
            n_trials, n_episodes, dtype=torch.long, device=device
        )
        self.success = torch.full_like(self.returns, torch.nan)
        self.episode = torch.zeros(n_trials, dtype=torch.long, device=device)

    @property
    def running(self) -> Tensor:
        return self.episode < self.n_episodes

    def add(self, step: Step, valid: Tensor) -> Tensor:
        """Count a step; return which trials begin a further episode (B,)."""
        column = self.episode.clamp(max=self.n_episodes - 1)[:, None]
        gained = torch.where(valid, step.reward, 0.0)
        self.returns.scatter_add_(1, column, gained[:, None].to(self.returns.dtype))
        self.lengths.scatter_add_(1, column, valid.long()[:, None])
        if step.success is not None:
            self._add_success(step.success, valid, column)
        ended = (step.terminated | step.truncated) & valid
        self._refuse_endless()
        self.episode = self.episode + ended
        return ended & self.running

    def _add_success(self, success: Tensor, valid: Tensor, column: Tensor) -> None:
        before = self.success.gather(1, column)[:, 0]
        now = torch.fmax(before, success.to(before.dtype))
        self.success.scatter_(1, column, torch.where(valid, now, before)[:, None])

    def _refuse_endless(self) -> None:
        if int(self.lengths.max()) > LONGEST_EPISODE:
            raise ValueError(
                f"An episode did not end within {LONGEST_EPISODE:,} steps. Give the "
                "environment tasks max_episode_steps."
            )


def _known_after(
    policy: OnlinePolicy,
    state: Any,
    observation: Tensor,
    decision: Decision,
    step: Step,
    valid: Tensor,
) -> Any:
    """Return what the policy knows after a step; nothing new where it was not valid."""
    experience = Experience(
        observation,
        decision.action,
        step.reward,
        step.observation,
        step.terminated,
        step.truncated,
    )
    after = policy.observe(decision.state, experience)
    if valid.all():
        return after
    return tree_map(lambda new, old: _where(valid, new, old), after, state)


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)


def _stacked(steps: Sequence[_Recorded]) -> Rollout:
    recorded = {
        name: torch.stack([s.decision.recorded[name] for s in steps])
        for name in steps[0].decision.recorded
    }
    return Rollout(
        observation=torch.stack([s.observation for s in steps]),
        action=torch.stack([s.decision.action for s in steps]),
        reward=torch.stack([s.step.reward for s in steps]),
        next_observation=torch.stack([s.step.observation for s in steps]),
        terminated=torch.stack([s.step.terminated for s in steps]),
        truncated=torch.stack([s.step.truncated for s in steps]),
        valid=torch.stack([s.valid for s in steps]),
        episode=torch.stack([s.episode for s in steps]),
        recorded=recorded,
    )
