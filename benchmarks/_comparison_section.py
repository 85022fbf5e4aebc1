"""The section of RESULTS.md that sets meta-learners beside baselines."""

from __future__ import annotations

from typing import Any

from _markdown import Record, interval, origin, table

UNITS = {
    "accuracy": ("accuracy in %", 100, 1),
    "rmse": ("root mean squared error", 1, 2),
}
SHOTS = {"digits": "of each class", "parkinsons": "recordings"}


def comparison(record: Record) -> str:
    """Return the section of one data set."""
    data = record["benchmark"].removeprefix("comparison_")
    shots = record["results"]["shots"]
    metric = shots[0]["methods"][0]["metric"]
    what, scale, digits = UNITS[metric]
    reference = shots[0]["methods"][-1]["method"]
    header = ["method"]
    for found in shots:
        header += [f"{found['n_shot']} {SHOTS[data]}", f"minus {reference!r}"]
    rows = [
        [methods[0]["method"], *_cells(methods, scale, digits)]
        for methods in zip(*(found["methods"] for found in shots), strict=True)
    ]
    return "\n".join(
        [
            f"## Against baselines: {data} (`comparison.py`)\n",
            f"{record['parameters']['problem']} {what.capitalize()}, with 95 % t "
            "intervals; differences are paired.\n",
            table(header, rows),
            origin(record) + "\n",
        ]
    )


def _cells(methods: Any, scale: float, digits: int) -> list[str]:
    cells = []
    for found in methods:
        difference = "-"
        if found["difference_low"] is not None:
            paired = {
                "mean": found["difference"],
                "low": found["difference_low"],
                "high": found["difference_high"],
            }
            difference = interval(paired, scale, digits)
            difference = difference if difference[0] == "-" else f"+{difference}"
        cells += [interval(found, scale, digits), difference]
    return cells
