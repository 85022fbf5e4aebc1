"""Task and TaskSet: making, indexing, joining, naming, pickling, refusing."""

import copy
import pickle
import time

import numpy as np
import pandas as pd
import pytest
import torch

from sklmeta.tasks import Task, TaskSet


def make_pairs(sizes=(3, 5, 4, 2), n_features=2, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(n, n_features)), rng.normal(size=n)) for n in sizes]


def make_frame(n_rows=12):
    """Return rows of the tasks c, a, b in turns, with a text column."""
    return pd.DataFrame(
        {
            "task": np.resize(["c", "a", "b"], n_rows),
            "x": np.arange(n_rows, dtype=float),
            "colour": np.resize(["red", "blue"], n_rows),
            "y": np.arange(n_rows) * 10,
        },
        index=np.arange(n_rows) + 100,
    )


@pytest.fixture
def tasks():
    return TaskSet(make_pairs())


def equal_tasks(a, b):
    return np.array_equal(np.asarray(a.X), np.asarray(b.X)) and np.array_equal(a.y, b.y)


# Task


def test_task_keeps_rows_as_given():
    X, y = make_pairs()[0]
    task = Task(X, y, "Lyon", support=[True, False, True])
    assert np.shares_memory(task.X, X)
    assert np.array_equal(task.X, X)
    assert np.array_equal(task.y, y)
    assert (task.name, task.named, len(task)) == ("Lyon", True, 3)
    assert task.support.tolist() == [True, False, True]
    assert repr(task) == "Task('Lyon': 3 rows of 2 features)"


def test_task_without_name_or_mask():
    task = Task([[1.0]], ["yes"])
    assert (task.name, task.named, task.support) == (None, False, None)
    assert repr(task) == "Task(1 row of 1 feature)"


def test_tasks_compare_by_identity():
    X, y = make_pairs()[0]
    task, twin = Task(X, y, "a"), Task(X, y, "a")
    assert task == task
    assert task != twin
    assert len({task, twin}) == 2


@pytest.mark.parametrize("attribute", ["X", "name", "anything"])
def test_task_is_immutable(attribute):
    task = Task(*make_pairs()[0])
    with pytest.raises(AttributeError, match="immutable"):
        setattr(task, attribute, 1)
    assert not hasattr(task, "__dict__")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (np.int64(3), 3),
        (3.0, 3),
        (np.float32(2.5), 2.5),
        (np.str_("a"), "a"),
        (torch.tensor(4), 4),
        (("Lyon", 2), ("Lyon", 2)),
    ],
)
def test_name_is_a_python_scalar(given, name):
    task = Task([[0.0]], [1], given)
    assert task.name == name
    assert type(task.name) is type(name)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0, 2.0], [1, 2], "a"), ValueError, r"Task 'a': X has shape \(2,\).*resha"),
        (([[1.0]], [1, 2], "a"), ValueError, "Task 'a': X has 1 rows but y has 2"),
        (([[1.0]], [[[1]]]), ValueError, r"y has shape \(1, 1, 1\)"),
        ((np.empty((0, 2)), [], "a"), ValueError, "Task 'a': it has no rows"),
        (([[1.0], [1.0, 2.0]], [1, 2]), ValueError, "X cannot be made an array"),
        (([[1.0]], [1], float("nan")), ValueError, "name is NaN"),
        (([[1.0]], [1], ["a"]), TypeError, "must be hashable"),
    ],
)
def test_task_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Task(*arguments)


def test_task_refuses_sparse_rows():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"Task 'a': X is a sparse matrix.*toarray"):
        Task(sparse.eye(3, format="csr"), [1, 2, 3], "a")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([True, False], r"Task 'a': support has shape \(2,\)"),
        ([0, 1, 1], "dtype int64, expected a bool mask"),
        ([False] * 3, "Task 'a': support marks 0 of 3 rows"),
        ([True] * 3, "Task 'a': support marks 3 of 3 rows"),
    ],
)
def test_task_refuses_masks(mask, message):
    with pytest.raises(ValueError, match=message):
        Task(*make_pairs()[0], "a", support=mask)


