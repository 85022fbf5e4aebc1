"""From what users give as `backbone` to a module of our own."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from sklmeta.backbones.conv import ConvNet
from sklmeta.backbones.initialization import (
    cuda_devices,
    global_seed,
    seeded_layers,
)
from sklmeta.backbones.mlp import MLP
from sklmeta.backbones.normalization import convert_batch_norm
from sklmeta.backbones.parametrized import picklable
from sklmeta.backbones.readiness import check_ready, copy_of, twice_differentiable
from sklmeta.backbones.shapes import shape_hint

__all__ = ["build_backbone", "call_seeded", "feature_size"]

Factory = Callable[[tuple[int, ...]], nn.Module]

# Factories draw from torch's global generator: one at a time may have it. Who saves its
# state meanwhile would put back that of a factory.
_FACTORY_LOCK = threading.RLock()


def build_backbone(
    backbone: nn.Module | Factory | str | None,
    input_shape: Sequence[int],
    *,
    seed: int,
) -> nn.Module:
    """Build the module that maps rows of one shape to features.

    Torch's global generator is as before afterwards, torch's batch normalisation is
    replaced by `TaskBatchNorm`, and weights are in single precision, as rows are.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None
        A module is copied, weights included. A callable is called with `input_shape`
        and returns a module, its weights drawn under `seed`. "identity" passes the
        flattened rows on. None means `MLP` for rows of numbers, `ConvNet` for images.
    input_shape : tuple of int
        Shape of one row: (n_features,), or (channels, height, width) for images.
    seed : int
        Seed of the first weights. The same seed gives the same weights.

    Returns
    -------
    torch.nn.Module
        The backbone, sharing nothing with what was given.

    Raises
    ------
    TypeError
        If `backbone` is of another type, or the callable returns no module.
    ValueError
        If the shape has no default backbone, or the module is not ready for use.

    Examples
    --------
    >>> from sklmeta.backbones.build import build_backbone, feature_size
    >>> backbone = build_backbone(None, (4,), seed=0)
    >>> feature_size(backbone, (4,))
    64
    """
    shape = _check_shape(input_shape)
    if backbone is None:
        module = _default_backbone(shape, seed)
    elif isinstance(backbone, nn.Module):
        check_ready(backbone)  # some of what is not cannot be copied
        module = copy_of(backbone)
    elif isinstance(backbone, str):
        module = _named_backbone(backbone)
    elif callable(backbone):
        module = _call_factory(backbone, shape, seed)
    else:
        raise TypeError(
            "backbone must be a torch.nn.Module, a callable that takes the input shape "
            f"and returns one, 'identity' or None; got {backbone!r}."
        )
    check_ready(module)
    return convert_batch_norm(picklable(twice_differentiable(module))).float()


def feature_size(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Return how many features a backbone gives for a row.

    Measured by passing two rows of zeros through a copy in evaluation mode.

    Parameters
    ----------
    module : torch.nn.Module
        The backbone. It is left as it is, and so is torch's global generator.
    input_shape : tuple of int
        Shape of one row: (n_features,), or (channels, height, width) for images.

    Returns
    -------
    int
        The number of features.

    Raises
    ------
    ValueError
        If the module fails on such rows, where its layers tell with the shape that it
        is made for and how to get there; or if it returns something else than one
        vector of features for each.
    """
    shape = (2, *_check_shape(input_shape))
    probe, rows = copy.deepcopy(module).eval(), _zeros_like_parameters(module, shape)
    kept = torch.random.fork_rng(devices=cuda_devices())
    with _FACTORY_LOCK, torch.no_grad(), kept:
        try:
            features = probe(rows)
        except Exception as error:
            raise ValueError(
                f"The backbone fails on a batch of shape {shape}, which is two rows of "
                f"shape {shape[1:]}. {shape_hint(probe, rows)}".rstrip(". ")
                + f". {type(error).__name__}: {error}"
            ) from error
    if not isinstance(features, Tensor):
        raise ValueError(
            f"The backbone must return a tensor of shape (2, n_features) for a batch "
            f"of shape {shape}, got {type(features).__name__}."
        )
    if features.ndim != 2 or len(features) != 2 or not features.shape[1]:
        raise ValueError(
            f"The backbone maps a batch of shape {shape} to shape "
            f"{tuple(features.shape)}; expected (2, n_features), one vector of "
            "features for each row. Does it need a torch.nn.Flatten() at its end?"
        )
    return features.shape[1]


def _check_shape(input_shape: Sequence[object]) -> tuple[int, ...]:
    shape = tuple(input_shape)
    sizes = tuple(int(n) for n in shape if isinstance(n, Integral) and int(n) > 0)
    if not sizes or len(sizes) != len(shape):
        raise ValueError(
            f"input_shape must hold one or more positive integers, got {shape!r}."
        )
    return sizes


def _default_backbone(shape: tuple[int, ...], seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(int(seed))
    if len(shape) == 1:
        return MLP(shape[0], generator=generator)
    if len(shape) == 3:
        return ConvNet(shape, generator=generator)
    raise ValueError(
        f"There is no default backbone for rows of shape {shape}: rows of numbers have "
        "shape (n_features,), images (channels, height, width). Give backbone= as a "
        "torch.nn.Module or a callable that takes this shape and returns one."
    )


def _named_backbone(name: str) -> nn.Module:
    if name != "identity":
        raise ValueError(f"The only backbone with a name is 'identity', got {name!r}.")
    return nn.Flatten()


def call_seeded(factory: Callable[[Any], Any], argument: Any, *, seed: int) -> Any:
    """Call a user's function under the seed, with the global generators put back.

    Parameters
    ----------
    factory : callable
    argument : object
        What it takes.
    seed : int
        Of torch's global generators, and of our layers that are given none.

    Returns
    -------
    object
        What it returns.
    """
    with _FACTORY_LOCK, global_seed(seed), seeded_layers(seed):
        return factory(argument)


def _call_factory(factory: Factory, shape: tuple[int, ...], seed: int) -> nn.Module:
    """Call a user's factory under the seed, with the global generators put back."""
    try:
        module = call_seeded(factory, shape, seed=seed)
    except Exception as error:
        raise ValueError(
            f"The callable given as backbone fails on the shape of a row, {shape}, "
            "which it is called with and is to return a module for, as "
            "lambda shape: torch.nn.Linear(*shape, 8) does. It raises "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"The callable given as backbone must return a torch.nn.Module for the "
            f"input shape {shape}, got {type(module).__name__}."
        )
    return module


def _zeros_like_parameters(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return zeros of the dtype and on the device of the module's weights."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.new_zeros(shape)
    return torch.zeros(shape)
