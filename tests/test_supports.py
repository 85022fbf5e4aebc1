"""Many tasks at once: the answers of one at a time, whatever form rows come in."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.utils.fixes import parse_version

from sklmeta import (
    ClassPool,
    MAMLClassifier,
    MAMLRegressor,
    ProtoNetClassifier,
    TaskSet,
)
from sklmeta._supports import _local_codes
from sklmeta._task_rows import unlabelled_rows
from sklmeta.engine import inference
from sklmeta.tasks import Task
from sklmeta.utils._check_problems import Problem


@pytest.fixture(scope="module", params=["numbers", "shared", "local"])
def case(request):
    """A learner with default parameters, supports of many tasks, and queries."""
    problem = Problem(request.param)
    estimator = MAMLRegressor if problem.kind == "numbers" else MAMLClassifier
    meta = estimator(max_iter=20, random_state=0, device="cpu")
    meta.fit(problem.tasks(30))
    tasks, k = problem.tasks(150, seed=3), problem.n_support
    support = TaskSet([(t.X[:k], t.y[:k]) for t in tasks], labels=problem.labels)
    return meta, support, [t.X[k : k + 6] for t in tasks]


def test_many_tasks_are_predicted_as_one_by_one(case, monkeypatch):
    meta, support, query_Xs = case
    expected = [
        meta.adapt(task.X, task.y).predict(X)
        for task, X in zip(support, query_Xs, strict=True)
    ]
    for at_once in (inference.VALUES_PER_PASS, 10_000, 40_000):  # in few tasks
        monkeypatch.setattr(inference, "VALUES_PER_PASS", at_once)
        found = meta.predict_tasks(support, query_Xs)
        for one, other in zip(found, expected, strict=True):
            if other.dtype.kind == "f":
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
            else:
                assert one.tolist() == other.tolist()


@pytest.mark.parametrize(
    "container", [np.asarray, pd.DataFrame, np.ndarray.tolist], ids=str
)
def test_containers_of_query_rows(container):
    random = np.random.default_rng(0)
    arrays = [random.normal(size=(n, 2)) for n in (3, 1, 4)]
    rows = unlabelled_rows([container(X) for X in arrays], "abc")
    assert rows.offsets.tolist() == [0, 3, 4, 8]
    assert len(rows.y) == 8
    assert not rows.has_support.any()
    np.testing.assert_array_equal(np.asarray(rows.X), np.concatenate(arrays))


@pytest.mark.parametrize(
    ("query_Xs", "message"),
    [
        ([np.zeros((2, 3)), np.zeros((0, 3))], "'b'"),
        ([np.zeros((2, 3)), np.zeros((2, 2))], "'b'"),
        ([np.zeros(3), np.zeros(3)], "'a'"),
    ],
)
def test_wrong_query_rows_are_refused_by_the_name_of_their_task(query_Xs, message):
    with pytest.raises(ValueError, match=message):
        unlabelled_rows(query_Xs, "ab")


def local_tasks(labels, seed=0):
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 12, 40)
    return TaskSet(
        [(random.normal(size=(n, 2)), random.choice(labels, n)) for n in sizes],
        labels="local",
    )


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(9),
        np.array(list("gabfcde"), dtype=object),
        np.array([-1.0, 0.0, 2.0]),
        np.array(["aa", "b"]),
        np.array([True, False]),
    ],
    ids=lambda labels: labels.dtype.str,
)
def test_classes_of_all_tasks_are_those_of_each(labels):
    tasks = local_tasks(labels)
    classes, codes = _local_codes(tasks)
    assert codes.dtype == np.int64
    own = [np.unique(task.y, return_inverse=True) for task in tasks]
    np.testing.assert_array_equal(codes, np.concatenate([code for _, code in own]))
    for found, (expected, _) in zip(classes, own, strict=True):
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()


NO_LABELS = {
    "fractions": np.array([0.1, 0.2, 0.5, 0.7]),
    "infinity": np.array([1, np.inf, 1, 2]),
    "complex": np.array([1j, 2, 1, 2]),
    "numbers as objects": np.array([1, 2, 1, 2], object),
    "numbers and words": np.array([1, "a", 2, "b"], object),
    "words and numbers": np.array(["a", 1, "b", 2], object),
    "pairs": np.array([(1, 2), (1, 3), None], object)[[0, 1, 0, 1]],
    "lists": np.array([[1, 2], [1], None], object)[[0, 1, 0, 1]],
    "missing": np.array([1, np.nan, 1, 2]),
}


if parse_version(sklearn.__version__) >= parse_version("1.7"):
    NO_LABELS["bytes"] = np.array([b"a", b"b", b"a", b"b"])
    NO_LABELS["bytes as objects"] = NO_LABELS["bytes"].astype(object)


@pytest.fixture(scope="module")
def local_meta():
    X = np.random.default_rng(0).normal(size=(60, 2))
    pool = ClassPool(X, np.arange(60) % 6)
    return ProtoNetClassifier(n_way=2, max_iter=2, random_state=0).fit(pool)


@pytest.mark.parametrize("name", NO_LABELS)
@pytest.mark.parametrize("labels", ["shared", "local"])
def test_what_adapting_refuses_as_labels_is_refused_for_many(local_meta, name, labels):
    X, bad = np.arange(8.0).reshape(4, 2), NO_LABELS[name]
    good = np.array(["x", "y", "x", "y"], object)
    if bad.dtype.kind == "f":
        good = np.array([1.0, 0, 0, 1])
    tasks = [Task(X, bad, "Lyon")]
    if bad.dtype.kind in "fO":  # others are no labels at all, whichever they are
        tasks.insert(0, Task(X, good, "Nice"))
    with pytest.raises(ValueError, match=r"abel|y contains|Complex") as alone:
        local_meta.adapt(X, bad)
    with pytest.raises(ValueError, match=r"[Tt]ask 'Lyon'") as together:
        local_meta.predict_tasks(TaskSet(tasks, labels=labels), [X] * len(tasks))
    assert " ".join(str(alone.value).split()[:3]) in str(together.value)


@pytest.mark.parametrize(
    "y",
    [
        np.array([2.0, 1, 2, 1]),
        np.array(["b", "a", "b", "a"], object),
        pd.Series(["b", "a", "b", "a"], dtype="string"),
        pd.Series(["b", "a", "b", "a"], dtype="category"),
        np.array([True, False, True, False]),
        np.array(["2020", "2021", "2020", "2021"], "datetime64[Y]"),
    ],
    ids=lambda y: str(y.dtype),
)
def test_what_adapting_takes_as_labels_is_taken_for_many(local_meta, y):
    X = np.arange(8.0).reshape(4, 2)
    (found,) = local_meta.predict_tasks([(X, y)], [X])
    assert found.tolist() == local_meta.adapt(X, y).predict(X).tolist()
