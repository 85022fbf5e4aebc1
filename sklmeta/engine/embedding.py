"""Learners that see rows only through a backbone that adaptation leaves as it is.

Metric and closed-form learners are of this kind: what they differ in is how features
of the support rows are condensed, and how features of a query row are compared with
that. Rows pass the backbone here, in one place.
"""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta.backbones.normalization import mixes_rows
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Learner, State, WeightsId
from sklmeta.engine.mapping import passing

__all__ = ["EmbeddingLearner", "precise"]

# Rows that pass the backbone at once where no gradients are kept.
IMAGES_PER_BLOCK = 512
ROWS_PER_BLOCK = 65_536


def precise(features: Tensor) -> Tensor:
    """Return features in double precision, where the device has it.

    For Gram matrices and covariances, whose condition numbers are squares.
    """
    return features if features.device.type == "mps" else features.double()


class EmbeddingLearner(Learner):
    """Base of the torch learners that adapt on features of rows.

    Subclasses write `adapt_features` and `predict_features`.

    Parameters
    ----------
    task_type : {"classification", "regression"}
        What outputs are: logits, or numbers.
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    """

    def __init__(
        self, task_type: str, backbone: nn.Module, n_outputs: int | None
    ) -> None:
        super().__init__(task_type)
        self.backbone = backbone
        self.n_outputs = n_outputs

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Return the state of each task.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows; those of padded rows are finite, and mean nothing.
        support : Rows
            Its y (T, S) or (T, S, n_outputs), mask (T, S), and n_way (T,) with local
            labels.

        Returns
        -------
        State
            A tree of tensors, leading axis T.
        """
        raise NotImplementedError

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return outputs (T, Q, N) or (T, Q, n_outputs).

        Parameters
        ----------
        state : State
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits, -inf for ways without support rows; or numbers.
        """
        raise NotImplementedError

    def adapt(self, support: Rows) -> State:
        """Return the state of each task.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,) with
            local labels.

        Returns
        -------
        State
            A tree of tensors, leading axis T.

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        return self.adapt_features(self.embed(support.x), support)

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the outputs of adapted tasks for query rows.

        Parameters
        ----------
        state : State
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)
            Query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits, -inf for ways without support rows; or numbers.
        """
        return self.predict_features(state, self.embed(x))

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return the query loss of each episode, (T,).

        Support and query rows pass the backbone in one call, as in the code of
        Prototypical Networks: in training, batch normalisation sees the whole episode.
        """
        support, query = episodes.support, episodes.query
        n_support = support.x.shape[1]
        features = self.embed(torch.cat([support.x, query.x], 1))
        state = self.adapt_features(features[:, :n_support], support)
        outputs = self.predict_features(state, features[:, n_support:])
        return self.loss(outputs, self.answerable(support, query))

    def on_features(self) -> tuple[nn.Module, Learner] | None:
        """Return the backbone, and this learner on its features.

        Returns
        -------
        tuple of (nn.Module, EmbeddingLearner), or None
            None where the backbone normalises by the batch that comes in.
        """
        if mixes_rows(self.backbone):
            return None
        return self.backbone, self._with_backbone(nn.Identity())

    def embed(self, x: Tensor) -> Tensor:
        """Map rows (T, S, *F) to features (T, S, n_features).

        Episodes pass one by one where batch normalisation would mix them. Where no
        gradients are kept rows pass in blocks, since a backbone's activations can take
        hundreds of times the memory of its rows.
        """
        with passing(self, x.device):
            if self.training and self.needs_equal_rows:
                features = torch.stack([self.backbone(rows) for rows in x])
            else:
                features = self._in_blocks(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return features.to(x.dtype)

    def members(self, support: Rows, dtype: torch.dtype) -> Tensor:
        """Return 1 where a support row is of a way, else 0, (T, S, N).

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        one_hot = F.one_hot(support.y, self._n_ways(support))
        return (one_hot * support.mask.unsqueeze(-1)).to(dtype)

    def answerable(self, support: Rows, query: Rows) -> Rows:
        """Return query rows, masking those of a class without support rows."""
        if self.task_type == "regression":
            return query
        present = self.members(support, torch.bool).any(1)  # (T, N)
        mask = query.mask & present.gather(1, query.y)
        return Rows(query.x, query.y, mask, query.n_way)

    def _n_ways(self, support: Rows) -> int:
        if self.n_outputs is not None:
            return self.n_outputs
        if support.n_way is None:
            raise ValueError(
                f"{type(self).__name__} with local labels (n_outputs=None) needs "
                "Rows.n_way, the number of ways of each task."
            )
        return int(support.n_way.max())

    def _in_blocks(self, x: Tensor) -> Tensor:
        """Map rows (n, *F) to features (n, n_features)."""
        size = ROWS_PER_BLOCK if x.dim() == 2 else IMAGES_PER_BLOCK
        if torch.is_grad_enabled() or len(x) <= size or mixes_rows(self.backbone):
            return self.backbone(x)
        return torch.cat([self.backbone(block) for block in x.split(size)])

    def _with_backbone(self, backbone: nn.Module) -> Self:
        """Return a view with another backbone; all other weights are shared."""
        view = copy.copy(self)
        view._modules = {**self._modules, "backbone": backbone}
        view.weights_id = WeightsId()
        return view
