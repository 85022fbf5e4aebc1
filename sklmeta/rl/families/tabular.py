"""Random tabular Markov decision processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from sklmeta._parameters import check_integer
from sklmeta.rl._simulators import Noise, Simulator
from sklmeta.rl.tasks import EnvTask

__all__ = ["TabularMDPEnv", "TabularMDPs"]


class TabularMDPEnv(gymnasium.Env):
    """A Markov decision process given by its tables.

    Every episode starts in state 0; its length is the task's `max_episode_steps`. The
    reward of action a in state s is ``mean_rewards[s, a]`` plus standard normal noise.

    Parameters
    ----------
    transitions : array-like of shape (n_states, n_actions, n_states)
        Probabilities of the next state.
    mean_rewards : array-like of shape (n_states, n_actions)
        Mean rewards.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, transitions: ArrayLike, mean_rewards: ArrayLike) -> None:
        self.transitions = np.asarray(transitions, dtype=np.float64)
        self.mean_rewards = np.asarray(mean_rewards, dtype=np.float64)
        _check_tables(self.transitions, self.mean_rewards, 2)
        n_states, n_actions = self.mean_rewards.shape
        self.observation_space = Discrete(n_states)
        self.action_space = Discrete(n_actions)
        self._cumulated = self.transitions.cumsum(-1)
        self._state = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Begin an episode in state 0."""
        super().reset(seed=seed)
        self._state = 0
        return self._state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Draw the next state and the reward."""
        limits = self._cumulated[self._state, action, :-1]
        following = int(np.searchsorted(limits, self.np_random.random(), "right"))
        mean = self.mean_rewards[self._state, action]
        reward = float(mean + self.np_random.standard_normal())
        self._state = following
        return following, reward, False, False, {}

    @classmethod
    def simulator(
        cls,
        kwargs: Sequence[Mapping[str, Any]],
        max_episode_steps: int | None,
        noise: Noise,
        device: torch.device,
    ) -> Simulator:
        """Return the processes of many tasks as one simulator."""
        transitions = np.stack([np.asarray(k["transitions"]) for k in kwargs])
        rewards = np.stack([np.asarray(k["mean_rewards"]) for k in kwargs])
        _check_tables(transitions, rewards, 3)
        return _TabularMDPs(
            torch.as_tensor(transitions.cumsum(-1), dtype=torch.float32, device=device),
            torch.as_tensor(rewards, dtype=torch.float32, device=device),
            max_episode_steps,
            noise,
            device,
        )


def _check_tables(
    transitions: NDArray[np.float64], mean_rewards: NDArray[np.float64], n_axes: int
) -> None:
    if mean_rewards.ndim != n_axes or transitions.shape != (
        *mean_rewards.shape,
        mean_rewards.shape[-2],
    ):
        raise ValueError(
            "transitions must have shape (n_states, n_actions, n_states) and "
            f"mean_rewards (n_states, n_actions), got {transitions.shape} and "
            f"{mean_rewards.shape}."
        )
    if (transitions < 0).any() or not np.allclose(transitions.sum(-1), 1):
        raise ValueError(
            "transitions must be probabilities: not negative, with sums of 1 over the "
            "last axis."
        )
    if not np.isfinite(mean_rewards).all():
        raise ValueError("mean_rewards must be finite numbers.")


class _TabularMDPs(Simulator):
    def __init__(
        self,
        cumulated: Tensor,  # (B, S, A, S)
        mean_rewards: Tensor,  # (B, S, A)
        max_episode_steps: int | None,
        noise: Noise,
        device: torch.device,
    ) -> None:
        n_envs, n_states, n_actions = mean_rewards.shape
        spaces = Discrete(n_states), Discrete(n_actions)
        super().__init__(n_envs, *spaces, max_episode_steps, noise, device)
        self.cumulated, self.mean_rewards = cumulated, mean_rewards
        self._rows = torch.arange(n_envs, device=device)
        self._state = torch.zeros(n_envs, dtype=torch.long, device=device)
        self._never = ~self._all

    def _begin(self, mask: Tensor) -> None:
        self._state = self._state.masked_fill(mask, 0)

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        limits = self.cumulated[self._rows, self._state, actions, :-1]
        chance = self.noise.uniform(self.n_envs)
        mean = self.mean_rewards[self._rows, self._state, actions]
        self._state = (chance[:, None] >= limits).sum(-1)
        return mean + self.noise.normal(self.n_envs), self._never

    def _observe(self) -> Tensor:
        return self._state


@dataclass(frozen=True)
class TabularMDPs:
    """Processes with transitions ~ Dirichlet(1) and mean rewards ~ N(1, 1).

    Parameters
    ----------
    n_states : int, default=10
        Number of states.
    n_actions : int, default=5
        Number of actions.
    horizon : int, default=10
        Steps of an episode.

    References
    ----------
    The processes of Duan et al., *RL^2: Fast Reinforcement Learning via Slow
    Reinforcement Learning*, 2016 (arXiv:1611.02779), section 3.2, after Osband et al.
    2013 (arXiv:1306.0940).

    Examples
    --------
    >>> from sklmeta.rl import TabularMDPs
    >>> task = TabularMDPs(n_states=3, n_actions=2).sample(1, random_state=0)[0]
    >>> task.kwargs["transitions"].shape, task.max_episode_steps
    ((3, 2, 3), 10)
    """

    n_states: int = 10
    n_actions: int = 5
    horizon: int = 10

    def __post_init__(self) -> None:
        for name in ("n_states", "n_actions", "horizon"):
            check_integer(name, getattr(self, name), 1)

    def sample(self, n_tasks: int, random_state: Any = None) -> list[EnvTask]:
        """Draw processes.

        Parameters
        ----------
        n_tasks : int
            How many.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        list of EnvTask
            The processes.
        """
        rng = check_random_state(random_state)
        shape = (n_tasks, self.n_states, self.n_actions)
        transitions = rng.dirichlet(np.ones(self.n_states), size=shape)
        rewards = rng.normal(1.0, 1.0, size=shape)
        group = f"{self.n_states} states, {self.n_actions} actions"
        return [
            EnvTask(
                TabularMDPEnv,
                {"transitions": transitions[i], "mean_rewards": rewards[i]},
                name=i,
                group=group,
                max_episode_steps=self.horizon,
            )
            for i in range(n_tasks)
        ]