def test_targets_of_every_container():
    X = np.zeros((3, 1))
    for y in (
        [1, 2, 3],
        pd.Series([1, 2, 3], index=[7, 8, 9]),
        pd.Series([1, 2, 3], dtype="Int64"),
        torch.tensor([1, 2, 3]),
        torch.tensor([1.0, 2.0, 3.0], requires_grad=True),
    ):
        got = Task(X, y).y
        assert isinstance(got, np.ndarray)
        assert got.dtype.kind in "if"
        assert got.tolist() == [1, 2, 3]
    missing = Task(X, pd.Series([1, None, 3], dtype="Int64")).y
    assert np.array_equal(missing, [1.0, np.nan, 3.0], equal_nan=True)
    labels = Task(X, pd.Series(["b", "a", "b"], dtype="category")).y
    assert labels.tolist() == ["b", "a", "b"]
    assert Task(X, pd.DataFrame({"u": [1, 2, 3], "v": [4, 5, 6]})).y.shape == (3, 2)


# Making a TaskSet


def test_from_pairs_and_tasks_pool_the_same_rows(tasks):
    pairs = make_pairs()
    for made in (tasks, TaskSet(Task(X, y) for X, y in pairs)):
        assert made.shape == (4,)
        assert made.names == (0, 1, 2, 3)
        assert not made.named.any()
        rows = made.rows()
        assert rows.offsets.tolist() == [0, 3, 8, 12, 14]
        assert np.array_equal(rows.X, np.concatenate([X for X, _ in pairs]))
        assert np.array_equal(rows.y, np.concatenate([y for _, y in pairs]))
        for task, (X, y) in zip(made, pairs, strict=True):
            assert np.array_equal(task.X, X)
            assert np.array_equal(task.y, y)


def test_from_arrays_keeps_first_appearance_and_row_order():
    groups = ["b", "a", "b", "c", "a", "b"]
    X, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    tasks = TaskSet.from_arrays(X, y, groups)
    assert tasks.names == ("b", "a", "c")
    assert tasks.named.all()
    assert [task.y.tolist() for task in tasks] == [[0, 2, 5], [1, 4], [3]]
    assert np.array_equal(tasks[0].X, X[[0, 2, 5]])


def test_adjacent_groups_are_not_copied():
    X, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    tasks = TaskSet.from_arrays(X, y, [5, 5, 1, 1, 1, 3])
    assert tasks.names == (5, 1, 3)
    assert np.shares_memory(tasks.rows().X, X)
    assert np.shares_memory(tasks[1].X, X)


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (np.array([2.0, 1.0, 2.0]), (2, 1)),
        ([1, "1", 1], (1, "1")),
        (pd.Categorical(["b", "a", "b"]), ("b", "a")),
        (pd.Series(["b", "a", "b"], index=[3, 1, 2]), ("b", "a")),
        (torch.tensor([7, 1, 7]), (7, 1)),
        ([("FR", 1), ("FR", 2), ("FR", 1)], (("FR", 1), ("FR", 2))),
        (
            np.array(["2024-01-01", "2023-01-01", "2024-01-01"], "datetime64[ns]"),
            (pd.Timestamp("2024-01-01"), pd.Timestamp("2023-01-01")),
        ),
    ],
)
def test_group_labels_become_names(groups, names):
    tasks = TaskSet.from_arrays(np.zeros((3, 1)), [0, 1, 2], groups)
    assert tasks.names == names
    assert [type(name) for name in tasks.names] == [type(name) for name in names]
    assert [task.y.tolist() for task in tasks] == [[0, 2], [1]]


