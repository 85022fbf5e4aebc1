r"""Batch normalisation, 2x2 max-pooling and ReLU as one operation for CPUs.

The affine map of a channel, :math:`y = \gamma (z - \mu) r + \beta`, keeps order where
:math:`\gamma > 0` and reverses it where :math:`\gamma < 0`: the largest :math:`y` of
four is that of the largest, or of the smallest :math:`z`. So pooling comes first, and
all that follows it is done on a quarter of the pixels. With :math:`p` those that were
picked, :math:`g` the gradient by their :math:`y` where that is positive, and
:math:`r = (\sigma^2 + \epsilon)^{-1/2}`, equation (2) of `sklmeta.backbones.fused` has
sums over picked pixels only,

.. math::

    d\gamma = \sum g \hat p, \quad d\beta = \sum g, \quad
    dz = P^T \gamma r g + c_0 + c_1 z                                              (1)

with :math:`P^T` putting them back in their places,
:math:`c_1 = -\gamma r^2 d\gamma / n` and
:math:`c_0 = -\gamma r\, d\beta / n - c_1 \mu`. Equation (3) there, the second-order
gradient, changes likewise: its :math:`g` is :math:`P^T g`, and what it gives for
:math:`g` is wanted at the picked pixels only.

Images are kept as rows (n x H x W, C), which is how they lie in memory channels last.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from sklmeta.backbones.fused import moments, per_channel, transforms_active

__all__ = ["extremes", "normalised_blocks"]

_sums_kernel = torch.ops.aten.native_batch_norm_backward.default
_moments_kernel = torch.ops.aten.batch_norm_update_stats.default
_pool_kernel = torch.ops.aten.max_pool2d_with_indices.default
_vjp: Any = torch.func.vjp
_relu_backward = torch.ops.aten.threshold_backward.default


def normalised_blocks(
    z: Tensor, weight: Tensor, bias: Tensor, eps: float, *, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise images by their own statistics, halve them by maxima, cut below 0.

    Not for use inside the transforms of `torch.func`.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W)
        Images of float32 or float64, on the CPU.
    weight, bias : Tensor of shape (C,)
        Scale and offset of each channel.
    eps : float
        Added to the variance.
    pool : bool
        Whether to take the largest of every 2x2 pixels.

    Returns
    -------
    y : Tensor of shape (n, C, H // 2, W // 2), or (n, C, H, W)
        The images, with right gradients of every order.
    mean, var : Tensor of shape (C,)
        The statistics, likewise differentiable; the variance is the biased one.
    """
    z = z.contiguous(memory_format=torch.channels_last)
    return _Block.apply(z, weight, bias, eps, pool)


def extremes(z: Tensor, weight: Tensor | None) -> Tensor:
    """Pick the pixel of every 2x2 that is largest once scaled by the weight.

    Parameters
    ----------
    z : Tensor of shape (n, C, H, W)
    weight : Tensor of shape (C,) or None
        Only its sign matters; None is positive.

    Returns
    -------
    Tensor of shape (n, C, H // 2, W // 2)
    """
    if weight is None or not (weight < 0).any():
        return F.max_pool2d(z, 2)
    sign = per_channel(torch.where(weight < 0, -1.0, 1.0).to(z.dtype), z)
    return F.max_pool2d(z * sign, 2) * sign


