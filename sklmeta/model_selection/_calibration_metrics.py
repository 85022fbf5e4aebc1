r"""Metrics of stated uncertainty: densities and intervals of normals, and confidences.

Of a target :math:`y` that is predicted as normal with mean :math:`\mu` and standard
deviation :math:`\sigma`, with :math:`z = (y - \mu) / \sigma`, the negative log
predictive density and the continuous ranked probability score [1]_ are

.. math:: \tfrac12 \log(2 \pi \sigma^2) + \tfrac12 z^2, \qquad
    \sigma \left( z \, (2 \Phi(z) - 1) + 2 \varphi(z) - 1 / \sqrt \pi \right).

Both are proper: stating the truth is best. Coverage and width of intervals are not, as
either alone is best where intervals are useless. The expected calibration error [2]_ is
the distance between stated confidence and observed accuracy in bins of confidence,
:math:`\sum_b n_b / n \, |\mathrm{acc}_b - \mathrm{conf}_b|`.

.. [1] T. Gneiting, A. E. Raftery, "Strictly Proper Scoring Rules, Prediction, and
   Estimation", Journal of the American Statistical Association 102, 2007.
.. [2] C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural
   Networks", ICML 2017, arXiv:1706.04599.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm

from sklmeta.model_selection._protocol import DrawnEpisodes
from sklmeta.model_selection._row_values import (
    Entry,
    Predictions,
    Values,
    errors,
    hits,
    means,
    over_outputs,
    sizes,
)

__all__ = [
    "ECE_BINS",
    "INTERVALS",
    "bin_numbers",
    "crps",
    "ece",
    "interval_metric",
    "interval_name",
    "is_interval_metric",
    "meant_interval",
    "nlpd",
    "top_labels",
]

ECE_BINS = 10  # of equal width


# Regression ------------------------------------------------------------------------


def _stds(predictions: Predictions) -> Values:
    stds = [one.std for one in predictions if one.std is not None]
    return np.concatenate(stds).astype(np.float64)


def nlpd(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
    """Negative log predictive density."""
    variance = _stds(predictions) ** 2
    density = np.log(2 * np.pi * variance) + errors(predictions) ** 2 / variance
    return over_outputs(means(density / 2, predictions))


def crps(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
    """Continuous ranked probability score, in the units of the target."""
    std = _stds(predictions)
    z = errors(predictions) / std
    rows = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
    return over_outputs(means(std * rows, predictions))


def _half_widths(predictions: Predictions, level: float) -> Values:
    """Return half the width of the central interval of each row."""
    return _stds(predictions) * ndtri((1 + level) / 2)


def _coverage(
    predictions: Predictions, drawn: DrawnEpisodes, *, level: float
) -> Values:
    """Share of targets inside their central intervals; of outputs, the mean."""
    inside = np.abs(errors(predictions)) <= _half_widths(predictions, level)
    return over_outputs(means(inside.astype(np.float64), predictions))


def _interval_width(
    predictions: Predictions, drawn: DrawnEpisodes, *, level: float
) -> Values:
    """Width of central intervals, in the units of the target."""
    return over_outputs(means(2 * _half_widths(predictions, level), predictions))


# More coverage is better, and less width: each is best at the cost of the other.
_KINDS = {"coverage": (_coverage, True), "interval_width": (_interval_width, False)}
USUAL_LEVEL = 0.9
INTERVALS: dict[str, Entry] = {
    kind: (partial(compute, level=USUAL_LEVEL), "std", better)
    for kind, (compute, better) in _KINDS.items()
}


def interval_metric(name: str) -> Entry | None:
    """Return the metric of a name such as "coverage_80", if it is one.

    Raises
    ------
    ValueError
        If the level is none.
    """
    kind, _, level = name.rpartition("_")
    if kind not in _KINDS:
        return None
    compute, better = _KINDS[kind]
    return partial(compute, level=_percent(name, kind, level) / 100), "std", better


def interval_name(kind: str, level: float) -> str:
    """Return the name of a metric of intervals at a level, all of its digits kept.

    Examples
    --------
    >>> interval_name("coverage", 0.9), interval_name("coverage", 0.9999999)
    ('coverage_90', 'coverage_99.99999')
    """
    return f"{kind}_{_plain(Decimal(repr(float(level))) * 100)}"


def meant_interval(name: str) -> str | None:
    """Return the metric that a name such as "Coverage 90%" is a slip of, if any."""
    like = re.sub(r"[\s_-]+", "_", name.strip().lower())
    kinds = "|".join(_KINDS)
    found = re.fullmatch(rf"({kinds})_?([0-9]+(?:\.[0-9]+)?)_?%?", like)
    return None if found is None else _valid_name(found[1], found[2])


def _valid_name(kind: str, text: str) -> str | None:
    """Return the name with a level that is a percentage, or a fraction."""
    level = Decimal(text)
    if level < 1:
        level *= 100
    return f"{kind}_{_plain(level)}" if 1 <= level < 100 else None


def _plain(number: Decimal) -> str:
    """Return a number without exponent or zeros at its end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def is_interval_metric(name: str) -> bool:
    """Whether a metric is a coverage or a width of intervals, by its name."""
    return name in _KINDS or name.rpartition("_")[0] in _KINDS


def _percent(name: str, kind: str, text: str) -> float:
    """Return the level that a name ends in; a fraction is taken for a slip."""
    percent = float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else np.nan
    if 1 <= percent < 100:
        return percent
    near = meant_interval(name)
    meant = f" Did you mean {near!r}?" if near else ""
    raise ValueError(
        f"metric={name!r} ends in {text!r}, and the level of intervals must be a "
        f"percentage from 1 to below 100, as in '{kind}_80' or '{kind}_97.5'.{meant}"
    )


# Classification --------------------------------------------------------------------


def top_labels(predictions: Predictions) -> tuple[Values, Values]:
    """Return the confidence in the most probable label of each row, and if it is right.

    Both of shape (R,), rows of all episodes one after the other.
    """
    confidence, right = [], []
    for one in predictions:
        assert one.proba is not None
        top = one.proba.argmax(1)[:, None]
        confidence.append(np.take_along_axis(one.proba, top, 1)[:, 0])
        right.append(np.take_along_axis(hits(one), top, 1)[:, 0])
    return np.concatenate(confidence), np.concatenate(right).astype(np.float64)


def bin_numbers(confidence: Values, edges: Values) -> NDArray[np.int64]:
    """Return the bin of each confidence; an edge belongs to the bin below it."""
    return np.searchsorted(edges[1:-1], confidence, side="left").astype(np.int64)


def ece(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
    """Return the expected calibration error of the top label in each episode."""
    confidence, right = top_labels(predictions)
    n = sizes(predictions)
    place = bin_numbers(confidence, np.linspace(0, 1, ECE_BINS + 1))
    place += ECE_BINS * np.repeat(np.arange(len(n)), n)
    gaps = np.bincount(place, right - confidence, minlength=ECE_BINS * len(n))
    return np.abs(gaps.reshape(len(n), ECE_BINS)).sum(1) / n
