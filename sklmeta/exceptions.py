"""Errors and warnings of sklmeta, each a subclass of what scikit-learn users catch."""

from collections.abc import Hashable
from typing import Any

__all__ = [
    "CompilationWarning",
    "EnvTaskError",
    "EnvTaskWarning",
    "MetaTrainingError",
    "SmallTaskWarning",
    "TaskLeakageWarning",
]


class CompilationWarning(UserWarning):
    """``compile=True`` has no effect here; meta-training goes on without it."""


class EnvTaskError(RuntimeError):
    """An environment failed: it raised, hung, or gave what its spaces do not hold.

    All environments are closed, and agents keep what they have learned so far.

    Parameters
    ----------
    message : str
        Names the task, what happened and what to do.
    task_name : hashable, default=None
        Name of the task.
    """

    def __init__(self, message: str, task_name: Hashable = None) -> None:
        super().__init__(message)
        self.task_name = task_name

    def __reduce__(self) -> tuple[type, tuple[str, Hashable], dict[str, Any]]:
        """Let the error pass from one process to another, with its notes."""
        return type(self), (str(self), self.task_name), self.__dict__


class EnvTaskWarning(UserWarning):
    """An environment failed, and meta-training goes on without its task."""


class MetaTrainingError(ValueError):
    """Meta-training or adaptation produced numbers that are not finite.

    The estimator keeps whatever it had learned before the call that raised this.
    """


class SmallTaskWarning(UserWarning):
    """Some tasks have too few rows for the asked number of shots."""


class TaskLeakageWarning(UserWarning):
    """A task that is scored was meta-trained on with other rows."""
