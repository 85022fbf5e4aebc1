"""Do 95 % intervals of `evaluate` and `compare` cover the mean 95 % of the time?

Scores of tasks, several episodes each, are drawn from distributions whose mean is
known, and handed to what `evaluate` and `compare` return: their own `summary()` makes
the intervals. Counted is how often these cover the mean, or the mean difference.

    python benchmarks/interval_coverage.py

writes ``benchmarks/results/interval_coverage.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from _report import Benchmark, add_common_options
from numpy.random import Generator
from numpy.typing import NDArray

from sklmeta.model_selection import Comparison, Evaluation

LEVEL = 0.95
N_EPISODES, N_QUERY = 4, 20
# How far the second method is ahead.
AHEAD = 0.02

Draw = Callable[[Generator, int], tuple[NDArray[Any], NDArray[Any]]]


def normal(rng: Generator, n_tasks: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Tasks differ by 0.1 from the mean 0.7, which both methods share; 0.05 else."""
    shape = n_tasks, N_EPISODES
    tasks = rng.normal(0.7, 0.1, size=(n_tasks, 1))
    own, other = (
        tasks + rng.normal(0, 0.03, size=(n_tasks, 1)) + rng.normal(0, 0.05, size=shape)
        for _ in "ab"
    )
    return own, other + AHEAD


def accuracies(a: float, b: float) -> Draw:
    """Return a source of right answers in 20 query rows; tasks are Beta(a, b)."""

    def draw(rng: Generator, n_tasks: int) -> tuple[NDArray[Any], NDArray[Any]]:
        chance = rng.beta(a, b, size=(n_tasks, 1))
        shape = n_tasks, N_EPISODES
        own = rng.binomial(N_QUERY, chance, size=shape) / N_QUERY
        # The second method is right on some of what the first gets wrong.
        better = chance + (1 - chance) * AHEAD
        return own, rng.binomial(N_QUERY, better, size=shape) / N_QUERY

    return draw


# Name, source, mean of the first method, mean difference.
SOURCES: dict[str, tuple[Draw, float, float]] = {
    "normal": (normal, 0.7, AHEAD),
    "accuracies, tasks Beta(8, 2)": (accuracies(8, 2), 0.8, 0.2 * AHEAD),
    "accuracies, tasks Beta(2, 1)": (accuracies(2, 1), 2 / 3, AHEAD / 3),
    "accuracies, tasks Beta(19, 1)": (accuracies(19, 1), 0.95, 0.05 * AHEAD),
}


def frame(scores: NDArray[Any], **first: str) -> pd.DataFrame:
    """Return scores (T, E) as `evaluate` has them."""
    n_tasks, n_episodes = scores.shape
    return pd.DataFrame(
        {
            **first,
            "task": np.repeat(np.arange(n_tasks), n_episodes),
            "episode": np.tile(np.arange(n_episodes), n_tasks),
            "metric": "accuracy",
            "score": scores.ravel(),
        }
    )


def coverage(name: str, n_tasks: int, args: argparse.Namespace) -> dict[str, Any]:
    """Return how often intervals cover what is known."""
    draw, mean, difference = SOURCES[name]
    rng = np.random.default_rng([args.seed, n_tasks, list(SOURCES).index(name)])
    of_mean = of_difference = 0
    for _ in range(args.simulations):
        own, other = draw(rng, n_tasks)
        alone = Evaluation(frame(own), "task", LEVEL, "").summary().iloc[0]
        of_mean += alone["low"] <= mean <= alone["high"]
        both = pd.concat([frame(other, method="b"), frame(own, method="a")])
        compared = Comparison(both, "task", LEVEL, "", "a", {"accuracy": True})
        row = compared.summary().iloc[0]
        of_difference += row["difference_low"] <= difference <= row["difference_high"]
    return {
        "scores": name,
        "tasks": n_tasks,
        "evaluate": of_mean / args.simulations,
        "compare": of_difference / args.simulations,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=5000)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 30, 100])
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Simulate, print and write the record."""
    args = parse(argv)
    benchmark = Benchmark("interval_coverage", args.seed, args.threads, args.output)
    rows = []
    for name in SOURCES:
        for n_tasks in args.tasks:
            row = coverage(name, n_tasks, args)
            rows.append(row)
            print(
                f"{name:30} {n_tasks:4} tasks: evaluate {row['evaluate']:.3f}, "
                f"compare {row['compare']:.3f}",
                flush=True,
            )
    benchmark.write(
        parameters={
            "simulations": args.simulations,
            "episodes_per_task": N_EPISODES,
            "query_rows": N_QUERY,
            "confidence": LEVEL,
        },
        results=rows,
    )


if __name__ == "__main__":
    main()
