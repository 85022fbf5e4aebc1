"""One meta-update's loss and gradients: the one place that decides how they are made.

An update is a callable from a batch of episodes to their mean meta-loss that leaves the
gradients in ``.grad``. `make_update` chooses the way; no algorithm knows of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from sklmeta.engine.batches import Episodes
from sklmeta.engine.buckets import Buckets
from sklmeta.engine.compiled import compilations
from sklmeta.engine.eager import EagerUpdate, device_of, parts_known, parts_of
from sklmeta.engine.learner import Learner
from sklmeta.engine.mapping import shares_out_tasks
from sklmeta.engine.programs import replays
from sklmeta.engine.recorded import RecordedUpdate, can_be_compiled, can_be_recorded
from sklmeta.engine.threads import ThreadedUpdate
from sklmeta.exceptions import CompilationWarning

__all__ = ["EagerUpdate", "Update", "UpdateOptions", "make_update", "parts_of"]

Update = Callable[[Episodes], Tensor]
"""Takes a batch, adds gradients of its mean meta-loss to ``.grad``, returns the loss.

The loss is detached, on the batch's device.
"""


@dataclass(frozen=True)
class UpdateOptions:
    """How meta-updates are computed; the estimators' parameters of the same names."""

    compile: bool = False


def make_update(learner: Learner, options: UpdateOptions | None = None) -> Update:
    """Return the way to compute meta-updates of `learner`.

    Parameters
    ----------
    learner : Learner
        On the device that it is trained on.
    options : UpdateOptions, default=None
        None: the defaults.

    Returns
    -------
    callable
        Takes `Episodes`, adds the gradients of their mean meta-loss to ``.grad`` of
        the learner's parameters, and returns that loss, detached.
    """
    options = options or UpdateOptions()
    if options.compile and can_be_compiled(learner):
        return _compiled_update(learner)
    if can_be_recorded(learner):
        return RecordedUpdate(
            learner, parts_known(learner), replays, prepare=_buckets(learner)
        )
    if shares_out_tasks(learner, device_of(learner)):
        return ThreadedUpdate(learner, parts_of, EagerUpdate(learner))
    return EagerUpdate(learner)


def _compiled_update(learner: Learner) -> Update:
    """Return an update by compiled programs, which warns once where that fails."""
    told: list[str] = []

    def warn(reason: str) -> None:
        if told:
            return
        told.append(reason)
        warnings.warn(
            f"compile=True has no effect: {reason}. Meta-training goes on without "
            "it. On a CPU it needs a C++ compiler, such as g++, that runs; and a "
            "backbone and a learner that hold tensors and plain values, have no hooks "
            "and do the same operations in every update. compile=False is silent.",
            CompilationWarning,
            stacklevel=2,
        )

    return RecordedUpdate(
        learner,
        parts_known(learner),
        partial(compilations, warn=warn),
        patience=0,
        most_values=None,
        prepare=_buckets(learner),
        on_refusal=warn,
    )


def _buckets(learner: Learner) -> Buckets | None:
    """Return what pads ragged tasks, where padding is left out of every statistic."""
    return None if learner.needs_equal_rows else Buckets()
