r"""Almost no inner loop: only the head is adapted, on features that all tasks share.

With features :math:`f_\theta` and a linear head :math:`w = (W, b)` the inner loop takes
:math:`k` steps on a task's support loss by the head alone (section 4 of the paper)

.. math:: w_{j+1} = w_j - \alpha \nabla_{w} \mathcal{L}^s(w_j; f_\theta),
          \qquad j = 0, \ldots, k - 1, \qquad (1)

and the outer loop minimises the query loss
:math:`\sum_i \mathcal{L}^q_i(w_k; f_\theta)` by :math:`\theta` and the head's start
:math:`w_0`, through the inner steps (second order), or taking their gradients for
constants (first order). It is MAML with a step size of zero below the head. Features of
rows are computed once, for all steps and tasks together. The gradients of a linear head
are known in closed form: with outputs :math:`o = f W^\top + b` of :math:`n` rows,

.. math:: \nabla_W \mathcal{L} = G^\top f, \quad \nabla_b \mathcal{L} = G^\top 1, \quad
          G = (\mathrm{softmax}(o) - \mathrm{onehot}(y)) / n
          \;\text{or}\; 2 (o - y) / (n \, n_\mathrm{outputs}), \qquad (2)

so that the inner loop is a few matrix products on features, differentiated once.

Deviations from the paper
-------------------------
- With local labels the ways' output weights start from class means, which takes any
  number of ways; ``head="fixed"`` is the paper's meta-learned vector for each way. See
  `sklmeta.gradient.heads`.
- Batch normalisation of query rows uses the statistics of the *support* rows, so that
  a prediction depends on no other query row. `transductive=True` uses the statistics
  of the query batch, as MAML's code does.

References
----------
Raghu, Raghu, Bengio and Vinyals, "Rapid Learning or Feature Reuse? Towards
Understanding the Effectiveness of MAML", ICLR 2020, arXiv:1909.09157.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from sklmeta._parameters import check_choice, check_integer, check_positive
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Learner, State
from sklmeta.episodic import EpisodicRegressorMixin
from sklmeta.gradient._estimator import (
    GradientMetaLearner,
    GradientParameters,
    with_gradient_parameters,
)
from sklmeta.gradient.network import GradientLearner, Statistics, TaskWeights

__all__ = ["ANIL", "ANILClassifier", "ANILRegressor"]

NO_HEAD = (
    "ANIL adapts the head alone, and head='none' leaves it none. Give a backbone "
    "without its last layer, or use MAML."
)


class ANIL(GradientLearner):
    """ANIL as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    inner_lr : float, default=0.1
        Step size of the inner loop.
    inner_steps : int, default=5
        Gradient steps of the inner loop.
    first_order : bool, default=False
        Leave out the second derivatives.
    **network : dict
        Further parameters of `GradientLearner`: `task_type`, `head`, `n_ways`,
        `transductive`, `checkpoint_steps`, `generator`.

    Raises
    ------
    ValueError
        If `head` is "none".

    Examples
    --------
    One task of two ways whose features are the rows themselves:

    >>> import torch
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.gradient import ANIL
    >>> x, y = torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 2).bool(), n_way=torch.tensor([2]))
    >>> learner = ANIL(torch.nn.Identity(), 1, None, task_type="classification")
    >>> state = learner.adapt(support)
    >>> learner.predict(state, torch.tensor([[[-3.0], [0.5]]])).argmax(-1)
    tensor([[0, 1]])
    """

    adaptation_options = ("inner_lr", "inner_steps")

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        first_order: bool = False,
        **network: Any,
    ) -> None:
        if network.get("head") == "none":
            raise ValueError(NO_HEAD)
        super().__init__(backbone, n_features, n_outputs, **network)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order

    def adapt(self, support: Rows) -> State:
        """Take the inner gradient steps of the head on each task's support rows.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,).

        Returns
        -------
        dict
            See `GradientLearner.state`; "parameters" are those of the heads.

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        features, statistics = self.support_features({}, support.x)
        return self._adapted(features, support, statistics)

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return the query loss of each episode, (T,).

        Support and query rows pass the backbone in one call where neither enters
        statistics of the other.
        """
        if self.needs_equal_rows:
            return super().meta_loss(episodes)
        support, query = episodes.support, episodes.query
        rows = torch.cat([support.x.flatten(0, 1), query.x.flatten(0, 1)])
        features = self.features({}, rows.unsqueeze(0))[0]
        first, second = features.split([support.mask.numel(), query.mask.numel()])
        state = self._adapted(first.unflatten(0, support.mask.shape), support, {})
        outputs = self.head_outputs(
            state["parameters"], second.unflatten(0, query.mask.shape), state["ways"]
        )
        return self.loss(outputs, query)

    def on_features(self) -> tuple[nn.Module, Learner] | None:
        """Return the backbone, and the same adaptation on its features.

        Returns
        -------
        tuple of (nn.Module, ANIL), or None
            None where the backbone normalises by the rows of a task.
        """
        if self.needs_equal_rows:
            return None
        return self.backbone, self._with_backbone(nn.Identity())

    def _adapted(
        self, features: Tensor, support: Rows, statistics: Statistics
    ) -> State:
        """Adapt the heads on the features (T, S, n_features) of support rows."""
        support = Rows(features, support.y, support.mask, support.n_way)
        weights = self.initial_head(support, lambda: features)
        ways, first_order = self.ways(support), self.first_order
        target = self._target(support, ways).to(features.dtype)
        share = support.mask.to(features.dtype)  # of each row in the mean loss
        share = (share / share.sum(1, keepdim=True).clamp(min=1)).unsqueeze(-1)

        def step(own: TaskWeights) -> TaskWeights:
            # Features come along as weights that stay, since they carry a graph.
            with torch.set_grad_enabled(torch.is_grad_enabled() and not first_order):
                outputs = self.head_outputs(own, own["features"], ways)
                error = self._error(outputs, target) * share
                gradients = {  # equation (2)
                    "head.weight": error.mT @ own["features"],
                    "head.bias": error.sum(1),
                }
            return own | {  # equation (1)
                name: own[name].sub(gradient, alpha=self.inner_lr)
                for name, gradient in gradients.items()
            }

        weights["features"] = features
        for _ in range(self.inner_steps):
            weights = self.take_step(step, weights)
        del weights["features"]
        return {"parameters": weights, "ways": ways, "statistics": statistics}

    def _target(self, support: Rows, ways: Tensor) -> Tensor:
        """Return what outputs should be: probabilities (T, S, N), or numbers."""
        if self.task_type == "regression":
            return support.y
        # As torch's one_hot, which reads the values: a recorded update could not.
        return support.y.unsqueeze(-1) == torch.arange(
            ways.shape[1], device=ways.device
        )

    def _error(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Return the gradient of a row's loss by its outputs: G of equation (2)."""
        if self.task_type == "regression":
            return (outputs - target) * (2 / outputs.shape[-1])
        return outputs.softmax(-1) - target


