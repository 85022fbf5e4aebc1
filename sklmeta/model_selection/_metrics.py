"""Metrics of episodes: scikit-learn's, callables, and a few short names.

Every metric gives one number for each episode, from the predictions of its query rows.
The frequent ones are computed for all episodes together; whatever else scikit-learn or
the user has goes through scikit-learn's scorers, episode by episode.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer

from sklmeta._pooling import take_rows
from sklmeta.model_selection._calibration_metrics import (
    INTERVALS,
    crps,
    ece,
    interval_metric,
    meant_interval,
    nlpd,
)
from sklmeta.model_selection._errors import renamed
from sklmeta.model_selection._predictions import EpisodePrediction
from sklmeta.model_selection._protocol import DrawnEpisodes
from sklmeta.model_selection._row_values import (
    Entry,
    Predictions,
    Values,
    errors,
    hits,
    means,
    over_outputs,
)
from sklmeta.model_selection._told_once import gathered

__all__ = [
    "Metric",
    "NeedsProbabilities",
    "as_metric",
    "as_metrics",
    "own_metric",
    "takes_estimator",
    "unknown_name",
    "with_known_needs",
]


class NeedsProbabilities(Exception):
    """A scorer asked for probabilities that were not predicted yet."""


@dataclass(frozen=True)
class Metric:
    """One number for each episode.

    Attributes
    ----------
    name : str
    compute : callable
        Takes predictions and their DrawnEpisodes; returns one value each. NaN where it
        is not defined.
    needs : {"predict", "predict_proba", "std"} or None
        What it is computed from; None: to be found out on a first episode.
    greater_is_better : bool, default=True
    is_own : bool, default=False
        Whether the user made it, so that nobody else knows why it gives NaN.
    """

    name: str
    compute: Callable[[Predictions, DrawnEpisodes], Values]
    needs: str | None = "predict"
    greater_is_better: bool = True
    is_own: bool = False


def as_metrics(metric: Any, classifies: bool) -> list[Metric]:
    """Return the metrics that a user named, or the default.

    Raises
    ------
    TypeError
        If one is nothing that scores.
    ValueError
        If a name is unknown, given twice, or not for this kind of target.
    """
    if metric is None:
        metric = "accuracy" if classifies else "rmse"
    if isinstance(metric, Mapping):
        found = [as_metric(one, classifies, str(name)) for name, one in metric.items()]
    elif isinstance(metric, (list, tuple)):
        found = [as_metric(one, classifies) for one in metric]
    else:
        found = [as_metric(metric, classifies)]
    names = [one.name for one in found]
    if not found:
        raise ValueError("metric is empty; give at least one metric, or None.")
    if len(set(names)) < len(names):
        raise ValueError(
            f"Two metrics have one name: {names}. Give a dict of names and metrics."
        )
    return found


def as_metric(
    metric: Any,
    classifies: bool,
    name: str | None = None,
    *,
    greater_is_better: bool = True,
    response_method: Any = "predict",
) -> Metric:
    """Return a metric by its name, or of a scorer or a metric function."""
    if isinstance(metric, str):
        return _by_name(metric, classifies, name or metric)
    if not callable(metric):
        raise TypeError(
            "metric must be a name, a scorer, a function (estimator, X, y) or a metric "
            f"function (y_true, y_pred), got {metric!r}."
        )
    if getattr(metric, "draws_episodes", False):
        raise TypeError(
            f"metric is an episode scorer, {metric!r}, which draws episodes itself. "
            "Give its metric, and its episodes as parameters."
        )
    label = name or _short_name(metric)
    if takes_estimator(metric):
        compute = _of_scorer(metric, label, classifies)
        return Metric(label, compute, needs=None, is_own=True)
    scorer = make_scorer(
        metric, greater_is_better=greater_is_better, response_method=response_method
    )
    needs = "predict" if response_method == "predict" else None
    compute = _of_scorer(scorer, label, classifies)
    return Metric(label, compute, needs, is_own=True)


def unknown_name(metric: str, own: Iterable[str]) -> str:
    """Say that a metric's name is unknown, and which one may be meant."""
    own = set(own)
    known = [*own, *get_scorer_names()]
    like = metric.strip().lower().replace(" ", "_").replace("-", "_")
    same = [
        name
        for name in (like, *map(like.removesuffix, ("_score", "_error", "_loss")))
        if name in known
    ]
    interval = meant_interval(metric) if own >= set(INTERVALS) else None
    near = [interval] if interval else same or get_close_matches(like, known, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    levels = ""
    if own >= set(INTERVALS):
        levels = " coverage_<percent>, interval_width_<percent> such as 'coverage_80',"
    return (
        f"metric={metric!r} is unknown.{meant} Choose one of {sorted(own)},{levels} or "
        "of sklearn.metrics.get_scorer_names()."
    )


# As scikit-learn shows its scorers: function, sign, response, and further arguments.
_MADE = re.compile(
    r"make_scorer\((?P<function>[\w<>]+)(?P<loss>, greater_is_better=False)?"
    r", response_method=(?:'\w+'|\(.*?\)|\[.*?\])(?P<options>, \w+=.*)?\)",
    re.DOTALL,
)


def _short_name(metric: Callable[..., Any]) -> str:
    """Return what tables call a scorer or a function."""
    if isinstance(metric, partial):
        return _short_name(metric.func)
    if hasattr(metric, "__name__"):
        return str(metric.__name__)
    made = _MADE.fullmatch(repr(metric))
    if made is None:
        shown = repr(metric)
        return type(metric).__name__ if shown.startswith("<") else shown
    name = ("neg_" if made["loss"] else "") + made["function"]
    return f"{name}({made['options'][2:]})" if made["options"] else name


def takes_estimator(metric: Callable[..., Any]) -> bool:
    """Tell scorers (estimator, X, y) from metric functions (y_true, y_pred)."""
    try:
        parameters = inspect.signature(metric).parameters.values()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"The signature of {metric!r} cannot be read; wrap it with "
            "sklearn.metrics.make_scorer."
        ) from error
    places = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    needed = [p for p in parameters if p.kind in places and p.default is p.empty]
    return len(needed) > 2


