"""Parameters of fine-tuning: their docs, and what they do in `fit`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import torch

from sklmeta._meta_training import Seeds, representative
from sklmeta._parameters import filled_in, resolve_device, with_common_parameters
from sklmeta._preparation import Preparation
from sklmeta.engine.batches import Episodes
from sklmeta.engine.learner import Learner
from sklmeta.episodic import EpisodicMetaLearner
from sklmeta.transfer._training_rows import TrainingRows, fit_head, training_stream

__all__ = ["RowTrained", "with_tuning_parameters"]

TUNING = """\
layers : {"head", "all"}, default="head"
    What adapting trains: the last layer on features as they are, or all layers. Read
    when adapting.

inner_optimizer : {"adam", "sgd"}, default="adam"
    How it trains them: Adam, or gradient descent with momentum 0.9. Read when adapting.

inner_lr : float, default=0.01
    Step size of fine-tuning. Read when adapting.

inner_steps : int, default=100
    Steps of fine-tuning, on all support rows each. Read when adapting.

weight_decay : float, default=0.0
    Pulls weights to where fine-tuning started, zero for a new linear head: this times
    the distance is added to gradients. Biases are left alone. Read when adapting.

inner_early_stopping : bool, default=False
    Choose the number of steps for each task, up to `inner_steps`: that with the least
    loss of every second support row of a class after steps on the others, and the other
    way round. Tasks with one row per class take all steps. Read when adapting.

batch_size : int, default=64
    Rows per update of pre-training.
"""

Class = TypeVar("Class", bound=type)


def with_tuning_parameters(cls: Class) -> Class:
    """Write the parameters of pre-training and fine-tuning into a class docstring.

    Like `with_common_parameters`, for estimators whose batches are rows.
    """
    lines = "<common parameters>"
    cls = filled_in(cls, {"<tuning parameters>": TUNING, "<common parameters>": lines})
    cls = with_common_parameters(cls)
    doc = cls.__doc__ or ""
    for episodic, supervised in {
        "batch_size : int, default=16\n        Tasks per meta-update.\n\n    ": "",
        "Number of meta-updates.": (
            "Number of updates of pre-training; 0 leaves the backbone as it is given,"
            "\n        or drawn."
        ),
        "Step size of the outer loop.": "Step size of pre-training.",
        "Optimizer of the outer loop.": "Optimizer of pre-training.",
    }.items():
        assert episodic in doc, episodic
        doc = doc.replace(episodic, supervised)
    cls.__doc__ = doc
    return cls


class RowTrained(EpisodicMetaLearner):
    """Base of the estimators whose batches are rows of all tasks together.

    Their learner is a `FineTune`.
    """

    _least_updates = 0

    def _get_ready(
        self,
        learner: Learner,
        tasks: Any,
        preparation: Preparation,
        seeds: Seeds,
        goes_on: bool,
    ) -> bool:
        return fit_head(learner, tasks, preparation, seeds)

    def _training_stream(
        self, learner: Learner, tasks: Any, preparation: Preparation, seed: int
    ) -> Iterator[Episodes]:
        device = resolve_device(self.device)
        return training_stream(
            tasks, preparation, device, self.batch_size, seed, self.domain_weights
        )

    def _one_pass(
        self, tasks: Any, preparation: Preparation, seed: int
    ) -> list[Episodes]:
        device = resolve_device(self.device)
        rows = TrainingRows.of_tasks(representative(tasks, seed), preparation, device)
        return rows.one_pass(self.batch_size, torch.Generator().manual_seed(seed))
