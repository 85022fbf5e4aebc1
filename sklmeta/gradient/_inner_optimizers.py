r"""Inner loops by other optimizers than gradient descent, and on minibatches.

With :math:`g` the gradient of a task's loss by its own weights, plain descent is
:math:`\theta \leftarrow \theta - \alpha g`, and Adam (arXiv:1412.6980) without first
moments, :math:`\beta_1 = 0`,

.. math:: v \leftarrow \beta v + (1 - \beta) g^2, \qquad
          c \leftarrow \beta c + (1 - \beta), \qquad
          \theta \leftarrow \theta - \alpha \frac{g}{\sqrt{v / c} + \epsilon}.     (1)

:math:`c = 1 - \beta^t` is the weight that :math:`t` steps have in :math:`v`; both start
at zero.

Axes: T tasks, S rows, B rows of a minibatch, K steps, N ways.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sklmeta.engine.batches import Rows
from sklmeta.engine.keys import LAST, random_keys, stream

__all__ = ["Moments", "SharedMoments", "adam_step", "minibatches", "sgd_step"]

TaskWeights = dict[str, Tensor]

BETA = 0.999
EPSILON = 1e-8
_PASS = 2**32  # numbers of a random stream that each pass over the rows has


@dataclass(frozen=True)
class Moments:
    """Running averages of squared gradients, as Adam keeps them.

    Attributes
    ----------
    values : dict of str to Tensor
        By the names of weights, of shapes that broadcast with (T, ...).
    weight : Tensor of one element
        What a constant 1 would have been averaged to.
    """

    values: TaskWeights
    weight: Tensor


def sgd_step(weights: TaskWeights, gradients: TaskWeights, lr: float) -> TaskWeights:
    """Return the weights after a step of plain gradient descent.

    Parameters
    ----------
    weights, gradients : dict of str to Tensor
        Of every task, (T, ...) each, by the same names.
    lr : float
        Step size.

    Returns
    -------
    dict of str to Tensor
        New weights.
    """
    return {n: w.sub(gradients[n], alpha=lr) for n, w in weights.items()}


def adam_step(
    weights: TaskWeights, gradients: TaskWeights, moments: Moments, lr: float
) -> tuple[TaskWeights, Moments]:
    """Return weights and second moments after a step of Adam with beta1 = 0.

    Parameters
    ----------
    weights, gradients : dict of str to Tensor
        Of every task, (T, ...) each, by the same names.
    moments : Moments
        By the same names.
    lr : float
        Step size.

    Returns
    -------
    weights : dict of str to Tensor
        New weights.
    moments : Moments
        New second moments, (T, ...) each.
    """
    mass = moments.weight * BETA + (1 - BETA)
    moved, values = {}, dict(moments.values)
    for name, weight in weights.items():  # equation (1)
        gradient = gradients[name]
        value = gradient.square().mul_(1 - BETA)
        value = value.add_(moments.values[name], alpha=BETA)
        scale = value.div(mass).sqrt_().add_(EPSILON)
        moved[name] = weight.addcdiv(gradient, scale, value=-lr)
        values[name] = value
    return moved, Moments(values, mass)


class SharedMoments(nn.Module):
    """Second moments that inner loops start from, averaged over tasks by training.

    Adam's go on from one task to the next where tasks come one after another. Where
    they come together, each starts from the same and training takes the mean of what
    they end with. Tasks report theirs as the gradient of a parameter, which comes back
    from wherever tasks are computed, in parts, threads or recorded updates; no
    optimizer must touch it.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Shapes of the weights by name, those of one task.
    per_way : bool
        Whether weights of the head have one row for each way of a task. Ways have
        moments in common, since their order means nothing.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], per_way: bool) -> None:
        super().__init__()
        self.per_way = per_way
        self.shapes = {
            name: torch.Size(shape[1:] if self._has_ways(name) else shape)
            for name, shape in shapes.items()
        }
        n_values = sum(shape.numel() for shape in self.shapes.values())
        # The last is the weight of all; its gradient, the share of tasks that report.
        self.values = nn.Parameter(torch.zeros(n_values + 1))

    def start(self) -> Moments:
        """Return the second moments that every task starts from."""
        sizes = [shape.numel() for shape in self.shapes.values()]
        *parts, weight = self.values.detach().split([*sizes, 1])
        values = {}
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            ways = (1,) if self._has_ways(name) else ()
            values[name] = part.view(1, *ways, *shape)
        return Moments(values, weight)

    def report(self, moments: Moments, ways: Tensor) -> Tensor:
        """Return zeros to be added to the meta-losses, (T,), for `commit` to find.

        Parameters
        ----------
        moments : Moments
            What tasks have ended with.
        ways : Tensor of shape (T, N)
            Which ways each task has.
        """
        n_tasks = len(ways)
        parts = []
        for name, shape in self.shapes.items():
            value = moments.values[name]
            if self._has_ways(name):
                value = _mean_of_ways(value, ways)
            parts.append(value.expand(n_tasks, *shape).reshape(n_tasks, -1))
        parts.append(self.values.new_ones(n_tasks, 1))
        return torch.cat(parts, 1) @ (self.values - self.values.detach())

    @torch.no_grad()
    def commit(self, n_steps: int) -> None:
        """Take the mean of what tasks have reported since the last time, if any.

        Parameters
        ----------
        n_steps : int
            Steps that tasks have taken.
        """
        gradient, self.values.grad = self.values.grad, None
        if gradient is None or not gradient[-1] > 0:
            return
        kept = BETA**n_steps
        self.values[:-1] = gradient[:-1] / gradient[-1]
        self.values[-1].mul_(kept).add_(1 - kept)

    def _has_ways(self, name: str) -> bool:
        return self.per_way and name.startswith("head.")


