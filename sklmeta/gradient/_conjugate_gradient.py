r"""Conjugate gradients for many small linear systems side by side.

For a symmetric positive definite :math:`A` and :math:`k` steps, the approximate
solution of :math:`A x = b` is the best one, in the norm of :math:`A`, within
:math:`\mathrm{span}\{b, A b, \ldots, A^{k-1} b\}`. Axes: T tasks, P weights.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["conjugate_gradient", "flat", "unflat"]


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, n_steps: int
) -> Tensor:
    """Solve every task's system by itself.

    Tasks stop by themselves: where the residual is down to rounding, and where the
    matrix turns out not to be positive definite, which keeps the solution so far, or
    `b` itself in a first step.

    Parameters
    ----------
    product : callable
        Maps vectors (T, P), one per task, to their products with each task's matrix.
    b : Tensor of shape (T, P)
        Right-hand sides.
    n_steps : int
        Products taken; as many as P solve exactly, but for rounding.

    Returns
    -------
    Tensor of shape (T, P)
        Approximate solutions; `b` itself without steps.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    square = _dot(b, b)  # (T, 1)
    enough = square * torch.finfo(b.dtype).eps ** 2
    moved = torch.zeros_like(square, dtype=torch.bool)
    for _ in range(n_steps):
        image = product(direction)
        curvature = _dot(direction, image)
        goes_on = (square > enough) & (curvature > 0)
        size = torch.where(goes_on, square, 0) / torch.where(goes_on, curvature, 1)
        x = torch.addcmul(x, size, direction)
        residual = torch.addcmul(residual, size, image, value=-1)
        before, square = square, _dot(residual, residual)
        ratio = square / torch.where(goes_on, before, 1)
        # A direction of zeros has no curvature: who stops has stopped for good.
        direction = torch.where(goes_on, residual + ratio * direction, 0)
        moved |= goes_on
    return torch.where(moved, x, b)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each task's vectors, (T, 1)."""
    return (a * b).sum(1, keepdim=True)


def flat(weights: dict[str, Tensor]) -> Tensor:
    """Return every task's weights as one vector, (T, P)."""
    return torch.cat([weight.flatten(1) for weight in weights.values()], 1)


def unflat(vectors: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return vectors (T, P) as weights of the names and shapes of `like`."""
    sizes = [weight[0].numel() for weight in like.values()]
    parts = zip(like.items(), vectors.split(sizes, 1), strict=True)
    return {name: part.view(weight.shape) for (name, weight), part in parts}
