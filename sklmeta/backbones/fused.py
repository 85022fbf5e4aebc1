r"""Batch normalisation with a fused second-order gradient.

Gradient-based meta-learning differentiates through a gradient. Torch's own second-order
gradient of batch normalisation is many small operations, which on a CPU can take longer
than the convolutions; the one here is a few passes over the rows.

With :math:`\hat x = (x - \mu) r`, :math:`r = (\sigma^2 + \epsilon)^{-1/2}`, means over
the batch written :math:`\langle\cdot\rangle`, and :math:`g` the gradient by :math:`y`:

.. math::

    y &= \gamma \hat x + \beta                                                     (1)

    d\gamma = n \langle g \hat x \rangle, \quad d\beta &= n \langle g \rangle, \quad
    dx = \gamma r (g - \langle g \rangle - \hat x \langle g \hat x \rangle)        (2)

Let :math:`G, U, V` be the gradients by :math:`dx, d\gamma, d\beta`, and
:math:`s = \langle g \hat x \rangle`, :math:`t = \langle G \hat x \rangle`,
:math:`A = \langle G g \rangle - \langle G \rangle \langle g \rangle - t s`,
:math:`a = r (U - \gamma r t)`. Then, each a sum over rows or a combination of rows with
one coefficient per channel,

.. math::

    \partial g &= \gamma r (G - \langle G \rangle) + a \hat x / r + V

    \partial x &= a (g - \langle g \rangle) - \gamma r^2 s (G - \langle G \rangle)
        + (2 \gamma r^2 s t - r s U - \gamma r^2 A) \hat x

    \partial \gamma &= n r A                                                       (3)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

__all__ = ["fused_batch_norm", "moments", "per_channel", "transforms_active"]

_backward_kernel = torch.ops.aten.native_batch_norm_backward.default
# A private name of torch, so asked for with care; see `transforms_active`.
_functorch_active = getattr(torch._C, "_are_functorch_transforms_active", None)


def transforms_active() -> bool:
    """Say whether operations may be under a transform of `torch.func` or a compiler.

    True as well where this torch cannot tell, since fused operations are a matter of
    speed and the plain ones are right everywhere.
    """
    return (
        _functorch_active is None
        or torch.compiler.is_compiling()
        or _functorch_active()
    )


def fused_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise a batch channel by channel with its own statistics.

    Not for use inside the transforms of `torch.func`.

    Parameters
    ----------
    x : Tensor of shape (n, C, ...)
        The batch, of float32 or float64 and on the CPU.
    weight, bias : Tensor of shape (C,)
        Scale and offset of each channel.
    eps : float
        Added to the variance.

    Returns
    -------
    Tensor of shape (n, C, ...)
        The normalised batch, with right gradients of every order.
    """
    return _BatchNorm.apply(x, weight, bias, eps)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each channel, both of shape (C,)."""
    # On a CPU faster than torch.var_mean, and as accurate.
    axes = [0, *range(2, x.ndim)]
    mean = x.mean(axes)
    return mean, (x - per_channel(mean, x)).square().mean(axes)


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """View C values so that they broadcast along the channels of x (n, C, ...)."""
    return values.view(-1, *[1] * (x.ndim - 2))


class _BatchNorm(Function):
    """Equation (1), whose gradient is `_BatchNormBackward`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> Tensor:
        y, mean, rstd = torch.native_batch_norm(
            x, weight, bias, None, None, True, 0.0, eps
        )
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight, mean, rstd = ctx.saved_tensors
        if transforms_active():
            gradients = _plain_backward(g, x, weight, ctx.eps)
        elif torch.is_grad_enabled():
            gradients = _BatchNormBackward.apply(g, x, weight, mean, rstd, ctx.eps)
        else:
            gradients = _fused_backward(g, x, weight, mean, rstd, ctx.eps)
        return (*gradients, None)


class _BatchNormBackward(Function):
    """Equation (2), whose gradient is equation (3)."""

    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        rstd: Tensor,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dx, dweight, dbias = _fused_backward(g, x, weight, mean, rstd, eps)
        ctx.save_for_backward(g, x, weight, mean, rstd, dweight, dbias)
        ctx.eps = eps
        return dx, dweight, dbias

    @staticmethod
    def backward(
        ctx: Any, grad_dx: Tensor, grad_dweight: Tensor, grad_dbias: Tensor
    ) -> tuple[Tensor | None, ...]:
        g, x, weight = ctx.saved_tensors[:3]
        if torch.is_grad_enabled() or transforms_active():
            pullback = torch.func.vjp(
                partial(_plain_backward, eps=ctx.eps), g, x, weight
            )[1]
            gradients = pullback((grad_dx, grad_dweight, grad_dbias))
        else:
            gradients = _second_order(
                grad_dx, grad_dweight, grad_dbias, *ctx.saved_tensors
            )
        return (*gradients, None, None, None)


def _fused_backward(
    g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute equation (2) by torch's kernel."""
    g = _laid_out_as(x, g)
    return _backward_kernel(
        g, x, weight, None, None, mean, rstd, True, eps, [True, True, True]
    )


def _plain_backward(
    g: Tensor, x: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute equation (2) by operations that torch can differentiate and map."""
    axes = [0, *range(2, x.ndim)]
    mean, var = moments(x)
    rstd = torch.rsqrt(var + eps)
    x_hat = (x - per_channel(mean, x)) * per_channel(rstd, x)
    dweight, dbias = (g * x_hat).sum(axes), g.sum(axes)
    n = x.numel() // x.shape[1]
    centred = g - per_channel(dbias / n, x) - x_hat * per_channel(dweight / n, x)
    return per_channel(weight * rstd, x) * centred, dweight, dbias


def _second_order(
    grad_dx: Tensor,
    grad_dweight: Tensor,
    grad_dbias: Tensor,
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    dweight: Tensor,
    dbias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute equation (3): gradients by g, x and the weight."""
    grad_dx = _laid_out_as(x, grad_dx)
    axes = [0, *range(2, x.ndim)]
    n = x.numel() // x.shape[1]
    mean_g, s = dbias / n, dweight / n
    mean_grad = grad_dx.mean(axes)
    t = ((grad_dx * x).mean(axes) - mean * mean_grad) * rstd
    covariance = (grad_dx * g).mean(axes) - mean_g * mean_grad - t * s  # A
    scale = weight * rstd
    a = rstd * (grad_dweight - scale * t)
    by_grad = -scale * rstd * s
    by_x = -rstd * (a * s + by_grad * t + scale * rstd * covariance)

    offset = grad_dbias - scale * mean_grad - a * mean
    by_g = torch.addcmul(per_channel(offset, x), grad_dx, per_channel(scale, x))
    by_g.addcmul_(x, per_channel(a, x))
    offset = -a * mean_g - by_grad * mean_grad - by_x * mean
    out = torch.addcmul(per_channel(offset, x), g, per_channel(a, x))
    out.addcmul_(grad_dx, per_channel(by_grad, x)).addcmul_(x, per_channel(by_x, x))
    return by_g, out, n * rstd * covariance


def _laid_out_as(x: Tensor, other: Tensor) -> Tensor:
    """Copy a tensor where its strides differ: kernels are slow on mixed layouts."""
    if other.stride() == x.stride():
        return other
    return torch.empty_like(x).copy_(other)
