"""Meta-gradients that are not the gradient of the meta-loss: how to hand them over.

Axes: T tasks, in front of those of each weight.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from sklmeta.engine.mapping import task_gradients

__all__ = ["losses_and_gradients", "with_gradients"]

TaskWeights = dict[str, Tensor]


def losses_and_gradients(
    losses: Callable[[TaskWeights], Tensor], weights: TaskWeights
) -> tuple[Tensor, TaskWeights]:
    """Return every task's loss (T,) and its gradients, both without a graph.

    Parameters
    ----------
    losses : callable
        Takes the weights, returns the loss of each task, (T,).
    weights : dict of str to Tensor
        Of every task, (T, ...) each.

    Returns
    -------
    losses : Tensor of shape (T,)
    gradients : dict of str to Tensor
        By each task's own weights; zero for weights not used.
    """
    found: list[Tensor] = []

    def kept(own: TaskWeights) -> Tensor:
        found.append(losses(own))
        return found[0]

    gradients = task_gradients(kept, weights, create_graph=False)
    return found[0].detach(), gradients


def with_gradients(
    losses: Tensor, weights: TaskWeights, gradients: TaskWeights
) -> Tensor:
    """Return `losses` with other gradients: straight through to those that are given.

    Parameters
    ----------
    losses : Tensor of shape (T,)
        What the result is equal to.
    weights : dict of str to Tensor
        Of every task, (T, ...) each, with their graph.
    gradients : dict of str to Tensor
        What the gradient of each task's result by its weights is to be. Weights that
        are not among them get none.

    Returns
    -------
    Tensor of shape (T,)
    """
    total = losses.detach()
    for name, gradient in gradients.items():
        # Zero to the last bit, however large weights and gradients are.
        nothing = weights[name] - weights[name].detach()
        total = total + (nothing * gradient).flatten(1).sum(1)
    return total
