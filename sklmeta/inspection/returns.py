"""What agents earn along adaptation."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from sklmeta._parameters import check_choice, check_fraction
from sklmeta.inspection._estimators import named
from sklmeta.inspection._score_curves import draw_curves

__all__ = ["ReturnCurveDisplay"]


class ReturnCurveDisplay:
    """Returns of agents along adaptation, with intervals over environments.

    Make it with `from_agent` or `from_agents`.

    Parameters
    ----------
    points : ndarray of shape (n_points,)
        Episodes of a trial, from 1, or gradient steps, from 0.
    mean, low, high : ndarray of shape (n_agents, n_points)
        Mean over environments, and the bounds of its t interval.
    names : list of str
        Name of each agent.
    axis_name : str, default="episode"
        What `points` counts.
    metric_name : str, default="return"
        What is measured: "return" or "success".
    confidence : float, default=0.95
        Level of the intervals.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    lines_ : list of matplotlib Line2D
        Means of each agent.
    bands_ : list of matplotlib PolyCollection
        Intervals of each agent.
    legend_ : matplotlib Legend
        Above the axes.

    See Also
    --------
    TrajectoryDisplay : Where a policy goes.

    Examples
    --------
    >>> from sklmeta.inspection import ReturnCurveDisplay
    >>> from sklmeta.rl import BernoulliBandits, ThompsonSamplingAgent
    >>> bandits = BernoulliBandits(n_arms=3)
    >>> agent = ThompsonSamplingAgent(n_episodes=20, random_state=0).fit(bandits)
    >>> display = ReturnCurveDisplay.from_agent(agent, bandits)
    >>> display.mean.shape, display.axis_name
    ((1, 20), 'episode')
    """

    ax_: Any
    figure_: Any
    lines_: list[Any]
    bands_: list[Any]
    legend_: Any

    def __init__(
        self,
        *,
        points: NDArray[np.int64],
        mean: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        names: list[str],
        axis_name: str = "episode",
        metric_name: str = "return",
        confidence: float = 0.95,
    ) -> None:
        self.points = points
        self.mean = mean
        self.low = low
        self.high = high
        self.names = names
        self.axis_name = axis_name
        self.metric_name = metric_name
        self.confidence = confidence

    @classmethod
    def from_agent(
        cls,
        agent: Any,
        tasks: Any,
        *,
        n_episodes: int | None = None,
        metric: str = "return",
        confidence: float = 0.95,
        name: str | None = None,
        ax: Any = None,
        **line_kw: Any,
    ) -> Self:
        """Let one fitted agent act in environments, and draw what it earns.

        Parameters
        ----------
        agent : agent of sklmeta.rl
            Fitted; it is left as it is.
        tasks : list of EnvTask, callables, gymnasium ids or specs, or a distribution
            Environments that it was not meta-trained on.
        n_episodes : int, default=None
            Episodes, as `adaptation_curve` takes them.
        metric : {"return", "success"}, default="return"
            What to draw; not all environments tell of success.
        confidence : float, default=0.95
            Level of the intervals.
        name : str, default=None
            Its name in the legend; None names its class.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : ReturnCurveDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If environments do not tell of success, and it is asked for.
        """
        return cls.from_agents(
            {name or type(agent).__name__: agent},
            tasks,
            n_episodes=n_episodes,
            metric=metric,
            confidence=confidence,
            ax=ax,
            **line_kw,
        )

    @classmethod
    def from_agents(
        cls,
        agents: dict[str, Any],
        tasks: Any,
        *,
        n_episodes: int | None = None,
        metric: str = "return",
        confidence: float = 0.95,
        ax: Any = None,
        **line_kw: Any,
    ) -> Self:
        """Let several fitted agents act in the same environments, and draw them.

        Parameters
        ----------
        agents : dict of str to agent of sklmeta.rl
            Fitted ones, by name; all count episodes, or all gradient steps.
        tasks : list of EnvTask, callables, gymnasium ids or specs, or a distribution
            Environments that none of them was meta-trained on.
        n_episodes : int, default=None
            Episodes, as `adaptation_curve` takes them.
        metric : {"return", "success"}, default="return"
            What to draw; not all environments tell of success.
        confidence : float, default=0.95
            Level of the intervals.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : ReturnCurveDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If one is not fitted.
        ValueError
            If agents count different things, or environments do not tell of success,
            and it is asked for.
        """
        check_choice("metric", metric, ["return", "success"])
        check_fraction("confidence", confidence)
        frames = {
            name: agent.adaptation_curve(tasks, n_episodes)
            for name, agent in named(agents).items()
        }
        axis = _common_axis(frames)
        if any(metric not in frame for frame in frames.values()):
            raise ValueError(
                "metric='success' needs environments whose infos hold 'success', and "
                "these do not. Use metric='return'."
            )
        curves = [
            _moments(frame, axis, metric, confidence) for frame in frames.values()
        ]
        mean, low, high = (np.stack(parts) for parts in zip(*curves, strict=True))
        first = next(iter(frames.values()))
        display = cls(
            points=np.sort(first[axis].unique()),
            mean=mean,
            low=low,
            high=high,
            names=list(frames),
            axis_name=axis,
            metric_name=metric,
            confidence=confidence,
        )
        return display.plot(ax, **line_kw)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | list[str] | None = None,
        band_kw: dict[str, Any] | None = None,
        **line_kw: Any,
    ) -> Self:
        """Draw the means and their intervals.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        name : str or list of str, default=None
            Names in the legend instead of `names`.
        band_kw : dict, default=None
            Passed to matplotlib's `fill_between` for every interval.
        **line_kw : dict
            Passed to matplotlib's `plot` for every line.

        Returns
        -------
        display : ReturnCurveDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        label = self.axis_name.replace("_", " ").capitalize()
        values = self.points.tolist()
        draw_curves(self, values, label, ax, name, band_kw, line_kw)
        return self


def _common_axis(frames: dict[str, pd.DataFrame]) -> str:
    """Return what all curves count.

    Raises
    ------
    ValueError
        If they count different things, or differ in length.
    """
    axes = {
        name: "gradient_step" if "gradient_step" in frame else "episode"
        for name, frame in frames.items()
    }
    lengths = {frame[axes[name]].nunique() for name, frame in frames.items()}
    if len(set(axes.values())) > 1 or len(lengths) > 1:
        raise ValueError(
            "Agents in one picture must count the same along adaptation, as many "
            f"episodes or as many gradient steps; got {axes}, of lengths "
            f"{sorted(lengths)}. n_episodes= gives all the same number of episodes."
        )
    return next(iter(axes.values()))


def _moments(
    frame: pd.DataFrame, axis: str, metric: str, confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return means and bounds of t intervals over environments."""
    found = frame.groupby(axis)[metric].agg(["mean", "sem", "count"])
    mean = found["mean"].to_numpy()
    quantile = stats.t.ppf((1 + confidence) / 2, found["count"].to_numpy() - 1)
    half = quantile * found["sem"].to_numpy()
    return mean, mean - half, mean + half
