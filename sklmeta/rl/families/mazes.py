"""Grid mazes with a hidden goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.random import RandomState
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from sklmeta._parameters import check_integer
from sklmeta.rl._pictures import grid
from sklmeta.rl._simulators import Noise, Simulator
from sklmeta.rl.tasks import EnvTask

__all__ = ["GridMazeEnv", "GridMazes"]

# Up, right, down, left, as (row, column).
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
STEP_COST = 0.01
GOAL_REWARD = 1.0


def _spaces() -> tuple[Box, Discrete]:
    return Box(0.0, 1.0, (18,), np.float32), Discrete(len(MOVES))


class GridMazeEnv(gymnasium.Env):
    """A maze of square cells, of which only the nearest nine are seen.

    Actions move up, right, down or left; walls stop. The observation tells of the 3 x 3
    cells about the agent which are walls (the first nine numbers, 1 for a wall) and
    which is the goal (the other nine). A step costs 0.01; the goal pays 1 and ends the
    episode.

    Parameters
    ----------
    walls : array-like of shape (n_rows, n_columns)
        True where there is a wall; all of the border must be.
    start, goal : array-like of shape (2,)
        Row and column of free cells.
    render_mode : {"rgb_array"}, default=None
        What `render` gives.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(
        self,
        walls: ArrayLike,
        start: ArrayLike,
        goal: ArrayLike,
        render_mode: str | None = None,
    ) -> None:
        self.walls = np.asarray(walls, dtype=bool)
        self.start, self.goal = _cell(start), _cell(goal)
        _check_maze(self.walls, self.start, self.goal)
        self.render_mode = render_mode
        self.observation_space, self.action_space = _spaces()
        self._cell = self.start

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode at the start."""
        super().reset(seed=seed)
        self._cell = self.start
        return self._seen(), {}

    def step(
        self, action: int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move, unless there is a wall."""
        row, column = (c + m for c, m in zip(self._cell, MOVES[action], strict=True))
        if not self.walls[row, column]:
            self._cell = (row, column)
        arrived = self._cell == self.goal
        reward = GOAL_REWARD * arrived - STEP_COST
        return self._seen(), reward, arrived, False, {"success": float(arrived)}

    def render(self) -> NDArray[np.uint8] | None:
        """Return a picture (side, side, 3) of the maze."""
        if self.render_mode is None:
            return None
        colors = np.where(self.walls[..., None], 60, 255) * np.ones(3)
        colors[self.goal] = (40, 160, 60)
        colors[self._cell] = (30, 80, 200)
        return grid(colors.astype(np.uint8))

    def _seen(self) -> NDArray[np.float32]:
        row, column = self._cell
        rows, columns = slice(row - 1, row + 2), slice(column - 1, column + 2)
        goals = np.zeros_like(self.walls)
        goals[self.goal] = True
        near = [self.walls[rows, columns].ravel(), goals[rows, columns].ravel()]
        return np.concatenate(near).astype(np.float32)

    @classmethod
    def simulator(
        cls,
        kwargs: Sequence[Mapping[str, Any]],
        max_episode_steps: int | None,
        noise: Noise,
        device: torch.device,
    ) -> Simulator:
        """Return the mazes of many tasks as one simulator."""
        mazes = [np.asarray(k["walls"], bool) for k in kwargs]
        starts, goals = ([_cell(k[c]) for k in kwargs] for c in ("start", "goal"))
        for maze, start, goal in zip(mazes, starts, goals, strict=True):
            _check_maze(maze, start, goal)
        return _Mazes(
            _stacked_walls(mazes).to(device),
            torch.tensor(starts, device=device),
            torch.tensor(goals, device=device),
            max_episode_steps,
            noise,
            device,
        )


def _cell(place: ArrayLike) -> tuple[int, ...]:
    return tuple(map(int, np.ravel(place)))


def _check_maze(
    walls: NDArray[np.bool_], start: tuple[int, ...], goal: tuple[int, ...]
) -> None:
    if walls.ndim != 2 or min(walls.shape) < 3:
        raise ValueError(
            f"walls must have shape (n_rows, n_columns), 3 or more each, got "
            f"{walls.shape}."
        )
    if not walls[[0, -1]].all() or not walls[:, [0, -1]].all():
        raise ValueError("walls must be True along the whole border of the maze.")
    for name, cell in (("start", start), ("goal", goal)):
        inside = len(cell) == 2 and all(
            0 <= c < n for c, n in zip(cell, walls.shape, strict=True)
        )
        if not inside or walls[cell]:
            raise ValueError(f"{name} must be a free cell (row, column), got {cell}.")


