r"""Matching networks: attention over the support rows in a meta-learned feature space.

A query row's class probabilities are the labels of the support rows, weighted by its
attention to them (equation 1 of the paper, and the kernel of its section 2.1.1):

.. math:: p(y = k \mid x, S) = \sum_{(x_i, y_i) \in S} a(x, x_i)\,[y_i = k], \qquad
          a(x, x_i) = \mathrm{softmax}_i\bigl(c(f(x), g(x_i)) / \tau\bigr).

:math:`c` is the cosine, or the negative squared Euclidean distance. :math:`f` and
:math:`g` are one backbone, or with full context embeddings what
`sklmeta.metric._context` makes of its features in the light of the whole support.

Deviations from the paper
-------------------------
- A temperature :math:`\tau` divides similarities. The paper has none (1): its attention
  over cosines, which lie in [-1, 1], then cannot become sharp, and probabilities of a
  row on top of a support row of its class stay below 0.65 in five ways. Later work
  scales cosines by 10 or learns a scale. The default for cosines is 0.1.
- Squared Euclidean distances, as an alternative to the paper's cosines, are what some
  re-implementations use; with one row per class this is a prototypical network.
- With full context embeddings the support is read in an order that does not depend on
  the order in which it is given; see `sklmeta.metric._context`.
- With labels that mean the same in all tasks, a class without support rows in a task
  gets probability 0 there, and its query rows stay out of the meta-training loss.

References
----------
Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra, "Matching Networks for One Shot
Learning", NeurIPS 2016, arXiv:1606.04080.
"""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta._learned_factors import log_factor, times
from sklmeta._parameters import (
    check_choice,
    check_integer,
    check_positive,
    with_common_parameters,
)
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Rows
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.engine.learner import State
from sklmeta.episodic import CommonParameters, EpisodicMetaLearner
from sklmeta.metric._context import QueryContext, SupportContext
from sklmeta.metric._cosine import unit_rows

__all__ = ["MatchingNet", "MatchingNetClassifier"]

TEMPERATURES = {"cosine": 0.1, "sqeuclidean": 1.0}
# Pairs of a query and a support row that are compared at once without gradients.
PAIRS_PER_BLOCK = 2**22


