"""Sinusoid rows of the speed table: meta-updates of MAML per second, ways side by side.

All do second-order MAML on 25 tasks x (10 support + 10 query) rows with a 1-40-40-1
network and Adam. What is timed is whole runs: `fit` from the call to its return, with
and without ``compile=True``, and loops that draw the same tasks and step, as one would
write them with torch alone, with learn2learn, and with JAX. What compiling takes is
told apart.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sklmeta import MAMLRegressor, TaskSet
from sklmeta.backbones import MLP
from sklmeta.datasets import Sinusoids

__all__ = ["BARS", "rows", "ways"]

N_TASKS, N_SUPPORT, N_QUERY, INNER_LR, OUTER_LR = 25, 10, 10, 0.01, 1e-3
BARS = {"sklmeta": {1: 8.0, 5: 10.0}, "sklmeta, compiled": {1: 20.0, 5: 30.0}}
"""How many times the plain loop is asked for, by way and inner steps."""

Blocks = tuple[np.ndarray, np.ndarray]
Run = Callable[..., tuple[float, float]]
"""Takes tasks, inner steps, device, number of updates and seed; returns seconds of
updates and seconds of compiling."""


def network(input_shape: tuple[int, ...]) -> MLP:
    """Return the paper's hidden layers."""
    return MLP(input_shape[0], (40, 40), generator=torch.Generator().manual_seed(0))


def through_fit(
    tasks: Any,
    inner_steps: int,
    device: str,
    n_updates: int,
    seed: int,
    *,
    compiled: bool = False,
) -> tuple[float, float]:
    """Meta-train by the estimator."""
    meta = MAMLRegressor(
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
        compile=compiled,
        random_state=seed,
    )
    start = time.perf_counter()
    meta.fit(tasks)
    seconds = time.perf_counter() - start
    compiling = sum(meta.history_[:, "compile_dur"]) if compiled else 0.0
    return seconds - compiling, compiling


def compiled_fit(*args: Any) -> tuple[float, float]:
    """Meta-train by the estimator with ``compile=True``."""
    return through_fit(*args, compiled=True)


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
) -> tuple[float, float]:
    """Meta-train as one would write it without a library."""
    start = time.perf_counter()
    hidden = network((1,)).to(device)
    head = torch.nn.utils.skip_init(torch.nn.Linear, 40, 1)
    generator = torch.Generator().manual_seed(seed)
    for parameter in head.parameters():
        torch.nn.init.uniform_(parameter, -(40**-0.5), 40**-0.5, generator=generator)
    weights = [*hidden.parameters(), *head.to(device).parameters()]
    optimizer = torch.optim.Adam(weights, lr=OUTER_LR)
    for x, y in batches(tasks, n_updates, seed):
        optimizer.zero_grad()
        losses = [
            task_loss(weights, inner_steps, own[:2], own[2:])
            for own in episodes(torch.from_numpy(x), torch.from_numpy(y), device)
        ]
        torch.stack(losses).mean().backward()
        optimizer.step()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start, 0.0


def learn2learn_loop(
    tasks: Any, inner_steps: int, device: str, n_updates: int, seed: int
) -> tuple[float, float]:
    """Meta-train by learn2learn, as its examples do."""
    import learn2learn

    start = time.perf_counter()
    net = torch.nn.Sequential(network((1,)), torch.nn.Linear(40, 1)).to(device)
    maml = learn2learn.algorithms.MAML(net, lr=INNER_LR, first_order=False)
    optimizer = torch.optim.Adam(maml.parameters(), lr=OUTER_LR)
    for x, y in batches(tasks, n_updates, seed):
        optimizer.zero_grad()
        for own in episodes(torch.from_numpy(x), torch.from_numpy(y), device):
            learner = maml.clone()
            for _ in range(inner_steps):
                learner.adapt(F.mse_loss(learner(own[0]), own[1]))
            (F.mse_loss(learner(own[2]), own[3]) / N_TASKS).backward()
        optimizer.step()
    return time.perf_counter() - start, 0.0


def jax_loop(
    tasks: Any, inner_steps: int, device: str, n_updates: int, seed: int
) -> tuple[float, float]:
    """Meta-train by JAX: one jitted function for the whole update, Adam included."""
    from _speed_jax import compiled_update, initial_state

    start = time.perf_counter()
    state = initial_state(seed)
    step = compiled_update(inner_steps, state, N_TASKS, N_SUPPORT, N_QUERY)
    compiling = time.perf_counter() - start
    for x, y in batches(tasks, n_updates, seed):
        state = step(state, x[:, :N_SUPPORT], y[:, :N_SUPPORT], *rest(x, y))
    state[0][0][0].block_until_ready()
    return time.perf_counter() - start - compiling, compiling


