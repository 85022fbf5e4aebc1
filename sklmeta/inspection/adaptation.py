"""A regression task of one feature, before and after adapting to a few of its rows."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import is_regressor

from sklmeta._parameters import check_integer
from sklmeta.inspection._estimators import (
    adapted,
    last_step,
    named,
    own_copy,
    parameter_name,
)
from sklmeta.inspection._plotting import curve_names, dress, legend_above, new_axes
from sklmeta.inspection._rows import episode_rows
from sklmeta.model_selection._protocol import EpisodeProtocol
from sklmeta.tasks import Task, TaskSet

__all__ = ["AdaptationDisplay"]

BEFORE, AFTER = "before adapting", "after adapting"


class AdaptationDisplay:
    """Predictions over a regression task of one feature, and the rows adapted to.

    Make it with `from_estimator`, which also shows the predictions before adapting
    where the learner has them, or with `from_estimators`, which compares.

    Parameters
    ----------
    x_grid : ndarray of shape (n_grid,)
        Where predictions were made.
    predictions : list of ndarray of shape (n_grid,)
        One curve each.
    names : list of str
        Name of each curve.
    x_support, y_support : ndarray of shape (n_support,)
        Rows adapted to.
    x_query, y_query : ndarray of shape (n_query,)
        The other rows of the task.
    feature_name : str, default="x"
        Name of the feature.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    lines_ : list of matplotlib Line2D
        One for each curve.
    support_points_, query_points_ : matplotlib PathCollection
        The rows of the task.
    legend_ : matplotlib Legend
        Above the axes.

    See Also
    --------
    ParameterCurveDisplay : Score against inner steps, over many tasks.
    EpisodeDisplay : Images of an episode with their predicted labels.
    sklearn.inspection.DecisionBoundaryDisplay : For a classifier of two features, of
        what ``meta.adapt(X_support, y_support)`` returns.

    Examples
    --------
    >>> from sklmeta import MAMLRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> from sklmeta.inspection import AdaptationDisplay
    >>> tasks = make_sinusoids(100, random_state=0)
    >>> meta = MAMLRegressor(max_iter=50, random_state=0).fit(tasks[:99])
    >>> display = AdaptationDisplay.from_estimator(meta, tasks[99])
    >>> display.names
    ['before adapting', 'after adapting']
    """

    def __init__(
        self,
        *,
        x_grid: NDArray[Any],
        predictions: list[NDArray[np.float64]],
        names: list[str],
        x_support: NDArray[Any],
        y_support: NDArray[Any],
        x_query: NDArray[Any],
        y_query: NDArray[Any],
        feature_name: str = "x",
    ) -> None:
        self.x_grid = x_grid
        self.predictions = predictions
        self.names = names
        self.x_support = x_support
        self.y_support = y_support
        self.x_query = x_query
        self.y_query = y_query
        self.feature_name = feature_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        task: Any,
        *,
        n_shot: int = 5,
        support_order: str = "random",
        random_state: int = 0,
        show_before: bool = True,
        grid_resolution: int = 200,
        name: str | list[str] | None = None,
        ax: Any = None,
        **line_kw: Any,
    ) -> Self:
        """Adapt a fitted regressor to some rows of a task, and draw its predictions.

        Parameters
        ----------
        estimator : meta-learner
            A fitted regressor, or a fitted pipeline or search of one. It is left as it
            is, `adapted_` included.
        task : Task, TaskSet of one task, or (X, y) pair
            A task of one feature. It is adapted to the rows that `evaluate` takes
            first, of the task's `support` mask if it has one.
        n_shot : int, default=5
            Rows adapted to.
        support_order : {"random", "first"}, default="random"
            Which rows those are.
        random_state : int, default=0
            Seed of the support rows.
        show_before : bool, default=True
            Show the predictions before adapting too, for learners whose `inner_steps`
            can be 0.
        grid_resolution : int, default=200
            Predictions of each curve.
        name : str or list of str, default=None
            Names of the curves in the legend.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : AdaptationDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If the estimator is no regressor, or `task` is more than one.
        ValueError
            If rows have more than one feature, or targets more than one output.
        """
        curves = {AFTER: estimator}
        inner_steps = parameter_name(estimator, "inner_steps")
        if show_before and inner_steps in own_copy(estimator).get_params():
            before = own_copy(estimator).set_params(**{inner_steps: 0})
            curves = {BEFORE: before, **curves}
        return cls.from_estimators(
            curves,
            task,
            n_shot=n_shot,
            support_order=support_order,
            random_state=random_state,
            grid_resolution=grid_resolution,
            name=name,
            ax=ax,
            **line_kw,
        )

    @classmethod
    def from_estimators(
        cls,
        estimators: dict[str, Any],
        task: Any,
        *,
        n_shot: int = 5,
        support_order: str = "random",
        random_state: int = 0,
        grid_resolution: int = 200,
        name: str | list[str] | None = None,
        ax: Any = None,
        **line_kw: Any,
    ) -> Self:
        """Adapt several fitted regressors to the same rows, and draw them.

        Parameters
        ----------
        estimators : dict of str to meta-learner
            Fitted regressors, or fitted pipelines or searches of them, by name. They
            are left as they are.
        task : Task, TaskSet of one task, or (X, y) pair
            A task of one feature, as in `from_estimator`.
        n_shot : int, default=5
            Rows adapted to.
        support_order : {"random", "first"}, default="random"
            Which rows those are.
        random_state : int, default=0
            Seed of the support rows.
        grid_resolution : int, default=200
            Predictions of each curve.
        name : str or list of str, default=None
            Names of the curves in the legend.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : AdaptationDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If one is not fitted.
        TypeError
            If one is no regressor, or `task` is more than one.
        ValueError
            If rows have more than one feature, or targets more than one output.
        """
        estimators = named(estimators)
        for one in estimators.values():
            _refuse_other_than_regressor(one)
        check_integer("grid_resolution", grid_resolution, 2)
        protocol = EpisodeProtocol(
            n_shot, support_order=support_order, random_state=random_state, n_episodes=1
        )
        drawn = protocol.draw(_one_task(task), False)
        support, query = episode_rows(drawn, 0)
        rows = {
            "x_support": _one_feature(support[0]),
            "y_support": _one_output(support[1]),
            "x_query": _one_feature(query[0]),
            "y_query": _one_output(query[1]),
        }
        x = _one_feature(drawn.rows.X)
        x_grid = np.linspace(x.min(), x.max(), grid_resolution)
        X_grid, feature_name = _like(support[0], x_grid)
        models = [adapted(one, *support) for one in estimators.values()]
        display = cls(
            x_grid=x_grid,
            predictions=[model.predict(X_grid) for model in models],
            names=list(estimators),
            **rows,
            feature_name=feature_name,
        )
        return display.plot(ax, name=name, **line_kw)

    def plot(
        self, ax: Any = None, *, name: str | list[str] | None = None, **line_kw: Any
    ) -> Self:
        """Draw the rows of the task and the predicted curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        name : str or list of str, default=None
            Names of the curves in the legend instead of `names`.
        **line_kw : dict
            Passed to matplotlib's `plot` for every curve.

        Returns
        -------
        display : AdaptationDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        names = curve_names(name, self.names)
        ax = new_axes(ax, "AdaptationDisplay")
        self._draw_rows(ax)
        self.lines_: list[Any] = []
        curves = zip(names, self.names, self.predictions, strict=True)
        for label, own, predicted in curves:
            style = {"color": "#555555", "linestyle": "--"} if own == BEFORE else {}
            style = {"label": label, **style, **line_kw}
            self.lines_ += ax.plot(self.x_grid, predicted, **style)
        ax.set(xlabel=self.feature_name, ylabel="y")
        dress(ax)
        self.ax_, self.figure_ = ax, ax.figure
        self.legend_ = legend_above(ax)
        return self

    def _draw_rows(self, ax: Any) -> None:
        self.support_points_ = ax.scatter(
            self.x_support,
            self.y_support,
            s=60,
            color="black",
            zorder=3,
            label=f"support rows ({len(self.x_support)})",
        )
        self.query_points_ = ax.scatter(
            self.x_query, self.y_query, s=14, color="#999999", label="query rows"
        )


