"""Sinusoids by deep kernels and ALPaCA: the table of deep kernel transfer's paper.

    python benchmarks/sinusoid_deep_kernel.py

50,000 meta-updates of one fresh wave each, 10 rows with noise of standard deviation
0.1, a 1-40-40 network, Adam at 1e-3. Then mean squared errors on 195 noisy query rows
of the same 500 new waves for all, given 5 support rows: with x in [-5, 5], where
meta-training was, and in [-5, 10]. Settings are those of the authors' code
(github.com/BayesWatch/deep-kernel-transfer, sines/train_DKT.py). Writes
``results/sinusoid_deep_kernel.json``.
"""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import numpy as np
import torch
from _report import (
    Benchmark,
    add_common_options,
    add_device_option,
    format_interval,
    mean_interval,
)
from scipy.stats import norm
from sinusoid import task_errors

from sklmeta import BayesianLinearNetRegressor, DeepKernelRegressor, TaskSet
from sklmeta.backbones import MLP
from sklmeta.datasets import Sinusoids

SUPPORT_ROWS = 5
TRAINING_ROWS = 10
NOISE = 0.1
HIDDEN = (40, 40)
RANGES = {"in": (-5.0, 5.0), "out": (-5.0, 10.0)}
LEVEL = 0.9
# From which learning starts. Of the spectral kernel the best of four, by 4,000
# meta-updates on three other seeds and test waves of their own. RBF has the library's
# default: of three, with gpytorch's 0.69 and with 1, it errs least out of range on
# other waves.
LENGTH_SCALES = {"spectral": 1.0, "rbf": None, "linear": None}
# As recalled from the paper's table: mean squared errors in range and out of it.
RECALLED = {
    "spectral": {"in": 0.08, "out": 0.10},
    "rbf": {"in": 1.38, "out": 2.61},
    "ALPaCA": {"in": 0.14, "out": 5.92},
}
REFERENCE = "spectral"


def network(input_shape: tuple[int, ...], seed: int) -> MLP:
    """Return the authors' network."""
    return MLP(input_shape[0], HIDDEN, generator=torch.Generator().manual_seed(seed))


def make_meta(method: str, args: argparse.Namespace) -> Any:
    """Return the unfitted estimator of a row of the table."""
    common: dict[str, Any] = {
        "n_shot": SUPPORT_ROWS,
        "n_query": TRAINING_ROWS - SUPPORT_ROWS,
        "normalize_x": False,
        "normalize_y": False,
        "outer_lr": 1e-3,
        "batch_size": 1,
        "max_iter": args.updates,
        "eval_every": max(args.updates // 50, 1),
        "device": args.device,
        "random_state": args.seed,
    }
    backbone = functools.partial(network, seed=args.seed)
    if method == "ALPaCA":
        return BayesianLinearNetRegressor(backbone, **common)
    return DeepKernelRegressor(
        backbone, kernel=method, length_scale=LENGTH_SCALES[method], **common
    )


def covered(meta: Any, tasks: TaskSet) -> np.ndarray:
    """Return the share of each task's query rows inside their 90 % intervals."""
    half = norm.ppf((1 + LEVEL) / 2)
    shares = []
    for task in tasks:
        model = meta.adapt(task.X[:SUPPORT_ROWS], task.y[:SUPPORT_ROWS])
        mean, std = model.predict(task.X[SUPPORT_ROWS:], return_std=True)
        shares.append(np.mean(np.abs(task.y[SUPPORT_ROWS:] - mean) <= half * std))
    return np.array(shares)


def run(
    method: str, args: argparse.Namespace, tasks: dict[str, TaskSet]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Meta-train and test; return what is to be told, and each task's errors."""
    start = time.perf_counter()
    waves = Sinusoids(n_samples=TRAINING_ROWS, noise=NOISE)
    meta = make_meta(method, args).fit(waves)
    seconds = time.perf_counter() - start
    errors = {
        place: task_errors(meta, own, SUPPORT_ROWS) for place, own in tasks.items()
    }
    row = {
        "method": method,
        "training_s": seconds,
        "recalled": RECALLED.get(method),
        "mean_squared_error": {p: mean_interval(e) for p, e in errors.items()},
        "median_squared_error": {p: float(np.median(e)) for p, e in errors.items()},
        "coverage": {p: mean_interval(covered(meta, own)) for p, own in tasks.items()},
    }
    shown = [format_interval(row["mean_squared_error"][p], digits=3) for p in RANGES]
    print(f"{method:>9} {shown[0]:>17} {shown[1]:>17} {seconds:.0f} s", flush=True)
    return row, errors


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=50_000)
    parser.add_argument(
        "--methods", nargs="+", default=["spectral", "rbf", "ALPaCA", "linear"]
    )
    parser.add_argument("--test-tasks", type=int, default=500)
    parser.add_argument("--test-rows", type=int, default=200)
    add_device_option(parser, default="cpu")
    add_common_options(parser)
    return parser.parse_args(argv)


def deviations(args: argparse.Namespace) -> list[str]:
    """Return in which ways this is not the paper's experiment."""
    found = [
        "waves are A sin(x - p) where the authors' are A sin(x + p): the same "
        "distribution up to the sign of y",
        "the authors' spectral kernel, gpytorch's, is a product over features of sums "
        "over four equal mixtures; ours is a sum over four mixtures with random first "
        "frequencies",
        "length scales start from 1 (spectral) and from the root of the number of "
        "features (RBF), which were chosen on other waves; gpytorch's start from 0.69",
        "ALPaCA as in this library's estimator, trained on 5 query rows given 5 "
        "support rows; the paper does not print its settings",
        "one seed of meta-training",
    ]
    if args.updates != 50_000:
        found.append(f"{args.updates:,} meta-updates instead of 50,000")
    return found


def main(argv: list[str] | None = None) -> None:
    """Meta-train, test, print and write the record."""
    args = parse(argv)
    benchmark = Benchmark(
        "sinusoid_deep_kernel", args.seed, args.threads, args.output, args.device
    )
    # Seeds far from those of meta-training, which are below 2**31.
    tasks = {
        place: Sinusoids(n_samples=args.test_rows, noise=NOISE, x_range=bounds).sample(
            args.test_tasks, 2**40 + args.seed
        )
        for place, bounds in RANGES.items()
    }
    print("mean squared error in range and out of it")
    results, errors = [], {}
    for method in args.methods:
        row, errors[method] = run(method, args, tasks)
        results.append(row)
    for row in results:
        if row["method"] != REFERENCE and REFERENCE in errors:
            row["minus_spectral"] = {
                place: mean_interval(
                    errors[row["method"]][place] - errors[REFERENCE][place]
                )
                for place in RANGES
            }
    benchmark.write(
        parameters={
            "updates": args.updates,
            "tasks_per_update": 1,
            "training_rows": TRAINING_ROWS,
            "support_rows": SUPPORT_ROWS,
            "query_rows": args.test_rows - SUPPORT_ROWS,
            "test_tasks": args.test_tasks,
            "noise_sd": NOISE,
            "ranges": RANGES,
            "network": "1-40-40",
            "outer_lr": 1e-3,
            "level": LEVEL,
            "length_scales": LENGTH_SCALES,
        },
        deviations=deviations(args) + args.note,
        results=results,
    )


if __name__ == "__main__":
    main()
