"""Lifting a one-task function over a batch of tasks: the one place that decides how.

Dense nets on rows are vectorised (`torch.vmap`). Convolutions on the CPU run one task
after another: with a weight tensor per task vmap turns them into grouped convolutions,
which were measured up to 1.8 times slower there than the loop. Recurrent layers have
no batching rule. No algorithm knows which way was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

__all__ = [
    "TaskFunction",
    "map_tasks",
    "mapping_method",
    "task_gradients",
    "tasks_per_pass",
]

TaskFunction = Callable[..., Any]


def mapping_method(module: nn.Module, device: torch.device) -> str:
    """Return "loop" or "vmap", whichever suits `module` on `device`."""
    layers = list(module.modules())
    if any(isinstance(layer, nn.RNNBase) for layer in layers):
        return "loop"
    convolves = any(isinstance(layer, _ConvNd) for layer in layers)
    return "loop" if convolves and device.type == "cpu" else "vmap"


def tasks_per_pass(module: nn.Module, device: torch.device) -> int | None:
    """Return how many tasks go through forward and backward at once; None for all.

    Where tasks are looped over, one at a time keeps one task's graph in the caches.
    """
    return 1 if mapping_method(module, device) == "loop" else None


def map_tasks(
    function: TaskFunction,
    *args: Any,
    in_dims: tuple[int | None, ...],
    method: str,
) -> Any:
    """Apply `function` to every task and stack what it returns.

    Parameters
    ----------
    function : callable
        Takes one task's share of `args`, returns a tree of tensors.
    *args : trees of tensors
        With the task axis first where `in_dims` is 0.
    in_dims : tuple of 0 or None
        One entry per argument; None hands the argument whole to every task.
    method : {"loop", "vmap"}

    Returns
    -------
    tree of tensors
        With a leading axis of T tasks.
    """
    if method == "vmap":
        return torch.vmap(function, in_dims=in_dims, randomness="different")(*args)
    results = [function(*share) for share in _shares(args, in_dims)]
    return pytree.tree_map(lambda *leaves: torch.stack(leaves), *results)


def task_gradients(
    loss: TaskFunction,
    weights: dict[str, Tensor],
    *args: Any,
    method: str,
    create_graph: bool,
) -> dict[str, Tensor]:
    """Return the gradient of every task's loss by that task's own weights.

    Only the losses are mapped. Tasks share no weights, so the gradient of their sum
    holds every task's own, and autograd computes it for all at once: faster than
    mapping `torch.func.grad`, and layers with a gradient of their own keep it.

    Parameters
    ----------
    loss : callable
        Takes one task's weights and share of `args`, returns a scalar.
    weights : dict of str to Tensor
        Weights by name, with the task axis first.
    *args : trees of tensors
        With the task axis first.
    method : {"loop", "vmap"}
    create_graph : bool
        Whether the gradients are differentiated in their turn.

    Returns
    -------
    dict of str to Tensor
        Gradients by name, with the task axis first; zero for weights not used.
    """
    with torch.enable_grad():
        weights = {
            name: weight
            if create_graph and weight.requires_grad
            else weight.detach().requires_grad_()
            for name, weight in weights.items()
        }
        in_dims = (0,) * (1 + len(args))
        losses = map_tasks(loss, weights, *args, in_dims=in_dims, method=method)
        gradients = torch.autograd.grad(
            losses.sum(),
            list(weights.values()),
            create_graph=create_graph,
            materialize_grads=True,
        )
    return dict(zip(weights, gradients, strict=True))


def _shares(
    args: tuple[Any, ...], in_dims: tuple[int | None, ...]
) -> Iterator[tuple[Any, ...]]:
    """Yield each task's arguments."""
    mapped = [arg for arg, dim in zip(args, in_dims, strict=True) if dim == 0]
    leaves: list[Tensor] = pytree.tree_leaves(mapped)
    for task in range(len(leaves[0])):
        yield tuple(
            arg if dim is None else pytree.tree_map(lambda leaf, t=task: leaf[t], arg)
            for arg, dim in zip(args, in_dims, strict=True)
        )
