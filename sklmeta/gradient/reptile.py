r"""Reptile: an initialisation that is moved towards each task's adapted weights.

For task :math:`i` an optimizer takes :math:`k` steps from :math:`\theta` on minibatches
of the task's rows, to :math:`\phi_i`. The outer loop moves
:math:`\theta` towards them (Algorithm 2 of the paper),

.. math:: \theta \leftarrow \theta
          + \epsilon \frac{1}{T} \sum_i (\phi_i - \theta),                         (1)

which is a step of gradient descent with :math:`\theta - \phi_i` for the meta-gradient
and :math:`\epsilon` falling from `outer_lr` to 0. There is no loss on query rows that
it is the gradient of, and no second derivative: for plain descent with gradients
:math:`g_j` and Hessians :math:`H_j` of the minibatches at :math:`\theta` (section 5.1),

.. math:: \theta - \phi_i = \alpha \sum_j g_j
          - \alpha^2 \sum_j \sum_{l < j} H_j g_l + O(\alpha^3),                    (2)

whose second term makes the gradients of a task's minibatches agree.

Deviations from the paper
-------------------------
- Adam's second moments go on from task to task, in meta-training and into every
  adaptation, as in the authors' code. The code trains on one task after another; here
  the tasks of a meta-update start from the same moments, and those after it are the
  mean of theirs. Ways have the moments of their output weights in common, since their
  order means nothing.
- Adaptation takes all support rows in every step, so that their order cannot matter;
  the authors' code takes minibatches of 5.
- Batch normalisation of query rows uses the statistics of the *support* rows, so that
  a prediction depends on no other query row; the authors' code adds the one query row
  to them. `transductive=True` uses those of the query batch, as in the code.
- The order of the rows in minibatches is drawn for each meta-update, and is the same in
  its tasks, whose rows are drawn at random before.
- The meta-loss that meta-training shows is that of the last minibatch before its step,
  which the inner loop has anyway; held-out tasks are judged by the loss of their query
  rows.

With local labels the head is by default the paper's, a learned vector for each way. The
shared head and prototypes take any number of ways; which learns faster depends on the
problem, and is quick to compare.

References
----------
Nichol, Achiam and Schulman, "On First-Order Meta-Learning Algorithms", 2018,
arXiv:1803.02999.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Progress, State
from sklmeta.episodic import EpisodicRegressorMixin
from sklmeta.gradient._inner_optimizers import (
    Moments,
    SharedMoments,
    adam_step,
    minibatches,
    sgd_step,
)
from sklmeta.gradient._meta_gradients import losses_and_gradients, with_gradients
from sklmeta.gradient._reptile_parameters import (
    ReptileParametersBase,
    with_reptile_parameters,
)
from sklmeta.gradient.network import GradientLearner, TaskWeights

__all__ = ["Reptile", "ReptileClassifier", "ReptileRegressor"]


class Reptile(GradientLearner):
    """Reptile as a torch module.

    Its `meta_loss` is differentiable, what `adapt` returns is not. Make meta-updates by
    plain gradient descent with a step size of 1, without the parameters named in
    `own_updates`, and set `progress` before each.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes or targets; None for local labels.
    inner_optimizer : {"adam", "sgd"}, default="adam"
        What adapts weights; "adam" without first moments.
    inner_lr : float, default=5e-3
        Its step size.
    inner_steps : int, default=50
        Its steps when adapting.
    train_steps : int, default=5
        Its steps in meta-training.
    inner_batch_size : int or None, default=10
        Rows of a minibatch in meta-training; None for all rows in every step.
    outer_schedule : {"linear", "constant"}, default="linear"
        What meta-gradients are scaled by: 1 falling to 0 with `progress`, or 1.
    **network
        Further parameters of `GradientLearner`: `task_type`, `head`, `n_ways`,
        `transductive`, `generator`.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.batches import Episodes, Rows
    >>> from sklmeta.gradient import Reptile
    >>> x, mask = torch.tensor([[[-1.0], [1.0]]]), torch.ones(1, 2).bool()
    >>> rows = Rows(x, 3 * x, mask)
    >>> learner = Reptile(torch.nn.Identity(), 1, 1, task_type="regression")
    >>> learner.meta_loss(Episodes(rows, rows)).sum().backward()
    >>> learner.head.weight.grad.shape
    torch.Size([1, 1])
    """

    adaptation_options = ("inner_lr", "inner_steps")
    default_head = "fixed"  # the paper's

    update: Tensor
    meta_step: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        inner_optimizer: str = "adam",
        inner_lr: float = 5e-3,
        inner_steps: int = 50,
        train_steps: int = 5,
        inner_batch_size: int | None = 10,
        outer_schedule: str = "linear",
        **network: Any,
    ) -> None:
        super().__init__(backbone, n_features, n_outputs, **network)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.train_steps = train_steps
        self.inner_batch_size = inner_batch_size
        self.outer_schedule = outer_schedule
        # What changes with `progress`, written in place.
        self.register_buffer("update", torch.tensor(0), persistent=False)
        self.register_buffer("meta_step", torch.tensor(1.0), persistent=False)
        self.moments: SharedMoments | None = None
        if inner_optimizer == "adam":
            self.moments = self._new_moments()
            self.own_updates = ("moments.values",)

    def _new_moments(self) -> SharedMoments:
        """Return second moments of all weights that adapt."""
        shapes = {n: p.shape for n, p in self.named_parameters() if p.requires_grad}
        learns = bool(shapes)
        if self.head is not None and self.n_outputs is None:
            shapes["head.weight"] = torch.Size((1, self.n_features))
            shapes["head.bias"] = torch.Size((1,))
        moments = SharedMoments(shapes, per_way=self.n_outputs is None)
        return moments.requires_grad_(learns)

    # How far meta-training has come ----------------------------------------------

    @property
    def progress(self) -> Progress:
        """How far meta-training has come; set before every meta-update."""
        return self.__dict__.get("progress", Progress())

    @progress.setter
    def progress(self, progress: Progress) -> None:
        if progress.n_done != self.progress.n_done:
            self._commit()
        self.__dict__["progress"] = progress
        linear = self.outer_schedule == "linear"
        self.update.fill_(progress.n_done)
        self.meta_step.fill_(1 - progress.fraction if linear else 1.0)

    @property
    def stage(self) -> None:
        """One sequence of operations for all meta-updates: buffers hold the rest."""
        return None

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as `torch.nn.Module` does; meta-training ends with another."""
        if mode != self.training:
            self._commit()
        return super().train(mode)

    def _commit(self) -> None:
        if self.moments is not None:
            self.moments.commit(self.train_steps)

    # The two loops ---------------------------------------------------------------

    def adapt(self, support: Rows) -> State:
        """Take the optimizer's steps on all of each task's support rows.

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
        weights, moments = _detached(self.initial_weights(support)), self._moments()
        for _ in range(self.inner_steps):
            gradients = self.support_gradients(
                weights, support, ways, create_graph=False
            )
            weights, moments = self._step(weights, gradients, moments)
        return self.state(weights, support, ways)

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return a loss of each episode, (T,), whose gradient is that of equation (1).

        Parameters
        ----------
        episodes : Episodes
            Of T tasks.

        Returns
        -------
        Tensor of shape (T,)
            The loss of the last minibatch of support and query rows, which are adapted
            to together; without gradients, the query loss after `adapt`.
        """
        if not torch.is_grad_enabled():
            return super().meta_loss(episodes)
        rows = _together(episodes.support, episodes.query)
        ways, start = self.ways(rows), self.initial_weights(rows)
        weights, moments = _detached(start), self._moments()
        losses = rows.x.new_zeros(len(rows))
        for batch in minibatches(
            rows, self.inner_batch_size, self.train_steps, self.update
        ):

            def batch_losses(own: TaskWeights, batch: Rows = batch) -> Tensor:
                return self.support_loss(own, batch, ways)

            losses, gradients = losses_and_gradients(batch_losses, weights)
            weights, moments = self._step(weights, gradients, moments)
        losses = with_gradients(losses, start, self._meta_gradients(start, weights))
        if self.moments is None or moments is None:
            return losses
        return losses + self.moments.report(moments, ways)

    def _moments(self) -> Moments | None:
        return None if self.moments is None else self.moments.start()

    def _step(
        self, weights: TaskWeights, gradients: TaskWeights, moments: Moments | None
    ) -> tuple[TaskWeights, Moments | None]:
        """Take one step of the inner optimizer."""
        if moments is None:
            return sgd_step(weights, gradients, self.inner_lr), None
        return adam_step(weights, gradients, moments, self.inner_lr)

    def _meta_gradients(self, start: TaskWeights, adapted: TaskWeights) -> TaskWeights:
        """Return equation (1)'s for learned weights; others start from constants."""
        learned = {name for name, _ in self.named_parameters()}
        return {
            name: (start[name].detach() - weight) * self.meta_step
            for name, weight in adapted.items()
            if name in learned
        }


