"""Layers initialised from an explicit generator, never from torch's global one.

Torch's layers draw their first weights from the global generator when they are built.
The functions here build them without drawing, then draw from the *same distributions*
with the generator given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch
from torch import nn

from sklmeta.backbones.fused_conv import TaskConv2d

__all__ = [
    "cuda_devices",
    "global_seed",
    "make_conv",
    "make_linear",
    "new_generator",
    "seeded_layers",
]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


_current: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)


def cuda_devices() -> list[int]:
    """Return the GPUs whose global generators may have been drawn from."""
    if not torch.cuda.is_initialized():
        return []
    return list(range(torch.cuda.device_count()))


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed torch's global generators, and put them back as they were at the end."""
    devices = cuda_devices()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(int(seed))
        if devices:
            torch.cuda.manual_seed_all(int(seed))
        yield


@contextmanager
def seeded_layers(seed: int) -> Iterator[None]:
    """Draw layers that are given no generator from one with this seed.

    So a user's function that builds one of our backbones is reproducible, too.
    """
    token = _current.set(torch.Generator().manual_seed(int(seed)))
    try:
        yield
    finally:
        _current.reset(token)


def new_generator() -> torch.Generator:
    """Return the generator of `seeded_layers`, else one that the system seeds."""
    current = _current.get()
    if current is not None:
        return current
    generator = torch.Generator()
    generator.seed()
    return generator


def make_linear(
    in_features: int,
    out_features: int,
    *,
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> nn.Linear:
    """Build a dense layer as `torch.nn.Linear` does, from a generator of its own.

    Parameters
    ----------
    in_features : int
        Number of inputs.
    out_features : int
        Number of outputs.
    bias : bool, default=True
        Whether the layer adds a bias.
    generator : torch.Generator, default=None
        Where the weights are drawn from; None draws different ones every time. The
        global generator is left alone.

    Returns
    -------
    torch.nn.Linear
        The layer, on the CPU.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.backbones.initialization import make_linear
    >>> make_linear(3, 2, generator=torch.Generator().manual_seed(0))
    Linear(in_features=3, out_features=2, bias=True)
    """
    layer = nn.utils.skip_init(nn.Linear, in_features, out_features, bias=bias)
    return _draw(layer, generator)


def make_conv(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> nn.Conv2d:
    """Build a 3x3 convolution as `torch.nn.Conv2d` does, from a generator of its own.

    Parameters
    ----------
    in_channels, out_channels : int
        Number of channels before and after.
    stride : int, default=1
        Step of the filter; the images are padded by one pixel all round.
    bias : bool, default=True
        Whether the layer adds a bias.
    generator : torch.Generator, default=None
        As in `make_linear`.

    Returns
    -------
    TaskConv2d
        The layer, on the CPU; a `torch.nn.Conv2d`.
    """
    layer = nn.utils.skip_init(
        TaskConv2d, in_channels, out_channels, 3, stride=stride, padding=1, bias=bias
    )
    # With its weights channels last, a convolution computes channels last, too.
    layer.weight = nn.Parameter(
        layer.weight.detach().contiguous(memory_format=torch.channels_last)
    )
    return _draw(layer, generator)


def _draw(layer: Layer, generator: torch.Generator | None) -> Layer:
    """Draw U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as torch's `reset_parameters` does."""
    generator = new_generator() if generator is None else generator
    bound = 1 / math.sqrt(layer.weight[0].numel())
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    if layer.bias is not None:
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
