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
  otherwise. Meta-training may learn it.
- Mahalanobis distances, with a covariance for each class, are those of Simple CNAPS
  (Bateni et al. 2020, arXiv:1912.03432), where :math:`\tau = 2`; the backbone is not
  modulated by the task as it is there.
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

from sklmeta._learned_factors import log_factor, times
from sklmeta._parameters import check_choice, check_positive, with_common_parameters
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Rows
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.engine.learner import State
from sklmeta.episodic import CommonParameters, EpisodicMetaLearner
from sklmeta.metric._cosine import unit_rows
from sklmeta.metric._covariance import covariance_factors, mahalanobis

__all__ = ["ProtoNet", "ProtoNetClassifier"]

METRICS = ("sqeuclidean", "cosine", "mahalanobis")
TEMPERATURES = {"sqeuclidean": 1.0, "cosine": 0.1, "mahalanobis": 2.0}


class ProtoNet(EmbeddingLearner):
    """Prototypical network as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels), None for local labels.
    metric : {"sqeuclidean", "cosine", "mahalanobis"}, default="sqeuclidean"
        Distance between features and prototypes.
    temperature : float, default=None
        Divides the distances; None means 1 for "sqeuclidean", 0.1 for "cosine" and 2
        for "mahalanobis".
    covariance_floor : float, default=1.0
        Added to the diagonal of covariances, with "mahalanobis".
    learn_temperature : bool, default=False
        Learn a factor of the temperature, from 1.

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

    adaptation_options: tuple[str, ...] = ("metric", "temperature", "covariance_floor")

    def __init__(
        self,
        backbone: nn.Module,
        n_outputs: int | None,
        *,
        metric: str = "sqeuclidean",
        temperature: float | None = None,
        covariance_floor: float = 1.0,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__("classification", backbone, n_outputs)
        self.metric = metric
        self.temperature = temperature
        self.covariance_floor = covariance_floor
        self.log_temperature_factor = log_factor(learn_temperature)

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
            "prototypes" (T, N, n_features), "ways" (T, N), True where a way has
            support rows, and with "mahalanobis" the Cholesky "factors" of covariances,
            (T, N, n_features, n_features).
        """
        member = self.members(support, features.dtype)  # (T, S, N)
        count = member.sum(1)  # (T, N)
        total = member.transpose(1, 2) @ features  # (T, N, n_features)
        prototypes = total / count.clamp(min=1).unsqueeze(-1)  # equation (1)
        state = {"prototypes": prototypes, "ways": count > 0}
        if self.metric == "mahalanobis":
            floor = self.covariance_floor
            factors = covariance_factors(features, member, prototypes, floor)
            state["factors"] = factors
        return state

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
        logits = -self._distances(state, features) / self._temperature()
        return logits.masked_fill(~state["ways"].unsqueeze(1), -torch.inf)  # equation 2

    def _distances(self, state: State, features: Tensor) -> Tensor:
        """Return distances (T, Q, N) of features (T, Q, n_features) to prototypes."""
        prototypes = state["prototypes"]
        if self.metric == "mahalanobis":
            return mahalanobis(features, prototypes, state["factors"])
        if self.metric == "cosine":
            return 1 - unit_rows(features) @ unit_rows(prototypes).mT
        if torch.is_grad_enabled():
            offsets = features.unsqueeze(2) - prototypes.unsqueeze(1)
            return offsets.square().sum(-1)
        # The same without a tensor of (T, Q, N, n_features): a root has no gradient
        # where distances are 0, but needs none here.
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(features, prototypes, compute_mode=exact).square()

    def _temperature(self) -> Tensor | float:
        fixed = self.temperature or TEMPERATURES[self.metric]
        return times(fixed, self.log_temperature_factor)


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

    metric : {"sqeuclidean", "cosine", "mahalanobis"}, default="sqeuclidean"
        Distance between features and class means. "mahalanobis" takes the covariance
        of each class, shrunk towards that of all support rows [2]_: a class with one
        row has half of the latter. Read when adapting.

    temperature : float, default=None
        Divides the distances; None means 1 for "sqeuclidean", 0.1 for "cosine" and 2
        for "mahalanobis". Read when adapting.

    covariance_floor : float, default=1.0
        Added to the diagonal of covariances, with "mahalanobis"; in squared units of
        the features. Read when adapting.

    learn_temperature : bool, default=False
        Learn in meta-training a factor that multiplies `temperature`.

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

    .. [2] P. Bateni et al., "Improved Few-Shot Visual Classification", CVPR 2020,
       arXiv:1912.03432.

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

    _adaptation_parameters = ("metric", "temperature", "covariance_floor")
    _structural_parameters = (
        *EpisodicMetaLearner._structural_parameters,
        "learn_temperature",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        metric: str = "sqeuclidean",
        temperature: float | None = None,
        covariance_floor: float = 1.0,
        learn_temperature: bool = False,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.metric = metric
        self.temperature = temperature
        self.covariance_floor = covariance_floor
        self.learn_temperature = learn_temperature

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("metric", self.metric, METRICS)
        if self.temperature is not None:
            check_positive("temperature", self.temperature)
        check_positive("covariance_floor", self.covariance_floor)
        check_choice("learn_temperature", self.learn_temperature, (True, False))

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> ProtoNet:
        return ProtoNet(
            backbone,
            n_outputs,
            metric=self.metric,
            temperature=self.temperature,
            covariance_floor=self.covariance_floor,
            learn_temperature=self.learn_temperature,
        )