def test_from_arrays_moves_the_masks_along():
    mask = np.array([True, False, False, True])
    tasks = TaskSet.from_arrays(
        np.zeros((4, 1)), range(4), ["a", "b", "a", "b"], support=mask
    )
    assert tasks[0].support.tolist() == [True, False]
    assert tasks[1].support.tolist() == [False, True]
    with pytest.raises(ValueError, match="Task 'b': support marks 0 of 1 rows"):
        TaskSet.from_arrays(
            np.zeros((3, 1)), range(3), ["a", "a", "b"], support=[True, False, False]
        )


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b"], r"groups has shape \(2,\), expected \(3,\)"),
        (np.array([["a"], ["b"], ["c"]]), "groups has shape"),
        (["a", None, "b"], "groups is missing .* in 1 rows, first in row 1"),
        ([1.0, 2.0, np.nan], "groups is missing .* in 1 rows, first in row 2"),
    ],
)
def test_from_arrays_refuses_groups(groups, message):
    with pytest.raises(ValueError, match=message):
        TaskSet.from_arrays(np.zeros((3, 1)), [1, 2, 3], groups)


def test_from_arrays_refuses_labels_that_cannot_be_names():
    with pytest.raises(TypeError, match="groups must hold hashable labels"):
        TaskSet.from_arrays(np.zeros((2, 1)), [1, 2], [["a"], ["b"]])


def test_from_offsets_refuses_offsets_that_do_not_fit():
    X, y = np.zeros((4, 1)), np.zeros(4)
    with pytest.raises(ValueError, match="do not cut 4 rows into 2 tasks"):
        TaskSet.from_offsets(X, y, [0, 2, 3])
    with pytest.raises(ValueError, match="Task 1: it has no rows"):
        TaskSet.from_offsets(X, y, [0, 2, 2, 4])
    with pytest.raises(ValueError, match="Task 'q': it has no rows"):
        TaskSet.from_offsets(X, y, [0, 3, 2, 4], names=["p", "q", "r"])
    with pytest.raises(ValueError, match="no tasks"):
        TaskSet.from_offsets(X, y, [0])
    with pytest.raises(ValueError, match="Got 1 names for 2 tasks"):
        TaskSet.from_offsets(X, y, [0, 2, 4], names=["p"])
    with pytest.raises(ValueError, match="offsets must be integers, got dtype float"):
        TaskSet.from_offsets(X, y, [0, 1.5, 4])


def test_from_frame_keeps_the_frame():
    df = make_frame()
    before = df.copy()
    tasks = TaskSet.from_frame(df, target="y", task="task")
    assert tasks.names == ("c", "a", "b")
    for task, (_, rows) in zip(tasks, df.groupby("task", sort=False), strict=True):
        pd.testing.assert_frame_equal(task.X, rows[["x", "colour"]])
        assert task.y.tolist() == rows["y"].tolist()
    pd.testing.assert_frame_equal(df, before)


def test_from_frame_roles():
    df = make_frame().assign(late=np.arange(12) < 3)
    tasks = TaskSet.from_frame(
        df, target=["y", "x"], task="task", features=["colour"], support="late"
    )
    assert list(tasks[0].X.columns) == ["colour"]
    assert tasks[0].y.shape == (4, 2)
    assert tasks[0].support.tolist() == [True, False, False, False]
    assert (
        "late"
        not in TaskSet.from_frame(df, target="y", task="task", support="late")[0].X
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": "units"}, ValueError, "no column 'units'; it has"),
        ({"features": ["x", "price"]}, ValueError, "no column 'price'"),
        ({"features": ["x", "y"]}, ValueError, "Column 'y' is asked for twice"),
        ({"task": "y"}, ValueError, "Column 'y' is asked for twice"),
        ({"features": []}, ValueError, "No columns are left"),
        ({"task": ["task", "colour"]}, TypeError, "one column each.*ngroup"),
        ({"task": pd.Series(["a"])}, TypeError, "names of columns of df.*Series"),
        ({"target": np.array(["y", "x"])}, TypeError, "names of columns.*ndarray"),
        ({"target": pd.Index(["y", "x"])}, TypeError, "names of columns.*Index"),
        ({"features": "xy"}, TypeError, "features must be a list of columns, got 'xy'"),
        ({"df": {"task": [1]}}, TypeError, "Expected a pandas DataFrame, got a dict"),
    ],
)
def test_from_frame_refuses(change, error, message):
    arguments = {"df": make_frame(), "target": "y", "task": "task"} | change
    with pytest.raises(error, match=message):
        TaskSet.from_frame(arguments.pop("df"), **arguments)


