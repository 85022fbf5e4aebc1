"""The section of RESULTS.md on neural processes."""

from __future__ import annotations

from collections.abc import Sequence

from _markdown import Record, bullets, interval, origin, table

NAMES = {
    "cnp": "conditional neural process",
    "canp": "the same with attention",
    "anp": "attentive neural process, latent",
    "tnpd": "transformer neural process (TNP-D), in-context",
}
KERNELS = {"rbf": "RBF", "matern52": "Matern 5/2"}


def neural_processes(records: Sequence[Record]) -> str:
    """Return the section, from the records of its models."""
    by_model = {record["parameters"]["model"]: record for record in records}
    known = [by_model[model] for model in NAMES if model in by_model]
    header = ["model", "of the published meta-updates"]
    for kernel in KERNELS.values():
        header += [kernel, "paper, as recalled"]
    first = known[0]["parameters"]
    return "\n".join(
        [
            "## Neural processes on draws of Gaussian processes "
            "(`neural_processes.py`)\n",
            "Log-likelihood of a target row in nats (higher is better), mean over "
            f"{first['test_batches']:,} batches of {first['tasks_per_update']} new "
            "tasks, after meta-training on draws with an RBF kernel; 95 % t intervals "
            "over batches. Paper: Nguyen and Grover 2022 (arXiv:2207.04179), table 1, "
            "100,000 meta-updates; its numbers are as recalled, not read again. Asked "
            "for: within 0.1 of them.\n",
            table(header, [_row(record) for record in known]),
            "Runs, and how each deviates from the paper:\n",
            *(_origin(record) for record in known),
        ]
    )


def _row(record: Record) -> list[str]:
    p, found = record["parameters"], record["results"]["log_likelihood"]
    cells = [NAMES[p["model"]], f"{p['updates'] / p['published_updates']:.0%}"]
    for kernel in KERNELS:
        own = found[kernel]
        cells += [interval(own, digits=3), f"{own['recalled']:.2f}"]
    return cells


def _origin(record: Record) -> str:
    name = NAMES[record["parameters"]["model"]]
    minutes = record["results"]["training_cpu_s"] / 60
    return (
        f"{name[0].upper()}{name[1:]}: {minutes:.0f} minutes of meta-training. "
        f"{origin(record)}\n\n{bullets(record['deviations'])}"
    )
