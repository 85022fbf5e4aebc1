r"""Convolutions with a cheap second-order gradient.

A convolution :math:`y = w * x` is linear in either argument, and so is its gradient:

.. math:: dx = w \star g, \qquad dw = x \star g                                     (1)

With :math:`G, U` the gradients by :math:`dx, dw`, the gradients of (1) are

.. math:: \partial g = w * G + U * x, \qquad
          \partial x = U \star g, \qquad \partial w = G \star g                     (2)

The last two are (1) again, with other arguments: one call of the kernel that computed
it. Torch writes them as convolutions whose filters are as large as the images, which on
a CPU take several times as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from sklmeta.backbones.fused import per_channel, transforms_active

__all__ = ["TaskConv2d", "fused_convolution"]

_backward_kernel = torch.ops.aten.convolution_backward.default

Geometry = tuple[Any, ...]
"""Stride, padding, dilation, whether transposed, output padding, groups."""


def fused_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    """Convolve a batch, as `torch.convolution` does.

    Not for use inside the transforms of `torch.func`.

    Parameters
    ----------
    x : Tensor of shape (n, C, ...)
        The batch.
    weight : Tensor
        The filters.
    bias : Tensor or None
        Added per channel.
    geometry : tuple
        Stride, padding, dilation, whether transposed, output padding, groups.

    Returns
    -------
    Tensor
        With right gradients of every order.
    """
    return _Convolution.apply(x, weight, bias, geometry)


class TaskConv2d(nn.Conv2d):
    """A `torch.nn.Conv2d` with a cheap second-order gradient on CPUs.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.backbones.fused_conv import TaskConv2d
    >>> TaskConv2d(1, 4, 3)(torch.zeros(2, 1, 5, 5)).shape
    torch.Size([2, 4, 3, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve images (n, C, H, W)."""
        if isinstance(self.padding, str) or not self._fits_kernel(x):
            return super().forward(x)
        sizes = map(list, (self.stride, self.padding, self.dilation))
        geometry = (*sizes, False, [0, 0], self.groups)
        return fused_convolution(x, self.weight, self.bias, geometry)

    def _fits_kernel(self, x: Tensor) -> bool:
        """Say whether something is gained: where a gradient may be differentiated."""
        return (
            x.ndim == 4
            and x.device.type == "cpu"
            and torch.is_grad_enabled()
            and self.padding_mode == "zeros"
            and not torch.is_autocast_enabled("cpu")
            and not transforms_active()
        )


class _Convolution(Function):
    """A convolution, whose gradient is `_ConvolutionBackward`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        ctx.bias_shape = None if bias is None else list(bias.shape)
        return torch.convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        needed = list(ctx.needs_input_grad[:3])
        compute = (
            _ConvolutionBackward.apply
            if torch.is_grad_enabled() and not transforms_active()
            else _backward_kernel
        )
        return (
            *compute(g, x, weight, ctx.bias_shape, *ctx.geometry, needed),
            None,
        )


class _ConvolutionBackward(Function):
    """Equation (1), whose gradient is equation (2)."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, weight: Tensor, *args: Any) -> Any:
        ctx.save_for_backward(g, x, weight)
        ctx.set_materialize_grads(False)
        ctx.geometry = args[1:7]
        return _backward_kernel(g, x, weight, *args)

    @staticmethod
    def backward(
        ctx: Any,
        grad_dx: Tensor | None,
        grad_dweight: Tensor | None,
        grad_dbias: Tensor | None,
    ) -> Any:
        # Of torch's own operations, whose gradients in turn are torch's.
        g, x, weight = ctx.saved_tensors
        by_g = _sum(
            None
            if grad_dx is None
            else torch.convolution(grad_dx, weight, None, *ctx.geometry),
            None
            if grad_dweight is None
            else torch.convolution(x, grad_dweight, None, *ctx.geometry),
            None if grad_dbias is None else per_channel(grad_dbias, g).expand_as(g),
        )
        wanted = [
            grad_dweight is not None and ctx.needs_input_grad[1],
            grad_dx is not None and ctx.needs_input_grad[2],
            False,
        ]
        by_x = by_weight = None
        if any(wanted):
            by_x, by_weight, _ = _backward_kernel(
                g,
                x if grad_dx is None else grad_dx,
                weight if grad_dweight is None else grad_dweight,
                None,
                *ctx.geometry,
                wanted,
            )
        return by_g, by_x, by_weight, *[None] * 8


def _sum(*terms: Tensor | None) -> Tensor | None:
    """Add what there is."""
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total
