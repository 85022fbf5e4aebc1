"""What `evaluate` and `compare` return: scores, their summary, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sklmeta.model_selection._calibration_metrics import is_interval_metric
from sklmeta.model_selection._intervals import (
    Interval,
    decisive_unit,
    mean_interval,
    unit_means,
)
from sklmeta.model_selection._rendering import (
    decimals,
    html_table,
    number,
    percent,
    span,
    text_table,
)

__all__ = ["Comparison", "Evaluation"]

# Scores are equal up to this share of the larger one: they differ by rounding alone.
TIE = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Scores of one meta-learner on episodes of held-out tasks.

    Made by `evaluate`. Printing it shows a table; notebooks show it as HTML. A note
    below names a task (of a ClassPool, an episode) that a mean hangs on; `summary` says
    when.

    Attributes
    ----------
    scores : DataFrame
        One row per episode and metric: `domain` where tasks have any, `task` (for a
        ClassPool the episode's classes), `episode`, `metric`, `score`.
    unit : {"task", "episode"}
        What the interval is over.
    confidence : float
        Level of the interval.
    episodes : str
        The episodes in words.

    See Also
    --------
    evaluate : Makes one.
    """

    scores: pd.DataFrame
    unit: str
    confidence: float
    episodes: str

    def summary(self) -> pd.DataFrame:
        """Return mean and interval of each metric.

        Returns
        -------
        DataFrame with the metrics as index
            Columns `mean`, `low`, `high` and `n_tasks` (of a ClassPool `n_episodes`).

        Notes
        -----
        A mean can hang on one task, such as one on which adapting went astray. Printed
        tables say so, of five tasks or more, if leaving out the most extreme one moves
        the mean by more than half of its absolute value, and by more than two standard
        errors of the mean of the others. Means and intervals keep the task.
        """
        rows = {
            metric: _interval_row(_by_unit(own, self.unit), self.confidence, self.unit)
            for metric, own in self.scores.groupby("metric", sort=False)
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")

    def by_domain(self) -> pd.DataFrame:
        """Return mean and interval of each metric on the tasks of each domain.

        Returns
        -------
        DataFrame with domains and metrics as index
            The columns of `summary`.

        Raises
        ------
        ValueError
            If the tasks have no domains.
        """
        return _by_domain(self)

    def _table(self) -> tuple[str, list[str], list[list[str]], list[str]]:
        summary = self.summary()
        rows = [[str(m), *_mean_cells(row)] for m, row in summary.iterrows()]
        n_units = summary[f"n_{self.unit}s"]
        title = f"Scores on {self.episodes}"
        header = ["metric", "mean", f"{percent(self.confidence)} interval"]
        notes = _notes(self, n_units)
        for metric, own in self.scores.groupby("metric", sort=False):
            notes += _hanging(str(metric), own, self.unit)
        return title, header, rows, notes

    def __str__(self) -> str:
        return text_table(*self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(*self._table())


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Scores of several meta-learners on the same episodes of held-out tasks.

    Made by `compare`. Printing it shows a table; notebooks show it as HTML. Notes below
    name tasks (of a ClassPool, episodes) that a mean hangs on; `summary` says when.

    The column `wins` is the share of tasks on which a method is better than the
    reference; ties, up to 1e-12 of the larger score, count half.

    Attributes
    ----------
    scores : DataFrame
        One row per method, episode and metric: `method`, with cross-validation `fold`,
        `domain` where tasks have any, `task` (for a ClassPool the episode's classes),
        `episode`, `metric`, `score`.
    unit : {"task", "episode"}
        What the intervals are over.
    confidence : float
        Level of the intervals.
    episodes : str
        The episodes in words.
    reference : str
        The method that differences are taken to.
    greater_is_better : dict of str to bool
        Direction of each metric.

    See Also
    --------
    compare : Makes one.
    """

    scores: pd.DataFrame
    unit: str
    confidence: float
    episodes: str
    reference: str
    greater_is_better: Mapping[str, bool]

    def summary(self) -> pd.DataFrame:
        """Return mean, interval and difference to the reference of each method.

        Returns
        -------
        DataFrame with the methods as index
            Columns `metric`, `mean`, `low`, `high`, `n_tasks` (of a ClassPool
            `n_episodes`), `difference`, `difference_low`, `difference_high` (method
            minus reference, paired) and `win_rate`: the share of tasks on which the
            method is better than the reference, ties (up to 1e-12 of the larger score)
            counted half. NaN for the reference itself, and for coverage and width of
            intervals, of which more or less is not better by itself.

        Notes
        -----
        A mean can hang on one task, such as one on which adapting went astray. Printed
        tables say so, of five tasks or more, if leaving out the most extreme one moves
        the mean by more than half of its absolute value, and by more than two standard
        errors of the mean of the others. Means and intervals keep the task.
        """
        rows = []
        for metric, of_metric in self.scores.groupby("metric", sort=False):
            means = {
                str(method): _by_unit(own, self.unit)
                for method, own in of_metric.groupby("method", sort=False)
            }
            sign = self._direction(str(metric))
            rows += [
                {
                    "method": method,
                    "metric": metric,
                    **_interval_row(own, self.confidence, self.unit),
                    **self._difference(method, own, means[self.reference], sign),
                }
                for method, own in means.items()
            ]
        return pd.DataFrame(rows).set_index("method")

    def by_domain(self) -> pd.DataFrame:
        """Return what `summary` does for the tasks of each domain.

        Returns
        -------
        DataFrame with domains and methods as index
            The columns of `summary`.

        Raises
        ------
        ValueError
            If the tasks have no domains.
        """
        return _by_domain(self)

    def _direction(self, metric: str) -> int:
        """Return 1 or -1 where more or less is better, 0 where neither is by itself.

        Intervals hold more where they are wider, which is no gain.
        """
        if is_interval_metric(metric):
            return 0
        return 1 if self.greater_is_better[metric] else -1

    def _difference(
        self, method: str, own: NDArray[Any], other: NDArray[Any], sign: int
    ) -> dict[str, float]:
        """Return the paired difference to the reference."""
        if method == self.reference:
            found, wins = Interval(np.nan, np.nan, np.nan, 0), np.nan
        else:
            pairs = own - other
            pairs[np.abs(pairs) <= TIE * np.maximum(abs(own), abs(other))] = 0
            pairs = pairs[~np.isnan(pairs)]
            found = mean_interval(pairs, self.confidence)
            wins = float(np.mean((np.sign(sign * pairs) + 1) / 2)) if sign else np.nan
        return {
            "difference": found.mean,
            "difference_low": found.low,
            "difference_high": found.high,
            "win_rate": wins,
        }

    def _table(self) -> tuple[str, list[str], list[list[str]], list[str]]:
        summary = self.summary()
        several = summary["metric"].nunique() > 1
        interval = f"{percent(self.confidence)} interval"
        header = ["method", "mean", interval, "difference", interval, "wins"]
        rows = []
        for method, row in summary.iterrows():
            name = f"{row['metric']}: {method}" if several else str(method)
            rows.append([name, *_mean_cells(row), *_difference_cells(row)])
        directions = {1: "", -1: " (lower is better)", 0: ""}
        metrics = ", ".join(
            name + directions[self._direction(name)] for name in self.greater_is_better
        )
        title = f"{metrics} on {self.episodes}"
        notes = [
            *_notes(self, summary[f"n_{self.unit}s"]),
            f"Difference: minus {self.reference!r}, paired. Wins: share of "
            f"{self.unit}s on which a method is better than it.",
        ]
        for (metric, method), own in self.scores.groupby(
            ["metric", "method"], sort=False
        ):
            name = f"{metric}: {method}" if several else str(method)
            notes += _hanging(name, own, self.unit)
        return title, header, rows, notes

    def __str__(self) -> str:
        return text_table(*self._table())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return html_table(*self._table())


def _by_domain(result: Evaluation | Comparison) -> pd.DataFrame:
    """Return the summaries of the scores in each domain, one above the other."""
    if "domain" not in result.scores:
        raise ValueError(
            "The tasks that were judged have no domains. Give them one: Task(X, y, "
            "domain=...), TaskSet.from_domains or ClassPool.from_domains."
        )
    domains = result.scores.groupby("domain", sort=False, dropna=False)
    summaries = {
        domain: replace(result, scores=own).summary() for domain, own in domains
    }
    return pd.concat(summaries, names=["domain"])


def _by_unit(scores: pd.DataFrame, unit: str) -> NDArray[np.float64]:
    """Return the mean score of each task, or of each episode of a pool."""
    return unit_means(scores["score"].to_numpy(), _unit_codes(scores, unit))


def _unit_codes(scores: pd.DataFrame, unit: str) -> NDArray[np.int64]:
    """Return the number of the unit of each row.

    In order of appearance, as the same units come in the same order for all methods. A
    task that is given twice counts twice, as it does for scorers.
    """
    columns = [name for name in ("fold", unit) if name in scores]
    code = np.zeros(len(scores), dtype=np.int64)
    for name in columns:
        own, values = pd.factorize(scores[name])
        code = code * len(values) + own
    episodes = pd.DataFrame({"unit": code, "episode": scores["episode"].to_numpy()})
    times = episodes.groupby(["unit", "episode"]).cumcount().to_numpy()
    return pd.factorize(code * (times.max(initial=0) + 1) + times)[0]


def _hanging(name: str, scores: pd.DataFrame, unit: str) -> list[str]:
    """Say which task, or which episode of a pool, a mean hangs on."""
    codes = _unit_codes(scores, unit)
    means = unit_means(scores["score"].to_numpy(), codes)
    found = decisive_unit(means)
    if found is None:
        return []
    place, without = found
    row = scores.iloc[int((codes == place).argmax())]
    what = f"{unit} {row[unit]!r}" if unit == "task" else f"{unit} {row[unit]}"
    if unit == "episode" and "fold" in scores:
        what += f" of fold {row['fold']}"
    return [
        f"{name}: the mean hangs on {what} (mean {means[place]:.2g}); without it "
        f"{without:.2g}."
    ]


def _interval_row(
    means: NDArray[np.float64], confidence: float, unit: str
) -> dict[str, float]:
    found = mean_interval(means[~np.isnan(means)], confidence)
    return {
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        f"n_{unit}s": found.n,
    }


def _mean_cells(row: Any) -> list[str]:
    places = decimals((row["high"] - row["low"]) / 2, row["mean"])
    return [number(row["mean"], places), span(row["low"], row["high"], places)]


def _difference_cells(row: Any) -> list[str]:
    low, high = row["difference_low"], row["difference_high"]
    places = decimals((high - low) / 2, row["difference"])
    return [
        number(row["difference"], places, sign=True),
        span(low, high, places, sign=True),
        percent(round(row["win_rate"], 3)),
    ]


def _notes(result: Any, n_units: Sequence[int]) -> list[str]:
    """Say what the intervals are."""
    low, high = int(min(n_units)), int(max(n_units))
    if high < 2:
        return [
            f"No interval: there is one {result.unit}, which does not tell how others "
            "would differ."
        ]
    n = f"{low}" if low == high else f"{low} to {high}"
    level = percent(result.confidence)
    return [f"{level} Student's t intervals over {n} {result.unit}s."]
