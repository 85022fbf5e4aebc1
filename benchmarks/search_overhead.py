"""What a search costs beyond its fits and scores.

``GridSearchCV`` over 8 candidates with `make_episode_scorer`: wall time, and the time
that scikit-learn took for fitting and scoring the candidates. The rest is overhead of
cutting tasks into folds, cloning, and keeping results. Two searches: regressors on a
`TaskSet`, classifiers on a `ClassPool`.

    python benchmarks/search_overhead.py

writes ``benchmarks/results/search_overhead.json``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from _report import Benchmark, add_common_options
from sklearn.model_selection import GridSearchCV

from sklmeta import MAMLRegressor, ProtoNetClassifier
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.model_selection import TaskKFold, make_episode_scorer

N_FOLDS = 3
SEARCHES = ("MAMLRegressor, sinusoids", "ProtoNetClassifier, digits")


def make_search(name: str, args: argparse.Namespace) -> tuple[GridSearchCV, Any]:
    """Return a search over 8 candidates, and the tasks to search on."""
    if name == SEARCHES[0]:
        meta = MAMLRegressor(max_iter=args.updates, random_state=args.seed)
        grid = {"inner_lr": [0.01, 0.03, 0.1, 0.3], "inner_steps": [1, 3]}
        scoring = make_episode_scorer("rmse")
        tasks = make_sinusoids(args.tasks, random_state=args.seed)
    else:
        meta = ProtoNetClassifier(
            max_iter=args.updates // 10, n_way=3, random_state=args.seed
        )
        grid = {
            "outer_lr": [1e-4, 1e-3, 3e-3, 1e-2],
            "metric": ["sqeuclidean", "cosine"],
        }
        scoring = make_episode_scorer("accuracy", n_shot=1, n_query=15)
        tasks = load_digits_pool()
    search = GridSearchCV(
        meta,
        grid,
        scoring=scoring,
        cv=TaskKFold(N_FOLDS),
        refit=False,
        error_score="raise",
    )
    return search, tasks


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run a search; return its wall time, and the share that is not fit or score."""
    search, tasks = make_search(name, args)
    start = time.perf_counter()
    search.fit(tasks)
    wall = time.perf_counter() - start
    fits = float(search.cv_results_["mean_fit_time"].sum() * N_FOLDS)
    scores = float(search.cv_results_["mean_score_time"].sum() * N_FOLDS)
    return {
        "search": name,
        "candidates": len(search.cv_results_["params"]),
        "wall_s": wall,
        "fit_s": fits,
        "score_s": scores,
        "overhead": 1 - (fits + scores) / wall,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=240)
    parser.add_argument("--updates", type=int, default=50)
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Search, print and write the record."""
    args = parse(argv)
    benchmark = Benchmark("search_overhead", args.seed, args.threads, args.output)
    rows = []
    for name in SEARCHES:
        row = measure(name, args)
        rows.append(row)
        print(
            f"{name}: {row['wall_s']:.1f} s, of it {row['fit_s']:.1f} s in fit and "
            f"{row['score_s']:.1f} s in score: overhead {100 * row['overhead']:.2f} %",
            flush=True,
        )
    benchmark.write(
        parameters={"folds": N_FOLDS, "tasks": args.tasks, "updates": args.updates},
        results=rows,
    )


if __name__ == "__main__":
    main()
