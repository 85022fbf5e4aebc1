r"""CAVIA: a few context parameters are adapted, and all weights are shared.

Context parameters :math:`\phi` are a further input of the network. For every task they
start from :math:`\phi_0 = 0` and take :math:`k` steps on the support loss

.. math:: \phi_{j+1} = \phi_j - \alpha \nabla_\phi \mathcal{L}^s(\phi_j, \theta),
          \qquad (1)

while the weights :math:`\theta` are meta-learned only, by the query loss
:math:`\min_\theta \sum_i \mathcal{L}^q_i(\phi_k, \theta)`, through the inner steps
(second order) or taking their gradients for constants (first order). What a task is, is
then a short vector: ``state["parameters"]["backbone.context"]``.

- Rows of a table: :math:`\phi` is appended to every row.
- Images: :math:`\phi` scales and shifts the channels of the third of four blocks
  (feature-wise linear modulation, as in the paper), see `sklmeta.backbones.film`.
  Channels of constants beside those of the image would be the simpler thing, but batch
  normalisation by a task's own statistics subtracts them.
- Numbers and shared labels: the head is an ordinary, meta-learned last layer.
- Local labels: ways have to be told apart, and the head is not adapted. With
  ``head="prototype"`` they are by the class means of features, which depend on
  :math:`\phi`, in every inner step; with ``head="fixed"``, as in the paper, by
  :math:`\phi` alone. ``head="shared"`` cannot tell them apart, and is refused.

Deviations from the paper
-------------------------
- With local labels the default is the prototype head, which learns far faster and
  takes any number of ways. On 5-way digits it is far above fixed vectors after the same
  few hundred meta-updates; ``head="fixed"`` is the paper's.
- Modulation is :math:`(1 + u^\top \phi) h + v^\top \phi` behind the normalisation: at
  :math:`\phi = 0` nothing is modulated. The authors' code has a scale that starts near
  zero, and modulates after the pooling.
- Batch normalisation of query rows uses the statistics of the *support* rows, so that
  a prediction depends on no other query row. `transductive=True` uses the statistics
  of the query batch, as the authors' code does.
- Meta-gradients are not clipped (the authors' regression code clips each task's
  gradient to ±10); clip their sum by skorch's ``GradientNormClipping``.

References
----------
Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson, "Fast Context Adaptation via
Meta-Learning", ICML 2019, arXiv:1810.03642.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from sklmeta._meta_training import Seeds
from sklmeta._parameters import check_choice, check_integer, check_positive
from sklmeta._preparation import Preparation
from sklmeta.backbones.build import build_backbone, feature_size
from sklmeta.backbones.film import FiLM, insert_film
from sklmeta.backbones.freezing import thaw
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Rows
from sklmeta.engine.learner import Learner, State
from sklmeta.episodic import EpisodicRegressorMixin
from sklmeta.gradient._context import (
    CONTEXT,
    film_layers,
    refuse_idle_context,
    refuse_unused_film,
    with_context_parameters,
)
from sklmeta.gradient._estimator import GradientMetaLearner, GradientParameters
from sklmeta.gradient.heads import PrototypeHead
from sklmeta.gradient.network import GradientLearner, Statistics, TaskWeights, below

__all__ = ["CAVIA", "CAVIAClassifier", "CAVIARegressor"]

SHARED_HEAD = (
    "head='shared' gives all ways the same vector, and CAVIA adapts the context, not "
    "the head: ways could never be told apart. Use head='prototype', or head='fixed'."
)


class CAVIA(GradientLearner):
    """CAVIA as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, F + n_context), the context behind the features, to features
        (n, n_features). Or one that holds `sklmeta.backbones.FiLM` layers, which get
        the context, and maps rows (n, *F).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    n_context : int, default=5
        Number of context parameters.
    inner_lr : float, default=1.0
        Step size of the inner loop.
    inner_steps : int, default=1
        Gradient steps of the inner loop.
    first_order : bool, default=False
        Leave out the second derivatives.
    head : {"auto", "prototype", "fixed", "none"}, default="auto"
        As with `GradientLearner`; with local labels, "auto" is "prototype".
    **network : dict
        Further parameters of `GradientLearner`: `task_type`, `n_ways`, `transductive`,
        `checkpoint_steps`, `generator`.

    Raises
    ------
    ValueError
        If labels are local and `head` is "shared", or a FiLM layer takes another number
        of context parameters.

    Examples
    --------
    Two tasks that differ by an offset, of which one context parameter tells:

    >>> import torch
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.gradient import CAVIA
    >>> backbone = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.ones_(backbone.weight)
    >>> learner = CAVIA(
    ...     backbone,
    ...     n_features=1,
    ...     n_outputs=1,
    ...     task_type="regression",
    ...     head="none",
    ...     n_context=1,
    ...     inner_lr=0.5,
    ... )
    >>> x = torch.tensor([0.0, 1.0]).repeat(2, 1).unsqueeze(2)
    >>> y = x + torch.tensor([[[3.0]], [[-1.0]]])
    >>> support = Rows(x, y, mask=torch.ones(2, 2).bool())
    >>> state = learner.adapt(support)
    >>> state["parameters"]["backbone.context"]
    tensor([[ 3.],
            [-1.]], ...)
    """

    adaptation_options = ("inner_lr", "inner_steps")
    adapts_weights = False  # but context parameters
    default_head = "prototype"

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        n_context: int = 5,
        inner_lr: float = 1.0,
        inner_steps: int = 1,
        first_order: bool = False,
        head: str = "auto",
        **network: Any,
    ) -> None:
        if n_outputs is None and head == "shared":
            raise ValueError(SHARED_HEAD)
        super().__init__(backbone, n_features, n_outputs, head=head, **network)
        self.n_context = n_context
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.modulated = tuple(
            f"{name}.context".removeprefix(".")
            for name in film_layers(backbone, n_context)
        )

    def adapt(self, support: Rows) -> State:
        """Take the inner gradient steps of the context on each task's support rows.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,).

        Returns
        -------
        dict
            See `GradientLearner.state`; "parameters" are the context (T, n_context),
            called "backbone.context", and the heads.

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        ways = self.ways(support)

        def step(own: TaskWeights) -> TaskWeights:
            create_graph = torch.is_grad_enabled() and not self.first_order
            gradients = self.support_gradients(
                own, support, ways, create_graph=create_graph
            )
            # equation (1)
            return {CONTEXT: own[CONTEXT].sub(gradients[CONTEXT], alpha=self.inner_lr)}

        context = {CONTEXT: support.x.new_zeros(len(support), self.n_context)}
        for _ in range(self.inner_steps):
            context = self.take_step(step, context)
        return self.state(context, support, ways)

    def support_loss(self, weights: TaskWeights, support: Rows, ways: Tensor) -> Tensor:
        """Return each task's loss on its support rows, (T,), for its context."""
        features = self.features(below("backbone.", weights), support.x)
        head = self.initial_head(support, lambda: features)
        return self.loss(self.head_outputs(head, features, ways), support)

    def state(self, weights: TaskWeights, support: Rows, ways: Tensor) -> State:
        """Return what `predict` needs of adapted contexts.

        Returns
        -------
        dict
            See `GradientLearner.state`; "parameters" hold the heads too.
        """
        if isinstance(self.head, PrototypeHead):
            own = below("backbone.", weights)
            features, statistics = self.support_features(own, support.x)
            head = self.initial_head(support, lambda: features)
        else:
            statistics = self.support_statistics(weights, support.x)
            head = self.initial_head(support)
        return {"parameters": weights | head, "ways": ways, "statistics": statistics}

    def features(
        self, weights: TaskWeights, x: Tensor, statistics: Statistics | None = None
    ) -> Tensor:
        """Map rows (T, S, *F) to features (T, S, n_features), given "context"."""
        return super().features(*self._conditioned(weights, x), statistics)

    def support_features(
        self, weights: TaskWeights, x: Tensor
    ) -> tuple[Tensor, Statistics]:
        """Return features of support rows, given "context", and batch statistics."""
        if self.transductive or not self.needs_equal_rows:
            return self.features(weights, x), {}
        return super().support_features(*self._conditioned(weights, x))

    def _conditioned(
        self, weights: TaskWeights, x: Tensor
    ) -> tuple[TaskWeights, Tensor]:
        """Return weights and rows as the backbone takes them."""
        context = weights["context"]  # (T, n_context)
        if self.modulated:
            return dict.fromkeys(self.modulated, context), x
        rows = context.unsqueeze(1).expand(-1, x.shape[1], -1)
        return {}, torch.cat([x, rows], -1)


