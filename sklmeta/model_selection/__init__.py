"""Splitting, scoring and comparing over tasks."""

from sklmeta.model_selection.splits import (
    LeaveOneTaskOut,
    TaskKFold,
    TaskShuffleSplit,
)

__all__ = ["LeaveOneTaskOut", "TaskKFold", "TaskShuffleSplit"]
