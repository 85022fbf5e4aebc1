r"""SimpleShot: nearest class mean on transformed features of a fixed backbone.

Features :math:`f` of rows are transformed, and a query row gets the class whose support
rows have the nearest mean, by Euclidean distance. The transformations of the paper's
section 2 are the identity, L2 normalisation, and centring before it:

.. math:: f \leftarrow \frac{f}{\lVert f \rVert_2}, \qquad
          f \leftarrow \frac{f - \bar f}{\lVert f - \bar f \rVert_2},

:math:`\bar f` being the mean feature of all rows of the meta-training tasks. It is all
that is learned here: the backbone was trained elsewhere, and stays as it is.

Deviations from the paper
-------------------------
- The paper trains its backbones as classifiers of all base classes; here it is given.
- The paper predicts classes only. Probabilities are a softmax of negative squared
  distances, as in prototypical networks.

References
----------
Wang, Chao, Weinberger and van der Maaten, "SimpleShot: Revisiting Nearest-Neighbor
Classification for Few-Shot Learning", arXiv:1911.04623.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta._meta_tags import MetaTags
from sklmeta._parameters import check_choice
from sklmeta.engine.batches import Rows
from sklmeta.engine.learner import State
from sklmeta.engine.pool import RowPool
from sklmeta.metric._fixed_backbone import mean_feature
from sklmeta.metric._fixed_backbone_classifier import (
    FixedBackboneClassifier,
    FixedBackboneParameters,
    with_fixed_backbone_parameters,
)
from sklmeta.metric.protonet import ProtoNet

__all__ = ["SimpleShot", "SimpleShotClassifier"]

TRANSFORMS = ("none", "l2", "cl2")


class SimpleShot(ProtoNet):
    """Nearest class mean of transformed features, as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels), None for local labels.
    transform : {"none", "l2", "cl2"}, default="cl2"
        What is done to features: nothing, L2 normalisation, or centring before it.
    centre : Tensor of shape (n_features,), default=None
        Mean feature that "cl2" takes off; None stands for 0.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.metric import SimpleShot
    >>> x, y = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.tensor([[0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 2).bool(), n_way=torch.tensor([2]))
    >>> learner = SimpleShot(torch.nn.Identity(), n_outputs=None, transform="l2")
    >>> learner.adapt(support)["prototypes"]
    tensor([[[0.6000, 0.8000],
             [0.0000, 1.0000]]])
    """

    adaptation_options = ("transform",)
    centre: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        n_outputs: int | None,
        *,
        transform: str = "cl2",
        centre: Tensor | None = None,
    ) -> None:
        super().__init__(backbone, n_outputs)
        self.transform = transform
        self.register_buffer("centre", torch.zeros(()) if centre is None else centre)

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the class means of each task's transformed features.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "prototypes" (T, N, n_features) and "ways" (T, N), True where a way has
            support rows.
        """
        return super().adapt_features(self._transformed(features), support)

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return logits: negative squared distances to the class means.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N)
            -inf for ways without support rows.
        """
        return super().predict_features(state, self._transformed(features))

    def _transformed(self, features: Tensor) -> Tensor:
        if self.transform == "none":
            return features
        if self.transform == "cl2":
            features = features - self.centre
        return F.normalize(features, dim=-1)


@with_fixed_backbone_parameters
class SimpleShotClassifier(FixedBackboneClassifier):
    """Nearest class mean on transformed features of a fixed backbone.

    SimpleShot [1]_: the simplest use of features that were trained elsewhere, and hard
    to beat where these are good. `fit` trains nothing: one pass over the meta-training
    rows takes their mean feature, which is the same for every task.

    Parameters
    ----------
    <fixed backbone>

    transform : {"none", "l2", "cl2"}, default="cl2"
        What is done to features: nothing, L2 normalisation, or centring with the mean
        feature of the meta-training rows before it. Read when adapting.

    <parameters of score>

    Attributes
    ----------
    mean_feature_ : ndarray of shape (n_backbone_features,)
        Mean feature of the meta-training rows.

    <fixed attributes>

    See Also
    --------
    ProtoNetClassifier : Trains its backbone for nearest class means.
    PerTaskClassifier : Fits any scikit-learn classifier to support rows alone.

    Notes
    -----
    `sklearn.base.clone` keeps a fitted meta-learner that is given as `backbone`, and so
    do searches over other parameters; as a value that is searched over scikit-learn
    empties it. The backbone is copied in `fit`: fitting the meta-learner anew later
    changes nothing here.

    References
    ----------
    .. [1] Y. Wang, W.-L. Chao, K. Q. Weinberger, L. van der Maaten, "SimpleShot:
       Revisiting Nearest-Neighbor Classification for Few-Shot Learning",
       arXiv:1911.04623.

    Examples
    --------
    >>> from sklmeta import SimpleShotClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = SimpleShotClassifier().fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """

    mean_feature_: NDArray[np.float64]

    _adaptation_parameters = ("transform",)

    def __init__(
        self,
        backbone: Any = "identity",
        *,
        transform: str = "cl2",
        **common: Unpack[FixedBackboneParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.transform = transform

    def __sklmeta_tags__(self) -> MetaTags:
        """Say that only the centre of features is learned from tasks."""
        tags = super().__sklmeta_tags__()
        tags.learns_from_tasks = self.transform == "cl2"
        return tags

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("transform", self.transform, TRANSFORMS)

    def _learned(
        self, backbone: nn.Module, n_outputs: int | None, pool: RowPool
    ) -> SimpleShot:
        learner = SimpleShot(backbone, n_outputs, transform=self.transform).eval()
        mean = mean_feature(learner, pool)
        learner.centre = mean.to(pool.device, torch.float32)
        self.mean_feature_ = mean.numpy()
        return learner
