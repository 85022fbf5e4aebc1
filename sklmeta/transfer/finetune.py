r"""Fine-tuning: a network pre-trained on all training rows, and a new head for a task.

Pre-training is supervised learning, as ever: minibatches of rows, whose classes are
those of all meta-training tasks together, or whose targets are those of all tasks.
Adapting to a new task trains a new head on its support rows,

.. math:: \theta \leftarrow \theta - \alpha \,
          \mathrm{step}\bigl(\nabla_\theta \mathcal{L}^s(\theta)
          + \lambda (\theta - \theta_0)\bigr), \qquad (1)

on features as they are, or all layers with it. The head is linear ("baseline") or of
cosines ("baseline++"), as in the paper. What is fine-tuned decays towards where it
started, :math:`\theta_0`, which for a new linear head is zero [2]_.

Deviations from the paper
-------------------------
- All support rows enter every step; the paper draws minibatches of 4 rows, 100 steps.
- Adam by default, since its steps suit features of any scale; ``"sgd"`` is gradient
  descent with the paper's momentum, 0.9, without its dampening.
- A new linear head starts at zero, a cosine head at the class means of unit features;
  the paper draws both at random.
- Weight decay at adaptation is 0 by default, and pulls to the start where it is not.
- Labels that mean the same in all tasks, and numbers, keep the head that was
  pre-trained: a task without support rows of a class can still predict it.
- The factor of cosines is 10 whatever the number of classes; the paper's code takes 2
  for up to 200 classes.

References
----------
Chen, Liu, Kira, Wang and Huang, "A Closer Look at Few-shot Classification", ICLR 2019,
arXiv:1904.04232.

.. [2] Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with
   Convolutional Networks", ICML 2018, arXiv:1802.01483.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from sklmeta._parameters import (
    check_choice,
    check_integer,
    check_not_negative,
    check_positive,
)
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.engine.learner import Learner, State, way_mask
from sklmeta.engine.mapping import (
    map_module,
    mapping_method,
    passing,
    task_gradients,
)
from sklmeta.episodic import CommonParameters, EpisodicRegressorMixin
from sklmeta.gradient.network import TaskWeights, below
from sklmeta.transfer._finetune_parameters import RowTrained, with_tuning_parameters
from sklmeta.transfer._heads import HEADS, Layer, make_layer
from sklmeta.transfer._optimizers import INNER_OPTIMIZERS
from sklmeta.transfer._tuning import Tuning, row_losses

__all__ = ["FineTune", "FineTuneClassifier", "FineTuneRegressor"]

HEAD = "head"  # its weights' name among those of a task
LAYERS = ("head", "all")


class FineTune(EmbeddingLearner):
    """Pre-training and fine-tuning as a torch module.

    With gradients, `meta_loss` is the loss of pre-training: that of query rows, whose
    `y` are classes of all tasks together. Without, it is that of query rows after
    adapting, as for all learners.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    task_type : {"classification", "regression"}, default="classification"
        What outputs are: logits, or numbers.
    head : {"linear", "cosine"}, default="linear"
        The last layer, in pre-training and for new tasks.
    temperature : float, default=0.1
        Divides cosines.
    layers : {"head", "all"}, default="head"
        What adapting trains.
    inner_optimizer : {"adam", "sgd"}, default="adam"
        How it is trained.
    inner_lr : float, default=0.01
        Its step size.
    inner_steps : int, default=100
        Its steps.
    weight_decay : float, default=0.0
        Pulls weights to where they started.
    inner_early_stopping : bool, default=False
        Choose the number of steps, up to `inner_steps`, on halves of the support.
    generator : torch.Generator, default=None
        Draws the weights of the head of pre-training.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.transfer import FineTune
    >>> x, y = torch.tensor([[[-1.0], [1.0]]]), torch.tensor([[0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 2).bool(), n_way=torch.tensor([2]))
    >>> learner = FineTune(torch.nn.Identity(), 1, None)
    >>> state = learner.adapt(support)
    >>> learner.predict(state, torch.tensor([[[-3.0], [0.5]]])).argmax(-1)
    tensor([[0, 1]])
    """

    adaptation_options: tuple[str, ...] = (
        *("layers", "inner_optimizer", "inner_lr", "inner_steps", "weight_decay"),
        "inner_early_stopping",
    )

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        task_type: str = "classification",
        head: str = "linear",
        temperature: float = 0.1,
        layers: str = "head",
        inner_optimizer: str = "adam",
        inner_lr: float = 0.01,
        inner_steps: int = 100,
        weight_decay: float = 0.0,
        inner_early_stopping: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(task_type, backbone, n_outputs)
        self.n_features = n_features
        self.layer: Layer = make_layer(head, temperature)
        self.layers = layers
        self.inner_optimizer = inner_optimizer
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.weight_decay = weight_decay
        self.inner_early_stopping = inner_early_stopping
        self.pretraining_head = nn.Parameter(torch.empty(0))
        self.new_head(n_outputs or 0, generator)
        # Tells the classes of the head from others; set with it.
        self.head_is_for: bytes | None = None

    def new_head(self, n_outputs: int, generator: torch.Generator | None) -> None:
        """Draw a new head of pre-training, for as many classes or targets."""
        bound = self.n_features**-0.5
        old = self.pretraining_head
        shape = n_outputs, self.layer.width(self.n_features)
        drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        self.pretraining_head = nn.Parameter(drawn.to(old.device, old.dtype))

    # Pre-training ----------------------------------------------------------------

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return the loss of query rows, (T,).

        Parameters
        ----------
        episodes : Episodes
            With gradients, its query `y` are positions in the head of pre-training, or
            targets; the support is not looked at.

        Returns
        -------
        Tensor of shape (T,)
            The mean over the query rows of each.
        """
        if not torch.is_grad_enabled():
            return super().meta_loss(episodes)
        rows = episodes.query
        prepared = self.layer.prepared(self.embed(rows.x))
        return self.loss(self.layer.outputs(self.pretraining_head, prepared), rows)

    # Adapting --------------------------------------------------------------------

    def adapt(self, support: Rows) -> State:
        """Fine-tune on each task's support rows.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,) with
            local labels.

        Returns
        -------
        dict
            "weights", by name: that of the "head" (T, N, D), and with
            ``layers="all"`` those of the backbone; "ways" (T, N).

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        if self.layers == "head":
            return super().adapt(support)
        with torch.no_grad():
            ways = self._ways(support)
            start = self._start(self.embed(support.x), support)
            for name, weight in self.backbone.named_parameters():
                if weight.requires_grad:
                    own = weight.detach().expand(len(support), *weight.shape)
                    start[f"backbone.{name}"] = own
            problem = _AllLayers(self, support, ways)
            weights = self._tuning().run(problem, start, support)
        return {"weights": weights, "ways": ways}

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Train each task's head on features of its support rows.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            As of `adapt`.
        """
        with torch.no_grad():
            ways = self._ways(support)
            problem = _HeadAlone(
                self.layer, self.layer.prepared(features), support, ways
            )
            start = self._start(features, support)
            weights = self._tuning().run(problem, start, support)
        return {"weights": weights, "ways": ways}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the outputs of fine-tuned networks for query rows.

        Parameters
        ----------
        state : dict
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)
            Query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits, -inf for ways that a task does not have; or numbers.
        """
        own = below("backbone.", state["weights"])
        features = self.features(own, x) if own else self.embed(x)
        return self.predict_features(state, features)

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return logits or numbers of each task's head.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits, -inf for ways that a task does not have; or numbers.
        """
        weight = state["weights"][HEAD]
        prepared = self.layer.prepared(features.to(weight.dtype))
        outputs = self.layer.outputs(weight, prepared)
        return _masked(outputs, state["ways"]).to(features.dtype)

    def on_features(self) -> tuple[nn.Module, Learner] | None:
        """Return the backbone and this learner on its features; None if it is tuned."""
        return super().on_features() if self.layers == "head" else None

    def features(self, weights: TaskWeights, x: Tensor) -> Tensor:
        """Map rows (T, S, *F) to features, by each task's own backbone weights."""
        with passing(self, x.device):
            method = mapping_method(self, x.device)
            return map_module(self.backbone, weights, x, method=method).to(x.dtype)

    def _tuning(self) -> Tuning:
        return Tuning(
            optimizer=self.inner_optimizer,
            lr=self.inner_lr,
            n_steps=self.inner_steps,
            weight_decay=self.weight_decay,
            chooses_steps=self.inner_early_stopping,
        )

    def _start(self, features: Tensor, support: Rows) -> TaskWeights:
        """Return where each task's head starts, (T, N, D)."""
        n_tasks = len(support)
        if self.n_outputs is not None:
            head = self.pretraining_head.detach().to(features.dtype)
            return {HEAD: head.expand(n_tasks, *head.shape)}
        n_ways, width = self._n_ways(support), self.layer.width(self.n_features)
        if width > self.n_features:  # linear: the bias is the last weight
            return {HEAD: features.new_zeros(n_tasks, n_ways, width)}
        member = self.members(support, features.dtype)  # (T, S, N)
        total = member.mT @ self.layer.prepared(features)
        return {HEAD: total / member.sum(1).clamp(min=1).unsqueeze(-1)}

    def _ways(self, support: Rows) -> Tensor:
        """Return which ways each task has, (T, N)."""
        if self.n_outputs is None and support.n_way is not None:
            return way_mask(support.n_way, self._n_ways(support))
        n_ways = self._n_ways(support)
        device = support.mask.device
        return torch.ones(len(support), n_ways, dtype=torch.bool, device=device)


