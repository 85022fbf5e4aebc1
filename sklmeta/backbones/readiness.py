"""What a module must be for tasks to have weights of their own in it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

__all__ = ["WeightNorm", "check_ready", "copy_of", "twice_differentiable"]

_OLD_NORMS = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")


def check_ready(module: nn.Module) -> None:
    """Refuse modules that cannot be called with other weights, or cannot be called.

    Raises
    ------
    ValueError
        Naming the layer, and what to do.
    """
    _refuse_lazy(module)
    for name, layer in module.named_modules():
        where = f"The backbone's layer {name!r}" if name else "The backbone"
        if isinstance(layer, torch.jit.ScriptModule):
            raise ValueError(
                f"{where} is compiled by torch.jit, and cannot be called with a "
                "task's own weights. Give the Python module that it was made from."
            )
        if hasattr(layer, "_orig_mod"):
            raise ValueError(
                f"{where} is compiled by torch.compile, which makes no second "
                "derivatives. Give the module that it was made from; compile=True of "
                "the estimator compiles the meta-update."
            )
        if any(type(h).__module__ in _OLD_NORMS for h in _hooks(layer)):
            raise ValueError(
                f"{where} ({type(layer).__name__}) has a hook that computes its weight "
                "and keeps it, which cannot be copied. Use torch.nn.utils."
                "parametrizations.weight_norm or spectral_norm instead of those of "
                "torch.nn.utils; in a callable where the estimator is to be pickled, "
                "since torch does not pickle the module that they make."
            )
        if getattr(layer, "max_norm", None) is not None:
            raise ValueError(
                f"{where} ({type(layer).__name__}) has max_norm={layer.max_norm}, and "
                "writes into its weights when it is called. Use max_norm=None."
            )
    _refuse_tensors(module)
    _refuse_hidden_layers(module)


def _refuse_hidden_layers(module: nn.Module) -> None:
    """Refuse layers in lists and dicts, where torch does not find their weights."""
    found = set(module.modules())
    for name, layer in module.named_modules():
        where = f"The backbone's layer {name!r}" if name else "The backbone"
        for attribute, value in vars(layer).items():
            if attribute.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            held = value.values() if isinstance(value, dict) else value
            if any(_has_tensors(one) and one not in found for one in held):
                raise ValueError(
                    f"{where} ({type(layer).__name__}) holds layers in a "
                    f"{type(value).__name__}, {attribute!r}, where torch does not see "
                    "their weights. Use torch.nn.ModuleList or torch.nn.ModuleDict."
                )


def _has_tensors(thing: object) -> bool:
    return isinstance(thing, nn.Module) and bool(thing.state_dict())


def _hooks(layer: nn.Module) -> list[object]:
    return list(layer._forward_pre_hooks.values())


def _refuse_lazy(module: nn.Module) -> None:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"The backbone has lazy layers without weights yet ({', '.join(lazy)}). "
            "Pass one batch through it before, or give a callable that takes the input "
            "shape and builds layers of known sizes."
        )


def _refuse_tensors(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if parameter.is_complex():
            raise ValueError(
                f"The backbone's weight {name!r} is complex ({parameter.dtype}), and "
                "weights must be real: keep real and imaginary parts apart "
                "(torch.view_as_real) and put them together in forward "
                "(torch.view_as_complex)."
            )
        if parameter.is_meta:
            raise ValueError(
                f"The backbone's weight {name!r} is on the meta device and has no "
                "values. Build the module on a device, or give a callable that does."
            )


def copy_of(module: nn.Module) -> nn.Module:
    """Return a deep copy of a user's module.

    Raises
    ------
    ValueError
        If it cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise ValueError(
            f"The backbone, a {type(module).__name__}, cannot be copied "
            f"({type(error).__name__}: {error}). Give a callable that takes the input "
            "shape and builds it."
        ) from error


def twice_differentiable(module: nn.Module) -> nn.Module:
    """Change layers whose gradients torch cannot differentiate, or does wrongly.

    Embeddings have dense gradients: sparse ones have no derivatives. Weight
    normalisation is computed by its formula: the second derivatives of torch's kernel
    are wrong (in 2.6 to 2.13, against finite differences).

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; its weights stay the same.

    Returns
    -------
    torch.nn.Module
        The module.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            layer.sparse = False
        if isinstance(layer, ParametrizationList):
            for name, item in layer.named_children():
                if type(item).__name__ == "_WeightNorm":
                    assert isinstance(item.dim, int)
                    setattr(layer, name, WeightNorm(item.dim))
    return module


class WeightNorm(nn.Module):
    """A weight as its size, slice by slice along an axis, times its direction.

    Parameters
    ----------
    dim : int
        The axis, from behind where negative; -1 for a single size, as with torch.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, size: Tensor, direction: Tensor) -> Tensor:
        """Return the weight."""
        return direction * (size / self._norm(direction))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return size and direction of a weight."""
        return self._norm(weight), weight

    def _norm(self, weight: Tensor) -> Tensor:
        keepdim = self.dim != -1
        kept = self.dim % weight.dim() if keepdim else -1
        others = [axis for axis in range(weight.dim()) if axis != kept]
        return torch.linalg.vector_norm(weight, dim=others, keepdim=keepdim)
