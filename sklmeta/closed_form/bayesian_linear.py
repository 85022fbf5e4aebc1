r"""ALPaCA: Bayesian linear regression on meta-learned features, with a learned prior.

With the features :math:`\phi` (D,) of a row, its targets are

.. math:: y = K^\top \phi + \epsilon, \qquad \epsilon \sim \mathcal N(0, \Sigma), \qquad
   K \sim \mathcal{MN}(K_0, \Lambda_0^{-1}, \Sigma), \qquad (1)

where the weights K are a task's own, and their prior and the noise what all tasks have
in common. Given support rows :math:`\Phi` (S, D) with targets Y, the posterior is of
the same kind, with

.. math:: \Lambda = \Phi^\top \Phi + \Lambda_0, \qquad
   \bar K = \Lambda^{-1} (\Phi^\top Y + \Lambda_0 K_0), \qquad (2)

and a query row has the density

.. math:: y_* \sim \mathcal N\left(\bar K^\top \phi_*,
   (1 + \phi_*^\top \Lambda^{-1} \phi_*) \Sigma\right). \qquad (3)

Meta-training minimises the negative logarithm of (3) at query rows over the backbone,
:math:`K_0`, the Cholesky factor :math:`L_0` of :math:`\Lambda_0 = L_0 L_0^\top` and
:math:`\Sigma`.

What is solved is (2) for :math:`\psi = L_0^{-1} \phi`, whose prior precision is the
identity: :math:`\Psi^\top \Psi + I` has no eigenvalue below 1, so that its factor
always exists.

Deviations from the paper
-------------------------
- :math:`\Sigma` is diagonal and learned; the paper takes it as known.
- A constant feature stands beside those of the backbone (`fit_intercept`); the last
  layer of the paper's network has no such.
- Episodes have the same number of support rows throughout, unless `n_shot` is a range;
  the paper draws it anew for each task, from 0 to all but one.
- Systems are solved in double precision, where the device has it.
- All support rows are added at once; the paper's recursion over rows gives the same.

References
----------
Harrison, Sharma and Pavone, "Meta-learning priors for efficient online Bayesian
regression", WAFR 2018, arXiv:1807.08912.
"""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from sklmeta._parameters import (
    check_choice,
    check_positive,
    with_common_parameters,
)
from sklmeta._probabilistic import (
    ProbabilisticMetaLearner,
    ProbabilisticParameters,
    ProbabilisticRegressorMixin,
)
from sklmeta.engine.batches import Rows
from sklmeta.engine.densities import PredictsDensity, standard_normal
from sklmeta.engine.embedding import EmbeddingLearner, precise
from sklmeta.engine.learner import State

__all__ = ["BayesianLinearNet", "BayesianLinearNetRegressor"]


