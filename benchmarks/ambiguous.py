"""What methods draw where the support leaves open what the task is.

    python benchmarks/ambiguous.py [--updates 1200] [--threads 1]

Two problems: sine waves or lines of which the support covers a fifth of the range, and
two classes that either of two attributes explains. Judged on supports that are open in
truth: of waves and lines those for which the exact posterior probability of a line, by
integration over all waves and lines, is between 1/4 and 3/4. Draws of each method are
told apart, and compared with deterministic MAML and with draws of the exact posterior.
Writes ``results/ambiguous.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _report import Benchmark, add_common_options, mean_interval
from numpy.typing import NDArray
from torch import nn

from sklmeta import (
    ABMLClassifier,
    ABMLRegressor,
    MAMLClassifier,
    MAMLRegressor,
    NeuralProcessClassifier,
    NeuralProcessRegressor,
    ProbabilisticMAMLClassifier,
    ProbabilisticMAMLRegressor,
    Task,
    TaskDistribution,
    TaskSet,
)
from sklmeta.backbones import MLP
from sklmeta.datasets import AmbiguousAttributes, SinusoidsOrLines
from sklmeta.engine.batches import Rows

Array = NDArray[np.float64]
REFERENCE, EXACT = "MAML", "exact posterior"
WAVES = SinusoidsOrLines(support_range=(-1, 1))
ATTRIBUTES = AmbiguousAttributes()
GRID = np.linspace(*WAVES.x_range, 41)
N_STEPS = 100  # of the integral, for each of two parameters
OPEN = (0.25, 0.75)
# Trained on one draw of it, the latent variable may go unused.
LATENT = {"latent": True, "n_train_samples": 8}


@dataclass
class Drawn:
    """Functions drawn for one task, and its prediction of query rows."""

    on_grid: Array  # (K, grid)
    on_query: Array  # (K, Q)
    mean: Array  # (Q,)
    std: Array  # (Q,)


# Waves or lines ------------------------------------------------------------------


class ExactPosterior:
    """Waves and lines on a grid of their parameters, weighed by the support rows."""

    def __init__(self, tasks: SinusoidsOrLines = WAVES) -> None:
        def grid(*bounds: tuple[float, float]) -> list[Array]:
            middle = (np.arange(N_STEPS) + 0.5) / N_STEPS
            axes = [low + (high - low) * middle for low, high in bounds]
            return [axis.reshape(-1, 1) for axis in np.meshgrid(*axes)]

        self.noise = tasks.noise
        self.amplitude, self.phase = grid(tasks.amplitude, tasks.phase)
        self.slope, self.intercept = grid(tasks.slope, tasks.intercept)

    def functions(self, x: Array) -> Array:
        """Return the values of all waves, then of all lines, (F, n)."""
        waves = self.amplitude * np.sin(x - self.phase)
        return np.concatenate([waves, self.slope * x + self.intercept])

    def weights(self, task: Task) -> Array:
        """Return the posterior probability of each function, (F,)."""
        x, y = support_rows(task)
        errors = np.square(self.functions(x[:, 0]) - y).sum(1)
        likelihood = np.exp((errors.min() - errors) / (2 * self.noise**2))
        return likelihood / likelihood.sum()

    def line(self, task: Task) -> float:
        """Return the posterior probability that the task is a line."""
        return float(self.weights(task)[N_STEPS**2 :].sum())

    def drawn(self, task: Task, n_draws: int, rng: np.random.Generator) -> Drawn:
        """Return draws of the posterior."""
        weights, x = self.weights(task), task.X[~task.support][:, 0]
        chosen = rng.choice(len(weights), n_draws, p=weights)
        functions = self.functions(x)
        mean = weights @ functions
        variance = weights @ np.square(functions - mean) + self.noise**2
        on_grid = self.functions(GRID)[chosen]
        return Drawn(on_grid, functions[chosen], mean, np.sqrt(variance))


def support_rows(task: Task) -> tuple[Array, Array]:
    """Return X and y of the support rows."""
    return task.X[task.support], task.y[task.support]


def open_supports(n_tasks: int, seed: int) -> TaskSet:
    """Return new tasks whose support fits waves and lines about equally well."""
    exact, rng, found = ExactPosterior(), np.random.default_rng(seed), []
    while sum(map(len, found)) < n_tasks:
        tasks = WAVES.sample(100, rng)
        line = np.array([exact.line(task) for task in tasks])
        found.append(tasks[np.flatnonzero((OPEN[0] < line) & (line < OPEN[1]))])
    return TaskSet([task for tasks in found for task in tasks][:n_tasks])


def residuals(functions: Array, terms: list[Array]) -> Array:
    """Return the root mean squares that no sum of multiples of terms explains, (K,)."""
    design = np.stack(terms, 1)
    rest = functions - functions @ design @ np.linalg.pinv(design)
    return np.sqrt(np.square(rest).mean(1))


def drawn_by(meta: Any, task: Task, n_draws: int, error: float) -> Drawn:
    """Return draws of a fitted regressor; `error` is the standard deviation of MAML."""
    X = task.X[~task.support]
    model = meta.adapt(*support_rows(task))
    rows = np.concatenate([GRID.astype(np.float32)[:, None], X])
    if isinstance(meta, MAMLRegressor):
        functions = model.predict(rows)[None]
        mean = functions[0, len(GRID) :]
        std = np.full(len(mean), error)
    else:
        functions = model.sample_y(rows, n_draws, noise=False).T
        mean, std = model.predict(X, return_std=True)
    return Drawn(functions[:, : len(GRID)], functions[:, len(GRID) :], mean, std)


def judged_wave(drawn: Drawn, task: Task) -> dict[str, float]:
    """Return what draws for one task are worth."""
    y = task.y[~task.support]
    to_line = residuals(drawn.on_grid, [np.ones_like(GRID), GRID])
    to_wave = residuals(drawn.on_grid, [np.sin(GRID), np.cos(GRID)])
    line = (to_line < to_wave).mean()
    z = (y - drawn.mean) / drawn.std
    nlpd = 0.5 * np.square(z) + np.log(drawn.std) + 0.5 * np.log(2 * np.pi)
    errors = np.sqrt(np.square(drawn.on_query - y).mean(1))
    return {
        "line": line,
        "both": float(0.1 <= line <= 0.9),
        "off_both": np.minimum(to_line, to_wave).mean(),
        "best": errors.min(),
        "mean_rmse": np.sqrt(np.square(drawn.mean - y).mean()),
        "nlpd": nlpd.mean(),
    }


def error_of(meta: MAMLRegressor, seed: int) -> float:
    """Return the root mean square of MAML's errors on tasks of their own."""
    errors = []
    for task in WAVES.sample(200, seed):
        rest = ~task.support
        errors.append(meta.adapt(*support_rows(task)).predict(task.X[rest]))
        errors[-1] -= task.y[rest]
    return float(np.sqrt(np.square(errors).mean()))


