"""Lifting a one-task function over a batch of tasks: the one place that decides how.

Nets on rows are vectorised: dense ones as batched matrix products, others by
`torch.vmap`. Convolutions on the CPU run one task after another: with a weight tensor
per task vmap turns them into grouped convolutions, which are slower there than the
loop. Recurrent layers have no batching rule. No algorithm knows which way was taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from sklmeta.engine.attention import plain_attention
from sklmeta.engine.dense import dense_forward, is_dense

__all__ = [
    "TaskFunction",
    "map_module",
    "map_tasks",
    "mapping_method",
    "passing",
    "shares_out_tasks",
    "task_gradients",
    "tasks_per_pass",
]

TaskFunction = Callable[..., Any]


def mapping_method(module: nn.Module, device: torch.device) -> str:
    """Return "loop" or "vmap", whichever suits `module` on `device`."""
    if getattr(module, "tasks_apart", False) or _has_layer(module, nn.RNNBase):
        return "loop"
    convolves = _has_layer(module, _ConvNd)
    return "loop" if convolves and device.type == "cpu" else "vmap"


def _has_layer(module: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(layer, kind) for layer in module.modules())


def tasks_per_pass(module: nn.Module, device: torch.device) -> int | None:
    """Return how many tasks go through forward and backward at once; None for all.

    Where tasks are looped over, one at a time keeps one task's graph in the caches.
    """
    return 1 if mapping_method(module, device) == "loop" else None


def shares_out_tasks(module: nn.Module, device: torch.device) -> bool:
    """Say whether threads that take one task each are faster than one after another.

    So it is with convolutions on the CPU, whose operations last long enough for Python
    not to be what threads wait for.
    """
    convolves = _has_layer(module, _ConvNd)
    return convolves and device.type == "cpu" and tasks_per_pass(module, device) == 1


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

    Raises
    ------
    ValueError
        If torch cannot vectorise what the function does.
    """
    if method == "vmap":
        try:
            return torch.vmap(function, in_dims=in_dims, randomness="different")(*args)
        except RuntimeError as error:
            if not str(error).startswith("vmap:"):
                raise
            raise ValueError(
                "The backbone cannot run on many tasks at once: its forward must not "
                "branch on values of tensors, call .item(), or write into its input. "
                f"torch says: {error}"
            ) from error
    results = [function(*share) for share in _shares(args, in_dims)]
    return pytree.tree_map(_stack, *results)


def map_module(
    module: nn.Module, weights: dict[str, Tensor], x: Tensor, *, method: str
) -> Tensor:
    """Pass every task's rows through a module with that task's weights.

    Parameters
    ----------
    module : torch.nn.Module
    weights : dict of str to Tensor
        Parameters of the module by name, with the task axis first. What is missing is
        the module's own.
    x : Tensor of shape (T, S, *F)
    method : {"loop", "vmap"}
        With "vmap", nets of dense layers are computed as batched matrix products.

    Returns
    -------
    Tensor of shape (T, S, ...)
    """
    if method == "vmap" and x.dim() == 3 and is_dense(module):
        return dense_forward(module, weights, x)

    def forward(own: dict[str, Tensor], rows: Tensor) -> Tensor:
        # A functional call costs as much as a small net, whatever it is given.
        return functional_call(module, own, (rows,)) if own else module(rows)

    with _twice_differentiable(module, x.device):
        return map_tasks(forward, weights, x, in_dims=(0, 0), method=method)


class _WithoutCudnn:
    """Keeps cuDNN off for as long as any thread is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._before = True

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                self._before = torch.backends.cudnn.enabled
                torch.backends.cudnn.enabled = False
            self._n_inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                torch.backends.cudnn.enabled = self._before


_without_cudnn = _WithoutCudnn()


def _twice_differentiable(
    module: nn.Module, device: torch.device
) -> AbstractContextManager[None]:
    """Return the context in which all that a module computes has second derivatives.

    cuDNN's recurrent layers have none, and outside training mode not even first ones.
    """
    if device.type == "cuda" and _has_layer(module, nn.RNNBase):
        return _without_cudnn
    return nullcontext()


@contextmanager
def passing(learner: nn.Module, device: torch.device) -> Iterator[None]:
    """Return the context for passing rows through a learner's backbone.

    Attention has second derivatives there, where the learner needs that, and in
    training with `mixed_precision` the backbone computes in bfloat16; what comes out is
    to be cast to the precision of the rows.
    """
    with ExitStack() as stack:
        if getattr(learner, "plain_attention", False):
            stack.enter_context(plain_attention())
        if getattr(learner, "mixed_precision", False) and learner.training:
            # Casts of weights are not kept: tasks have weights of their own, and one
            # made without a graph must not be found again where there is one.
            stack.enter_context(
                torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
            )
        yield


def task_gradients(
    losses: Callable[[dict[str, Tensor]], Tensor],
    weights: dict[str, Tensor],
    *,
    create_graph: bool,
) -> dict[str, Tensor]:
    """Return the gradient of every task's loss by that task's own weights.

    Tasks share no weights, so the gradient of the sum of their losses holds every
    task's own, and one backward pass computes them all.

    Parameters
    ----------
    losses : callable
        Takes the weights, returns the loss of each task, (T,).
    weights : dict of str to Tensor
        Weights by name, with the task axis first.
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
        gradients = torch.autograd.grad(
            losses(weights).sum(),
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
    leaves, tree = pytree.tree_flatten(mapped)
    for shares in zip(*map(_unstack, leaves), strict=True):
        own = iter(pytree.tree_unflatten(shares, tree))
        yield tuple(
            arg if dim is None else next(own)
            for arg, dim in zip(args, in_dims, strict=True)
        )


# One task, the usual case where tasks are looped over, is taken out of its batch and
# put back by views: gradients need no copies then, and keep their memory layout.


def _unstack(leaf: Tensor) -> Sequence[Tensor]:
    return [leaf.squeeze(0)] if len(leaf) == 1 else leaf.unbind()


def _stack(*leaves: Tensor) -> Tensor:
    return leaves[0].unsqueeze(0) if len(leaves) == 1 else torch.stack(leaves)
