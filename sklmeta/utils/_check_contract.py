"""Checks of construction, input forms and refusals."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from sklmeta.exceptions import SmallTaskWarning
from sklmeta.tasks import ClassPool, Task, TaskSet
from sklmeta.utils._check_problems import (
    N_FEATURES,
    N_WAYS,
    Problem,
    answers,
    assert_same_answers,
    must_raise,
)


def check_init_only_assigns(name: str, meta: Any, problem: Problem) -> None:
    """Check that `__init__` stores its parameters as they are, and nothing else."""
    parameters = meta.get_params(deep=False)
    fresh = type(meta)(**parameters)
    known = {
        parameter
        for parent in type(meta).__mro__
        if "__init__" in vars(parent)
        for parameter in inspect.signature(vars(parent)["__init__"]).parameters
    }
    extra = sorted(set(vars(fresh)) - known)
    assert not extra, f"__init__ of {name} sets attributes beside parameters: {extra}."
    for key, value in parameters.items():
        assert getattr(fresh, key) is value, (
            f"__init__ of {name} changes the parameter {key!r}: validate in fit."
        )


def check_clone_and_params(name: str, meta: Any, problem: Problem) -> None:
    """Check that `clone` is unfitted and has the same parameters."""
    fitted = problem.quick(meta).fit(problem.tasks())
    copied = clone(fitted)
    for key, value in fitted.get_params(deep=False).items():
        assert repr(getattr(copied, key)) == repr(value) or callable(value), (
            f"clone of {name} changes the parameter {key!r}."
        )
    with must_raise(NotFittedError, f"clone of {name} is still fitted"):
        check_is_fitted(copied)
    same = copied.set_params(**copied.get_params(deep=False))
    assert same is copied, f"set_params of {name} must return the estimator."
    with must_raise(ValueError, f"{name} must refuse unknown parameters"):
        copied.set_params(no_such_parameter=1)


def check_not_fitted(name: str, meta: Any, problem: Problem) -> None:
    """Check that nothing is answered before `fit`, nor predicted before `adapt`."""
    meta, tasks = problem.quick(meta), problem.tasks()
    task = tasks[0]
    calls = [
        ("adapt", lambda: meta.adapt(task.X, task.y)),
        ("predict", lambda: meta.predict(task.X)),
        ("score", lambda: meta.score(tasks)),
        ("predict_tasks", lambda: meta.predict_tasks(tasks[:1], [task.X])),
    ]
    if hasattr(meta, "predict_proba"):
        calls.append(("predict_proba", lambda: meta.predict_proba(task.X)))
    for verb, call in calls:
        with must_raise(NotFittedError, f"{verb} of {name} before fit"):
            call()
    assert meta.fit(tasks) is meta, f"fit of {name} must return the estimator."
    for verb, call in calls:
        if verb.startswith("predict") and verb != "predict_tasks":
            with must_raise(NotFittedError, f"{verb} of {name} before adapt", "adapt"):
                call()


def check_input_forms(name: str, meta: Any, problem: Problem) -> None:
    """Check that tasks teach the same in whatever form they come."""
    tasks = problem.tasks()
    rows, pairs = tasks.rows(), [(task.X, task.y) for task in tasks]
    groups = np.repeat(np.arange(len(tasks)), rows.sizes)
    forms: list[tuple[str, tuple[Any, ...], dict[str, Any]]]
    if problem.kind == "local":
        from_arrays = TaskSet.from_arrays(rows.X, rows.y, groups, labels="local")
        forms = [
            ("a TaskSet of pairs", (TaskSet(pairs, labels="local"),), {}),
            ("TaskSet.from_arrays", (from_arrays,), {}),
        ]
    else:
        forms = [
            ("a list of Tasks", (list(tasks),), {}),
            ("a list of pairs", (pairs,), {}),
            ("long format", (rows.X, rows.y), {"groups": groups}),
        ]
    want = _answers_on(problem.quick(meta).fit(tasks), problem)
    for form, given, keywords in forms:
        fitted = problem.quick(meta).fit(*given, **keywords)
        message = f"{name} learns otherwise from {form} than from a TaskSet."
        assert_same_answers(_answers_on(fitted, problem), want, message, 1e-4)
    with must_raise(ValueError, f"fit(X, y) of {name} without groups", "groups"):
        problem.quick(meta).fit(rows.X, rows.y)
    with must_raise(TypeError, f"fit of {name} on one Task", "one task"):
        problem.quick(meta).fit(Task(*pairs[0]))


def check_class_pool(name: str, meta: Any, problem: Problem) -> None:
    """Check that a ClassPool is learned from, and unseen classes adapted to."""
    pool = problem.class_pool()
    fitted = problem.quick(meta).fit(pool[:8])
    new = pool[8:11]
    adapted = fitted.adapt(new.X, new.y)
    assert set(adapted.predict(new.X)) <= set(new.classes), (
        f"{name} predicts labels that the support rows of a ClassPool do not have."
    )
    score = fitted.score(pool[8:])
    assert 0 <= score <= 1, f"score of {name} on a ClassPool is {score}."
    assert score == fitted.score(pool[8:]), (
        f"score of {name} on a ClassPool differs from call to call."
    )


def check_refuses_class_pool(name: str, meta: Any, problem: Problem) -> None:
    """Check that a regressor refuses classes."""
    rng = np.random.default_rng(0)
    pool = ClassPool(rng.normal(size=(40, N_FEATURES)), np.repeat(range(4), 10))
    with must_raise(ValueError, f"fit of the regressor {name} on a ClassPool"):
        problem.quick(meta).fit(pool)


def check_refuses_labels(name: str, meta: Any, problem: Problem) -> None:
    """Check that labels of a kind that a classifier does not take are refused."""
    given: list[TaskSet | ClassPool] = [problem.tasks()]
    if problem.kind == "local":
        given.append(problem.class_pool())
    for tasks in given:
        with must_raise(
            ValueError,
            f"{name} does not take {problem.kind} labels by its tags, and has to "
            "refuse them",
            problem.kind,
        ):
            problem.quick(meta).fit(tasks)


def check_task_distribution(name: str, meta: Any, problem: Problem) -> None:
    """Check that fresh tasks of a distribution are trained on and scored."""
    first, second = (problem.quick(meta).fit(problem) for _ in range(2))
    message = f"{name} learns otherwise from the same TaskDistribution and seed."
    assert_same_answers(
        _answers_on(first, problem), _answers_on(second, problem), message
    )
    assert np.isfinite(first.score(problem)), (
        f"score of {name} on a TaskDistribution is not finite."
    )


def check_ragged_tasks(name: str, meta: Any, problem: Problem) -> None:
    """Check that tasks may have different numbers of rows, everywhere."""
    ragged = problem.ragged()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTaskWarning)
        fitted = problem.quick(meta).fit(ragged)
        assert np.isfinite(fitted.score(ragged)), f"score of {name} is not finite."
    query = problem.tasks(len(ragged), seed=5)
    Xs = [task.X[: 1 + i] for i, task in enumerate(query)]
    together = fitted.predict_tasks(ragged, Xs)
    for task, X, got in zip(ragged, Xs, together, strict=True):
        want = fitted.adapt(task.X, task.y).predict(X)
        assert len(got) == len(X), f"predict_tasks of {name} pads its predictions."
        message = f"predict_tasks and adapt of {name} disagree on ragged tasks."
        _assert_same_predictions(got, want, message)


def check_string_labels(name: str, meta: Any, problem: Problem) -> None:
    """Check that labels can be text; other names in the same order teach the same."""
    tasks = problem.tasks()
    words = np.array(["ash", "birch", "cedar"], dtype=object)
    named = TaskSet([(t.X, words[t.y]) for t in tasks], labels=problem.labels)
    by_code = problem.quick(meta).fit(tasks)
    by_word = problem.quick(meta).fit(named)
    support, X = problem.held_out.support[0], problem.held_out.X[0]
    coded = by_code.adapt(support.X, support.y)
    worded = by_word.adapt(support.X, words[support.y])
    message = f"{name} depends on the names of labels."
    assert list(worded.classes_) == list(words), f"{name} loses the names of labels."
    assert_same_answers(answers(worded, X), answers(coded, X), message, 1e-5)
    assert list(worded.predict(X)) == list(words[coded.predict(X)]), message


def check_pandas(name: str, meta: Any, problem: Problem) -> None:
    """Check that data frames teach what arrays do, and columns are compared."""
    tasks = problem.tasks()
    columns = [f"column {i}" for i in range(N_FEATURES)]
    framed = TaskSet(
        [(pd.DataFrame(t.X, columns=columns), pd.Series(t.y)) for t in tasks],
        labels=problem.labels,
    )
    by_array = problem.quick(meta).fit(tasks)
    by_frame = problem.quick(meta).fit(framed)
    assert by_frame.n_features_in_ == by_array.n_features_in_ == N_FEATURES
    assert list(by_frame.feature_names_in_) == columns
    assert not hasattr(by_array, "feature_names_in_")
    support, X = problem.held_out.support[0], problem.held_out.X[0]
    frame, query = (pd.DataFrame(rows, columns=columns) for rows in (support.X, X))
    adapted = by_frame.adapt(frame, pd.Series(support.y))
    want = answers(by_array.adapt(support.X, support.y), X)
    message = f"{name} learns otherwise from data frames than from arrays."
    assert_same_answers(answers(adapted, query), want, message, 1e-5)
    reversed_columns = query[columns[::-1]]
    with must_raise(ValueError, f"columns of {name} in another order", "feature names"):
        adapted.predict(reversed_columns)


def check_dtypes(name: str, meta: Any, problem: Problem) -> None:
    """Check that float32 and float64 of the same values are the same data."""
    results = []
    for dtype in (np.float32, np.float64):

        def cast(X: Any, dtype: Any = dtype) -> Any:
            return X.astype(np.float32).astype(dtype)

        pairs = [(cast(t.X), t.y) for t in problem.tasks()]
        fitted = problem.quick(meta).fit(TaskSet(pairs, labels=problem.labels))
        support, X = problem.held_out.support[0], problem.held_out.X[0]
        adapted = fitted.adapt(cast(support.X), support.y)
        results.append(answers(adapted, cast(X)))
    message = f"{name} learns otherwise from float32 than from float64."
    assert_same_answers(results[0], results[1], message, 1e-4)


def check_n_features(name: str, meta: Any, problem: Problem) -> None:
    """Check that rows of another width are refused in scikit-learn's words."""
    fitted = problem.quick(meta).fit(problem.tasks())
    support, X = problem.held_out.support[0], problem.held_out.X[0]
    adapted = fitted.adapt(support.X, support.y)
    narrow = TaskSet(
        [(t.X[:, 1:], t.y) for t in problem.tasks()], labels=problem.labels
    )
    words = rf"X has {N_FEATURES - 1} features, but \w+ is expecting {N_FEATURES} "
    calls = [
        ("adapt", lambda: fitted.adapt(support.X[:, 1:], support.y)),
        ("predict", lambda: adapted.predict(X[:, 1:])),
        ("score", lambda: fitted.score(narrow)),
        ("predict_tasks", lambda: fitted.predict_tasks(narrow[:1], [X])),
    ]
    if hasattr(fitted, "partial_fit"):
        calls.append(("partial_fit", lambda: fitted.partial_fit(narrow)))
    for verb, call in calls:
        with must_raise(ValueError, f"{verb} of {name} on fewer features", words):
            call()


