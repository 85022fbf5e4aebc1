"""One episode of a policy in one environment: the control loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Episode", "act_episode"]


@dataclass(frozen=True)
class Episode:
    """What happened in an episode.

    Parameters
    ----------
    observations : list
        One more than there are steps.
    actions : list
        What was done.
    rewards : list of float
        What it earned.
    success : bool
        Whether ``info["success"]`` was above 0 in any step.
    """

    observations: list[Any]
    actions: list[Any]
    rewards: list[float]
    success: bool


def act_episode(policy: Any, env: Any, seed: int | None = None) -> Episode:
    """Let a policy act in an environment till the end of an episode.

    Parameters
    ----------
    policy : AdaptedPolicy
        What `adapt` returned; it acts on, and remembers.
    env : gymnasium.Env
        Where; it is reset first, and not closed.
    seed : int, default=None
        Seed of the reset.

    Returns
    -------
    Episode
        What happened.
    """
    observation, _ = env.reset(seed=seed)
    policy.begin_episode()
    observations, actions, rewards = [observation], [], []
    ended, success = False, False
    while not ended:
        action = policy.act(observation)
        observation, reward, terminated, truncated, info = env.step(action)
        policy.observe(observation, reward, terminated, truncated)
        observations.append(observation)
        actions.append(action)
        rewards.append(float(reward))
        success = success or bool(info.get("success", 0) > 0)
        ended = terminated or truncated
    return Episode(observations, actions, rewards, success)