def _by_name(metric: str, classifies: bool, name: str) -> Metric:
    found, own = own_metric(metric, classifies), _OWN[classifies]
    if found is not None:
        return Metric(name, *found)
    if own_metric(metric, not classifies) is not None:
        kind = "classifiers" if classifies else "regressors"
        raise ValueError(
            f"metric={metric!r} is not for {kind}. Choose one of {sorted(own)}, or "
            "another of sklearn.metrics.get_scorer_names()."
        )
    if metric not in get_scorer_names():
        raise ValueError(unknown_name(metric, own))
    scorer = get_scorer(metric)
    undefined = _UNDEFINED.get(metric)
    asks = "predict_proba" if metric.startswith("roc_auc") else None
    return Metric(name, _of_scorer(scorer, name, classifies, undefined), asks)


def own_metric(name: str, classifies: bool) -> Entry | None:
    """Return a metric that has its name here, if there is one."""
    found = _OWN[classifies].get(name)
    return found if classifies or found else interval_metric(name)


def with_known_needs(
    metrics: Sequence[Metric], drawn: DrawnEpisodes, classifies: bool
) -> list[Metric]:
    """Return the metrics, each knowing what it needs.

    Scorers are tried on made-up predictions, to see what they ask for.
    """
    found = []
    for metric in metrics:
        if metric.needs is None:
            needs = "predict"
            try:
                made_up = _made_up(drawn, classifies)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    metric.compute([made_up], drawn[:1])
            except NeedsProbabilities:
                needs = "predict_proba"
            except Exception:
                pass  # whatever is wrong will show on real predictions
            metric = replace(metric, needs=needs)
        found.append(metric)
    return found


def _made_up(drawn: DrawnEpisodes, classifies: bool) -> EpisodePrediction:
    """Return perfect predictions of the first episode, without probabilities."""
    y = drawn.y[drawn.query_rows(0)]
    if not classifies:
        return EpisodePrediction(y, y.astype(np.float64))
    classes = drawn.classes_of(0) if drawn.is_local else np.unique(drawn.y)
    return EpisodePrediction(y, y, classes)


# scikit-learn's scorers, through their public face -----------------------------------


