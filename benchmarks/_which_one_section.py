"""The section of RESULTS.md on which method suits which kind of tasks."""

from __future__ import annotations

from _markdown import Record, interval, origin, table

KINDS = {
    "offsets": "tasks differ by an offset",
    "slopes": "by slopes",
    "waves": "by a non-linear function",
}


def which_one(record: Record) -> str:
    """Return the section."""
    p, results = record["parameters"], record["results"]
    by_kind = {
        kind: {found["method"]: found for found in results[kind]} for kind in KINDS
    }
    names = list(by_kind["offsets"])
    rows = [
        [name, *(interval(by_kind[kind][name]) for kind in KINDS)] for name in names
    ]
    return "\n".join(
        [
            "## Which method for which tasks (`which_one.py`)\n",
            f"Root mean squared error on new tasks from {p['shots']} rows, with 95 % t "
            f"intervals over tasks; noise of standard deviation {p['noise']}. "
            f"{p['training_tasks']} tasks to train on, {p['rows']} rows each, "
            f"{p['features']} features; all parameters are defaults.\n",
            table(["method", *KINDS.values()], rows),
            origin(record) + "\n",
        ]
    )
