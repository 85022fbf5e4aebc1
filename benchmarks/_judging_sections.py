"""The sections of RESULTS.md on judging: speed, overhead, coverage of intervals."""

from __future__ import annotations

from _markdown import Record, origin, table

BARS = ("at most 1.3", "at most 1.3", "-")


def evaluate_speed(record: Record) -> str:
    """Return the section on the speed of `evaluate`."""
    p = record["parameters"]
    rows = [
        (
            row["data"],
            f"{row['episodes']:,}",
            f"{row['evaluate_s']:.3f} s",
            own["form"],
            f"{own['s']:.3f} s",
            f"{own['ratio']:.2f}",
            bar,
        )
        for row in record["results"]
        for own, bar in zip(row["bare"].values(), BARS, strict=True)
    ]
    header = (
        *("data", "episodes", "`evaluate`", "bare form"),
        *("its time", "ratio", "asked for"),
    )
    return "\n".join(
        [
            "## Speed of `evaluate` (`evaluate_speed.py`)\n",
            f"A fitted ProtoNet on {p['ways']}-way {p['shots']}-shot episodes, "
            f"{p['query_rows_per_class']} query rows a way: `evaluate`, which draws "
            "them and returns the score of each, and bare torch. In batches of "
            "episodes the bare form embeds every row of each (the best of five batch "
            "sizes); *rows once* it embeds each row once, as `evaluate` does. Its "
            "episodes are drawn before the clock starts but for *drawing*, where they "
            f"are drawn by random keys and topk. Medians of {p['repeats']} runs that "
            "take turns.\n",
            table(header, rows),
            origin(record) + "\n",
        ]
    )


def search_overhead(record: Record) -> str:
    """Return the section on the overhead of searches."""
    rows = [
        (
            row["search"],
            row["candidates"],
            f"{row['wall_s']:.1f} s",
            f"{row['fit_s']:.1f} s",
            f"{row['score_s']:.1f} s",
            f"{100 * row['overhead']:.2f} %",
        )
        for row in record["results"]
    ]
    header = ("search", "candidates", "wall time", "in fits", "in scores", "the rest")
    return "\n".join(
        [
            "## Overhead of a search (`search_overhead.py`)\n",
            "`GridSearchCV` with `make_episode_scorer` and "
            f"`TaskKFold({record['parameters']['folds']})`. Asked for: the rest below "
            "5 %.\n",
            table(header, rows),
            origin(record) + "\n",
        ]
    )


def interval_coverage(record: Record) -> str:
    """Return the section on intervals."""
    p = record["parameters"]
    rows = [
        (
            row["scores"],
            row["tasks"],
            f"{100 * row['evaluate']:.1f}",
            f"{100 * row['compare']:.1f}",
        )
        for row in record["results"]
    ]
    header = ("scores", "tasks", "mean, `evaluate`", "difference, `compare`")
    return "\n".join(
        [
            "## Coverage of intervals (`interval_coverage.py`)\n",
            f"How often, in %, a {100 * p['confidence']:g} % Student's t interval "
            "covers the mean that scores were drawn with, in "
            f"{p['simulations']:,} simulations: {p['episodes_per_task']} episodes a "
            f"task, accuracies on {p['query_rows']} query rows. Asked for: 93 to 97. "
            "Beta(19, 1), whose mean is 0.95, shows where t intervals fall short: few "
            "tasks, most of them near the ceiling.\n",
            table(header, rows),
            origin(record) + "\n",
        ]
    )
