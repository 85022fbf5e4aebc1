"""Makes RESULTS.md of the JSON results, with the papers' numbers alongside.

python benchmarks/report.py
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _ambiguous_section import ambiguous
from _calibration_section import calibration
from _comparison_section import comparison
from _grouped_section import PROBLEMS, grouped
from _heads_section import heads, predict_tasks_speed
from _judging_sections import evaluate_speed, interval_coverage, search_overhead
from _leaves_section import leaves
from _markdown import Record, bullets, interval, origin, table, where
from _mixed_model_section import mixed_model
from _neural_processes_section import neural_processes
from _omniglot_section import omniglot
from _one_shot_section import one_shot
from _presentation_section import presentation
from _report import RESULTS
from _rl_section import reinforcement_learning
from _scaling_section import scaling
from _sinusoid_cavia_section import sinusoid_cavia
from _sinusoid_deep_kernel_section import sinusoid_deep_kernel
from _sinusoid_meta_sgd_section import sinusoid_meta_sgd
from _speed_section import maml_speed, speed_convolution, speed_sinusoid
from _transfer_section import transfer, transfer_speed
from _which_one_section import which_one
from sinusoid import BARS, PUBLISHED

OPENING = """\
# Results

Made by `python benchmarks/report.py` from the files in `benchmarks/results/`; each
section names the script that wrote its file. Intervals are 95 % t intervals over tasks
or episodes of one meta-trained model: they do not cover what another seed of
meta-training would change. Papers' intervals are theirs. A dash: not published, or not
measured.
"""


def sinusoid(record: Record, *on_gpu: Record) -> str:
    """Return the section on MAML's sinusoid regression."""
    p = record["parameters"]
    records = (record, *on_gpu)
    errors = [one["results"]["mean_squared_error"] for one in records]
    rows = [
        (
            steps,
            *(interval(own[steps], digits=3) for own in errors),
            f"{PUBLISHED[int(steps)]:.2f}",
            f"{BARS[int(steps)]:.2f}",
        )
        for steps in errors[0]
    ]
    ours = [
        f"sklmeta, {where(one)}, {one['parameters']['updates']:,} meta-updates"
        for one in records
    ]
    return "\n".join(
        [
            "## Sinusoid regression by MAML (`sinusoid.py`)\n",
            f"Mean squared error on {p['test_tasks']} new tasks with "
            f"{p['test_support_rows']} support rows, after meta-updates of "
            f"{p['tasks_per_update']} fresh tasks each. Paper: Finn, Abbeel and Levine "
            "2017 (arXiv:1703.03400), table 2, 70,000 meta-updates.\n",
            table(("inner steps", *ours, "paper", "asked for: at most"), rows),
            "Runs, and how each deviates from the paper:\n",
            *(f"{origin(one)}\n\n{bullets(one['deviations'])}" for one in records),
        ]
    )


def episode_drawing(record: Record) -> str:
    """Return the section on drawing episodes."""
    rows = [
        (
            row["batch_size"],
            f"{row['indices']['mean']:,}",
            f"{row['gathered']['mean']:,}",
        )
        for row in record["results"]
    ]
    return "\n".join(
        [
            "## Drawing episodes (`episode_drawing.py`)\n",
            "Episodes per second, 5-way 1-shot with 15 query rows per class, from "
            "4,800 classes x 20 images: indices alone, and with the images taken. "
            "Asked for: at least 5,000.\n",
            table(("episodes at once", "indices", "with images"), rows),
            origin(record) + "\n",
        ]
    )


def taskset(record: Record) -> str:
    """Return the section on task sets."""
    p, found = record["parameters"], record["results"]
    whole, raw = found["pickle_bytes"] / 1e6, found["raw_bytes"] / 1e6
    part, raw_part = found["slice_pickle_bytes"] / 1e6, found["slice_raw_bytes"] / 1e6
    rows = [
        ("built from a shuffled DataFrame", f"{found['build_s']:.2f} s", "below 2 s"),
        ("pickled", f"{found['pickle_s']:.3f} s", "-"),
        ("read from the pickle", f"{found['unpickle_s']:.3f} s", "-"),
        ("arrays in the pickle", found["pickled_arrays"], "a few"),
        ("size of the pickle", f"{whole:.1f} MB, data alone {raw:.1f} MB", "-"),
        (
            f"size with {found['tasks_in_slice']} of the tasks",
            f"{part:.2f} MB, data alone {raw_part:.2f} MB",
            "-",
        ),
    ]
    return "\n".join(
        [
            "## Task sets (`taskset.py`)\n",
            f"{p['tasks']:,} tasks x {p['rows']} rows x {p['features']} features.\n",
            table(("", "sklmeta", "asked for"), rows),
            origin(record) + "\n",
        ]
    )


