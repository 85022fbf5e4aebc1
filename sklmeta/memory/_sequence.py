"""Learners that read a task's rows one after another, and remember.

Each step gets a row and the label of the row before it, so that a row is predicted
before its own label is seen. What is remembered at the end of the support is the state
of the task; every query row takes one more step of its own from there.

Axes: T tasks, S support rows, Q query rows, F features, N ways, L labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from sklmeta._meta_tags import MetaTags
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.embedding import EmbeddingLearner, precise
from sklmeta.engine.keys import LAST, random_keys, stream
from sklmeta.engine.learner import State, way_mask
from sklmeta.episodic import EpisodicMetaLearner

__all__ = ["SequenceEstimator", "SequenceLearner"]

SCRAMBLE = 997.0  # scatters what features are ordered by


class SequenceLearner(EmbeddingLearner):
    """Base of the torch learners that read rows one after another.

    Subclasses write `initial_state`, `unroll`, `answer` and `read_out`.

    Local labels are told to it as one-hot vectors of `n_ways` labels. In meta-training
    each episode has its own random assignment of ways to labels, and its own random
    order of rows; when adapting both follow from the support rows' features alone, so
    that neither the order of rows nor names of labels matter.

    Parameters
    ----------
    task_type : {"classification", "regression"}
        What outputs are: logits, or numbers.
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features).
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels.
    n_ways : int, default=None
        The most ways of a task; with local labels.
    """

    def __init__(
        self,
        task_type: str,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        n_ways: int | None = None,
    ) -> None:
        super().__init__(task_type, backbone, n_outputs)
        n_labels = n_ways if n_outputs is None else n_outputs
        if n_labels is None:
            raise ValueError(
                f"{type(self).__name__} with local labels (n_outputs=None) needs "
                "n_ways, the most ways that a task can have, got None."
            )
        self.n_labels = n_labels
        self.n_inputs = n_features + n_labels
        self.most_ways = n_labels if n_outputs is None else None

    # What subclasses say ---------------------------------------------------------

    def initial_state(self, n_tasks: int, like: Tensor) -> State:
        """Return the state before the first row, a tree of tensors (T, ...)."""
        raise NotImplementedError

    def unroll(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Take one step for each of the inputs (T, S, n_inputs).

        Returns
        -------
        Tensor of shape (T, S, K)
            What outputs are read from, after each step.
        State
            After the last step.
        """
        raise NotImplementedError

    def answer(self, inputs: Tensor, state: State) -> Tensor:
        """Take a step of its own from the same state for each input, (T, Q, K)."""
        raise NotImplementedError

    def read_out(self, features: Tensor) -> Tensor:
        """Map what `unroll` and `answer` give (T, S, K) to outputs (T, S, L)."""
        raise NotImplementedError

    # The protocol ----------------------------------------------------------------

    def adapt_features(self, features: Tensor, support: Rows) -> State:
        """Read the support rows, in an order that follows from their features.

        Parameters
        ----------
        features : Tensor of shape (T, S, n_features)
            Of the support rows.
        support : Rows
            y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,) with local labels.

        Returns
        -------
        dict
            "memory" as `unroll` leaves it, "label" (T, L) of the last row, and with
            local labels "ways" (T, N): the label of each way, -1 where there is none.
        """
        place = _place(features)
        order = _order_of_rows(place, support)
        ways = self._assigned(support, _places_of_ways(place, support, self._n_ways))
        return self._present(features, support, order, ways)[1]

    def predict_features(self, state: State, features: Tensor) -> Tensor:
        """Return outputs for query rows; none leaves a trace.

        Parameters
        ----------
        state : dict
            What `adapt_features` returned.
        features : Tensor of shape (T, Q, n_features)
            Of the query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits, -inf for ways that a task does not have; or numbers.
        """
        label = state["label"].unsqueeze(1).expand(-1, features.shape[1], -1)
        inputs = torch.cat([features, label], 2)
        outputs = self.read_out(self.answer(inputs, state["memory"]))
        return _of_ways(outputs, state.get("ways"))

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return the mean loss of each episode's rows, (T,).

        In training, support rows are predicted too, each before its own label is seen,
        and come in random order. Otherwise the loss is that of the query rows alone.
        """
        support, query = episodes.support, episodes.query
        n_support = support.x.shape[1]
        features = self.embed(torch.cat([support.x, query.x], 1))
        own, other = features[:, :n_support], features[:, n_support:]
        if not self.training:
            state = self.adapt_features(own, support)
            return self.loss(self.predict_features(state, other), query)
        order, ways = self._drawn(support)
        outputs, state = self._present(own, support, order, ways)
        outputs = torch.cat([outputs, self.predict_features(state, other)], 1)
        y = torch.cat([_taken(support.y, order), query.y], 1)
        mask = torch.cat([support.mask.gather(1, order), query.mask], 1)
        return self.loss(outputs, Rows(episodes.query.x, y, mask, query.n_way))

    def sequence_outputs(self, rows: Rows) -> Tensor:
        """Return the outputs for rows in the order given, each before its own label.

        Parameters
        ----------
        rows : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S) with real rows in
            front, n_way (T,) with local labels: way k is told as label k.

        Returns
        -------
        Tensor of shape (T, S, N) or (T, S, n_outputs)
            Logits of ways, or numbers.

        Raises
        ------
        ValueError
            If a task has more ways than the learner was made for.
        """
        order = torch.arange(rows.mask.shape[1], device=rows.mask.device)
        ways = self._assigned(rows, None)
        features = self.embed(rows.x)
        return self._present(features, rows, order.expand(len(rows), -1), ways)[0]

    # Order of rows, labels of ways -----------------------------------------------

    def _drawn(self, support: Rows) -> tuple[Tensor, Tensor | None]:
        """Return a random order of rows (T, S), and random labels of ways."""
        mask = support.mask
        n_tasks, n_rows = mask.shape
        seed = stream(torch.tensor([self.progress.n_done]))
        n_keys = n_rows + self.n_labels
        keys = random_keys(seed, torch.arange(n_tasks * n_keys))
        by_row, by_label = (
            keys.view(n_tasks, n_keys)
            .to(mask.device)
            .split([n_rows, self.n_labels], dim=1)
        )
        order = by_row.masked_fill(~mask, LAST).argsort(dim=1, stable=True)
        if self.most_ways is None:
            return order, None
        n_ways = self._n_ways(support)
        labels = by_label.argsort(dim=1)[:, :n_ways]
        return order, self._assigned(support, None, labels)

    def _assigned(
        self, support: Rows, places: Tensor | None, labels: Tensor | None = None
    ) -> Tensor | None:
        """Return the label of each way (T, N), -1 for absent ones; None if not local.

        Ways are numbered in the order of their places, where these are given.
        """
        if self.most_ways is None:
            return None
        n_ways = self._n_ways(support)
        if n_ways > self.most_ways:
            raise ValueError(
                f"a task has {n_ways} classes, and this {type(self).__name__} was "
                f"made for at most {self.most_ways}. Meta-train on episodes of as many "
                f"(n_way={n_ways})."
            )
        assert support.n_way is not None
        if labels is None:
            labels = torch.arange(n_ways, device=support.mask.device)
            labels = labels.expand(len(support), -1)
        present = way_mask(support.n_way, n_ways)
        if places is not None:
            places = places.masked_fill(~present, torch.inf)
            labels = places.argsort(dim=1, stable=True).argsort(dim=1)
        return labels.masked_fill(~present, -1)

    def _told(self, y: Tensor, ways: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return what a step is told of labels or targets, (T, S, L)."""
        if self.task_type == "regression":
            return y.to(dtype)
        if ways is not None:
            y = ways.clamp(min=0).gather(1, y)
        return F.one_hot(y, self.n_labels).to(dtype)

    # Reading a sequence ----------------------------------------------------------

    def _present(
        self, features: Tensor, support: Rows, order: Tensor, ways: Tensor | None
    ) -> tuple[Tensor, State]:
        """Return outputs (T, S, N) for rows in an order, and the state after them."""
        mask = support.mask.gather(1, order)
        told = self._told(_taken(support.y, order), ways, features.dtype)
        before = F.pad(told, (0, 0, 1, 0))[:, :-1]  # nothing before the first row
        inputs = torch.cat([_taken(features, order), before], 2)
        found, memory = self._read(inputs, mask)
        last = (mask.sum(1) - 1).clamp(min=0)
        state = {"memory": memory, "label": told[torch.arange(len(told)), last]}
        if ways is not None:
            state["ways"] = ways
        return _of_ways(self.read_out(found), ways), state

    def _read(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, State]:
        """Take a step for each real row; padding, which is last, changes nothing."""
        state = self.initial_state(len(inputs), inputs)
        n_common = int(mask.sum(1).min())
        found = []
        if n_common:
            outputs, state = self.unroll(inputs[:, :n_common], state)
            found.append(outputs)
        for step in range(n_common, inputs.shape[1]):
            outputs, after = self.unroll(inputs[:, step : step + 1], state)
            found.append(outputs)
            state = _where(mask[:, step], after, state)
        return torch.cat(found, 1), state