class ANILEstimator(GradientMetaLearner):
    """What the two faces of ANIL share."""

    _heads = ("auto", "fixed", "shared", "prototype")
    _adaptation_parameters = ("inner_lr", "inner_steps")
    _step_sizes = ("inner_lr", "outer_lr")
    _structural_parameters = (
        *GradientMetaLearner._structural_parameters,
        "first_order",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        inner_lr: float = 0.1,
        inner_steps: int = 5,
        first_order: bool = False,
        **common: Unpack[GradientParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order

    def _check_parameters(self) -> None:
        if self.head == "none":
            raise ValueError(NO_HEAD)
        super()._check_parameters()
        check_positive("inner_lr", self.inner_lr)
        check_integer("inner_steps", self.inner_steps, 0)
        check_choice("first_order", self.first_order, (True, False))

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> ANIL:
        return ANIL(
            backbone,
            n_features,
            n_outputs,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            first_order=self.first_order,
            **self._network_options(n_features, n_outputs, n_ways),
            generator=generator,
        )


@with_gradient_parameters
class ANILClassifier(MetaClassifierMixin, ANILEstimator):
    """Classifier that adapts its last layer by a few gradient steps.

    Almost no inner loop [1]_: MAML whose inner loop moves the head alone, on features
    that are meta-learned for it. It costs little more than one pass through the
    backbone, whatever the number of inner steps. Works with labels that mean the same
    in every task, and with labels that mean something only inside one (any number of
    ways).

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    inner_lr : float, default=0.1
        Step size of the inner loop. Read when adapting.

    inner_steps : int, default=5
        Gradient steps of the inner loop, in meta-training and when adapting; change it
        after `fit` to adapt further.

    first_order : bool, default=False
        Take the inner loop's gradients for constants in meta-training. Second order
        costs little here, and is what the paper uses.

    head : {"auto", "fixed", "shared", "prototype"}, default="auto"
        What the linear layer on the features starts from in a new task, with local
        labels: "fixed" is a meta-learned vector per way, for as many ways as in
        meta-training at most; "shared" starts all ways at zero, "prototype" from class
        means, both for any number of ways. "auto" is "prototype" with local labels.
        With shared labels the start is meta-learned in any case.

    <network parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    ANILRegressor : The same for numbers.
    MAMLClassifier : Adapts the whole network.
    ProtoNetClassifier : Adapts by class means, without gradient steps.

    Notes
    -----
    The paper takes MAML's recipe for Omniglot, 20-way: ``inner_lr=0.1``,
    ``inner_steps=5``, ``batch_size=16``, ``outer_lr=1e-3``, ``head="fixed"`` and
    ``transductive=True``. It has no experiment in regression.

    References
    ----------
    .. [1] A. Raghu, M. Raghu, S. Bengio, O. Vinyals, "Rapid Learning or Feature Reuse?
       Towards Understanding the Effectiveness of MAML", ICLR 2020, arXiv:1909.09157.

    Examples
    --------
    >>> from sklmeta import ANILClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = ANILClassifier(n_shot=1, max_iter=3, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """


@with_gradient_parameters
class ANILRegressor(EpisodicRegressorMixin, ANILEstimator):
    """Regressor that adapts its last layer by a few gradient steps.

    Almost no inner loop [1]_: MAML whose inner loop moves the head alone, on features
    that are meta-learned for it. It costs little more than one pass through the
    backbone, whatever the number of inner steps.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    inner_lr : float, default=0.1
        Step size of the inner loop. Read when adapting.

    inner_steps : int, default=5
        Gradient steps of the inner loop, in meta-training and when adapting; change it
        after `fit` to adapt further, or to 0 for the predictions before adaptation.

    first_order : bool, default=False
        Take the inner loop's gradients for constants in meta-training. Second order
        costs little here, and is what the paper uses.

    head : {"auto"}, default="auto"
        The linear layer that is adapted; its start is meta-learned.

    <network parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    ANILClassifier : The same for labels.
    MAMLRegressor : Adapts the whole network.

    Notes
    -----
    The paper has no experiment in regression.

    References
    ----------
    .. [1] A. Raghu, M. Raghu, S. Bengio, O. Vinyals, "Rapid Learning or Feature Reuse?
       Towards Understanding the Effectiveness of MAML", ICLR 2020, arXiv:1909.09157.

    Examples
    --------
    >>> from sklmeta import ANILRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(200, random_state=0)
    >>> meta = ANILRegressor(max_iter=200, random_state=0).fit(tasks[:150])
    >>> new = tasks[150]
    >>> model = meta.adapt(new.X[:5], new.y[:5])
    >>> model.predict(new.X[5:]).shape
    (15,)
    >>> meta.score(tasks[150:]) > 0
    True
    """
