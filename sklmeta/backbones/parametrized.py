"""Layers with parametrizations that can be pickled.

`torch.nn.utils.parametrize` gives each layer a class of its own, made on the spot,
which pickle cannot find again. Here it is made anew when it is read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

__all__ = ["picklable"]


def picklable(module: nn.Module) -> nn.Module:
    """Let a module with parametrizations, as spectral normalisation is, be pickled.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place: its parametrized layers are of other classes, and compute
        the same.

    Returns
    -------
    torch.nn.Module
        The module.

    Examples
    --------
    >>> import pickle
    >>> import torch
    >>> from sklmeta.backbones.parametrized import picklable
    >>> layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(3, 2))
    >>> copied = pickle.loads(pickle.dumps(picklable(layer.eval())))
    >>> torch.equal(copied.weight, layer.weight)
    True
    """
    for layer in module.modules():
        if is_parametrized(layer):
            assert isinstance(layer.parametrizations, nn.ModuleDict)
            base, names = type_before_parametrizations(layer), layer.parametrizations
            layer.__class__ = _parametrized(base, tuple(names))
    return module


def _parametrized(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """Return a class of layers whose tensors come from parametrizations."""

    def reduced(layer: nn.Module, protocol: Any) -> tuple[Any, ...]:
        # The hooks read state dicts of torch's older norms, and cannot be pickled.
        state: dict[str, Any] = layer.__getstate__()
        state = {**state, "_load_state_dict_pre_hooks": OrderedDict()}
        return _empty, (base, names), state

    attributes = {name: _property(name) for name in names}
    return type(
        f"Parametrized{base.__name__}",
        (base,),
        {**attributes, "__reduce_ex__": reduced},
    )


def _empty(base: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    """Return a layer whose attributes are still to come."""
    kind = _parametrized(base, names)
    return kind.__new__(kind)


def _property(name: str) -> property:
    def value(layer: Any) -> Tensor:
        tensor: Tensor = layer.parametrizations[name]()
        return tensor

    def assign(layer: Any, tensor: Tensor) -> None:
        layer.parametrizations[name].right_inverse(tensor)

    return property(value, assign)
