"""What the docstrings of meta-trained agents share."""

from __future__ import annotations

from inspect import signature
from typing import TypeVar

from sklmeta._parameters import filled_in

__all__ = ["with_agent_parameters"]

PARAMETERS = """\
max_iter : int, default=<max_iter>
    Meta-updates.

max_env_steps : int, default=None
    Environment steps after which `fit` makes no further update. None: `max_iter` alone
    decides.

deterministic : bool, default=False
    Whether to take the likeliest action, where `score` judges and in the control loop,
    rather than to draw one. Meta-training and episodes that gradients are taken from
    always draw. `predict` never does.

vectorization : {"sync", "async"}, default="sync"
    Whether gymnasium environments run in this process, one after the other, or in one
    process each, which pays where a step takes longer than to talk to a process. A
    script that uses "async" needs the ``if __name__ == "__main__":`` of
    multiprocessing. Families of this library with simulators of their own are
    simulated together, whatever this says.

step_timeout : float, default=None
    Seconds that a step of an environment may take; needs "async".

env_errors : {"raise", "warn"}, default="raise"
    What to do when an environment fails in `fit`: raise an `EnvTaskError` that names
    its task, or leave the task out and go on, with an `EnvTaskWarning`.

device : str or torch.device, default="auto"
    Where to compute in `fit`, `score` and `adaptation_curve`; "auto" is a GPU where
    there is one. `adapt` and what it returns compute on the CPU.

warm_start : bool, default=False
    Whether `fit` goes on from the last fit's weights, for `max_iter` more updates, with
    the parameters as they are then: that is how step sizes are lowered on the way.

random_state : int, RandomState instance or None, default=None
    Seed of weights, tasks, environments and actions. An int gives the same result every
    time.

verbose : int, default=0
    Print a line per update if not 0.
"""

ATTRIBUTES = """\
learner_ : torch.nn.Module
    The meta-learned torch learner.

history_ : list of dict
    One entry per update: `env_steps` so far, the mean `return` of an episode, and what
    the update says of its losses.

n_iter_ : int
    Number of meta-updates made.

n_env_steps_ : int
    Number of environment steps made.

observation_space_, action_space_ : gymnasium.Space
    Spaces of the tasks.

adapted_ : AdaptedPolicy
    What the last `adapt` returned; `predict` and the control loop use it.
"""

Class = TypeVar("Class", bound=type)


def with_agent_parameters(cls: Class) -> Class:
    """Write the shared parameters and attributes into a class docstring.

    The docstring holds the lines ``<agent parameters>`` and ``<agent attributes>``.
    """
    default = signature(cls).parameters["max_iter"].default
    parameters = PARAMETERS.replace("<max_iter>", str(default))
    texts = {"<agent parameters>": parameters, "<agent attributes>": ATTRIBUTES}
    return filled_in(cls, texts)
