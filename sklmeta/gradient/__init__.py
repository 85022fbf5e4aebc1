"""Optimisation-based meta-learners: adaptation by gradient steps."""

from sklmeta.gradient.maml import MAML, MAMLClassifier, MAMLRegressor

__all__ = ["MAML", "MAMLClassifier", "MAMLRegressor"]