# Attributes ----------------------------------------------------------------------


def class_1(meta: Any, task: Task, n_draws: int) -> Array:
    """Return each drawn function's probability of class 1 for query rows, (K, Q)."""
    learner = meta.learner_  # rows are not normalised
    x, y = (torch.from_numpy(part)[None] for part in support_rows(task))
    support = Rows(x, y, torch.ones(y.shape, dtype=torch.bool))
    query = torch.from_numpy(task.X[~task.support])[None]
    with torch.no_grad():
        state = learner.adapt(support)
        if isinstance(meta, MAMLClassifier):
            logits = learner.predict(state, query)
        else:
            generator = torch.Generator().manual_seed(0)
            logits = learner.draw(state, query, n_draws, generator, noise=False)[0]
    return logits.double().softmax(-1)[..., 1].numpy()


def judged_attributes(p: Array, task: Task) -> dict[str, float]:
    """Return what draws for one task are worth."""
    X, y = task.X[~task.support], task.y[~task.support]
    differ = X[:, 0] * X[:, 1] < 0
    is_first = ((p > 0.5) == (X[:, 0] > 0))[:, differ].mean(1)
    first = (is_first > 0.5).mean()
    losses = -np.log(np.clip(np.where(y == 1, p, 1 - p), 1e-7, 1))
    mean = p.mean(0)
    of_mean = -np.log(np.clip(np.where(y == 1, mean, 1 - mean), 1e-7, 1))
    return {
        "first": first,
        "both": float(0.1 <= first <= 0.9),
        "agrees": np.maximum(is_first, 1 - is_first).mean(),
        "certain": np.abs(2 * p - 1)[:, differ].mean(),
        "best": losses.mean(1).min(),
        "log_loss": of_mean.mean(),
    }


def exact_attributes(task: Task, n_draws: int, rng: np.random.Generator) -> Array:
    """Return the answers of attributes, each as likely as the other."""
    chosen = rng.permutation(np.arange(n_draws) % 2)
    return (task.X[~task.support][:, chosen].T > 0).astype(float)


# Methods -------------------------------------------------------------------------


def backbone(input_shape: tuple[int, ...]) -> nn.Module:
    """Return two layers of 40."""
    generator = torch.Generator().manual_seed(0)
    return MLP(input_shape[0], (40, 40), generator=generator)


