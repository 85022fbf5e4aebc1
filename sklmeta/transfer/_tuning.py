"""Fine-tuning of many tasks at once: descent, weight decay, and when to stop.

Axes: T tasks, S support rows, N outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from sklmeta.engine.batches import Rows
from sklmeta.gradient.network import TaskWeights
from sklmeta.transfer._optimizers import inner_optimizer

__all__ = ["Problem", "Tuning", "halves", "row_losses", "shares"]

N_FOLDS = 2


class Problem(Protocol):
    """What is tuned: weights of each task, and the loss of its support rows."""

    def outputs(self, weights: TaskWeights) -> Tensor:
        """Return the outputs of support rows, (T, S, N)."""

    def gradients(self, weights: TaskWeights, share: Tensor) -> TaskWeights:
        """Return gradients of losses that rows have a `share` in, (T, S)."""

    def pulled(self, offsets: TaskWeights) -> TaskWeights:
        """Return what weight decay draws back of offsets from the start."""


@dataclass(frozen=True)
class Tuning:
    """How weights are tuned.

    Attributes
    ----------
    optimizer : {"adam", "sgd"}
    lr : float
        Step size.
    n_steps : int
        Steps on all support rows; the most, with `chooses_steps`.
    weight_decay : float
        Factor of the offset from the start, which is added to gradients.
    chooses_steps : bool
        Whether the number of steps is chosen, task by task, by the loss on halves of
        the support rows after steps on the others.
    """

    optimizer: str
    lr: float
    n_steps: int
    weight_decay: float = 0.0
    chooses_steps: bool = False

    def run(self, problem: Problem, start: TaskWeights, support: Rows) -> TaskWeights:
        """Return tuned weights.

        Parameters
        ----------
        problem : Problem
        start : dict of str to Tensor
            Weights before, (T, ...) each.
        support : Rows
            y (T, S) or (T, S, n_outputs), mask (T, S).
        """
        share = shares(support.mask, start)
        if not self.chooses_steps:
            return self._last(problem, start, share)
        return self._stopped(problem, start, share, self._best(problem, start, support))

    def _last(self, problem: Problem, start: TaskWeights, share: Tensor) -> TaskWeights:
        last = start
        for weights in self._path(problem, start, share):
            last = weights
        return last

    def _stopped(
        self, problem: Problem, start: TaskWeights, share: Tensor, n_steps: Tensor
    ) -> TaskWeights:
        """Return the weights that each task has after its own number of steps."""
        kept = start
        for done, weights in enumerate(self._path(problem, start, share), start=1):
            goes_on = n_steps >= done  # (T,)
            if not bool(goes_on.any()):
                break
            kept = {n: _where(goes_on, w, kept[n]) for n, w in weights.items()}
        return kept

    def _path(
        self, problem: Problem, start: TaskWeights, share: Tensor
    ) -> Iterator[TaskWeights]:
        """Yield the weights after each step."""
        optimizer = inner_optimizer(self.optimizer, self.lr)
        weights = start
        for _ in range(self.n_steps):
            gradients = problem.gradients(weights, share)
            if self.weight_decay:
                offsets = problem.pulled({n: w - start[n] for n, w in weights.items()})
                for name, offset in offsets.items():
                    gradients[name].add_(offset, alpha=self.weight_decay)
            weights = optimizer.step(weights, gradients)
            yield weights

    def _best(self, problem: Problem, start: TaskWeights, support: Rows) -> Tensor:
        """Return the number of steps with the least loss on rows held out, (T,).

        Tasks none of whose rows can be held out take all steps.
        """
        totals = []
        folds = halves(support)
        for held in folds:
            share = shares(support.mask & ~held, start)
            judged = shares(held, start)
            path = chain([start], self._path(problem, start, share))
            losses = [_held_loss(problem.outputs(w), support, judged) for w in path]
            totals.append(torch.stack(losses))  # (n_steps + 1, T)
        # Steps that diverged are the worst: argmin would choose their NaN.
        best = torch.stack(totals).sum(0).nan_to_num(nan=torch.inf).argmin(0)
        any_held = torch.stack(folds).any(2).any(0)
        return best.where(any_held, self.n_steps)


def halves(support: Rows) -> list[Tensor]:
    """Return which rows are held out in each fold, (T, S) each.

    Every second row of each class; the only row of a class stays.
    """
    classifies = not support.y.is_floating_point()
    same = support.mask.unsqueeze(2) & support.mask.unsqueeze(1)  # (T, S, S)
    if classifies:
        same = same & (support.y.unsqueeze(2) == support.y.unsqueeze(1))
    place = same.tril(-1).sum(2)  # of a row among those of its class
    several = support.mask & (same.sum(2) > 1)
    return [several & (place % N_FOLDS == fold) for fold in range(N_FOLDS)]


def shares(mask: Tensor, weights: TaskWeights) -> Tensor:
    """Return each row's share in its task's mean loss, (T, S); 0 where masked."""
    first = next(iter(weights.values()))
    share = mask.to(first.dtype)
    return share / share.sum(1, keepdim=True).clamp(min=1)


def row_losses(outputs: Tensor, y: Tensor) -> Tensor:
    """Return the loss of each row, (T, S): cross-entropy or squared error."""
    if y.is_floating_point():
        return (outputs - y).square().mean(-1)
    return F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none").view(
        y.shape
    )


def _held_loss(outputs: Tensor, support: Rows, share: Tensor) -> Tensor:
    """Return mean losses of the rows that are held out, (T,); 0 where there is none."""
    losses = row_losses(outputs, support.y)
    return torch.where(share > 0, losses * share, 0.0).sum(1)


def _where(which: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return new.where(which.view(-1, *[1] * (new.dim() - 1)), old)
