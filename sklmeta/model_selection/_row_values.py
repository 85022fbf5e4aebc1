"""What metrics are made of: values of query rows, and their means in each episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sklmeta.model_selection._predictions import EpisodePrediction
from sklmeta.model_selection._protocol import DrawnEpisodes

__all__ = [
    "Entry",
    "Predictions",
    "Values",
    "errors",
    "hits",
    "means",
    "over_outputs",
    "sizes",
]

Predictions = Sequence[EpisodePrediction]
Values = NDArray[np.float64]
# How a metric is computed, what it needs, and whether greater is better.
Entry = tuple[Callable[[Predictions, DrawnEpisodes], Values], str, bool]


def sizes(predictions: Predictions) -> NDArray[np.int64]:
    """Return how many query rows each episode has."""
    return np.array([len(one.y_true) for one in predictions])


def means(rows: Values, predictions: Predictions) -> Values:
    """Return the mean of each episode's rows; (R,) or (R, n_outputs)."""
    n = sizes(predictions)
    sums = np.add.reduceat(rows, np.cumsum(n) - n, axis=0)
    return sums / (n if rows.ndim == 1 else n[:, None])


def errors(predictions: Predictions) -> Values:
    """Return how far predictions lie above the targets, row by row."""
    y_true = np.concatenate([one.y_true for one in predictions]).astype(np.float64)
    return np.concatenate([one.y_pred for one in predictions]) - y_true


def over_outputs(values: Values) -> Values:
    """Return the mean over outputs, as scikit-learn has it by default."""
    return values if values.ndim == 1 else values.mean(1)


def hits(one: EpisodePrediction) -> NDArray[np.bool_]:
    """Return which column of the probabilities is the true class of each row."""
    assert one.classes is not None
    return one.y_true[:, None] == one.classes
