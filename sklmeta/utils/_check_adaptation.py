"""Checks of adapting and predicting."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from sklmeta.tasks import TaskSet
from sklmeta.utils._check_problems import (
    N_FEATURES,
    Problem,
    answers,
    assert_same_answers,
    assert_same_learned,
    learned,
    with_parameters,
)

# Adaptation is in single precision, so rows added up in another order round otherwise.
SINGLE = 1e-3


def check_adapt_keeps_weights(name: str, meta: Any, problem: Problem) -> None:
    """Check that adapting and predicting leave what was learned bit-identical."""
    fitted, held_out = problem.trained(meta), problem.held_out
    support, X = _first_task(problem)
    before = learned(fitted, problem)
    calls = {
        "adapt": lambda: fitted.adapt(support.X, support.y),
        "predict": lambda: fitted.predict(X),
        "predict_tasks": lambda: fitted.predict_tasks(held_out.support, held_out.X),
        "score": lambda: fitted.score(problem.tasks()),
    }
    for verb, call in calls.items():
        call()
        message = f"{verb} of {name} changes the meta-learned weights."
        assert_same_learned(learned(fitted, problem), before, message)


def check_query_batch(name: str, meta: Any, problem: Problem) -> None:
    """Check that a row's prediction does not depend on the other rows in the call."""
    if getattr(meta, "transductive", False):
        return  # asks for just that dependence
    fitted, (support, X) = problem.trained(meta), _first_task(problem)
    adapted = fitted.adapt(support.X, support.y)
    want = answers(adapted, X)
    message = f"a prediction of {name} depends on the other rows in the call."
    one_by_one = np.concatenate([answers(adapted, row[None]) for row in X])
    assert_same_answers(one_by_one, want, message)
    order = np.random.default_rng(0).permutation(len(X))
    assert_same_answers(answers(adapted, X[order]), want[order], message)
    far_away = np.full((3, N_FEATURES), 100.0)
    mixed = answers(adapted, np.concatenate([far_away, X]))
    assert_same_answers(mixed[3:], want, message)


def check_support_order(name: str, meta: Any, problem: Problem) -> None:
    """Check that the order of the support rows does not matter."""
    fitted, (support, X) = problem.trained(meta), _first_task(problem)
    want = answers(fitted.adapt(support.X, support.y), X)
    order = np.random.default_rng(0).permutation(len(support.y))
    got = answers(fitted.adapt(support.X[order], support.y[order]), X)
    message = f"{name} depends on the order of the support rows."
    assert_same_answers(got, want, message, SINGLE)


def check_label_names(name: str, meta: Any, problem: Problem) -> None:
    """Check that names and order of local labels do not matter."""
    fitted, (support, X) = problem.trained(meta), _first_task(problem)
    adapted = fitted.adapt(support.X, support.y)
    want, words = adapted.predict_proba(X), np.array(["pear", "apple", "fig"])
    renamed = fitted.adapt(support.X, words[support.y])
    columns = [list(renamed.classes_).index(word) for word in words]
    message = f"{name} depends on the names of local labels."
    assert_same_answers(renamed.predict_proba(X)[:, columns], want, message, SINGLE)


def check_task_order(name: str, meta: Any, problem: Problem) -> None:
    """Check that what is said of a task does not depend on the tasks beside it."""
    fitted, held_out = problem.trained(meta), problem.held_out
    together = fitted.predict_tasks(held_out.support, held_out.X)
    backwards = fitted.predict_tasks(held_out.support[::-1], held_out.X[::-1])[::-1]
    alone = [
        fitted.predict_tasks(held_out.support[[i]], [X])[0]
        for i, X in enumerate(held_out.X[:10])
    ]
    message = f"predictions of {name} for a task depend on the tasks beside it."
    for got in (backwards, alone):
        for now, then in zip(got, together, strict=False):
            _assert_mostly_same(now, then, message)
    tasks = problem.tasks(12, seed=11)
    score = fitted.score(tasks)
    message = f"score of {name} depends on the order of the tasks."
    np.testing.assert_allclose(fitted.score(tasks[::-1]), score, 1e-5, err_msg=message)
    if problem.kind != "numbers":
        one_by_one = np.mean([fitted.score(tasks[[i]]) for i in range(len(tasks))])
        message = f"score of {name} for a task depends on the tasks beside it."
        np.testing.assert_allclose(one_by_one, score, atol=2e-3, err_msg=message)


