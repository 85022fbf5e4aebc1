"""Bernoulli bandits: arms that pay 1 or 0, each with a probability of its own."""

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

__all__ = ["BanditEnv", "BernoulliBandits"]


class BanditEnv(gymnasium.Env):
    """A bandit: pulling arm i pays 1 with probability ``probabilities[i]``, else 0.

    An episode is one pull, so that ``n_episodes=10`` of an agent are ten pulls. The
    observation is always 0.

    Parameters
    ----------
    probabilities : array-like of shape (n_arms,)
        In [0, 1].
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, probabilities: ArrayLike) -> None:
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        _check_probabilities(self.probabilities, 1)
        self.observation_space = Discrete(1)
        self.action_space = Discrete(len(self.probabilities))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Pull an arm."""
        paid = self.np_random.random() < self.probabilities[action]
        return 0, float(paid), True, False, {}

    @classmethod
    def simulator(
        cls,
        kwargs: Sequence[Mapping[str, Any]],
        max_episode_steps: int | None,
        noise: Noise,
        device: torch.device,
    ) -> Simulator:
        """Return the bandits of many tasks as one simulator."""
        table = np.stack([np.asarray(k["probabilities"]) for k in kwargs])
        _check_probabilities(table, 2)
        probabilities = torch.as_tensor(table, dtype=torch.float32, device=device)
        return _Bandits(probabilities, max_episode_steps, noise, device)


def _check_probabilities(p: NDArray[np.float64], n_axes: int) -> None:
    if p.ndim != n_axes or not p.shape[-1] or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"probabilities must be numbers in [0, 1], one per arm, got {p}."
        )


class _Bandits(Simulator):
    def __init__(
        self,
        probabilities: Tensor,  # (B, A)
        max_episode_steps: int | None,
        noise: Noise,
        device: torch.device,
    ) -> None:
        n_envs, n_arms = probabilities.shape
        super().__init__(
            n_envs, Discrete(1), Discrete(n_arms), max_episode_steps, noise, device
        )
        self.probabilities = probabilities
        self._nothing = torch.zeros(n_envs, dtype=torch.long, device=device)

    def _begin(self, mask: Tensor) -> None:
        pass

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        chance = self.probabilities.gather(1, actions[:, None])[:, 0]
        paid = self.noise.uniform(self.n_envs) < chance
        return paid.float(), self._all

    def _observe(self) -> Tensor:
        return self._nothing


@dataclass(frozen=True)
class BernoulliBandits:
    """Bandits whose arms pay with probabilities drawn from U[0, 1].

    Parameters
    ----------
    n_arms : int, default=5
        Number of arms.

    References
    ----------
    The bandits of Duan et al., *RL^2: Fast Reinforcement Learning via Slow
    Reinforcement Learning*, 2016 (arXiv:1611.02779), section 3.1.

    Examples
    --------
    >>> from sklmeta.rl import BernoulliBandits
    >>> tasks = BernoulliBandits(n_arms=3).sample(2, random_state=0)
    >>> tasks[0].kwargs["probabilities"].round(2)
    array([0.55, 0.72, 0.6 ])
    """

    n_arms: int = 5

    def __post_init__(self) -> None:
        check_integer("n_arms", self.n_arms, 1)

    def sample(self, n_tasks: int, random_state: Any = None) -> list[EnvTask]:
        """Draw bandits.

        Parameters
        ----------
        n_tasks : int
            How many.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        list of EnvTask
            An episode of each is one pull.
        """
        rng = check_random_state(random_state)
        table = rng.uniform(size=(n_tasks, self.n_arms))
        return [
            EnvTask(
                BanditEnv, {"probabilities": p}, name=i, group=f"{self.n_arms} arms"
            )
            for i, p in enumerate(table)
        ]
