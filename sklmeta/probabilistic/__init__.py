"""Probability-based meta-learners: priors and predictive distributions from tasks."""

from sklmeta.probabilistic.in_context import (
    InContext,
    InContextClassifier,
    InContextRegressor,
)
from sklmeta.probabilistic.neural_process import (
    NeuralProcess,
    NeuralProcessClassifier,
    NeuralProcessRegressor,
)
from sklmeta.probabilistic.platipus import (
    ProbabilisticMAML,
    ProbabilisticMAMLClassifier,
    ProbabilisticMAMLRegressor,
)

__all__ = [
    "InContext",
    "InContextClassifier",
    "InContextRegressor",
    "NeuralProcess",
    "NeuralProcessClassifier",
    "NeuralProcessRegressor",
    "ProbabilisticMAML",
    "ProbabilisticMAMLClassifier",
    "ProbabilisticMAMLRegressor",
]
