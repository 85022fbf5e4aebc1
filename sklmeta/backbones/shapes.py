"""What rows a module is made for, read off its layers, and how to get there."""

from __future__ import annotations

from contextlib import suppress
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["shape_hint"]

RESIZE = (
    "Resize images to the size that it was made for, beforehand or by a first layer "
    "torch.nn.Upsample(size=(height, width)); or let it take any size, with "
    "torch.nn.AdaptiveAvgPool2d before its linear layers."
)


def shape_hint(module: nn.Module, rows: Tensor) -> str:
    """Return what rows a module seems to be made for, and what to do about it.

    Parameters
    ----------
    module : torch.nn.Module
        One that fails on the rows; it is run again, where layers do not tell.
    rows : Tensor of shape (n, n_features) or (n, channels, height, width)

    Returns
    -------
    str
        Sentences with both shapes; empty where nothing can be read off its layers.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.backbones.shapes import shape_hint
    >>> shape_hint(torch.nn.Linear(5, 2), torch.zeros(2, 3)).split(". ")[0]
    'The backbone (Linear) takes rows of shape (5,), and these have shape (3,)'
    """
    shape = tuple(rows.shape[1:])
    name, layer = _first_with_weights(module)
    if layer is None or len(shape) not in (1, 3):
        return ""
    where = f"Its first layer {name!r}" if name else "The backbone"
    where = f"{where} ({type(layer).__name__})"
    if len(shape) == 1:
        return _of_tables(where, layer, shape[0])
    if isinstance(layer, _ConvNd):
        if layer.in_channels != shape[0]:
            return _of_channels(where, layer.in_channels, shape)
        return _of_sizes(module, rows)
    return _of_flat_rows(where, layer.in_features, shape)


def _first_with_weights(module: nn.Module) -> tuple[str, Any]:
    """Return the first layer whose weights say what it takes; None where none does."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | _ConvNd):
            return name, layer
    return "", None


def _of_tables(where: str, layer: nn.Linear | _ConvNd, n_features: int) -> str:
    if isinstance(layer, _ConvNd):
        return (
            f"{where} takes images of shape ({layer.in_channels}, height, width), and "
            f"rows have shape ({n_features},). Give X as images, of shape (n, height, "
            "width) or (n, height, width, channels), or flat rows with "
            "image_shape=(height, width)."
        )
    if layer.in_features == n_features:
        return ""
    return (
        f"{where} takes rows of shape ({layer.in_features},), and these have shape "
        f"({n_features},). Choose the features that it was made for, or begin with a "
        f"layer that maps one to the other, torch.nn.Linear({n_features}, "
        f"{layer.in_features}); a callable that builds the backbone is given the shape."
    )


def _of_channels(where: str, n_channels: int, shape: tuple[int, ...]) -> str:
    remedy = f"torch.nn.Conv2d({shape[0]}, {n_channels}, 1) as a first layer maps them."
    if shape[0] == 1:
        remedy = (
            f"Repeat the grey channel, X = np.repeat(X.reshape(len(X), {shape[1]}, "
            f"{shape[2]}, 1), {n_channels}, axis=-1); or {remedy}"
        )
    elif n_channels == 1:
        remedy = f"Make the images grey, as X.mean(-1) does; or {remedy}"
    else:
        remedy = f"Choose the channels that it was made for; or {remedy}"
    return (
        f"{where} takes images of shape ({n_channels}, height, width), and these have "
        f"shape {shape}. {remedy}"
    )


def _of_flat_rows(where: str, n_values: int, shape: tuple[int, ...]) -> str:
    text = (
        f"{where} takes rows of shape ({n_values},), and these are images of shape "
        f"{shape}, {prod(shape)} values."
    )
    if n_values == prod(shape):
        return f"{text} Begin the backbone with torch.nn.Flatten()."
    return (
        f"{text} Resize the images to those that it was made for, of {n_values} values "
        "together, and begin the backbone with torch.nn.Flatten() if it does not "
        "flatten them itself."
    )


def _of_sizes(module: nn.Module, rows: Tensor) -> str:
    """Return what to do about images of another height and width."""
    size = tuple(rows.shape[2:])
    name, layer, got = _last_begun(module, rows)
    if isinstance(layer, nn.Linear) and got is not None and got != layer.in_features:
        return (
            f"Its layer {name!r} (Linear) takes {layer.in_features} numbers and gets "
            f"{got} from images of size {size}, which are not those that it was made "
            f"for. {RESIZE}"
        )
    if isinstance(layer, nn.Linear):
        return ""
    return f"Images of size {size} may be too small for it. {RESIZE}"


def _last_begun(
    module: nn.Module, rows: Tensor
) -> tuple[str, nn.Module | None, int | None]:
    """Return the layer that a pass fails in, and how wide its input is."""
    begun: list[tuple[str, nn.Module, int | None]] = []

    def hook(name: str) -> Any:
        def begin(layer: nn.Module, args: tuple[Any, ...]) -> None:
            is_tensor = bool(args) and isinstance(args[0], Tensor)
            width = int(args[0].shape[-1]) if is_tensor and args[0].dim() else None
            begun.append((name, layer, width))

        return begin

    named = list(module.named_modules())
    handles = [one.register_forward_pre_hook(hook(name)) for name, one in named]
    try:
        with suppress(Exception), torch.no_grad():
            module(rows)
    finally:
        for handle in handles:
            handle.remove()
    return begun[-1] if begun else ("", None, None)
