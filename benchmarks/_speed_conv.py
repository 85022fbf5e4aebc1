"""Convolution rows of the speed table: MAML on 5-way 1-shot images, on a CPU.

Meta-updates of second order with Adam on four blocks of 3x3 convolution (64 filters),
batch normalisation, ReLU and max-pooling, 28x28 images, one inner step. The plain loop
is what one writes without a library: torch's modules, `functional_call` with each
task's weights, `torch.autograd.grad(create_graph=True)`. Both see the same episodes,
start from the same weights and normalise every batch by its own statistics, so that
losses and gradients are the same numbers; that is checked before anything is timed.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from sklmeta.backbones import ConvNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.updates import make_update
from sklmeta.gradient import MAML
from sklmeta.utils import torch_threads

__all__ = ["SHAPES", "agreement", "rows"]

N_WAYS, N_SHOT, N_TASKS, INNER_LR, OUTER_LR = 5, 1, 8, 0.1, 1e-3
SHAPES = {"5 + 5": 1, "5 + 75": 15}
"""Query images per class, by the name of the row."""

Update = Callable[[], Tensor]


def episodes(
    n_query: int, seed: int, n_tasks: int = N_TASKS, dtype: torch.dtype = torch.float32
) -> Episodes:
    """Return tasks of random images, laid out as those of an estimator."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(per_class: int) -> Rows:
        y = torch.arange(N_WAYS).repeat(per_class).expand(n_tasks, -1)
        x = torch.rand(*y.shape, 28, 28, 1, generator=generator, dtype=dtype)
        return Rows(x.movedim(-1, -3), y, torch.ones(y.shape, dtype=torch.bool))

    return Episodes(drawn(N_SHOT), drawn(n_query))


def maml(
    seed: int, *, transductive: bool = True, dtype: torch.dtype = torch.float32
) -> MAML:
    """Return the learner."""
    generator = torch.Generator().manual_seed(seed)
    backbone = ConvNet((1, 28, 28), generator=generator)
    learner = MAML(
        backbone,
        backbone.out_features,
        N_WAYS,
        task_type="classification",
        inner_lr=INNER_LR,
        inner_steps=1,
        transductive=transductive,
        generator=generator,
    )
    return learner.to(dtype)


def plain_net(learner: MAML) -> nn.Sequential:
    """Return the network of torch's own modules, with the learner's weights."""
    layers: list[nn.Module] = []
    for n_in in (1, 64, 64, 64):
        conv = nn.Conv2d(n_in, 64, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, N_WAYS))
    with torch.no_grad():
        pairs = zip(net.parameters(), in_order(learner), strict=True)
        for own, same in pairs:
            own.data = own.to(same.dtype).copy_(same)
    for buffer in net.buffers():
        buffer.data = buffer.to(next(net.parameters()).dtype)
    return net


def in_order(learner: MAML) -> list[nn.Parameter]:
    """Return the learner's weights in the order of the plain network's."""
    assert learner.head is not None
    return [*learner.backbone.parameters(), *learner.head.parameters()]


def plain_update(net: nn.Sequential, batch: Episodes) -> Tensor:
    """Leave the gradients of the mean query loss in ``.grad``, task after task."""
    weights = dict(net.named_parameters())
    support, query = batch.support, batch.query
    total = support.x.new_zeros(())
    for task in range(len(batch)):
        loss = F.cross_entropy(net(support.x[task]), support.y[task])
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        adapted = {
            name: weight - INNER_LR * gradient
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }
        outputs = functional_call(net, adapted, (query.x[task],))
        loss = F.cross_entropy(outputs, query.y[task]) / len(batch)
        loss.backward()
        total += loss.detach()
    return total


