"""Score against the number of support rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sklmeta._parameters import check_integer
from sklmeta.inspection._estimators import default_name, fitted, named
from sklmeta.inspection._score_curves import axis_values, draw_curves, judged

__all__ = ["ShotCurveDisplay"]


class ShotCurveDisplay:
    """Score on new tasks against the number of shots, with intervals over tasks.

    Make it with `from_estimator` or `from_estimators`.

    Parameters
    ----------
    n_shots : ndarray of shape (n_points,)
        Support rows: per class with local labels, per task with shared labels and in
        regression.
    mean, low, high : ndarray of shape (n_estimators, n_points)
        Mean score over tasks, and the bounds of its interval.
    names : list of str
        Name of each estimator.
    metric_name : str, default="score"
        What is measured.
    confidence : float, default=0.95
        Level of the intervals.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    lines_ : list of matplotlib Line2D
        Mean scores of each estimator.
    bands_ : list of matplotlib PolyCollection
        Intervals of each estimator.
    legend_ : matplotlib Legend
        Above the axes.

    See Also
    --------
    ParameterCurveDisplay : Score against inner steps, or another parameter.
    sklmeta.model_selection.compare : The same scores as a table.

    Examples
    --------
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> from sklmeta.inspection import ShotCurveDisplay
    >>> pool = load_digits_pool()
    >>> meta = ProtoNetClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> display = ShotCurveDisplay.from_estimator(
    ...     meta, pool[5:], n_shots=[1, 5], n_query=15, n_episodes=20
    ... )
    >>> display.mean.shape, display.metric_name
    ((1, 2), 'accuracy')
    """

    ax_: Any
    figure_: Any
    lines_: list[Any]
    bands_: list[Any]
    legend_: Any

    def __init__(
        self,
        *,
        n_shots: NDArray[np.int64],
        mean: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        names: list[str],
        metric_name: str = "score",
        confidence: float = 0.95,
    ) -> None:
        self.n_shots = n_shots
        self.mean = mean
        self.low = low
        self.high = high
        self.names = names
        self.metric_name = metric_name
        self.confidence = confidence

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Any,
        *,
        n_shots: Sequence[int] = (1, 2, 5, 10),
        metric: Any = None,
        n_query: Any = None,
        n_way: Any = None,
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
        """Judge one fitted meta-learner at several numbers of shots, and draw it.

        Parameters
        ----------
        estimator : meta-learner
            Fitted; or a fitted pipeline or search of one. It is left as it is.
        tasks : TaskSet, ClassPool, TaskDistribution or list of tasks
            Tasks that it was not meta-trained on.
        n_shots : sequence of int, default=(1, 2, 5, 10)
            Support rows: per class with local labels, per task with shared labels and
            in regression.
        metric : str or callable, default=None
            One metric, as `evaluate` takes it; None: accuracy of classifiers, root mean
            squared error of regressors.
        n_query : int, (int, int) or None, default=None
            At most so many query rows; None: all that are no support rows.
        n_way : int, (int, int) or None, default=None
            Classes of an episode, with local labels.
        n_episodes : int, default=None
            Episodes of each task; of a `ClassPool`, in all. None: 200 in all.
        support_order : {"random", "first"}, default="random"
            Which rows are support.
        small_tasks : {"shrink", "drop", "raise"}, default="shrink"
            What to do with tasks that have too few rows.
        random_state : int, default=0
            Seed of the episodes.
        confidence : float, default=0.95
            Level of the intervals.
        n_jobs : int, default=None
            Processes.
        name : str, default=None
            Its name in the legend; None names its class.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : ShotCurveDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If the estimator cannot adapt to tasks, or there are several metrics.
        ValueError
            If tasks or numbers of shots are not usable.
        """
        return cls.from_estimators(
            {name or default_name(estimator): estimator},
            tasks,
            n_shots=n_shots,
            metric=metric,
            n_query=n_query,
            n_way=n_way,
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
        n_shots: Sequence[int] = (1, 2, 5, 10),
        metric: Any = None,
        n_query: Any = None,
        n_way: Any = None,
        n_episodes: int | None = None,
        support_order: str = "random",
        small_tasks: str = "shrink",
        random_state: int = 0,
        confidence: float = 0.95,
        n_jobs: int | None = None,
        ax: Any = None,
        **line_kw: Any,
    ) -> Self:
        """Judge several fitted meta-learners on the same episodes, and draw them.

        Parameters
        ----------
        estimators : dict of str to meta-learner
            Fitted ones, or fitted pipelines or searches of them, by name. They are left
            as they are.
        tasks : TaskSet, ClassPool, TaskDistribution or list of tasks
            Tasks that none of them was meta-trained on.
        n_shots : sequence of int, default=(1, 2, 5, 10)
            Support rows: per class with local labels, per task with shared labels and
            in regression.
        metric : str or callable, default=None
            One metric, as `evaluate` takes it; None: accuracy of classifiers, root mean
            squared error of regressors.
        n_query : int, (int, int) or None, default=None
            At most so many query rows; None: all that are no support rows.
        n_way : int, (int, int) or None, default=None
            Classes of an episode, with local labels.
        n_episodes : int, default=None
            Episodes of each task; of a `ClassPool`, in all. None: 200 in all.
        support_order : {"random", "first"}, default="random"
            Which rows are support.
        small_tasks : {"shrink", "drop", "raise"}, default="shrink"
            What to do with tasks that have too few rows.
        random_state : int, default=0
            Seed of the episodes.
        confidence : float, default=0.95
            Level of the intervals.
        n_jobs : int, default=None
            Processes.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : ShotCurveDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If one is not fitted.
        TypeError
            If one cannot adapt to tasks, or there are several metrics.
        ValueError
            If tasks or numbers of shots are not usable.
        """
        estimators = {name: fitted(one) for name, one in named(estimators).items()}
        shots = _checked(n_shots)
        points = [
            judged(
                estimators,
                tasks,
                metric,
                n_shot=n_shot,
                n_query=n_query,
                n_way=n_way,
                n_episodes=n_episodes,
                support_order=support_order,
                small_tasks=small_tasks,
                random_state=random_state,
                confidence=confidence,
                n_jobs=n_jobs,
            )
            for n_shot in shots
        ]
        display = cls(
            n_shots=np.array(shots),
            mean=np.stack([point.mean for point in points], axis=1),
            low=np.stack([point.low for point in points], axis=1),
            high=np.stack([point.high for point in points], axis=1),
            names=list(estimators),
            metric_name=points[0].metric_name,
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
        """Draw the scores and their intervals.

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
        display : ShotCurveDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        draw_curves(
            self, self.n_shots.tolist(), "Shots (n_shot)", ax, name, band_kw, line_kw
        )
        return self


def _checked(n_shots: Sequence[int]) -> list[int]:
    """Return numbers of shots in ascending order."""
    values = axis_values("n_shots", n_shots)
    for n_shot in values:
        check_integer("n_shots", n_shot, 1)
    return sorted({int(n_shot) for n_shot in values})
