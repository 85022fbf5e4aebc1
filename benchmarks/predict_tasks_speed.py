"""Speed of `predict_tasks`: thousands of tasks adapted and predicted in one call.

    python benchmarks/predict_tasks_speed.py

MAML with its default parameters and backbone, for numbers, for labels that all tasks
share and for labels of each task's own: every task is adapted to and its query rows
predicted, in one call of `predict_tasks`, and in as many calls of `adapt` and `predict`
as there are tasks. The two take turns, so that a busy machine slows both, and the
predictions are compared, all of them. Writes ``results/predict_tasks_speed.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
from _report import Benchmark, add_common_options

from sklmeta import MAMLClassifier, MAMLRegressor, TaskSet
from sklmeta.utils._check_problems import Problem

TITLES = {
    "numbers": "`MAMLRegressor`, 5 support rows",
    "shared": "`MAMLClassifier`, 3 shared labels, 15 support rows",
    "local": "`MAMLClassifier`, 3 labels of each task's own, 15 support rows",
}


def problem(
    kind: str, n_tasks: int, n_query: int, seed: int
) -> tuple[Any, TaskSet, list[np.ndarray]]:
    """Return a fitted meta-learner, supports of new tasks and their query rows."""
    source = Problem(kind)
    estimator = MAMLRegressor if kind == "numbers" else MAMLClassifier
    meta = estimator(max_iter=100, random_state=seed, device="cpu")
    meta.fit(source.sample(200, seed))
    tasks, k = source.sample(n_tasks, seed + 1), source.n_support
    support = TaskSet([(t.X[:k], t.y[:k]) for t in tasks], labels=source.labels)
    return meta, support, [t.X[k : k + n_query] for t in tasks]


def one_by_one(meta: Any, support: TaskSet, query_Xs: list[np.ndarray]) -> Any:
    """Return what `predict_tasks` does, task by task."""
    pairs = zip(support, query_Xs, strict=True)
    return [meta.adapt(task.X, task.y).predict(X) for task, X in pairs]


def measured(
    kind: str, n_tasks: int, n_query: int, repeats: int, seed: int
) -> dict[str, Any]:
    """Time both ways in turns; the slow one in parts, which share its repeats."""
    meta, support, query_Xs = problem(kind, n_tasks, n_query, seed)
    together, alone, ratios = [], [], []
    worst, n_other = 0.0, 0
    for part in np.array_split(np.arange(n_tasks), repeats):
        begin = time.perf_counter()
        found = meta.predict_tasks(support, query_Xs)
        together.append(time.perf_counter() - begin)
        tasks, own = support[part], [query_Xs[i] for i in part]
        begin = time.perf_counter()
        expected = one_by_one(meta, tasks, own)
        alone.append((time.perf_counter() - begin) * n_tasks / len(part))
        ratios.append(alone[-1] / together[-1])
        for i, want in zip(part, expected, strict=True):
            if kind == "numbers":
                worst = max(worst, float(np.abs(found[i] - want).max()))
            else:
                n_other += int((found[i] != want).sum())
    row = {
        **{"kind": kind, "tasks": n_tasks, "query_rows": n_query},
        "together_s": statistics.median(together),
        "one_by_one_s": statistics.median(alone),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "largest_difference": worst if kind == "numbers" else None,
        "other_labels": None if kind == "numbers" else n_other,
    }
    print(
        f"{kind:>8}: {row['together_s']:.2f} s together, {row['one_by_one_s']:.0f} s "
        f"one by one: {row['ratio']:.0f} times as fast "
        f"({min(ratios):.0f} to {max(ratios):.0f})",
        flush=True,
    )
    return row


def main(argv: list[str] | None = None) -> None:
    """Time every kind of tasks, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--tasks", type=int, default=10_000)
    add("--query-rows", type=int, default=10, help="of each task")
    add("--repeats", type=int, default=5)
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark("predict_tasks_speed", args.seed, args.threads, args.output)
    rows = [
        measured(kind, args.tasks, args.query_rows, args.repeats, args.seed)
        for kind in TITLES
    ]
    hidden = ("seed", "threads", "output")
    benchmark.write(
        parameters={k: v for k, v in vars(args).items() if k not in hidden},
        results=rows,
    )


if __name__ == "__main__":
    main()
