"""Probability-based meta-learners: priors and predictive distributions from tasks."""

from sklmeta.probabilistic.abml import ABML, ABMLClassifier, ABMLRegressor
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
    "ABML",
    "ABMLClassifier",
    "ABMLRegressor",
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
