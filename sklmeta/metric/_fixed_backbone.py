"""Features of a backbone that was trained elsewhere, for learners that train none."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sklmeta._backbone_source import fitted_learner, prepared_by
from sklmeta._preparation import Preparation, Settings
from sklmeta.base import BaseMetaLearner
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.engine.inference import on_cpu
from sklmeta.engine.pool import RowPool
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["as_prepared_by", "mean_feature"]

ROWS_PER_BLOCK = 512


def as_prepared_by(
    meta: BaseMetaLearner, settings: Settings, tasks: TaskSet | ClassPool
) -> tuple[Preparation, nn.Module]:
    """Return how a fitted meta-learner prepares rows, and a copy of its backbone.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        If it is not fitted, has no features of its own, or had other rows.
    """
    learner = fitted_learner(meta, "backbone")
    if not isinstance(learner, EmbeddingLearner):
        raise TypeError(
            f"backbone is a {type(meta).__name__}, whose features are not the same for "
            "all tasks. Give a meta-learner that compares features of a fixed "
            "backbone, such as ProtoNetClassifier, or a torch module."
        )
    preparation = prepared_by(meta, settings, tasks, parameter="backbone")
    backbone: nn.Module = on_cpu(learner).get_submodule("backbone")
    return preparation, copy.deepcopy(backbone)


def mean_feature(learner: EmbeddingLearner, pool: RowPool) -> Tensor:
    """Return the mean feature of all rows of a pool, in double precision."""
    total: Tensor | float = 0.0
    with torch.no_grad():
        for rows in torch.arange(pool.n_rows).split(ROWS_PER_BLOCK):
            features = learner.embed(pool.take(rows[None]))
            total = total + features.double().sum((0, 1)).cpu()
    mean = torch.as_tensor(total) / pool.n_rows
    if not torch.isfinite(mean).all():
        raise ValueError(
            "The backbone gives features that are not finite. Check its weights, and "
            "whether it expects rows scaled otherwise."
        )
    return mean
