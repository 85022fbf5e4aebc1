"""Backbones: torch modules from rows or images to features."""

from sklmeta.backbones.conv import ConvNet
from sklmeta.backbones.film import FiLM
from sklmeta.backbones.mlp import MLP
from sklmeta.backbones.weights import load_weights

__all__ = ["MLP", "ConvNet", "FiLM", "load_weights"]