def _detached(weights: TaskWeights) -> TaskWeights:
    return {name: weight.detach() for name, weight in weights.items()}


def _together(support: Rows, query: Rows) -> Rows:
    """Return the rows of both as one."""
    return Rows(
        torch.cat([support.x, query.x], 1),
        torch.cat([support.y, query.y], 1),
        torch.cat([support.mask, query.mask], 1),
        support.n_way,
    )


class _ReptileEstimator(ReptileParametersBase):
    """What the two faces of Reptile share."""

    _default_head = Reptile.default_head

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> Reptile:
        return Reptile(
            backbone,
            n_features,
            n_outputs,
            inner_optimizer=self.inner_optimizer,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            train_steps=self.train_steps,
            inner_batch_size=self.inner_batch_size,
            outer_schedule=self.outer_schedule,
            **self._network_options(n_features, n_outputs, n_ways),
            generator=generator,
        )


@with_reptile_parameters
class ReptileClassifier(MetaClassifierMixin, _ReptileEstimator):
    """Classifier whose start has been moved towards every task's adapted weights.

    Reptile [1]_: in meta-training, a few steps of an optimizer on a task's rows, and a
    step of the start towards where they lead. Cheap, without query rows or second
    derivatives, so that adaptation can take many steps. Works with labels that mean the
    same in every task, and with labels that mean something only inside one.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    <reptile parameters>

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    ReptileRegressor : The same for numbers.
    MAMLClassifier : Differentiates through the inner steps.

    Notes
    -----
    The paper's recipe for Omniglot, 5-way: ``inner_lr=1e-3``, ``inner_steps=50``,
    ``train_steps=5``, ``train_shots=10``, ``inner_batch_size=10``, ``outer_lr=1.0``,
    ``batch_size=5``, ``max_iter=100000``, ``head="fixed"`` and a backbone that strides
    instead of pooling (``ConvNet(shape, downsample="stride")``); 20-way with
    ``inner_lr=5e-4``, ``train_steps=10``, ``inner_batch_size=20`` and 200,000 updates.

    The meta-step counts all updates: with ``warm_start=True`` a second `fit` goes on
    from half of it. `partial_fit` has no end in sight, and leaves it as it is. No graph
    of inner steps is kept, whatever `checkpoint_steps` says.

    References
    ----------
    .. [1] A. Nichol, J. Achiam, J. Schulman, "On First-Order Meta-Learning
       Algorithms", 2018, arXiv:1803.02999.

    Examples
    --------
    >>> from sklmeta import ReptileClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = ReptileClassifier(
    ...     n_way=5, n_shot=1, inner_steps=10, batch_size=2, max_iter=3, random_state=0
    ... )
    >>> new = pool[5:]
    >>> model = meta.fit(pool[:5]).adapt(new.X[::100], new.y[::100])
    >>> model.predict(new.X[40:45]).shape
    (5,)
    """


@with_reptile_parameters
class ReptileRegressor(EpisodicRegressorMixin, _ReptileEstimator):
    """Regressor whose start has been moved towards every task's adapted weights.

    Reptile [1]_: in meta-training, a few steps of an optimizer on a task's rows, and a
    step of the start towards where they lead. Cheap, without query rows or second
    derivatives, so that adaptation can take many steps.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    <reptile parameters>

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    ReptileClassifier : The same for labels.
    MAMLRegressor : Differentiates through the inner steps.

    Notes
    -----
    The meta-step counts all updates: with ``warm_start=True`` a second `fit` goes on
    from half of it. `partial_fit` has no end in sight, and leaves it as it is. No graph
    of inner steps is kept, whatever `checkpoint_steps` says.

    References
    ----------
    .. [1] A. Nichol, J. Achiam, J. Schulman, "On First-Order Meta-Learning
       Algorithms", 2018, arXiv:1803.02999.

    Examples
    --------
    >>> from sklmeta import ReptileRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(200, random_state=0)
    >>> meta = ReptileRegressor(max_iter=20, random_state=0).fit(tasks[:150])
    >>> new = tasks[150]
    >>> meta.adapt(new.X[:5], new.y[:5]).predict(new.X[5:]).shape
    (15,)
    """