def test_from_frame_refuses_columns_of_one_name():
    df = make_frame().rename(columns={"colour": "x"})
    with pytest.raises(ValueError, match="two columns named 'x'"):
        TaskSet.from_frame(df, target="y", task="task")


def test_tensors_stay_tensors():
    X = torch.arange(12.0).reshape(6, 2).requires_grad_()
    tasks = TaskSet.from_arrays(X, torch.arange(6), [0, 1, 0, 1, 0, 1])
    assert isinstance(tasks[0].X, torch.Tensor)
    assert not tasks[0].X.requires_grad
    assert torch.equal(tasks[1].X, X[[1, 3, 5]])
    joined = TaskSet([Task(X[:2], [1, 2]), Task(X[2:], [1, 2, 3, 4])]).rows()
    assert torch.equal(joined.X, X)
    assert torch.equal(tasks[[1, 0]].rows().X, X[[1, 3, 5, 0, 2, 4]])


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_images(shape):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    tasks = TaskSet.from_arrays(images, range(6), [0, 0, 1, 1, 1, 1], labels="local")
    assert tasks[1].X.dtype == np.uint8
    assert tasks.rows().row_shape == shape
    sides = " x ".join(map(str, shape))
    assert repr(tasks) == f"TaskSet(2 tasks, 2 to 4 rows, {sides}, labels='local')"
    with pytest.raises(ValueError, match="flat rows, got images"):
        tasks.to_frame()


# Refusals of unlike tasks


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Task(np.zeros((3, 4)), [1.0] * 3, "b"), r"'a' and task 'b' differ: rows of s"),
        (Task(np.zeros((3, 2, 2)), [1.0] * 3, "b"), "differ: rows of shape"),
        (Task(torch.zeros(3, 2), [1.0] * 3, "b"), "differ: X is a ndarray and a Tens"),
        (Task(np.zeros((3, 2)), np.zeros((3, 2)), "b"), "differ: targets of shape"),
        (Task(np.zeros((3, 2)), list("uvw"), "b"), "'a' has y of type float64 and ta"),
    ],
)
def test_tasks_that_differ_are_refused_by_name(other, message):
    good = [Task(*pair, name) for pair, name in zip(make_pairs()[:2], "ac")]  # noqa: B905
    with pytest.raises(ValueError, match=message):
        TaskSet([*good, other])
    with pytest.raises(ValueError, match=message):
        TaskSet(good) + TaskSet([other])


def test_frames_with_other_columns_are_refused():
    a, b = make_frame(3)[["x", "y"]], make_frame(3)[["y", "x"]]
    with pytest.raises(ValueError, match=r"Task 0 and task 1 .*columns \['x', 'y'\]"):
        TaskSet([(a, [1, 2, 3]), (b, [1, 2, 3])])


def test_numbers_beside_text_stay_apart():
    tasks = TaskSet([([[1.5]], [0]), ([["red"]], [1])])
    assert tasks.rows().X.tolist() == [[1.5], ["red"]]
    labels = [np.array([1, "one"], dtype=object), ["two"]]
    mixed = TaskSet([([[0.0], [0.0]], labels[0]), ([[0.0]], labels[1])])
    assert mixed.rows().y.tolist() == [1, "one", "two"]


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ([], ValueError, "no tasks"),
        (np.zeros((2, 3)), TypeError, "Item 0 is a ndarray.*from_arrays"),
        ([([[1.0]], [1], "a")], TypeError, "Item 0 is a tuple"),
        ([([[1.0]], [1]), ([[1.0]], [1, 2])], ValueError, "Task 1: X has 1 rows but"),
    ],
)
def test_taskset_refuses(items, error, message):
    with pytest.raises(error, match=message):
        TaskSet(items)


