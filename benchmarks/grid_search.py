"""GridSearchCV over MAML's inner loop, with folds of tasks: does the winner win?

    python benchmarks/grid_search.py

The search sees 240 sinusoids. Its winner and its worst finite candidate, both
meta-trained on all of them, then meet on 300 new tasks: paired difference of their mean
squared errors, seed by seed. Writes ``results/grid_search.json``.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from _report import Benchmark, add_common_options, format_interval, mean_interval
from sinusoid import task_errors
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklmeta import MAMLRegressor
from sklmeta.datasets import make_sinusoids
from sklmeta.model_selection import TaskKFold

GRID = {"inner_lr": [0.001, 0.01, 0.1], "inner_steps": [1, 5]}
SUPPORT_ROWS = 5


def search(args: argparse.Namespace, seed: int) -> tuple[GridSearchCV, Any]:
    """Return the fitted search, and its worst finite candidate fitted on all tasks."""
    tasks = make_sinusoids(args.tasks, random_state=seed)
    meta = MAMLRegressor(
        n_shot=SUPPORT_ROWS, max_iter=args.updates, random_state=seed, device="cpu"
    )
    found = GridSearchCV(meta, GRID, cv=TaskKFold(3), error_score="raise").fit(tasks)
    scores = found.cv_results_["mean_test_score"]
    worst = int(np.argmin(np.where(np.isfinite(scores), scores, np.inf)))
    parameters = found.cv_results_["params"][worst]
    return found, clone(meta).set_params(**parameters).fit(tasks)


def judge(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Return what one seed's search found, and how it did on new tasks."""
    found, worst = search(args, seed)
    new = make_sinusoids(args.test_tasks, 100, random_state=10_000 + seed)
    best_errors = task_errors(found.best_estimator_, new, SUPPORT_ROWS)
    worst_errors = task_errors(worst, new, SUPPORT_ROWS)
    task = new[0]
    X, y, Xq = task.X[:SUPPORT_ROWS], task.y[:SUPPORT_ROWS], task.X[SUPPORT_ROWS:]
    one_by_one = found.best_estimator_.adapt(X, y).predict(Xq)
    error = np.mean((one_by_one - task.y[SUPPORT_ROWS:]) ** 2)
    return {
        "seed": seed,
        "winner": found.best_params_,
        "worst": {name: getattr(worst, name) for name in GRID},
        "scores": [
            {**parameters, "r2": score}
            for parameters, score in zip(
                found.cv_results_["params"],
                found.cv_results_["mean_test_score"],
                strict=True,
            )
        ],
        "winner_error": mean_interval(best_errors),
        "worst_error": mean_interval(worst_errors),
        "difference": mean_interval(worst_errors - best_errors),
        "adapt_predict_agrees": bool(np.isclose(error, best_errors[0], rtol=1e-3)),
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=240)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--test-tasks", type=int, default=300)
    parser.add_argument("--n-seeds", type=int, default=3)
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Search, print and write the record."""
    args = parse(argv)
    benchmark = Benchmark("grid_search", args.seed, args.threads, args.output)
    rows = []
    for seed in range(args.seed, args.seed + args.n_seeds):
        row = judge(args, seed)
        rows.append(row)
        print(
            f"seed {seed}: winner {row['winner']}, worst {row['worst']}\n"
            f"  mean squared error on {args.test_tasks} new tasks: winner "
            f"{format_interval(row['winner_error'])}, worst "
            f"{format_interval(row['worst_error'])}, worst - winner "
            f"{format_interval(row['difference'])}; adapt and predict agree: "
            f"{row['adapt_predict_agrees']}",
            flush=True,
        )
    winners = [tuple(row["winner"].items()) for row in rows]
    most = max(winners.count(winner) for winner in winners)
    print(f"the same winner for {most} of {len(winners)} seeds")
    benchmark.write(
        parameters={
            "grid": GRID,
            "folds": 3,
            "tasks": args.tasks,
            "updates": args.updates,
            "test_tasks": args.test_tasks,
            "support_rows": SUPPORT_ROWS,
        },
        results={"seeds": rows, "most_seeds_with_one_winner": most},
    )


if __name__ == "__main__":
    main()