def _mean_of_ways(values: Tensor, ways: Tensor) -> Tensor:
    """Return the mean (T, ...) of values (T, N, ...) over the ways of each task."""
    present = ways.to(values.dtype).view(*ways.shape, *[1] * (values.dim() - 2))
    return (values * present).sum(1) / present.sum(1)


def minibatches(
    rows: Rows, size: int | None, n_steps: int, seed: Tensor
) -> Iterator[Rows]:
    """Yield minibatches of every task's rows, one for each step.

    A task's rows come in random order, all of them before one comes again; then in
    another order. Tasks of fewer rows than a minibatch give all of them.

    Parameters
    ----------
    rows : Rows
        x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S).
    size : int or None
        Rows of a minibatch, B; None gives all rows in every step.
    n_steps : int
        Number of minibatches, K.
    seed : Tensor of shape (), int64
        Draws the orders. How rows are padded does not matter.

    Yields
    ------
    Rows
        x (T, B, *F), y (T, B) or (T, B, n_outputs), mask (T, B).
    """
    if size is None or size >= rows.mask.shape[1]:
        for _ in range(n_steps):
            yield rows
        return
    chosen, mask = _chosen_rows(rows.mask, size, n_steps, seed)
    tasks = torch.arange(len(rows), device=chosen.device).unsqueeze(1)
    for index in chosen.unbind(1):
        yield Rows(rows.x[tasks, index], rows.y[tasks, index], mask, rows.n_way)


def _chosen_rows(
    mask: Tensor, size: int, n_steps: int, seed: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the rows of each minibatch, (T, K, B), and which are real, (T, B)."""
    n_tasks, n_rows = mask.shape
    steps = torch.arange(n_steps, device=mask.device).unsqueeze(1)  # (K, 1)
    position = torch.arange(n_rows, device=mask.device)
    keys = random_keys(stream(seed), steps * _PASS + position)  # (passes, S)
    # A real row's key is that of its rank among the real rows.
    rank = mask.cumsum(1).sub(1).clamp(min=0)  # (T, S)
    keys = keys[:, rank].transpose(0, 1).masked_fill(~mask.unsqueeze(1), LAST)
    order = keys.argsort(2)  # (T, passes, S), real rows first

    available = mask.sum(1).view(-1, 1, 1)
    taken = available.clamp(max=size)  # rows of a minibatch
    place = steps * taken + position[:size]  # (T, K, B)
    which = (place // available).clamp(max=n_steps - 1) * n_rows + place % available
    chosen = order.flatten(1).gather(1, which.flatten(1)).view(n_tasks, n_steps, size)
    return chosen, position[:size] < taken.squeeze(1)
