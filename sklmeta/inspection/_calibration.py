"""What two displays of calibration share: who they are for, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from sklmeta.inspection._estimators import fitted, named
from sklmeta.inspection._plotting import curve_names, dress, legend_above, new_axes
from sklmeta.inspection._score_curves import draw_band
from sklmeta.model_selection._judging import classifies

__all__ = ["draw_calibration", "fitted_of_kind"]

IDEAL = "ideal"


def fitted_of_kind(
    estimators: Mapping[str, Any], classifiers: bool, caller: str, other: str
) -> dict[str, Any]:
    """Return named and fitted estimators; refuse those that are not of the kind."""
    found = {name: fitted(one) for name, one in named(estimators).items()}
    for name, one in found.items():
        if classifies(one) is not classifiers:
            kinds = ("classifiers", "regressor")
            shown, got = kinds if classifiers else ("regressors", "classifier")
            raise TypeError(
                f"{caller} is of {shown}, and {name!r} is a {got}: use {other}."
            )
    return found


def draw_calibration(
    display: Any,
    stated: NDArray[Any],
    observed: NDArray[Any],
    labels: tuple[str, str],
    ax: Any,
    name: Any,
    notes: list[str] | None,
    band_kw: dict[str, Any] | None,
    line_kw: dict[str, Any],
    bars: bool,
) -> None:
    """Draw what was observed against what was stated, intervals and the diagonal.

    `stated` and `observed` are of shape (n_estimators, n_points).
    """
    names = curve_names(name, display.names)
    ax = new_axes(ax, type(display).__name__, markers=True)
    display.lines_, display.bands_ = [], []
    curves = zip(stated, observed, display.low, display.high, strict=True)
    for i, (x, mean, low, high) in enumerate(curves):
        label = names[i] if notes is None else f"{names[i]} ({notes[i]})"
        (line,) = ax.plot(x, mean, **{"label": label, **line_kw})
        band = {"color": line.get_color(), **(band_kw or {})}
        display.lines_.append(line)
        display.bands_.append(draw_band(ax, x, low, high, band, bars=bars))
    display.diagonal_ = _diagonal(ax)
    ax.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, 1), ylim=(0, 1))
    dress(ax)
    display.ax_, display.figure_ = ax, ax.figure
    display.legend_ = legend_above(ax)


def _diagonal(ax: Any) -> Any:
    """Return the diagonal of the axes, where another display may have drawn it."""
    drawn = [line for line in ax.lines if line.get_gid() == IDEAL]
    if drawn:
        return drawn[0]
    style = {"color": "0.5", "linestyle": "--", "linewidth": 1, "zorder": 1}
    return ax.axline((0, 0), (1, 1), label=IDEAL, gid=IDEAL, **style)
