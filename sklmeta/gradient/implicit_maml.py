r"""Implicit MAML: meta-gradients from where adaptation ends, not from how it got there.

The inner problem keeps a task's weights close to the meta-learned ones (equation 3 of
the paper),

.. math:: \phi^*(\theta) = \operatorname{argmin}_\phi G(\phi, \theta), \qquad
          G(\phi, \theta) = \mathcal{L}^s(\phi)
          + \frac{\lambda}{2} \lVert \phi - \theta \rVert^2,                       (1)

solved by gradient descent from :math:`\phi = \theta`. Where :math:`\nabla_\phi G = 0`,
the implicit function theorem gives the derivative of the solution by
:math:`\theta`, and with it the gradient of the outer problem
:math:`\min_\theta \sum_i \mathcal{L}^q_i(\phi^*_i(\theta))` (equations 6 and 7 of the
paper),

.. math:: g = \Bigl(I + \frac{1}{\lambda} \nabla^2 \mathcal{L}^s(\phi^*)\Bigr)^{-1}
          \nabla \mathcal{L}^q(\phi^*),                                            (2)

a linear system that a few steps of conjugate gradients solve with products of the
Hessian and a vector. No inner step is differentiated: the memory of a meta-update does
not grow with `inner_steps`.

Deviations from the paper
-------------------------
- The inner problem is (1) throughout, and the system (2). The authors' code takes the
  inner steps on the support loss alone with one step of the regulariser at the end,
  solves with :math:`2 I + \nabla^2 \mathcal{L}^s / (\lambda + 10)`, and adapts to test
  tasks without regulariser; ``cg_damping=1.0`` and, after `fit`, ``regularization=0``
  come close to it.
- Where the matrix of (2) is not positive definite along a direction of the conjugate
  gradients, as can be far from a minimum, a task keeps the solution so far; the query
  gradient itself, if that is the first direction.
- With local labels the ways' output weights start at zero, unless `head` says
  otherwise: see `sklmeta.gradient.heads`. Their start is the :math:`\theta` that (1)
  keeps them close to.
- Batch normalisation of query rows uses the statistics of the *support* rows, so that
  a prediction depends on no other query row. `transductive=True` uses the statistics
  of the query batch, as the authors' code does.
- :math:`\lambda` is given, not learned, and the inner solver is gradient descent; the
  paper's Hessian-free solver is left out.

References
----------
Rajeswaran, Finn, Kakade and Levine, "Meta-Learning with Implicit Gradients", NeurIPS
2019, arXiv:1909.04630.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import State
from sklmeta.episodic import EpisodicRegressorMixin
from sklmeta.gradient._conjugate_gradient import conjugate_gradient, flat, unflat
from sklmeta.gradient._implicit_maml_parameters import (
    ImplicitMAMLParametersBase,
    with_implicit_maml_parameters,
)
from sklmeta.gradient._meta_gradients import losses_and_gradients, with_gradients
from sklmeta.gradient.network import GradientLearner, TaskWeights

__all__ = ["ImplicitMAML", "ImplicitMAMLClassifier", "ImplicitMAMLRegressor"]


class ImplicitMAML(GradientLearner):
    """Implicit MAML as a torch module.

    What `adapt` returns has no gradient by the learner's weights: take `meta_loss`.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes or targets; None for local labels.
    inner_lr : float, default=0.1
        Step size of the inner gradient descent.
    inner_steps : int, default=16
        Its steps.
    regularization : float, default=2.0
        Weight of the squared distance to the meta-learned weights.
    cg_steps : int, default=5
        Steps of conjugate gradients; 0 takes the query gradient itself.
    cg_damping : float, default=0.0
        Added to the identity of the linear system.
    **network
        Further parameters of `GradientLearner`: `task_type`, `head`, `n_ways`,
        `transductive`, `generator`.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.batches import Episodes, Rows
    >>> from sklmeta.gradient import ImplicitMAML
    >>> x, mask = torch.tensor([[[-1.0], [1.0]]]), torch.ones(1, 2).bool()
    >>> rows = Rows(x, 3 * x, mask)
    >>> learner = ImplicitMAML(torch.nn.Identity(), 1, 1, task_type="regression")
    >>> learner.meta_loss(Episodes(rows, rows)).sum().backward()
    >>> learner.head.weight.grad.shape
    torch.Size([1, 1])
    """

    adaptation_options = ("inner_lr", "inner_steps", "regularization")
    default_head = "shared"  # class means train worse on the problems of the checks

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 16,
        regularization: float = 2.0,
        cg_steps: int = 5,
        cg_damping: float = 0.0,
        **network: Any,
    ) -> None:
        super().__init__(backbone, n_features, n_outputs, **network)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.regularization = regularization
        self.cg_steps = cg_steps
        self.cg_damping = cg_damping

    def adapt(self, support: Rows) -> State:
        """Solve the inner problem of each task.

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
        weights = self._solution(self.initial_weights(support), support, ways)
        return self.state(weights, support, ways)

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return the query loss of each episode, (T,), with the implicit gradient.

        Parameters
        ----------
        episodes : Episodes
            Of T tasks.

        Returns
        -------
        Tensor of shape (T,)
            Its gradient by the learner's weights is that of equation (2).
        """
        if not torch.is_grad_enabled():
            return super().meta_loss(episodes)
        support, query = episodes.support, episodes.query
        ways, start = self.ways(support), self.initial_weights(support)
        adapted = self._solution(start, support, ways)

        def query_losses(own: TaskWeights) -> Tensor:
            state = self.state(own, support, ways)
            return self.loss(self.predict(state, query.x), query)

        losses, gradients = losses_and_gradients(query_losses, adapted)
        solved = self._solved(gradients, adapted, support, ways)
        return with_gradients(losses, start, solved)

    def _solution(self, start: TaskWeights, support: Rows, ways: Tensor) -> TaskWeights:
        """Return the weights that gradient descent on equation (1) ends at."""
        start = {name: weight.detach() for name, weight in start.items()}
        weights, pull = start, self.inner_lr * self.regularization
        for _ in range(self.inner_steps):
            gradients = self.support_gradients(
                weights, support, ways, create_graph=False
            )
            weights = {
                name: torch.lerp(weight, start[name], pull).sub_(
                    gradients[name], alpha=self.inner_lr
                )
                for name, weight in weights.items()
            }
        return weights

    def _solved(
        self, gradients: TaskWeights, adapted: TaskWeights, support: Rows, ways: Tensor
    ) -> TaskWeights:
        """Return the solution of equation (2) for given query gradients."""
        if not self.cg_steps:
            return gradients
        hessian = self._hessian(adapted, support, ways)

        def product(v: Tensor) -> Tensor:
            image = hessian(v).div_(self.regularization)
            return image.add_(v, alpha=1 + self.cg_damping)

        solved = conjugate_gradient(product, flat(gradients), self.cg_steps)
        return unflat(solved, gradients)

    def _hessian(
        self, adapted: TaskWeights, support: Rows, ways: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return what multiplies vectors (T, P) by the support losses' Hessians."""
        leaves = {n: w.detach().requires_grad_() for n, w in adapted.items()}
        gradients = self.support_gradients(leaves, support, ways, create_graph=True)
        # Those of weights that are not used are zeros without a graph.
        moving = {n: g for n, g in gradients.items() if g.requires_grad}

        def product(v: Tensor) -> Tensor:
            parts = unflat(v, adapted)
            for leaf in leaves.values():
                leaf.grad = None
            if moving:
                # Not torch.autograd.grad, which passes by what is not differentiable
                # twice, as if it were constant; this raises.
                torch.autograd.backward(
                    list(moving.values()),
                    [parts[name] for name in moving],
                    retain_graph=True,
                )
            return flat({n: _gradient_of(leaf) for n, leaf in leaves.items()})

        return product


