"""Sections on heads for local labels, and on predicting many tasks at once."""

from __future__ import annotations

from typing import Any

from _markdown import Record, interval, origin, table
from predict_tasks_speed import TITLES


def heads(record: Record) -> str:
    """Return the section on which head MAML starts from with local labels."""
    p = record["parameters"]
    rows = [
        (
            row["problem"],
            row["inner_steps"],
            row["head"],
            f"{row['inner_lr']:g}",
            interval(row["accuracy"], 100),
            "-" if row["head"] == "shared" else interval(row["difference"], 100),
            " / ".join(f"{100 * mean:.1f}" for mean in row["by_seed"]),
            _more_ways(row["more_ways"]),
        )
        for row in record["results"]
    ]
    header = (
        *("problem", "inner steps", "head", "inner_lr", "accuracy"),
        *("minus shared", "by seed", "12 ways"),
    )
    return "\n".join(
        [
            "## Which head (`heads.py`)\n",
            "What MAML's output layer starts from with local labels: a meta-learned "
            "vector for each way (fixed), the same for all ways (shared), class means "
            "(prototype). Accuracy in % on classes held out of the meta-training "
            "classes, none of them of a test set used elsewhere; difference to the "
            "shared head over the same episodes, averaged over "
            f"{p['n_seeds']} meta-trainings. The inner learning rate is chosen for "
            "each row on other held-out classes. Omniglot: strided convolutions of "
            f"{p['width']} filters, {p['updates']:,} meta-updates of 4 episodes, 5 "
            "query rows per class, and query rows normalised by the support's "
            "statistics. Leaves: tasks of 2 to 10 species and 3 to 60 leaves, 64 "
            "features, default network, "
            f"{p['ragged_updates']:,} meta-updates; episodes of 1 to 5 shots; 12 ways "
            "are adapted to after training on at most 10.\n",
            table(header, rows),
            origin(record) + "\n",
        ]
    )


def _more_ways(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else interval(value, 100)


def predict_tasks_speed(record: Record) -> str:
    """Return the section on predicting many tasks at once."""
    p = record["parameters"]
    rows = [
        (
            TITLES[row["kind"]],
            f"{row['together_s']:.2f}",
            f"{row['one_by_one_s']:.0f}",
            "{:.0f} ({:.0f} to {:.0f})".format(row["ratio"], *row["ratio_range"]),
            f"{row['largest_difference']:.0e}"
            if row["kind"] == "numbers"
            else f"{row['other_labels']} other labels",
        )
        for row in record["results"]
    ]
    header = (
        *("default parameters", "`predict_tasks`, s", "`adapt`, `predict`, s"),
        *("ratio (range)", "difference"),
    )
    return "\n".join(
        [
            "## Predicting many tasks (`predict_tasks_speed.py`)\n",
            f"{p['tasks']:,} tasks adapted and {p['query_rows']} rows of each "
            "predicted: in one call, and task by task. Medians of "
            f"{p['repeats']} repeats that take turns, each of the slow way on a part "
            "of the tasks; the difference is over all of them. Asked for: a ratio of "
            "at least 20, a difference of at most 1e-05.\n",
            table(header, rows),
            origin(record) + "\n",
        ]
    )