class _Given(BaseEstimator):
    """Stand-in for an adapted estimator: it predicts what was predicted."""

    def __init__(self, given: EpisodePrediction | None = None) -> None:
        self.given = given

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the predictions of the episode."""
        assert self.given is not None
        return self.given.y_pred


class AdaptedRegressor(RegressorMixin, _Given):
    """Stand-in for an adapted regressor."""


class AdaptedClassifier(ClassifierMixin, _Given):
    """Stand-in for an adapted classifier."""

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels that could be predicted."""
        assert self.given is not None
        assert self.given.classes is not None
        return self.given.classes

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probabilities of the episode."""
        assert self.given is not None
        if self.given.proba is None:
            raise NeedsProbabilities
        return self.given.proba


def _of_scorer(
    scorer: Callable[..., Any],
    name: str,
    classifies: bool,
    undefined: Callable[[EpisodePrediction], bool] | None = None,
) -> Callable[[Predictions, DrawnEpisodes], Values]:
    """Return the metric that asks a scorer (estimator, X, y) episode by episode."""
    stand_in = AdaptedClassifier if classifies else AdaptedRegressor

    def compute(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
        with gathered(name):
            return one_by_one(predictions, drawn)

    def one_by_one(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
        values = np.full(len(predictions), np.nan)
        for e, given in enumerate(predictions):
            if undefined is not None and undefined(given):
                continue
            X = take_rows(drawn.rows.X, drawn.query_rows(e))
            try:
                values[e] = scorer(stand_in(given), X, given.y_true)
            except NeedsProbabilities:
                raise
            except Exception as error:
                where = f"metric {name!r} fails on {drawn.label(e)}"
                raise renamed(error, where) from error
        return values

    return compute


def _one_class(given: EpisodePrediction) -> bool:
    return len(np.unique(given.y_true)) < 2


def _lacks_a_class(given: EpisodePrediction) -> bool:
    if given.classes is None:
        return False
    return _one_class(given) or not np.isin(given.classes, given.y_true).all()


def _one_row(given: EpisodePrediction) -> bool:
    return len(given.y_true) < 2


# Where scikit-learn has no value: it warns for every episode, or raises.
_UNDEFINED: dict[str, Callable[[EpisodePrediction], bool]] = {
    "roc_auc": _one_class,
    "roc_auc_ovr": _lacks_a_class,
    "roc_auc_ovo": _lacks_a_class,
    "roc_auc_ovr_weighted": _lacks_a_class,
    "roc_auc_ovo_weighted": _lacks_a_class,
    "r2": _one_row,
    "d2_absolute_error_score": _one_row,
}


# The frequent ones, all episodes together --------------------------------------------


def _accuracy(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
    right = np.concatenate([one.y_true == one.y_pred for one in predictions])
    return means(right.astype(np.float64), predictions)


def _mse(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
    return over_outputs(means(errors(predictions) ** 2, predictions))


def _rmse(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
    return over_outputs(np.sqrt(means(errors(predictions) ** 2, predictions)))


def _mae(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
    return over_outputs(means(np.abs(errors(predictions)), predictions))


def _log_loss(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
    """Cross entropy; a probability of 0 counts as the smallest step from 1."""
    losses = []
    for one in predictions:
        assert one.proba is not None
        p = (one.proba * hits(one)).sum(1)
        losses.append(-np.log(np.clip(p, np.finfo(p.dtype).eps, 1)))
    return means(np.concatenate(losses), predictions)


def _brier(predictions: Predictions, drawn: DrawnEpisodes) -> Values:
    """Squared distance of probabilities and truth; halved for two classes."""
    rows = []
    for one in predictions:
        assert one.proba is not None
        truth = hits(one)
        missed = ~truth.any(1)  # a class that could not be predicted
        squares = ((one.proba - truth) ** 2).sum(1) + missed
        rows.append(squares / (2 if one.proba.shape[1] == 2 else 1))
    return means(np.concatenate(rows), predictions)


def _negative(
    compute: Callable[[Predictions, DrawnEpisodes], Values],
) -> Callable[[Predictions, DrawnEpisodes], Values]:
    return lambda predictions, drawn: -compute(predictions, drawn)


CLASSIFICATION: dict[str, Entry] = {
    "accuracy": (_accuracy, "predict", True),
    "log_loss": (_log_loss, "predict_proba", False),
    "brier_score": (_brier, "predict_proba", False),
    "neg_log_loss": (_negative(_log_loss), "predict_proba", True),
    "neg_brier_score": (_negative(_brier), "predict_proba", True),
    "ece": (ece, "predict_proba", False),
}
REGRESSION: dict[str, Entry] = {
    "rmse": (_rmse, "predict", False),
    "mse": (_mse, "predict", False),
    "mae": (_mae, "predict", False),
    "nlpd": (nlpd, "std", False),
    "crps": (crps, "std", False),
    "neg_root_mean_squared_error": (_negative(_rmse), "predict", True),
    "neg_mean_squared_error": (_negative(_mse), "predict", True),
    "neg_mean_absolute_error": (_negative(_mae), "predict", True),
    **INTERVALS,
}
_OWN = {True: CLASSIFICATION, False: REGRESSION}
