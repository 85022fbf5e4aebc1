"""Backbones: torch modules from rows or images to features."""

from sklmeta.backbones.conv import ConvNet
from sklmeta.backbones.film import FiLM
from sklmeta.backbones.mlp import MLP

__all__ = ["MLP", "ConvNet", "FiLM"]