def test_unknown_labels_are_refused():
    with pytest.raises(ValueError, match="labels must be 'shared' or 'local', got 'g"):
        TaskSet(make_pairs(), labels="global")


# Names


def test_names_given_twice_are_refused():
    pairs = make_pairs()
    with pytest.raises(ValueError, match="Tasks 0 and 2 are both named 'a'"):
        TaskSet([Task(*pairs[0], "a"), Task(*pairs[1]), Task(*pairs[2], "a")])
    with pytest.raises(ValueError, match="both named 1"):
        TaskSet([Task(*pairs[0], 1.0), Task(*pairs[1], np.int32(1))])


def test_positions_give_way_to_given_names():
    pairs = make_pairs()
    tasks = TaskSet([Task(*pairs[0], 1), Task(*pairs[1]), Task(*pairs[2], "a")])
    assert tasks.names == (1, 3, "a")
    assert tasks.named.tolist() == [True, False, True]


def test_names_survive_indexing(tasks):
    assert tasks[2:].names == (2, 3)
    assert tasks[2:][[1]][0].name == 3
    assert tasks[[3, 0, 3]].names == (3, 0, 3)
    assert TaskSet(tasks[2:]).names == (0, 1)


# Indexing


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [3, 2, 1, 0]),
        (np.array([2, 0]), [2, 0]),
        (np.array([2, 0], dtype=np.uint8), [2, 0]),
        ([-1, 1, 1], [3, 1, 1]),
        (np.array([True, False, False, True]), [0, 3]),
        ([False] * 4, []),
        ([], []),
        (torch.tensor([3, 1]), [3, 1]),
        (pd.Series([1, 2]), [1, 2]),
    ],
)
@pytest.mark.parametrize("with_ellipsis", [False, True])
def test_index_gives_a_taskset(tasks, key, expected, with_ellipsis):
    taken = tasks[key, ...] if with_ellipsis else tasks[key]
    assert type(taken) is TaskSet
    assert taken.shape == (len(expected),)
    assert taken.names == tuple(expected)
    assert all(a is tasks[i] for a, i in zip(taken, expected, strict=True))
    assert taken.labels == tasks.labels


@pytest.mark.parametrize("key", [1, -3, np.int64(1), np.array(1), torch.tensor(1)])
def test_int_gives_a_task(tasks, key):
    assert tasks[key] is tasks[1]
    assert tasks[key, ...] is tasks[1]


@pytest.mark.parametrize(
    "key",
    [
        4,
        -5,
        np.int64(4),
        [0, 4],
        [0.5],
        "a",
        np.array([True, False]),
        [[0, 1]],
        (0, 1),
        True,
        None,
    ],
)
def test_bad_index(tasks, key):
    with pytest.raises(IndexError):
        tasks[key]


def test_rows_of_any_index_match_the_tasks(tasks):
    for key in ([2, 0, 2, 1], slice(1, 3), slice(0, 0), slice(None), [3]):
        taken = tasks[key]
        rows = taken.rows()
        assert rows.offsets.dtype == np.int64
        assert rows.sizes.tolist() == [len(task) for task in taken]
        assert len(rows) == len(taken) == len(rows.has_support)
        for i, task in enumerate(taken):
            assert np.array_equal(rows.X[rows.task(i)], task.X)
            assert np.array_equal(rows.y[rows.task(i)], task.y)


def test_adjacent_tasks_share_memory(tasks):
    pool = tasks.rows()
    assert tasks[:].rows() is pool
    assert np.shares_memory(tasks[1:3].rows().X, pool.X)
    assert np.shares_memory(TaskSet(list(tasks)).rows().X, pool.X)
    apart = tasks[[2, 1]]
    assert not np.shares_memory(apart.rows().X, pool.X)
    assert apart.rows() is apart.rows()


def test_masks_are_false_where_none_is_given():
    pairs = make_pairs((3, 2))
    tasks = TaskSet([Task(*pairs[0], support=[True, False, True]), pairs[1]])
    rows = tasks.rows()
    assert rows.support.tolist() == [True, False, True, False, False]
    assert rows.has_support.tolist() == [True, False]
    assert tasks[0].support.tolist() == [True, False, True]
    assert tasks[1].support is None
    assert tasks[[1, 0]].rows().support.tolist() == [False, False, True, False, True]
    assert TaskSet(pairs).rows().support is None


