"""What the displays share in drawing: matplotlib on demand, axes, colours, names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = [
    "COLORS",
    "MARKERS",
    "curve_names",
    "dress",
    "legend_above",
    "new_axes",
    "pyplot",
]

# Okabe & Ito's colours, told apart with every kind of colour vision; yellow is left
# out, which is too faint for lines on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

FIGURE_SIZE = (6.4, 4.2)  # inches
WIDEST_LEGEND = 66  # characters in a row
LEGEND_HANDLE = 5  # characters that a handle and the gap after an entry take


def pyplot(caller: str) -> Any:
    """Return matplotlib.pyplot, imported only when something is drawn."""
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{caller} needs matplotlib, which is not installed. Install it with "
            "pip install 'sklmeta[plot]'."
        ) from error
    return plt


def new_axes(
    ax: Any,
    caller: str,
    *,
    size: tuple[float, float] = FIGURE_SIZE,
    markers: bool = False,
) -> Any:
    """Return the axes to draw in: those given, or those of a new figure.

    New axes cycle through `COLORS`; given ones keep the cycle their owner chose.
    """
    plt = pyplot(caller)
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
        cycle = plt.cycler(color=COLORS)
        ax.set_prop_cycle(cycle + plt.cycler(marker=MARKERS) if markers else cycle)
        return ax
    if not hasattr(ax, "get_xlim"):
        raise TypeError(
            f"ax must be one matplotlib Axes, got {type(ax).__name__}. Of several, "
            "as plt.subplots(1, 2) returns them, pass one: plot(ax=axes[0])."
        )
    return ax


def curve_names(given: Any, own: Sequence[str]) -> list[str]:
    """Return one name per curve: those given to `plot`, else the display's own."""
    if given is None:
        return list(own)
    names = [given] if isinstance(given, str) else list(given)
    if len(names) != len(own):
        raise ValueError(
            f"name holds {len(names)} names for {len(own)} curves. Give one name for "
            "each curve."
        )
    return names


def dress(ax: Any) -> None:
    """Give axes a faint grid, and numbers whose exponents no legend covers."""
    ax.grid(alpha=0.3)
    ax.yaxis.set_major_formatter("{x:g}")


def legend_above(ax: Any) -> Any:
    """Put the legend above the axes, where it hides no data."""
    handles, labels = ax.get_legend_handles_labels()
    widest = max(map(len, labels)) + LEGEND_HANDLE
    rows = math.ceil(len(labels) / max(1, WIDEST_LEGEND // widest))
    columns = math.ceil(len(labels) / rows)
    return ax.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
    )
