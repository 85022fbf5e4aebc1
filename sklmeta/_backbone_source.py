"""Backbones of fitted meta-learners, for others to use or to start from.

Rows must reach such a backbone as they did in meta-training: what it learned about
their scale comes with it.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from sklearn.exceptions import NotFittedError
from torch import nn

from sklmeta._preparation import Preparation, Settings
from sklmeta.backbones.freezing import is_fixed, thaw
from sklmeta.backbones.normalization import TaskBatchNorm
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.engine.inference import on_cpu
from sklmeta.engine.learner import Learner
from sklmeta.tasks import ClassPool, TaskSet

__all__ = [
    "backbone_of",
    "check_source",
    "fitted_learner",
    "prepared_by",
    "refuse_unlearned_averages",
]

PARAMETER = "backbone_from"


def check_source(estimator: Any) -> None:
    """Check `backbone_from` of an estimator, which need not be fitted yet.

    Raises
    ------
    TypeError
        If it is no meta-learner, or `backbone` is one.
    ValueError
        If `backbone` is given too.
    """
    source, backbone = estimator.backbone_from, estimator.backbone
    if _is_meta_learner(backbone):
        raise TypeError(
            f"backbone is a {type(backbone).__name__}, and {type(estimator).__name__} "
            "trains its backbone: give a meta-learner to start from as backbone_from=, "
            "or a torch module as backbone=."
        )
    if source is None:
        return
    if not _is_meta_learner(source):
        raise TypeError(
            f"backbone_from must be a fitted meta-learner, got a "
            f"{type(source).__name__}. Torch modules go in backbone=; of a pipeline, "
            "give the meta-learner that is its last step."
        )
    if backbone is not None:
        raise ValueError(
            "backbone and backbone_from are both given, and there can be one start. "
            f"Leave out backbone={backbone!r} to start from the backbone of the "
            f"{type(source).__name__}, or backbone_from."
        )


def fitted_learner(meta: Any, parameter: str = PARAMETER) -> Learner:
    """Return the torch learner of a fitted meta-learner, for its backbone.

    Parameters
    ----------
    meta : meta-learner
    parameter : str, default="backbone_from"
        What it was given as, for messages.

    Returns
    -------
    Learner

    Raises
    ------
    NotFittedError
        If it is not fitted.
    TypeError
        If it has no backbone, or one without weights.
    """
    name = type(meta).__name__
    if not meta.__sklearn_is_fitted__():
        raise NotFittedError(
            f"{parameter} is a {name} that is not meta-trained. Call its fit(tasks) "
            "first. scikit-learn's clone empties a meta-learner that is a parameter "
            f"value, as in {{'{parameter}': [a, b]}}: compare estimators with "
            f"{parameter}=a and {parameter}=b instead."
        )
    learner = getattr(meta, "learner_", getattr(meta, "_learner", None))
    if not isinstance(getattr(learner, "backbone", None), nn.Module):
        raise TypeError(
            f"{parameter} is a {name}, which has no torch backbone. Give a "
            "meta-learner with one, such as ProtoNetClassifier or MAMLRegressor."
        )
    assert isinstance(learner, Learner)
    return learner


def backbone_of(meta: Any) -> nn.Module:
    """Return a copy of a fitted meta-learner's backbone, all of it to be trained.

    Raises
    ------
    NotFittedError, TypeError
        As `fitted_learner` does, and where the backbone has no weights.
    """
    backbone = copy.deepcopy(on_cpu(fitted_learner(meta)).get_submodule("backbone"))
    if not any(True for _ in backbone.parameters()):
        raise TypeError(
            f"backbone_from is a {type(meta).__name__} whose backbone has no weights "
            "to start from: it passes rows on as they are. Give a meta-learner that "
            "was meta-trained with a backbone, or leave backbone_from out."
        )
    return thaw(backbone)


def prepared_by(
    meta: Any,
    settings: Settings,
    tasks: TaskSet | ClassPool,
    classes: Any = None,
    *,
    parameter: str = PARAMETER,
) -> Preparation:
    """Return a preparation that scales rows as a fitted meta-learner does.

    Parameters
    ----------
    meta : meta-learner
        One whose backbone is to be used.
    settings : Settings
        Of the estimator that is to use its backbone; an `image_shape` of None is
        taken from `meta`.
    tasks : TaskSet or ClassPool
        What labels and targets are learned from.
    classes : array-like, default=None
        Shared labels, where the tasks may not hold all of them.
    parameter : str, default="backbone_from"
        What the meta-learner was given as, for messages.

    Returns
    -------
    Preparation

    Raises
    ------
    NotFittedError, TypeError
        As `fitted_learner` does.
    ValueError
        If it had rows of another shape, with other names or scaled otherwise.
    """
    fitted_learner(meta, parameter)
    name, theirs, shape = type(meta).__name__, meta._preparation, settings.image_shape
    if shape not in (None, theirs.settings.image_shape):
        raise ValueError(
            f"image_shape={shape}, and the {name} given as {parameter} was "
            f"meta-trained with image_shape={theirs.settings.image_shape}. Leave it "
            "out."
        )
    try:
        theirs.check_width(meta, tasks.rows())
    except ValueError as error:
        raise ValueError(
            f"The tasks have other rows than the {name} given as {parameter}, whose "
            f"backbone is to take them: {error}"
        ) from error
    settings = replace(
        settings, image_shape=theirs.settings.image_shape, normalize_x=False
    )
    own = Preparation.learn(settings, tasks, classes)
    if own.eight_bit and not theirs.eight_bit:
        raise ValueError(
            f"The tasks hold uint8 images, and the {name} given as {parameter} was "
            "meta-trained on other numbers. Convert images as for its tasks."
        )
    return replace(
        own,
        eight_bit=theirs.eight_bit,
        x_mean=theirs.x_mean,
        x_scale=theirs.x_scale,
    )


def refuse_unlearned_averages(
    meta: Any, backbone: nn.Module, is_kept: bool = False
) -> None:
    """Refuse to fix normalisation whose running averages nobody has learned.

    Parameters
    ----------
    meta : meta-learner
        Where the backbone is from.
    backbone : torch.nn.Module
        With some layers fixed.
    is_kept : bool, default=False
        Whether nothing is trained any more, so that all layers stay as they are.

    Raises
    ------
    ValueError
        If a fixed layer of batch normalisation took the statistics of support rows.
    """
    learner = fitted_learner(meta)
    if isinstance(learner, EmbeddingLearner):
        return
    before = dict(learner.get_submodule("backbone").named_modules())
    for name, layer in backbone.named_modules():
        if isinstance(layer, TaskBatchNorm) and (is_kept or is_fixed(layer)):
            if name in before and is_fixed(before[name]):
                continue
            raise ValueError(
                f"{'max_iter=0 leaves' if is_kept else 'freeze fixes'} the batch "
                f"normalisation {name!r} to its running averages, and the "
                f"{type(meta).__name__} given as backbone_from has learned none: it "
                "normalises by each task's support rows. Freeze other "
                "layers, start from a metric learner such as ProtoNetClassifier, or "
                "use a backbone without batch normalisation."
            )


def _is_meta_learner(thing: Any) -> bool:
    return hasattr(type(thing), "__sklmeta_tags__")
