"""Splitting, scoring and comparing over tasks."""

from sklmeta.model_selection.splits import TaskKFold

__all__ = ["TaskKFold"]
