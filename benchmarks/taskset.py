"""Building and pickling a TaskSet of 10,000 tasks x 20 rows x 20 features.

    python benchmarks/taskset.py

The rows come as a DataFrame, shuffled, so that tasks have to be gathered. Writes
``results/taskset.json``.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from _report import Benchmark, add_common_options

from sklmeta import TaskSet

BAR_S = 2.0
TASKS_IN_SLICE = 100


def make_frame(args: argparse.Namespace) -> pd.DataFrame:
    """Return rows of many tasks in random order."""
    rng = np.random.default_rng(args.seed)
    n_rows = args.tasks * args.rows
    frame = pd.DataFrame(
        rng.standard_normal((n_rows, args.features)),
        columns=[f"x{j}" for j in range(args.features)],
    )
    frame["y"] = rng.standard_normal(n_rows)
    frame["task"] = np.repeat([f"task {t}" for t in range(args.tasks)], args.rows)
    return frame.sample(frac=1, random_state=args.seed).reset_index(drop=True)


def median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Return the median time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def pickled(value: Any) -> tuple[int, int]:
    """Return the bytes of a pickle, and the number of arrays in it."""
    arrays: list[pickle.PickleBuffer] = []
    # Protocol 5 hands contiguous arrays over one by one instead of copying them.
    rest = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    return len(rest) + sum(array.raw().nbytes for array in arrays), len(arrays)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return times and sizes."""
    frame = make_frame(args)

    def build() -> TaskSet:
        return TaskSet.from_frame(frame, target="y", task="task")

    tasks = build()
    stored = pickle.dumps(tasks, protocol=5)
    n_bytes, n_arrays = pickled(tasks)
    raw_bytes = frame.drop(columns="task").to_numpy().nbytes
    part_bytes, _ = pickled(tasks[:TASKS_IN_SLICE])
    return {
        "build_s": median_seconds(build, args.repeats),
        "pickle_s": median_seconds(lambda: pickle.dumps(tasks, 5), args.repeats),
        "unpickle_s": median_seconds(lambda: pickle.loads(stored), args.repeats),
        "pickle_bytes": n_bytes,
        "raw_bytes": raw_bytes,
        "pickled_arrays": n_arrays,
        "tasks_in_slice": TASKS_IN_SLICE,
        "slice_pickle_bytes": part_bytes,
        "slice_raw_bytes": raw_bytes * min(TASKS_IN_SLICE / args.tasks, 1),
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=20, help="of each task")
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the record."""
    args = parse(argv)
    benchmark = Benchmark("taskset", args.seed, args.threads, args.output)
    found = measure(args)
    print(f"{args.tasks:,} tasks x {args.rows} rows x {args.features} features")
    print(f"from a DataFrame in {found['build_s']:.2f} s (asked for: below {BAR_S:g})")
    for part in ("", "slice_"):
        size, raw = found[f"{part}pickle_bytes"], found[f"{part}raw_bytes"]
        what = f"{TASKS_IN_SLICE} of the tasks" if part else "all tasks"
        print(
            f"pickle of {what}: {size / 1e6:.2f} MB, features and targets alone "
            f"{raw / 1e6:.2f} MB"
        )
    print(
        f"{found['pickled_arrays']} arrays; written in {found['pickle_s']:.3f} s, read "
        f"in {found['unpickle_s']:.3f} s"
    )
    benchmark.write(
        parameters={
            "tasks": args.tasks,
            "rows": args.rows,
            "features": args.features,
            "repeats": args.repeats,
        },
        results=found,
    )


if __name__ == "__main__":
    main()
