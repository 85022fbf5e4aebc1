"""What a frozen backbone saves: one adaptation, and 1,000 episodes on cached features.

    SKLMETA_DATA=... python benchmarks/transfer_speed.py

A `FineTuneClassifier` with the default network, frozen, adapts to 5-way 5-shot tasks of
Omniglot's characters, one at a time: rows pass the network, and a new linear head is
trained for 100 steps. Then `evaluate` judges prototypical networks on 1,000 episodes of
100 characters, with 15 query rows a class: it maps each of their 2,000 drawings to
features once. Beside it every episode's rows pass the network, in the same batches.
One run of each, one after the other. Writes ``results/transfer_speed.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from _report import Benchmark, add_common_options

from sklmeta import ClassPool, FineTuneClassifier, ProtoNetClassifier
from sklmeta.datasets import fetch_omniglot
from sklmeta.model_selection import _predictions, evaluate

WAYS, SHOTS, QUERY = 5, 5, 15
N_CHARACTERS = 100


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def adapting(pool: ClassPool, n_repeats: int) -> list[float]:
    """Return the seconds of adapting to one task each."""
    meta = FineTuneClassifier(max_iter=0, freeze=True, device="cpu", random_state=0)
    meta.fit(pool[:20])
    times = []
    for repeat in range(n_repeats):
        classes = pool[5 * (repeat % 80) :][:WAYS]
        rows = np.concatenate([np.arange(SHOTS) + 20 * way for way in range(WAYS)])
        X, y = classes.X[rows], classes.y[rows]
        times.append(seconds(lambda X=X, y=y: meta.adapt(X, y)))
    return times


def judging(pool: ClassPool, n_episodes: int) -> dict[str, float]:
    """Return the seconds of judging with features once, and of encoding every time."""
    meta = ProtoNetClassifier(max_iter=1, device="cpu", random_state=0).fit(pool[:50])

    def judge() -> Any:
        return evaluate(
            meta,
            pool[-N_CHARACTERS:],
            n_way=WAYS,
            n_shot=SHOTS,
            n_query=QUERY,
            n_episodes=n_episodes,
        ).scores["score"]

    once = seconds(judge)
    with mock.patch.object(
        _predictions, "embedded", lambda learner, pool, rows: (learner, pool)
    ):
        every_time = seconds(judge)
        again = judge()
    np.testing.assert_allclose(judge(), again, atol=1e-6)
    return {"features_once_s": once, "every_time_s": every_time}


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=80)
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark("transfer_speed", args.seed, args.threads, args.output)
    pool, _ = fetch_omniglot()
    times = adapting(pool, args.repeats)
    results: dict[str, Any] = {
        "adapt_ms": {
            "median": 1e3 * statistics.median(times),
            "quickest": 1e3 * min(times),
        },
        **judging(pool, args.episodes),
    }
    results["ratio"] = results["every_time_s"] / results["features_once_s"]
    print(results)
    benchmark.write(
        parameters={"episodes": args.episodes, "repeats": args.repeats},
        results=results,
    )


if __name__ == "__main__":
    main()
