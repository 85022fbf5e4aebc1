"""The section of RESULTS.md on Omniglot's one-shot challenge."""

from __future__ import annotations

from _markdown import Record, bullets, interval, origin, table

__all__ = ["one_shot"]

# Errors in percent. Of all but the first, what the authors' papers say as recalled.
PUBLISHED = {
    "modified Hausdorff": "38.8",
    "ProtoNet": "13.7 (as recalled)",
}
BARS = {"modified Hausdorff": "38.8 exactly", "ProtoNet": "below 15"}
TITLES = {
    "modified Hausdorff": "modified Hausdorff distance, nothing learned",
    "ProtoNet": "ProtoNet, drawings as they are",
    "ProtoNet, averaged": "ProtoNet, averaged over distorted copies",
}


def one_shot(record: Record) -> str:
    """Return the section on the one-shot challenge."""
    found, p = record["results"], record["parameters"]
    rows = [
        (
            title,
            interval(found["error"][name], 100),
            PUBLISHED.get(name, "-"),
            BARS.get(name, "-"),
        )
        for name, title in TITLES.items()
        if name in found["error"]
    ]
    return "\n".join(
        [
            "## The one-shot challenge (`one_shot_challenge.py`)\n",
            "Error in % on the 20 runs of Omniglot's authors, each 20-way 1-shot "
            "inside one alphabet that meta-training has not seen: mean over runs. "
            "Published: by the authors of the data; people make 4.5 % errors (as "
            f"recalled). ProtoNet: {found['n_updates']:,} meta-updates in "
            f"{found['training_s'] / 60:.1f} minutes (of processor time) on the 30 "
            f"background alphabets, {p['train_ways']} ways of one alphabet in each "
            "episode.\n",
            table(("", "sklmeta", "published", "asked for"), rows),
            "Errors of each run, in order:\n",
            *(f"- {TITLES[name]}: {_errors(own)}." for name, own in _runs(record)),
            "\nHow the run deviates from the paper, and how it was chosen:\n",
            bullets(record["deviations"]),
            origin(record) + "\n",
        ]
    )


def _runs(record: Record) -> list[tuple[str, list[float]]]:
    by_run = record["results"]["by_run"]
    return [(name, by_run[name]) for name in TITLES if name in by_run]


def _errors(errors: list[float]) -> str:
    return ", ".join(f"{100 * error:.0f}" for error in errors)
