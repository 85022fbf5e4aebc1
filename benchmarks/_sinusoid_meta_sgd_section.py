"""The section of RESULTS.md on Meta-SGD's sinusoid regression."""

from __future__ import annotations

from _markdown import Record, bullets, interval, origin, table


def sinusoid_meta_sgd(record: Record) -> str:
    """Return the section."""
    p = record["parameters"]
    rows = []
    for row in record["results"]:
        cells = [row["train_support_rows"], row["method"]]
        for shots, error in row["mean_squared_error"].items():
            cells += [interval(error, digits=3), row["recalled"][shots]]
        for difference in row.get("minus_maml", {}).values():
            cells.append(interval(difference, digits=3))
        rows.append(cells + ["-"] * (2 + 3 * len(row["recalled"]) - len(cells)))
    shots = list(record["results"][0]["mean_squared_error"])
    header = ["trained on", "method"]
    for n in shots:
        header += [f"{n} rows", "paper, as recalled"]
    header += [f"minus MAML, {n} rows" for n in shots]
    return "\n".join(
        [
            "## Sinusoid regression by Meta-SGD (`sinusoid_meta_sgd.py`)\n",
            f"Mean squared error after one inner step on support rows of "
            f"{p['test_tasks']:,} new tasks, the same for all, after {p['updates']:,} "
            f"meta-updates of {p['tasks_per_update']} fresh tasks. Waves of amplitude "
            "0.1 to 5, frequency 0.8 to 1.2 and phase 0 to π. The protocol and the "
            "paper's numbers (Li et al. 2017, arXiv:1707.09835, table 1) are as "
            "recalled, not read again. Differences are paired.\n",
            table(header, rows),
            f"{origin(record)} Deviations:\n",
            bullets(record["deviations"]),
        ]
    )
