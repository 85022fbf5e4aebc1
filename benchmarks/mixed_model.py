"""The linear mixed model: estimates against lme4's, speed against statsmodels'.

    python benchmarks/mixed_model.py

The sleep study's estimates beside those that lme4 prints; the time of `fit` and the
log-likelihood beside those of `MixedLM` of statsmodels, which has the same random
effects, at sizes that it can do; and the time of `fit` alone on more tasks and
features. Times are of the processor: the best of a few, of statsmodels that of one fit.
Writes ``results/mixed_model.json``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _report import Benchmark, add_common_options

from sklmeta import HierarchicalLinearRegressor, TaskSet
from sklmeta.datasets import fetch_sleepstudy

# REML estimates of Reaction ~ Days + (Days | Subject), as lme4 prints them.
LME4 = {
    "intercept": "251.405",
    "slope": "10.467",
    "sd of random intercepts": "24.74",
    "sd of random slopes": "5.92",
    "correlation": "0.066",
    "sd of residuals": "25.59",
    "REML criterion": "1743.6",
}
SD_BETWEEN, SD_NOISE = 0.5, 1.0


def sleepstudy(data_home: Path | None) -> list[dict[str, Any]]:
    """Return our estimates, and whether lme4's digits are ours."""
    tasks = fetch_sleepstudy(data_home=data_home)
    meta = HierarchicalLinearRegressor().fit(tasks)
    sds = np.sqrt(np.diag(meta.covariance_))
    found = [
        *(meta.intercept_, meta.coef_[0], *sds, meta.covariance_[0, 1] / sds.prod()),
        *(np.sqrt(meta.noise_variance_), -2 * meta.log_likelihood_),
    ]
    rows = []
    for (name, printed), ours in zip(LME4.items(), found, strict=True):
        same = f"{ours:.{len(printed.partition('.')[2])}f}" == printed
        rows.append({"estimate": name, "lme4": printed, "ours": ours, "same": same})
        print(f"{name:>24}: {ours:.5f}, lme4 {printed}{'' if same else ': DIFFERS'}")
    return rows


def problem(n_tasks: int, n_rows: int, n_features: int, seed: int) -> TaskSet:
    """Return tasks whose coefficients are independent draws."""
    rng = np.random.default_rng(seed)
    coefficients = SD_BETWEEN * rng.normal(size=(n_tasks, n_features + 1))
    X = rng.normal(size=(n_tasks, n_rows, n_features))
    y = coefficients[:, :1] + np.einsum("tnf,tf->tn", X, coefficients[:, 1:])
    y += SD_NOISE * rng.normal(size=y.shape)
    return TaskSet(list(zip(X, y, strict=True)))


def best_time(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the least processor time of some runs, and what the last returned."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        found = work()
        times.append(time.process_time() - begin)
    return min(times), found


def against_statsmodels(
    size: tuple[int, int, int], repeats: int, seed: int
) -> dict[str, Any]:
    """Time both on the same tasks, all coefficients random, any covariance."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    tasks = problem(*size, seed)
    rows = tasks.rows()
    x = np.column_stack([np.ones(len(rows.X)), rows.X])
    groups = np.repeat(np.arange(size[0]), size[1])

    def ours() -> Any:
        return HierarchicalLinearRegressor(covariance="full").fit(tasks)

    def theirs() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return MixedLM(rows.y, x, groups=groups, exog_re=x).fit(reml=True)

    ours()
    our_s, meta = best_time(ours, repeats)
    their_s, twin = best_time(theirs, 1)
    row = {
        **dict(zip(("tasks", "rows", "features"), size, strict=True)),
        "ours_s": our_s,
        "statsmodels_s": their_s,
        "ratio": their_s / our_s,
        # As text: the difference is in digits that the record would round away.
        "ours_log_likelihood": f"{meta.log_likelihood_:.4f}",
        "statsmodels_log_likelihood": f"{twin.llf:.4f}",
        "statsmodels_converged": bool(twin.converged),
    }
    print(
        f"{size}: {our_s:.3f} s, statsmodels {their_s:.2f} s, "
        f"{row['ratio']:.0f} times as fast; "
        f"log-likelihoods {meta.log_likelihood_:.4f} and {twin.llf:.4f}",
        flush=True,
    )
    return row


def alone(
    size: tuple[int, int, int], covariance: str, repeats: int, seed: int
) -> dict[str, Any]:
    """Time `fit`, and adapting to as many new tasks."""
    tasks, new = problem(*size, seed), problem(size[0], 10, size[2], seed + 1)
    support = TaskSet([(task.X[:5], task.y[:5]) for task in new])
    queries = [task.X[5:] for task in new]
    fit_s, meta = best_time(
        lambda: HierarchicalLinearRegressor(covariance=covariance).fit(tasks), repeats
    )
    adapt_s, _ = best_time(lambda: meta.predict_tasks(support, queries), repeats)
    row = {
        **dict(zip(("tasks", "rows", "features"), size, strict=True)),
        **{"covariance": covariance, "fit_s": fit_s, "predict_tasks_s": adapt_s},
    }
    print(f"{size}, {covariance}: fit {fit_s:.2f} s, predict_tasks {adapt_s:.2f} s")
    return row


def size_of(text: str) -> tuple[int, int, int]:
    """Return tasks, rows and features of text such as 1000x50x20."""
    tasks, rows, features = map(int, text.split("x"))
    return tasks, rows, features


def main(argv: list[str] | None = None) -> None:
    """Compare and time, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--compare",
        type=size_of,
        nargs="*",
        default=[(50, 20, 3), (100, 50, 5), (1000, 20, 3), (200, 50, 8)],
        help="tasks x rows x features, for both",
    )
    add(
        "--alone",
        type=size_of,
        nargs="*",
        default=[(1000, 50, 20), (10_000, 50, 20)],
        help="for sklmeta alone",
    )
    add("--repeats", type=int, default=3)
    add("--data-home", type=Path, default=None)
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark("mixed_model", args.seed, args.threads, args.output)
    results = {
        "sleepstudy": sleepstudy(args.data_home),
        "statsmodels": [
            against_statsmodels(size, args.repeats, args.seed) for size in args.compare
        ],
        "alone": [
            alone(size, covariance, args.repeats, args.seed)
            for size in args.alone
            for covariance in ("diagonal", "full", "auto")
        ],
    }
    benchmark.write(parameters={"repeats": args.repeats}, results=results)


if __name__ == "__main__":
    main()