def rest(x: np.ndarray, y: np.ndarray) -> Blocks:
    """Return the query rows."""
    return x[:, N_SUPPORT:], y[:, N_SUPPORT:]


def batches(tasks: Any, n_updates: int, seed: int) -> Iterator[Blocks]:
    """Yield x and y (T, rows, 1) of random tasks, their rows in random order."""
    rng = np.random.default_rng(seed)
    known = as_blocks(tasks) if isinstance(tasks, TaskSet) else None
    for _ in range(n_updates):
        if known is None:
            x, y = as_blocks(tasks.sample(N_TASKS, rng))
        else:
            chosen = rng.choice(len(tasks), N_TASKS, replace=False)
            x, y = known[0][chosen], known[1][chosen]
        order = rng.random(x.shape[:2]).argsort(1)[:, : N_SUPPORT + N_QUERY, None]
        yield np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)


def as_blocks(tasks: TaskSet) -> Blocks:
    """Return x and y (T, rows, 1): nothing of the library is in the loops."""
    rows = tasks.rows()
    shape = (len(tasks), -1, 1)
    return rows.X.reshape(shape), rows.y.reshape(shape)


def episodes(x: Tensor, y: Tensor, device: str) -> Iterator[tuple[Tensor, ...]]:
    """Yield support x, support y, query x, query y, task by task."""
    for own_x, own_y in zip(x.to(device), y.to(device), strict=True):
        (support_x, query_x), (support_y, query_y) = (
            own.split([N_SUPPORT, N_QUERY]) for own in (own_x, own_y)
        )
        yield support_x, support_y, query_x, query_y


def ways(device: str) -> dict[str, Run]:
    """Return what can be compared here, by name; the plain loop first."""
    found: dict[str, Run] = {
        "plain loop": plain_loop,
        "sklmeta": through_fit,
        "sklmeta, compiled": compiled_fit,
    }
    if find_spec("learn2learn"):
        found["learn2learn"] = learn2learn_loop
    if find_spec("jax") and device == "cpu":
        found["JAX, jit of vmap"] = jax_loop
    return found


def rows(args: Namespace, show: Callable[[dict[str, Any]], None]) -> list[Any]:
    """Measure meta-updates per second; medians of repeats that take turns.

    Parameters
    ----------
    args : Namespace
        `updates`, `repeats`, `seed`, `device`, and the names of `ways` or None.
    show : callable
        Gets each row as soon as it is there.

    Returns
    -------
    list of dict
        One per form of tasks, number of inner steps and way, with the rate, its ratio
        to the plain loop of the same turn, and the seconds of compiling.
    """
    waves = Sinusoids(n_samples=N_SUPPORT + N_QUERY)
    forms = {"TaskSet": waves.sample(1000, args.seed), "Sinusoids": waves}
    results = []
    for form, tasks in forms.items():
        for inner_steps in (1, 5):
            for row in compare(tasks, inner_steps, args):
                results.append({"tasks": form, "inner_steps": inner_steps, **row})
                show(results[-1])
    return results


def compare(tasks: Any, inner_steps: int, args: Namespace) -> list[dict[str, Any]]:
    """Return a row for each way."""
    compared = ways(args.device)
    if args.ways:
        compared = {name: compared[name] for name in ("plain loop", *args.ways)}
    rates: dict[str, list[float]] = {name: [] for name in compared}
    compiling = dict.fromkeys(compared, 0.0)
    for repeat in range(args.repeats + 1):
        for name, run in compared.items():
            slow = name in ("plain loop", "learn2learn")
            n_updates = max(args.updates // 20, 1) if slow else args.updates
            seconds, extra = run(
                tasks, inner_steps, args.device, n_updates, args.seed + repeat
            )
            rates[name].append(n_updates / seconds)
            compiling[name] = max(compiling[name], extra)
    results = []
    for name, found in rates.items():
        # The first turn warms up, and compiles.
        pairs = zip(found[1:], rates["plain loop"][1:], strict=True)
        ratios = [rate / plain for rate, plain in pairs]
        results.append(
            {
                "way": name,
                "updates_per_s": statistics.median(found[1:]),
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "compile_s": compiling[name],
            }
        )
    return results
