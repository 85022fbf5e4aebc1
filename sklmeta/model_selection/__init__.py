"""Splitting, scoring and comparing over tasks."""

from sklmeta.model_selection.comparison import (
    Comparison,
    Evaluation,
    compare,
    evaluate,
)
from sklmeta.model_selection.episodic_split import EpisodicSplit
from sklmeta.model_selection.presentation import presentation_accuracy
from sklmeta.model_selection.scoring import EpisodeScorer, make_episode_scorer
from sklmeta.model_selection.splits import (
    LeaveOneTaskOut,
    TaskKFold,
    TaskShuffleSplit,
)

__all__ = [
    "Comparison",
    "EpisodeScorer",
    "EpisodicSplit",
    "Evaluation",
    "LeaveOneTaskOut",
    "TaskKFold",
    "TaskShuffleSplit",
    "compare",
    "evaluate",
    "make_episode_scorer",
    "presentation_accuracy",
]