def _refuse_other_than_regressor(estimator: Any) -> None:
    meta = last_step(estimator)
    if not is_regressor(meta):
        raise TypeError(
            f"AdaptationDisplay draws regression tasks; {type(meta).__name__} is no "
            "regressor. See EpisodeDisplay for images, and for a classifier of two "
            "features scikit-learn's DecisionBoundaryDisplay.from_estimator("
            "meta.adapt(X_support, y_support), X)."
        )


def _one_task(task: Any) -> TaskSet:
    """Return a TaskSet of one task, which keeps the name its support rows hang on."""
    if isinstance(task, Task):
        return TaskSet._of_pool(task._pool, "shared")[[task._position]]
    tasks = task if isinstance(task, TaskSet) else TaskSet([task])
    if len(tasks) != 1:
        raise TypeError(
            f"AdaptationDisplay draws one task, got {tasks!r}. Take one of them, "
            "tasks[0]."
        )
    return tasks


def _like(X: Any, x_grid: NDArray[Any]) -> tuple[Any, str]:
    """Return a column in the container of rows, and its name."""
    if isinstance(X, pd.DataFrame):
        return pd.DataFrame(x_grid[:, None], columns=X.columns), str(X.columns[0])
    return x_grid[:, None], "x"


def _one_feature(X: Any) -> NDArray[Any]:
    """Return the only column of rows."""
    X = np.asarray(X)
    if X.ndim != 2 or X.shape[1] != 1:
        raise ValueError(
            "AdaptationDisplay draws tasks of one feature, and rows of this task have "
            f"shape {X.shape[1:]}."
        )
    return X[:, 0]


def _one_output(y: NDArray[Any]) -> NDArray[Any]:
    if y.ndim != 1:
        raise ValueError(
            "AdaptationDisplay draws targets of one output, and those of this task "
            f"have {y.shape[1]}."
        )
    return y
