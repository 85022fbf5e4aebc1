r"""Prototypical networks: nearest class mean in a meta-learned feature space.

With features :math:`f_\phi` the prototype of way :math:`k` is the mean of its support
rows (equation 1 of the paper), and query rows are classified by a softmax over
distances (equation 2):

.. math:: c_k = \frac{1}{|S_k|} \sum_{(x_i, y_i) \in S_k} f_\phi(x_i), \qquad
          p(y = k \mid x) = \mathrm{softmax}_k(-d(f_\phi(x), c_k) / \tau).

Deviations from the paper
-------------------------
- A temperature :math:`\tau` divides the distances: 1 for squared Euclidean distances,
  as in the paper; 0.1 for cosine distances, which a softmax could not tell apart
  otherwise.
- With labels that mean the same in all tasks, a class without support rows in a task
  gets probability 0 there, and its query rows stay out of the meta-training loss.

References
----------
Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS 2017,
arXiv:1703.05175.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta._parameters import check_choice, check_positive, with_common_parameters
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Rows
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.engine.learner import State
from sklmeta.episodic import CommonParameters, EpisodicMetaLearner

__all__ = ["ProtoNet", "ProtoNetClassifier"]

METRICS = ("sqeuclidean", "cosine")


class ProtoNet(EmbeddingLearner):
    """Prototypical network as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels), None for local labels.
    metric : {"sqeuclidean", "cosine"}, default="sqeuclidean"
        Distance between features and prototypes.
    temperature : float, default=None
        Divides the distances; None means 1 for "sqeuclidean" and 0.1 for "cosine".

    Examples
    --------
    Without scikit-learn, on one task of two ways:

    >>> import torch
    >>> from sklmeta.engine.batches import Episodes, Rows
    >>> from sklmeta.metric import ProtoNet
    >>> x, y = torch.tensor([[[0.0], [1.0], [4.0]]]), torch.tensor([[0, 0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 3).bool(), n_way=torch.tensor([2]))
    >>> learner = ProtoNet(torch.nn.Identity(), n_outputs=None)
    >>> state = learner.adapt(support)
    >>> state["prototypes"].flatten()
    tensor([0.5000, 4.0000])
    >>> learner.predict(state, torch.tensor([[[0.5], [3.0]]])).argmax(-1)
    tensor([[0, 1]])

    A backbone with weights learns from ``meta_loss``, the query loss of each task:

    >>> learner.meta_loss(Episodes(support, query=support)).shape
    torch.Size([1])
    """

    adaptation_options = ("metric", "temperature")

    def __init__(
        self,
        backbone: nn.Module,
        n_outputs: int | None,
        *,
        metric: str = "sqeuclidean",
        temperature: float | None = None,
    ) -> None:
        super().__init__("classification", backbone, n_outputs)
        self.metric = metric
        self.temperature = temperature

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the prototypes of each task.

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
        member = self.members(support, features.dtype)  # (T, S, N)
        count = member.sum(1)  # (T, N)
        total = member.transpose(1, 2) @ features  # (T, N, n_features)
        prototypes = total / count.clamp(min=1).unsqueeze(-1)  # equation (1)
        return {"prototypes": prototypes, "ways": count > 0}

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return logits: negative distances to the prototypes over the temperature.

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
        prototypes = state["prototypes"]
        if self.metric == "cosine":
            unit = F.normalize(features, dim=-1)
            similarity = unit @ F.normalize(prototypes, dim=-1).transpose(1, 2)
            distance = 1 - similarity
        elif torch.is_grad_enabled():
            offsets = features.unsqueeze(2) - prototypes.unsqueeze(1)
            distance = offsets.square().sum(-1)
        else:
            # The same without a tensor of (T, Q, N, n_features): a root has no gradient
            # where distances are 0, but needs none here.
            exact = "donot_use_mm_for_euclid_dist"
            distance = torch.cdist(features, prototypes, compute_mode=exact).square()
        temperature = self.temperature
        if temperature is None:
            temperature = 0.1 if self.metric == "cosine" else 1.0
        logits = -distance / temperature
        return logits.masked_fill(~state["ways"].unsqueeze(1), -torch.inf)


@with_common_parameters
class ProtoNetClassifier(MetaClassifierMixin, EpisodicMetaLearner):
    """Classifier that compares rows with class means in a meta-learned space.

    Prototypical networks [1]_: no gradient steps at adaptation, any number of ways,
    and usually the first thing to try for few-shot classification.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    metric : {"sqeuclidean", "cosine"}, default="sqeuclidean"
        Distance between features and class means. Read when adapting.

    temperature : float, default=None
        Divides the distances; None means 1 for "sqeuclidean" and 0.1 for "cosine".
        Read when adapting.

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    MAMLClassifier : Adapts by gradient steps.

    References
    ----------
    .. [1] J. Snell, K. Swersky, R. Zemel, "Prototypical Networks for Few-shot
       Learning", NeurIPS 2017, arXiv:1703.05175.

    Examples
    --------
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = ProtoNetClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """

    _adaptation_parameters = ("metric", "temperature")

    def __init__(
        self,
        backbone: Any = None,
        *,
        metric: str = "sqeuclidean",
        temperature: float | None = None,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.metric = metric
        self.temperature = temperature

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("metric", self.metric, METRICS)
        if self.temperature is not None:
            check_positive("temperature", self.temperature)

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> ProtoNet:
        return ProtoNet(
            backbone, n_outputs, metric=self.metric, temperature=self.temperature
        )
