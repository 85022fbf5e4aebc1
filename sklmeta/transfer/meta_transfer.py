r"""Meta-transfer learning: scales and shifts of a pre-trained network, and a head.

A network is trained to tell all training classes apart, and its weights are frozen.
What episodes then train are scales :math:`\Phi_1` and shifts :math:`\Phi_2` of its
layers, one for each kernel and channel, and the start :math:`\theta` of a linear head
that adapting moves alone (equations 3 to 5 of the paper):

.. math:: \theta' = \theta - \beta \nabla_\theta \mathcal{L}^s(\theta; \Phi),
          \qquad (\Phi, \theta) \leftarrow (\Phi, \theta)
          - \gamma \nabla \mathcal{L}^q(\theta'; \Phi).

It is ANIL with few weights to learn in the backbone. Every few batches hold what the
learner failed at: see `sklmeta.transfer._hard_tasks`.

Deviations from the paper
-------------------------
- Dense layers are scaled and shifted too, by one number per output.
- Batch normalisation takes the statistics of the support rows, as with the other
  gradient learners here.
- Pre-training and both loops have the step sizes of this library by default; the paper
  adapts by 20 steps or more of 0.01, with a residual net of 12 layers.
- Hard tasks are found by a pass without gradients.

References
----------
Sun, Liu, Chua and Schiele, "Meta-Transfer Learning for Few-Shot Learning", CVPR 2019,
arXiv:1812.02391.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from sklmeta._meta_training import training_sampler
from sklmeta._parameters import check_integer
from sklmeta._preparation import Preparation
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Episodes
from sklmeta.engine.learner import Learner
from sklmeta.gradient._estimator import with_gradient_parameters
from sklmeta.gradient.anil import ANIL, ANILEstimator
from sklmeta.tasks import ClassPool, TaskSet
from sklmeta.transfer._hard_tasks import HardTasks
from sklmeta.transfer._pretraining import (
    PretrainedMetaLearner,
    with_pretraining_parameters,
)
from sklmeta.transfer._scale_shift import scaled_and_shifted

__all__ = ["MetaTransfer", "MetaTransferClassifier"]


class MetaTransfer(ANIL):
    """Meta-transfer learning as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features). Its weights are frozen, and its
        convolutions and dense layers get scales and shifts.
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels); None for local labels.
    **network
        Further parameters of `ANIL`.

    Raises
    ------
    ValueError
        If the backbone has no layer to scale and shift.
    """

    default_head = "fixed"  # the paper's

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        **network: Any,
    ) -> None:
        trained = {id(p) for p in backbone.parameters() if p.requires_grad}
        backbone = scaled_and_shifted(backbone)
        pretrained = frozenset(
            name for name, p in backbone.named_parameters() if id(p) in trained
        )
        super().__init__(backbone, n_features, n_outputs, **network)
        self._pretrained = pretrained

    @contextmanager
    def pretraining(self) -> Iterator[None]:
        """Train the weights that are frozen otherwise, and those alone."""
        learned = {p: p.requires_grad for p in self.backbone.parameters()}
        try:
            for name, parameter in self.backbone.named_parameters():
                parameter.requires_grad_(name in self._pretrained)
            yield
        finally:
            for parameter, is_learned in learned.items():
                parameter.requires_grad_(is_learned)


@with_pretraining_parameters
@with_gradient_parameters
class MetaTransferClassifier(MetaClassifierMixin, PretrainedMetaLearner, ANILEstimator):
    """Classifier that meta-learns how to scale and shift a pre-trained network.

    Meta-transfer learning [1]_: `fit` first trains the backbone to tell all classes of
    the meta-training tasks apart and freezes it; episodes then train scales and shifts
    of its layers, and where the last layer starts. Adapting moves the last layer alone,
    by a few gradient steps. Few weights are meta-learned, so that deep backbones do not
    overfit to few tasks.

    Parameters
    ----------
    backbone : torch.nn.Module, callable or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images), or None
        for an MLP (rows) or a four-block convolution net (images). It needs
        convolutions or dense layers.

    hard_tasks : int or None, default=10
        One batch of what came out worst after as many others: of classes of a
        `ClassPool`, else of tasks. None draws all batches alike.

    <pretraining parameters>

    inner_lr : float, default=0.1
        Step size of the inner loop. Read when adapting.

    inner_steps : int, default=5
        Gradient steps of the inner loop, in meta-training and when adapting; change it
        after `fit` to adapt further.

    first_order : bool, default=False
        Take the inner loop's gradients for constants in meta-training.

    head : {"auto", "fixed", "shared", "prototype"}, default="auto"
        What the linear layer on the features starts from in a new task, with local
        labels: "fixed" is a meta-learned vector per way, for as many ways as in
        meta-training at most; "shared" starts all ways at zero, "prototype" from class
        means, both for any number of ways. "auto" is "fixed", as in the paper, with
        local labels. With shared labels the start is meta-learned in any case.

    <network parameters>

    <common parameters>

    Attributes
    ----------
    pretrain_history_ : skorch.history.History
        One row per epoch of pre-training: `train_loss` and `dur`.

    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    ANILClassifier : Meta-learns all weights of the backbone.
    FineTuneClassifier : Pre-trains as well, and trains a new last layer.
    MetaBaselineClassifier : Pre-trains, then meta-learns nearest class means.

    Notes
    -----
    A TaskDistribution has no hard tasks: its tasks are fresh in every batch, and
    `hard_tasks` is not used. `pretrain_iter` and the like act in the first `fit` or
    `partial_fit` alone; Ctrl-C in pre-training stops `fit` without a result. All
    weights are frozen in meta-training: `freeze` says which of them are not
    pre-trained, and all layers have scales and shifts to learn, whatever it says.

    References
    ----------
    .. [1] Q. Sun, Y. Liu, T.-S. Chua, B. Schiele, "Meta-Transfer Learning for Few-Shot
       Learning", CVPR 2019, arXiv:1812.02391.

    Examples
    --------
    >>> from sklmeta import MetaTransferClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = MetaTransferClassifier(pretrain_iter=20, max_iter=3, random_state=0)
    >>> new = pool[5:]
    >>> few_shot = meta.fit(pool[:5]).adapt(new.X[:40], new.y[:40])
    >>> few_shot.predict(new.X[40:45]).shape
    (5,)
    """

    _default_head = MetaTransfer.default_head

    def __init__(
        self,
        backbone: Any = None,
        *,
        hard_tasks: int | None = 10,
        **common: Any,
    ) -> None:
        super().__init__(backbone, **common)
        self.hard_tasks = hard_tasks

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.hard_tasks is not None:
            check_integer("hard_tasks", self.hard_tasks, 1)

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> MetaTransfer:
        return MetaTransfer(
            backbone,
            n_features,
            n_outputs,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            first_order=self.first_order,
            **self._network_options(n_features, n_outputs, n_ways),
            generator=generator,
        )

    def _while_pretraining(self, learner: Any) -> AbstractContextManager[None]:
        return learner.pretraining()

    def _training_stream(
        self, learner: Learner, tasks: Any, preparation: Preparation, seed: int
    ) -> Iterator[Episodes]:
        if self.hard_tasks is None or not isinstance(tasks, TaskSet | ClassPool):
            return super()._training_stream(learner, tasks, preparation, seed)
        weights = self.domain_weights
        sampler = training_sampler(self, tasks, preparation, weights)
        hard = HardTasks(sampler, learner, self.batch_size, self.hard_tasks)
        return hard.batches(torch.Generator().manual_seed(seed))
