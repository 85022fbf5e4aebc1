"""Loss of meta-training, epoch by epoch."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sklmeta.inspection._estimators import default_name, fitted, last_step, named
from sklmeta.inspection._plotting import curve_names, dress, legend_above, new_axes

__all__ = ["TrainingCurveDisplay"]


class TrainingCurveDisplay:
    """Meta-training loss against meta-updates, of one or several meta-learners.

    Make it with `from_estimator` or `from_estimators`.

    Parameters
    ----------
    n_updates : list of ndarray of shape (n_epochs,)
        For each estimator, the meta-updates done at the end of each epoch.
    train_losses : list of ndarray of shape (n_epochs,)
        For each estimator, the mean meta-loss of each epoch's training episodes.
    valid_losses : list of ndarray of shape (n_epochs,) or None
        For each estimator, the meta-loss of held-out tasks after each epoch; None
        where there were none.
    names : list of str
        Name of each estimator.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of `ax_`.
    train_lines_ : list of matplotlib Line2D
        Training loss of each estimator.
    valid_lines_ : list of matplotlib Line2D or None
        Validation loss of each estimator.
    legend_ : matplotlib Legend
        Above the axes.

    See Also
    --------
    ShotCurveDisplay : Score against the number of support rows.
    ParameterCurveDisplay : Score against inner steps, or another parameter.

    Examples
    --------
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> from sklmeta.inspection import TrainingCurveDisplay
    >>> pool = load_digits_pool()
    >>> meta = ProtoNetClassifier(max_iter=20, eval_every=5, random_state=0).fit(pool)
    >>> display = TrainingCurveDisplay.from_estimator(meta)
    >>> display.n_updates[0]
    array([ 5, 10, 15, 20])
    """

    def __init__(
        self,
        *,
        n_updates: list[NDArray[np.int64]],
        train_losses: list[NDArray[np.float64]],
        valid_losses: list[NDArray[np.float64] | None],
        names: list[str],
    ) -> None:
        self.n_updates = n_updates
        self.train_losses = train_losses
        self.valid_losses = valid_losses
        self.names = names

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, name: str | None = None, ax: Any = None, **line_kw: Any
    ) -> Self:
        """Draw the history of one fitted meta-learner.

        Parameters
        ----------
        estimator : meta-learner
            Fitted; or a fitted pipeline or search of one.
        name : str, default=None
            Its name in the legend; None names its class.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : TrainingCurveDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            Before `fit`.
        TypeError
            If the estimator keeps no history.
        ValueError
            If the history has no epoch.
        """
        name = name or default_name(estimator)
        return cls.from_estimators({name: estimator}, ax=ax, **line_kw)

    @classmethod
    def from_estimators(
        cls, estimators: dict[str, Any], *, ax: Any = None, **line_kw: Any
    ) -> Self:
        """Draw the histories of several fitted meta-learners.

        Parameters
        ----------
        estimators : dict of str to meta-learner
            Fitted ones, or fitted pipelines or searches of them, by name.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        **line_kw : dict
            Passed on to `plot`.

        Returns
        -------
        display : TrainingCurveDisplay
            Drawn.

        Raises
        ------
        NotFittedError
            If one is not fitted.
        TypeError
            If one keeps no history.
        ValueError
            If a history has no epoch.
        """
        estimators = named(estimators)
        histories = [_history(estimator) for estimator in estimators.values()]
        display = cls(
            n_updates=[_column(one, "train_batch_count").cumsum() for one in histories],
            train_losses=[_column(one, "train_loss") for one in histories],
            valid_losses=[_validation(one) for one in histories],
            names=list(estimators),
        )
        return display.plot(ax, **line_kw)

    def plot(
        self, ax: Any = None, *, name: str | list[str] | None = None, **line_kw: Any
    ) -> Self:
        """Draw the losses: training solid, validation dashed in the same colour.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        name : str or list of str, default=None
            Names in the legend instead of `names`.
        **line_kw : dict
            Passed to matplotlib's `plot` for every line.

        Returns
        -------
        display : TrainingCurveDisplay
            This one.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        names = curve_names(name, self.names)
        ax = new_axes(ax, "TrainingCurveDisplay")
        self.train_lines_: list[Any] = []
        self.valid_lines_: list[Any] = []
        curves = zip(
            names, self.n_updates, self.train_losses, self.valid_losses, strict=True
        )
        for one, updates, train, valid in curves:
            # A single epoch would be a line without length.
            style = {"marker": "o" if len(updates) == 1 else None, **line_kw}
            (line,) = ax.plot(updates, train, **{"label": f"{one}, training", **style})
            self.train_lines_.append(line)
            self.valid_lines_.append(None)
            if valid is None:
                continue
            style = {"color": line.get_color(), "linestyle": "--", **style}
            self.valid_lines_[-1] = ax.plot(
                updates, valid, **{"label": f"{one}, validation", **style}
            )[0]
        ax.set(xlabel="Meta-updates", ylabel="Meta-loss")
        dress(ax)
        self.ax_, self.figure_ = ax, ax.figure
        self.legend_ = legend_above(ax)
        return self


def _history(estimator: Any) -> Any:
    """Return the history of the meta-learner inside an estimator."""
    meta = last_step(fitted(estimator))
    if not hasattr(meta, "history_"):
        raise TypeError(
            f"{type(meta).__name__} keeps no history_: it is not meta-trained epoch by "
            "epoch."
        )
    if not len(meta.history_):
        raise ValueError(
            f"The history_ of this {type(meta).__name__} has no epoch: it has no "
            "weights to learn, or meta-training was interrupted before the first one."
        )
    return meta.history_


def _column(history: Any, name: str) -> NDArray[Any]:
    return np.array([row[name] for row in history])


def _validation(history: Any) -> NDArray[np.float64] | None:
    """Return the losses of held-out tasks, NaN in epochs that had none."""
    losses = np.array([row.get("valid_loss", np.nan) for row in history])
    return None if np.isnan(losses).all() else losses
