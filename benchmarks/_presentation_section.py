"""The section of RESULTS.md on presentations of Omniglot's characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from _markdown import Record, bullets, interval, origin, table, where

__all__ = ["presentation"]

METHODS = {"mann": "MANN", "lstm": "LSTM"}
# As recalled from the paper.
PUBLISHED = {
    "mann": {"1": 36.4, "2": 82.8, "3": 91.0, "4": 92.6, "5": 94.9, "10": 98.1},
    "lstm": {"1": 24.4, "2": 49.5, "3": 55.3, "4": 61.0, "5": 63.6, "10": 62.5},
}


def presentation(records: Sequence[Record]) -> str:
    """Return the section on accuracy by presentation."""
    shown = [n for n in PUBLISHED["mann"] if n in records[0]["results"]["accuracy"]]
    rows, notes = [], []
    for number, record in enumerate(records, 1):
        method, found = record["parameters"]["method"], record["results"]
        rows.append(
            (
                f"{METHODS[method]}{_variant(record)}, sklmeta ({number})",
                *(interval(found["accuracy"][n], 100) for n in shown),
                f"{found['training_s'] / 60:.1f}",
                f"{found['n_updates']:,}",
                where(record),
            )
        )
        rows.append(
            (
                f"{METHODS[method]}, paper",
                *(PUBLISHED[method][n] for n in shown),
                *("-", "-", "-"),
            )
        )
        notes.append(f"({number}) {origin(record)}\n")
        notes.append(_curve(found["validation_curve"]) + "\n")
        notes.append(bullets(record["deviations"]))
    p = records[0]["parameters"]
    header = ("method", *(f"presentation {n}" for n in shown))
    return "\n".join(
        [
            "## Omniglot row by row (`presentation.py`)\n",
            f"Accuracy in % at the 1st, 2nd, ... presentation of a character among "
            f"{p['ways']} of the 423 held-out ones, {p['presentations']} drawings of "
            f"each in random order, over {p['test_episodes']:,} episodes. Paper: "
            "Santoro et al. 2016 (arXiv:1605.06065), its numbers as recalled. Minutes "
            "are of processor time on one thread, in meta-training. Asked for: MANN at "
            "least 10 points above the LSTM at the 2nd presentation. Meta-training "
            "begins with short episodes, or has long ones alone (long only), as in the "
            "paper.\n",
            table((*header, "minutes", "meta-updates", "on"), rows),
            "Runs, and how each deviates from the paper:\n",
            *notes,
        ]
    )


def _variant(record: Record) -> str:
    """Return what tells runs of a method apart."""
    return ", long only" if record["parameters"].get("long_only") else ""


def _margin(records: Sequence[Record]) -> str:
    """Return by how much the methods differ at the 2nd presentation."""
    found = {
        record["parameters"]["method"]: record["results"]["accuracy"]["2"]["mean"]
        for record in records
    }
    if len(found) < len(METHODS):
        return "One of them is not measured."
    margin = 100 * (found["mann"] - found["lstm"])
    return (
        f"Here the difference is {margin:+.1f} points: both learn from the same short "
        "episodes first, and the LSTM takes more meta-updates in the time. Settings "
        "were chosen in short runs of MANN on validation characters."
    )


def _curve(points: Sequence[Mapping[str, Any]], n_shown: int = 10) -> str:
    """Return validation accuracy over minutes, at most some points of it."""
    last = len(points) - 1
    places = sorted({round(i * last / (n_shown - 1)) for i in range(n_shown)})
    shown = ", ".join(
        f"{points[i]['seconds'] / 60:.1f}: {100 * points[i]['accuracies'][1]:.1f}"
        for i in places
    )
    return f"2nd presentation of validation characters, by minutes: {shown}."
