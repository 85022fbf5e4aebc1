"""Checks of meta-training: seeds, going on, failing, and scikit-learn's searches."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from sklearn import config_context
from sklearn.model_selection import GridSearchCV
from sklearn.utils import get_tags

from sklmeta.exceptions import MetaTrainingError
from sklmeta.model_selection import TaskKFold
from sklmeta.tasks import TaskSet
from sklmeta.utils._check_problems import (
    QUICK_UPDATES,
    Problem,
    answers,
    assert_same_learned,
    is_episodic,
    learned,
    moved,
    must_raise,
    with_parameters,
)

TINY = 1e-12


def check_same_seed(name: str, meta: Any, problem: Problem) -> None:
    """Check that the same seed gives the same, and that weights heed other seeds."""
    tasks = problem.tasks()
    first = learned(problem.quick(meta).fit(tasks), problem)
    again = learned(problem.quick(meta).fit(tasks), problem)
    assert_same_learned(again, first, f"{name} differs between runs of one seed.")
    if not is_episodic(meta):
        return  # nothing need be drawn at random
    other = learned(problem.quick(meta, random_state=1).fit(tasks), problem)
    if moved(first, learned(problem.quick(meta, outer_lr=TINY).fit(tasks), problem)):
        assert moved(other, first), f"{name} does not heed random_state."


def check_threads(name: str, meta: Any, problem: Problem) -> None:
    """Check that the same seed gives the same result when threads work side by side."""
    tasks = problem.tasks()
    serial = problem.quick(meta).fit(tasks)
    if is_episodic(meta) and any(
        "Dropout" in type(m).__name__ for m in serial.learner_.modules()
    ):
        return  # torch's dropout draws from one generator for all threads
    support, X = problem.held_out.support, problem.held_out.X
    want = [answers(serial.adapt(t.X, t.y), q) for t, q in zip(support, X, strict=True)]

    def refit(_: int) -> Any:
        return learned(problem.quick(meta).fit(tasks), problem)

    def adapted_answers(i: int) -> Any:
        model = serial._own_copy().adapt(support[i].X, support[i].y)
        return answers(model, X[i])

    with ThreadPoolExecutor(3) as pool:
        fits = list(pool.map(refit, range(3)))
        got = list(pool.map(adapted_answers, range(12)))
    for fitted in fits:
        message = f"{name} learns otherwise when threads fit side by side."
        assert_same_learned(fitted, learned(serial, problem), message)
    for now, then in zip(got, want, strict=False):
        message = f"{name} predicts otherwise when threads adapt side by side."
        np.testing.assert_array_equal(now, then, err_msg=message)


def check_global_rng(name: str, meta: Any, problem: Problem) -> None:
    """Check that the global generators of Python, numpy and torch are left alone."""
    before = _global_rngs()
    support, X = problem.held_out.support[0], problem.held_out.X[0]
    for seed in (0, None):
        fitted = problem.quick(meta, random_state=seed).fit(problem.tasks())
        if seed is not None:  # None is numpy's global generator, as in scikit-learn
            fitted.adapt(support.X, support.y).predict(X)
            fitted.score(problem.tasks())
            if hasattr(fitted, "partial_fit"):
                fitted.partial_fit(problem.tasks())
            assert _global_rngs() == before, f"{name} uses a global random generator."


def _global_rngs() -> tuple[Any, ...]:
    of_numpy = pickle.dumps(np.random.get_state())  # noqa: NPY002 - only looked at
    return random.getstate(), of_numpy, torch.get_rng_state().tolist()


def check_fit_twice(name: str, meta: Any, problem: Problem) -> None:
    """Check that a second `fit` starts anew."""
    twice = problem.quick(meta, warm_start=False)
    twice.fit(problem.tasks(seed=9))
    twice.fit(problem.tasks())
    fresh = problem.quick(meta, warm_start=False).fit(problem.tasks())
    message = f"a second fit of {name} differs from the fit of a fresh estimator."
    assert_same_learned(learned(twice, problem), learned(fresh, problem), message)
    if not is_episodic(meta):
        return
    assert twice.n_iter_ == fresh.n_iter_, message
    assert len(twice.history_) == len(fresh.history_), message


def check_starts_anew(name: str, meta: Any, problem: Problem) -> None:
    """Check that a learner without weights to go on from does not promise to go on."""
    fitted = problem.quick(meta).fit(problem.tasks())
    promises = ("partial_fit", "learner_", "history_", "n_iter_", "warm_start")
    found = [promise for promise in promises if hasattr(fitted, promise)]
    assert not found, (
        f"{name} is not episodic by its tags, and has {found}. Set tags.episodic in "
        "__sklmeta_tags__, or leave them out."
    )


def check_partial_fit(name: str, meta: Any, problem: Problem) -> None:
    """Check that `partial_fit` goes on learning and leaves adapted models alone."""
    tasks = problem.tasks()
    going_on = problem.quick(meta).partial_fit(tasks)
    support, X = problem.held_out.support[0], problem.held_out.X[0]
    adapted = going_on.adapt(support.X, support.y)
    before, n_iter = answers(adapted, X), going_on.n_iter_
    seen = [learned(going_on, problem)]
    for n_passes in (2, 3):
        assert going_on.partial_fit(tasks) is going_on
        assert going_on.n_iter_ == n_passes * n_iter, (
            f"partial_fit of {name} does not add one pass to n_iter_."
        )
        seen.append(learned(going_on, problem))
    if moved(seen[1], seen[0]):
        assert moved(seen[2], seen[1]), f"partial_fit of {name} stops learning."
    else:
        assert not any(p.requires_grad for p in going_on.learner_.parameters()), (
            f"a second partial_fit of {name} changes nothing."
        )
    message = f"partial_fit of {name} changes models that were adapted before."
    np.testing.assert_array_equal(answers(adapted, X), before, err_msg=message)


def check_warm_start(name: str, meta: Any, problem: Problem) -> None:
    """Check that `warm_start` goes on from the weights that were learned."""
    tasks = problem.tasks()
    going_on = problem.quick(meta, warm_start=True).fit(tasks)
    first, n_rows = learned(going_on, problem), len(going_on.history_)
    with_parameters(going_on, outer_lr=TINY).fit(tasks)
    # Some weights need not heed outer_lr.
    by_optimizer = first.keys() - set(going_on.learner_.own_updates)
    step = moved(learned(going_on, problem), {n: first[n] for n in by_optimizer})
    assert step < 1e-3, f"warm_start of {name} does not go on from what was learned."
    assert going_on.n_iter_ == 2 * QUICK_UPDATES, (
        f"warm_start of {name} counts {going_on.n_iter_} meta-updates after two fits "
        f"of {QUICK_UPDATES}."
    )
    assert len(going_on.history_) > n_rows, f"warm_start of {name} drops history_."


def check_failure_keeps(name: str, meta: Any, problem: Problem) -> None:
    """Check that what was learned outlives calls that fail."""
    fitted = problem.quick(meta).fit(problem.tasks())
    support, X = problem.held_out.support[0], problem.held_out.X[0]
    fitted.adapt(support.X, support.y)
    before, known = answers(fitted, X), learned(fitted, problem)

    def assert_kept() -> None:
        now = learned(fitted, problem)
        assert_same_learned(now, known, f"a failure changes {name}.")
        message = f"a failure makes {name} predict otherwise."
        np.testing.assert_array_equal(answers(fitted, X), before, err_msg=message)

    rows = problem.tasks().rows()
    with must_raise(ValueError, f"fit(X, y) of {name} without groups", "groups"):
        fitted.fit(rows.X, rows.y)
    assert_kept()
    _check_missing_values(name, fitted, problem, assert_kept)
    if not is_episodic(fitted):
        return
    with_parameters(fitted, outer_lr=1e30)
    for verb in ("partial_fit", "fit"):
        try:
            getattr(fitted, verb)(problem.tasks())
        except MetaTrainingError:
            assert_kept()
        else:
            return  # not every learner can diverge


def _check_missing_values(
    name: str, fitted: Any, problem: Problem, assert_kept: Callable[[], None]
) -> None:
    """Check that NaN is refused by all that would use it, or taken where tags say so.

    Who learns nothing from the meta-training tasks need not look at their values.
    """
    rows, support = problem.tasks().rows(), problem.held_out.support[0]
    bad = np.array(rows.X)
    bad[3, 0] = np.nan
    broken = TaskSet.from_offsets(bad, rows.y, rows.offsets, labels=problem.labels)
    if get_tags(fitted).input_tags.allow_nan:
        copied = copy.deepcopy(fitted).fit(broken)
        assert np.isfinite(copied.score(broken)), f"{name} cannot score NaN."
        copied.adapt(bad[: len(support.y)], support.y)
        return
    verbs = ["score"]
    if fitted.__sklmeta_tags__().learns_from_tasks:
        verbs += [verb for verb in ("fit", "partial_fit") if hasattr(fitted, verb)]
    for verb in verbs:
        with must_raise(ValueError, f"{verb} of {name} on NaN", "NaN"):
            getattr(fitted, verb)(broken)
        assert_kept()
    with must_raise(ValueError, f"adapt of {name} to NaN", "NaN"):
        fitted.adapt(bad[: len(support.y)], support.y)
    assert_kept()


def check_grid_search(name: str, meta: Any, problem: Problem) -> None:
    """Check that scikit-learn's search works over folds of tasks."""
    tasks = problem.tasks()
    rows = tasks.rows()
    groups = np.repeat(np.arange(len(tasks)), rows.sizes)
    grid = {"random_state": [0, 1]}
    _search(name, problem.quick(meta), grid, problem, (tasks,), {})
    if problem.kind == "local":
        _search(name, problem.quick(meta), grid, problem, (problem.class_pool(),), {})
        return
    with config_context(enable_metadata_routing=True):
        long = (rows.X, rows.y)
        _search(name, problem.quick(meta), grid, problem, long, {"groups": groups})


def _search(
    name: str,
    meta: Any,
    grid: dict[str, Any],
    problem: Problem,
    given: tuple[Any, ...],
    keywords: dict[str, Any],
) -> None:
    search = GridSearchCV(meta, grid, cv=TaskKFold(3), error_score="raise")
    search.fit(*given, **keywords)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all(), f"a grid search over {name} gives {scores}."
    support, X = problem.held_out.support[0], problem.held_out.X[0]
    best = search.best_estimator_.adapt(support.X, support.y)
    assert len(best.predict(X)) == len(X)
