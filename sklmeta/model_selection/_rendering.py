"""Results as aligned text and as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

__all__ = ["decimals", "html_table", "number", "percent", "span", "text_table"]


def decimals(half_width: float, value: float) -> int:
    """Return how many decimals tell values apart: two digits of the half width."""
    size = half_width if math.isfinite(half_width) and half_width > 0 else abs(value)
    if not math.isfinite(size) or size == 0:
        return 3
    return min(max(1 - math.floor(math.log10(size)), 0), 6)


def number(value: float, places: int, *, sign: bool = False) -> str:
    """Return a number as text, a dash where there is none."""
    if not math.isfinite(value):
        return "-"
    return f"{value:{'+' if sign else ''}.{places}f}"


def span(low: float, high: float, places: int, *, sign: bool = False) -> str:
    """Return an interval as text."""
    if not math.isfinite(low):
        return "-"
    ends = number(low, places, sign=sign), number(high, places, sign=sign)
    return f"[{ends[0]}, {ends[1]}]"


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.4g} %" if math.isfinite(share) else "-"


def text_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> str:
    """Return an aligned table: first column to the left, others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [title]
    for line in lines:
        first, *rest = (cell.rjust(w) for cell, w in zip(line, widths, strict=True))
        text.append("  ".join([first.strip().ljust(widths[0]), *rest]).rstrip())
    return "\n".join([*text, *notes])


def html_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> str:
    """Return the same table as HTML."""

    def line(cells: Sequence[str], tag: str) -> str:
        first, *rest = map(html.escape, cells)
        right = "".join(
            f'<{tag} style="text-align: right">{cell}</{tag}>' for cell in rest
        )
        left = f'<th scope="row" style="text-align: left">{first}</th>'
        return f"<tr>{left}{right}</tr>"

    body = "".join(line(row, "td") for row in rows)
    below = "<br>".join(map(html.escape, notes))
    return (
        f"<table><caption>{html.escape(title)}</caption>"
        f"<thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
        f"<p>{below}</p>"
    )
