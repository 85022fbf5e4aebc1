"""ClassPool: classes as items that every index keeps together."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import KFold

from sklmeta.tasks import ClassPool


@pytest.fixture
def pool():
    """Return the classes c (2 rows), a (3), b (1), scattered over the rows."""
    return ClassPool(np.arange(12.0).reshape(6, 2), list("cacaba"))


def test_rows_lie_class_after_class(pool):
    assert pool.classes.tolist() == ["c", "a", "b"]
    assert pool.y.tolist() == list("ccaaab")
    assert pool.X[:, 0].tolist() == [0, 4, 2, 6, 10, 8]
    assert pool.rows().offsets.tolist() == [0, 2, 5, 6]
    assert (pool.shape, len(pool)) == ((3,), 3)
    assert repr(pool) == "ClassPool(3 classes, 1 to 3 rows each, rows of shape (2,))"


def test_sorted_rows_are_not_copied():
    X = np.zeros((4, 8, 8), dtype=np.uint8)
    pool = ClassPool(X, [3, 3, 1, 1])
    assert np.shares_memory(pool.X, X)
    assert np.shares_memory(pool[1].X, X)
    assert pool[1].X.shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("key", "classes"),
    [
        (1, "a"),
        (-1, "b"),
        (np.int64(0), "c"),
        (slice(1, None), "ab"),
        ([2, 0], "bc"),
        (np.array([True, False, True]), "cb"),
        ([], ""),
    ],
)
@pytest.mark.parametrize("with_ellipsis", [False, True])
def test_every_index_gives_a_pool(pool, key, classes, with_ellipsis):
    taken = pool[key, ...] if with_ellipsis else pool[key]
    assert type(taken) is ClassPool
    assert taken.classes.tolist() == list(classes)
    assert taken.shape == (len(classes),)
    for label in classes:
        rows = taken.X[taken.y == label]
        assert np.array_equal(rows, pool.X[pool.y == label])
    assert len(taken.y) == sum((pool.y == label).sum() for label in classes)


def test_indexing_twice(pool):
    assert pool[[2, 1, 0]][1:].classes.tolist() == ["a", "c"]


def test_iterating_gives_pools_of_one_class(pool):
    assert [one.classes.tolist() for one in pool] == [["c"], ["a"], ["b"]]
    for one, other in zip(pool, (pool[0], pool[1], pool[2]), strict=True):
        assert isinstance(one, ClassPool)
        assert repr(one) == repr(other)
        np.testing.assert_array_equal(one.X, other.X)
    assert [one.classes.tolist() for one in pool[1]] == [["a"]]


def test_walking_through_nested_tuples_comes_to_an_end(pool):
    def leaves(item):
        if not isinstance(item, tuple):
            return [item]
        return [leaf for inner in item for leaf in leaves(inner)]

    assert leaves(pool) == ["c", "a", "b"]
    assert leaves(pool[:1]) == ["c"]
    (one,) = pool[:1]
    again = pickle.loads(pickle.dumps(one))
    assert again.classes.tolist() == one[:].classes.tolist() == ["c"]
    assert leaves(one + pool[1:]) == leaves(pool)
    assert [len(part) for part in one + pool[1:]] == [1, 1, 1]
    assert "a" in pool
    assert "z" not in pool


def test_pools_compare_by_identity(pool):
    assert pool == pool
    assert pool != ClassPool(np.zeros((3, 2)), list("cab"))
    assert len({pool, pool}) == 1


def test_a_class_is_taken_once(pool):
    with pytest.raises(ValueError, match="A class is taken twice"):
        pool[[0, 0]]


@pytest.mark.parametrize("key", [3, "a", [0.5], (0, 1), np.array([True, False])])
def test_bad_index(pool, key):
    with pytest.raises(IndexError):
        pool[key]


def test_folds_share_no_class():
    pool = ClassPool(*load_digits(return_X_y=True))
    seen = []
    for train, test in KFold(5).split(pool):
        assert not set(pool[train].y) & set(pool[test].y)
        seen += pool[test].classes.tolist()
    assert sorted(seen) == list(range(10))


def test_sum(pool):
    other = ClassPool(np.ones((2, 2)), ["d", "e"])
    both = pool[1:] + other
    assert type(both) is ClassPool
    assert both.classes.tolist() == ["a", "b", "d", "e"]
    assert np.array_equal(both.X, np.vstack([pool[1:].X, other.X]))
    with pytest.raises(ValueError, match="Both pools have a class 'a'"):
        pool + pool[1]
    with pytest.raises(TypeError, match="Only a ClassPool can be added"):
        pool + (1,)  # noqa: RUF005
    with pytest.raises(ValueError, match="Task 'c' and task 'd' differ"):
        pool + ClassPool(np.ones((2, 3)), ["d", "e"])
    with pytest.raises(TypeError, match="cannot be multiplied"):
        pool * 2


@pytest.mark.parametrize("kind", ["numpy", "pandas", "torch"])
def test_parts_pickle_their_own_rows(kind):
    X = np.arange(4000.0).reshape(1000, 4)
    X = {"numpy": X, "pandas": pd.DataFrame(X), "torch": torch.from_numpy(X)}[kind]
    pool = ClassPool(X, np.arange(1000) // 10)
    data = pickle.dumps(pool[3:5])
    assert len(data) < len(pickle.dumps(pool)) / 10
    back = pickle.loads(data)
    assert type(back.X) is type(pool.X)
    assert back.classes.tolist() == [3, 4]
    assert np.array_equal(np.asarray(back.X), np.asarray(pool[3:5].X))


def test_is_immutable(pool):
    with pytest.raises(AttributeError, match="immutable"):
        pool.X = 1


@pytest.mark.parametrize(
    "y",
    [
        np.array([1.0, 0.0, 1.0]),
        torch.tensor([1, 0, 1]),
        pd.Series([1, 0, 1]),
        np.array([[1], [0], [1]]),
    ],
)
def test_label_containers(y):
    pool = ClassPool(np.zeros((3, 1)), y)
    assert pool.classes.tolist() == [1, 0]
    assert pool.y.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([[1.0], [2.0]], [0.5, 1.0], "y holds fractions"),
        ([[1.0], [2.0]], [np.inf, 1.0], "y holds fractions"),
        ([[1.0], [2.0]], [np.nan, 1.0], "y is missing .* first in row 0"),
        ([[1.0], [2.0]], ["a", None], "y is missing .* first in row 1"),
        ([[1.0], [2.0]], [[1, 2], [3, 4]], r"y has shape \(2, 2\)"),
        ([[1.0], [2.0]], [1], "X has 2 rows but y has 1"),
        ([1.0, 2.0], [1, 2], "X has shape"),
        (np.empty((0, 3)), [], "no rows"),
    ],
)
def test_refusals(X, y, message):
    with pytest.raises(ValueError, match=message):
        ClassPool(X, y)
