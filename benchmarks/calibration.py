"""How often 90 % intervals hold the truth, on tasks of the model's own kind or others.

    python benchmarks/calibration.py [--threads 1]

Two kinds of simulated tasks: linear functions with coefficients drawn from a normal,
which are of the mixed model's kind and of ALPaCA's on the rows as they are; and draws
of a Gaussian process, which are of the deep kernel's kind on the rows as they are.
Exact posteriors on tasks of their own kind are to hold 87 to 93 % of the targets; for
the others the share is shown as it comes, and with `calibrate=True`. Writes
``results/calibration.json``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from _report import Benchmark, add_common_options
from sklearn.base import clone

from sklmeta import (
    BayesianLinearNetRegressor,
    DeepKernelRegressor,
    HierarchicalLinearRegressor,
    InContextRegressor,
    NeuralProcessRegressor,
    ProbabilisticMAMLRegressor,
    TaskSet,
)
from sklmeta.datasets import make_gaussian_process_tasks
from sklmeta.model_selection import evaluate

N_TRAINING, N_TEST, N_ROWS, N_FEATURES = 400, 300, 40, 3
METRICS = ["coverage", "nlpd", "rmse"]
SHOTS = (5, 10)
KINDS = ("linear", "Gaussian process")


def linear_tasks(n_tasks: int, rng: np.random.Generator) -> TaskSet:
    """Return linear functions, their coefficients correlated normals."""
    X = rng.normal(size=(n_tasks, N_ROWS, N_FEATURES))
    factor = np.array([[1.0, 0.0, 0.0], [0.5, 0.8, 0.0], [-0.3, 0.2, 0.4]])
    slopes = 1 + rng.normal(size=(n_tasks, N_FEATURES)) @ factor.T
    y = np.einsum("trf,tf->tr", X, slopes) + 2 * rng.normal(size=(n_tasks, 1))
    y += 0.5 * rng.normal(size=y.shape)
    return TaskSet([(own, target) for own, target in zip(X, y, strict=True)])


def simulated(kind: str, seed: int) -> tuple[TaskSet, TaskSet]:
    """Return tasks to train on and tasks to judge on."""
    n_tasks = N_TRAINING + N_TEST
    if kind == "linear":
        tasks = linear_tasks(n_tasks, np.random.default_rng(seed))
    else:
        tasks = make_gaussian_process_tasks(
            n_tasks,
            N_ROWS,
            length_scale=(0.5, 0.5),
            output_scale=(1.0, 1.0),
            noise=0.2,
            random_state=seed,
        )
    return tasks[:N_TRAINING], tasks[N_TRAINING:]


def methods(kind: str, seed: int) -> dict[str, Any]:
    """Return the methods; those whose own kind it is come first."""
    common = {"n_shot": (5, 10), "random_state": seed, "device": "cpu"}
    exact = {"outer_lr": 1e-2, "max_iter": 2000}
    if kind == "linear":
        own = {
            "linear mixed model": HierarchicalLinearRegressor(random_state=seed),
            "ALPaCA on rows as they are": BayesianLinearNetRegressor(
                "identity", **{**common, **exact}
            ),
        }
    else:
        own = {
            "Gaussian process on rows as they are": DeepKernelRegressor(
                "identity", **{**common, **exact}
            ),
        }
    return {
        **own,
        "ALPaCA": BayesianLinearNetRegressor(**common),
        "deep kernel": DeepKernelRegressor(**common),
        "neural process": NeuralProcessRegressor(attention=False, **common),
        "latent neural process": NeuralProcessRegressor(
            latent=True, attention=False, **common
        ),
        "attentive neural process": NeuralProcessRegressor(attention=True, **common),
        "in-context (TNP-D)": InContextRegressor(**common),
        "probabilistic MAML": ProbabilisticMAMLRegressor(**common),
    }


def judged(estimator: Any, tasks: TaskSet, seed: int) -> dict[str, Any]:
    """Return means and intervals of the metrics, by number of rows."""
    found = {}
    for n_shot in SHOTS:
        result = evaluate(
            estimator, tasks, metric=METRICS, n_shot=n_shot, random_state=seed
        )
        summary = result.summary().reset_index()
        found[str(n_shot)] = {
            row["metric"]: {key: row[key] for key in ("mean", "low", "high")}
            for row in summary.to_dict("records")
        }
    return found


def main(argv: list[str] | None = None) -> None:
    """Judge every method on both kinds of tasks, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark("calibration", args.seed, args.threads, args.output)
    results: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        train, test = simulated(kind, args.seed)
        results[kind] = {}
        for name, estimator in methods(kind, args.seed).items():
            start = time.process_time()
            record = {"raw": judged(estimator.fit(train), test, args.seed)}
            if hasattr(estimator, "calibrate"):
                again = clone(estimator).set_params(calibrate=True).fit(train)
                record["calibrated"] = judged(again, test, args.seed)
            results[kind][name] = record
            seconds = time.process_time() - start
            print(f"{kind}, {name} ({seconds:.0f} s): {record}\n", flush=True)
    benchmark.write(
        parameters={
            "training_tasks": N_TRAINING,
            "test_tasks": N_TEST,
            "rows": N_ROWS,
            "held_out_for_calibration": 0.1,
        },
        results=results,
    )


if __name__ == "__main__":
    main()
