"""Errors and warnings of sklmeta, each a subclass of what scikit-learn users catch."""

__all__ = [
    "CompilationWarning",
    "EnvTaskError",
    "MetaTrainingError",
    "SmallTaskWarning",
    "TaskLeakageWarning",
]


class CompilationWarning(UserWarning):
    """``compile=True`` has no effect here; meta-training goes on without it."""


class EnvTaskError(RuntimeError):
    pass


class MetaTrainingError(ValueError):
    """Meta-training or adaptation produced numbers that are not finite.

    The estimator keeps whatever it had learned before the call that raised this.
    """


class SmallTaskWarning(UserWarning):
    """Some tasks have too few rows for the asked number of shots."""


class TaskLeakageWarning(UserWarning):
    """A task that is scored was meta-trained on with other rows."""
