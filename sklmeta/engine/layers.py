"""Which layer of a module it was: the one running, writing, or not differentiable."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["Seen", "layer_not_twice", "shown_layer", "watch"]


@dataclass
class Seen:
    """What the layers of a module did in a pass.

    Attributes
    ----------
    running : list of str
        Layers that have begun and not ended, the innermost last.
    inputs : dict of str to tuple
        What each layer was last given, without graph.
    writers : list of str
        Layers that changed a tensor they were given, the innermost first.
    """

    running: list[str] = field(default_factory=list)
    inputs: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    writers: list[str] = field(default_factory=list)


def watch(module: nn.Module, run: Callable[[], Any]) -> Seen:
    """Run something that may fail and return what the layers of a module did."""
    seen = Seen()
    with _hooked(module, seen), suppress(Exception):
        run()
    return seen


@contextmanager
def _hooked(module: nn.Module, seen: Seen) -> Iterator[None]:
    handles = []
    for name, layer in module.named_modules():
        begin, end = _hooks(name, seen)
        handles.append(layer.register_forward_pre_hook(begin))
        handles.append(layer.register_forward_hook(end))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(name: str, seen: Seen) -> tuple[Any, Any]:
    versions: list[list[int]] = []

    def begin(layer: nn.Module, args: Any) -> None:
        seen.running.append(name)
        seen.inputs[name] = pytree.tree_map(_detached, args)
        versions.append(_versions(args))

    def end(layer: nn.Module, args: Any, output: Any) -> None:
        seen.running.pop()
        if versions.pop() != _versions(args):
            seen.writers.append(name)

    return begin, end


def _detached(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _versions(args: Any) -> list[int]:
    return [leaf._version for leaf in pytree.tree_leaves(args) if _is_tensor(leaf)]


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def shown_layer(module: nn.Module, name: str) -> str:
    """Return how messages call a layer; the module itself by its class."""
    kind = type(module.get_submodule(name)).__name__
    return f"layer {name!r} ({kind})" if name else f"forward ({kind})"


def layer_not_twice(module: nn.Module, seen: Seen) -> str | None:
    """Return the innermost layer whose gradient has no gradient; None if all have."""
    by_depth = sorted(seen.inputs, key=lambda name: -name.count(".") - bool(name))
    for name in by_depth:
        if _fails_twice(module.get_submodule(name), seen.inputs[name]):
            return name
    return None


def _fails_twice(layer: nn.Module, args: tuple[Any, ...]) -> bool:
    given = pytree.tree_map(_differentiable, args)
    leaves = [t for t in pytree.tree_leaves(given) if _is_tensor(t)]
    layer = copy.deepcopy(layer)
    leaves = [t for t in (*leaves, *layer.parameters()) if t.requires_grad]
    try:
        with torch.enable_grad():
            outputs = [t for t in pytree.tree_leaves(layer(*given)) if _is_tensor(t)]
            total = _total(outputs)
            if total is None or not leaves:
                return False
            first = torch.autograd.grad(
                total, leaves, create_graph=True, allow_unused=True
            )
            total = _total([g for g in first if g is not None])
            if total is not None:
                total.backward()
    except RuntimeError:
        return True
    return False


def _differentiable(leaf: Any) -> Any:
    floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.clone().requires_grad_() if floating else leaf


def _total(values: list[Tensor]) -> Tensor | None:
    """Return what has a gradient in one number; None where nothing has."""
    used = [t.square().sum() for t in values if t.requires_grad]
    return torch.stack(used).sum() if used else None
