"""The section of RESULTS.md on draws where the support leaves open what the task is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _markdown import Record, interval, origin, table

REFERENCE = "MAML"
WAVES = {
    "line": ("lines, % of draws", 100, 0),
    "both": ("tasks with 10 to 90 % lines, %", 100, 0),
    "off_both": ("RMS distance from lines and waves", 1, 2),
    "best": ("RMSE of the best draw", 1, 2),
    "mean_rmse": ("RMSE of the mean", 1, 2),
    "nlpd": ("NLPD", 1, 2),
}
ATTRIBUTES = {
    "first": ("attribute 1, % of draws", 100, 0),
    "both": ("tasks with 10 to 90 % attribute 1, %", 100, 0),
    "agrees": ("rows of a draw that go by its attribute, %", 100, 0),
    "certain": ("certainty of a draw", 1, 2),
    "best": ("log loss of the best draw", 1, 2),
    "log_loss": ("log loss", 1, 3),
}
Columns = Mapping[str, tuple[str, float, int]]


def ambiguous(record: Record) -> str:
    """Return the section."""
    p, results = record["parameters"], record["results"]
    low, high = p["support_range"]
    return "\n".join(
        [
            "## Supports that fit several tasks (`ambiguous.py`)\n",
            f"On {p['held_out']} new tasks of each problem, {p['draws']} draws of "
            f"each, after {p['updates']:,} meta-updates; 95 % t intervals over tasks. "
            "MAML has one network. Differences are paired. The best draw is chosen by "
            "the truth: draws of noise alone would lower its error too, and fall on "
            "both explanations, so that what tells is how near draws are to any "
            "explanation, and how certain each is.\n",
            f"A sine wave or a line, from 5 rows between {low:g} and {high:g} of -5 "
            f"to 5, with noise of {p['noise']}: tasks whose exact posterior "
            f"probability of a line is between {p['open'][0]} and {p['open'][1]}. A "
            "draw is a line if "
            "it is nearer to some line than to some wave. The density of MAML is a "
            "normal with the standard deviation of its errors on other tasks; all "
            "densities here are normals of a mean and a standard deviation.\n",
            _table(results["waves or lines"], WAVES),
            _table(_differences(results["waves or lines"]), WAVES, "minus MAML"),
            "Two attributes of which either explains the 4 support rows. The certainty "
            "of a draw is its mean |2p - 1| on rows whose attributes differ.\n",
            _table(results["attributes"], ATTRIBUTES),
            _table(_differences(results["attributes"]), ATTRIBUTES, "minus MAML"),
            "The latent neural process is trained on "
            f"{p['draws_of_latent_in_training']} draws of its variable.\n",
            origin(record) + "\n",
        ]
    )


def _differences(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return each method's differences from MAML."""
    return {
        name: found["difference"]
        for name, found in results.items()
        if name != REFERENCE
    }


def _table(results: Mapping[str, Any], columns: Columns, corner: str = "") -> str:
    header = [corner, *(name for name, _, _ in columns.values())]
    rows = [
        [
            name,
            *(
                interval(found[key], scale, digits)
                for key, (_, scale, digits) in columns.items()
            ),
        ]
        for name, found in results.items()
    ]
    return table(header, rows)
