r"""Amortised Bayesian meta-learning: a posterior over weights by a few gradient steps.

The weights :math:`\phi` of a task's network have a normal prior that all tasks share,
:math:`p(\phi \mid \theta) = N(\mu_\theta, \sigma_\theta^2)`. Adapting is variational
inference that starts from the prior and stops after a few steps: the posterior
:math:`q(\phi; \lambda) = N(\mu, \sigma^2)` of a task with support rows
:math:`\mathcal{D}^s` has :math:`\lambda = (\mu, \log \sigma)` after :math:`k` gradient
steps on

.. math:: \mathcal{L}(\lambda; \mathcal{D}^s) = \mathbb{E}_{q(\phi; \lambda)} \bigl[
          -\log p(\mathcal{D}^s \mid \phi) \bigr]
          + \beta \, \mathrm{KL}\bigl( q(\phi; \lambda) \,\Vert\, p(\phi \mid \theta)
          \bigr), \qquad \lambda_0 = (\mu_\theta, \log \sigma_\theta),

and meta-training minimises over tasks, through these steps,

.. math:: \min_\theta \sum_i \mathbb{E}_{q(\phi; \lambda_k)} \bigl[
          -\log p(\mathcal{D}^q_i \mid \phi) \bigr]
          + \beta \, \mathrm{KL}\bigl( q(\phi; \lambda_k) \,\Vert\, p(\phi \mid \theta)
          \bigr).

Without support rows the posterior is the prior. Each task's posterior is one normal:
where probabilistic MAML adapts many draws, each for itself, here the draws move
together, so that distinct explanations of the support are told apart less.

Deviations from the paper
-------------------------
- :math:`\mu_\theta, \sigma_\theta` have no prior of their own; the paper's are N(0, 1),
  and a Gamma prior on precisions.
- The outer likelihood is that of query rows; as we read the paper, of all rows.
- Both terms of both losses are divided by the number of rows (and targets of a row),
  and the inner loss is multiplied by twice the variance of the noise: for one target it
  is then a mean squared error plus a divergence, with step sizes as in MAML.
- A step takes the divergence by :math:`\mu`, which is quadratic, implicitly (a proximal
  step): explicitly it diverges where weights have small :math:`\sigma_\theta`.
- Expectations are over draws of weights that all rows of a task share, without local
  reparameterisation; other draws in the inner loop than for predictions.
- The normal likelihood of numbers has a standard deviation that is meta-learned, too.
- With local labels the ways' output weights start from class means under the mean
  weights (``head="prototype"``), or all from zero (``head="shared"``), and are adapted
  without a density of their own.

References
----------
Ravi and Beatson, "Amortized Bayesian Meta-Learning", ICLR 2019.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sklmeta._probabilistic import (
    ProbabilisticClassifierMixin,
    ProbabilisticRegressorMixin,
)
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import State
from sklmeta.engine.mapping import task_gradients
from sklmeta.gradient.network import GradientLearner, TaskWeights, below
from sklmeta.probabilistic._sampled_weights import (
    SampledWeights,
    gaussian_kl,
    in_draws,
    per_draw,
)
from sklmeta.probabilistic._sampled_weights_estimator import (
    SampledWeightsMetaLearner,
    with_sampling_parameters,
)

__all__ = ["ABML", "ABMLClassifier", "ABMLRegressor"]


class _Posterior(NamedTuple):
    """Normal densities of every task's weights, and heads without a density."""

    means: TaskWeights
    stds: TaskWeights
    heads: TaskWeights


