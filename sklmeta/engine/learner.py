"""The protocol of every torch meta-learner: adapt, predict, meta_loss.

A learner is an `nn.Module` whose parameters are the meta-learned weights. It works on
batches of T tasks and knows nothing of scikit-learn, episodes' origin or training.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from sklmeta.backbones.freezing import mode_of_fixed
from sklmeta.backbones.normalization import uses_batch_statistics
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.losses import cross_entropy, squared_error

__all__ = ["Learner", "Progress", "State", "way_mask"]

State = Any
"""What `adapt` returns: a tree (dict, tuple) of tensors whose leading axis is T."""


def way_mask(n_way: Tensor, n_ways: int) -> Tensor:
    """Return which of `n_ways` padded ways each task has, of shape (T, N)."""
    return torch.arange(n_ways, device=n_way.device) < n_way.unsqueeze(-1)


@dataclass(frozen=True)
class Progress:
    """How far meta-training has come.

    Attributes
    ----------
    n_done : int
        Meta-updates made, those of earlier fits that this one goes on from included.
    n_planned : int or None
        Meta-updates when this fit ends; None where there is no end in sight.
    """

    n_done: int = 0
    n_planned: int | None = None

    @property
    def fraction(self) -> float:
        """Return the share of the planned updates that are made; 0 without a plan."""
        return 0.0 if not self.n_planned else self.n_done / self.n_planned


class WeightsId:
    """Identity of a learner's weights: views share it, copies have their own."""


class Learner(nn.Module):
    """Base of the torch meta-learners.

    Subclasses write `adapt` and `predict`; `meta_loss` follows from them. Attributes
    named in `adaptation_options` are read at adaptation time and can be changed on a
    shared copy by `with_options` without touching the weights; those in `view_options`
    change there what `predict` returns, and are no parameters. `transductive` says
    that `predict` normalises query rows by the query batch's own statistics, which must
    then not be cut; `progress` is kept up to date by meta-training, for learners whose
    loss changes on the way; `sees_features` says that rows are features made once for
    all episodes, in the precision they are to be compared in; `own_updates` names
    parameters that the outer optimizer leaves alone, since the learner itself reads
    their gradients after a meta-update; `most_ways` is the most ways that a task with
    local labels can have, None where there may be any number.

    Parameters
    ----------
    task_type : {"classification", "regression"}
        What outputs are: logits, or numbers.

    Raises
    ------
    ValueError
        If `task_type` is another.
    """

    adaptation_options: tuple[str, ...] = ()
    view_options: tuple[str, ...] = ()
    transductive: bool = False
    sees_features: bool = False
    most_ways: int | None = None
    progress: Progress = Progress()
    own_updates: tuple[str, ...] = ()

    # What trying a module out has shown; see `sklmeta.engine.modules.try_out`.
    tasks_apart: bool = False  # torch cannot vectorise what it does over tasks
    plain_attention: bool = False  # its attention is to have second derivatives
    draws_randomly: bool = False  # from torch's global generators, in training

    mixed_precision: bool = False  # the backbone's passes in training
    budget: Any = None  # the `MemoryBudget` that parts of batches keep to

    def __init__(self, task_type: str) -> None:
        super().__init__()
        if task_type not in ("classification", "regression"):
            raise ValueError(
                "task_type must be 'classification' or 'regression', got "
                f"{task_type!r}."
            )
        self.task_type = task_type
        self.weights_id = WeightsId()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules but fixed ones, which stay as they are."""
        super().train(mode)
        if mode:
            mode_of_fixed(self)
        return self

    def adapt(self, support: Rows) -> State:
        """Return the state of each task after seeing its support rows.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,).

        Returns
        -------
        State
            A tree of tensors, leading axis T.
        """
        raise NotImplementedError

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return the outputs of adapted tasks for query rows.

        Parameters
        ----------
        state : State
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits, with -inf for ways that a task does not have; or numbers.
        """
        raise NotImplementedError

    def meta_loss(self, episodes: Episodes) -> Tensor:
        """Return the loss of each episode's query rows after adaptation, (T,)."""
        query = episodes.query
        return self.loss(self.predict(self.adapt(episodes.support), query.x), query)

    def loss(self, outputs: Tensor, rows: Rows) -> Tensor:
        """Return the masked loss of `outputs` on `rows`, (T,)."""
        function = (
            cross_entropy if self.task_type == "classification" else squared_error
        )
        return function(outputs, rows.y, rows.mask)

    def with_options(self, **options: Any) -> Self:
        """Return a learner that shares these weights and adapts with `options`.

        Raises
        ------
        ValueError
            If an option is not among `adaptation_options` and `view_options`.
        """
        known = (*self.adaptation_options, *self.view_options)
        unknown = set(options) - set(known)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no adaptation option {sorted(unknown)}; "
                f"it has {list(known)}."
            )
        view = copy.copy(self)
        for name, value in options.items():
            setattr(view, name, value)
        return view

    def at_full_cost(self) -> Self:
        """Return a view that does in every meta-update what any of them does.

        Modules are tried out and memory is predicted with it.
        """
        return copy.copy(self)

    def on_features(self) -> tuple[nn.Module, Learner] | None:
        """Return what maps rows to features, and this learner on features.

        For learners that see each row only through a module that adaptation leaves as
        it is: rows that come in many episodes are then mapped once. None for others.
        """
        return None

    @property
    def stage(self) -> Hashable:
        """What tells apart meta-updates that are different sequences of operations.

        While it stays the same, a recorded meta-update may be replayed: what changes
        with `progress` otherwise must be a parameter or a buffer, written in place.
        It speaks of the class that defines it: a subclass whose meta-update is another
        defines its own, or is not recorded.
        """
        return None

    @property
    def needs_equal_rows(self) -> bool:
        """Whether padded rows would enter a statistic (batch normalisation).

        The engine then hands over tasks in groups of equal shape, without padding.
        """
        return uses_batch_statistics(self)
