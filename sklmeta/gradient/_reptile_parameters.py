"""What the docs of Reptile's estimators have in common."""

from __future__ import annotations

import textwrap

from sklmeta._parameters import COMMON_PARAMETERS, Class, filled_in
from sklmeta.gradient._estimator import with_gradient_parameters

__all__ = ["with_reptile_parameters"]

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
    Whether the meta-step falls from `outer_lr` to 0 over `max_iter` updates.

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
