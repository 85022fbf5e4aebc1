r"""Steps of inner loops, as pure functions of every task's weights.

With :math:`g` the gradient of a task's loss by its own weights, plain descent is
:math:`\theta \leftarrow \theta - \alpha g`, and Adam (arXiv:1412.6980) without first
moments, :math:`\beta_1 = 0`,

.. math:: v \leftarrow \beta v + (1 - \beta) g^2, \qquad
          \theta \leftarrow \theta
          - \alpha \frac{g}{\sqrt{v / (1 - \beta^t)} + \epsilon}.

Axes: T tasks, in front of those of each weight.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["adam_step", "sgd_step"]

TaskWeights = dict[str, Tensor]

BETA = 0.999
EPSILON = 1e-8


def sgd_step(weights: TaskWeights, gradients: TaskWeights, lr: float) -> TaskWeights:
    """Return the weights after a step of plain gradient descent.

    Parameters
    ----------
    weights, gradients : dict of str to Tensor
        Of every task, (T, ...) each, by the same names.
    lr : float
        Step size.

    Returns
    -------
    dict of str to Tensor
        New weights.
    """
    return {n: w.sub(gradients[n], alpha=lr) for n, w in weights.items()}


def adam_step(
    weights: TaskWeights,
    gradients: TaskWeights,
    second_moments: TaskWeights,
    n_steps: int,
    lr: float,
) -> tuple[TaskWeights, TaskWeights]:
    """Return weights and second moments after a step of Adam with beta1 = 0.

    Parameters
    ----------
    weights, gradients : dict of str to Tensor
        Of every task, (T, ...) each, by the same names.
    second_moments : dict of str to Tensor
        Running averages of squared gradients, by the same names; none before the
        first step, which takes them for zero.
    n_steps : int
        Steps that `second_moments` have been averaged over.
    lr : float
        Step size.

    Returns
    -------
    weights, second_moments : dict of str to Tensor
        New ones.
    """
    correction = 1 - BETA ** (n_steps + 1)
    moved, moments = {}, {}
    for name, weight in weights.items():
        gradient = gradients[name]
        moment = gradient.square().mul_(1 - BETA)
        if name in second_moments:
            moment.add_(second_moments[name], alpha=BETA)
        scale = moment.div(correction).sqrt_().add_(EPSILON)
        moved[name] = weight.addcdiv(gradient, scale, value=-lr)
        moments[name] = moment
    return moved, moments