def _plain_block(
    z: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same by operations that torch can differentiate and map."""
    mean, var = moments(z)
    scale = weight * torch.rsqrt(var + eps)
    y = (z - per_channel(mean, z)) * per_channel(scale, z) + per_channel(bias, z)
    return (F.max_pool2d(y, 2) if pool else y).relu(), mean, var


class _Saved(NamedTuple):
    """What the forward pass leaves: inputs, statistics, picked pixels and outputs."""

    z: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    rstd: Tensor
    picked: Tensor  # the pixels that pooling picked: all, without pooling
    places: Tensor | None  # where in the memory of z they lie
    y: Tensor


class _Block(Function):
    """The operation, whose gradient is `_BlockBackward`."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, eps: float, pool: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, var = _moments_kernel(z, None, None, 0.0)
        rstd = torch.rsqrt(var + eps)
        picked, places = _picked(z, weight) if pool else (z, None)
        scale = weight * rstd
        offset = torch.addcmul(bias, mean, scale, value=-1)
        y = _images(torch.addcmul(offset, _rows(picked), scale).relu_(), picked)
        ctx.save_for_backward(z, weight, bias, mean, rstd, picked, places, y)
        ctx.set_materialize_grads(False)
        ctx.plain = partial(_plain_block, eps=eps, pool=pool)
        return y, mean, var

    @staticmethod
    def backward(
        ctx: Any, g: Tensor | None, g_mean: Tensor | None, g_var: Tensor | None
    ) -> Any:
        saved = _Saved(*ctx.saved_tensors)
        of_statistics = g_mean is not None or g_var is not None
        differentiable = torch.is_grad_enabled()
        if transforms_active() or (differentiable and of_statistics):
            outputs, pullback = _vjp(ctx.plain, *saved[:3])
            incoming = zip((g, g_mean, g_var), outputs, strict=True)
            gradients = pullback(
                tuple(torch.zeros_like(y) if g is None else g for g, y in incoming)
            )
        elif differentiable:
            gradients = _BlockBackward.apply(g, *saved, ctx.plain)
        else:
            gradients = _first_order(g, saved, g_mean, g_var)[:3]
        return (*gradients, None, None)


class _BlockBackward(Function):
    """Equation (1), whose gradient is `_second_order`."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, *saved_and_plain: Any) -> Any:
        *saved, ctx.plain = saved_and_plain
        dz, dweight, dbias, cut = _first_order(g, _Saved(*saved))
        ctx.save_for_backward(g, cut, dweight, dbias, *saved)
        return dz, dweight, dbias

    @staticmethod
    def backward(
        ctx: Any, grad_dz: Tensor, grad_dweight: Tensor, grad_dbias: Tensor
    ) -> Any:
        g, cut, dweight, dbias, *rest = ctx.saved_tensors
        saved, incoming = _Saved(*rest), (grad_dz, grad_dweight, grad_dbias)
        if torch.is_grad_enabled() or transforms_active():

            def first_order(g: Tensor, z: Tensor, weight: Tensor) -> Any:
                block = partial(ctx.plain, bias=saved.bias)
                (_, *statistics), pullback = _vjp(block, z, weight)
                gradients = pullback((g, *map(torch.zeros_like, statistics)))
                return *gradients, (g * (saved.y > 0)).sum((0, 2, 3))

            _, pullback = _vjp(first_order, g, saved.z, saved.weight)
            gradients = pullback(incoming)
        else:
            gradients = _second_order(*incoming, saved, cut, dweight, dbias)
        return (*gradients, *[None] * 7)


def _first_order(
    g: Tensor | None,
    saved: _Saved,
    g_mean: Tensor | None = None,
    g_var: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute equation (1), and g where y is positive.

    `g_mean` and `g_var` are gradients by the statistics, beyond those through y.
    """
    z, weight, _, mean, rstd, picked, places, y = saved
    g = torch.zeros_like(y) if g is None else g
    cut = _relu_backward(_channels_last(g), y, 0)
    dweight, dbias = _sums(cut, picked, mean, rstd)
    scale, n = weight * rstd, z.numel() // len(weight)
    shared = scale / -n
    c0, c1 = shared * dbias, shared * rstd * dweight
    if g_var is not None:
        c1 = c1 + g_var * (2 / n)
    if g_mean is not None:
        c0 = c0 + g_mean / n
    dz = torch.addcmul(torch.addcmul(c0, c1, mean, value=-1), _rows(z), c1)
    _put_back(dz, _rows(cut), scale, places)
    return _images(dz, z), dweight, dbias, cut


def _second_order(
    grad_dz: Tensor,
    grad_dweight: Tensor,
    grad_dbias: Tensor,
    saved: _Saved,
    cut: Tensor,
    dweight: Tensor,
    dbias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute equation (3) of `sklmeta.backbones.fused`: gradients by g, z, weight."""
    z, weight, _, mean, rstd, picked, places, y = saved
    n = z.numel() // len(weight)
    grad_dz = _channels_last(grad_dz)
    grad, g, mean_g, s = _rows(grad_dz), _rows(cut), dbias / n, dweight / n
    t, mean_grad = (total / n for total in _sums(grad_dz, z, mean, rstd))
    grad_picked = grad
    if places is not None:
        grad_picked = grad.view(-1).index_select(0, places).view(g.shape)
    covariance = (grad_picked * g).sum(0) / n - mean_g * mean_grad - t * s  # A
    scale = weight * rstd
    a = rstd * (grad_dweight - scale * t)
    by_grad = -scale * rstd * s
    by_z = -rstd * (a * s + by_grad * t + scale * rstd * covariance)

    offset = grad_dbias - scale * mean_grad - a * mean
    by_g = torch.addcmul(offset, grad_picked, scale).addcmul_(_rows(picked), a)
    by_g = _relu_backward(_images(by_g, y), y, 0)
    offset = -a * mean_g - by_grad * mean_grad - by_z * mean
    out = torch.addcmul(offset, _rows(z), by_z).addcmul_(grad, by_grad)
    _put_back(out, g, a, places)
    return by_g, _images(out, z), n * rstd * covariance


def _picked(z: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the extremes of 2x2 pixels, and where in memory they lie."""
    picked, places = _pool_kernel(z, [2, 2])
    if weight.numel() and weight.min() < 0:
        below = weight < 0
        least, at = _pool_kernel(-z[:, below], [2, 2])
        picked[:, below], places[:, below] = -least, at
    places = places.mul_(z.shape[1]).add_(_first_places(z.shape))
    return picked, _rows(places).view(-1)


@lru_cache(maxsize=64)
def _first_places(shape: torch.Size) -> Tensor:
    """Return where each image's channels begin in memory, (n, C, 1, 1)."""
    n, n_channels, height, width = shape
    first = torch.arange(n).view(-1, 1) * (height * width * n_channels)
    return (first + torch.arange(n_channels)).view(n, n_channels, 1, 1)


def _put_back(rows: Tensor, g: Tensor, scale: Tensor, places: Tensor | None) -> None:
    """Add `g` times `scale` to the pixels that were picked, in place."""
    if places is None:
        rows.addcmul_(g, scale)
    else:
        rows.view(-1).scatter_add_(0, places, (g * scale).reshape(-1))


def _sums(g: Tensor, z: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Return each channel's sum of g times normalised z, and of g, in one pass."""
    options = True, 0.0, [False, True, True]
    _, weighted, total = _sums_kernel(g, z, rstd, None, None, mean, rstd, *options)
    return weighted, total


def _channels_last(images: Tensor) -> Tensor:
    """Return images in that layout, copied only where they are in another."""
    return _images(_rows(images), images)


def _rows(images: Tensor) -> Tensor:
    """View images, channels last in memory, as (n x H x W, C)."""
    return images.permute(0, 2, 3, 1).contiguous().view(-1, images.shape[1])


def _images(rows: Tensor, like: Tensor) -> Tensor:
    """View rows as images again."""
    n, n_channels, height, width = like.shape
    return rows.view(n, height, width, n_channels).permute(0, 3, 1, 2)