class ABML(SampledWeights):
    """Amortised Bayesian meta-learning as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes or targets; None for local labels.
    **sampling
        Further parameters: `inner_lr`, `inner_steps`, `first_order`, `kl_weight`,
        `n_samples`, `n_train_samples`, `initial_std`, `noise_tasks`, `seed`; and those
        of `GradientLearner`.

    Examples
    --------
    Without scikit-learn, on two tasks of five support rows:

    >>> import torch
    >>> from sklmeta.backbones import MLP
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.probabilistic import ABML
    >>> x, mask = torch.linspace(-1, 1, 5).repeat(2, 1), torch.ones(2, 5).bool()
    >>> y = torch.stack([x[0], -x[1]]).unsqueeze(2)
    >>> support = Rows(x.unsqueeze(2), y, mask)
    >>> generator = torch.Generator().manual_seed(0)
    >>> backbone = MLP(1, (16,), generator=generator)
    >>> learner = ABML(
    ...     backbone, 16, 1, task_type="regression", n_samples=8, generator=generator
    ... )
    >>> with torch.no_grad():
    ...     learner.predict(learner.adapt(support), support.x).shape
    torch.Size([2, 5, 1])
    """

    n_noise_sets = 2  # for the inner loop, and for predictions

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        **sampling: Any,
    ) -> None:
        super().__init__(backbone, n_features, n_outputs, **sampling)

    def adapt(self, support: Rows) -> State:
        """Take the gradient steps on each task's bound, and draw from its posterior.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,).

        Returns
        -------
        dict
            See `SampledWeights.sampled_state`.

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        inner, outer = self.noise_of_draws(support.x).chunk(2, dim=1)
        ways = self.ways(support)
        weights = self.drawn_from(self.posterior(support, ways, inner), outer)
        support, ways = (
            per_draw(support, self.n_samples),
            in_draws(ways, self.n_samples),
        )
        return self.sampled_state(weights, support, ways, self.n_samples)

    def posterior(self, support: Rows, ways: Tensor, noise: Tensor) -> _Posterior:
        """Return q(phi; lambda) after the inner steps.

        Parameters
        ----------
        support : Rows
            Of T tasks.
        ways : Tensor of shape (T, N)
            Which ways each task has.
        noise : Tensor of shape (T, K, n_weights) or (1, K, n_weights)
            Of the draws that expectations are taken over.

        Returns
        -------
        _Posterior
            Means and standard deviations (T, ...) of each weight, and heads.
        """

        def step(weights: TaskWeights) -> TaskWeights:
            return self._step(weights, support, ways, noise)

        n_tasks = len(support)
        means = self.started(self.means(n_tasks), support)
        log_stds = {
            f"log_std.{name}": std.log().expand(n_tasks, *std.shape)
            for name, std in self.stds(self.log_std).items()
        }
        weights = {f"mean.{name}": mean for name, mean in means.items()} | log_stds
        for _ in range(self.inner_steps):
            weights = self.take_step(step, weights)
        return self._posterior_of(weights)

    def _posterior_of(self, weights: TaskWeights) -> _Posterior:
        means, log_stds = below("mean.", weights), below("log_std.", weights)
        heads = {name: w for name, w in means.items() if name not in self.shapes}
        return _Posterior(
            {name: means[name] for name in self.shapes},
            {name: log_stds[name].exp() for name in self.shapes},
            heads,
        )

    def drawn_from(self, posterior: _Posterior, noise: Tensor) -> TaskWeights:
        """Return weights (T * K, ...) of draws of posteriors."""
        drawn = self.drawn(posterior.means, posterior.stds, noise)
        n_draws = noise.shape[1]
        heads = {n: in_draws(head, n_draws) for n, head in posterior.heads.items()}
        return drawn | heads

    def _step(
        self, weights: TaskWeights, support: Rows, ways: Tensor, noise: Tensor
    ) -> TaskWeights:
        """Return lambda after a step that lowers the bound."""
        n_draws = noise.shape[1]
        rows, own_ways = per_draw(support, n_draws), in_draws(ways, n_draws)

        def losses(own: TaskWeights) -> Tensor:
            drawn = self.drawn_from(self._posterior_of(own), noise)
            outputs = self.outputs(drawn, rows.x, own_ways)
            likelihood = self.likelihood_loss(outputs, support, n_draws)
            return self._inner_scale() * likelihood

        create_graph = torch.is_grad_enabled() and not self.first_order
        gradients = task_gradients(losses, weights, create_graph=create_graph)
        pull = self.kl_weight * self._inner_scale() / self.n_numbers(support)  # (T,)
        priors, prior_stds = self.means(len(support)), self.stds(self.log_std)
        stepped = {
            name: weight.sub(gradients[name], alpha=self.inner_lr)
            for name, weight in weights.items()
        }
        for name in self.shapes:
            std, mean, log_std = prior_stds[name], f"mean.{name}", f"log_std.{name}"
            own_pull = self.inner_lr * pull.view(-1, *(1 for _ in std.shape))
            rate = own_pull / std.square()
            stepped[mean] = (stepped[mean] + rate * priors[name]) / (1 + rate)
            ratio = (2 * weights[log_std]).exp() / std.square()
            stepped[log_std] = stepped[log_std] - own_pull * (ratio - 1)
        return stepped

    def _inner_scale(self) -> Tensor | float:
        """Return what the inner loss is multiplied with."""
        if self.log_noise is None:
            return 1.0
        return 2 * (2 * self.log_noise.mean()).exp()

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return what is minimised for each episode, (T,).

        Where no gradients are wanted, it is the negative log density of its query rows.

        Parameters
        ----------
        episodes : Episodes
            Support and query rows of T tasks.

        Returns
        -------
        Tensor of shape (T,)
            The losses.
        """
        if not torch.is_grad_enabled():
            return super().meta_loss(episodes)
        support, query = episodes.support, episodes.query
        ways = self.ways(support)
        inner, outer = self.noise_of_update(len(support)).chunk(2, dim=1)
        posterior = self.posterior(support, ways, inner)
        drawn = self.drawn_from(posterior, outer)
        n_draws = outer.shape[1]
        state = self.state(drawn, per_draw(support, n_draws), in_draws(ways, n_draws))
        outputs = GradientLearner.predict(self, state, in_draws(query.x, n_draws))
        losses = self.likelihood_loss(outputs, query, n_draws)
        means, stds, _ = posterior
        divergence = gaussian_kl(
            means, stds, self.means(len(support)), self.stds(self.log_std)
        )
        return losses + self.kl_weight * divergence / self.n_numbers(query)