def grid_search(record: Record) -> str:
    """Return the section on the grid search."""
    p, found = record["parameters"], record["results"]

    def named(candidate: dict[str, Any]) -> str:
        return ", ".join(f"{name} {value}" for name, value in candidate.items())

    rows = [
        (
            row["seed"],
            named(row["winner"]),
            interval(row["winner_error"]),
            named(row["worst"]),
            interval(row["worst_error"]),
            interval(row["difference"]),
        )
        for row in found["seeds"]
    ]
    header = ("seed", "winner", "its error", "worst", "its error", "worst - winner")
    return "\n".join(
        [
            "## Grid search over tasks (`grid_search.py`)\n",
            "`GridSearchCV` over `inner_lr` and `inner_steps` of `MAMLRegressor` with "
            f"`TaskKFold({p['folds']})` on {p['tasks']} sinusoids, "
            f"{p['updates']:,} meta-updates a fit. Then the winner and the worst "
            f"finite candidate on {p['test_tasks']} new tasks, {p['support_rows']} "
            "support rows: mean squared errors and their paired difference. The same "
            f"winner for {found['most_seeds_with_one_winner']} of {len(rows)} seeds.\n",
            table(header, rows),
            origin(record) + "\n",
        ]
    )


SECTIONS: dict[str, Callable[..., str]] = {
    "sinusoid": sinusoid,
    "one_shot_challenge": one_shot,
    "sinusoid_meta_sgd": sinusoid_meta_sgd,
    "sinusoid_cavia": sinusoid_cavia,
    "sinusoid_deep_kernel": sinusoid_deep_kernel,
    "speed_sinusoid": speed_sinusoid,
    "speed_convolution": speed_convolution,
    "maml_speed": maml_speed,
    "scaling": scaling,
    "episode_drawing": episode_drawing,
    "heads": heads,
    "leaves": leaves,
    "mixed_model": mixed_model,
    "predict_tasks_speed": predict_tasks_speed,
    "taskset": taskset,
    "grid_search": grid_search,
    "evaluate_speed": evaluate_speed,
    "search_overhead": search_overhead,
    "interval_coverage": interval_coverage,
    "comparison_digits": comparison,
    "comparison_parkinsons": comparison,
    "which_one": which_one,
    "calibration": calibration,
    "ambiguous": ambiguous,
    "transfer": transfer,
    "transfer_speed": transfer_speed,
}


def read(folder: Path) -> dict[str, Record]:
    """Return the records in a folder by name."""
    return {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}


def render(folder: Path = RESULTS) -> str:
    """Return RESULTS.md for the records in a folder."""
    records = read(folder)
    sections = {
        name: section(*own)
        for name, section in SECTIONS.items()
        if (own := [records[n] for n in (name, f"{name}_gpu") if n in records])
    }
    # Experiments with another tag stay out.
    pattern = re.compile(r"omniglot_[a-z0-9]+_\d+w\d+s(_\d+steps)?(_gpu)?")
    drawn = [record for name, record in records.items() if pattern.fullmatch(name)]
    parts = [OPENING]
    if "sinusoid" in sections:
        parts.append(sections.pop("sinusoid"))
    if drawn:
        parts.append(omniglot(drawn))
    presented = [
        f"presentation_{method}{kind}"
        for kind in ("", "_long")
        for method in ("mann", "lstm")
    ]
    if any(name in records for name in presented):
        own = [records[name] for name in presented if name in records]
        parts.append(presentation(own))
    parts += sections.values()
    families: dict[str, Callable[..., str]] = {
        "neural_processes": neural_processes,
        **{f"grouped_{data}": grouped for data in PROBLEMS},
    }
    for name, section in families.items():
        pattern = re.compile(rf"{name}_\w+")
        own = [record for key, record in records.items() if pattern.fullmatch(key)]
        if own:
            parts.append(section(own))
    agents = [record for name, record in records.items() if name.startswith("rl_")]
    if agents:
        parts.append(reinforcement_learning(agents))
    return "\n".join(parts).rstrip() + "\n"


def main(argv: list[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    path = args.results.parent / "RESULTS.md"
    path.write_text(render(args.results))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
