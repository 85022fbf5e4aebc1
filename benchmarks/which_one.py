"""Three kinds of related tasks, and which method suits each.

    python benchmarks/which_one.py [--shots 5] [--threads 1]

Tasks that differ by an offset, by the slopes of a linear function, or by which
non-linear function they are. Theory says that a mixed model with the right random
effects is the best there is for the first two, up to the estimation of its parameters,
and cannot follow the third. All parameters are defaults. Writes
``results/which_one.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from _report import Benchmark, add_common_options
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from sklmeta import (
    BayesianLinearNetRegressor,
    DeepKernelRegressor,
    HierarchicalLinearRegressor,
    MAMLRegressor,
    PerTaskRegressor,
    PooledRegressor,
    RidgeNetRegressor,
    TaskSet,
    make_meta_pipeline,
)
from sklmeta.model_selection import compare

N_TASKS, N_ROWS, N_FEATURES = 200, 40, 4
NOISE = 0.3
REFERENCE = "linear mixed model"


def offsets(rng: np.random.Generator, X: np.ndarray) -> np.ndarray:
    """Return y = x'b + offset of the task."""
    return X @ rng.normal(size=N_FEATURES) + rng.normal(size=(len(X), 1))


def slopes(rng: np.random.Generator, X: np.ndarray) -> np.ndarray:
    """Return y = x'(b + deviation of the task) + offset of the task."""
    b = rng.normal(size=N_FEATURES) + rng.normal(size=(len(X), N_FEATURES))
    return np.einsum("trf,tf->tr", X, b) + rng.normal(size=(len(X), 1))


def waves(rng: np.random.Generator, X: np.ndarray) -> np.ndarray:
    """Return y = a sin(2 x'd - phase), amplitude and phase of the task."""
    direction = rng.normal(size=N_FEATURES)
    along = 2 * X @ (direction / np.linalg.norm(direction))
    amplitude = rng.uniform(0.5, 2.0, (len(X), 1))
    return amplitude * np.sin(along - rng.uniform(0, np.pi, (len(X), 1)))


KINDS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    "offsets": offsets,
    "slopes": slopes,
    "waves": waves,
}


def tasks(kind: str, seed: int) -> tuple[TaskSet, TaskSet]:
    """Return tasks to train on and tasks to judge on."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2 * N_TASKS, N_ROWS, N_FEATURES))
    y = KINDS[kind](rng, X) + NOISE * rng.normal(size=X.shape[:2])
    found = TaskSet([(own, target) for own, target in zip(X, y, strict=True)])
    return found[:N_TASKS], found[N_TASKS:]


def methods(seed: int) -> dict[str, Any]:
    """Return the methods, all with defaults."""
    common = {"random_state": seed, "device": "cpu"}
    return {
        "pooled gradient boosting": PooledRegressor(
            HistGradientBoostingRegressor(random_state=seed)
        ),
        "ridge per task": make_meta_pipeline(
            StandardScaler(), PerTaskRegressor(Ridge())
        ),
        "mixed model, offsets only": HierarchicalLinearRegressor(
            random_effects="intercept"
        ),
        "MAML": MAMLRegressor(**common),
        "R2-D2": RidgeNetRegressor(**common),
        "ALPaCA": BayesianLinearNetRegressor(**common),
        "deep kernel": DeepKernelRegressor(**common),
        REFERENCE: HierarchicalLinearRegressor(),
    }


def main(argv: list[str] | None = None) -> None:
    """Compare the methods on each kind of tasks, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=int, default=5)
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark("which_one", args.seed, args.threads, args.output)
    results = {}
    for kind in KINDS:
        train, test = tasks(kind, args.seed)
        found = compare(
            methods(args.seed),
            test,
            train_tasks=train,
            metric="rmse",
            n_shot=args.shots,
            random_state=args.seed,
        )
        print(f"{kind}\n{found}\n", flush=True)
        results[kind] = found.summary().reset_index().to_dict("records")
    benchmark.write(
        parameters={
            "shots": args.shots,
            "training_tasks": N_TASKS,
            "rows": N_ROWS,
            "features": N_FEATURES,
            "noise": NOISE,
        },
        results=results,
    )


if __name__ == "__main__":
    main()