def _stacked_walls(mazes: Sequence[NDArray[np.bool_]]) -> Tensor:
    """Return mazes as (B, H, W); smaller ones have more walls about them."""
    height, width = (max(m.shape[axis] for m in mazes) for axis in (0, 1))
    stacked = np.ones((len(mazes), height, width), dtype=bool)
    for filled, maze in zip(stacked, mazes, strict=True):
        filled[: maze.shape[0], : maze.shape[1]] = maze
    return torch.as_tensor(stacked)


class _Mazes(Simulator):
    def __init__(
        self,
        walls: Tensor,  # (B, H, W)
        start: Tensor,  # (B, 2)
        goal: Tensor,  # (B, 2)
        max_episode_steps: int | None,
        noise: Noise,
        device: torch.device,
    ) -> None:
        super().__init__(len(walls), *_spaces(), max_episode_steps, noise, device)
        self.walls, self.start, self.goal = walls, start, goal
        self._moves = torch.tensor(MOVES, device=device)
        self._rows = torch.arange(len(walls), device=device)
        near = torch.tensor([-1, 0, 1], device=device)
        self._near = torch.cartesian_prod(near, near)  # (9, 2)
        self._cell = self.start

    def _begin(self, mask: Tensor) -> None:
        self._cell = torch.where(mask[:, None], self.start, self._cell)

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        wanted = self._cell + self._moves[actions]
        blocked = self.walls[self._rows, wanted[:, 0], wanted[:, 1]]
        self._cell = torch.where(blocked[:, None], self._cell, wanted)
        arrived = (self._cell == self.goal).all(-1)
        return GOAL_REWARD * arrived - STEP_COST, arrived

    def _observe(self) -> Tensor:
        cells = self._cell[:, None] + self._near  # (B, 9, 2)
        walls = self.walls[self._rows[:, None], cells[..., 0], cells[..., 1]]
        goals = (cells == self.goal[:, None]).all(-1)
        return torch.cat([walls, goals], 1).float()

    def _succeeded(self, terminated: Tensor) -> Tensor:
        return terminated.float()


@dataclass(frozen=True)
class GridMazes:
    """Random mazes without loops, the goal at the farthest cell from the start.

    Parameters
    ----------
    size : int, default=4
        Cells along each side; with the walls between them a maze has ``2 size + 1``
        rows and columns.
    horizon : int, default=100
        Most steps of an episode.

    Examples
    --------
    >>> from sklmeta.rl import GridMazes
    >>> task = GridMazes(size=3).sample(1, random_state=0)[0]
    >>> task.kwargs["walls"].shape
    (7, 7)
    """

    size: int = 4
    horizon: int = 100

    def __post_init__(self) -> None:
        check_integer("size", self.size, 2)
        check_integer("horizon", self.horizon, 1)

    def sample(self, n_tasks: int, random_state: Any = None) -> list[EnvTask]:
        """Draw mazes.

        Parameters
        ----------
        n_tasks : int
            How many.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        list of EnvTask
            The mazes.
        """
        rng = check_random_state(random_state)
        return [
            EnvTask(
                GridMazeEnv,
                _random_maze(self.size, rng),
                name=i,
                group=f"{self.size} x {self.size}",
                max_episode_steps=self.horizon,
            )
            for i in range(n_tasks)
        ]


def _random_maze(size: int, rng: RandomState) -> dict[str, Any]:
    """Return a maze by depth-first search from a random cell, where it starts."""
    walls = np.ones((2 * size + 1, 2 * size + 1), dtype=bool)
    start = tuple(int(c) for c in rng.randint(size, size=2))
    path, distance = [start], {start: 0}
    walls[_place(start)] = False
    while path:
        here = path[-1]
        free = [cell for cell in _neighbours(here, size) if cell not in distance]
        if not free:
            path.pop()
            continue
        there = free[rng.randint(len(free))]
        between = tuple(a + b + 1 for a, b in zip(here, there, strict=True))
        walls[_place(there)] = walls[between] = False
        distance[there] = distance[here] + 1
        path.append(there)
    goal = max(distance, key=lambda cell: distance[cell])
    return {"walls": walls, "start": _place(start), "goal": _place(goal)}


def _place(cell: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(2 * c + 1 for c in cell)


def _neighbours(cell: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    near = [(cell[0] + row, cell[1] + column) for row, column in MOVES]
    return [c for c in near if all(0 <= x < size for x in c)]
