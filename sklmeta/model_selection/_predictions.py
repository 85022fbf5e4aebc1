"""Predictions of any meta-learner for the query rows of drawn episodes.

Nothing is fitted and nobody's object is touched: estimators that adapt one by one do so
in an own copy, and torch learners adapt to many episodes at once on their device.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklmeta import _leakage
from sklmeta._checks import (
    diverged,
    finite_rows,
    label_column,
    refuse_more_ways,
    target_numbers,
)
from sklmeta._episodes import VALUES_SCORED_AT_ONCE
from sklmeta._few_shot import FewShotEstimator
from sklmeta._parameters import resolve_device
from sklmeta._pooling import PooledRows, row_array, take_rows
from sklmeta._preparation import Preparation, task_names
from sklmeta._row_episodes import RowEpisode
from sklmeta._schema import TaskSchema
from sklmeta._scores import episode_outputs
from sklmeta._task_rows import with_rows
from sklmeta.engine.batches import similar_sizes
from sklmeta.engine.episodes import gather
from sklmeta.engine.inference import embedded
from sklmeta.engine.pool import RowPool
from sklmeta.exceptions import MetaTrainingError
from sklmeta.model_selection._errors import renamed
from sklmeta.model_selection._protocol import DrawnEpisodes

__all__ = [
    "EpisodePrediction",
    "episode_predictions",
    "episodes_at_once",
    "label_kind",
    "refuse_without_adapt",
    "winner",
]

# Fixed, so that numbers do not depend on how episodes are spread over processes.
EPISODES_PER_BLOCK = 256


@dataclass(frozen=True)
class EpisodePrediction:
    """What was predicted for the query rows of one episode.

    Attributes
    ----------
    y_true : ndarray of shape (Q,) or (Q, n_outputs)
        What they are.
    y_pred : ndarray of shape (Q,) or (Q, n_outputs)
        What was predicted.
    classes : ndarray of shape (n_classes,) or None
        The labels that could be predicted, sorted; None in regression.
    proba : ndarray of shape (Q, n_classes) or None
        Their probabilities, if asked for.
    std : ndarray of shape (Q,) or (Q, n_outputs) or None
        Predictive standard deviations, if asked for.
    """

    y_true: NDArray[Any]
    y_pred: NDArray[Any]
    classes: NDArray[Any] | None = None
    proba: NDArray[np.float64] | None = None
    std: NDArray[np.float64] | None = None


def episode_predictions(
    estimator: Any, drawn: DrawnEpisodes, response: str = "predict"
) -> Iterator[EpisodePrediction]:
    """Yield the predictions for every episode, in order.

    Parameters
    ----------
    estimator : meta-learner, pipeline that ends in one, or fitted search over either
        Fitted; it is not changed.
    drawn : DrawnEpisodes
        The episodes.
    response : {"predict", "predict_proba", "std"}, default="predict"
        What is needed beside predictions: nothing, probabilities, or predictive
        standard deviations.

    Yields
    ------
    EpisodePrediction

    Raises
    ------
    NotFittedError
        Before `fit`.
    TypeError
        If the estimator cannot adapt to tasks.
    ValueError
        If rows do not fit the meta-training tasks, or the learner gives no standard
        deviations; the message names the task.
    """
    best = winner(estimator)
    if best is not estimator:
        yield from episode_predictions(best, drawn, response)
    elif hasattr(estimator, "_episode_predictions"):
        yield from estimator._episode_predictions(drawn, response)
    elif isinstance(estimator, Pipeline):
        drawn = _transformed(estimator, drawn)
        yield from episode_predictions(estimator.steps[-1][1], drawn, response)
    elif not hasattr(estimator, "adapt"):
        raise TypeError(_why_not(estimator))
    else:
        check_is_fitted(estimator)
        if hasattr(estimator, "_seen_tasks"):
            _leakage.warn_of_seen(drawn.tasks, estimator._seen_tasks, stacklevel=3)
        yield from _way_to_predict(estimator, drawn, response)(
            estimator, drawn, response
        )


def _way_to_predict(
    meta: Any, drawn: DrawnEpisodes, response: str
) -> Callable[[Any, DrawnEpisodes, str], Iterator[EpisodePrediction]]:
    """Return the quickest way there is for this meta-learner and response."""
    if hasattr(meta, "_configured_learner"):
        return _all_at_once
    alike = not is_classifier(meta) or drawn.is_local == (label_kind(meta) == "local")
    known = response == "predict" or (
        response == "std" and hasattr(meta, "_episode_moments")
    )
    if hasattr(meta, "_predict_episodes") and known and alike:
        return _row_by_row
    return _one_by_one


def _why_not(estimator: Any) -> str:
    """Say why an estimator cannot be judged on episodes."""
    name = type(estimator).__name__
    if isinstance(estimator, FewShotEstimator):
        return (
            f"A {name} adapts to one task, by its fit, and many tasks are to be judged "
            f"here. Give its meta, the {type(estimator.meta).__name__}, which adapts "
            "to each."
        )
    if hasattr(estimator, "cv_results_"):
        return (
            f"This {name} was fitted with refit=False and has no best_estimator_. Fit "
            "it with refit=True, or with the name of a metric."
        )
    return (
        f"A {name} cannot adapt to tasks: it has no adapt. Give a meta-learner, or put "
        "the estimator under the same contract as PooledClassifier(...) or "
        "PerTaskClassifier(...) (regressors: PooledRegressor, PerTaskRegressor)."
    )


def refuse_without_adapt(estimator: Any) -> None:
    """Refuse estimators that cannot adapt, and hold none (as searches do) that can."""
    holds_another = isinstance(estimator, Pipeline) or hasattr(estimator, "estimator")
    if not (hasattr(estimator, "adapt") or holds_another):
        raise TypeError(_why_not(estimator))


def label_kind(estimator: Any) -> str | None:
    """Return what labels mean to a fitted meta-learner, inside whatever wraps it."""
    estimator = winner(estimator)
    if isinstance(estimator, Pipeline):
        return label_kind(estimator.steps[-1][1])
    return getattr(estimator, "_label_kind", None)


def episodes_at_once(estimator: Any) -> int:
    """Return in what numbers episodes are predicted together."""
    estimator = winner(estimator)
    if isinstance(estimator, Pipeline):
        return episodes_at_once(estimator.steps[-1][1])
    batched = hasattr(estimator, "_configured_learner")
    return EPISODES_PER_BLOCK if batched else 1


def winner(estimator: Any) -> Any:
    """Return a fitted search's winner, anything else as it is."""
    while hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    return estimator


