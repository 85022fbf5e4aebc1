"""Dense nets with weights of their own for every task, as batched matrix products.

What `torch.vmap` would compute, with fewer operations to dispatch, which is what nets
on a few rows cost most.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sklmeta.backbones.mlp import MLP

__all__ = ["dense_forward", "is_dense"]

_CHAINS = (nn.Sequential, MLP)
_ELEMENTWISE = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU),
    *(nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh),
)


def is_dense(module: nn.Module) -> bool:
    """Say whether a module is a chain of linear layers and elementwise functions.

    Parameters
    ----------
    module : torch.nn.Module
        Anything but the exact types listed here is not; nor are hooks, weights used
        twice, and layers that write in place, which gradients may not allow.

    Returns
    -------
    bool
    """
    n_weights = sum(1 for _ in module.named_parameters(remove_duplicate=False))
    return n_weights == sum(1 for _ in module.parameters()) and all(
        type(layer) in (*_CHAINS, *_ELEMENTWISE, nn.Linear) and _is_plain(layer)
        for layer in module.modules()
    )


def _is_plain(layer: nn.Module) -> bool:
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    changed = hooked or layer._backward_hooks or "forward" in vars(layer)
    return not (changed or getattr(layer, "inplace", False))


def dense_forward(
    module: nn.Module, weights: Mapping[str, Tensor], x: Tensor, prefix: str = ""
) -> Tensor:
    """Pass every task's rows through the module with that task's weights.

    Parameters
    ----------
    module : torch.nn.Module
        One that `is_dense`.
    weights : mapping of str to Tensor
        The module's parameters by name, with the task axis first. What is missing is
        the module's own.
    x : Tensor of shape (T, S, F)
    prefix : str, default=""
        What the names of weights begin with.

    Returns
    -------
    Tensor of shape (T, S, n_features)
    """
    if isinstance(module, _CHAINS):
        for name, layer in module._modules.items():
            assert layer is not None
            x = dense_forward(layer, weights, x, f"{prefix}{name}.")
        return x
    if not isinstance(module, nn.Linear):
        return module(x)
    weight, bias = weights.get(f"{prefix}weight"), weights.get(f"{prefix}bias")
    if weight is None and bias is None:
        return module(x)
    weight = module.weight.expand(len(x), -1, -1) if weight is None else weight
    own_bias: Tensor | None = module.bias
    if bias is None and own_bias is None:
        return x @ weight.mT
    if bias is None:
        bias = module.bias.expand(len(x), -1)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