# As a tuple


def test_is_an_immutable_tuple(tasks):
    assert isinstance(tasks, tuple)
    assert tasks == tasks[:]
    assert tasks != tasks[::-1]
    assert tasks[1] in tasks
    assert copy.copy(tasks) is tasks
    with pytest.raises(AttributeError, match="immutable"):
        tasks.labels = "local"
    with pytest.raises(AttributeError, match="immutable"):
        del tasks.labels


@pytest.mark.parametrize("repeat", [lambda t: t * 2, lambda t: 2 * t])
def test_cannot_be_multiplied(tasks, repeat):
    with pytest.raises(TypeError, match="cannot be multiplied"):
        repeat(tasks)


def test_sum_renumbers_positions(tasks):
    named = TaskSet.from_arrays(np.ones((2, 2)), [1.0, 2.0], ["a", 0])
    both = tasks[2:] + named
    assert type(both) is TaskSet
    assert both.names == (4, 1, "a", 0)
    assert both.named.tolist() == [False, False, True, True]
    assert np.array_equal(
        both.rows().X, np.vstack([tasks[2:].rows().X, np.ones((2, 2))])
    )
    assert (tasks + tasks).names == tuple(range(8))


@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (TaskSet.from_arrays([[1.0]], [1], ["a"]), ValueError, "both|Both.*named 'a'"),
        (TaskSet([([[1.0]], [1])], labels="local"), ValueError, "labels='shared' and"),
        ([Task([[1.0]], [1])], TypeError, "Only a TaskSet can be added"),
        ((), TypeError, "Only a TaskSet can be added"),
    ],
)
def test_sum_refuses(other, error, message):
    tasks = TaskSet.from_arrays([[1.0], [2.0]], [1, 2], ["a", "b"])
    with pytest.raises(error, match=message):
        tasks + other
    if not isinstance(other, TaskSet):
        with pytest.raises(error, match=message):
            other + tasks


# Pickles


def containers():
    X = np.arange(4000.0).reshape(1000, 4)
    return {
        "numpy": X,
        "pandas": pd.DataFrame(X, columns=list("abcd")),
        "mixed": pd.DataFrame(X, columns=list("abcd")).assign(e="text"),
        "torch": torch.from_numpy(X.copy()),
    }


@pytest.mark.parametrize("kind", ["numpy", "pandas", "mixed", "torch"])
def test_slices_pickle_their_own_rows(kind):
    X = containers()[kind]
    tasks = TaskSet.from_arrays(
        X, np.arange(1000), np.arange(1000) // 10, labels="local"
    )
    whole = len(pickle.dumps(tasks))
    for part in (tasks[3:5], tasks[[7, 2]]):
        data = pickle.dumps(part)
        assert len(data) < whole / 10
        back = pickle.loads(data)
        assert type(back) is TaskSet
        assert (back.names, back.labels) == (part.names, "local")
        assert back.named.all()
        assert type(back[0].X) is type(part[0].X)
        assert all(map(equal_tasks, back, part))
    task = pickle.loads(pickle.dumps(tasks[3]))
    assert len(pickle.dumps(tasks[3])) < whole / 10
    assert equal_tasks(task, tasks[3])
    assert (task.name, task.named) == (3, True)


def test_pickle_of_resampled_masked_and_empty_sets():
    X, y = np.arange(6.0).reshape(6, 1), np.arange(6)
    mask = [True, False] * 3
    tasks = TaskSet.from_arrays(X, y, [0, 0, 1, 1, 2, 2], support=mask)
    back = pickle.loads(pickle.dumps(tasks[[1, 1, 0]]))
    assert back.names == (1, 1, 0)
    assert back[0].support.tolist() == [True, False]
    assert copy.deepcopy(tasks).names == tasks.names
    assert len(pickle.loads(pickle.dumps(tasks[:0]))) == 0


