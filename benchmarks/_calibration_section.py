"""The section of RESULTS.md on intervals that hold what they promise."""

from __future__ import annotations

from typing import Any

from _markdown import Record, interval, origin, table

SHOTS = ("5", "10")


def calibration(record: Record) -> str:
    """Return the section."""
    p = record["parameters"]
    parts = [
        "## Intervals of 90 % on simulated tasks (`calibration.py`)\n",
        f"Share in % of query targets inside nominal 90 % intervals, and negative log "
        f"predictive density (nats), on {p['test_tasks']} new tasks after "
        f"{p['training_tasks']} to learn from, {p['rows']} rows each; 95 % t intervals "
        "over tasks. Methods that work on the rows as they are have the very model "
        "that the tasks are drawn from: 87 to 93 % are asked for of them.\n",
    ]
    for kind, by_method in record["results"].items():
        header = [f"{kind} tasks"]
        for shot in SHOTS:
            header += [f"{shot} rows", "calibrated", "NLPD", "calibrated"]
        rows = [
            [name, *(cell for shot in SHOTS for cell in _cells(found, shot))]
            for name, found in by_method.items()
        ]
        parts.append(table(header, rows))
    return "\n".join([*parts, origin(record) + "\n"])


def _cells(found: dict[str, Any], shot: str) -> list[str]:
    cells = []
    for metric, scale, digits in (("coverage", 100, 1), ("nlpd", 1, 2)):
        for kind in ("raw", "calibrated"):
            value = found[kind][shot][metric] if kind in found else None
            cells.append("-" if value is None else interval(value, scale, digits))
    return cells
