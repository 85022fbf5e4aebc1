"""Meta-updates as torch's autograd makes them, part by part.

What every quicker way comes back to, wherever it would not be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sklmeta.engine.batches import Episodes
from sklmeta.engine.learner import Learner
from sklmeta.engine.mapping import tasks_per_pass

__all__ = ["EagerUpdate", "device_of", "parts_known", "parts_of"]


def device_of(learner: Learner) -> torch.device:
    """Return where the weights of a learner are."""
    weight = next(learner.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device


def parts_of(learner: Learner, batch: Episodes) -> Iterator[Episodes]:
    """Yield a batch in the parts that go through the learner one after another."""
    size = tasks_per_pass(learner, batch.support.x.device)
    return _cut(learner, batch, size, learner.needs_equal_rows)


def parts_known(
    learner: Learner,
) -> Callable[[Learner, Episodes], Iterator[Episodes]]:
    """Return `parts_of` for a learner whose layers are looked through once."""
    size = tasks_per_pass(learner, device_of(learner))
    return partial(_cut, size=size, equal_rows=learner.needs_equal_rows)


def _cut(
    learner: Learner, batch: Episodes, size: int | None, equal_rows: bool
) -> Iterator[Episodes]:
    if learner.budget is not None and size != 1:
        fits = learner.budget.n_tasks(learner, batch)
        size = fits if size is None or fits is None else min(size, fits)
    return batch.parts(size, equal_rows=equal_rows)


@dataclass(frozen=True)
class EagerUpdate:
    """Loss and gradients as torch's autograd makes them, part by part."""

    learner: Learner

    def __call__(self, batch: Episodes) -> Tensor:
        """Add the gradients of a batch, and return its mean loss."""
        losses = []
        for part in parts_of(self.learner, batch):
            loss = self.learner.meta_loss(part).sum() / len(batch)
            loss.backward()
            losses.append(loss.detach())
        return sum(losses[1:], start=losses[0])
