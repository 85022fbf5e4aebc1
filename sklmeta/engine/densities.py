r"""Learners that say how sure they are: predictive densities of numbers, and draws.

A learner of numbers predicts the mean :math:`m` and the standard deviation :math:`s` of
each query target, and is trained on the negative log density

.. math:: -\log \mathcal N(y; m, s^2)
   = \frac{(y - m)^2}{2 s^2} + \log s + \frac{\log 2\pi}{2}.

Classifiers give logits as all learners do. Both have one number that is not trained but
can be fitted on held-out tasks afterwards: what standard deviations are multiplied by,
and logits divided by.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import State
from sklmeta.engine.losses import gaussian_nll

__all__ = ["PredictsDensity", "standard_normal"]


class PredictsDensity:
    """What learners with predictive densities add: named before `Learner` as a base.

    A regression learner ends `predict` (or `predict_features`) in
    ``return self.outputs(mean, variance)``. `gives_std` is an option of views: with it
    standard deviations follow the means along the last axis.
    """

    gives_std: bool = False
    view_options: tuple[str, ...] = ("gives_std",)
    task_type: str
    calibration: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        module: Any = self
        module.register_buffer("calibration", torch.ones(()))

    def outputs(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return what `predict` gives, from moments of shape (T, Q, n_outputs).

        Returns
        -------
        Tensor of shape (T, Q, n_outputs) or (T, Q, 2 * n_outputs)
            Means; with `gives_std`, then standard deviations.
        """
        if not self.gives_std:
            return mean
        return torch.cat([mean, variance.sqrt() * self.calibration], -1)

    def logits(self, logits: Tensor) -> Tensor:
        """Return logits at the temperature that was fitted, 1 unless it was."""
        return logits / self.calibration

    def meta_loss(self: Any, episodes: Episodes) -> Tensor:
        """Return the query loss of each episode after adaptation, (T,).

        Numbers: the mean negative log density; labels: the cross-entropy.
        """
        with_std = self.task_type == "regression"
        view = self.with_options(gives_std=True) if with_std else self
        parent: Any = super(PredictsDensity, view)
        return parent.meta_loss(episodes)

    def loss(self: Any, outputs: Tensor, rows: Rows) -> Tensor:
        """Return the masked loss of outputs with standard deviations, or logits."""
        if self.task_type == "classification":
            parent: Any = super()
            return parent.loss(outputs, rows)
        mean, std = outputs.chunk(2, dim=-1)
        return gaussian_nll(mean, std.square(), rows.y, rows.mask)

    def draw(
        self: Any,
        state: State,
        x: Tensor,
        n_samples: int,
        generator: torch.Generator,
        noise: bool = True,
    ) -> Tensor:
        """Draw targets of query rows jointly; here each by itself, from its normal.

        Parameters
        ----------
        state : State
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)
            Query rows.
        n_samples : int
            How many draws.
        generator : torch.Generator
            On the CPU.
        noise : bool, default=True
            Whether draws are of targets; else of the function behind them.

        Returns
        -------
        Tensor of shape (T, n_samples, Q, n_outputs)
            Not calibrated.
        """
        outputs = self.with_options(gives_std=True).predict(state, x)
        mean, std = outputs.unsqueeze(1).chunk(2, dim=-1)
        shape = (len(x), n_samples, *mean.shape[2:])
        if not noise:
            return mean.expand(shape)
        return mean + std / self.calibration * standard_normal(shape, generator, mean)


def standard_normal(
    shape: tuple[int, ...], generator: torch.Generator, like: Tensor
) -> Tensor:
    """Return standard normal draws, the same ones on every device.

    Parameters
    ----------
    shape : tuple of int
    generator : torch.Generator
        On the CPU.
    like : Tensor
        Whose precision and device they get.

    Returns
    -------
    Tensor of shape `shape`
    """
    draws = torch.randn(shape, generator=generator, dtype=torch.float64)
    return draws.to(like)
