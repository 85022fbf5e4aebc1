"""The torch learner of `sklmeta.closed_form.deep_kernel`, where the method is told."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sklmeta.closed_form._gaussian_process import (
    covariance,
    factored,
    log_density,
    refuse_too_large,
)
from sklmeta.closed_form._kernels import Kernel
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.densities import PredictsDensity, standard_normal
from sklmeta.engine.embedding import EmbeddingLearner, precise
from sklmeta.engine.learner import State, way_mask
from sklmeta.exceptions import MetaTrainingError

__all__ = ["SMALLEST_NOISE", "DeepKernel", "IndefiniteCovariance"]

SMALLEST_NOISE = 1e-6  # variance, of targets with variance 1


class IndefiniteCovariance(MetaTrainingError):
    """A covariance in meta-training has no Cholesky factor.

    `row` is a prepared row of the task.
    """

    def __init__(self, row: Tensor) -> None:
        super().__init__("The covariance of a task is not positive definite.")
        self.row = row


class DeepKernel(PredictsDensity, EmbeddingLearner):
    r"""A Gaussian process on learned features as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    kernel : nn.Module
        With ``kernel(a, b)``, covariances (T, S, Q) of features (T, S, D) and
        (T, Q, D), and ``kernel.diagonal(a)``, variances (T, S).
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    task_type : {"classification", "regression"}, default="regression"
        What outputs are: numbers, or logits.
    noise : float, default=0.1
        Variance of the noise, from which learning starts.
    objective : {"marginal", "predictive"}, default="marginal"
        What meta-training maximises: the density of all rows of an episode, or that of
        the query rows given the support.
    n_means : int, default=0
        How many of the last features are no features but prior means, one for each
        target.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.closed_form import DeepKernel
    >>> from sklmeta.closed_form.deep_kernel import make_kernel
    >>> from sklmeta.engine.batches import Rows
    >>> learner = DeepKernel(torch.nn.Identity(), make_kernel("rbf", 1), n_outputs=1)
    >>> x, y = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [5.0]]])
    >>> state = learner.adapt(Rows(x, y, mask=torch.ones(1, 2).bool()))
    >>> learner.predict(state, torch.zeros(1, 4, 1)).shape
    torch.Size([1, 4, 1])
    """

    kernel: Any

    def __init__(
        self,
        backbone: nn.Module,
        kernel: Kernel | nn.Module,
        n_outputs: int | None,
        *,
        task_type: str = "regression",
        noise: float = 0.1,
        objective: str = "marginal",
        n_means: int = 0,
    ) -> None:
        super().__init__(task_type, backbone, n_outputs)
        self.kernel = kernel
        self.objective = objective
        self.n_means = n_means
        start = math.log(max(noise - SMALLEST_NOISE, SMALLEST_NOISE))
        self.log_noise = nn.Parameter(torch.tensor(start))
        n_constants = 1 if task_type == "classification" else n_outputs or 1
        self.constant = nn.Parameter(torch.zeros(n_constants))

    @property
    def noise(self) -> Tensor:
        """Return the variance of the noise, in double precision where there is one."""
        return precise(self.log_noise).exp() + SMALLEST_NOISE

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the Gaussian process of each task, given its support rows.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "features" (T, S, D), "factor" (T, S, S) of the covariance C of the
            targets, "weights" (T, S, N), which are C^-1 y, and "real" (T, S, 1), 0 for
            padded rows; with labels also "ways" (T, N), True where a way can be
            predicted, and "level" (T, 1, 1), the prior mean. NaN where the covariance
            is not positive definite.
        """
        z, means = self._parted(precise(features))
        factor = self._factor(z, support.mask)
        real = support.mask.unsqueeze(-1).to(z.dtype)
        state = {"features": z, "factor": factor, "real": real}
        if self.task_type == "classification":
            y, present, state["level"] = self._codes(support, z.dtype)
            none = ~support.mask.any(1, keepdim=True)  # then all ways are as likely
            state["ways"] = present | (none & self._possible(support))
        else:
            y = (support.y.to(z.dtype) - self._prior(means, z)) * real
        return {**state, "weights": torch.cholesky_solve(y, factor)}

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return the means of numbers, or logits.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            With `gives_std` (T, Q, 2 * n_outputs). -inf for ways without support rows.
        """
        z, means = self._parted(features.to(state["factor"].dtype))
        cross = self.kernel(state["features"], z) * state["real"]  # (T, S, Q)
        mean = cross.mT @ state["weights"]
        if self.task_type == "regression":
            mean = mean + self._prior(means, z)
            if not self.gives_std:
                return mean.to(features.dtype)
            variance = self._variance(state, cross, z) + self.noise
            return self.outputs(mean, variance.expand_as(mean)).to(features.dtype)
        variance = self._variance(state, cross, z) + self.noise
        logits = self.logits(2 * (mean + state["level"]) / variance)  # equation (4)
        logits = logits.to(features.dtype)
        return logits.masked_fill(~state["ways"].unsqueeze(1), -torch.inf)

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return the negative log density of each episode, a mean over its rows, (T,).

        Of all rows, or with ``objective="predictive"`` of the query given the support,
        which for labels is the cross-entropy.

        Raises
        ------
        IndefiniteCovariance
            If a covariance is not positive definite, whatever the jitter.
        """
        if self.objective == "predictive":
            return self._predictive_loss(episodes)
        support, query = episodes.support, episodes.query
        x = torch.cat([support.x, query.x], 1)
        y, mask = (
            torch.cat([getattr(rows, name) for rows in (support, query)], 1)
            for name in ("y", "mask")
        )
        z, means = self._parted(precise(self.embed(x)))
        factor = self._factor(z, mask)
        _refuse_indefinite(factor, x)
        if self.task_type == "regression":
            targets = (y.to(z.dtype) - self._prior(means, z)) * mask.unsqueeze(-1)
            return -log_density(factor, targets, mask).to(x.dtype)
        codes, ways, _ = self._codes(Rows(x, y, mask, support.n_way), z.dtype)
        return -log_density(factor, codes, mask, ways.sum(-1)).to(x.dtype)

    def draw(
        self,
        state: State,
        x: Tensor,
        n_samples: int,
        generator: torch.Generator,
        noise: bool = True,
    ) -> Tensor:
        """Draw targets of query rows jointly.

        Parameters
        ----------
        state : dict
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)
            Query rows.
        n_samples : int
            How many draws.
        generator : torch.Generator
            On the CPU.
        noise : bool, default=True
            Whether draws are of targets; else of the function.

        Returns
        -------
        Tensor of shape (T, n_samples, Q, n_outputs)
            Numbers, or logits; each draw is one function.
        """
        features = self.embed(x)
        mean = self.predict_features(state, features).unsqueeze(1)
        z, _ = self._parted(features.to(state["factor"].dtype))
        refuse_too_large(self, z, "query rows that are drawn jointly")
        cross = self.kernel(state["features"], z) * state["real"]
        white = torch.linalg.solve_triangular(state["factor"], cross, upper=False)
        factor = factored(self.kernel(z, z) - white.mT @ white).unsqueeze(1)
        shape = (len(x), n_samples, *mean.shape[2:])
        draws = mean + (factor @ standard_normal(shape, generator, z)).to(mean.dtype)
        if not noise:
            return draws
        return draws + self.noise.sqrt() * standard_normal(shape, generator, draws)

    def _predictive_loss(self, episodes: Episodes) -> Tensor:
        """Return the loss of the query rows given the support, (T,)."""
        support, query = episodes.support, episodes.query
        n_support = support.x.shape[1]
        view = self.with_options(gives_std=self.task_type == "regression")
        features = view.embed(torch.cat([support.x, query.x], 1))
        state = view.adapt_features(features[:, :n_support], support)
        _refuse_indefinite(state["factor"], support.x)
        outputs = view.predict_features(state, features[:, n_support:])
        return view.loss(outputs, view.answerable(support, query))

    def _parted(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what the kernel is of, and prior means if features hold any."""
        if not self.n_means:
            return features, None
        return features[..., : -self.n_means], features[..., -self.n_means :]

    def _prior(self, means: Tensor | None, z: Tensor) -> Tensor:
        """Return the prior mean of targets, (n_outputs,) or (T, S, n_outputs)."""
        constant = self.constant.to(z.dtype)
        return constant if means is None else constant + means

    def _factor(self, z: Tensor, mask: Tensor) -> Tensor:
        refuse_too_large(self, z, "rows")
        return factored(covariance(self.kernel(z, z), self.noise, mask))

    def _variance(self, state: State, cross: Tensor, z: Tensor) -> Tensor:
        """Return the posterior variance of the function at query rows, (T, Q, 1)."""
        white = torch.linalg.solve_triangular(state["factor"], cross, upper=False)
        variance = self.kernel.diagonal(z) - white.square().sum(1)
        return variance.clamp(min=0).unsqueeze(-1)

    def _codes(self, rows: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return codes (T, S, N) about the prior mean, which ways occur, that mean.

        Codes are 1 where a row is of a way, else -1; they are 0 in padded rows, and of
        ways that do not occur.
        """
        members = self.members(rows, dtype)  # (T, S, N)
        present = members.sum(1) > 0  # (T, N)
        n_present = present.sum(-1).clamp(min=1)[:, None, None]
        level = 2 / n_present.to(dtype) - 1 + self.constant.to(dtype)
        counts = rows.mask.unsqueeze(-1) & present.unsqueeze(1)
        return torch.where(counts, 2 * members - 1 - level, 0.0), present, level

    def _possible(self, rows: Rows) -> Tensor:
        """Return which ways a task can have, (T, N)."""
        n_ways = self._n_ways(rows)
        if rows.n_way is None:
            return rows.mask.new_ones(len(rows), n_ways)
        return way_mask(rows.n_way, n_ways)


def _refuse_indefinite(factor: Tensor, x: Tensor) -> None:
    """Refuse covariances that have no factor, with a row of the first such task."""
    bad = factor.detach().diagonal(dim1=-2, dim2=-1).isnan().any(-1)
    if bad.any():
        raise IndefiniteCovariance(x[int(bad.int().argmax()), 0].detach().cpu())