class MatchingNet(EmbeddingLearner):
    """Matching network as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels), None for local labels.
    metric : {"cosine", "sqeuclidean"}, default="cosine"
        How features are compared: by their cosine, or by the squared Euclidean
        distance.
    temperature : float, default=None
        Divides similarities before the softmax; None means 0.1 for "cosine" and 1 for
        "sqeuclidean".
    learn_temperature : bool, default=False
        Learn a factor of the temperature, from 1.
    n_context : int or None, default=None
        Width of the features, where they are to be embedded in the context of the
        support; None leaves them as they are.
    n_processing_steps : int, default=5
        Steps in which a query row attends to the support, with `n_context`.
    generator : torch.Generator, default=None
        Where the first weights of the context embeddings are drawn from.

    Examples
    --------
    Without scikit-learn, on one task of two ways:

    >>> import torch
    >>> from sklmeta.engine.batches import Rows
    >>> from sklmeta.metric import MatchingNet
    >>> x, y = torch.tensor([[[0.0], [1.0], [4.0]]]), torch.tensor([[0, 0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 3).bool(), n_way=torch.tensor([2]))
    >>> learner = MatchingNet(torch.nn.Identity(), None, metric="sqeuclidean")
    >>> state = learner.adapt(support)
    >>> learner.predict(state, torch.tensor([[[0.5], [3.0]]])).argmax(-1)
    tensor([[0, 1]])
    """

    adaptation_options = ("metric", "temperature")

    def __init__(
        self,
        backbone: nn.Module,
        n_outputs: int | None,
        *,
        metric: str = "cosine",
        temperature: float | None = None,
        learn_temperature: bool = False,
        n_context: int | None = None,
        n_processing_steps: int = 5,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__("classification", backbone, n_outputs)
        self.metric = metric
        self.temperature = temperature
        self.log_temperature_factor = log_factor(learn_temperature)
        self.support_context = self.query_context = None
        if n_context is not None:
            self.support_context = SupportContext(n_context, generator)
            self.query_context = QueryContext(n_context, n_processing_steps, generator)

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the support rows, as query rows are compared with them.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "features" (T, S, n_features), "y" and "mask" (T, S) of the support rows,
            and "ways" (T, N), True where a way has support rows.
        """
        ways = self.members(support, torch.bool).any(1)
        if self.support_context is not None:
            features = self.support_context(features, support.mask)
        # Whatever padding holds, it must not overflow anywhere.
        features = features.masked_fill(~support.mask.unsqueeze(-1), 0.0)
        return {
            "features": features,
            "y": support.y,
            "mask": support.mask,
            "ways": ways,
        }

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return logits: the log of each way's sum of attention, up to a constant.

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
        if torch.is_grad_enabled():
            return self._logits(state, features)
        n_tasks, n_support = state["mask"].shape
        n_query = max(1, PAIRS_PER_BLOCK // (n_tasks * n_support))
        blocks = features.split(n_query, 1)
        return torch.cat([self._logits(state, block) for block in blocks], 1)

    def _logits(self, state: State, features: Tensor) -> Tensor:
        support, mask = state["features"], state["mask"]
        if self.query_context is not None:
            features = self.query_context(features, support, mask)
        if self.metric == "cosine":
            similarity = unit_rows(features) @ unit_rows(support).mT
        else:
            similarity = -_squared_distances(features, support, mask)
        similarity = similarity / self._temperature()  # (T, Q, S)
        return _log_sum_by_way(similarity, state["y"], mask, state["ways"])

    def _temperature(self) -> Tensor | float:
        fixed = self.temperature or TEMPERATURES[self.metric]
        return times(fixed, self.log_temperature_factor)


def _squared_distances(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Return squared distances (T, Q, S) of a (T, Q, D) and real rows b (T, S, D)."""
    if not torch.is_grad_enabled():
        exact = "donot_use_mm_for_euclid_dist"
        return torch.cdist(a, b, compute_mode=exact).square()
    # Matrix products have gradients without a tensor of (T, Q, S, D). They cancel
    # digits where rows lie close together but far from 0, so 0 is moved among them.
    centre = b.detach().sum(1, keepdim=True) / mask.sum(1).clamp(min=1)[:, None, None]
    a, b = a - centre, b - centre
    squares = a.square().sum(-1).unsqueeze(2) + b.square().sum(-1).unsqueeze(1)
    return squares - 2 * a @ b.transpose(1, 2)


def _log_sum_by_way(scores: Tensor, y: Tensor, mask: Tensor, ways: Tensor) -> Tensor:
    """Return the log of the sum of exp(scores) over the rows of each way, (T, Q, N).

    Parameters
    ----------
    scores : Tensor of shape (T, Q, S)
    y, mask : Tensor of shape (T, S)
    ways : Tensor of shape (T, N)
        Which ways have rows; the others get -inf.
    """
    absent = ~ways.unsqueeze(1)
    scores = scores.masked_fill(~mask.unsqueeze(1), -torch.inf)
    way = y.unsqueeze(1).expand_as(scores)
    # Each way has its own largest score taken off: ways may lie hundreds apart.
    top = scores.new_full((*scores.shape[:2], ways.shape[1]), -torch.inf)
    top = top.scatter_reduce(2, way, scores.detach(), "amax").masked_fill(absent, 0.0)
    shares = (scores - top.gather(2, way)).exp()
    total = shares @ F.one_hot(y, ways.shape[1]).to(shares)
    logits = total.masked_fill(absent, 1.0).log() + top
    return logits.masked_fill(absent, -torch.inf)


@with_common_parameters
class MatchingNetClassifier(MetaClassifierMixin, EpisodicMetaLearner):
    """Classifier by attention over the support rows in a meta-learned feature space.

    Matching networks [1]_: a differentiable nearest-neighbour classifier. No gradient
    steps at adaptation, and any number of ways. Unlike class means, attention over
    single rows can follow classes of several clusters.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or a
        four-block convolution net (images).

    metric : {"cosine", "sqeuclidean"}, default="cosine"
        How features are compared: by their cosine, or by the squared Euclidean
        distance. Read when adapting.

    temperature : float, default=None
        Divides similarities before the softmax; None means 0.1 for "cosine" and 1 for
        "sqeuclidean". Read when adapting.

    learn_temperature : bool, default=False
        Learn a factor of the temperature in meta-training, from 1.

    context_embeddings : bool, default=False
        Whether features of support rows are embedded in the context of the whole
        support by a bidirectional LSTM, and those of query rows by an LSTM that attends
        to the support (full context embeddings).

    n_processing_steps : int, default=5
        Steps in which a query row attends to the support; with `context_embeddings`.

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    ProtoNetClassifier : Compares rows with class means.

    References
    ----------
    .. [1] O. Vinyals, C. Blundell, T. Lillicrap, K. Kavukcuoglu, D. Wierstra, "Matching
       Networks for One Shot Learning", NeurIPS 2016, arXiv:1606.04080.

    Examples
    --------
    >>> from sklmeta import MatchingNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = MatchingNetClassifier(max_iter=20, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """

    _adaptation_parameters = ("metric", "temperature")
    _structural_parameters = (
        *EpisodicMetaLearner._structural_parameters,
        *("learn_temperature", "context_embeddings", "n_processing_steps"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        metric: str = "cosine",
        temperature: float | None = None,
        learn_temperature: bool = False,
        context_embeddings: bool = False,
        n_processing_steps: int = 5,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.metric = metric
        self.temperature = temperature
        self.learn_temperature = learn_temperature
        self.context_embeddings = context_embeddings
        self.n_processing_steps = n_processing_steps

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("metric", self.metric, TEMPERATURES)
        if self.temperature is not None:
            check_positive("temperature", self.temperature)
        for name in ("learn_temperature", "context_embeddings"):
            check_choice(name, getattr(self, name), (True, False))
        check_integer("n_processing_steps", self.n_processing_steps, 1)

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> MatchingNet:
        return MatchingNet(
            backbone,
            n_outputs,
            metric=self.metric,
            temperature=self.temperature,
            learn_temperature=self.learn_temperature,
            n_context=n_features if self.context_embeddings else None,
            n_processing_steps=self.n_processing_steps,
            generator=generator,
        )
