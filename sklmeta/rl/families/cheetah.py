"""MuJoCo's half cheetah, with a direction or a velocity as its goal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
from sklearn.utils import check_random_state

from sklmeta._parameters import check_integer, check_not_negative, check_positive
from sklmeta.rl.tasks import EnvTask

__all__ = [
    "CheetahDirectionEnv",
    "CheetahVelocityEnv",
    "HalfCheetahDirection",
    "HalfCheetahVelocity",
]


class _CheetahEnv(gymnasium.Wrapper):
    """The half cheetah with a reward of its own for how fast it runs."""

    def __init__(self, render_mode: str | None) -> None:
        try:
            env = gymnasium.make("HalfCheetah-v5", render_mode=render_mode)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ImportError(
                "The half cheetah needs MuJoCo. Install it: pip install 'sklmeta[rl]'"
            ) from error
        # The episode's length is the task's to say.
        super().__init__(env.unwrapped)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step, and reward how fast the robot runs, less its control costs."""
        observation, _, terminated, truncated, info = self.env.step(action)
        reward = self._running_reward(info["x_velocity"]) + info["reward_ctrl"]
        return observation, float(reward), terminated, truncated, info

    def _running_reward(self, velocity: float) -> float:
        raise NotImplementedError


class CheetahDirectionEnv(_CheetahEnv):
    """The half cheetah rewarded for its velocity along a direction.

    Parameters
    ----------
    direction : {1, -1}
        Forward or backward.
    render_mode : {"rgb_array"}, default=None
        What `render` gives.
    """

    def __init__(self, direction: int, render_mode: str | None = None) -> None:
        if direction not in (1, -1):
            raise ValueError(f"direction must be 1 or -1, got {direction!r}.")
        super().__init__(render_mode)
        self.direction = direction

    def _running_reward(self, velocity: float) -> float:
        return self.direction * velocity


class CheetahVelocityEnv(_CheetahEnv):
    """The half cheetah rewarded by minus its velocity's distance from a target.

    Parameters
    ----------
    velocity : float
        The target, in metres per second.
    render_mode : {"rgb_array"}, default=None
        What `render` gives.
    """

    def __init__(self, velocity: float, render_mode: str | None = None) -> None:
        check_not_negative("velocity", velocity)
        super().__init__(render_mode)
        self.velocity = velocity

    def _running_reward(self, velocity: float) -> float:
        return -abs(velocity - self.velocity)


@dataclass(frozen=True)
class HalfCheetahDirection:
    """Half cheetahs that are to run forward or backward, either as likely.

    Parameters
    ----------
    horizon : int, default=200
        Steps of an episode.

    References
    ----------
    Finn et al. 2017 (arXiv:1703.03400), section 5.3. The robot is gymnasium's
    HalfCheetah-v5 instead of rllab's, with its control cost, twice the authors'.
    """

    horizon: int = 200

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1)

    def sample(self, n_tasks: int, random_state: Any = None) -> list[EnvTask]:
        """Draw directions.

        Parameters
        ----------
        n_tasks : int
            How many.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        list of EnvTask
            A direction each; their `group` says which.
        """
        directions = check_random_state(random_state).choice([1, -1], size=n_tasks)
        return [
            EnvTask(
                CheetahDirectionEnv,
                {"direction": int(direction)},
                name=i,
                group="forward" if direction == 1 else "backward",
                max_episode_steps=self.horizon,
            )
            for i, direction in enumerate(directions)
        ]


@dataclass(frozen=True)
class HalfCheetahVelocity:
    """Half cheetahs that are to run at velocities drawn from U[0, fastest].

    Parameters
    ----------
    fastest : float, default=3.0
        Largest target, in metres per second.
    horizon : int, default=200
        Steps of an episode.

    References
    ----------
    Finn et al. 2017 (arXiv:1703.03400), section 5.3. The robot is gymnasium's
    HalfCheetah-v5 instead of rllab's, with its control cost, twice the authors';
    targets lie in [0, 3] as in later comparisons (the paper says [0, 2]).
    """

    fastest: float = 3.0
    horizon: int = 200

    def __post_init__(self) -> None:
        check_positive("fastest", self.fastest)
        check_integer("horizon", self.horizon, 1)

    def sample(self, n_tasks: int, random_state: Any = None) -> list[EnvTask]:
        """Draw velocities.

        Parameters
        ----------
        n_tasks : int
            How many.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        list of EnvTask
            A velocity each.
        """
        rng = check_random_state(random_state)
        return [
            EnvTask(
                CheetahVelocityEnv,
                {"velocity": float(velocity)},
                name=i,
                group="velocity",
                max_episode_steps=self.horizon,
            )
            for i, velocity in enumerate(rng.uniform(0, self.fastest, size=n_tasks))
        ]
