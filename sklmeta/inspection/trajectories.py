"""Where a policy goes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sklmeta._parameters import check_integer
from sklmeta.inspection._plotting import dress, legend_above, new_axes

__all__ = ["TrajectoryDisplay"]


class TrajectoryDisplay:
    """Paths of a policy in two coordinates of its observations, an episode each.

    Make it with `from_policy`.

    Parameters
    ----------
    paths : list of ndarray of shape (n_steps + 1, 2)
        Both coordinates along each episode.
    names : list of str
        Name of each episode.
    goal : array-like of shape (2,), default=None
        Where the policy is to go, in these coordinates; None if that is not known.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    lines_ : list of matplotlib Line2D
        The paths.
    legend_ : matplotlib Legend
        Above the axes.

    See Also
    --------
    ReturnCurveDisplay : What agents earn along adaptation.

    Examples
    --------
    >>> from sklmeta.inspection import TrajectoryDisplay
    >>> from sklmeta.rl import PointGoals, RandomAgent
    >>> goals = PointGoals(horizon=20)
    >>> agent = RandomAgent(random_state=0).fit(goals)
    >>> task = goals.sample(1, random_state=0)[0]
    >>> policy = agent.adapt(task, n_episodes=1)
    >>> display = TrajectoryDisplay.from_policy(policy, task, n_episodes=2)
    >>> len(display.paths), display.paths[0].shape
    (2, (21, 2))
    """

    ax_: Any
    figure_: Any
    lines_: list[Any]
    legend_: Any

    def __init__(
        self,
        *,
        paths: list[NDArray[np.float64]],
        names: list[str],
        goal: ArrayLike | None = None,
    ) -> None:
        self.paths = paths
        self.names = names
        self.goal = goal

    @classmethod
    def from_policy(
        cls,
        policy: Any,
        task: Any,
        *,
        n_episodes: int = 3,
        coordinates: Sequence[int] = (0, 1),
        goal: ArrayLike | None = None,
        seed: int | None = 0,
        ax: Any = None,
        **line_kw: Any,
    ) -> Self:
        """Let an adapted policy act, and draw where it goes.

        Parameters
        ----------
        policy : AdaptedPolicy
            What `adapt` returned; it acts on, and remembers.
        task : EnvTask, callable, gymnasium id or EnvSpec
            Where.
        n_episodes : int, default=3
            Number of episodes.
        coordinates : sequence of two int, default=(0, 1)
            Which numbers of an observation to draw.
        goal : array-like of shape (2,), default=None
            Where the policy is to go. None: the task's `goal`, if it has two numbers.
        seed : int, default=0
            Seed of the environment.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : TrajectoryDisplay
            Drawn.

        Raises
        ------
        ValueError
            If observations do not have these coordinates.
        """
        from sklmeta.rl import as_env_tasks
        from sklmeta.rl.episodes import act_episode

        check_integer("n_episodes", n_episodes, 1)
        task = as_env_tasks(task)[0]
        env = task.make_env()
        shape = env.observation_space.shape
        if not shape or len(coordinates) != 2 or max(coordinates) >= np.prod(shape):
            env.close()
            raise ValueError(
                f"coordinates must be two places in observations of shape {shape}, got "
                f"{coordinates}."
            )
        try:
            paths = []
            for place in range(n_episodes):
                episode = act_episode(policy, env, seed if place == 0 else None)
                seen = np.stack([np.ravel(o) for o in episode.observations])
                paths.append(seen[:, list(coordinates)].astype(float))
        finally:
            env.close()
        if goal is None and np.shape(task.kwargs.get("goal")) == (2,):
            goal = task.kwargs["goal"]
        names = [f"episode {place + 1}" for place in range(n_episodes)]
        return cls(paths=paths, names=names, goal=goal).plot(ax, **line_kw)

    def plot(self, ax: Any = None, **line_kw: Any) -> Self:
        """Draw the paths, and the goal where it is known.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed to matplotlib's `plot` for every path.

        Returns
        -------
        display : TrajectoryDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = new_axes(ax, type(self).__name__)
        style = {"marker": ".", "markersize": 4, "linewidth": 1.2, **line_kw}
        self.lines_ = [
            ax.plot(*path.T, **{"label": name, **style})[0]
            for name, path in zip(self.names, self.paths, strict=True)
        ]
        if self.goal is not None:
            x, y = np.asarray(self.goal, dtype=float)
            ax.plot(x, y, "k*", markersize=14, label="goal", linestyle="none")
        ax.set(xlabel="First coordinate", ylabel="Second coordinate")
        ax.set_aspect("equal", adjustable="datalim")
        dress(ax)
        self.ax_, self.figure_ = ax, ax.figure
        self.legend_ = legend_above(ax)
        return self
