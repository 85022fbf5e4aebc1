"""Confidence and accuracy of query rows in bins, with intervals over tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.utils.parallel import Parallel, delayed

from sklmeta._leakage import already_warned
from sklmeta.model_selection._calibration_metrics import bin_numbers, top_labels
from sklmeta.model_selection._errors import renamed
from sklmeta.model_selection._judging import draw_for, one_thread
from sklmeta.model_selection._predictions import (
    episode_predictions,
    refuse_without_adapt,
)
from sklmeta.model_selection._protocol import DrawnEpisodes, EpisodeProtocol
from sklmeta.model_selection._row_values import sizes
from sklmeta.model_selection._training_tasks import (
    seen_names,
    warn_of_training_tasks,
)
from sklmeta.tasks import as_tasks

__all__ = ["Reliability", "TopLabels", "binned", "judged_rows"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class TopLabels:
    """The most probable label of each query row of all episodes, shape (R,) each.

    Attributes
    ----------
    confidence : ndarray
        Its probability.
    right : ndarray
        1 where it is true, else 0.
    unit : ndarray
        Number of the row's task, or of its episode of a ClassPool.
    """

    confidence: Values
    right: Values
    unit: NDArray[np.int64]


@dataclass(frozen=True)
class Reliability:
    """What `binned` finds, shape (n_bins,) each; NaN in empty bins."""

    mean_confidence: Values
    accuracy: Values
    low: Values
    high: Values
    n_rows: NDArray[np.int64]
    ece: float


def judged_rows(
    estimators: Mapping[str, Any],
    tasks: Any,
    protocol: EpisodeProtocol,
    n_jobs: int | None,
) -> tuple[list[TopLabels], str]:
    """Return what each classifier says of the same episodes, and what their unit is."""
    for one in estimators.values():
        refuse_without_adapt(one)
    drawn = draw_for(estimators.values(), as_tasks(tasks), protocol, labels=True)
    seen = {name: seen_names(one) for name, one in estimators.items()}
    warn_of_training_tasks(drawn.tasks, seen, stacklevel=3)
    found = Parallel(n_jobs=n_jobs)(
        delayed(_rows)(name, one, drawn, os.getpid())
        for name, one in estimators.items()
    )
    return found, drawn.unit


def _rows(name: str, estimator: Any, drawn: DrawnEpisodes, caller: int) -> TopLabels:
    with one_thread(caller), already_warned():
        try:
            found = list(episode_predictions(estimator, drawn, "predict_proba"))
        except Exception as error:
            raise renamed(error, f"Method {name!r} fails in scoring") from error
    _, unit = np.unique(drawn.units, return_inverse=True)
    return TopLabels(*top_labels(found), np.repeat(unit, sizes(found)))


def binned(
    rows: TopLabels, n_bins: int, strategy: str, confidence: float
) -> Reliability:
    """Pool the rows of all episodes in bins of confidence.

    The accuracy of a bin is a ratio of two sums over tasks, rows that are right by
    rows. Its interval is Student's t of the linearised ratio over the tasks that have
    rows in the bin, so that rows of one task are no independent evidence.
    """
    shares = np.linspace(0, 1, n_bins + 1)
    edges = np.quantile(rows.confidence, shares) if strategy == "quantile" else shares
    place = bin_numbers(rows.confidence, edges)
    n_units = int(rows.unit.max()) + 1

    def per_unit(values: Values) -> Values:  # (n_units, n_bins)
        flat = np.bincount(rows.unit * n_bins + place, values, n_units * n_bins)
        return flat.reshape(n_units, n_bins).astype(np.float64)

    n, right = per_unit(np.ones_like(rows.right)), per_unit(rows.right)
    total = n.sum(0)
    with np.errstate(invalid="ignore"):  # of empty bins
        stated = per_unit(rows.confidence).sum(0) / total
        accuracy = right.sum(0) / total
        half = _half_width(right - accuracy * n, (n > 0).sum(0), confidence) / total
    gaps = np.where(total > 0, total * np.abs(accuracy - stated), 0.0)
    return Reliability(
        stated,
        accuracy,
        accuracy - half,
        accuracy + half,
        total.astype(np.int64),
        float(gaps.sum() / total.sum()),
    )


def _half_width(
    residuals: Values, n_units: NDArray[np.int64], confidence: float
) -> Values:
    """Return half the interval of a sum over units, (n_bins,); NaN of a single one."""
    several = n_units > 1
    degrees = np.where(several, n_units - 1, 1)
    error = np.sqrt((residuals**2).sum(0) * n_units / degrees)
    half = stats.t.ppf((1 + confidence) / 2, degrees) * error
    return np.where(several, half, np.nan)