@dataclass(frozen=True)
class _HeadAlone:
    """Fine-tuning a head on features that stay."""

    layer: Layer
    prepared: Tensor
    support: Rows
    ways: Tensor

    def outputs(self, weights: TaskWeights) -> Tensor:
        outputs = self.layer.outputs(weights[HEAD], self.prepared)
        return _masked(outputs, self.ways)

    def gradients(self, weights: TaskWeights, share: Tensor) -> TaskWeights:
        outputs, y = self.outputs(weights), self.support.y
        if y.is_floating_point():
            error = (outputs - y) * (2 / outputs.shape[-1])
        else:
            error = outputs.softmax(-1)
            ones = error.new_ones(()).expand(*y.shape, 1)
            error.scatter_add_(2, y.unsqueeze(-1), -ones)
        error *= share.unsqueeze(-1)
        return {HEAD: self.layer.gradient(weights[HEAD], self.prepared, error)}

    def pulled(self, offsets: TaskWeights) -> TaskWeights:
        return {HEAD: self.layer.pulled(offsets[HEAD])}


@dataclass(frozen=True)
class _AllLayers:
    """Fine-tuning of the whole network."""

    learner: FineTune
    support: Rows
    ways: Tensor

    def outputs(self, weights: TaskWeights) -> Tensor:
        features = self.learner.features(below("backbone.", weights), self.support.x)
        layer = self.learner.layer
        outputs = layer.outputs(weights[HEAD], layer.prepared(features))
        return _masked(outputs, self.ways)

    def gradients(self, weights: TaskWeights, share: Tensor) -> TaskWeights:
        def losses(own: TaskWeights) -> Tensor:
            return (row_losses(self.outputs(own), self.support.y) * share).sum(1)

        return task_gradients(losses, weights, create_graph=False)

    def pulled(self, offsets: TaskWeights) -> TaskWeights:
        pulled = {n: offset for n, offset in offsets.items() if "bias" not in n}
        return pulled | {HEAD: self.learner.layer.pulled(offsets[HEAD])}


