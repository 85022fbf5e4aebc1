"""Checks that a meta-learner learns: it is better, by more than chance, than others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import NearestCentroid

from sklmeta.tasks import TaskSet
from sklmeta.utils._check_problems import N_HELD_OUT, Problem, with_parameters

# Student's t of a two-sided 95 % interval with N_HELD_OUT - 1 = 59 degrees of freedom.
T_95 = 2.001


def check_beats_untrained(name: str, meta: Any, problem: Problem) -> None:
    """Check that meta-training improves on the weights it started from."""
    untrained = with_parameters(clone(meta), max_iter=1, outer_lr=1e-12, random_state=0)
    untrained = with_parameters(untrained, early_stopping=False)
    untrained.fit(problem.training_tasks)
    before = _scores(_predictions(untrained, problem), problem)
    after = _scores(_predictions(problem.trained(meta), problem), problem)
    _assert_better(after, before, f"{name}", "its own untrained initialisation")


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
    fitted, rng = problem.trained(meta), np.random.default_rng(0)
    shuffled = TaskSet(
        [(task.X, rng.permutation(task.y)) for task in problem.held_out.support],
        labels=problem.labels,
    )
    predictions = fitted.predict_tasks(shuffled, problem.held_out.X)
    own = _scores(_predictions(fitted, problem), problem)
    without = _scores(predictions, problem)
    _assert_better(own, without, name, "itself on support rows with shuffled labels")


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
