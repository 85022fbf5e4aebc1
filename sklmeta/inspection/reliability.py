"""Accuracy against stated confidence."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sklmeta._parameters import check_choice, check_fraction, check_integer
from sklmeta.inspection._calibration import draw_calibration, fitted_of_kind
from sklmeta.inspection._estimators import default_name
from sklmeta.inspection._reliability_bins import binned, judged_rows
from sklmeta.model_selection._protocol import EpisodeProtocol

__all__ = ["ReliabilityDisplay"]


class ReliabilityDisplay:
    """Accuracy on new tasks against stated confidence, with intervals over tasks.

    The confidence of a classifier is the probability of the label that it takes for the
    most probable. Query rows of all episodes are pooled, and told apart by bins of
    confidence: where 80 % was stated, 80 % should be right. The legend holds the
    expected calibration error [1]_, the mean distance of the two over rows.

    Make it with `from_estimator` or `from_estimators`.

    Parameters
    ----------
    mean_confidence, accuracy : ndarray of shape (n_estimators, n_bins)
        Mean confidence of the rows in each bin, and the share of them that is right;
        NaN where there are none.
    low, high : ndarray of shape (n_estimators, n_bins)
        Bounds of the interval of each accuracy; NaN where one task alone has rows.
    n_rows : ndarray of shape (n_estimators, n_bins)
        Query rows in each bin.
    ece : ndarray of shape (n_estimators,)
        Expected calibration error of all rows.
    names : list of str
        Name of each estimator.
    unit : {"task", "episode"}, default="task"
        What the intervals are over.
    confidence : float, default=0.95
        Level of the intervals.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    lines_ : list of matplotlib Line2D
        Accuracies of each estimator.
    bands_ : list of matplotlib LineCollection
        Intervals of each estimator.
    diagonal_ : matplotlib AxLine
        Where confidence and accuracy agree.
    legend_ : matplotlib Legend
        Above the axes.

    See Also
    --------
    IntervalCoverageDisplay : The same for intervals of regressors.
    sklearn.calibration.CalibrationDisplay : Of one task with two classes.

    Notes
    -----
    Tasks count by their query rows. Intervals are Student's t over the tasks (of a
    `ClassPool`, the episodes) that have rows in a bin, of the ratio of rows that are
    right by rows. Where few tasks are, or almost all rows are right, they are too
    narrow: where all are right, they have no width.

    Pooled over many rows the expected calibration error is biased upwards by little: by
    about the error of a bin's accuracy, which the intervals show. It hides where
    confidence is too high in one task and too low in another.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural
       Networks", ICML 2017, arXiv:1706.04599.

    Examples
    --------
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> from sklmeta.inspection import ReliabilityDisplay
    >>> pool = load_digits_pool()
    >>> meta = ProtoNetClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> display = ReliabilityDisplay.from_estimator(
    ...     meta, pool[5:], n_shot=1, n_query=15, n_episodes=20
    ... )
    >>> display.accuracy.shape, int(display.n_rows.sum())
    ((1, 10), 1500)
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
        mean_confidence: NDArray[np.float64],
        accuracy: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        n_rows: NDArray[np.int64],
        ece: NDArray[np.float64],
        names: list[str],
        unit: str = "task",
        confidence: float = 0.95,
    ) -> None:
        self.mean_confidence = mean_confidence
        self.accuracy = accuracy
        self.low = low
        self.high = high
        self.n_rows = n_rows
        self.ece = ece
        self.names = names
        self.unit = unit
        self.confidence = confidence

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Any,
        *,
        n_bins: int = 10,
        strategy: str = "uniform",
        n_shot: Any = 5,
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
        """Judge one fitted classifier, and draw it.

        Parameters
        ----------
        estimator : classifier
            Fitted meta-learner; or a fitted pipeline or search of one. It is left as it
            is.
        tasks : TaskSet, ClassPool, TaskDistribution or list of tasks
            Tasks that it was not meta-trained on.
        n_bins : int, default=10
            Bins of confidence.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width from 0 to 1, or with equally many rows of each
            estimator.
        n_shot : int or (int, int), default=5
            Support rows: per class with local labels, per task with shared labels and
            in regression.
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
            Processes that share the estimators.
        name : str, default=None
            Its name in the legend; None names its class.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : ReliabilityDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If an estimator cannot adapt to tasks, is no classifier, or gives no
            probabilities.
        ValueError
            If tasks or parameters are not usable.
        """
        return cls.from_estimators(
            {name or default_name(estimator): estimator},
            tasks,
            n_bins=n_bins,
            strategy=strategy,
            n_shot=n_shot,
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
        n_bins: int = 10,
        strategy: str = "uniform",
        n_shot: Any = 5,
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
        """Judge several fitted classifiers on the same episodes, and draw them.

        Parameters
        ----------
        estimators : dict of str to classifier
            Fitted meta-learners, or fitted pipelines or searches of them, by name. They
            are left as they are.
        tasks : TaskSet, ClassPool, TaskDistribution or list of tasks
            Tasks that none of them was meta-trained on.
        n_bins : int, default=10
            Bins of confidence.
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width from 0 to 1, or with equally many rows of each
            estimator.
        n_shot : int or (int, int), default=5
            Support rows: per class with local labels, per task with shared labels and
            in regression.
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
            Processes that share the estimators.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : ReliabilityDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If one is not fitted.
        TypeError
            If an estimator cannot adapt to tasks, is no classifier, or gives no
            probabilities.
        ValueError
            If tasks or parameters are not usable.
        """
        estimators = fitted_of_kind(
            estimators, True, cls.__name__, "IntervalCoverageDisplay"
        )
        check_integer("n_bins", n_bins, 1)
        check_choice("strategy", strategy, ("uniform", "quantile"))
        check_fraction("confidence", confidence)
        protocol = EpisodeProtocol(
            n_shot, n_query, n_way, n_episodes, support_order, small_tasks, random_state
        )
        rows, unit = judged_rows(estimators, tasks, protocol, n_jobs)
        found = [binned(own, n_bins, strategy, confidence) for own in rows]
        display = cls(
            mean_confidence=np.stack([one.mean_confidence for one in found]),
            accuracy=np.stack([one.accuracy for one in found]),
            low=np.stack([one.low for one in found]),
            high=np.stack([one.high for one in found]),
            n_rows=np.stack([one.n_rows for one in found]),
            ece=np.array([one.ece for one in found]),
            names=list(estimators),
            unit=unit,
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
        """Draw accuracies, their intervals and the diagonal.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        name : str or list of str, default=None
            Names in the legend instead of `names`.
        band_kw : dict, default=None
            Passed to matplotlib's `vlines` for every interval.
        **line_kw : dict
            Passed to matplotlib's `plot` for every line.

        Returns
        -------
        display : ReliabilityDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        level = f"{100 * self.confidence:g} % interval over {self.unit}s"
        draw_calibration(
            self,
            self.mean_confidence,
            self.accuracy,
            ("Confidence in the most probable label", f"Accuracy, {level}"),
            ax,
            name,
            [f"ECE {error:.3f}" for error in self.ece],
            band_kw,
            line_kw,
            bars=True,
        )
        return self