class SequenceEstimator(EpisodicMetaLearner):
    """Base of the estimators whose learner is a `SequenceLearner`."""

    def __sklmeta_tags__(self) -> MetaTags:
        """Say that there is a label for each way of meta-training, and no more."""
        tags = super().__sklmeta_tags__()
        tags.any_number_of_ways = False
        return tags

    def _make_backbone(
        self, input_shape: tuple[int, ...], seed: int
    ) -> tuple[nn.Module, int]:
        if self._given_backbone is not None:
            return super()._make_backbone(input_shape, seed)
        return nn.Flatten(), torch.Size(input_shape).numel()


def _taken(values: Tensor, order: Tensor) -> Tensor:
    """Return values (T, S, ...) in the order (T, S) of each task."""
    return values[torch.arange(len(order), device=order.device).unsqueeze(1), order]


def _of_ways(outputs: Tensor, ways: Tensor | None) -> Tensor:
    """Return the outputs (T, Q, N) of each way's label (T, N)."""
    if ways is None:
        return outputs
    labels = ways.unsqueeze(1).expand(-1, outputs.shape[1], -1)
    found = outputs.gather(2, labels.clamp(min=0))
    return found.masked_fill(labels < 0, -torch.inf)


def _where(choose: Tensor, new: Any, old: Any) -> Any:
    """Return the new state of the tasks that are chosen (T,), else the old one."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(choose.view(-1, *[1] * (a.dim() - 1)), a, b)

    return pytree.tree_map(pick, new, old)


def _place(features: Tensor) -> Tensor:
    """Return a number for each row by which different features are told apart."""
    values = precise(features.detach())
    direction = torch.arange(1.0, values.shape[2] + 1, dtype=torch.float64).cos()
    return (values * direction.to(values)).sum(2)  # (T, S)


def _order_of_rows(place: Tensor, support: Rows) -> Tensor:
    """Return an order of rows as if at random, by their features alone; (T, S).

    Rows of equal features are ordered by their labels or first targets.
    """
    y = support.y if support.y.dim() == 2 else support.y[..., 0]
    order = y.argsort(dim=1, stable=True)
    scattered = (SCRAMBLE * place).cos().masked_fill(~support.mask, torch.inf)
    by_place = scattered.gather(1, order).argsort(dim=1, stable=True)
    return order.gather(1, by_place)


def _places_of_ways(place: Tensor, support: Rows, n_ways: Any) -> Tensor | None:
    """Return the mean place of each way's rows (T, N), for local labels."""
    if support.n_way is None:
        return None
    member = F.one_hot(support.y, n_ways(support)) * support.mask.unsqueeze(-1)
    member = member.to(place.dtype)
    total = torch.einsum("tsn,ts->tn", member, place)
    return total / member.sum(1).clamp(min=1)