def agreement(n_query: int, seed: int, dtype: torch.dtype) -> dict[str, float]:
    """Return by how much losses and gradients differ, relative to the largest.

    With one thread: two sum in another order, by which the plain loop differs from
    itself more than from the library.
    """
    learner = maml(seed, dtype=dtype)
    net, batch = plain_net(learner), episodes(n_query, seed, dtype=dtype)
    with torch_threads(1):
        loss, expected = make_update(learner)(batch), plain_update(net, batch)
    worst = 0.0
    for own, same in zip(in_order(learner), net.parameters(), strict=True):
        assert own.grad is not None and same.grad is not None
        difference = (own.grad - same.grad).abs().max() / same.grad.abs().max()
        worst = max(worst, difference.item())
    return {"loss": (loss - expected).abs().item(), "gradients": worst}


@dataclass
class Way:
    """One way to compute meta-updates, with the threads that torch may use."""

    name: str
    threads: int
    update: Update
    optimizer: torch.optim.Optimizer

    def measure(self, n_updates: int) -> tuple[float, float]:
        """Return tasks per second, and milliseconds of all cores' time per task."""
        with torch_threads(self.threads):
            n_tasks = n_updates * N_TASKS
            start, busy = time.perf_counter(), time.process_time()
            for _ in range(n_updates):
                self.optimizer.zero_grad()
                self.update()
                self.optimizer.step()
            busy = time.process_time() - busy
            return n_tasks / (time.perf_counter() - start), 1000 * busy / n_tasks


def plain_way(threads: int, batch: Episodes, seed: int) -> Way:
    """Return the plain loop."""
    net = plain_net(maml(seed)).train()
    optimizer = torch.optim.Adam(net.parameters(), OUTER_LR, fused=True)
    return Way("plain loop", threads, lambda: plain_update(net, batch), optimizer)


def our_way(
    name: str, threads: int, batch: Episodes, seed: int, *, transductive: bool
) -> Way:
    """Return the library's meta-update."""
    learner = maml(seed, transductive=transductive).train()
    update = make_update(learner)
    optimizer = torch.optim.Adam(learner.parameters(), OUTER_LR, fused=True)
    return Way(name, threads, lambda: update(batch), optimizer)


def ways(batch: Episodes, seed: int, threads: int) -> list[Way]:
    """Return what is compared, the plain loop given all threads first."""
    found = []
    for n in dict.fromkeys((threads, 1)):
        found.append(plain_way(n, batch, seed))
        found.append(our_way("sklmeta", n, batch, seed, transductive=True))
    name = "sklmeta, support statistics"
    found.append(our_way(name, threads, batch, seed, transductive=False))
    return found


def rows(args: Namespace) -> list[dict[str, Any]]:
    """Measure tasks per second; medians of repeats that take turns.

    Parameters
    ----------
    args : Namespace
        `seed`, `repeats`, and `threads`, which is what all cores have together.

    Returns
    -------
    list of dict
        One per number of images and way, with the rate, its ratio to the plain loop
        given all threads, and by how much losses and gradients differ from it. The
        time that cores were busy tells ways apart where others keep them busy, too.
    """
    results = []
    for shape, n_query in SHAPES.items():
        differences = {
            name: agreement(n_query, args.seed, dtype)
            for name, dtype in (("float32", torch.float32), ("float64", torch.float64))
        }
        compared = ways(episodes(n_query, args.seed), args.seed, args.threads)
        n_updates = 4 if n_query == 1 else 2
        measured: list[list[tuple[float, float]]] = [[] for _ in compared]
        for _ in range(args.repeats + 1):
            for way, found in zip(compared, measured, strict=True):
                found.append(way.measure(n_updates))
        # The first turn warms up.
        rates = [[rate for rate, _ in found[1:]] for found in measured]
        busy = [[time for _, time in found[1:]] for found in measured]
        for way, rate, time_busy in zip(compared, rates, busy, strict=True):
            ratios = [a / b for a, b in zip(rate, rates[0], strict=True)]
            results.append(
                {
                    "images": shape,
                    "way": way.name,
                    "threads": way.threads,
                    "tasks_per_s": statistics.median(rate),
                    "ratio": statistics.median(ratios),
                    "ratio_range": [min(ratios), max(ratios)],
                    "busy_ms_per_task": statistics.median(time_busy),
                    "largest_difference": differences,
                }
            )
    return results
