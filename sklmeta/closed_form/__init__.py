"""Closed-form meta-learners: adaptation solves a linear system on learned features."""

from sklmeta.closed_form.mixed_model import HierarchicalLinearRegressor
from sklmeta.closed_form.ridge import (
    RidgeNet,
    RidgeNetClassifier,
    RidgeNetRegressor,
)

__all__ = [
    "HierarchicalLinearRegressor",
    "RidgeNet",
    "RidgeNetClassifier",
    "RidgeNetRegressor",
]
