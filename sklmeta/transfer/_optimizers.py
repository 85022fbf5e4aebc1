r"""Inner loops of many steps whose path is not differentiated.

With :math:`g` the gradient of a task's loss by its own weights, stochastic gradient
descent with momentum is

.. math:: m \leftarrow \mu m + g, \qquad \theta \leftarrow \theta - \alpha m,

and Adam is that of arXiv:1412.6980, algorithm 1, with an epsilon of 1e-5 instead of
1e-8: gradients that are 0 but for rounding, as those of biases where classes have as
many rows, would make whole steps otherwise. Both are torch's, for weights that have a
task axis.
"""

from __future__ import annotations

import torch

from sklmeta.gradient.network import TaskWeights

__all__ = ["INNER_OPTIMIZERS", "Adam", "MomentumDescent", "inner_optimizer"]

INNER_OPTIMIZERS = ("adam", "sgd")
MOMENTUM = 0.9
BETAS = (0.9, 0.999)
EPSILON = 1e-5


class MomentumDescent:
    """Gradient descent with momentum.

    Parameters
    ----------
    lr : float
        Step size.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.momentum: TaskWeights = {}

    def step(self, weights: TaskWeights, gradients: TaskWeights) -> TaskWeights:
        """Return new weights; gradients may be written into."""
        for name, gradient in gradients.items():
            before = self.momentum.get(name)
            self.momentum[name] = (
                gradient if before is None else before.mul_(MOMENTUM).add_(gradient)
            )
        return {n: w.sub(self.momentum[n], alpha=self.lr) for n, w in weights.items()}


class Adam:
    """Adam.

    Parameters
    ----------
    lr : float
        Step size.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.n_steps = 0
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def step(self, weights: TaskWeights, gradients: TaskWeights) -> TaskWeights:
        """Return new weights; gradients may be written into."""
        self.n_steps += 1
        first_mass = 1 - BETAS[0] ** self.n_steps
        root_mass = (1 - BETAS[1] ** self.n_steps) ** 0.5
        moved = {}
        for name, weight in weights.items():
            gradient = gradients[name]
            if name not in self.moments:
                zeros = torch.zeros_like(gradient), torch.zeros_like(gradient)
                self.moments[name] = zeros
            first, second = self.moments[name]
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            scale = second.sqrt().div_(root_mass).add_(EPSILON)
            moved[name] = weight.addcdiv(first, scale, value=-self.lr / first_mass)
        return moved


def inner_optimizer(name: str, lr: float) -> Adam | MomentumDescent:
    """Return a fresh optimizer by its name."""
    return Adam(lr) if name == "adam" else MomentumDescent(lr)
