"""Share of targets inside predicted intervals against the level of the intervals."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sklmeta._parameters import check_fraction
from sklmeta.inspection._calibration import draw_calibration, fitted_of_kind
from sklmeta.inspection._estimators import default_name
from sklmeta.inspection._score_curves import axis_values, judged_by
from sklmeta.model_selection._calibration_metrics import interval_name

__all__ = ["IntervalCoverageDisplay"]

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LEAST_LEVEL = 0.01


class IntervalCoverageDisplay:
    """Share of targets inside intervals against their level, with intervals over tasks.

    The intervals of a regressor are central ones of normals with mean and standard
    deviation as ``predict(X, return_std=True)`` gives them; with several outputs each
    has its own. Of intervals at 80 %, 80 % should hold what they are of. Below the
    diagonal they are too narrow, above it too wide.

    Make it with `from_estimator` or `from_estimators`.

    Parameters
    ----------
    levels : ndarray of shape (n_levels,)
        Probabilities that intervals are meant to have.
    coverage : ndarray of shape (n_estimators, n_levels)
        Share of query targets inside intervals, mean over tasks.
    low, high : ndarray of shape (n_estimators, n_levels)
        Bounds of the interval of each mean over tasks.
    names : list of str
        Name of each estimator.
    confidence : float, default=0.95
        Level of the intervals over tasks.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    lines_ : list of matplotlib Line2D
        Shares of each estimator.
    bands_ : list of matplotlib PolyCollection
        Intervals over tasks of each estimator.
    diagonal_ : matplotlib AxLine
        Where level and share agree.
    legend_ : matplotlib Legend
        Above the axes.

    See Also
    --------
    ReliabilityDisplay : The same for probabilities of classifiers.
    sklmeta.model_selection.compare : The same shares as a table, as metrics "coverage",
        "coverage_80" and so on, and widths as "interval_width".

    Notes
    -----
    Intervals can hold what they should and be useless: those of a model that ignores
    support rows hold as many targets, and are wider. Compare widths too, or "nlpd" and
    "crps", which weigh both.

    Right on the mean over tasks may be too wide in one task and too narrow in another.

    Examples
    --------
    >>> from sklmeta import HierarchicalLinearRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> from sklmeta.inspection import IntervalCoverageDisplay
    >>> meta = HierarchicalLinearRegressor().fit(make_sinusoids(20, random_state=0))
    >>> display = IntervalCoverageDisplay.from_estimator(
    ...     meta, make_sinusoids(30, random_state=1), levels=[0.5, 0.9]
    ... )
    >>> display.coverage.shape
    (1, 2)
    """

    ax_: Any
    figure_: Any
    lines_: list[Any]
    bands_: list[Any]
    diagonal_: Any
    legend_: Any

    def __init__(
        self,
        *,
        levels: NDArray[np.float64],
        coverage: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        names: list[str],
        confidence: float = 0.95,
    ) -> None:
        self.levels = levels
        self.coverage = coverage
        self.low = low
        self.high = high
        self.names = names
        self.confidence = confidence

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Any,
        *,
        levels: Sequence[float] = LEVELS,
        n_shot: Any = 5,
        n_query: Any = None,
        n_episodes: int | None = None,
        support_order: str = "random",
        small_tasks: str = "shrink",
        random_state: int = 0,
        confidence: float = 0.95,
        n_jobs: int | None = None,
        name: str | None = None,
        ax: Any = None,
        **line_kw: Any,
    ) -> Self:
        """Judge one fitted regressor, and draw it.

        Parameters
        ----------
        estimator : regressor
            Fitted meta-learner; or a fitted pipeline or search of one. It is left as it
            is.
        tasks : TaskSet, TaskDistribution or list of tasks
            Tasks that it was not meta-trained on.
        levels : sequence of float, default=(0.05, 0.1, 0.2, ..., 0.9, 0.95)
            Probabilities that intervals are meant to have, from 0.01 to below 1.
        n_shot : int or (int, int), default=5
            Support rows: per class with local labels, per task with shared labels and
            in regression.
        n_query : int, (int, int) or None, default=None
            At most so many query rows; None: all that are no support rows.
        n_episodes : int, default=None
            Episodes of each task; of a `ClassPool`, in all. None: 200 in all.
        support_order : {"random", "first"}, default="random"
            Which rows are support.
        small_tasks : {"shrink", "drop", "raise"}, default="shrink"
            What to do with tasks that have too few rows.
        random_state : int, default=0
            Seed of the episodes.
        confidence : float, default=0.95
            Level of the intervals over tasks.
        n_jobs : int, default=None
            Processes that share the estimators.
        name : str, default=None
            Its name in the legend; None names its class.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : IntervalCoverageDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If an estimator cannot adapt to tasks, is no regressor, or gives no standard
            deviations.
        ValueError
            If tasks or parameters are not usable.
        """
        return cls.from_estimators(
            {name or default_name(estimator): estimator},
            tasks,
            levels=levels,
            n_shot=n_shot,
            n_query=n_query,
            n_episodes=n_episodes,
            support_order=support_order,
            small_tasks=small_tasks,
            random_state=random_state,
            confidence=confidence,
            n_jobs=n_jobs,
            ax=ax,
            **line_kw,
        )

    @classmethod
    def from_estimators(
        cls,
        estimators: dict[str, Any],
        tasks: Any,
        *,
        levels: Sequence[float] = LEVELS,
        n_shot: Any = 5,
        n_query: Any = None,
        n_episodes: int | None = None,
        support_order: str = "random",
        small_tasks: str = "shrink",
        random_state: int = 0,
        confidence: float = 0.95,
        n_jobs: int | None = None,
        ax: Any = None,
        **line_kw: Any,
    ) -> Self:
        """Judge several fitted regressors on the same episodes, and draw them.

        Parameters
        ----------
        estimators : dict of str to regressor
            Fitted meta-learners, or fitted pipelines or searches of them, by name. They
            are left as they are.
        tasks : TaskSet, TaskDistribution or list of tasks
            Tasks that none of them was meta-trained on.
        levels : sequence of float, default=(0.05, 0.1, 0.2, ..., 0.9, 0.95)
            Probabilities that intervals are meant to have, from 0.01 to below 1.
        n_shot : int or (int, int), default=5
            Support rows: per class with local labels, per task with shared labels and
            in regression.
        n_query : int, (int, int) or None, default=None
            At most so many query rows; None: all that are no support rows.
        n_episodes : int, default=None
            Episodes of each task; of a `ClassPool`, in all. None: 200 in all.
        support_order : {"random", "first"}, default="random"
            Which rows are support.
        small_tasks : {"shrink", "drop", "raise"}, default="shrink"
            What to do with tasks that have too few rows.
        random_state : int, default=0
            Seed of the episodes.
        confidence : float, default=0.95
            Level of the intervals over tasks.
        n_jobs : int, default=None
            Processes that share the estimators.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : IntervalCoverageDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If one is not fitted.
        TypeError
            If an estimator cannot adapt to tasks, is no regressor, or gives no standard
            deviations.
        ValueError
            If tasks or parameters are not usable.
        """
        estimators = fitted_of_kind(
            estimators, False, cls.__name__, "ReliabilityDisplay"
        )
        levels = _checked(levels)
        points = judged_by(
            [interval_name("coverage", level) for level in levels],
            estimators,
            tasks,
            n_shot=n_shot,
            n_query=n_query,
            n_episodes=n_episodes,
            support_order=support_order,
            small_tasks=small_tasks,
            random_state=random_state,
            confidence=confidence,
            n_jobs=n_jobs,
        )
        display = cls(
            levels=np.array(levels),
            coverage=np.stack([point.mean for point in points], axis=1),
            low=np.stack([point.low for point in points], axis=1),
            high=np.stack([point.high for point in points], axis=1),
            names=list(estimators),
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
        """Draw shares, their intervals and the diagonal.

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
        display : IntervalCoverageDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        level = f"{100 * self.confidence:g} % interval over tasks"
        draw_calibration(
            self,
            np.broadcast_to(self.levels, self.coverage.shape),
            self.coverage,
            ("Level of intervals", f"Share of targets inside, {level}"),
            ax,
            name,
            None,
            band_kw,
            line_kw,
            bars=False,
        )
        return self


def _checked(levels: Sequence[float]) -> list[float]:
    """Return levels in ascending order."""
    values = axis_values("levels", levels)
    for level in values:
        if isinstance(level, numbers.Real) and float(level) >= 1:
            fraction = float(level) / 100
            meant = f" Did you mean {fraction!r}?" if 0.01 < fraction < 1 else ""
            raise ValueError(
                f"levels must be fractions below 1, got {level!r}: 0.9 stands for "
                f"intervals of 90 %.{meant}"
            )
        check_fraction("levels", level)
        if level < LEAST_LEVEL:
            raise ValueError(
                f"levels must be at least {LEAST_LEVEL}, got {level!r}. They are "
                "fractions: 0.9 stands for intervals of 90 %."
            )
    return sorted({float(level) for level in values})
