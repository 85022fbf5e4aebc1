"""The section of RESULTS.md on how cost grows with work."""

from __future__ import annotations

from typing import Any

from _markdown import Record, bullets, origin, table


def scaling(record: Record) -> str:
    """Return the section on time and memory of a meta-update."""
    base, found = record["parameters"]["base"], record["results"]
    rows = [
        (
            row["sweep"],
            f"{row['n_weights']:,}" if row["sweep"] == "weights" else row["value"],
            f"{1e3 * row['seconds']:.2f}",
            _power(row, "exponent"),
            f"{row['peak_bytes'] / 1e6:.2f}",
            _power(row, "memory_exponent"),
            f"{row['predicted_bytes'] / row['peak_bytes']:.2f}",
        )
        for row in found["rows"]
    ]
    header = (
        *("what grows", "to", "ms", "power", "peak MB", "power"),
        "predicted / peak",
    )
    above = record["parameters"]["explained_above"]
    reasons = bullets(found["explanations"]) or "Nowhere.\n"
    return "\n".join(
        [
            "## Cost as work grows (`scaling.py`)\n",
            f"A second-order meta-update of MAML: {base['tasks']} tasks x "
            f"({base['rows']} + {base['rows']}) rows, {base['inner_steps']} inner "
            f"steps, 1-{base['width']}-{base['width']}-1 network, one of them growing. "
            "Least processor time of some repeats, and the most memory that torch's "
            "allocator gave out at a time. A power is that of the size that the "
            "quantity grew with since the row before: 1 is in proportion. Images are 2 "
            "tasks x (5 + 5), 28 x 28, four blocks of 32 channels. Prediction: that of "
            "`memory_limit`, for torch's autograd; nets on rows run recorded, which "
            "takes less.\n",
            table(header, rows),
            f"Where time grows with a power above {above}, and why:\n",
            reasons,
            origin(record) + "\n",
        ]
    )


def _power(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f}" if row.get(name) is not None else "-"