def check_predict_tasks(name: str, meta: Any, problem: Problem) -> None:
    """Check that `predict_tasks` says what adapting to each task in turn would."""
    fitted, held_out = problem.trained(meta), problem.held_out
    together = fitted.predict_tasks(held_out.support, held_out.X)
    assert len(together) == len(held_out.X)
    for task, X, got in zip(held_out.support, held_out.X, together, strict=True):
        want = fitted.adapt(task.X, task.y).predict(X)
        assert got.shape == want.shape
        _assert_mostly_same(got, want, f"predict_tasks and adapt of {name} disagree.")


def check_pickle(name: str, meta: Any, problem: Problem) -> None:
    """Check that pickles of meta-learner and adapted model predict the same."""
    fitted, (support, X) = problem.trained(meta), _first_task(problem)
    adapted = fitted.adapt(support.X, support.y)
    want = answers(adapted, X)
    message = f"{name} predicts otherwise after a pickle round trip."
    for model in (adapted, fitted):
        loaded = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(answers(loaded, X), want, err_msg=message)
    loaded = pickle.loads(pickle.dumps(fitted))
    again = answers(loaded.adapt(support.X, support.y), X)
    np.testing.assert_array_equal(again, want, err_msg=message)


def check_adapt_again(name: str, meta: Any, problem: Problem) -> None:
    """Check that adapting to A leaves no trace when adapting to B."""
    fitted, held_out = problem.trained(meta), problem.held_out
    a, b, X = held_out.support[0], held_out.support[1], held_out.X[1]
    fresh = answers(problem.trained(meta).adapt(b.X, b.y), X)
    fitted.adapt(a.X, a.y)
    adapted = fitted.adapt(b.X, b.y)
    message = f"{name} adapted to A and then B differs from one adapted to B."
    np.testing.assert_array_equal(answers(adapted, X), fresh, err_msg=message)
    message = f"predictions of {name} are not those of the last adapted model."
    np.testing.assert_array_equal(answers(fitted, X), fresh, err_msg=message)


def check_side_by_side(name: str, meta: Any, problem: Problem) -> None:
    """Check that adapted models keep their predictions, whatever else is done."""
    fitted, held_out = problem.trained(meta), problem.held_out
    a, b, X = held_out.support[0], held_out.support[1], held_out.X[0]
    first = fitted.adapt(a.X, a.y)
    want = answers(first, X)
    second = fitted.adapt(b.X, b.y)
    assert second is not first, f"adapt of {name} returns the same model twice."
    differs = np.abs(answers(second, X) - want).max() > 0
    adapts = problem.kind in fitted.__sklmeta_tags__().uses_support
    assert differs or not adapts, f"{name} predicts the same whatever it is adapted to."
    other_things = {
        "when adapting to another task": lambda: None,
        "when scoring": lambda: fitted.score(problem.tasks()),
        "with set_params of its meta-learner": lambda: with_parameters(
            fitted, max_iter=1, inner_steps=1, warm_start=False
        ),
        "when its meta-learner is fitted again": lambda: fitted.fit(problem.tasks()),
    }
    for when, do in other_things.items():
        do()
        message = f"a model adapted by {name} changes {when}."
        np.testing.assert_array_equal(answers(first, X), want, err_msg=message)


def check_probabilities(name: str, meta: Any, problem: Problem) -> None:
    """Check that probabilities are some, and say what `predict` does."""
    fitted, (support, X) = problem.trained(meta), _first_task(problem)
    adapted = fitted.adapt(support.X, support.y)
    proba = adapted.predict_proba(X)
    assert proba.shape == (len(X), len(adapted.classes_))
    assert (proba >= 0).all(), f"{name} gives negative probabilities."
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(
        adapted.classes_[proba.argmax(1)],
        adapted.predict(X),
        err_msg=f"predict of {name} is not its most probable class.",
    )


def check_several_outputs(name: str, meta: Any, problem: Problem) -> None:
    """Check that targets may have several columns."""
    pairs = [(t.X, np.stack([t.y, -t.y], 1)) for t in problem.tasks()]
    fitted = problem.quick(meta).fit(TaskSet(pairs))
    support, X = _first_task(problem)
    y = np.stack([support.y, -support.y], 1)
    got = fitted.adapt(support.X, y).predict(X)
    assert got.shape == (len(X), 2), f"{name} gives {got.shape} for two outputs."


def _first_task(problem: Problem) -> tuple[Any, Any]:
    return problem.held_out.support[0], problem.held_out.X[0]


def _assert_mostly_same(got: Any, want: Any, message: str) -> None:
    """Compare predictions; of labels, one row may lie on a boundary."""
    if got.dtype.kind == "f":
        assert_same_answers(got, want, message, SINGLE)
    else:
        assert (got != want).sum() <= 1, message
