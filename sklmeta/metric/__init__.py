"""Metric-based meta-learners: adaptation by distances in a learned space."""

from sklmeta.metric.matching import MatchingNet, MatchingNetClassifier
from sklmeta.metric.plda import PLDA, PLDAClassifier
from sklmeta.metric.protonet import ProtoNet, ProtoNetClassifier
from sklmeta.metric.relation import RelationNet, RelationNetClassifier
from sklmeta.metric.simpleshot import SimpleShot, SimpleShotClassifier
from sklmeta.metric.transductive import (
    TransductiveProtoNet,
    TransductiveProtoNetClassifier,
)

__all__ = [
    "PLDA",
    "MatchingNet",
    "MatchingNetClassifier",
    "PLDAClassifier",
    "ProtoNet",
    "ProtoNetClassifier",
    "RelationNet",
    "RelationNetClassifier",
    "SimpleShot",
    "SimpleShotClassifier",
    "TransductiveProtoNet",
    "TransductiveProtoNetClassifier",
]
