r"""Meta-Baseline: a pre-trained network, meta-trained as nearest class mean by cosine.

A network is trained to tell all training classes apart, and loses its last layer; then
episodes train it, and a scale :math:`\tau` of the cosines between features and class
means :math:`c_k` (equation 2 of the paper):

.. math:: p(y = k \mid x) = \mathrm{softmax}_k(\tau \cos(f_\theta(x), c_k)).

Without the second stage it is the paper's Classifier-Baseline.

Deviations from the paper
-------------------------
- :math:`\tau` is written as the inverse of a temperature, 0.1 at first, as the paper's
  10, and a factor of it is learned.
- Adam in both stages; the paper has stochastic gradient descent with momentum.

References
----------
Chen, Liu, Xu, Darrell and Wang, "Meta-Baseline: Exploring Simple Meta-Learning for
Few-Shot Learning", ICCV 2021, arXiv:2003.04390.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import nn

from sklmeta._parameters import check_choice, check_positive
from sklmeta.base import MetaClassifierMixin
from sklmeta.metric.protonet import ProtoNet
from sklmeta.transfer._pretraining import (
    PretrainedMetaLearner,
    PretrainingParameters,
    with_pretraining_parameters,
)

__all__ = ["MetaBaselineClassifier"]


@with_pretraining_parameters
class MetaBaselineClassifier(MetaClassifierMixin, PretrainedMetaLearner):
    """Nearest class mean by cosine, on a pre-trained and then meta-trained network.

    Meta-Baseline [1]_: `fit` first trains the backbone to tell all classes of the
    meta-training tasks apart, then meta-trains it on episodes, together with the
    temperature of the cosines. Adapting takes class means of the support rows. Any
    number of ways.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    temperature : float, default=0.1
        Divides cosines. Read when adapting.

    learn_temperature : bool, default=True
        Learn in meta-training a factor that multiplies `temperature`.

    <pretraining parameters>

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
    ProtoNetClassifier : The same with ``metric="cosine"``, without pre-training.
    FineTuneClassifier : Trains a new last layer on pre-trained features.
    SimpleShotClassifier : Class means on features that stay as they are.

    Notes
    -----
    `pretrain_iter` and the like act in the first `fit` or `partial_fit` alone: later
    ones go on with meta-training. Ctrl-C in pre-training stops `fit` without a result.

    References
    ----------
    .. [1] Y. Chen, Z. Liu, H. Xu, T. Darrell, X. Wang, "Meta-Baseline: Exploring Simple
       Meta-Learning for Few-Shot Learning", ICCV 2021, arXiv:2003.04390.

    Examples
    --------
    >>> from sklmeta import MetaBaselineClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = MetaBaselineClassifier(pretrain_iter=20, max_iter=5, random_state=0)
    >>> new = pool[5:]
    >>> few_shot = meta.fit(pool[:5]).adapt(new.X[:40], new.y[:40])
    >>> few_shot.predict(new.X[40:45]).shape
    (5,)
    """

    _adaptation_parameters = ("temperature",)
    _structural_parameters = (
        *PretrainedMetaLearner._structural_parameters,
        "learn_temperature",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        temperature: float = 0.1,
        learn_temperature: bool = True,
        **common: Unpack[PretrainingParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.temperature = temperature
        self.learn_temperature = learn_temperature

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("temperature", self.temperature)
        check_choice("learn_temperature", self.learn_temperature, (True, False))

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> ProtoNet:
        return CosinePrototypes(
            backbone,
            n_outputs,
            metric="cosine",
            temperature=self.temperature,
            learn_temperature=self.learn_temperature,
        )


class CosinePrototypes(ProtoNet):
    """Prototypical network by cosine, whose metric is no option of adaptation."""

    adaptation_options = ("temperature",)
