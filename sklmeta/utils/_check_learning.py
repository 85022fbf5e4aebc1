"""Checks that a meta-learner learns: it is better, by more than chance, than others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestCentroid

from sklmeta.tasks import TaskSet
from sklmeta.utils._check_problems import (
    N_FEATURES,
    N_HELD_OUT,
    Problem,
    assert_same_answers,
    is_episodic,
    with_parameters,
)

# Student's t of a two-sided 95 % interval with N_HELD_OUT - 1 = 59 degrees of freedom.
T_95 = 2.001


def check_beats_untrained(name: str, meta: Any, problem: Problem) -> None:
    """Check that meta-training improves on the weights it started from.

    Who starts from no weights must improve on itself trained on unrelated tasks.
    """
    untrained = with_parameters(clone(meta), random_state=0)
    than, tasks = "its own untrained initialisation", problem.training_tasks
    if is_episodic(meta):
        with_parameters(untrained, max_iter=1, outer_lr=1e-12, early_stopping=False)
    else:
        than, tasks = "itself trained on unrelated tasks", _unrelated(tasks)
    untrained.fit(tasks)
    before = _scores(_predictions(untrained, problem), problem)
    after = _scores(_predictions(problem.trained(meta), problem), problem)
    _assert_better(after, before, f"{name}", than)


def check_ignores_tasks(name: str, meta: Any, problem: Problem) -> None:
    """Check that predictions do not depend on the meta-training tasks."""
    want = _predictions(problem.trained(meta), problem)
    other = with_parameters(clone(meta), random_state=0)
    got = _predictions(other.fit(problem.tasks(seed=11)), problem)
    message = (
        f"{name} learns nothing from tasks by its tags, and predicts otherwise when "
        "meta-trained on other tasks."
    )
    for now, then in zip(got, want, strict=True):
        np.testing.assert_array_equal(now, then, err_msg=message)


def check_beats_per_task_baseline(name: str, meta: Any, problem: Problem) -> None:
    """Check that scikit-learn on each task's support rows alone is beaten."""
    own = _scores(_predictions(problem.trained(meta), problem), problem)
    baselines: list[Any] = [Ridge()]
    if problem.kind != "numbers":
        baselines = [NearestCentroid(), LogisticRegression()]
    held_out = problem.held_out
    for baseline in baselines:
        predictions = [
            clone(baseline).fit(task.X, task.y).predict(X)
            for task, X in zip(held_out.support, held_out.X, strict=True)
        ]
        theirs = _scores(predictions, problem)
        _assert_better(own, theirs, name, f"{baseline} on each task's support rows")


def check_uses_support_labels(name: str, meta: Any, problem: Problem) -> None:
    """Check that true support labels help more than shuffled ones."""
    fitted, shuffled = problem.trained(meta), _shuffled(problem.held_out.support)
    predictions = fitted.predict_tasks(shuffled, problem.held_out.X)
    own = _scores(_predictions(fitted, problem), problem)
    without = _scores(predictions, problem)
    _assert_better(own, without, name, "itself on support rows with shuffled labels")


def check_ignores_support(name: str, meta: Any, problem: Problem) -> None:
    """Check that predictions do not depend on the support rows."""
    fitted, held_out = problem.trained(meta), problem.held_out
    want = _predictions(fitted, problem)
    others = _shuffled(held_out.support[::-1])
    message = (
        f"{name} makes no use of support rows by its tags, and predicts otherwise with "
        "others."
    )
    for now, then in zip(fitted.predict_tasks(others, held_out.X), want, strict=True):
        np.testing.assert_array_equal(now, then, err_msg=message)
    X, other = held_out.X[0], others[0]
    got = fitted.adapt(other.X, other.y).predict(X)
    assert_same_answers(got, want[0], message)


def _shuffled(tasks: TaskSet) -> TaskSet:
    """Return tasks with their targets in random order."""
    rng = np.random.default_rng(0)
    pairs = [(task.X, rng.permutation(task.y)) for task in tasks]
    return TaskSet(pairs, labels=tasks.labels)  # type: ignore[arg-type]


def _unrelated(tasks: TaskSet) -> TaskSet:
    """Return tasks with features in an order of their own: no common directions."""
    rng = np.random.default_rng(0)
    pairs = [(task.X[:, rng.permutation(N_FEATURES)], task.y) for task in tasks]
    return TaskSet(pairs, labels=tasks.labels)  # type: ignore[arg-type]


def _predictions(meta: Any, problem: Problem) -> list[NDArray[Any]]:
    return meta.predict_tasks(problem.held_out.support, problem.held_out.X)


def _scores(predictions: list[NDArray[Any]], problem: Problem) -> NDArray[np.float64]:
    """Return each held-out task's accuracy, or negative mean squared error."""
    pairs = zip(predictions, problem.held_out.y, strict=True)
    if problem.kind == "numbers":
        return np.array([-np.mean((p - y) ** 2) for p, y in pairs])
    return np.array([np.mean(p == y) for p, y in pairs])


def _assert_better(
    own: NDArray[np.float64], other: NDArray[np.float64], name: str, than: str
) -> None:
    """Fail unless the paired 95 % interval over tasks lies above 0."""
    difference = own - other
    half_width = T_95 * difference.std(ddof=1) / np.sqrt(N_HELD_OUT)
    low, high = difference.mean() - half_width, difference.mean() + half_width
    assert low > 0, (
        f"{name} scores {own.mean():.3f} on held-out tasks, {than} {other.mean():.3f}: "
        f"the paired 95 % interval of the difference, [{low:.3f}, {high:.3f}], must "
        "lie above 0. Train longer, or with other step sizes, if it should learn this."
    )