def _masked(outputs: Tensor, ways: Tensor) -> Tensor:
    return outputs.masked_fill(~ways.unsqueeze(1), -torch.inf)


class FineTuneParameters(CommonParameters, total=False):
    """What `_FineTuneEstimator` takes, for subclasses that pass it on by name."""

    layers: str
    inner_optimizer: str
    inner_lr: float
    inner_steps: int
    weight_decay: float
    inner_early_stopping: bool


class _FineTuneEstimator(RowTrained):
    """What the two faces of fine-tuning share."""

    _adaptation_parameters = FineTune.adaptation_options

    def __init__(
        self,
        backbone: Any = None,
        *,
        layers: str = "head",
        inner_optimizer: str = "adam",
        inner_lr: float = 0.01,
        inner_steps: int = 100,
        weight_decay: float = 0.0,
        inner_early_stopping: bool = False,
        batch_size: int = 64,
        **common: Any,
    ) -> None:
        super().__init__(backbone, batch_size=batch_size, **common)
        self.layers = layers
        self.inner_optimizer = inner_optimizer
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.weight_decay = weight_decay
        self.inner_early_stopping = inner_early_stopping

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("layers", self.layers, LAYERS)
        check_choice("inner_optimizer", self.inner_optimizer, INNER_OPTIMIZERS)
        check_positive("inner_lr", self.inner_lr)
        check_integer("inner_steps", self.inner_steps, 0)
        check_not_negative("weight_decay", self.weight_decay)
        check_choice("inner_early_stopping", self.inner_early_stopping, (True, False))

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> FineTune:
        return FineTune(
            backbone,
            n_features,
            n_outputs,
            task_type="classification" if self._classifies else "regression",
            layers=self.layers,
            inner_optimizer=self.inner_optimizer,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            weight_decay=self.weight_decay,
            inner_early_stopping=self.inner_early_stopping,
            generator=generator,
            **self._head_options(),
        )

    def _head_options(self) -> dict[str, Any]:
        """Return what kind of head there is."""
        return {}


