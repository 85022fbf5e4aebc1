"""Sections on the speed of meta-training."""

from __future__ import annotations

from typing import Any

from _markdown import Record, origin, table, where
from _speed_sinusoid import BARS


def speed_sinusoid(*records: Record) -> str:
    """Return the section on ways to meta-train nets on rows."""
    parts = ["## Speed of meta-training, nets on rows (`speed.py`)\n"]
    for record in records:
        parts += [_of_sinusoids(record), _sinusoid_table(record["results"])]
        parts.append(origin(record) + "\n")
    return "\n".join(parts)


def speed_convolution(record: Record) -> str:
    """Return the section on ways to meta-train convolutions."""
    return "\n".join(
        [
            "## Speed of meta-training, convolutions (`speed.py`)\n",
            _of_convolutions(record),
            _convolution_table(record["results"]),
            origin(record) + "\n",
        ]
    )


def _of_sinusoids(record: Record) -> str:
    p = record["parameters"]
    return (
        f"On {where(record)}: meta-updates per second of MAML on 25 sinusoids x (10 + "
        "10) rows, second order, 1-40-40-1 network, Adam. sklmeta: through `fit`, "
        f"{p['updates_per_fit']:,} updates a run, everything from the call to its "
        "return but what compiling took, which is told apart (in the first run; later "
        "runs find the compiled code). The other ways are loops that draw the same "
        "tasks, and are what one would write: with `torch.autograd.grad` task by task, "
        "and, where they are installed, with learn2learn and with JAX, whose jitted "
        "function holds the whole update, and computes as the next batch is drawn, on "
        "a core of its own. All take turns in one process; medians of "
        f"{p['repeats']} turns, and of their ratios to the plain loop.\n"
    )


def _sinusoid_table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        bar = BARS.get(row["way"], {}).get(row["inner_steps"])
        lines.append(
            (
                row["tasks"],
                row["inner_steps"],
                row["way"].replace("sklmeta, compiled", "sklmeta, `compile=True`"),
                f"{row['updates_per_s']:,.0f}",
                "{:.1f} ({:.1f} to {:.1f})".format(row["ratio"], *row["ratio_range"]),
                "-" if bar is None else f"{bar:g}",
                f"{row['compile_s']:.1f} s" if row["compile_s"] else "-",
            )
        )
    header = (
        *("tasks", "inner steps", "way", "updates per s"),
        *("times the plain loop (range)", "asked for: at least", "compiling"),
    )
    return table(header, lines)


def _of_convolutions(record: Record) -> str:
    return (
        "Tasks per second of MAML on 5-way 1-shot images of 28 x 28, second order, "
        "four blocks of 64 filters with max-pooling and batch normalisation, one step, "
        "Adam; support + query images per task. The plain loop calls torch's modules "
        "with each task's weights, and is given all "
        f"{record['parameters']['conv_threads']} threads. Losses and gradients are the "
        "same numbers up to rounding, except for support statistics, which is what the "
        "estimators use unless `transductive=True`. `compile=True` leaves convolutions "
        "on a CPU as they are.\n"
    )


def _convolution_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        (
            row["images"],
            row["way"],
            row["threads"],
            f"{row['tasks_per_s']:.1f}",
            "{:.2f} ({:.2f} to {:.2f})".format(row["ratio"], *row["ratio_range"]),
        )
        for row in rows
    ]
    header = ("images", "way", "threads", "tasks per s", "times the plain loop (range)")
    return table(header, lines)


def maml_speed(record: Record) -> str:
    """Return the section on an earlier run, on a GPU."""
    rows = [
        (
            row["tasks"],
            row["inner_steps"],
            f"{row['fit_per_s']:.0f}",
            f"{row['loop_per_s']:.1f}",
            "{:.1f} ({:.1f} to {:.1f})".format(row["ratio"], *row["ratio_range"]),
        )
        for row in record["results"]
    ]
    header = ("tasks", "inner steps", "`fit`", "plain loop", "ratio (range)")
    return "\n".join(
        [
            "## Speed of MAML on a GPU, before meta-updates were recorded\n",
            "Meta-updates per second on 25 sinusoids x (10 + 10) rows as above, by an "
            f"earlier form of `speed.py` on {where(record)}; medians of "
            f"{record['parameters']['repeats']} turns.\n",
            table(header, rows),
            origin(record) + "\n",
        ]
    )
