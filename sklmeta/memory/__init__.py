"""Memory-based meta-learners: adaptation by reading rows one after another."""

from sklmeta.memory.lstm import (
    RecurrentNet,
    RecurrentNetClassifier,
    RecurrentNetRegressor,
)
from sklmeta.memory.mann import MANN, MANNClassifier, MANNRegressor

__all__ = [
    "MANN",
    "MANNClassifier",
    "MANNRegressor",
    "RecurrentNet",
    "RecurrentNetClassifier",
    "RecurrentNetRegressor",
]
