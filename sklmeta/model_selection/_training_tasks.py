"""Noticing that tasks are judged which a method was, or will be, meta-trained on."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any

from sklearn.pipeline import Pipeline

from sklmeta._meta_tags import MetaTags
from sklmeta.exceptions import TaskLeakageWarning
from sklmeta.model_selection._predictions import winner
from sklmeta.tasks import TaskSet

__all__ = ["given_names", "learns_from_tasks", "seen_names", "warn_of_training_tasks"]


def given_names(tasks: Any) -> set[Any]:
    """Return the names of tasks that the user gave, none of any other form."""
    if not isinstance(tasks, TaskSet):
        return set()
    return {name for name, given in zip(tasks.names, tasks.named, strict=True) if given}


def seen_names(estimator: Any) -> set[Any]:
    """Return the names of the tasks that a fitted estimator was meta-trained on."""
    estimator = winner(estimator)
    if isinstance(estimator, Pipeline):
        whole = getattr(getattr(estimator, "_fitted", None), "seen", {})
        return {*whole, *seen_names(estimator.steps[-1][1])}
    return set(getattr(estimator, "_seen_tasks", {}))


def learns_from_tasks(estimator: Any) -> bool:
    """Tell whether `fit` learns something from tasks that scores could give away."""
    if isinstance(estimator, Pipeline):
        *transformers, (_, last) = estimator.steps
        return learns_from_tasks(last) or any(
            not (step in (None, "passthrough") or getattr(step, "per_task", False))
            for _, step in transformers
        )
    return bool(getattr(estimator, "__sklmeta_tags__", MetaTags)().learns_from_tasks)


def warn_of_training_tasks(
    tasks: Any,
    trained_on: Mapping[str, Collection[Any]] | Collection[Any],
    stacklevel: int,
) -> None:
    """Warn once if tasks are judged that were meta-trained on, by whatever rows.

    `trained_on` are the names that one estimator has seen, or those of each method.
    """
    methods = trained_on if isinstance(trained_on, Mapping) else {"": trained_on}
    names = given_names(tasks)
    leaking = {one: names.intersection(seen) for one, seen in methods.items()}
    leaking = {one: seen for one, seen in leaking.items() if seen}
    if not leaking:
        return
    known = [name for name in tasks.names if name in set().union(*leaking.values())]
    by = ""
    if isinstance(trained_on, Mapping):
        by = f" by {', '.join(map(repr, leaking))}"
    warnings.warn(
        f"{len(known)} of {len(tasks)} scored tasks, such as {known[0]!r}, are "
        f"meta-trained on{by}: these are training scores, which tell nothing about new "
        "tasks. Split by task, for example with cv=TaskKFold().",
        TaskLeakageWarning,
        stacklevel=stacklevel + 1,
    )
