"""Scores with their intervals along an axis: what two displays compute and draw."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklmeta.inspection._plotting import curve_names, dress, legend_above, new_axes
from sklmeta.model_selection.comparison import compare

__all__ = [
    "ScoreCurves",
    "are_numbers",
    "axis_values",
    "draw_band",
    "draw_curves",
    "judged",
    "judged_by",
]

ACRONYMS = {
    "crps": "CRPS",
    "ece": "ECE",
    "mae": "MAE",
    "mse": "MSE",
    "nlpd": "NLPD",
    "r2": "R²",
    "rmse": "RMSE",
}
MOST_TICKS = 10  # that fit below an axis
WIDE_RANGE = 10  # largest by smallest value from which an axis is logarithmic


@dataclass(frozen=True)
class ScoreCurves:
    """Mean scores and bounds of their intervals, shape (n_methods,) each."""

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    metric_name: str


def axis_values(name: str, values: Any) -> list[Any]:
    """Return the values along an axis; refuse one alone, and none at all."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be several values, such as a list; got {values}.")
    found = list(values)
    if not found:
        raise ValueError(f"{name} is empty; give at least one value.")
    return found


def judged(
    estimators: Mapping[str, Any], tasks: Any, metric: Any, **protocol: Any
) -> ScoreCurves:
    """Judge methods on the same episodes by one metric."""
    if isinstance(metric, (list, tuple, set, Mapping)):
        raise TypeError(
            f"metric must be one metric, to draw one curve; got {metric!r}."
        )
    return judged_by(metric, estimators, tasks, **protocol)[0]


def judged_by(
    metric: Any, estimators: Mapping[str, Any], tasks: Any, **protocol: Any
) -> list[ScoreCurves]:
    """Judge methods on the same episodes by one metric or several, adapting once."""
    summary = compare(estimators, tasks, metric=metric, **protocol).summary()
    found = []
    for name, own in summary.groupby("metric", sort=False):
        mean, low, high = (own[end].to_numpy() for end in ("mean", "low", "high"))
        found.append(ScoreCurves(mean, low, high, str(name)))
    return found


def draw_curves(
    display: Any,
    values: Sequence[Any],
    xlabel: str,
    ax: Any,
    name: Any,
    band_kw: dict[str, Any] | None,
    line_kw: dict[str, Any],
) -> None:
    """Draw the scores of a display, with intervals as bands, or bars of categories."""
    names = curve_names(name, display.names)
    ax = new_axes(ax, type(display).__name__, markers=True)
    x = _prepare_axis(ax, values)
    style = {} if are_numbers(values) else {"linestyle": "none"}
    display.lines_, display.bands_ = [], []
    curves = zip(names, display.mean, display.low, display.high, strict=True)
    for label, mean, low, high in curves:
        (line,) = ax.plot(x, mean, **{"label": label, **style, **line_kw})
        band = {"color": line.get_color(), **(band_kw or {})}
        display.lines_.append(line)
        display.bands_.append(draw_band(ax, x, low, high, band, bars=bool(style)))
    ax.set(xlabel=xlabel, ylabel=_score_label(display))
    dress(ax)
    display.ax_, display.figure_ = ax, ax.figure
    display.legend_ = legend_above(ax)


def draw_band(
    ax: Any,
    x: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    kw: dict[str, Any],
    bars: bool,
) -> Any:
    """Draw an interval at each x, as a band or as bars."""
    if bars:
        return ax.vlines(x, low, high, **kw)
    return ax.fill_between(x, low, high, **{"alpha": 0.2, "linewidth": 0, **kw})


def _prepare_axis(ax: Any, values: Sequence[Any]) -> NDArray[np.float64]:
    """Choose scale and ticks of the x axis; return where the values lie on it."""
    if not are_numbers(values):
        x = np.arange(len(values), dtype=float)
        ax.set_xticks(x, labels=[str(value) for value in values])
        ax.set_xlim(-0.5, len(values) - 0.5)
        return x
    x = np.asarray(values, dtype=float)
    positive = x[x > 0]
    if len(positive) and x.min() >= 0 and x.max() / positive.min() >= WIDE_RANGE:
        if x.min() > 0:
            ax.set_xscale("log")
        else:
            ax.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
    if len(x) <= MOST_TICKS:
        ax.set_xticks(x, labels=[f"{value:g}" for value in x])
        ax.minorticks_off()
    return x


def are_numbers(values: Sequence[Any]) -> bool:
    """Tell numbers from names and switches."""
    return all(
        isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
        for value in values
    )


def _score_label(display: Any) -> str:
    words = display.metric_name.replace("_", " ")
    metric = ACRONYMS.get(words) or words[:1].upper() + words[1:]
    return f"{metric}, mean and {100 * display.confidence:g} % interval"
