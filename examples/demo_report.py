"""What the parts of the demo share: progress, intervals, and the table."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
from skorch.callbacks import Callback

DOTS = 20


class Progress(Callback):
    """Draw a dot for every epoch of meta-training: fit with `eval_every=epochs()`."""

    def __init__(self, label):
        self.label = label

    def on_train_begin(self, net, **kwargs):
        self.start = perf_counter()
        print(f"  {self.label:<44}", end="", flush=True)

    def on_epoch_end(self, net, **kwargs):
        print(".", end="", flush=True)

    def on_train_end(self, net, **kwargs):
        print(f" {perf_counter() - self.start:.0f} s", flush=True)


def with_progress(meta, label):
    """Let a meta-learner say that it trains, in about `DOTS` dots."""
    epoch = -(-meta.max_iter // DOTS)
    return meta.set_params(eval_every=epoch, callbacks=[Progress(label)])


@dataclass(frozen=True)
class Result:
    """One method's scores on the tasks of one problem, in the same order for all."""

    method: str
    scores: np.ndarray  # (T,)
    is_meta: bool  # learned from other tasks how to learn


@dataclass(frozen=True)
class Problem:
    """Methods judged on the same support and query rows."""

    title: str
    results: list[Result]
    lower_is_better: bool = False
    unit: str = ""


def mean_and_margin(values):
    """Return the mean and the half width of its 95 % interval (normal)."""
    values = np.asarray(values, dtype=float)
    return values.mean(), 1.96 * values.std(ddof=1) / np.sqrt(len(values))


def format_table(problems):
    """Return one table for all problems, best method first within each."""
    head = f"{'':<36}{'mean and 95 % interval':>24}   against the best baseline, paired"
    lines = [head, "-" * len(head)]
    for problem in problems:
        lines.append(problem.title)
        lines += _rows(problem)
        lines.append("")
    return "\n".join(lines[:-1])


def _rows(problem):
    sign = -1 if problem.lower_is_better else 1
    ranked = sorted(problem.results, key=lambda r: -sign * r.scores.mean())
    rival = next(result for result in ranked if not result.is_meta)
    for result in ranked:
        mean, margin = mean_and_margin(result.scores)
        against = ""
        if result.is_meta:
            against = _verdict(sign * (result.scores - rival.scores), problem.unit)
        score = f"{mean:.2f} ± {margin:.2f}{problem.unit}"
        yield f"  {result.method:<34}{score:>24}   {against}".rstrip()


def _verdict(gains, unit):
    """Say how the mean of paired gains compares with zero."""
    gain, margin = mean_and_margin(gains)
    if abs(gain) <= margin:
        return f"no clear difference ({gain:+.2f} ± {margin:.2f}{unit})"
    word = "better" if gain > 0 else "worse"
    return f"{word} by {abs(gain):.2f} ± {margin:.2f}{unit}"
