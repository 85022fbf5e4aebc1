"""Displays in scikit-learn's manner: what meta-training and adapting do, as pictures.

matplotlib is needed for drawing only: ``pip install 'sklmeta[plot]'``.
"""

from sklmeta.inspection.adaptation import AdaptationDisplay
from sklmeta.inspection.coverage import IntervalCoverageDisplay
from sklmeta.inspection.episode import EpisodeDisplay
from sklmeta.inspection.parameters import ParameterCurveDisplay
from sklmeta.inspection.reliability import ReliabilityDisplay
from sklmeta.inspection.returns import ReturnCurveDisplay
from sklmeta.inspection.shots import ShotCurveDisplay
from sklmeta.inspection.training import TrainingCurveDisplay
from sklmeta.inspection.trajectories import TrajectoryDisplay

__all__ = [
    "AdaptationDisplay",
    "EpisodeDisplay",
    "IntervalCoverageDisplay",
    "ParameterCurveDisplay",
    "ReliabilityDisplay",
    "ReturnCurveDisplay",
    "ShotCurveDisplay",
    "TrainingCurveDisplay",
    "TrajectoryDisplay",
]
