r"""Modulation of a net's channels by a vector: feature-wise linear modulation.

A FiLM layer scales and shifts each channel :math:`h_c` of what it is given by linear
functions of a vector :math:`\phi` [1]_,

.. math:: \mathrm{FiLM}(h)_c = (1 + u_c^\top \phi) \, h_c + v_c^\top \phi,

which leaves everything as it is at :math:`\phi = 0`.

References
----------
.. [1] E. Perez et al., "FiLM: Visual reasoning with a general conditioning layer",
   2018, arXiv:1709.07871.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from sklmeta.backbones.initialization import make_linear
from sklmeta.backbones.normalization import TaskBatchNorm

__all__ = ["FiLM", "insert_film"]

_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class FiLM(nn.Module):
    """Scales and shifts channels by linear functions of a context.

    Parameters
    ----------
    n_context : int
        Length of the context.
    n_channels : int
        Number of channels, C.
    generator : torch.Generator, default=None
        Draws the initial weights.

    Attributes
    ----------
    context : Tensor of shape (n_context,)
        The vector; zero, until `torch.func.functional_call` is given another.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.backbones import FiLM
    >>> layer, x = FiLM(5, n_channels=2), torch.ones(3, 2, 4, 4)
    >>> torch.equal(layer(x), x)
    True
    """

    context: Tensor

    def __init__(
        self,
        n_context: int,
        n_channels: int,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        # No bias: it would do what the normalisation before it does already.
        linear = make_linear(n_context, 2 * n_channels, bias=False, generator=generator)
        self.weight = linear.weight
        self.register_buffer("context", torch.zeros(n_context), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Modulate the channels of a batch (n, C, ...)."""
        scale, shift = F.linear(self.context, self.weight).chunk(2)
        shape = (-1, *[1] * (x.ndim - 2))
        return x * (1 + scale.view(shape)) + shift.view(shape)


class Modulated(nn.Sequential):
    """A layer and the FiLM layer behind it, with the attributes of the layer.

    Nets may read what their layers have, such as `weight`.
    """

    def __getattr__(self, name: str) -> Any:
        """Return an attribute; of the layer, where this has none."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layers = self.__dict__.get("_modules")
            if not layers or name.startswith("_"):
                raise
            return getattr(layers["0"], name)


def insert_film(
    module: nn.Module,
    n_context: int,
    n_features: int,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Put a FiLM layer into a net, in place.

    It comes after the normalisation three quarters of the way through the net's
    normalisations: in the third of four blocks. After a convolution, where there is no
    normalisation; at the end, where there is neither. Normalisation by a task's own
    statistics would undo what comes before it.

    Parameters
    ----------
    module : torch.nn.Module
        Maps rows (n, *F) to features (n, n_features). One that has FiLM layers of its
        own is left alone.
    n_context : int
        Length of the context.
    n_features : int
        Width of the features.
    generator : torch.Generator, default=None
        Draws the layer's initial weights.

    Returns
    -------
    torch.nn.Module
        The net; a new one where the layer came at its end.
    """
    if any(isinstance(layer, FiLM) for layer in module.modules()):
        return module
    place = _place(module)
    if place is None:
        film = FiLM(n_context, n_features, generator=generator)
        return nn.Sequential(module, film)
    layer, n_channels = place
    film = FiLM(n_context, n_channels, generator=generator)
    modulated = Modulated(layer, film)
    if layer is module:
        return modulated
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is layer and parent is not modulated:
                parent._modules[name] = modulated
    return module


def _place(module: nn.Module) -> tuple[nn.Module, int] | None:
    """Return the layer to modulate and its number of channels, if there is one."""
    norms: list[tuple[nn.Module, int]] = []
    convolutions: list[tuple[nn.Module, int]] = []
    for layer in module.modules():
        if isinstance(layer, (TaskBatchNorm, *_INSTANCE_NORMS)):
            norms.append((layer, layer.num_features))
        elif isinstance(layer, nn.GroupNorm):
            norms.append((layer, layer.num_channels))
        elif isinstance(layer, _ConvNd):
            convolutions.append((layer, layer.out_channels))
    layers = norms or convolutions
    return layers[ceil(3 * len(layers) / 4) - 1] if layers else None
