"""Score against inner steps, or another parameter that acts when adapting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sklmeta.inspection._estimators import (
    default_name,
    fitted,
    last_step,
    named,
    own_copy,
    parameter_name,
)
from sklmeta.inspection._plotting import legend_above
from sklmeta.inspection._score_curves import (
    are_numbers,
    axis_values,
    draw_curves,
    judged,
)

__all__ = ["ParameterCurveDisplay"]


class ParameterCurveDisplay:
    """Score on new tasks against a parameter of adapting, with intervals over tasks.

    What meta-training left is the same at every point: only how it is adapted differs.
    Make it with `from_estimator` or `from_estimators`.

    Parameters
    ----------
    param_name : str
        The parameter.
    param_range : list of length n_points
        Its values.
    mean, low, high : ndarray of shape (n_estimators, n_points)
        Mean score over tasks, and the bounds of its interval.
    names : list of str
        Name of each estimator.
    metric_name : str, default="score"
        What is measured.
    confidence : float, default=0.95
        Level of the intervals.
    trained_value : object, default=None
        Its value in meta-training, if that was the same for all estimators.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    lines_ : list of matplotlib Line2D
        Mean scores of each estimator.
    bands_ : list of matplotlib PolyCollection or LineCollection
        Intervals of each estimator: bands over numbers, bars over other values.
    trained_line_ : matplotlib Line2D or None
        Where `trained_value` lies.
    legend_ : matplotlib Legend
        Above the axes.

    See Also
    --------
    ShotCurveDisplay : Score against the number of support rows.
    AdaptationDisplay : Predictions before and after adapting, of one task.
    sklearn.model_selection.GridSearchCV : Chooses parameters of meta-training too.

    Examples
    --------
    >>> from sklmeta import MAMLRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> from sklmeta.inspection import ParameterCurveDisplay
    >>> tasks = make_sinusoids(120, random_state=0)
    >>> meta = MAMLRegressor(max_iter=50, random_state=0).fit(tasks[:100])
    >>> display = ParameterCurveDisplay.from_estimator(
    ...     meta, tasks[100:], param_range=[0, 1, 5, 10], n_shot=5
    ... )
    >>> display.mean.shape, display.metric_name, display.trained_value
    ((1, 4), 'rmse', 5)
    """

    ax_: Any
    figure_: Any
    lines_: list[Any]
    bands_: list[Any]
    legend_: Any

    def __init__(
        self,
        *,
        param_name: str,
        param_range: list[Any],
        mean: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
        names: list[str],
        metric_name: str = "score",
        confidence: float = 0.95,
        trained_value: Any = None,
    ) -> None:
        self.param_name = param_name
        self.param_range = param_range
        self.mean = mean
        self.low = low
        self.high = high
        self.names = names
        self.metric_name = metric_name
        self.confidence = confidence
        self.trained_value = trained_value

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Any,
        *,
        param_name: str = "inner_steps",
        param_range: Sequence[Any] = (0, 1, 2, 5, 10, 20),
        metric: Any = None,
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
        """Judge one fitted meta-learner at several values of a parameter, and draw it.

        Parameters
        ----------
        estimator : meta-learner
            Fitted; or a fitted pipeline or search of one. It is left as it is.
        tasks : TaskSet, ClassPool, TaskDistribution or list of tasks
            Tasks that it was not meta-trained on.
        param_name : str, default="inner_steps"
            A parameter that acts when adapting. In a pipeline that of its last step, if
            no step is named.
        param_range : sequence, default=(0, 1, 2, 5, 10, 20)
            Its values; they are set in copies only.
        metric : str or callable, default=None
            One metric, as `evaluate` takes it; None: accuracy of classifiers, root mean
            squared error of regressors.
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
            Processes.
        name : str, default=None
            Its name in the legend; None names its class.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : ParameterCurveDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If the estimator cannot adapt to tasks, or there are several metrics.
        ValueError
            If tasks or values are not usable, or the parameter does not act when
            adapting.
        """
        return cls.from_estimators(
            {name or default_name(estimator): estimator},
            tasks,
            param_name=param_name,
            param_range=param_range,
            metric=metric,
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
        param_name: str = "inner_steps",
        param_range: Sequence[Any] = (0, 1, 2, 5, 10, 20),
        metric: Any = None,
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
        """Judge several fitted meta-learners on the same episodes, and draw them.

        Parameters
        ----------
        estimators : dict of str to meta-learner
            Fitted ones, or fitted pipelines or searches of them, by name. They are left
            as they are.
        tasks : TaskSet, ClassPool, TaskDistribution or list of tasks
            Tasks that none of them was meta-trained on.
        param_name : str, default="inner_steps"
            A parameter that acts when adapting. In a pipeline that of its last step, if
            no step is named.
        param_range : sequence, default=(0, 1, 2, 5, 10, 20)
            Its values; they are set in copies only.
        metric : str or callable, default=None
            One metric, as `evaluate` takes it; None: accuracy of classifiers, root mean
            squared error of regressors.
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
            Processes.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : ParameterCurveDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If one is not fitted.
        TypeError
            If one cannot adapt to tasks, or there are several metrics.
        ValueError
            If tasks or values are not usable, or the parameter does not act when
            adapting.
        """
        estimators = {name: fitted(one) for name, one in named(estimators).items()}
        values = axis_values("param_range", param_range)
        methods = {
            f"{name}, {param_name}={value!r} ({i})": _with(one, param_name, value)
            for name, one in estimators.items()
            for i, value in enumerate(values)
        }
        scores = judged(
            methods,
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
        shape = (len(estimators), len(values))
        display = cls(
            param_name=param_name,
            param_range=values,
            mean=scores.mean.reshape(shape),
            low=scores.low.reshape(shape),
            high=scores.high.reshape(shape),
            names=list(estimators),
            metric_name=scores.metric_name,
            confidence=confidence,
            trained_value=_trained_value(estimators, param_name),
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
        display : ParameterCurveDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        draw_curves(self, self.param_range, self.param_name, ax, name, band_kw, line_kw)
        self.trained_line_ = None
        if self._trained_inside():
            self.trained_line_ = self.ax_.axvline(
                self.trained_value,
                color="#555555",
                linestyle=":",
                zorder=1,
                label=f"in meta-training ({self.trained_value})",
            )
            self.legend_ = legend_above(self.ax_)
        return self

    def _trained_inside(self) -> bool:
        """Whether the value in meta-training lies on the axis."""
        if not are_numbers([*self.param_range, self.trained_value]):
            return False
        return min(self.param_range) <= self.trained_value <= max(self.param_range)


# What says how tasks are judged; it is given to the display itself.
PROTOCOL = ("n_shot", "n_query", "n_way", "support_order", "small_tasks")


def _with(estimator: Any, name: str, value: Any) -> Any:
    """Return a copy with another value of a parameter that acts when adapting."""
    own = own_copy(estimator)
    full_name = parameter_name(own, name)
    meta = last_step(own)
    ours = [parameter_name(own, one) for one in meta._adaptation_parameters]
    if not any(full_name == one or full_name.startswith(f"{one}__") for one in ours):
        raise ValueError(_refusal(type(meta).__name__, name, ours))
    return own.set_params(**{full_name: value})


def _refusal(kind: str, name: str, ours: list[str]) -> str:
    if name in PROTOCOL:
        hint = "Give it by that name; for a curve over n_shot see ShotCurveDisplay"
        return f"{name} says how tasks are judged, not how a {kind} adapts. {hint}."
    known = f"those that do are {', '.join(ours)}" if ours else "it has none that does"
    return (
        f"{name!r} is no parameter of {kind} that acts when adapting; {known}. Judge "
        "others by meta-training anew for each value, with GridSearchCV over tasks."
    )


def _trained_value(estimators: dict[str, Any], name: str) -> Any:
    """Return the value in meta-training, if it was the same for all."""
    values = [
        getattr(last_step(one), "_trained_with", {}).get(name.split("__")[-1])
        for one in estimators.values()
    ]
    return values[0] if all(value == values[0] for value in values) else None