@with_tuning_parameters
class FineTuneClassifier(MetaClassifierMixin, _FineTuneEstimator):
    """Classifier that is pre-trained on all classes, and fine-tuned on a new task.

    The baseline that meta-learning has to beat [1]_: `fit` trains one network to tell
    all classes of the meta-training tasks apart, on minibatches of rows; adapting
    trains a new last layer on the support rows, or all layers with it. Works with
    labels that mean the same in every task, and with labels that mean something only
    inside one (any number of ways).

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    head : {"linear", "cosine"}, default="linear"
        The last layer: linear ("baseline" in the paper), or cosines between features
        and a vector for each class ("baseline++").

    temperature : float, default=0.1
        Divides cosines, with ``head="cosine"``.

    <tuning parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    FineTuneRegressor : The same for numbers.
    MetaBaselineClassifier : Pre-trains, then meta-learns nearest class means.
    MetaTransferClassifier : Pre-trains, then meta-learns how to shift features.
    SimpleShotClassifier : Nearest class means on features that are never trained.

    Notes
    -----
    Labels of tasks with ``labels="local"`` are told apart task by task in
    pre-training: a class that two tasks share counts as two. A `ClassPool` has no such
    ambiguity. A TaskDistribution is sampled once, 200 tasks.

    Held-out tasks, for early stopping, are judged as new tasks are: by the loss of
    their query rows after fine-tuning.

    With local labels a new linear head starts at zero and a cosine head at class means;
    with shared labels the head of pre-training goes on.

    References
    ----------
    .. [1] W.-Y. Chen, Y.-C. Liu, Z. Kira, Y.-C. F. Wang, J.-B. Huang, "A Closer Look at
       Few-shot Classification", ICLR 2019, arXiv:1904.04232.

    Examples
    --------
    >>> from sklmeta import FineTuneClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = FineTuneClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """

    _structural_parameters = (
        *_FineTuneEstimator._structural_parameters,
        "temperature",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        head: str = "linear",
        temperature: float = 0.1,
        **common: Unpack[FineTuneParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.head = head
        self.temperature = temperature

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("head", self.head, HEADS)
        check_positive("temperature", self.temperature)

    def _head_options(self) -> dict[str, Any]:
        return {"head": self.head, "temperature": self.temperature}


@with_tuning_parameters
class FineTuneRegressor(EpisodicRegressorMixin, _FineTuneEstimator):
    """Regressor that is pre-trained on the rows of all tasks, and fine-tuned on a new.

    The baseline that meta-learning has to beat: `fit` trains one network on minibatches
    of rows of all tasks together; adapting trains its last layer on the support rows,
    from where pre-training left it, or all layers with it [1]_.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    <tuning parameters>

    <common parameters>

    Attributes
    ----------
    <common attributes>

    See Also
    --------
    FineTuneClassifier : The same for labels.
    PooledRegressor : A scikit-learn regressor for all rows, without fine-tuning.

    Notes
    -----
    Where tasks differ in level and spread, ``normalize_y="task"`` takes these from the
    support rows, so that pre-training learns what is left.

    References
    ----------
    .. [1] X. Li, Y. Grandvalet, F. Davoine, "Explicit Inductive Bias for Transfer
       Learning with Convolutional Networks", ICML 2018, arXiv:1802.01483.

    Examples
    --------
    >>> from sklmeta import FineTuneRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(20, random_state=0)
    >>> meta = FineTuneRegressor(max_iter=20, random_state=0).fit(tasks)
    >>> meta.adapt(tasks[0].X[:5], tasks[0].y[:5]).predict(tasks[0].X[5:8]).shape
    (3,)
    """