# Pipelines -----------------------------------------------------------------------


def _transformed(pipeline: Pipeline, drawn: DrawnEpisodes) -> DrawnEpisodes:
    """Return the episodes with rows as the pipeline's last step sees them."""
    if len(pipeline.steps) == 1:
        return drawn
    X = drawn.rows.X
    moved = pipeline[:-1].transform(X.numpy() if isinstance(X, Tensor) else X)
    if moved.shape[0] != len(drawn.rows.y):
        raise ValueError(
            f"The pipeline's steps made {moved.shape[0]} rows of {len(drawn.rows.y)}. "
            "Transformers of a pipeline must keep every row; drop rows before making "
            "tasks."
        )
    return drawn.with_tasks(with_rows(drawn.tasks, moved))


# Torch learners: many episodes at once ---------------------------------------------


def _all_at_once(
    meta: Any, drawn: DrawnEpisodes, response: str
) -> Iterator[EpisodePrediction]:
    """Adapt a torch learner to as many episodes at a time as memory allows."""
    meta._check_parameters()
    learner = meta._configured_learner()
    if response == "std":
        refuse_without_std(meta)
        learner = learner.with_options(gives_std=True)
    preparation: Preparation = meta._preparation
    preparation.check_width(meta, drawn.rows)
    pool = preparation.pool(drawn.tasks, resolve_device(meta.device))
    learner, pool = embedded(learner, pool, drawn.all_rows())
    values = torch.from_numpy(drawn.support.size + drawn.query.size)
    values = values * prod(pool.input_shape)
    for block in torch.arange(len(drawn)).split(EPISODES_PER_BLOCK):
        found: dict[int, EpisodePrediction] = {}
        for part in similar_sizes(values[block], VALUES_SCORED_AT_ONCE):
            where = block[part].numpy()
            decoded = _decoded(meta, learner, pool, drawn[where], response)
            found.update(zip(where.tolist(), decoded, strict=True))
        yield from (found[episode] for episode in block.tolist())


