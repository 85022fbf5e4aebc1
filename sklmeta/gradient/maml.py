r"""Model-agnostic meta-learning: an initialisation that a few gradient steps adapt.

For a task with support loss :math:`\mathcal{L}^s` the inner loop takes
:math:`k` steps (equation 1 of the paper)

.. math:: \theta_{j+1} = \theta_j - \alpha \nabla_{\theta_j} \mathcal{L}^s(\theta_j),
          \qquad \theta_0 = \theta,

and the outer loop minimises the query loss of the adapted weights over tasks,
:math:`\min_\theta \sum_i \mathcal{L}^q_i(\theta_k)` (equation 2), differentiating
through the inner steps (second order), or taking
:math:`\nabla_{\theta_k} \mathcal{L}^q` for the meta-gradient (first order).

Three options are those of MAML++ (arXiv:1810.09502, section 4):

- learned inner rates, :math:`\alpha` per layer and step: see
  `sklmeta.gradient.inner_rates`;
- the multi-step loss, :math:`\min_\theta \sum_i \sum_{j=1}^k v_j
  \mathcal{L}^q_i(\theta_j)`, which starts from :math:`v_j = 1/k` and ends with the last
  step alone;
- derivative-order annealing: first order in the first meta-updates, second order in
  the others.

Deviations from the papers
--------------------------
- With local labels the ways' output weights start from class means, which takes any
  number of ways, and not from meta-learned vectors of their own, unless
  ``head="fixed"`` says so: see `sklmeta.gradient.heads`. With ``head="shared"`` they
  start at zero, and the first inner step moves the head alone; the backbone adapts from
  the second step on, so with ``inner_steps=1`` it does not adapt at all.
- Batch normalisation of query rows uses the statistics of the *support* rows, so that
  a prediction depends on no other query row. `transductive=True` uses the statistics
  of the query batch, as the paper's code does.
- The multi-step loss's weights move on with every meta-update, linearly, and reach 0;
  MAML++'s code moves them once an epoch and keeps 0.03 / k for each earlier step until
  they are dropped all at once.

References
----------
Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
Networks", ICML 2017, arXiv:1703.03400.
Antoniou, Edwards and Storkey, "How to train your MAML", ICLR 2019, arXiv:1810.09502.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Progress, State
from sklmeta.episodic import EpisodicRegressorMixin
from sklmeta.gradient._maml_parameters import (
    MAMLParametersBase,
    with_maml_parameters,
)
from sklmeta.gradient.inner_rates import (
    InnerRates,
    check_one_per_step,
    rate_of_step,
    rate_shapes,
)
from sklmeta.gradient.network import GradientLearner, TaskWeights

__all__ = ["MAML", "MAMLClassifier", "MAMLRegressor"]


class MAML(GradientLearner):
    """MAML as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes or targets; None for local labels.
    inner_lr : float or sequence of float, default=0.01
        Step size of the inner loop, or one for each step; where rates are learned,
        what they start from.
    inner_steps : int, default=1
        Gradient steps of the inner loop.
    first_order : bool, default=False
        Leave out the second derivatives.
    second_order_from : int, default=0
        The first meta-update with second derivatives, by `progress`.
    learn_inner_lr : {False, "shared", "layer", "parameter"}, default=False
        Whether inner rates are learned: one for all weights, one per weight tensor, or
        one per weight.
    inner_lr_per_step : bool, default=False
        Whether every step has learned rates of its own.
    multi_step_loss : int, default=0
        Meta-updates in which query losses after earlier steps count too, by `progress`.
    **network
        Further parameters of `GradientLearner`: `task_type`, `head`, `n_ways`,
        `transductive`, `generator`.

    Examples
    --------
    Without scikit-learn, on two tasks of five support and ten query rows:

    >>> import torch
    >>> from sklmeta.backbones import MLP
    >>> from sklmeta.engine.batches import Episodes, Rows
    >>> from sklmeta.gradient import MAML
    >>> x, mask = torch.linspace(-1, 1, 15).repeat(2, 1), torch.ones(2, 15).bool()
    >>> x, y = x.unsqueeze(2), torch.stack([x[0], -x[1]]).unsqueeze(2)
    >>> support = Rows(x[:, ::3], y[:, ::3], mask[:, ::3])
    >>> query = Rows(x[:, 1:11], y[:, 1:11], mask[:, 1:11])
    >>> generator = torch.Generator().manual_seed(0)
    >>> backbone = MLP(1, (16,), generator=generator)
    >>> learner = MAML(
    ...     backbone, 16, 1, task_type="regression", inner_lr=0.1, generator=generator
    ... )
    >>> optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    >>> losses = []
    >>> for _ in range(50):
    ...     optimizer.zero_grad()
    ...     loss = learner.meta_loss(Episodes(support, query)).mean()
    ...     loss.backward()
    ...     optimizer.step()
    ...     losses.append(loss.item())
    >>> losses[-1] < losses[0] / 2
    True
    >>> with torch.no_grad():
    ...     learner.predict(learner.adapt(support), query.x).shape
    torch.Size([2, 10, 1])
    """

    adaptation_options: tuple[str, ...] = ("inner_lr", "inner_steps")
    importance: Tensor | None  # of the query loss after each step; None of the last

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        inner_lr: float | Sequence[float] = 0.01,
        inner_steps: int = 1,
        first_order: bool = False,
        second_order_from: int = 0,
        learn_inner_lr: str | bool = False,
        inner_lr_per_step: bool = False,
        multi_step_loss: int = 0,
        **network: Any,
    ) -> None:
        super().__init__(backbone, n_features, n_outputs, **network)
        check_one_per_step(inner_lr, inner_steps)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.second_order_from = second_order_from
        self.multi_step_loss = multi_step_loss
        self.inner_rates: InnerRates | None = None
        if learn_inner_lr:
            self.adaptation_options = ("inner_steps",)
            self.inner_rates = InnerRates(
                rate_shapes(self),
                inner_lr,
                granularity=str(learn_inner_lr),
                n_steps=inner_steps if inner_lr_per_step else 1,
            )
        self.register_buffer("importance", None, persistent=False)
        self.progress = Progress()

    def adapt(self, support: Rows) -> State:
        """Take the inner gradient steps on each task's support rows.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,).

        Returns
        -------
        dict
            See `GradientLearner.state`.

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        ways = self.ways(support)
        # One after the other: all together they would fill the memory.
        (weights,) = deque(self._trajectory(support, ways), maxlen=1)
        return self.state(weights, support, ways)

    def _trajectory(self, support: Rows, ways: Tensor) -> Iterator[TaskWeights]:
        """Yield every task's weights before the first and after every inner step."""
        weights = self.initial_weights(support)
        yield weights
        for step in range(self.inner_steps):

            def take(own: TaskWeights, step: int = step) -> TaskWeights:
                create_graph = torch.is_grad_enabled() and self._is_second_order
                gradients = self.support_gradients(
                    own, support, ways, create_graph=create_graph
                )
                return self._stepped(own, gradients, step)

            weights = self.take_step(take, weights)
            yield weights

    def _stepped(
        self, weights: TaskWeights, gradients: TaskWeights, step: int
    ) -> TaskWeights:
        """Return weights after a step: equation (1)."""
        if self.inner_rates is not None:
            return self.inner_rates(weights, gradients, step)
        rate = rate_of_step(self.inner_lr, step)
        return {
            name: weight.sub(gradients[name], alpha=rate)
            for name, weight in weights.items()
        }

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return the loss of each episode's query rows after adaptation, (T,).

        While the multi-step loss is annealed, meta-training gets the weighted mean of
        the losses after every inner step.

        Parameters
        ----------
        episodes : Episodes
            Support and query rows of T tasks.

        Returns
        -------
        Tensor of shape (T,)
            The losses.
        """
        if self.importance is None or not torch.is_grad_enabled():
            return super().meta_loss(episodes)
        support, query = episodes.support, episodes.query
        ways = self.ways(support)
        _, *adapted = self._trajectory(support, ways)
        losses = [
            self.loss(self.predict(self.state(weights, support, ways), query.x), query)
            for weights in adapted
        ]
        return (self.importance.unsqueeze(1) * torch.stack(losses)).sum(0)

    # What changes during meta-training -------------------------------------------

    @property
    def _is_second_order(self) -> bool:
        return not self.first_order and self._progress.n_done >= self.second_order_from

    @property
    def stage(self) -> Hashable:
        """Return what tells apart meta-updates of different operations."""
        return self._is_second_order, self.importance is None

    def at_full_cost(self) -> Self:
        """Return a view that takes second derivatives from the first meta-update on."""
        view = super().at_full_cost()
        view.second_order_from = 0
        return view

    @property
    def progress(self) -> Progress:
        """How far meta-training has come; set by it before every meta-update."""
        return self._progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self._progress = progress
        left = self.multi_step_loss - progress.n_done
        if left <= 0 or self.inner_steps < 2:
            self.importance = None
            return
        weight = next(self.parameters())
        found = step_importance(self.inner_steps, left / self.multi_step_loss)
        found = found.to(weight)
        if self.importance is None or self.importance.shape != found.shape:
            self.importance = found
        else:
            self.importance.copy_(found)  # in place: see `Learner.stage`


def step_importance(n_steps: int, left: float) -> Tensor:
    r"""Return what the query loss after each inner step counts in the multi-step loss.

    Parameters
    ----------
    n_steps : int
        Inner steps, :math:`k`.
    left : float
        Share of the annealing that is to come, :math:`s`, from 1 to 0.

    Returns
    -------
    Tensor of shape (n_steps,)
        :math:`v_j = s / k` for :math:`j < k`, and :math:`v_k = 1 - s (k - 1) / k`.
    """
    importance = torch.full((n_steps,), left / n_steps, dtype=torch.float64)
    importance[-1] = 1 - left * (n_steps - 1) / n_steps
    return importance


class _MAMLEstimator(MAMLParametersBase):
    """What the two faces of MAML share."""

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> MAML:
        return MAML(
            backbone,
            n_features,
            n_outputs,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            first_order=self.first_order,
            second_order_from=self.second_order_from,
            learn_inner_lr=self.learn_inner_lr,
            inner_lr_per_step=self.inner_lr_per_step,
            multi_step_loss=self.multi_step_loss,
            **self._network_options(n_features, n_outputs, n_ways),
            generator=generator,
        )


@with_maml_parameters
class MAMLClassifier(MetaClassifierMixin, _MAMLEstimator):
    """Classifier that adapts by a few gradient steps from a meta-learned start.

    Model-agnostic meta-learning [1]_: the weights from which `inner_steps` gradient
    steps on a new task's support rows predict its other rows best. Works with labels
    that mean the same in every task, and with labels that mean something only inside
    one (any number of ways).

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    <maml parameters>

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    MAMLRegressor : The same for numbers.
    ProtoNetClassifier : Adapts by class means, without gradient steps.

    Notes
    -----
    Learned step sizes are in ``learner_.inner_rates``; its `by_name` returns them.

    The cost of a meta-update grows with `batch_size` times `inner_steps`. For images on
    a CPU start with ``inner_steps=1``, ``batch_size=4`` and a backbone that strides
    instead of pooling (``ConvNet(shape, downsample="stride")``).

    Its memory grows in proportion to the tasks that are taken at once, to their rows
    and, as long as second derivatives are taken, to `inner_steps`: every step keeps its
    graph. `memory_limit` bounds the tasks taken at once. With ``checkpoint_steps=True``
    a step adds one set of weights per task instead of its graph, for up to twice the
    time: 20 steps on images took 6 MB instead of 51 MB in 1.4 times the time, while
    narrow nets on few rows save little. ``first_order=True`` keeps no graph; ANIL's
    holds the head alone, and the memory of implicit MAML does not grow with the steps.

    The paper's recipe for Omniglot, 5-way: ``inner_lr=0.4, inner_steps=1`` and 3 steps
    when adapting, ``batch_size=32``, ``outer_lr=1e-3``, 60,000 meta-updates,
    ``head="fixed"``, ``transductive=True`` and a strided ``ConvNet``; 20-way
    ``inner_lr=0.1``, 5 steps, ``batch_size=16``. The defaults here are made for tables
    of a few hundred tasks and runs of a minute.

    References
    ----------
    .. [1] C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast
       Adaptation of Deep Networks", ICML 2017, arXiv:1703.03400.

    .. [2] A. Antoniou, H. Edwards, A. Storkey, "How to train your MAML", ICLR 2019,
       arXiv:1810.09502.

    Examples
    --------
    >>> from sklmeta import MAMLClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = MAMLClassifier(n_shot=1, max_iter=3, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """


@with_maml_parameters
class MAMLRegressor(EpisodicRegressorMixin, _MAMLEstimator):
    """Regressor that adapts by a few gradient steps from a meta-learned start.

    Model-agnostic meta-learning [1]_: the weights from which `inner_steps` gradient
    steps on a new task's support rows predict its other rows best.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    <maml parameters>

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    MAMLClassifier : The same for labels.

    Notes
    -----
    Learned step sizes are in ``learner_.inner_rates``; its `by_name` returns them.

    The paper's recipe for sinusoids: two hidden layers of 40, ``inner_lr=0.01``,
    ``inner_steps=1``, ``batch_size=25``, ``outer_lr=1e-3``, 70,000 meta-updates, rows
    and targets as they are (``normalize_x=False, normalize_y=False``).

    References
    ----------
    .. [1] C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast
       Adaptation of Deep Networks", ICML 2017, arXiv:1703.03400.

    .. [2] A. Antoniou, H. Edwards, A. Storkey, "How to train your MAML", ICLR 2019,
       arXiv:1810.09502.

    Examples
    --------
    >>> from sklmeta import MAMLRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(200, random_state=0)
    >>> meta = MAMLRegressor(max_iter=200, random_state=0).fit(tasks[:150])
    >>> new = tasks[150]
    >>> model = meta.adapt(new.X[:5], new.y[:5])
    >>> model.predict(new.X[5:]).shape
    (15,)
    >>> meta.score(tasks[150:]) > 0
    True
    """