class BayesianLinearNet(PredictsDensity, EmbeddingLearner):
    """Bayesian linear regression on learned features as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int
        Number of targets.
    noise : float, default=0.1
        Variance of the noise, from which learning starts.
    prior_precision : float, default=1.0
        Learning starts from this number times the identity.
    fit_intercept : bool, default=True
        Whether there is a constant feature.

    Examples
    --------
    Two points on a line, hardly any noise and a vague prior:

    >>> import torch
    >>> from sklmeta.closed_form import BayesianLinearNet
    >>> from sklmeta.engine.batches import Rows
    >>> learner = BayesianLinearNet(
    ...     torch.nn.Identity(), 1, 1, noise=1e-3, prior_precision=1e-9
    ... )
    >>> x, y = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [5.0]]])
    >>> state = learner.adapt(Rows(x, y, mask=torch.ones(1, 2).bool()))
    >>> round(learner.predict(state, torch.tensor([[[10.0]]])).item(), 3)
    21.0
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int,
        *,
        noise: float = 0.1,
        prior_precision: float = 1.0,
        fit_intercept: bool = True,
    ) -> None:
        super().__init__("regression", backbone, n_outputs)
        self.fit_intercept = fit_intercept
        n_weights = n_features + int(fit_intercept)
        self.prior_mean = nn.Parameter(torch.zeros(n_weights, n_outputs))  # K_0
        # L_0: what is below its diagonal, and the logarithm of that.
        self.prior_factor = nn.Parameter(torch.zeros(n_weights, n_weights))
        start = 0.5 * math.log(prior_precision)
        self.log_prior_diagonal = nn.Parameter(torch.full((n_weights,), start))
        self.log_noise = nn.Parameter(torch.full((n_outputs,), math.log(noise)))

    @property
    def noise(self) -> Tensor:
        """Return the variance of the noise of each target, (n_outputs,)."""
        return precise(self.log_noise).exp()

    @property
    def precision_factor(self) -> Tensor:
        """Return the Cholesky factor of the prior precision, (D, D)."""
        diagonal = precise(self.log_prior_diagonal).exp().diag_embed()
        return precise(self.prior_factor).tril(-1) + diagonal

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the posterior of each task's weights.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S, n_outputs), mask (T, S).

        Returns
        -------
        dict
            In terms of L_0^-1 times the features: "weight" (T, D, n_outputs), the mean
            of the weights, and "factor" (T, D, D) of their precision.
        """
        real = support.mask.unsqueeze(-1)
        psi = self._whitened(features) * real  # (T, S, D)
        prior = self.precision_factor.mT @ precise(self.prior_mean)
        identity = torch.eye(psi.shape[-1], dtype=psi.dtype, device=psi.device)
        factor, _ = torch.linalg.cholesky_ex(psi.mT @ psi + identity)
        surprise = (support.y.to(psi.dtype) - psi @ prior) * real
        weight = prior + torch.cholesky_solve(psi.mT @ surprise, factor)
        return {"weight": weight, "factor": factor}  # equation (2)

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return the mean of each target; with `gives_std` standard deviations too.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, n_outputs) or (T, Q, 2 * n_outputs)
            In the units of the targets given to `adapt`.
        """
        psi = self._whitened(features)
        mean = psi @ state["weight"]
        if not self.gives_std:
            return mean.to(features.dtype)
        white = torch.linalg.solve_triangular(state["factor"], psi.mT, upper=False)
        spread = 1 + white.square().sum(1).unsqueeze(-1)  # equation (3)
        return self.outputs(mean, spread * self.noise).to(features.dtype)

    def draw(
        self,
        state: State,
        x: Tensor,
        n_samples: int,
        generator: torch.Generator,
        noise: bool = True,
    ) -> Tensor:
        """Draw weights, and with them targets of query rows jointly.

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
            Each draw has its own weights.
        """
        psi = self._whitened(self.embed(x)).unsqueeze(1)  # (T, 1, Q, D)
        weight, factor = state["weight"].unsqueeze(1), state["factor"].unsqueeze(1)
        shape = (len(x), n_samples, *weight.shape[2:])
        noise_sd = self.noise.sqrt()
        deviation = torch.linalg.solve_triangular(
            factor.mT, standard_normal(shape, generator, weight), upper=True
        )
        draws = psi @ (weight + deviation * noise_sd)
        if not noise:
            return draws.to(x.dtype)
        errors = standard_normal(tuple(draws.shape), generator, draws)
        return (draws + noise_sd * errors).to(x.dtype)

    def _whitened(self, features: Tensor) -> Tensor:
        """Return L_0^-1 times the features and the constant, (T, S, D)."""
        phi = precise(features)
        if self.fit_intercept:
            phi = torch.cat([phi, phi.new_ones(*phi.shape[:2], 1)], -1)
        factor = self.precision_factor.to(phi.dtype)
        flat = phi.flatten(0, 1)
        white = torch.linalg.solve_triangular(factor, flat.mT, upper=False)
        return white.mT.unflatten(0, phi.shape[:2])


@with_common_parameters
class BayesianLinearNetRegressor(ProbabilisticRegressorMixin, ProbabilisticMetaLearner):
    """Regressor by Bayesian linear regression on meta-learned features.

    ALPaCA [1]_: adapting to a task is Bayesian linear regression on the features of its
    support rows, in closed form. Features, the prior of the weights and the noise are
    what meta-training learns, by the predictive density of the query rows.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    noise : float, default=0.1
        Variance of the noise, from which learning starts.

    prior_precision : float, default=1.0
        Precision of the weights, in units of that of the noise, from which learning
        starts.

    fit_intercept : bool, default=True
        Whether there is a constant feature.

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    RidgeNetRegressor : The same without a learned prior and without uncertainty.
    DeepKernelRegressor : A Gaussian process on learned features.
    sklearn.linear_model.BayesianRidge : One task, and no features.

    Notes
    -----
    Adapting takes time linear in the support rows and cubic in the features, and
    memory linear in the rows. With ``backbone="identity"`` it is a linear mixed model,
    trained by predictive density instead of likelihood.

    References
    ----------
    .. [1] J. Harrison, A. Sharma, M. Pavone, "Meta-learning priors for efficient online
       Bayesian regression", WAFR 2018, arXiv:1807.08912.

    Examples
    --------
    >>> from sklmeta import BayesianLinearNetRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(60, random_state=0)
    >>> meta = BayesianLinearNetRegressor(max_iter=50, random_state=0).fit(tasks[:50])
    >>> new = tasks[50]
    >>> mean, std = meta.adapt(new.X[:5], new.y[:5]).predict(new.X[5:], return_std=True)
    >>> mean.shape, std.shape
    ((15,), (15,))
    """

    _structural_parameters = (
        *ProbabilisticMetaLearner._structural_parameters,
        *("noise", "prior_precision", "fit_intercept"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        noise: float = 0.1,
        prior_precision: float = 1.0,
        fit_intercept: bool = True,
        **common: Unpack[ProbabilisticParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.noise = noise
        self.prior_precision = prior_precision
        self.fit_intercept = fit_intercept

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("noise", self.noise)
        check_positive("prior_precision", self.prior_precision)
        check_choice("fit_intercept", self.fit_intercept, (True, False))

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> BayesianLinearNet:
        assert n_outputs is not None
        return BayesianLinearNet(
            backbone,
            n_features,
            n_outputs,
            noise=self.noise,
            prior_precision=self.prior_precision,
            fit_intercept=self.fit_intercept,
        )
