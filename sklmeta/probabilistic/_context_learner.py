"""What learners that are conditioned on a context set share: labels and ways.

Support rows come with what is told of their labels: targets, one-hot classes (shared
labels), or, with local labels, the answer 1 or -1 to the question whether they are of
one way. That question is asked for every way, by the same network: any number of ways
can be told apart, and their order does not matter.

Axes: T tasks, W questions (ways, or 1), S support rows, Q query rows, F features, L
labels told and asked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.densities import PredictsDensity
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.engine.keys import random_keys, stream
from sklmeta.engine.learner import way_mask

__all__ = ["ContextLearner", "folded"]

HIDING = 2  # of the stream of an update's random numbers
PARTS = 2**20


def folded(values: Tensor, n_questions: int) -> Tensor:
    """Return values (T, ...) once for every question, (T * W, ...)."""
    if n_questions == 1:
        return values
    return values.repeat_interleave(n_questions, 0)


class ContextLearner(PredictsDensity, EmbeddingLearner):
    """Base of the torch learners that are conditioned on a context set.

    Parameters
    ----------
    task_type : {"classification", "regression"}
        What outputs are: logits, or numbers.
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    min_std : float
        Least standard deviation; of numbers.
    prior_fraction : float
        Share of the training episodes whose support rows are hidden; none with local
        labels, where without rows all ways are answered the same, whatever is learned.
    """

    def __init__(
        self,
        task_type: str,
        backbone: nn.Module,
        n_outputs: int | None,
        *,
        min_std: float,
        prior_fraction: float,
    ) -> None:
        super().__init__(task_type, backbone, n_outputs)
        self.min_std = min_std
        self.prior_fraction = prior_fraction
        self.n_labels = 1 if n_outputs is None else n_outputs
        self.n_decoded = self.n_labels * (2 if task_type == "regression" else 1)

    @property
    def _labels_are_local(self) -> bool:
        return self.task_type == "classification" and self.n_outputs is None

    def told(self, rows: Rows, like: Tensor) -> Tensor:
        """Return what is told of the labels of rows, (T, W, S, L); 0 of padding."""
        if self.task_type == "regression":
            y = rows.y.masked_fill(~rows.mask.unsqueeze(-1), 0.0)
            return y.to(like).unsqueeze(1)
        one_hot = self.members(rows, like.dtype)  # (T, S, N)
        if self.n_outputs is not None:
            return one_hot.unsqueeze(1)
        signs = (2 * one_hot - 1) * rows.mask.unsqueeze(-1)
        return signs.transpose(1, 2).unsqueeze(-1)

    def ways(self, support: Rows) -> dict[str, Tensor]:
        """Return "ways" (T, N), True where a task has a way; nothing if not local."""
        if not self._labels_are_local:
            return {}
        assert support.n_way is not None
        return {"ways": way_mask(support.n_way, self._n_ways(support))}

    def moments(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations (..., n_outputs) of numbers."""
        mean, raw = decoded.chunk(2, dim=-1)
        return mean, self.min_std + (1 - self.min_std) * F.softplus(raw)

    def answers(self, decoded: Tensor, state: dict[str, Any]) -> Tensor:
        """Return logits (..., Q, N) of what is decoded, (..., W, Q, L)."""
        if "ways" not in state:
            return decoded.squeeze(-3)
        logits = decoded.squeeze(-1).transpose(-1, -2)
        absent = ~state["ways"].unsqueeze(1)  # (T, 1, N)
        if logits.dim() == 4:
            absent = absent.unsqueeze(1)
        return logits.masked_fill(absent, -torch.inf)

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return the loss of each episode, (T,); in training some supports are hidden.

        Parameters
        ----------
        episodes : Episodes
            Of T tasks.

        Returns
        -------
        Tensor of shape (T,)
            The losses.
        """
        if self.training and self.prior_fraction and not self._labels_are_local:
            episodes = Episodes(self._partly_hidden(episodes.support), episodes.query)
        return self.training_loss(episodes) if self.training else self._judged(episodes)

    def training_loss(self, episodes: Episodes) -> Tensor:
        """Return the loss that training lowers, (T,); default: of query rows."""
        return self._judged(episodes)

    def _judged(self, episodes: Episodes) -> Tensor:
        return super().meta_loss(episodes)

    def random_stream(self, purpose: int) -> Tensor:
        """Return a stream of `random_keys` that differs from update to update."""
        return stream(torch.tensor([self.progress.n_done * PARTS + purpose]))

    def _partly_hidden(self, support: Rows) -> Rows:
        """Return support rows, of which some tasks have none."""
        keys = random_keys(self.random_stream(HIDING), torch.arange(len(support)))
        kept = keys >= int(self.prior_fraction * 2**63)
        mask = support.mask & kept.to(support.mask.device).unsqueeze(1)
        return Rows(support.x, support.y, mask, support.n_way)
