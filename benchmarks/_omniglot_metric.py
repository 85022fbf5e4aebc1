"""The methods of omniglot.py that compare features, and how they are meta-trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklmeta import ProtoNetClassifier

__all__ = ["METRIC", "metric_choice", "metric_recipe"]

METRIC: dict[str, Callable[..., Any]] = {"protonet": ProtoNetClassifier}


def metric_recipe(method: str, ways: int, shots: int) -> dict[str, Any]:
    """Return how the method's paper meta-trains."""
    common = {"width": 64, "outer_lr": 1e-3, "train_shots": shots, "n_query": 5}
    return {
        **common,
        "downsample": "pool",
        "train_ways": 60,
        "batch_size": 1,
        "schedule": "halving",
    }


def metric_choice(method: str, shots: int) -> dict[str, Any]:
    """Return where our defaults are not the paper's; an option that is given wins.

    Fewer ways in training buy more updates in the time.
    """
    return {"schedule": "cosine", "train_ways": 30 if shots == 1 else 20}
