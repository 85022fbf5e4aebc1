"""CAVIA's sinusoid regression (section 4.1 and table 1 of the paper), beside MAML.

    python benchmarks/sinusoid_cavia.py

50,000 meta-updates of 25 fresh tasks each, 10 support and 10 query rows, one inner
step, a 1-40-40-1 network, Adam at 1e-3: CAVIA with step size 1 on 2 to 50 context
parameters, MAML with step size 0.1 on all weights, without and with further inputs that
are learned constants. Then mean squared errors after one step on 10 support rows of
the same 1,000 new tasks for all. Settings are those of the authors' code
(github.com/lmzintgraf/cavia). Writes ``results/sinusoid_cavia.json``.
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
from sinusoid import task_errors
from torch import Tensor, nn

from sklmeta import CAVIARegressor, MAMLRegressor, TaskSet
from sklmeta.backbones import MLP
from sklmeta.datasets import Sinusoids

ROWS = 10  # support rows, in meta-training and test; and query rows in meta-training
HIDDEN = (40, 40)
# As recalled from the paper's table 1, by the number of inputs besides x.
RECALLED = {
    "CAVIA": {1: 0.84, 2: 0.21, 3: 0.20, 4: 0.19, 5: 0.19, 50: 0.19},
    "MAML": {0: 0.33, 1: 0.29, 2: 0.24, 3: 0.24, 4: 0.23, 5: 0.23, 50: 0.23},
}
REFERENCE = ("MAML", 0)


class ConstantInputs(nn.Module):
    """A network with further inputs that are learned, and the same for all rows."""

    def __init__(self, n_inputs: int, n_constants: int, seed: int) -> None:
        super().__init__()
        self.constants = nn.Parameter(torch.zeros(n_constants))
        self.net = network((n_inputs + n_constants,), seed)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, n_inputs) to features."""
        return self.net(torch.cat([x, self.constants.expand(len(x), -1)], 1))


def network(input_shape: tuple[int, ...], seed: int) -> MLP:
    """Return the paper's hidden layers."""
    return MLP(input_shape[0], HIDDEN, generator=torch.Generator().manual_seed(seed))


def with_constants(
    input_shape: tuple[int, ...], n_constants: int, seed: int
) -> nn.Module:
    """Return the paper's hidden layers with further inputs for MAML."""
    return ConstantInputs(input_shape[0], n_constants, seed)


def make_meta(method: str, n_inputs: int, args: argparse.Namespace) -> Any:
    """Return the unfitted estimator of a cell of the table."""
    common: dict[str, Any] = {
        "inner_steps": 1,
        "n_shot": ROWS,
        "n_query": ROWS,
        "normalize_x": False,
        "normalize_y": False,
        "outer_lr": 1e-3,
        "batch_size": 25,
        "max_iter": args.updates,
        "eval_every": max(args.updates // 50, 1),
        "device": args.device,
        "random_state": args.seed,
    }
    backbone: Any = functools.partial(network, seed=args.seed)
    if method == "CAVIA":
        return CAVIARegressor(backbone, n_context=n_inputs, inner_lr=1.0, **common)
    if n_inputs:
        backbone = functools.partial(
            with_constants, n_constants=n_inputs, seed=args.seed
        )
    return MAMLRegressor(backbone, inner_lr=0.1, **common)


def run_cell(
    method: str, n_inputs: int, args: argparse.Namespace, tasks: TaskSet
) -> tuple[dict[str, Any], np.ndarray]:
    """Meta-train and test; return what is to be told, and each task's error."""
    start = time.perf_counter()
    meta = make_meta(method, n_inputs, args).fit(Sinusoids(n_samples=2 * ROWS))
    seconds = time.perf_counter() - start
    errors = task_errors(meta, tasks, ROWS)
    cell = {
        "method": method,
        "inputs": n_inputs,
        "mean_squared_error": mean_interval(errors),
        "training_s": seconds,
        "recalled": RECALLED[method].get(n_inputs),
    }
    shown = format_interval(cell["mean_squared_error"], digits=3)
    print(f"{method:>6} {n_inputs:>3} {shown:>17} {cell['recalled'] or '-':>6}")
    return cell, errors


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=50_000)
    parser.add_argument("--context", type=int, nargs="+", default=[2, 3, 4, 5, 50])
    parser.add_argument("--maml-inputs", type=int, nargs="+", default=[0, 5])
    parser.add_argument("--test-tasks", type=int, default=1000)
    parser.add_argument("--test-query", type=int, default=100)
    add_device_option(parser, default="cpu")
    add_common_options(parser)
    return parser.parse_args(argv)


def deviations(args: argparse.Namespace) -> list[str]:
    """Return in which ways this is not the paper's experiment."""
    found = [
        f"{args.test_query} query rows of a test task drawn at random; the authors' "
        "code takes 100 at equal distances",
        "the weights after the last meta-update are tested; the authors' code keeps "
        "those that are best on validation tasks, every 5,000 meta-updates",
        "meta-gradients are not clipped; for CAVIA, the authors' code clips each "
        "task's to ±10",
        "one seed of meta-training",
    ]
    if args.updates != 50_000:
        found.append(f"{args.updates:,} meta-updates instead of 50,000")
    return found


def main(argv: list[str] | None = None) -> None:
    """Meta-train, test, print and write the record."""
    args = parse(argv)
    benchmark = Benchmark(
        "sinusoid_cavia", args.seed, args.threads, args.output, args.device
    )
    # A seed far from those of meta-training, which are below 2**31.
    waves = Sinusoids(n_samples=ROWS + args.test_query)
    tasks = waves.sample(args.test_tasks, 2**40 + args.seed)
    cells = [("MAML", n) for n in args.maml_inputs]
    cells += [("CAVIA", n) for n in args.context]
    print("mean squared error after one step, as recalled from the paper")
    results, errors = [], {}
    for cell in cells:
        row, errors[cell] = run_cell(*cell, args, tasks)
        results.append(row)
    for cell, row in zip(cells, results, strict=True):
        if cell != REFERENCE and REFERENCE in errors:
            row["minus_maml"] = mean_interval(errors[cell] - errors[REFERENCE])
    benchmark.write(
        parameters={
            "updates": args.updates,
            "tasks_per_update": 25,
            "support_rows": ROWS,
            "train_query_rows": ROWS,
            "test_tasks": args.test_tasks,
            "test_query_rows": args.test_query,
            "network": "1-40-40-1",
            "inner_lr": {"CAVIA": 1.0, "MAML": 0.1},
            "inner_steps": 1,
            "outer_lr": 1e-3,
        },
        deviations=deviations(args) + args.note,
        results=results,
    )


if __name__ == "__main__":
    main()
