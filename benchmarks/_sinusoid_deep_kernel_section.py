"""The section of RESULTS.md on sinusoids by deep kernels and ALPaCA."""

from __future__ import annotations

from typing import Any

from _markdown import Record, bullets, interval, origin, table


def sinusoid_deep_kernel(record: Record) -> str:
    """Return the section."""
    p = record["parameters"]
    header = (
        *("method", "in range", "out of range", "minus spectral, in", "out"),
        *("90 % coverage, in", "out", "paper, as recalled: in", "out"),
    )
    low, high = p["ranges"]["out"]
    return "\n".join(
        [
            "## Sinusoids by deep kernels and ALPaCA (`sinusoid_deep_kernel.py`)\n",
            f"Mean squared error on {p['query_rows']} noisy query rows of "
            f"{p['test_tasks']} new waves, the same for all methods, given "
            f"{p['support_rows']} rows, after {p['updates']:,} meta-updates of one "
            f"fresh wave with {p['training_rows']} rows; the noise alone makes "
            f"{p['noise_sd'] ** 2:g} of it. In range is where meta-training was, out "
            f"of range is x in [{low:g}, {high:g}]. Coverage: the share of query rows "
            f"inside their {100 * p['level']:g} % intervals. The protocol is that of "
            "the authors' code; the paper's numbers (Patacchiola et al. 2020, "
            "arXiv:1910.05199) are as recalled, not read again. Differences are "
            "paired.\n",
            table(header, [_row(own) for own in record["results"]]),
            f"{origin(record)} Deviations:\n",
            bullets(record["deviations"]),
        ]
    )


def _row(own: dict[str, Any]) -> tuple[str, ...]:
    places = ("in", "out")
    error, recalled = own["mean_squared_error"], own["recalled"]
    difference = own.get("minus_spectral")
    return (
        f"{own['method']} kernel" if own["method"] != "ALPaCA" else "ALPaCA",
        *(interval(error[place], digits=3) for place in places),
        *(
            "-" if difference is None else interval(difference[place], digits=3)
            for place in places
        ),
        *(interval(own["coverage"][place], 100, 1) for place in places),
        *("-" if recalled is None else f"{recalled[place]:.2f}" for place in places),
    )