def check_inputs_not_mutated(name: str, meta: Any, problem: Problem) -> None:
    """Check that data, targets and parameters are left as they were."""
    tasks, support = problem.tasks(), problem.held_out.support[0]
    X = problem.held_out.X[0]
    arrays = [tasks.rows().X, tasks.rows().y, support.X, support.y, X]
    before = copy.deepcopy(arrays)
    meta = problem.quick(meta)
    parameters = {k: (id(v), repr(v)) for k, v in meta.get_params(deep=False).items()}
    meta.fit(tasks)
    meta.adapt(support.X, support.y).predict(X)
    meta.score(tasks)
    meta.predict_tasks(problem.held_out.support[:1], [X])
    for now, then in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(now, then, err_msg=f"{name} changes its input.")
    after = {k: (id(v), repr(v)) for k, v in meta.get_params(deep=False).items()}
    changed = sorted(k for k in parameters if after[k] != parameters[k])
    assert not changed, f"{name} changes its own parameters: {changed}."


def check_unseen_ways(name: str, meta: Any, problem: Problem) -> None:
    """Check that with local labels a new task may have any number of ways."""
    fitted = problem.quick(meta).fit(problem.tasks())
    pool = problem.class_pool()
    for n_way in (2, N_WAYS + 2):
        new = pool[:n_way]
        adapted = fitted.adapt(new.X, new.y)
        proba = adapted.predict_proba(new.X)
        assert proba.shape == (len(new.X), n_way), (
            f"{name} trained on {N_WAYS} ways gives probabilities of shape "
            f"{proba.shape} for {n_way} ways."
        )
        assert set(adapted.predict(new.X)) <= set(new.classes)


