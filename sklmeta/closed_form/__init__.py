"""Closed-form meta-learners: adaptation solves a linear system on learned features."""

from sklmeta.closed_form.ridge import (
    RidgeNet,
    RidgeNetClassifier,
    RidgeNetRegressor,
)

__all__ = ["RidgeNet", "RidgeNetClassifier", "RidgeNetRegressor"]
