r"""Relation networks: how well a row matches a class is learned, not a given distance.

With an embedding :math:`f_\varphi` the features of a class are those of its support
rows together, and a relation module :math:`g_\phi` says how well a query row matches
(equation 1 of the paper, with :math:`\mathcal{C}` for putting side by side):

.. math:: r_k(x) = g_\phi(\mathcal{C}(c_k, f_\varphi(x))) \in [0, 1], \qquad
          c_k = \sum_{(x_i, y_i) \in S_k} f_\varphi(x_i).

Both are meta-learned so that the scores are 1 for the own class of a row and 0 for the
others (equation 2):

.. math:: \min_{\varphi, \phi} \sum_{(x, y)} \sum_k (r_k(x) - \mathbf{1}[y = k])^2.

Deviations from the paper
-------------------------
- :math:`c_k` is the *mean* of the features of a class, so that one relation module
  serves any number of support rows; ``aggregate="sum"`` is the paper's. With a fixed
  number of shots the first layer of :math:`g_\phi` can make up for the difference.
- Scores are no probabilities. Those that are predicted are the scores divided by their
  sum, which keeps their order.
- With ``loss="cross_entropy"`` the logits of the scores go through a softmax, in
  meta-training and in predicting.
- Convolutions are padded throughout; those of the authors' code are not in the first
  two blocks, where 28 x 28 pixels become 5 x 5 instead of 7 x 7.
- Where the backbone's features are no image, as for rows of a table, :math:`g_\phi` is
  fully connected, without normalisation.
- With labels that mean the same in all tasks, a class without support rows in a task
  gets probability 0 there, and its query rows stay out of the meta-training loss.

References
----------
Sung, Yang, Zhang, Xiang, Torr and Hospedales, "Learning to Compare: Relation Network
for Few-Shot Learning", CVPR 2018, arXiv:1711.06025.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta._parameters import check_choice, check_integer, with_common_parameters
from sklmeta.backbones.conv import ConvNet
from sklmeta.backbones.normalization import mixes_rows
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Rows
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.engine.learner import State
from sklmeta.engine.losses import masked_mean
from sklmeta.episodic import CommonParameters, EpisodicMetaLearner
from sklmeta.metric._relation_modules import make_relation

__all__ = ["RelationNet", "RelationNetClassifier"]

LOSSES = ("squared_error", "cross_entropy")
AGGREGATES = ("mean", "sum")
# Of the first layer's outputs, for pairs that are compared at once without gradients.
VALUES_AT_ONCE = 2**21
N_HALVINGS = 2  # of the paper's embedding, which has four blocks


class RelationNet(EmbeddingLearner):
    """Relation network as a torch module.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels), None for local labels.
    map_shape : tuple of int of shape (3,), default=None
        Channels, height and width of the image whose pixels the features are; None
        where they are no image.
    relation_width : int, default=64
        Filters, or hidden units, of the relation module.
    aggregate : {"mean", "sum"}, default="mean"
        What features of a class are of those of its support rows.
    loss : {"squared_error", "cross_entropy"}, default="squared_error"
        Of the scores, in meta-training.
    generator : torch.Generator, default=None
        Where the weights of the relation module are drawn from.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.batches import Episodes, Rows
    >>> from sklmeta.metric import RelationNet
    >>> x, y = torch.tensor([[[0.0], [1.0], [4.0]]]), torch.tensor([[0, 0, 1]])
    >>> support = Rows(x, y, mask=torch.ones(1, 3).bool(), n_way=torch.tensor([2]))
    >>> learner = RelationNet(torch.nn.Identity(), n_features=1, n_outputs=None)
    >>> learner.adapt(support)["classes"].flatten()
    tensor([0.5000, 4.0000])
    >>> learner.meta_loss(Episodes(support, query=support)).shape
    torch.Size([1])
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        map_shape: tuple[int, int, int] | None = None,
        relation_width: int = 64,
        aggregate: str = "mean",
        loss: str = "squared_error",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__("classification", backbone, n_outputs)
        shape = (n_features,) if map_shape is None else map_shape
        self.relation = make_relation(shape, relation_width, generator)
        self.aggregate = aggregate
        self.loss_kind = loss

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the features of each class.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "classes" (T, N, n_features) and "ways" (T, N), True where a way has support
            rows.
        """
        member = self.members(support, features.dtype)  # (T, S, N)
        count = member.sum(1)  # (T, N)
        classes = member.mT @ features  # (T, N, n_features)
        if self.aggregate == "mean":
            classes = classes / count.clamp(min=1).unsqueeze(-1)
        return {"classes": classes, "ways": count > 0}

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return logits: of scores, or logarithms of scores with squared errors.

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
        logits = self._score_logits(state["classes"], state["ways"], features)
        if self.loss_kind == "squared_error":
            logits = F.logsigmoid(logits)  # a softmax of which divides by the sum
        return logits.masked_fill(~state["ways"].unsqueeze(1), -torch.inf)

    def loss(self, outputs: Tensor, rows: Rows) -> Tensor:
        """Return the masked loss of `outputs` on `rows`, (T,)."""
        if self.loss_kind == "cross_entropy":
            return super().loss(outputs, rows)
        matches = F.one_hot(rows.y, outputs.shape[-1]).to(outputs.dtype)
        errors = (outputs.exp() - matches).square()  # equation (2); 0 for absent ways
        n_ways = (~outputs.isneginf()).sum(-1).clamp(min=1)
        return masked_mean(errors.sum(-1) / n_ways, rows.mask)

    def _score_logits(self, classes: Tensor, ways: Tensor, features: Tensor) -> Tensor:
        """Return logits of scores (T, Q, N), of any value where a way is absent."""
        if mixes_rows(self.relation):
            # Statistics are those of an episode's own pairs, of classes that it has.
            logits = features.new_zeros(*features.shape[:2], ways.shape[1])
            for task, present in enumerate(ways):
                pairs = self.relation(classes[task, present], features[task])
                logits[task, :, present] = pairs
            return logits
        if torch.is_grad_enabled():
            return self.relation(classes, features)
        values = math.prod(ways.shape) * self.relation.values_per_pair
        blocks = features.split(max(1, VALUES_AT_ONCE // max(values, 1)), dim=1)
        return torch.cat([self.relation(classes, block) for block in blocks], 1)


@with_common_parameters
class RelationNetClassifier(MetaClassifierMixin, EpisodicMetaLearner):
    """Classifier that learns to say how well a row matches a class.

    Relation networks [1]_: features of a class and of a query row, side by side, go
    through a net that scores the match. No gradient steps at adaptation, any number of
    ways. Where a distance suits the data, `ProtoNetClassifier` is simpler and faster.

    Parameters
    ----------
    backbone : torch.nn.Module, callable, "identity" or None, default=None
        Maps rows to features: a module to copy, a function that returns one for the
        shape of a row ((n_features,), or (channels, height, width) for images),
        "identity" for rows that are features already, or None for an MLP (rows) or the
        paper's four-block convolution net (images), of which two blocks halve.

    relation_width : int, default=64
        Filters, or hidden units, of the net that scores matches. It has convolutions
        where the backbone says with ``map_shape = (channels, height, width)`` that its
        features are the pixels of an image, as `sklmeta.backbones.ConvNet` does, and
        is fully connected otherwise.

    aggregate : {"mean", "sum"}, default="mean"
        What features of a class are of those of its support rows; "sum", as in the
        paper, is for as many rows of a class as in meta-training.

    loss : {"squared_error", "cross_entropy"}, default="squared_error"
        Of the scores, in meta-training: squared errors of scores between 0 and 1, as in
        the paper, whose share of their sum is the probability; or cross-entropy, of a
        softmax.

    <common parameters>

    Attributes
    ----------
    <common attributes>

    classes_ : ndarray of shape (n_classes,)
        Shared labels; with local labels, each adapted estimator has its own.

    See Also
    --------
    ProtoNetClassifier : Compares by a distance.

    References
    ----------
    .. [1] F. Sung, Y. Yang, L. Zhang, T. Xiang, P. H. S. Torr, T. M. Hospedales,
       "Learning to Compare: Relation Network for Few-Shot Learning", CVPR 2018,
       arXiv:1711.06025.

    Examples
    --------
    >>> from sklmeta import RelationNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> pool = load_digits_pool()
    >>> meta = RelationNetClassifier(max_iter=5, random_state=0).fit(pool[:5])
    >>> new = pool[5:]
    >>> meta.adapt(new.X[:40], new.y[:40]).predict(new.X[40:45]).shape
    (5,)
    """

    _structural_parameters = (
        *EpisodicMetaLearner._structural_parameters,
        *("relation_width", "aggregate", "loss"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        relation_width: int = 64,
        aggregate: str = "mean",
        loss: str = "squared_error",
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.relation_width = relation_width
        self.aggregate = aggregate
        self.loss = loss

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_integer("relation_width", self.relation_width, 1)
        check_choice("aggregate", self.aggregate, AGGREGATES)
        check_choice("loss", self.loss, LOSSES)

    def _make_backbone(
        self, input_shape: tuple[int, ...], seed: int
    ) -> tuple[nn.Module, int]:
        """Return a new backbone, by default one that leaves images some pixels."""
        if self._given_backbone is not None or len(input_shape) != 3:
            return super()._make_backbone(input_shape, seed)
        generator = torch.Generator().manual_seed(seed)
        backbone = ConvNet(input_shape, n_halvings=N_HALVINGS, generator=generator)
        return backbone, backbone.out_features

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> RelationNet:
        return RelationNet(
            backbone,
            n_features,
            n_outputs,
            map_shape=_map_shape(backbone, n_features),
            relation_width=self.relation_width,
            aggregate=self.aggregate,
            loss=self.loss,
            generator=generator,
        )


def _map_shape(backbone: nn.Module, n_features: int) -> tuple[int, int, int] | None:
    """Return the shape of the image that a backbone's features are, None for none."""
    shape = getattr(backbone, "map_shape", None)
    if shape is None:
        return None
    sides = tuple(shape) if isinstance(shape, Iterable) else ()
    if len(sides) != 3 or math.prod(sides) != n_features:
        raise ValueError(
            f"The backbone's map_shape={shape!r} must be channels, height and "
            f"width of the {n_features} features that it gives, flattened. Correct it, "
            "or leave it out where features are no image."
        )
    channels, height, width = map(int, sides)
    return channels, height, width
