"""Features of rows that are made once for all of meta-training.

Where no weight of the backbone is trained, its features of a row are the same in every
episode. Learners that allow it are then trained on features, and each row passes the
backbone when it is first drawn.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from sklmeta._meta_training import Seeds
from sklmeta._parameters import resolve_device
from sklmeta._preparation import Preparation
from sklmeta.backbones.freezing import is_fixed
from sklmeta.engine.features import FeaturePool
from sklmeta.engine.learner import Learner
from sklmeta.engine.modules import try_out
from sklmeta.engine.pool import RowPool
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["FeaturePreparation", "features_once"]


@dataclass(frozen=True)
class FeaturePreparation(Preparation):
    """Prepares rows as another does, and has features made of them.

    Attributes
    ----------
    embed : nn.Module
        What rows pass, on the device where they are prepared.
    """

    embed: nn.Module | None = None

    @classmethod
    def of(cls, preparation: Preparation, embed: nn.Module) -> FeaturePreparation:
        """Return a preparation whose pools hold features."""
        known = {
            one.name: getattr(preparation, one.name) for one in fields(Preparation)
        }
        return cls(**known, embed=embed)

    def pool(self, tasks: TaskSet | ClassPool, device: torch.device) -> RowPool:
        """Return the tasks' rows on the device, whose features are made when taken."""
        assert self.embed is not None
        return FeaturePool(super().pool(tasks, device), self.embed)


def features_once(
    estimator: Any,
    preparation: Preparation,
    learner: Learner,
    sample: TaskSet | ClassPool,
    seeds: Seeds,
    goes_on: bool,
) -> tuple[Preparation, Learner]:
    """Return what to meta-train on features, where the backbone is fixed.

    Parameters
    ----------
    estimator : EpisodicMetaLearner
    preparation : Preparation
    learner : Learner
        Moved to the estimator's device where it is trained on features.
    sample : TaskSet or ClassPool
        Tasks that a backbone of unknown layers is tried out on.
    seeds : Seeds
    goes_on : bool
        Whether the learner has been trained, and its backbone been tried out.

    Returns
    -------
    preparation, learner
        Pools of features, and a view of the learner that takes them, and shares all
        that is trained; those that were given where the backbone is trained, or
        learners need the rows themselves.
    """
    backbone = getattr(learner, "backbone", None)
    if not isinstance(backbone, nn.Module) or not is_fixed(backbone):
        return preparation, learner
    if any(p.requires_grad for p in backbone.parameters()):
        return preparation, learner  # scales and shifts of fixed layers are trained
    learner.to(resolve_device(estimator.device)).eval()
    parts = learner.on_features()
    if parts is None:
        return preparation, learner
    if not goes_on:
        _try_out(estimator, preparation, learner, sample, seeds.episodes)
    embed, trained = parts
    trained.sees_features = preparation.is_image  # features of tables are made double
    return FeaturePreparation.of(preparation, embed), trained


def _try_out(
    estimator: Any, preparation: Preparation, learner: Learner, sample: Any, seed: int
) -> None:
    """Try the backbone out on rows, which training is not going to show it again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training says what is to say of tasks
        first = next(estimator._training_stream(learner, sample, preparation, seed))
    try_out(learner, first)
