"""Closed-form meta-learners: adaptation solves a linear system on learned features."""

from sklmeta.closed_form.bayesian_linear import (
    BayesianLinearNet,
    BayesianLinearNetRegressor,
)
from sklmeta.closed_form.deep_kernel import (
    DeepKernel,
    DeepKernelClassifier,
    DeepKernelRegressor,
)
from sklmeta.closed_form.mixed_logistic import HierarchicalLogisticClassifier
from sklmeta.closed_form.mixed_model import HierarchicalLinearRegressor
from sklmeta.closed_form.ridge import (
    RidgeNet,
    RidgeNetClassifier,
    RidgeNetRegressor,
)

__all__ = [
    "BayesianLinearNet",
    "BayesianLinearNetRegressor",
    "DeepKernel",
    "DeepKernelClassifier",
    "DeepKernelRegressor",
    "HierarchicalLinearRegressor",
    "HierarchicalLogisticClassifier",
    "RidgeNet",
    "RidgeNetClassifier",
    "RidgeNetRegressor",
]
