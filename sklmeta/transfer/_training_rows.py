"""The rows of all tasks together, as supervised pre-training takes them.

They reach the training loop as episodes of one task, whose query rows are a minibatch:
its progress, callbacks, history and devices come along.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor

from sklmeta._meta_training import Seeds
from sklmeta._pooling import row_array
from sklmeta._preparation import Preparation
from sklmeta._task_rows import representative
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.episodes import row_weights
from sklmeta.engine.pool import RowPool
from sklmeta.engine.targets import TaskTargets
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["TrainingRows", "fit_head", "n_classes_of", "training_stream"]

TRIED_ROWS = 4  # of a minibatch that stand for support rows when modules are tried out


def n_classes_of(tasks: Any, preparation: Preparation) -> int | None:
    """Return how many classes pre-training tells apart; None for numbers.

    Raises
    ------
    ValueError
        If there is a single class.
    """
    if not preparation.settings.classifies:
        return None
    n_classes = preparation.n_outputs
    if n_classes is None:  # local labels are those of each task
        n_classes = len(tasks)
        if isinstance(tasks, TaskSet):
            n_classes = int(preparation.coded_labels(tasks).max()) + 1
    if n_classes < 2:
        raise ValueError(
            f"{preparation.settings.name} is pre-trained to tell the classes of all "
            "training tasks apart, and they hold one class only. Give tasks or a "
            "ClassPool with at least two."
        )
    return n_classes


class TrainingRows:
    """The rows of tasks, as supervised learning takes them.

    Parameters
    ----------
    pool : RowPool
        Rows of all tasks.
    y : Tensor of shape (R,) or (R, n_outputs)
        Classes of all tasks together, or targets.
    n_classes : int or None
        How many classes there are.
    weights : Tensor of shape (R,) or None
        How often each row is drawn, up to a factor; None: as often as any other.
    """

    def __init__(
        self,
        pool: RowPool,
        y: Tensor,
        n_classes: int | None,
        weights: Tensor | None = None,
    ) -> None:
        self.pool = pool
        self.y = y
        self.n_classes = n_classes
        self.weights = weights

    @classmethod
    def of_tasks(
        cls,
        tasks: Any,
        preparation: Preparation,
        device: torch.device,
        domain_weights: Any = None,
    ) -> TrainingRows:
        """Return the rows of tasks, prepared; domains are drawn by their weights.

        Raises
        ------
        ValueError
            If there is a single class, or rows are not usable.
        """
        pool = preparation.pool(tasks, device)
        n_classes = n_classes_of(tasks, preparation)
        weights = row_weights(pool, domain_weights)
        if n_classes is None:
            return cls(pool, _targets(pool, preparation.task_targets), None, weights)
        # Local labels are numbered over all tasks.
        return cls(pool, pool.y, n_classes, weights)

    def batch(self, index: Tensor) -> Episodes:
        """Return rows as the query of one task."""
        device = self.pool.device
        x, y = self.pool.take(index[None]), self.y[index.to(device)][None]
        mask = torch.ones(1, len(index), dtype=torch.bool, device=device)
        n_way = None
        if self.n_classes is not None:
            n_way = torch.tensor([self.n_classes], device=device)
        few = slice(None, TRIED_ROWS)
        support = Rows(x[:, few], y[:, few], mask[:, few], n_way)
        return Episodes(support, Rows(x, y, mask, n_way))

    def endless(self, size: int, generator: torch.Generator) -> Iterator[Episodes]:
        """Yield minibatches for ever: all rows in random order, and again.

        Where rows have weights, each is drawn by them, whatever was drawn before.
        """
        n_rows = self.pool.n_rows
        size = min(size, n_rows)
        while self.weights is not None:
            drawn = self.weights.multinomial(size, True, generator=generator)
            yield self.batch(drawn)
        left = torch.zeros(0, dtype=torch.int64)
        while True:
            if len(left) < size:
                left = torch.cat([left, torch.randperm(n_rows, generator=generator)])
            index, left = left[:size], left[size:]
            yield self.batch(index)

    def one_pass(self, size: int, generator: torch.Generator) -> list[Episodes]:
        """Return minibatches that hold every row about once."""
        stream = self.endless(size, generator)
        n_batches = ceil(self.pool.n_rows / min(size, self.pool.n_rows))
        return [next(stream) for _ in range(n_batches)]


def _targets(pool: RowPool, targets: TaskTargets | None) -> Tensor:
    """Return targets of rows, in units of their task where that is asked for."""
    if targets is None:
        return pool.y
    parts = []
    for y in pool.y.split(pool.offsets.diff().tolist()):
        mask = torch.ones(1, len(y), dtype=torch.bool, device=y.device)
        parts.append(targets.standardise_support(Rows(y[None], y[None], mask)).y[0])
    return torch.cat(parts)


def training_stream(
    tasks: Any,
    preparation: Preparation,
    device: torch.device,
    size: int,
    seed: int,
    domain_weights: Any = None,
) -> Iterator[Episodes]:
    """Yield minibatches of rows for ever.

    A TaskDistribution is sampled anew for every pass over the rows, except where labels
    are local: its classes would be others each time.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(tasks, TaskSet | ClassPool) or preparation.labels == "local":
        sample = representative(tasks, seed)
        rows = TrainingRows.of_tasks(sample, preparation, device, domain_weights)
        yield from rows.endless(size, generator)
        return
    while True:
        fresh = int(torch.randint(2**31 - 1, (1,), generator=generator))
        rows = TrainingRows.of_tasks(representative(tasks, fresh), preparation, device)
        yield from rows.one_pass(size, generator)


def fit_head(learner: Any, tasks: Any, preparation: Preparation, seeds: Seeds) -> bool:
    """Give a `FineTune` learner a head for the classes of tasks; say if it is new."""
    if preparation.labels != "local":
        return False  # one for all tasks
    tasks = representative(tasks, seeds.episodes)
    n_classes = n_classes_of(tasks, preparation)
    classes = _digest_of_classes(tasks)
    if n_classes is None or classes == learner.head_is_for:
        return False
    learner.new_head(n_classes, torch.Generator().manual_seed(seeds.weights))
    learner.head_is_for = classes
    return True


def _digest_of_classes(tasks: TaskSet | ClassPool) -> bytes:
    """Return what tells classes of tasks from others of the same number.

    Local labels mean nothing outside their task: it is the rows that tell.
    """
    rows = tasks.rows()
    return joblib.hash((row_array(rows.X), np.asarray(rows.y))).encode()
