"""Meta-learners whose backbone is pre-trained on rows before it meets episodes."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, Unpack

import torch
from skorch.history import History
from torch import nn

from sklmeta import _meta_training
from sklmeta._meta_training import Seeds, representative
from sklmeta._parameters import (
    check_integer,
    check_positive,
    filled_in,
    resolve_device,
    with_common_parameters,
)
from sklmeta._preparation import Preparation
from sklmeta.backbones.build import feature_size
from sklmeta.backbones.freezing import is_fixed
from sklmeta.episodic import CommonParameters, EpisodicMetaLearner
from sklmeta.transfer._training_rows import fit_head, n_classes_of, training_stream
from sklmeta.transfer.finetune import FineTune

__all__ = [
    "PretrainedMetaLearner",
    "PretrainingParameters",
    "with_pretraining_parameters",
]

PRETRAINING = """\
pretrain_iter : int, default=1000
    Updates of pre-training, before meta-training; 0 leaves it out, as for a `backbone`
    that is pre-trained already. `callbacks` and `early_stopping` act afterwards, in
    meta-training alone.

pretrain_lr : float, default=1e-3
    Step size of pre-training.

pretrain_batch_size : int, default=64
    Rows per update of pre-training.
"""
NAMES = ("pretrain_iter", "pretrain_lr", "pretrain_batch_size")

Class = TypeVar("Class", bound=type)


def with_pretraining_parameters(cls: Class) -> Class:
    """Write the parameters of pre-training and the shared ones into a docstring."""
    texts = {"<pretraining parameters>": PRETRAINING}
    return with_common_parameters(filled_in(cls, texts))


class PretrainingParameters(CommonParameters, total=False):
    """What `PretrainedMetaLearner` takes, for subclasses that pass it on by name."""

    pretrain_iter: int
    pretrain_lr: float
    pretrain_batch_size: int


class PretrainedMetaLearner(EpisodicMetaLearner):
    """Base of the estimators that pre-train their backbone before meta-training."""

    _exempt_parameters = (*EpisodicMetaLearner._exempt_parameters, *NAMES)

    def __init__(
        self,
        backbone: Any = None,
        *,
        pretrain_iter: int = 1000,
        pretrain_lr: float = 1e-3,
        pretrain_batch_size: int = 64,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.pretrain_iter = pretrain_iter
        self.pretrain_lr = pretrain_lr
        self.pretrain_batch_size = pretrain_batch_size

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_integer("pretrain_iter", self.pretrain_iter, 0)
        check_positive("pretrain_lr", self.pretrain_lr)
        check_integer("pretrain_batch_size", self.pretrain_batch_size, 1)

    def _pretraining_head(self) -> dict[str, Any]:
        """Return what kind of head the backbone is pre-trained with."""
        return {}

    def _while_pretraining(self, learner: Any) -> AbstractContextManager[None]:
        """Return the context in which the weights to pre-train are trained."""
        return nullcontext()

    @property
    def pretrain_history_(self) -> History:
        """One row per epoch of pre-training: `train_loss` and `dur`."""
        return self.learner_.pretrain_history

    def _get_ready(
        self,
        learner: Any,
        tasks: Any,
        preparation: Preparation,
        seeds: Seeds,
        goes_on: bool,
    ) -> bool:
        if goes_on:
            return False
        tasks = representative(tasks, seeds.episodes)
        n_classes_of(tasks, preparation)  # refuses a single class
        learner.pretrain_history = History()
        with self._while_pretraining(learner):
            if self.pretrain_iter and not is_fixed(learner.backbone):
                learner.pretrain_history = self._pretrain(
                    learner.backbone, tasks, preparation, seeds
                )
        return False

    def _pretrain(
        self, backbone: nn.Module, tasks: Any, preparation: Preparation, seeds: Seeds
    ) -> History:
        """Train a backbone on rows, in place; return the history."""
        learner = FineTune(
            backbone,
            feature_size(backbone, preparation.input_shape),
            preparation.n_outputs,
            generator=torch.Generator().manual_seed(seeds.weights),
            **self._pretraining_head(),
        )
        fit_head(learner, tasks, preparation, seeds)
        own: Any = copy.copy(self)
        own.outer_lr, own._step_sizes = self.pretrain_lr, ("pretrain_lr",)
        own.callbacks, own.early_stopping, own._clips = None, False, False
        device, size = resolve_device(self.device), self.pretrain_batch_size
        stream = training_stream(
            tasks, preparation, device, size, seeds.episodes, self.domain_weights
        )
        result = _meta_training.train(
            own, learner, stream, None, None, self.pretrain_iter, seeds.dropout
        )
        if result.interrupted is not None:
            raise result.interrupted
        return result.history