class _CAVIAEstimator(GradientMetaLearner):
    """What the two faces of CAVIA share."""

    _heads = ("auto", "fixed", "prototype", "none")
    _default_head = CAVIA.default_head
    _adaptation_parameters = ("inner_lr", "inner_steps")
    _step_sizes = ("inner_lr", "outer_lr")
    _structural_parameters = (
        *GradientMetaLearner._structural_parameters,
        *("first_order", "n_context"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        n_context: int = 5,
        inner_lr: float = 1.0,
        inner_steps: int = 1,
        first_order: bool = False,
        **common: Unpack[GradientParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.n_context = n_context
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order

    def _check_parameters(self) -> None:
        if self.head == "shared":
            raise ValueError(SHARED_HEAD)
        super()._check_parameters()
        check_integer("n_context", self.n_context, 1)
        check_positive("inner_lr", self.inner_lr)
        check_integer("inner_steps", self.inner_steps, 0)
        check_choice("first_order", self.first_order, (True, False))

    def _make_backbone(
        self, input_shape: tuple[int, ...], seed: int
    ) -> tuple[nn.Module, int]:
        """Return a backbone that takes the context too."""
        if len(input_shape) > 1:
            backbone, n_features = super()._make_backbone(input_shape, seed)
            generator = torch.Generator().manual_seed(seed)
            backbone = insert_film(backbone, self.n_context, n_features, generator)
            refuse_unused_film(backbone, input_shape)
            return backbone, n_features
        shape = (input_shape[0] + self.n_context,)
        backbone = build_backbone(self._given_backbone, shape, seed=seed)
        try:
            return backbone, feature_size(backbone, shape)
        except ValueError as error:
            raise ValueError(
                f"CAVIA appends n_context={self.n_context} parameters to the "
                f"{input_shape[0]} features of each row, and the backbone must take "
                f"all {shape[0]}; a callable gets that input shape. {error}"
            ) from error

    def _freeze(self, backbone: nn.Module) -> None:
        """Freeze all but the FiLM layers, through which contexts act."""
        super()._freeze(backbone)
        for layer in backbone.modules():
            if isinstance(layer, FiLM):
                thaw(layer)

    def _prepared(
        self, tasks: Any, classes: Any, seeds: Seeds, goes_on: bool
    ) -> tuple[Preparation, Learner]:
        preparation, learner = super()._prepared(tasks, classes, seeds, goes_on)
        if not goes_on and len(preparation.input_shape) == 1:
            assert isinstance(learner, CAVIA)
            refuse_idle_context(learner, preparation.input_shape[0], self.n_context)
        return preparation, learner

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> CAVIA:
        return CAVIA(
            backbone,
            n_features,
            n_outputs,
            n_context=self.n_context,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            first_order=self.first_order,
            **self._network_options(n_features, n_outputs, n_ways),
            generator=generator,
        )


@with_context_parameters
class CAVIAClassifier(MetaClassifierMixin, _CAVIAEstimator):
    """Classifier that adapts a few context parameters by gradient steps.

    CAVIA [1]_: the network has some further inputs, the context, which `inner_steps`
    gradient steps on a new task's support rows find; the network's weights are
    meta-learned, and the same for all tasks. Works with labels that mean the same in
    every task, and with labels that mean something only inside one (any number of
    ways).

    Parameters
    ----------
    <context parameters>

    head : {"auto", "prototype", "fixed", "none"}, default="auto"
        How ways are told apart, with local labels: "prototype" compares with class
        means of features, which the context changes, for any number of ways; "fixed"
        has a meta-learned vector per way, for as many ways as in meta-training at most,
        and leaves all the rest to the context. "auto" is "prototype" with local labels.
        With shared labels the head is a meta-learned layer, the same for all tasks.
        "none" is for a `backbone` that ends in the outputs itself.

    <network parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    CAVIARegressor : The same for numbers.
    MAMLClassifier : Adapts the whole network.
    ProtoNetClassifier : Class means of features that are the same for all tasks.

    Notes
    -----
    With prototypes the features do most of the work and the context adds a little, the
    more the larger `n_context` and `inner_steps` are. Fixed vectors leave it to the
    context to say which way is which, which takes many parameters, several inner steps
    and many meta-updates.

    The authors' code takes ``n_context=100``, ``inner_lr=1``, ``inner_steps=2``,
    ``outer_lr=1e-3`` and ``batch_size=16`` for images, 5-way, 60,000 meta-updates.

    References
    ----------
    .. [1] L. Zintgraf, K. Shiarlis, V. Kurin, K. Hofmann, S. Whiteson, "Fast Context
       Adaptation via Meta-Learning", ICML 2019, arXiv:1810.03642.

    Examples
    --------
    >>> from sklmeta import CAVIAClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = CAVIAClassifier(n_shot=1, max_iter=3, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """


@with_context_parameters
class CAVIARegressor(EpisodicRegressorMixin, _CAVIAEstimator):
    """Regressor that adapts a few context parameters by gradient steps.

    CAVIA [1]_: the network has some further inputs, the context, which `inner_steps`
    gradient steps on a new task's support rows find; the network's weights are
    meta-learned, and the same for all tasks. What a task is becomes a short vector.

    Parameters
    ----------
    <context parameters>

    head : {"auto", "none"}, default="auto"
        "none" for a `backbone` that ends in the outputs itself.

    <network parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    CAVIAClassifier : The same for labels.
    MAMLRegressor : Adapts the whole network.

    Notes
    -----
    The authors' code takes two hidden layers of 40, ``n_context=5``, ``inner_lr=1``,
    ``inner_steps=1``, ``n_shot=10``, ``batch_size=25`` and ``outer_lr=1e-3`` for
    sinusoids, 50,000 meta-updates.

    References
    ----------
    .. [1] L. Zintgraf, K. Shiarlis, V. Kurin, K. Hofmann, S. Whiteson, "Fast Context
       Adaptation via Meta-Learning", ICML 2019, arXiv:1810.03642.

    Examples
    --------
    >>> from sklmeta import CAVIARegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(200, random_state=0)
    >>> meta = CAVIARegressor(max_iter=200, random_state=0).fit(tasks[:150])
    >>> new = tasks[150]
    >>> model = meta.adapt(new.X[:5], new.y[:5])
    >>> model.predict(new.X[5:]).shape
    (15,)
    >>> meta.score(tasks[150:]) > 0
    True
    """