def check_refuses_more_ways(name: str, meta: Any, problem: Problem) -> None:
    """Check that more ways than in meta-training are refused, fewer are taken."""
    fitted = problem.quick(meta).fit(problem.tasks())
    pool = problem.class_pool()
    proba = fitted.adapt(pool[:2].X, pool[:2].y).predict_proba(pool[:2].X)
    assert proba.shape == (len(pool[:2].X), 2)
    new = pool[: N_WAYS + 1]
    with must_raise(
        ValueError,
        f"{name} does not take any number of ways by its tags, and has to refuse more "
        "than in meta-training.",
        match=f"{N_WAYS + 1} classes",
    ):
        fitted.adapt(new.X, new.y)


def check_missing_classes(name: str, meta: Any, problem: Problem) -> None:
    """Check that with shared labels, classes without support rows keep their column."""
    fitted = problem.quick(meta).fit(problem.tasks())
    support, X = problem.held_out.support[0], problem.held_out.X[0]
    some = support.y != support.y[0]
    adapted = fitted.adapt(support.X[some], support.y[some])
    proba = adapted.predict_proba(X)
    assert list(adapted.classes_) == list(fitted.classes_) == list(range(N_WAYS))
    assert proba.shape == (len(X), N_WAYS), (
        f"{name} forgets shared classes that the support rows miss."
    )
    strange = np.where(support.y == 0, 99, support.y)
    with must_raise(ValueError, f"adapt of {name} to labels never seen", "99"):
        fitted.adapt(support.X, strange)


def _answers_on(meta: Any, problem: Problem) -> Any:
    support, X = problem.held_out.support[0], problem.held_out.X[0]
    return answers(meta.adapt(support.X, support.y), X)


def _assert_same_predictions(got: Any, want: Any, message: str) -> None:
    if got.dtype.kind == "f":
        assert_same_answers(got, want, message, 1e-4)
    else:
        np.testing.assert_array_equal(got, want, err_msg=message)
