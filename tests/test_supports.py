"""Many tasks at once: the answers of one at a time, whatever form rows come in."""

import numpy as np
import pandas as pd
import pytest

from sklmeta import MAMLClassifier, MAMLRegressor, TaskSet
from sklmeta._checks import label_column
from sklmeta._supports import _local_codes, _local_codes_by_task
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
        np.array([-1.5, 0.0, 2.5]),
        np.array(["aa", "b"]),
        np.array([True, False]),
    ],
    ids=lambda labels: labels.dtype.str,
)
def test_classes_of_all_tasks_are_those_of_each(labels):
    tasks = local_tasks(labels)
    y = label_column(tasks.rows(), list(tasks.names))
    classes, codes = _local_codes(tasks)
    own_classes, own_codes = _local_codes_by_task(tasks.rows(), y)
    assert codes.dtype == own_codes.dtype
    np.testing.assert_array_equal(codes, own_codes)
    for found, expected in zip(classes, own_classes, strict=True):
        assert found.dtype == expected.dtype
        assert found.tolist() == expected.tolist()


def test_tasks_whose_labels_have_no_common_order():
    X = np.zeros((3, 2))
    numbers, words = np.array([3, 1, 3], object), np.array(["b", "a", "c"], object)
    tasks = TaskSet([Task(X, numbers), Task(X, words)], labels="local")
    classes, codes = _local_codes(tasks)
    assert [own.tolist() for own in classes] == [[1, 3], ["a", "b", "c"]]
    assert codes.tolist() == [1, 0, 1, 1, 0, 2]
