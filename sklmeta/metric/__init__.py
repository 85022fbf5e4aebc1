"""Metric-based meta-learners: adaptation by distances in a learned space."""

from sklmeta.metric.matching import MatchingNet, MatchingNetClassifier
from sklmeta.metric.protonet import ProtoNet, ProtoNetClassifier

__all__ = [
    "MatchingNet",
    "MatchingNetClassifier",
    "ProtoNet",
    "ProtoNetClassifier",
]
