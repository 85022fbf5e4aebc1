"""Inner steps whose graph is not kept: the backward pass computes them again.

Second-order learners differentiate through every inner step and keep the graph of each
until then. A step taken here keeps the weights that it starts from and nothing else;
when the gradient arrives, the step is taken once more with its graph, which is used
and dropped before the step before it (gradient checkpointing, arXiv:1604.06174). Memory
then grows by one set of weights per step, for about one more forward and backward pass
of the inner loop.

`torch.utils.checkpoint` does not fit: it recomputes what is saved inside a function
while that is differentiated, and inner steps differentiate inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

__all__ = ["checkpointed"]

Weights = dict[str, Tensor]


def checkpointed(
    step: Callable[[Weights], Weights],
    weights: Weights,
    parameters: Sequence[Tensor] = (),
    module: nn.Module | None = None,
) -> Weights:
    """Take a step whose graph is made again in the backward pass.

    Parameters
    ----------
    step : callable
        Takes weights by name, and returns new ones under the same names; the same
        every time. It may use random numbers of torch's global generators, and change
        buffers of `module`.
    weights : dict of str to Tensor
    parameters : sequence of Tensor
        Leaf tensors that the step uses besides, and whose gradients are wanted.
    module : torch.nn.Module, default=None
        Whose buffers are as they were before the step when it is taken once more.

    Returns
    -------
    dict of str to Tensor
        What ``step(weights)`` returns, with the same first derivatives. They cannot be
        differentiated in their turn.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.checkpoint import checkpointed
    >>> w = torch.tensor(3.0, requires_grad=True)
    >>> rate = torch.tensor(0.5, requires_grad=True)
    >>> step = lambda own: {"w": own["w"] - rate * own["w"]}
    >>> out = checkpointed(step, {"w": w}, [rate])
    >>> out["w"].backward()
    >>> w.grad, rate.grad
    (tensor(0.5000), tensor(-3.))
    """
    names = list(weights)
    leaves = [p for p in parameters if p.requires_grad]

    def run(values: Sequence[Tensor]) -> list[Tensor]:
        stepped = step(dict(zip(names, values, strict=True)))
        return [stepped[name] for name in names]

    own = list(weights.values())
    found = _Checkpoint.apply(run, module, len(own), *own, *leaves)
    return dict(zip(names, found, strict=True))


class _Checkpoint(Function):
    """A function of its first `n_own` tensors, and of leaves that it knows itself."""

    @staticmethod
    def forward(
        ctx: Any, run: Any, module: Any, n_own: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.run, ctx.leaves = run, tensors[n_own:]
        ctx.save_for_backward(*tensors[:n_own])
        buffers = [] if module is None else _Buffer.all_of(module)
        before = _random_states({t.device for t in tensors})
        with torch.no_grad():
            found = run([t.detach() for t in tensors[:n_own]])
        after = _random_states({t.device for t in tensors})
        drew = any(not torch.equal(after[key], state) for key, state in before.items())
        ctx.random_states = before if drew else {}
        ctx.moved = [buffer for buffer in buffers if buffer.has_moved]
        return tuple(t.detach() for t in found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        needed = ctx.needs_input_grad[3:]
        own = [
            t.detach().requires_grad_(need)
            for t, need in zip(ctx.saved_tensors, needed, strict=False)
        ]
        with torch.enable_grad(), _replayed(ctx.random_states), _put_back(ctx.moved):
            found = ctx.run(own)
        pairs = [
            (y, g) for y, g in zip(found, gradients, strict=True) if y.requires_grad
        ]
        inputs = [t for t in (*own, *ctx.leaves) if t.requires_grad]
        by_input = iter(_gradients(pairs, inputs))
        return (
            *(None, None, None),
            *(next(by_input) if t.requires_grad else None for t in (*own, *ctx.leaves)),
        )


def _gradients(
    pairs: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    if not pairs or not inputs:
        return [None] * len(inputs)
    outputs, gradients = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, inputs, gradients, allow_unused=True)


@dataclass
class _Buffer:
    """A buffer of a module, and a copy of what it was."""

    held_in: dict[str, Tensor | None]
    name: str
    tensor: Tensor
    version: int
    before: Tensor

    @classmethod
    def all_of(cls, module: nn.Module) -> list[_Buffer]:
        return [
            cls(layer._buffers, name, tensor, tensor._version, tensor.detach().clone())
            for layer in module.modules()
            for name, tensor in layer._buffers.items()
            if tensor is not None
        ]

    @property
    def has_moved(self) -> bool:
        # Versions are compared, not values: a GPU would be waited for.
        replaced = self.held_in.get(self.name) is not self.tensor
        return replaced or self.tensor._version != self.version


@contextmanager
def _put_back(moved: Sequence[_Buffer]) -> Iterator[None]:
    """Let buffers be what they were; afterwards they are again what they are.

    They are exchanged, not written into: graphs may hold the tensors.
    """
    now = [buffer.held_in.get(buffer.name) for buffer in moved]
    try:
        for buffer in moved:
            buffer.held_in[buffer.name] = buffer.before.clone()
        yield
    finally:
        for buffer, tensor in zip(moved, now, strict=True):
            buffer.held_in[buffer.name] = tensor


def _random_states(devices: set[torch.device]) -> dict[torch.device | None, Tensor]:
    """Return the states of the global generators, None standing for the CPU."""
    states: dict[torch.device | None, Tensor] = {None: torch.get_rng_state()}
    for device in devices:
        if device.type == "cuda":
            states[device] = torch.cuda.get_rng_state(device)
    return states


@contextmanager
def _replayed(states: dict[torch.device | None, Tensor]) -> Iterator[None]:
    """Draw the same random numbers once more, and leave the generators as they were."""
    if not states:  # it draws none: leave the generators to other threads
        yield
        return
    before = _random_states({device for device in states if device is not None})
    try:
        _set_random_states(states)
        yield
    finally:
        _set_random_states(before)


def _set_random_states(states: dict[torch.device | None, Tensor]) -> None:
    for device, state in states.items():
        if device is None:
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, device)