def _decoded(
    meta: Any, learner: Any, pool: RowPool, drawn: DrawnEpisodes, response: str
) -> list[EpisodePrediction]:
    """Return the predictions of a part of the episodes."""
    preparation = meta._preparation
    index = drawn.index()
    refuse_more_ways(meta, learner, index.n_way, drawn.label)
    targets, std = preparation.task_targets, None
    outputs = episode_outputs(learner, gather(pool, index), targets)
    if response == "std":
        outputs, std = outputs.chunk(2, dim=-1)
    bad = (~finite_rows(outputs, meta._classifies) & index.query_mask).any(1)
    if bad.any():
        raise diverged(meta, drawn.label(int(bad.int().argmax())))
    sizes = drawn.query.size.tolist()
    y_true = drawn.y[index.query.numpy()]  # (B, Q) or (B, Q, n_outputs), padded
    if not meta._classifies:
        y_pred = preparation.decode_targets(outputs.numpy())
        if std is not None:
            std = preparation.decode_spread(std.numpy())
        return [
            _numbers(
                y_true[e, :size],
                y_pred[e, :size],
                None if std is None else std[e, :size],
            )
            for e, size in enumerate(sizes)
        ]
    best = outputs.nan_to_num().argmax(-1).numpy()
    proba = None
    if response == "predict_proba":
        proba = torch.softmax(outputs.double(), -1).numpy()
    labels, n_ways = _labels_of_ways(drawn, preparation)
    y_pred = np.take_along_axis(labels, best, axis=1)
    found = []
    for e, (size, n_way) in enumerate(zip(sizes, n_ways, strict=True)):
        own = None if proba is None else proba[e, :size, :n_way]
        pair = y_true[e, :size], y_pred[e, :size]
        found.append(EpisodePrediction(*pair, labels[e, :n_way], own))
    return found


def _labels_of_ways(
    drawn: DrawnEpisodes, preparation: Preparation
) -> tuple[NDArray[Any], list[int]]:
    """Return the label of each way of each episode, padded, and how many there are."""
    if drawn.classes is None:
        classes = preparation.classes
        assert classes is not None
        labels = np.broadcast_to(classes, (len(drawn), len(classes)))
        return labels, [len(classes)] * len(drawn)
    assert drawn.labels is not None
    codes, _, _ = drawn.classes.padded()
    return drawn.labels[codes.numpy()], drawn.classes.size.tolist()


def _numbers(
    y_true: NDArray[Any], y_pred: NDArray[Any], std: Any = None
) -> EpisodePrediction:
    """Return a prediction of numbers, all parts in the shape of the targets."""
    y_pred = np.asarray(y_pred).reshape(y_true.shape)
    if std is not None:
        std = np.asarray(std).reshape(y_true.shape)
    return EpisodePrediction(y_true, y_pred, std=std)


# Other meta-learners of the contract: they predict episodes of rows by themselves -----


def _row_by_row(
    meta: Any, drawn: DrawnEpisodes, response: str
) -> Iterator[EpisodePrediction]:
    """Have a meta-learner predict as many episodes at a time as it can."""
    own = meta._own_copy()
    own._check_parameters()
    _refuse_missing_targets(own, drawn)
    own._preparation.check_width(own, drawn.rows)
    X, y = own._rows_and_targets(drawn.tasks)
    for start in range(0, len(drawn), EPISODES_PER_BLOCK):
        block = range(start, min(start + EPISODES_PER_BLOCK, len(drawn)))
        episodes = [
            RowEpisode(drawn.label(e), drawn.support_rows(e), drawn.query_rows(e))
            for e in block
        ]
        if response == "std":
            moments = own._episode_moments(X, y, X, episodes)
            for e, (y_pred, std) in zip(block, moments, strict=True):
                yield _of_rows(own, drawn, e, y_pred, std)
            continue
        predictions = own._predict_episodes(X, y, X, episodes)
        for e, y_pred in zip(block, predictions, strict=True):
            yield _of_rows(own, drawn, e, y_pred)


def _of_rows(
    meta: Any, drawn: DrawnEpisodes, episode: int, y_pred: NDArray[Any], std: Any = None
) -> EpisodePrediction:
    """Return the prediction of one episode, once it is one that can be scored."""
    y_true = drawn.y[drawn.query_rows(episode)]
    try:
        if meta._classifies:
            shared = meta._preparation.classes
            classes = drawn.classes_of(episode) if drawn.is_local else shared
            found = EpisodePrediction(y_true, np.asarray(y_pred), classes)
        else:
            found = _numbers(y_true, y_pred, std)
        _refuse_unusable(found, type(meta).__name__)
    except ValueError as error:
        raise renamed(error, drawn.label(episode)) from error
    return found


# Anything else: one episode after the other -----------------------------------------


