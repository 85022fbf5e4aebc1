"""Optimisation-based meta-learners: adaptation by gradient steps."""

from sklmeta.gradient.anil import ANIL, ANILClassifier, ANILRegressor
from sklmeta.gradient.cavia import CAVIA, CAVIAClassifier, CAVIARegressor
from sklmeta.gradient.implicit_maml import (
    ImplicitMAML,
    ImplicitMAMLClassifier,
    ImplicitMAMLRegressor,
)
from sklmeta.gradient.inner_rates import InnerRates
from sklmeta.gradient.maml import MAML, MAMLClassifier, MAMLRegressor
from sklmeta.gradient.meta_sgd import MetaSGD, MetaSGDClassifier, MetaSGDRegressor
from sklmeta.gradient.reptile import Reptile, ReptileClassifier, ReptileRegressor

__all__ = [
    "ANIL",
    "CAVIA",
    "MAML",
    "ANILClassifier",
    "ANILRegressor",
    "CAVIAClassifier",
    "CAVIARegressor",
    "ImplicitMAML",
    "ImplicitMAMLClassifier",
    "ImplicitMAMLRegressor",
    "InnerRates",
    "MAMLClassifier",
    "MAMLRegressor",
    "MetaSGD",
    "MetaSGDClassifier",
    "MetaSGDRegressor",
    "Reptile",
    "ReptileClassifier",
    "ReptileRegressor",
]
