"""Meta-updates per second of MAML through `fit`, against a plain loop over tasks.

    python benchmarks/maml_speed.py

Both do second-order MAML on 25 sinusoids x (10 support + 10 query) rows with a
1-40-40-1 network and Adam. `fit` counts whole, from the call to its return; the loop
draws the same tasks, adapts to one after the other with `torch.autograd.grad`, and
steps. They take turns in one process on one thread; medians. Writes
``results/maml_speed.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _report import Benchmark, add_common_options, add_device_option
from torch import Tensor
from torch.nn import functional as F

from sklmeta import MAMLRegressor, TaskSet
from sklmeta.backbones import MLP
from sklmeta.datasets import Sinusoids

N_TASKS, N_SUPPORT, N_QUERY, INNER_LR, OUTER_LR = 25, 10, 10, 0.01, 1e-3
BAR = 4.0


def network(input_shape: tuple[int, ...]) -> MLP:
    """Return the paper's hidden layers."""
    return MLP(input_shape[0], (40, 40), generator=torch.Generator().manual_seed(0))


def through_fit(
    tasks: Any, inner_steps: int, device: str, n_updates: int, seed: int
) -> None:
    """Meta-train by the estimator."""
    MAMLRegressor(
        network,
        inner_lr=INNER_LR,
        inner_steps=inner_steps,
        n_shot=N_SUPPORT,
        n_query=N_QUERY,
        normalize_x=False,
        normalize_y=False,
        outer_lr=OUTER_LR,
        batch_size=N_TASKS,
        max_iter=n_updates,
        device=device,
        random_state=seed,
    ).fit(tasks)


def forward(weights: list[Tensor], x: Tensor) -> Tensor:
    """Return the network's outputs."""
    w1, b1, w2, b2, w3, b3 = weights
    x = F.relu(F.linear(x, w1, b1))
    x = F.relu(F.linear(x, w2, b2))
    return F.linear(x, w3, b3)


def task_loss(
    weights: list[Tensor],
    inner_steps: int,
    support: tuple[Tensor, Tensor],
    query: tuple[Tensor, Tensor],
) -> Tensor:
    """Return the query loss of one task after adapting to its support rows."""
    for _ in range(inner_steps):
        loss = F.mse_loss(forward(weights, support[0]), support[1])
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        weights = [w - INNER_LR * g for w, g in zip(weights, gradients, strict=True)]
    return F.mse_loss(forward(weights, query[0]), query[1])


def plain_loop(
    tasks: Any, inner_steps: int, device: str, n_updates: int, seed: int
) -> None:
    """Meta-train as one would write it without a library."""
    rng = np.random.default_rng(seed)
    hidden = network((1,)).to(device)
    head = torch.nn.utils.skip_init(torch.nn.Linear, 40, 1)
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        torch.nn.init.uniform_(parameter, -(40**-0.5), 40**-0.5, generator=generator)
    weights = [*hidden.parameters(), *head.to(device).parameters()]
    optimizer = torch.optim.Adam(weights, lr=OUTER_LR)
    rows = as_blocks(tasks, device) if isinstance(tasks, TaskSet) else None
    for _ in range(n_updates):
        if rows is None:
            batch = as_blocks(tasks.sample(N_TASKS, rng), device)
        else:
            chosen = rng.choice(len(tasks), N_TASKS, replace=False)
            batch = rows[0][chosen], rows[1][chosen]
        optimizer.zero_grad()
        losses = [
            task_loss(weights, inner_steps, support, query)
            for support, query in split(*batch, rng)
        ]
        torch.stack(losses).mean().backward()
        optimizer.step()


def as_blocks(tasks: TaskSet, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return x (T, rows, 1) and y (T, rows, 1): nothing of the library in the loop."""
    rows = tasks.rows()
    shape = (len(tasks), -1, 1)
    x, y = torch.from_numpy(rows.X), torch.from_numpy(rows.y)
    return x.reshape(shape).to(device), y.reshape(shape).to(device)


def split(x: Tensor, y: Tensor, rng: np.random.Generator) -> Iterator[tuple[Any, Any]]:
    """Yield random support and query rows, task by task."""
    for own_x, own_y in zip(x, y, strict=True):
        order = rng.permutation(len(own_x))
        support, query = order[:N_SUPPORT], order[N_SUPPORT : N_SUPPORT + N_QUERY]
        yield (own_x[support], own_y[support]), (own_x[query], own_y[query])


def updates_per_second(train: Callable[..., None], n_updates: int, *args: Any) -> float:
    """Return the rate of one run."""
    start = time.perf_counter()
    train(*args[:3], n_updates, *args[3:])
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return n_updates / (time.perf_counter() - start)


def compare(
    tasks: Any, inner_steps: int, args: argparse.Namespace
) -> dict[str, float | list[float]]:
    """Return both rates, medians of runs that take turns, and their ratio."""
    runs: dict[str, list[float]] = {"fit": [], "loop": []}
    for repeat in range(args.repeats + 1):
        seed = args.seed + repeat
        for name, train, n_updates in (
            ("fit", through_fit, args.updates),
            ("loop", plain_loop, max(args.updates // 5, 1)),
        ):
            rate = updates_per_second(
                train, n_updates, tasks, inner_steps, args.device, seed
            )
            runs[name].append(rate)
    # The first turn warms up.
    rates = {name: values[1:] for name, values in runs.items()}
    ratios = [f / p for f, p in zip(rates["fit"], rates["loop"], strict=True)]
    return {
        "fit_per_s": statistics.median(rates["fit"]),
        "loop_per_s": statistics.median(rates["loop"]),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=500, help="per run of fit")
    parser.add_argument("--repeats", type=int, default=5)
    add_device_option(parser, default="cpu")
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the record."""
    args = parse(argv)
    options = (args.seed, args.threads, args.output, args.device)
    benchmark = Benchmark("maml_speed", *options)
    waves = Sinusoids(n_samples=N_SUPPORT + N_QUERY)
    forms = {"TaskSet": waves.sample(1000, args.seed), "Sinusoids": waves}
    results = []
    print(f"meta-updates per second, {N_TASKS} x ({N_SUPPORT} + {N_QUERY}) rows")
    print(f"{'tasks':>10} {'inner steps':>12} {'fit':>8} {'loop':>8} {'ratio':>7}")
    for form, tasks in forms.items():
        for inner_steps in (1, 5):
            row = compare(tasks, inner_steps, args)
            results.append({"tasks": form, "inner_steps": inner_steps, **row})
            print(
                f"{form:>10} {inner_steps:>12} {row['fit_per_s']:>8.1f} "
                f"{row['loop_per_s']:>8.1f} {row['ratio']:>7.2f}",
                flush=True,
            )
    worst = min(row["ratio"] for row in results)
    print(f"smallest ratio {worst:.2f}, asked for: at least {BAR:g}")
    benchmark.write(
        parameters={
            "updates_per_fit": args.updates,
            "updates_per_loop": max(args.updates // 5, 1),
            "repeats": args.repeats,
        },
        results=results,
    )


if __name__ == "__main__":
    main()