def regressors(n_draws: int, common: dict[str, Any]) -> dict[str, Any]:
    """Return the methods for waves or lines."""
    steps = {"inner_lr": 0.1, "inner_steps": 5, "outer_lr": 3e-3, **common}
    draws = {"n_samples": n_draws}
    return {
        REFERENCE: MAMLRegressor(backbone, **steps),
        "probabilistic MAML": ProbabilisticMAMLRegressor(backbone, **steps, **draws),
        "ABML": ABMLRegressor(backbone, **steps, **draws),
        "latent neural process": NeuralProcessRegressor(**LATENT, **common),
    }


def classifiers(n_draws: int, common: dict[str, Any]) -> dict[str, Any]:
    """Return the methods for attributes."""
    common = {"normalize_x": False, **common}
    steps = {"inner_lr": 0.3, "inner_steps": 5, "outer_lr": 5e-3, **common}
    draws = {"n_samples": n_draws}
    return {
        REFERENCE: MAMLClassifier(backbone, **steps),
        "probabilistic MAML": ProbabilisticMAMLClassifier(backbone, **steps, **draws),
        "ABML": ABMLClassifier(backbone, **steps, **draws),
        "latent neural process": NeuralProcessClassifier(**LATENT, **common),
    }


def waves_or_lines(args: argparse.Namespace, common: dict[str, Any]) -> dict[str, Any]:
    """Judge every method on waves or lines."""
    held_out = open_supports(args.held_out, args.seed + 1)
    exact, rng = ExactPosterior(), np.random.default_rng(args.seed)
    values, seconds = {}, {}
    for name, meta in regressors(args.draws, common).items():
        seconds[name] = fit(meta, WAVES)
        error = error_of(meta, args.seed + 2) if name == REFERENCE else np.nan
        drawn = [drawn_by(meta, task, args.draws, error) for task in held_out]
        values[name] = judged(name, judged_wave, drawn, held_out)
    drawn = [exact.drawn(task, args.draws, rng) for task in held_out]
    values[EXACT] = judged(EXACT, judged_wave, drawn, held_out)
    return summary(values, seconds)


def attributes(args: argparse.Namespace, common: dict[str, Any]) -> dict[str, Any]:
    """Judge every method on attributes."""
    rows = AmbiguousAttributes(n_samples=104)
    held_out = rows.sample(args.held_out, args.seed + 1)
    rng = np.random.default_rng(args.seed)
    values, seconds = {}, {}
    for name, meta in classifiers(args.draws, common).items():
        seconds[name] = fit(meta, ATTRIBUTES)
        drawn = [class_1(meta, task, args.draws) for task in held_out]
        values[name] = judged(name, judged_attributes, drawn, held_out)
    drawn = [exact_attributes(task, args.draws, rng) for task in held_out]
    values[EXACT] = judged(EXACT, judged_attributes, drawn, held_out)
    return summary(values, seconds)


def fit(meta: Any, tasks: TaskDistribution) -> float:
    """Meta-train; return the seconds of the processor that it took."""
    start = time.process_time()
    meta.fit(tasks)
    return time.process_time() - start


def judged(
    name: str,
    judge: Callable[[Any, Task], dict[str, float]],
    drawn: Sequence[Any],
    tasks: TaskSet,
) -> dict[str, Array]:
    """Return and print each number of every task, by the number's name."""
    rows = [judge(one, task) for one, task in zip(drawn, tasks, strict=True)]
    values = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    means = ", ".join(f"{key} {own.mean():.3f}" for key, own in values.items())
    print(f"{name}: {means}", flush=True)
    return values


def summary(
    values: dict[str, dict[str, Array]], seconds: dict[str, float]
) -> dict[str, Any]:
    """Return means with intervals, and those of differences from MAML's."""
    reference, found = values[REFERENCE], {}
    for name, own in values.items():
        found[name] = {key: mean_interval(value) for key, value in own.items()}
        found[name]["fit_seconds"] = seconds.get(name)
        if name != REFERENCE:
            found[name]["difference"] = {
                key: mean_interval(value - reference[key]) for key, value in own.items()
            }
    return found


def main(argv: list[str] | None = None) -> None:
    """Judge the methods on both problems, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=1200)
    parser.add_argument("--held-out", type=int, default=200, help="tasks")
    parser.add_argument("--draws", type=int, default=40, help="of each task")
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark("ambiguous", args.seed, args.threads, args.output)
    common = {"max_iter": args.updates, "random_state": args.seed, "device": "cpu"}
    results = {
        "waves or lines": waves_or_lines(args, common),
        "attributes": attributes(args, common),
    }
    benchmark.write(
        parameters={
            "updates": args.updates,
            "held_out": args.held_out,
            "draws": args.draws,
            "draws_of_latent_in_training": LATENT["n_train_samples"],
            "open": list(OPEN),
            "support_range": list(WAVES.support_range or ()),
            "noise": WAVES.noise,
        },
        results=results,
    )


if __name__ == "__main__":
    main()