def _gradient_of(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


class _ImplicitMAMLEstimator(ImplicitMAMLParametersBase):
    """What the two faces of implicit MAML share."""

    _default_head = ImplicitMAML.default_head

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> ImplicitMAML:
        return ImplicitMAML(
            backbone,
            n_features,
            n_outputs,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            regularization=self.regularization,
            cg_steps=self.cg_steps,
            cg_damping=self.cg_damping,
            **self._network_options(n_features, n_outputs, n_ways),
            generator=generator,
        )


@with_implicit_maml_parameters
class ImplicitMAMLClassifier(MetaClassifierMixin, _ImplicitMAMLEstimator):
    r"""Classifier that adapts by many gradient steps, held close to a learned start.

    Meta-learning with implicit gradients [1]_: as `MAMLClassifier`, but the meta-
    gradient follows from the adapted weights alone, whatever number of inner steps led
    there. Works with labels that mean the same in every task, and with labels that mean
    something only inside one (any number of ways).

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    <implicit maml parameters>

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    MAMLClassifier : Differentiates through the inner steps.
    ReptileClassifier : Takes many inner steps without second derivatives.

    Notes
    -----
    The meta-gradient is right as far as the inner problem is solved: if more
    `inner_steps` still change the adapted model, raise them, `inner_lr` or
    `regularization`. No graph of inner steps is kept, whatever `checkpoint_steps` says.

    The authors' code takes ``inner_lr=0.1``, ``inner_steps=16`` and ``cg_damping=1.0``
    for Omniglot, 5-way 1-shot, with ``batch_size=32`` and 20,000 meta-updates.
    Classifiers often want less regularisation and longer steps than regressors:
    ``inner_lr=0.1, regularization=0.1``.

    References
    ----------
    .. [1] A. Rajeswaran, C. Finn, S. Kakade, S. Levine, "Meta-Learning with Implicit
       Gradients", NeurIPS 2019, arXiv:1909.04630.

    Examples
    --------
    >>> from sklmeta import ImplicitMAMLClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = ImplicitMAMLClassifier(
    ...     n_way=3, n_shot=1, inner_steps=5, batch_size=2, max_iter=3, random_state=0
    ... )
    >>> new = pool[5:]
    >>> model = meta.fit(pool[:5]).adapt(new.X[::100], new.y[::100])
    >>> model.predict(new.X[40:45]).shape
    (5,)
    """


@with_implicit_maml_parameters
class ImplicitMAMLRegressor(EpisodicRegressorMixin, _ImplicitMAMLEstimator):
    r"""Regressor that adapts by many gradient steps, held close to a learned start.

    Meta-learning with implicit gradients [1]_: as `MAMLRegressor`, but the meta-
    gradient follows from the adapted weights alone, whatever number of inner steps led
    there.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images).

    <implicit maml parameters>

    <gradient parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    ImplicitMAMLClassifier : The same for labels.
    MAMLRegressor : Differentiates through the inner steps.

    Notes
    -----
    The meta-gradient is right as far as the inner problem is solved: if more
    `inner_steps` still change the adapted model, raise them, `inner_lr` or
    `regularization`. No graph of inner steps is kept, whatever `checkpoint_steps` says.

    References
    ----------
    .. [1] A. Rajeswaran, C. Finn, S. Kakade, S. Levine, "Meta-Learning with Implicit
       Gradients", NeurIPS 2019, arXiv:1909.04630.

    Examples
    --------
    >>> from sklmeta import ImplicitMAMLRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(200, random_state=0)
    >>> meta = ImplicitMAMLRegressor(max_iter=20, random_state=0).fit(tasks[:150])
    >>> new = tasks[150]
    >>> meta.adapt(new.X[:5], new.y[:5]).predict(new.X[5:]).shape
    (15,)
    """
