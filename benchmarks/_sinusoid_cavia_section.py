"""The section of RESULTS.md on CAVIA's sinusoid regression."""

from __future__ import annotations

from _markdown import Record, bullets, interval, origin, table


def sinusoid_cavia(record: Record) -> str:
    """Return the section."""
    p = record["parameters"]
    rows = []
    for cell in record["results"]:
        recalled, difference = cell["recalled"], cell.get("minus_maml")
        rows.append(
            (
                cell["method"],
                cell["inputs"],
                interval(cell["mean_squared_error"], digits=3),
                "-" if difference is None else interval(difference, digits=3),
                "-" if recalled is None else f"{recalled:.2f}",
            )
        )
    header = (
        *("method", "further inputs", "sklmeta", "minus MAML without"),
        "paper, as recalled",
    )
    return "\n".join(
        [
            "## Sinusoid regression by CAVIA (`sinusoid_cavia.py`)\n",
            f"Mean squared error after one inner step on {p['support_rows']} support "
            f"rows of {p['test_tasks']:,} new tasks, the same for all methods, after "
            f"{p['updates']:,} meta-updates of {p['tasks_per_update']} fresh tasks. "
            "Further inputs are CAVIA's context parameters (step size "
            f"{p['inner_lr']['CAVIA']:g}), and learned constants that MAML adapts with "
            f"all its weights (step size {p['inner_lr']['MAML']:g}). The protocol is "
            "that of the authors' code; the paper's numbers (Zintgraf et al. 2019, "
            "arXiv:1810.03642, table 1) are as recalled, not read again. Differences "
            "are paired.\n",
            table(header, rows),
            f"{origin(record)} Deviations:\n",
            bullets(record["deviations"]),
        ]
    )
