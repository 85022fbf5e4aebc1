"""Point navigation: move to a goal that only rewards tell of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from sklmeta._parameters import check_integer
from sklmeta.rl._pictures import blank, disc
from sklmeta.rl._simulators import Noise, Simulator
from sklmeta.rl.tasks import EnvTask

__all__ = ["PointGoalEnv", "PointGoals"]

LONGEST_STEP = 0.1
# Half the width of what is drawn.
VIEW = 1.0


def _spaces() -> tuple[Box, Box]:
    observation = Box(-np.inf, np.inf, (2,), np.float32)
    return observation, Box(-LONGEST_STEP, LONGEST_STEP, (2,), np.float32)


class PointGoalEnv(gymnasium.Env):
    """A point in the plane that is rewarded by minus its distance to a goal.

    It starts in (0, 0); an action moves it by at most 0.1 along each axis. The
    observation is its position: where the goal is shows in the rewards only. An episode
    ends at the goal.

    Parameters
    ----------
    goal : array-like of shape (2,)
        Where to go.
    goal_radius : float, default=0.01
        An episode ends where both coordinates are as near as that.
    render_mode : {"rgb_array"}, default=None
        What `render` gives.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        goal: ArrayLike,
        goal_radius: float = 0.01,
        render_mode: str | None = None,
    ) -> None:
        self.goal = np.asarray(goal, dtype=np.float64)
        self.goal_radius = goal_radius
        _check_goal(self.goal, goal_radius, ())
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces()
        self._trail = [np.zeros(2)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode in (0, 0)."""
        super().reset(seed=seed)
        self._trail = [np.zeros(2)]
        return np.zeros(2, dtype=np.float32), {}

    def step(
        self, action: ArrayLike
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move."""
        move = np.clip(np.asarray(action, float), -LONGEST_STEP, LONGEST_STEP)
        position = self._trail[-1] + move
        self._trail.append(position)
        away = position - self.goal
        arrived = bool((np.abs(away) < self.goal_radius).all())
        return (
            position.astype(np.float32),
            -float(np.hypot(*away)),
            arrived,
            False,
            {"success": float(arrived)},
        )

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture (128, 128, 3) of the trail and the goal."""
        if self.render_mode is None:
            return None
        picture = blank()
        disc(picture, self.goal / VIEW, 0.05, (40, 160, 60))
        for position in self._trail[:-1]:
            disc(picture, position / VIEW, 0.015, (190, 190, 190))
        disc(picture, self._trail[-1] / VIEW, 0.04, (30, 80, 200))
        return picture

    @classmethod
    def simulator(
        cls,
        kwargs: Sequence[Mapping[str, Any]],
        max_episode_steps: int | None,
        noise: Noise,
        device: torch.device,
    ) -> Simulator:
        """Return the points of many tasks as one simulator."""
        goals = np.stack([np.asarray(k["goal"]) for k in kwargs])
        radii = np.array([k.get("goal_radius", 0.01) for k in kwargs])
        _check_goal(goals, radii, radii.shape)
        return _Points(
            torch.as_tensor(goals, dtype=torch.float32, device=device),
            torch.as_tensor(radii, dtype=torch.float32, device=device),
            max_episode_steps,
            noise,
            device,
        )


def _check_goal(
    goal: NDArray[np.float64], radius: ArrayLike, before: tuple[int, ...]
) -> None:
    """Check goals (*before, 2) and their radii."""
    if goal.shape != (*before, 2) or not np.isfinite(goal).all():
        raise ValueError(f"goal must be two finite numbers, got {goal}.")
    if not (np.asarray(radius) > 0).all():
        raise ValueError(f"goal_radius must be above 0, got {radius!r}.")


class _Points(Simulator):
    def __init__(
        self,
        goals: Tensor,  # (B, 2)
        radii: Tensor,  # (B,)
        max_episode_steps: int | None,
        noise: Noise,
        device: torch.device,
    ) -> None:
        super().__init__(len(goals), *_spaces(), max_episode_steps, noise, device)
        self.goals, self.radii = goals, radii
        self._position = torch.zeros_like(goals)

    def _begin(self, mask: Tensor) -> None:
        self._position = self._position.masked_fill(mask[:, None], 0.0)

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        self._position = self._position + actions
        away = self._position - self.goals
        arrived = (away.abs() < self.radii[:, None]).all(-1)
        return -away.norm(dim=-1), arrived

    def _observe(self) -> Tensor:
        return self._position

    def _succeeded(self, terminated: Tensor) -> Tensor:
        return terminated.float()


@dataclass(frozen=True)
class PointGoals:
    """Goals drawn uniformly from a square about the start.

    Parameters
    ----------
    spread : float, default=0.5
        Goals lie in ``[-spread, spread]`` along both axes.
    horizon : int, default=100
        Most steps of an episode.

    References
    ----------
    The point navigation of Finn et al., *Model-Agnostic Meta-Learning for Fast
    Adaptation of Deep Networks*, 2017 (arXiv:1703.03400), section 5.3.

    Examples
    --------
    >>> from sklmeta.rl import PointGoals
    >>> task = PointGoals().sample(1, random_state=0)[0]
    >>> task.kwargs["goal"].round(2)
    array([0.05, 0.22])
    """

    spread: float = 0.5
    horizon: int = 100

    def __post_init__(self) -> None:
        check_integer("horizon", self.horizon, 1)
        if not 0 < self.spread <= VIEW:
            raise ValueError(
                f"spread must be above 0 and at most {VIEW}, got {self.spread}."
            )

    def sample(self, n_tasks: int, random_state: Any = None) -> list[EnvTask]:
        """Draw goals.

        Parameters
        ----------
        n_tasks : int
            How many.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        list of EnvTask
            A goal each.
        """
        rng = check_random_state(random_state)
        goals = rng.uniform(-self.spread, self.spread, size=(n_tasks, 2))
        return [
            EnvTask(
                PointGoalEnv,
                {"goal": goal},
                name=i,
                group="points",
                max_episode_steps=self.horizon,
            )
            for i, goal in enumerate(goals)
        ]