# Tables and text


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((3,), "TaskSet(1 task, 3 rows each, 2 features)"),
        ((1, 1), "TaskSet(2 tasks, 1 row each, 2 features)"),
        ((2, 9, 4), "TaskSet(3 tasks, 2 to 9 rows, 2 features)"),
    ],
)
def test_repr(sizes, text):
    assert repr(TaskSet(make_pairs(sizes))) == text
    assert repr(TaskSet(make_pairs())[:0]) == "TaskSet(0 tasks)"


def test_summary_of_numbers_matches_pandas(tasks):
    table = tasks[[2, 0]].summary()
    assert table.index.tolist() == [2, 0]
    assert table["n_rows"].tolist() == [4, 3]
    for i in (2, 0):
        assert table.loc[i, "y_mean"] == pytest.approx(tasks[i].y.mean())
        assert table.loc[i, "y_std"] == pytest.approx(tasks[i].y.std())
    assert "n_labels" not in table


def test_summary_of_labels_and_outputs():
    X, groups = np.zeros((4, 1)), ["a", "a", "a", "b"]
    mask = [True, False, True, False]
    labelled = TaskSet.from_arrays(X, ["u", "v", "u", "w"], groups)
    assert labelled.summary()["n_labels"].tolist() == [2, 1]
    outputs = np.array([[1.0, 3.0]] * 4)
    two = TaskSet.from_arrays(X[:3], outputs[:3], groups[:3], support=mask[:3])
    assert two.summary().iloc[0].to_dict() == {
        "n_rows": 3,
        "n_support": 2,
        "y_mean_0": 1.0,
        "y_std_0": 0.0,
        "y_mean_1": 3.0,
        "y_std_1": 0.0,
    }


@pytest.mark.parametrize("with_mask", [False, True])
def test_to_frame_round_trip(with_mask):
    df = make_frame().assign(support=np.arange(12) < 5)
    role = {"support": "support"} if with_mask else {}
    features = ["x", "colour"]
    tasks = TaskSet.from_frame(df, target="y", task="task", features=features, **role)
    long = tasks[[1, 2]].to_frame()
    assert list(long) == ["task", *features, "y", *role]
    back = TaskSet.from_frame(long, target="y", task="task", **role)
    assert back.names == ("a", "b")
    pd.testing.assert_frame_equal(back.rows().X, tasks[1:].rows().X)
    assert np.array_equal(back.rows().y, tasks[1:].rows().y)
    if with_mask:
        assert np.array_equal(back[0].support, tasks[1].support)


def test_to_frame_names_columns():
    rng = np.random.default_rng(0)
    tasks = TaskSet([(rng.normal(size=(3, 2)), rng.normal(size=(3, 2)))])
    assert list(tasks.to_frame()) == ["task", "x0", "x1", "y0", "y1"]
    assert list(tasks.to_frame(target="z", task="id"))[::3] == ["id", "z0"]
    df = make_frame().rename(columns={"x": "y", "y": "target"})
    clash = TaskSet.from_frame(df, target="target", task="task")
    with pytest.raises(ValueError, match="A feature is named 'y'"):
        clash.to_frame()
    assert "target" in clash.to_frame(target="target")


# Speed


def test_ten_thousand_tasks_are_made_quickly():
    n_rows = 200_000
    rng = np.random.default_rng(0)
    df = pd.DataFrame(
        rng.normal(size=(n_rows, 20)), columns=list("abcdefghijklmnopqrst")
    )
    df["task"] = np.arange(n_rows) % 10_000
    df["target"] = 1.0
    start = time.perf_counter()
    tasks = TaskSet.from_frame(df, target="target", task="task")
    tasks[rng.permutation(10_000)]
    assert time.perf_counter() - start < 2.0
    assert len(tasks) == 10_000
    assert len(tasks[17]) == 20
    assert np.array_equal(tasks[17].X.to_numpy(), df.iloc[17::10_000, :20].to_numpy())