class _ABMLEstimator(SampledWeightsMetaLearner):
    """What the two faces of amortised Bayesian meta-learning share."""

    _learner_class = ABML

    def __init__(
        self,
        backbone: Any = None,
        *,
        n_train_samples: int = 4,
        **common: Any,
    ) -> None:
        super().__init__(backbone, n_train_samples=n_train_samples, **common)


@with_sampling_parameters
class ABMLClassifier(ProbabilisticClassifierMixin, _ABMLEstimator):
    """Classifier with a posterior over weights, by a few gradient steps.

    Amortised Bayesian meta-learning [1]_: the weights of a task's network have a normal
    prior, which is meta-learned, and a normal posterior, which `inner_steps` gradient
    steps on the support rows make of it. `predict_proba` is the mean of networks drawn
    from that.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    n_train_samples : int, default=4
        Networks of a task in a meta-update, in its inner loop and for its query rows:
        more make its gradient less noisy.

    inner_lr : float, default=0.05
        Step size of the inner loop. Read when adapting.

    inner_steps : int, default=5
        Gradient steps of the inner loop, in meta-training and when adapting.

    <sampling parameters>

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    ABMLRegressor : The same for numbers.
    ProbabilisticMAMLClassifier : Draws that are adapted each for itself.

    Notes
    -----
    `train_loss` is the bound that is minimised, `valid_loss` the cross-entropy of
    held-out query rows.

    References
    ----------
    .. [1] S. Ravi, A. Beatson, "Amortized Bayesian Meta-Learning", ICLR 2019.

    Examples
    --------
    >>> from sklmeta import ABMLClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = ABMLClassifier(n_shot=1, batch_size=2, max_iter=2, random_state=0)
    >>> new = pool[5:]
    >>> model = meta.fit(pool[:5]).adapt(new.X[:40], new.y[:40])
    >>> model.predict(new.X[40:45]).shape
    (5,)
    """


@with_sampling_parameters
class ABMLRegressor(ProbabilisticRegressorMixin, _ABMLEstimator):
    """Regressor with a posterior over weights, by a few gradient steps.

    Amortised Bayesian meta-learning [1]_: the weights of a task's network have a normal
    prior, which is meta-learned, and a normal posterior, which `inner_steps` gradient
    steps on the support rows make of it. Predictions are the mean and the spread of
    networks drawn from that, and `sample_y` draws them.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    n_train_samples : int, default=4
        Networks of a task in a meta-update, in its inner loop and for its query rows:
        more make its gradient less noisy.

    inner_lr : float, default=0.05
        Step size of the inner loop. Read when adapting.

    inner_steps : int, default=5
        Gradient steps of the inner loop, in meta-training and when adapting.

    <sampling parameters>

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    ABMLClassifier : The same for labels.
    ProbabilisticMAMLRegressor : Draws that are adapted each for itself.

    Notes
    -----
    `train_loss` is the bound that is minimised, `valid_loss` the negative log density
    of held-out query rows.

    References
    ----------
    .. [1] S. Ravi, A. Beatson, "Amortized Bayesian Meta-Learning", ICLR 2019.

    Examples
    --------
    >>> from sklmeta import ABMLRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(200, random_state=0)
    >>> meta = ABMLRegressor(max_iter=20, random_state=0).fit(tasks[:150])
    >>> new = tasks[150]
    >>> model = meta.adapt(new.X[:5], new.y[:5])
    >>> mean, std = model.predict(new.X[5:], return_std=True)
    >>> model.sample_y(new.X[5:], n_samples=4).shape
    (15, 4)
    """
