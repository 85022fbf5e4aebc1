r"""A trust-region step (Schulman et al. 2015, arXiv:1502.05477).

.. math::

    \max_\theta L(\theta) \quad \text{subject to} \quad
    \overline{D}_{KL}(\theta_\text{old}, \theta) \le \delta

by the natural gradient, found by conjugate gradients, and a line search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["trust_region_step"]

N_CONJUGATE_STEPS = 10
DAMPING = 1e-5
N_HALVINGS = 15


def trust_region_step(
    parameters: Sequence[Tensor],
    loss_and_kl: Callable[[], tuple[Tensor, Tensor]],
    max_kl: float,
) -> dict[str, float]:
    """Change parameters in place; they stay as they are where no step helps.

    `loss_and_kl` returns the loss and the mean divergence from where they are now.
    """
    loss, kl = loss_and_kl()
    gradient = _flat(torch.autograd.grad(loss, parameters, retain_graph=True))
    kl_gradient = _flat(torch.autograd.grad(kl, parameters, create_graph=True))

    def curvature(vector: Tensor) -> Tensor:
        product = (kl_gradient * vector).sum()
        rows = torch.autograd.grad(product, parameters, retain_graph=True)
        return _flat(rows) + DAMPING * vector

    direction = _conjugate_gradients(curvature, gradient)
    scale = direction @ curvature(direction)
    step = direction * (2 * max_kl / scale.clamp(min=1e-12)).sqrt()
    return _line_search(parameters, loss_and_kl, step, float(loss.detach()), max_kl)


def _line_search(
    parameters: Sequence[Tensor],
    loss_and_kl: Callable[[], tuple[Tensor, Tensor]],
    step: Tensor,
    before: float,
    max_kl: float,
) -> dict[str, float]:
    start = [p.detach().clone() for p in parameters]
    for halving in range(N_HALVINGS):
        _set(parameters, start, step * 0.5**halving)
        loss, kl = (float(value.detach()) for value in loss_and_kl())
        if loss < before and kl <= max_kl:
            return {"policy_loss": loss, "kl": kl}
    _set(parameters, start, torch.zeros_like(step))
    return {"policy_loss": before, "kl": 0.0}


def _conjugate_gradients(product: Callable[[Tensor], Tensor], target: Tensor) -> Tensor:
    """Return about the solution x of product(x) = target."""
    x = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    size = residual @ residual
    for _ in range(N_CONJUGATE_STEPS):
        if size < 1e-10:
            break
        along = product(direction)
        step = size / (direction @ along)
        x = x + step * direction
        residual = residual - step * along
        size, last = residual @ residual, size
        direction = residual + size / last * direction
    return x


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


@torch.no_grad()
def _set(parameters: Sequence[Tensor], start: Sequence[Tensor], step: Tensor) -> None:
    """Set parameters to where they started, minus a flat step."""
    offset = 0
    for parameter, first in zip(parameters, start, strict=True):
        own = step[offset : offset + first.numel()].view_as(first)
        parameter.copy_(first - own)
        offset += first.numel()