def _one_by_one(
    meta: Any, drawn: DrawnEpisodes, response: str
) -> Iterator[EpisodePrediction]:
    """Adapt an own copy to one episode after the other."""
    own = meta._own_copy() if hasattr(meta, "_own_copy") else copy.copy(meta)
    adapt = getattr(own, "_adapted_to", own.adapt)
    _refuse_missing_targets(meta, drawn)
    X, y = _with_known_columns(own, drawn.rows), drawn.y
    for episode in range(len(drawn)):
        support, query = drawn.support_rows(episode), drawn.query_rows(episode)
        try:
            adapted = adapt(take_rows(X, support), y[support])
            found = _predicted(adapted, take_rows(X, query), y[query], response)
            _refuse_unusable(found, _name_of(adapted))
        except (ValueError, MetaTrainingError) as error:
            raise renamed(error, drawn.label(episode)) from error
        yield found


def _with_known_columns(meta: Any, rows: PooledRows) -> Any:
    """Return rows with columns named as in meta-training.

    Rows are checked here, so that their names are warned of once.
    """
    X, preparation = rows.X, getattr(meta, "_preparation", None)
    if not isinstance(preparation, TaskSchema):
        return X
    preparation.check_width(meta, rows)
    known = preparation.feature_names
    named = isinstance(X, pd.DataFrame) and isinstance(X.columns[0], str)
    if known is None:
        return row_array(X) if named else X
    return X if named else pd.DataFrame(row_array(X), columns=known)


def _predicted(
    adapted: Any, X: Any, y_true: NDArray[Any], response: str
) -> EpisodePrediction:
    """Return what an adapted estimator predicts for query rows."""
    if response == "std":
        refuse_without_std(adapted)
        return _numbers(y_true, *adapted.predict(X, return_std=True))
    classes = getattr(adapted, "classes_", None)
    if classes is None:
        return _numbers(y_true, adapted.predict(X))
    y_pred = np.asarray(adapted.predict(X))
    if response != "predict_proba":
        return EpisodePrediction(y_true, y_pred, np.asarray(classes))
    if not hasattr(adapted, "predict_proba"):
        raise TypeError(
            f"The metric needs probabilities, and {type(adapted).__name__} has no "
            "predict_proba. Choose another metric, or an estimator with probabilities."
        )
    return EpisodePrediction(
        y_true, y_pred, np.asarray(classes), np.asarray(adapted.predict_proba(X))
    )


def refuse_without_std(adapted: Any) -> None:
    """Refuse estimators whose predict gives no standard deviation."""
    meta = getattr(adapted, "meta_", adapted)
    takes_it = "return_std" in inspect.signature(adapted.predict).parameters
    if not getattr(meta, "_gives_std", takes_it):
        raise TypeError(
            "The metric needs predictive standard deviations, and "
            f"{_name_of(adapted)} gives none: its predict has no return_std. Choose "
            "another metric, such as 'rmse', or a probabilistic regressor."
        )


def _name_of(adapted: Any) -> str:
    return type(getattr(adapted, "meta_", adapted)).__name__


# Metrics give NaN where they have no value, so that NaN must not come from elsewhere.


def _refuse_missing_targets(meta: Any, drawn: DrawnEpisodes) -> None:
    """Refuse query rows whose truth is not known, naming the task."""
    names = task_names(drawn.tasks)
    if is_regressor(meta):
        target_numbers(drawn.rows, names, type(meta).__name__)
    elif drawn.y.ndim == 1:
        label_column(drawn.rows, names)


def _refuse_unusable(found: EpisodePrediction, name: str) -> None:
    """Refuse predictions of another shape than asked for, and those that are NaN."""
    if found.y_pred.shape != found.y_true.shape:
        raise ValueError(
            f"{name} predicts values of shape {found.y_pred.shape} for targets of "
            f"shape {found.y_true.shape}."
        )
    if found.classes is None and not _finite(found.y_pred):
        raise ValueError(f"{name} predicts NaN or infinity.")
    if found.std is not None and not (_finite(found.std) and (found.std > 0).all()):
        raise ValueError(f"{name} predicts standard deviations that are not positive.")
    if found.proba is None or found.classes is None:
        return
    expected = len(found.y_true), len(found.classes)
    if found.proba.shape != expected:
        raise ValueError(
            f"{name} predicts probabilities of shape {found.proba.shape}, expected "
            f"{expected}: a column for each of its classes_."
        )
    if not _finite(found.proba):
        raise ValueError(f"{name} predicts probabilities that are NaN.")


def _finite(values: Any) -> bool:
    return bool(np.isfinite(np.asarray(values, dtype=np.float64)).all())
