r"""Probabilistic MAML: an initialisation drawn anew wherever the support is ambiguous.

A few support rows may fit several functions. Probabilistic MAML (PLATIPUS) draws the
weights :math:`\theta` that adaptation starts from: from a prior whose mean takes a step
towards the support rows :math:`\mathcal{D}^s`,

.. math:: p(\theta \mid \mathcal{D}^s) = N\bigl(\mu_\theta
          - \gamma_p \nabla_{\mu_\theta} \mathcal{L}(\mu_\theta, \mathcal{D}^s),
          \; \sigma_\theta^2\bigr),

and then adapts each draw by MAML's inner steps,
:math:`\phi = \theta - \alpha \nabla_\theta \mathcal{L}(\theta, \mathcal{D}^s)`, to get
that many networks (algorithm 2). In meta-training draws are from the inference
network, whose mean takes a step towards the query rows :math:`\mathcal{D}^q`,

.. math:: q(\theta \mid \mathcal{D}^q) = N\bigl(\mu_\theta
          - \gamma_q \nabla_{\mu_\theta} \mathcal{L}(\mu_\theta, \mathcal{D}^q),
          \; v_q\bigr),

and :math:`\mu_\theta, \sigma_\theta^2, v_q, \gamma_p, \gamma_q` minimise over tasks
(algorithm 1)

.. math:: \mathbb{E}_q \bigl[ -\log p(\mathcal{D}^q \mid \phi) \bigr]
          + \beta \, \mathrm{KL}\bigl( q(\theta \mid \mathcal{D}^q) \,\Vert\,
          p(\theta \mid \mathcal{D}^s) \bigr).

Deviations from the paper
-------------------------
- Both terms are divided by the number of query rows (and targets of a row), so that
  step sizes do not depend on it.
- Gradient steps lower the mean squared error or the cross-entropy; the likelihood of
  numbers is normal, with a standard deviation that is meta-learned, too.
- :math:`\beta` is a parameter, 1 by default.
- Each step size :math:`\gamma` is one learned number.
- With local labels the ways' output weights start from class means under the drawn
  weights (``head="prototype"``), or all from zero (``head="shared"``), and have no
  density of their own; in the paper they are meta-learned vectors.
- The expectation over q is a mean over `n_train_samples` draws, 1 by default as in the
  paper.
- Validation during training is by the predictive density of query rows, not by the
  bound.

References
----------
Finn, Xu and Levine, "Probabilistic Model-Agnostic Meta-Learning", NeurIPS 2018,
arXiv:1806.02817.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sklmeta._probabilistic import (
    ProbabilisticClassifierMixin,
    ProbabilisticRegressorMixin,
)
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import State
from sklmeta.gradient.inner_rates import InnerRates
from sklmeta.gradient.network import GradientLearner, TaskWeights
from sklmeta.probabilistic._sampled_weights import (
    SampledWeights,
    gaussian_kl,
    in_draws,
    log_stds,
    per_draw,
)
from sklmeta.probabilistic._sampled_weights_estimator import (
    SampledWeightsMetaLearner,
    with_sampling_parameters,
)

__all__ = [
    "ProbabilisticMAML",
    "ProbabilisticMAMLClassifier",
    "ProbabilisticMAMLRegressor",
]


class ProbabilisticMAML(SampledWeights):
    """Probabilistic MAML as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes or targets; None for local labels.
    inner_lr : float, default=0.01
        Step size of the inner loop; what the learned ones start from.
    initial_std : float, default=0.05
        What the standard deviations of weights start from.
    **sampling
        Further parameters: `inner_steps`, `first_order`, `kl_weight`, `n_samples`,
        `n_train_samples`, `noise_tasks`, `seed`; and those of `GradientLearner`.

    Examples
    --------
    Without scikit-learn, on two tasks of five support rows; no row of the third is
    known, so that its networks are draws of the prior:

    >>> import torch
    >>> from sklmeta.backbones import MLP
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.probabilistic import ProbabilisticMAML
    >>> x, mask = torch.linspace(-1, 1, 5).repeat(3, 1), torch.ones(3, 5).bool()
    >>> mask[2] = False
    >>> y = torch.stack([x[0], -x[1], x[2]]).unsqueeze(2)
    >>> support = Rows(x.unsqueeze(2), y, mask)
    >>> generator = torch.Generator().manual_seed(0)
    >>> backbone = MLP(1, (16,), generator=generator)
    >>> learner = ProbabilisticMAML(
    ...     backbone, 16, 1, task_type="regression", n_samples=8, generator=generator
    ... )
    >>> with torch.no_grad():
    ...     state = learner.adapt(support)
    ...     learner.draw(state, support.x, 3, generator, noise=False).shape
    torch.Size([3, 3, 5, 1])
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        inner_lr: float = 0.01,
        initial_std: float = 0.05,
        **sampling: Any,
    ) -> None:
        super().__init__(
            backbone,
            n_features,
            n_outputs,
            inner_lr=inner_lr,
            initial_std=initial_std,
            **sampling,
        )
        self.posterior_log_std = log_stds(self.shapes, initial_std)  # v_q
        self.prior_rate, self.posterior_rate = (
            InnerRates(self.shapes, inner_lr, granularity="shared") for _ in range(2)
        )

    def adapt(self, support: Rows) -> State:
        """Draw initial weights, and take the inner steps from each (algorithm 2).

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
        ways = self.ways(support)
        means = self.prior_means(support, ways)
        noise = self.noise_of_draws(support.x)
        drawn = self.drawn(means, self.stds(self.log_std), noise)
        support, ways = (
            per_draw(support, self.n_samples),
            in_draws(ways, self.n_samples),
        )
        adapted = self._adapted(drawn, support, ways)
        return self.sampled_state(adapted, support, ways, self.n_samples)

    def prior_means(self, support: Rows, ways: Tensor) -> TaskWeights:
        """Return the means of p(theta | support), (T, ...) each."""
        return self._step_of_means(self.prior_rate, support, support, ways)

    def posterior_means(self, episodes: Episodes, ways: Tensor) -> TaskWeights:
        """Return the means of q(theta | query), (T, ...) each."""
        support, query = episodes.support, episodes.query
        return self._step_of_means(self.posterior_rate, support, query, ways)

    def _step_of_means(
        self, rate: InnerRates, support: Rows, rows: Rows, ways: Tensor
    ) -> TaskWeights:
        """Return the means after a step that lowers the loss of `rows`."""
        means = self.means(len(support))
        start = self.started(means, support)
        gradients = self._gradients(start, rows, ways)
        return rate(means, gradients, 0)

    def _adapted(self, drawn: TaskWeights, support: Rows, ways: Tensor) -> TaskWeights:
        """Return weights after the inner steps, each draw for itself."""

        def step(weights: TaskWeights) -> TaskWeights:
            gradients = self._gradients(weights, support, ways)
            return {
                name: weight.sub(gradients[name], alpha=self.inner_lr)
                for name, weight in weights.items()
            }

        weights = self.started(drawn, support)
        for _ in range(self.inner_steps):
            weights = self.take_step(step, weights)
        return weights

    def _gradients(self, weights: TaskWeights, rows: Rows, ways: Tensor) -> TaskWeights:
        create_graph = torch.is_grad_enabled() and not self.first_order
        return self.support_gradients(weights, rows, ways, create_graph=create_graph)

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return what is minimised for each episode, (T,) (algorithm 1, line 11).

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
        means = self.posterior_means(episodes, ways)
        stds = self.stds(self.posterior_log_std)
        noise = self.noise_of_update(len(support))
        n_draws = noise.shape[1]
        drawn = self.drawn(means, stds, noise)
        rows, own_ways = per_draw(support, n_draws), in_draws(ways, n_draws)
        state = self.state(self._adapted(drawn, rows, own_ways), rows, own_ways)
        outputs = GradientLearner.predict(self, state, in_draws(query.x, n_draws))
        losses = self.likelihood_loss(outputs, query, n_draws)
        priors = self.prior_means(support, ways)
        divergence = gaussian_kl(means, stds, priors, self.stds(self.log_std))
        return losses + self.kl_weight * divergence / self.n_numbers(query)


class _ProbabilisticMAMLEstimator(SampledWeightsMetaLearner):
    """What the two faces of probabilistic MAML share."""

    _learner_class = ProbabilisticMAML


@with_sampling_parameters
class ProbabilisticMAMLClassifier(
    ProbabilisticClassifierMixin, _ProbabilisticMAMLEstimator
):
    """Classifier of many networks, adapted from initial weights that are drawn.

    Probabilistic MAML [1]_, called PLATIPUS: where few support rows leave open what
    tells the classes apart, networks that are adapted from different initial weights
    settle on different answers, and `predict_proba` is their mean.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    inner_lr : float, default=0.05
        Step size of the inner loop. Read when adapting; what the learned steps of the
        means start from.

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
    ProbabilisticMAMLRegressor : The same for numbers.
    MAMLClassifier : One network for each task.

    Notes
    -----
    Adapting costs as much as MAML on `n_samples` times as many tasks. `train_loss` is
    the bound that is minimised, `valid_loss` the cross-entropy of held-out query rows.

    References
    ----------
    .. [1] C. Finn, K. Xu, S. Levine, "Probabilistic Model-Agnostic Meta-Learning",
       NeurIPS 2018, arXiv:1806.02817.

    Examples
    --------
    >>> from sklmeta import ProbabilisticMAMLClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = ProbabilisticMAMLClassifier(n_shot=1, max_iter=1, random_state=0)
    >>> new = pool[5:]
    >>> model = meta.fit(pool[:5]).adapt(new.X[:40], new.y[:40])
    >>> model.predict(new.X[40:45]).shape
    (5,)
    """


@with_sampling_parameters
class ProbabilisticMAMLRegressor(
    ProbabilisticRegressorMixin, _ProbabilisticMAMLEstimator
):
    """Regressor of many networks, adapted from initial weights that are drawn.

    Probabilistic MAML [1]_, called PLATIPUS: where few support rows fit several
    functions, networks that are adapted from different initial weights follow different
    ones. `sample_y` draws them, ``predict(X, return_std=True)`` has mean and spread.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    inner_lr : float, default=0.05
        Step size of the inner loop. Read when adapting; what the learned steps of the
        means start from.

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
    ProbabilisticMAMLClassifier : The same for labels.
    MAMLRegressor : One network for each task.

    Notes
    -----
    Adapting costs as much as MAML on `n_samples` times as many tasks. `train_loss` is
    the bound that is minimised, `valid_loss` the negative log density of held-out query
    rows. ``learner_.log_noise`` holds the logarithm of the targets' standard deviation
    about a network, in units of normalised targets.

    References
    ----------
    .. [1] C. Finn, K. Xu, S. Levine, "Probabilistic Model-Agnostic Meta-Learning",
       NeurIPS 2018, arXiv:1806.02817.

    Examples
    --------
    >>> from sklmeta import ProbabilisticMAMLRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(200, random_state=0)
    >>> meta = ProbabilisticMAMLRegressor(max_iter=200, random_state=0)
    >>> new = tasks[150]
    >>> model = meta.fit(tasks[:150]).adapt(new.X[:5], new.y[:5])
    >>> mean, std = model.predict(new.X[5:], return_std=True)
    >>> model.sample_y(new.X[5:], n_samples=4).shape
    (15, 4)
    """
