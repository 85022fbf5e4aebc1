"""Means over independent units: their Student's t interval, and what they hang on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Interval", "decisive_unit", "mean_interval", "unit_means"]

# Of fewer units, each counts for much.
FEWEST_UNITS = 5


@dataclass(frozen=True)
class Interval:
    """Mean of n values and the ends of its interval; NaN ends of a single value."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: NDArray[np.float64], confidence: float) -> Interval:
    """Return the mean of independent values and its Student's t interval."""
    n = len(values)
    mean = float(np.mean(values)) if n else np.nan
    if n < 2:
        return Interval(mean, np.nan, np.nan, n)
    error = np.std(values, ddof=1) / np.sqrt(n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * error)
    return Interval(mean, mean - half, mean + half, n)


def unit_means(
    scores: NDArray[np.float64], units: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the mean score of each unit (task, or episode of a pool).

    Undefined scores (NaN) are left out; a unit that has no others is NaN itself.
    """
    _, unit = np.unique(units, return_inverse=True)
    defined = ~np.isnan(scores)
    sums = np.bincount(unit, np.where(defined, scores, 0.0))
    counts = np.bincount(unit, defined)
    with np.errstate(invalid="ignore"):
        return sums / counts


def decisive_unit(values: NDArray[np.float64]) -> tuple[int, float] | None:
    """Return the unit that a mean hangs on, and the mean without it; None if none.

    A mean of at least five units hangs on the most extreme one, if leaving that out
    moves it by more than half of its absolute value, and by more than two standard
    errors of the mean of the others. NaN are left out.
    """
    defined = np.flatnonzero(~np.isnan(values))
    own = values[defined]
    if len(own) < FEWEST_UNITS:
        return None
    mean = own.mean()
    with np.errstate(invalid="ignore"):  # of infinite scores
        extreme = int(np.abs(own - mean).argmax())
        others = np.delete(own, extreme)
        without = float(others.mean())
        moves, error = abs(mean - without), others.std(ddof=1) / np.sqrt(len(others))
    enough = moves > max(abs(mean) / 2, 2 * error) or np.isinf(mean)
    if not (enough and np.isfinite(without)):
        return None
    return int(defined[extreme]), without
