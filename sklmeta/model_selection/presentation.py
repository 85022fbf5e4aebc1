"""Accuracy at the first, second, ... presentation of a class in a sequence of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional as F

from sklmeta._parameters import check_fraction, check_integer, resolve_device
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec
from sklmeta.engine.inference import run_episodes
from sklmeta.model_selection._intervals import mean_interval
from sklmeta.model_selection._protocol import check_seed
from sklmeta.tasks import ClassPool, as_tasks

__all__ = ["presentation_accuracy"]

EPISODES_AT_ONCE = 50


def presentation_accuracy(
    meta: Any,
    tasks: Any,
    *,
    n_way: int = 5,
    n_presentations: int = 10,
    n_episodes: int = 200,
    confidence: float = 0.95,
    random_state: int = 0,
) -> pd.DataFrame:
    """Judge how quickly a meta-learner binds rows to their labels.

    The rows of an episode come in random order. Each is predicted from the rows before
    it and their labels, and then its own label is shown [1]_. The first time that a
    class is shown, its label can only be guessed; the second time shows what is learned
    from a single row.

    Meta-learners of sequences (`MANNClassifier`, `RecurrentNetClassifier`) read each
    episode once, and guess among all labels. Others adapt to the rows before each row
    anew, and never guess a label that they have not been shown; the very first row of
    an episode, which they have nothing to adapt to for, counts ``1 / n_way``.

    Parameters
    ----------
    meta : meta-learner
        Fitted classifier that trains a torch learner, meta-trained on local labels.
    tasks : ClassPool
        Classes to draw episodes from, none of which should have been meta-trained on.
    n_way : int, default=5
        Classes of an episode.
    n_presentations : int, default=10
        Rows of each class in an episode.
    n_episodes : int, default=200
        How many episodes.
    confidence : float, default=0.95
        Level of the interval.
    random_state : int, default=0
        Draws the episodes, and the order of their rows.

    Returns
    -------
    DataFrame with `presentation`, from 1, as index
        Columns `mean`, `low`, `high` and `n_episodes`: accuracy at that presentation
        of a class, mean over episodes, and its interval.

    Raises
    ------
    NotFittedError
        Before `fit`.
    TypeError
        If `meta` is no classifier with a torch learner, `tasks` no ClassPool, or
        `random_state` no int.
    ValueError
        If `confidence` is not between 0 and 1, classes have too few rows, or `meta` was
        not meta-trained on local labels, or for fewer classes than `n_way`.

    See Also
    --------
    evaluate : Scores on support and query rows.

    References
    ----------
    .. [1] A. Santoro, S. Bartunov, M. Botvinick, D. Wierstra, T. Lillicrap, "One-shot
       Learning with Memory-Augmented Neural Networks", ICML 2016, arXiv:1605.06065.

    Examples
    --------
    >>> from sklmeta import ProtoNetClassifier
    >>> from sklmeta.datasets import load_digits_pool
    >>> from sklmeta.model_selection import presentation_accuracy
    >>> pool = load_digits_pool()
    >>> meta = ProtoNetClassifier(max_iter=3, random_state=0).fit(pool[:5])
    >>> presentation_accuracy(
    ...     meta, pool[5:], n_way=3, n_presentations=4, n_episodes=10
    ... ).shape
    (4, 4)
    """
    check_fraction("confidence", confidence)
    check_seed(random_state)
    tasks = _checked(meta, tasks, n_way, n_presentations, n_episodes)
    pool = meta._preparation.pool(tasks, resolve_device(meta.device))
    spec = EpisodeSpec(
        n_shot=1, n_query=n_presentations - 1, n_way=n_way, per_class=True
    )
    sampler = EpisodeSampler(pool, spec)
    generator = torch.Generator().manual_seed(random_state)
    index = sampler.draw(n_episodes, generator)
    learner = meta._configured_learner()
    answer = _in_one_pass if hasattr(learner, "sequence_outputs") else _row_by_row
    found = []
    for start in range(0, n_episodes, EPISODES_AT_ONCE):
        part = sampler.gather(index[start : start + EPISODES_AT_ONCE])
        rows = _in_random_order(part, generator)
        found.append(_by_presentation(answer(learner, rows), rows.y, n_presentations))
    return _table(torch.cat(found).double().numpy(), confidence)


def _checked(
    meta: Any, tasks: Any, n_way: int, n_presentations: int, n_episodes: int
) -> ClassPool:
    check_is_fitted(meta)
    if not (hasattr(meta, "learner_") and getattr(meta, "_classifies", False)):
        raise TypeError(
            "presentation_accuracy needs a classifier with a torch learner, such as "
            f"MANNClassifier or ProtoNetClassifier, got {type(meta).__name__}."
        )
    if meta._label_kind != "local":
        raise ValueError(
            f"This {type(meta).__name__} was meta-trained on shared labels, which it "
            "knows before any is shown. Meta-train on a ClassPool, or on tasks with "
            "labels='local'."
        )
    for name, value, least in (
        ("n_way", n_way, 2),
        ("n_presentations", n_presentations, 2),
        ("n_episodes", n_episodes, 1),
    ):
        check_integer(name, value, least)
    most = meta.learner_.most_ways
    if most is not None and n_way > most:
        raise ValueError(
            f"n_way={n_way}, and this {type(meta).__name__} takes at most {most} "
            "classes, as many as a task had in its meta-training."
        )
    tasks = as_tasks(tasks)
    if not isinstance(tasks, ClassPool):
        raise TypeError(
            "presentation_accuracy draws classes from a ClassPool, got "
            f"{type(tasks).__name__}."
        )
    if n_way > len(tasks):
        raise ValueError(f"n_way={n_way}, and there are {len(tasks)} classes.")
    sizes = tasks.rows().sizes
    if sizes.min() < n_presentations:
        raise ValueError(
            f"n_presentations={n_presentations}, and class "
            f"{tasks.classes.tolist()[sizes.argmin()]!r} has {sizes.min()} rows."
        )
    return tasks


def _in_random_order(episodes: Episodes, generator: torch.Generator) -> Rows:
    """Return all rows of each episode in random order."""
    own, other = episodes.support, episodes.query
    y = torch.cat([own.y, other.y], 1)
    order = torch.rand(y.shape, generator=generator).argsort(dim=1).to(y.device)
    episode = torch.arange(len(y), device=y.device).unsqueeze(1)
    x = torch.cat([own.x, other.x], 1)[episode, order]
    return Rows(x, y[episode, order], torch.ones_like(y, dtype=torch.bool), own.n_way)


def _in_one_pass(learner: Any, rows: Rows) -> Tensor:
    """Return whether each row is predicted, (T, S)."""
    with torch.no_grad():
        return (learner.sequence_outputs(rows).argmax(-1) == rows.y).double().cpu()


def _row_by_row(learner: Any, rows: Rows) -> Tensor:
    """Return whether each row is predicted, (T, S), adapting to all rows before it.

    Of the first row, the chance to guess it.
    """
    assert rows.n_way is not None
    label, n_seen = _by_appearance(rows.y)
    hits = [1 / rows.n_way.double().cpu()]
    for row in range(1, rows.y.shape[1]):
        n_way = n_seen[:, row - 1]
        before, now = slice(0, row), slice(row, row + 1)
        support = Rows(rows.x[:, before], label[:, before], rows.mask[:, before], n_way)
        query = Rows(rows.x[:, now], label[:, now], rows.mask[:, now], n_way)
        outputs = run_episodes(learner, Episodes(support, query))
        hits.append((outputs[:, 0].argmax(-1) == label[:, row].cpu()).double())
    return torch.stack(hits, 1)


def _by_appearance(y: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels (T, S) in order of first appearance, and how many were seen."""
    first = F.one_hot(y).argmax(1)  # of each class
    label = first.argsort(dim=1).argsort(dim=1).gather(1, y)
    return label, label.cummax(dim=1).values + 1


def _by_presentation(hits: Tensor, y: Tensor, n_presentations: int) -> Tensor:
    """Return each episode's accuracy at each presentation of a class."""
    y = y.cpu()
    shown = F.one_hot(y).cumsum(1).gather(2, y.unsqueeze(2)).squeeze(2) - 1
    at = F.one_hot(shown, n_presentations).double()  # (T, S, presentations)
    return (hits.unsqueeze(2) * at).sum(1) / at.sum(1)


def _table(accuracies: NDArray[np.float64], confidence: float) -> pd.DataFrame:
    intervals = [mean_interval(column, confidence) for column in accuracies.T]
    return pd.DataFrame(
        {
            "mean": [one.mean for one in intervals],
            "low": [one.low for one in intervals],
            "high": [one.high for one in intervals],
            "n_episodes": [one.n for one in intervals],
        },
        index=pd.RangeIndex(1, len(intervals) + 1, name="presentation"),
    )
