"""The parameters of Reptile's scikit-learn faces: docs and checks."""

from __future__ import annotations

import textwrap
import warnings
from typing import Any, Unpack

from sklmeta._meta_training import Seeds
from sklmeta._parameters import (
    COMMON_PARAMETERS,
    Class,
    check_choice,
    check_integer,
    check_positive,
    filled_in,
)
from sklmeta.engine.spec import bounds
from sklmeta.gradient._estimator import (
    GradientMetaLearner,
    GradientParameters,
    with_gradient_parameters,
)

__all__ = ["ReptileParametersBase", "with_reptile_parameters"]

INNER_OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("linear", "constant")

JOINT_TRAINING = (
    "Reptile with train_steps=1 is joint training: its meta-gradient is that of one "
    "loss on the rows of all tasks, which no task adapts to. Take more steps "
    "(train_steps=5), or a baseline such as PooledClassifier."
)

PARAMETERS = """\
inner_optimizer : {"adam", "sgd"}, default="adam"
    What adapts weights to a task: Adam without first moments, as in the paper, or
    plain gradient descent, which wants a larger `inner_lr`.

inner_lr : float, default=5e-3
    Step size of the inner loop. Read when adapting.

inner_steps : int, default=50
    Steps when adapting, on all support rows; change it after `fit` to adapt
    further. Meta-training takes `train_steps`.

train_steps : int, default=5
    Inner steps in meta-training, each on another minibatch. One would be joint
    training on all tasks, which is warned of.

train_shots : int, default=None
    Rows that the inner loop of meta-training sees: per class with local labels, per
    task with shared labels and in regression. More than `n_shot`, which held-out
    tasks are judged with, helps. None takes all rows of an episode, `n_shot` and
    `n_query`.

inner_batch_size : int or None, default=10
    Rows of a minibatch in meta-training; None takes all rows in every step.

outer_schedule : {"linear", "constant"}, default="linear"
    Whether the meta-step falls from `outer_lr` to 0 over `max_iter` updates. Meta-
    gradients are scaled, which ``optimizer="sgd"`` follows exactly; optimizers that
    divide by the size of past gradients, as Adam, only with a delay.

outer_lr : float, default=1.0
    Meta-step: how far the start goes towards the mean of the tasks' adapted
    weights, with ``optimizer="sgd"``.

optimizer : {"adam", "adamw", "rmsprop", "sgd"} or torch optimizer class, \
default="sgd"
    Optimizer of the outer loop; "sgd" is the paper's. Others want a smaller
    `outer_lr`.
"""


def with_reptile_parameters(cls: Class) -> Class:
    """Write all parameters into a docstring: Reptile's own, and those that it shares.

    Two of the shared ones have other defaults here.
    """
    cls = with_gradient_parameters(filled_in(cls, {"<reptile parameters>": PARAMETERS}))
    start, end = map(COMMON_PARAMETERS.index, ("\nouter_lr :", "\nbatch_size :"))
    shared = COMMON_PARAMETERS[start + 1 : end + 1]
    return filled_in(cls, {textwrap.indent(shared, " " * 4): ""})


class ReptileParametersBase(GradientMetaLearner):
    """The parameters of Reptile's estimators, and what they are checked for."""

    _adaptation_parameters = ("inner_lr", "inner_steps")
    _step_sizes = ("inner_lr", "outer_lr")
    _structural_parameters = (
        *GradientMetaLearner._structural_parameters,
        *("inner_optimizer", "train_steps", "inner_batch_size", "outer_schedule"),
    )

    def __init__(  # type: ignore[misc]  # other defaults than those in common
        self,
        backbone: Any = None,
        *,
        inner_optimizer: str = "adam",
        inner_lr: float = 5e-3,
        inner_steps: int = 50,
        train_steps: int = 5,
        train_shots: int | None = None,
        inner_batch_size: int | None = 10,
        outer_schedule: str = "linear",
        outer_lr: float = 1.0,
        optimizer: Any = "sgd",
        **common: Unpack[GradientParameters],
    ) -> None:
        super().__init__(backbone, outer_lr=outer_lr, optimizer=optimizer, **common)
        self.inner_optimizer = inner_optimizer
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.train_steps = train_steps
        self.train_shots = train_shots
        self.inner_batch_size = inner_batch_size
        self.outer_schedule = outer_schedule

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("inner_optimizer", self.inner_optimizer, INNER_OPTIMIZERS)
        check_choice("outer_schedule", self.outer_schedule, SCHEDULES)
        check_positive("inner_lr", self.inner_lr)
        check_integer("inner_steps", self.inner_steps, 0)
        check_integer("train_steps", self.train_steps, 1)
        if self.train_shots is not None:
            check_integer("train_shots", self.train_shots, 2)
        if self.inner_batch_size is not None:
            check_integer("inner_batch_size", self.inner_batch_size, 1)

    def _start(self, goes_on: bool) -> Seeds:
        seeds = super()._start(goes_on)
        if self.train_steps == 1:
            warnings.warn(JOINT_TRAINING, UserWarning, stacklevel=3)
        return seeds

    def _training_counts(self) -> dict[str, Any]:
        if self.train_shots is None:
            return {}
        # Support and query rows are adapted to together; an episode has both.
        n_shot = min(bounds(self.n_shot, "n_shot")[0], self.train_shots - 1)
        return {"n_shot": n_shot, "n_query": self.train_shots - n_shot}
