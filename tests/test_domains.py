"""Domains: tasks and classes from several sources, in one set, through every door."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import dok_array

from sklmeta.datasets import MixedTasks, load_digits_pool, make_sinusoids
from sklmeta.model_selection import TaskKFold
from sklmeta.tasks import ClassPool, Task, TaskSet, ValidationTasks, as_tasks


def tasks_of(n_tasks, names=None, width=2, n_rows=4, **options):
    rng = np.random.default_rng(n_tasks)
    offsets = np.arange(n_tasks + 1) * n_rows
    X = rng.normal(size=(n_tasks * n_rows, width))
    return TaskSet.from_offsets(X, X[:, 0], offsets, names=names, **options)


def pool_of(labels, shape=(3,), n_rows=4, dtype=float):
    y = np.repeat(labels, n_rows)
    return ClassPool(np.arange(len(y) * np.prod(shape)).reshape(-1, *shape), y)


@pytest.fixture
def tasks():
    return TaskSet.from_domains({"hospital": tasks_of(3), "clinic": tasks_of(2)})


@pytest.fixture
def pool():
    return ClassPool.from_domains({"a": pool_of([0, 1, 2]), "b": pool_of(["x", "y"])})


# Tasks ---------------------------------------------------------------------------


def test_a_task_has_a_domain():
    assert Task([[0.0]], [1.0]).domain is None
    task = Task([[0.0]], [1.0], domain=np.int64(3))
    assert task.domain == 3
    assert type(task.domain) is int
    assert pickle.loads(pickle.dumps(task)).domain == 3


@pytest.mark.parametrize(
    ("domain", "error", "message"),
    [
        (np.nan, ValueError, "domain is NaN; give a domain"),
        (["a"], TypeError, "domain must be hashable"),
    ],
)
def test_domains_that_are_none(domain, error, message):
    with pytest.raises(error, match=message):
        Task([[0.0]], [1.0], domain=domain)


def test_tasks_without_domains_say_nothing_of_them():
    tasks = tasks_of(3)
    assert tasks.domains.tolist() == [None] * 3
    assert "domain" not in tasks.summary()
    assert "domain" not in tasks.to_frame()
    assert "domain" not in repr(tasks)
    assert TaskSet([Task([[0.0]], [1.0], domain=None)]).rows().domains is None


def test_domains_survive(tasks):
    expected = ["hospital"] * 3 + ["clinic"] * 2
    assert tasks.domains.tolist() == expected
    assert [task.domain for task in tasks] == expected
    order = [4, 0, 0, 3]
    for own in (tasks[order], tasks[order][:], TaskSet([tasks[i] for i in [4, 0, 3]])):
        domains = [task.domain for task in own]
        assert own.domains.tolist() == domains
        assert domains == [expected[i] for i in (order if len(own) == 4 else [4, 0, 3])]
    assert tasks[1:4].rows().domains.tolist() == expected[1:4]
    for kept in (pickle.loads(pickle.dumps(tasks[order])), copy.copy(tasks[order])):
        assert kept.domains.tolist() == [expected[i] for i in order]
    tensors = TaskSet([Task(torch.rand(2, 1), [0.0, 1.0], domain="a")])
    assert pickle.loads(pickle.dumps(tensors)).domains.tolist() == ["a"]


def test_sums_keep_domains_of_either_side(tasks):
    both = tasks + tasks_of(1)
    assert both.domains.tolist() == ["hospital"] * 3 + ["clinic"] * 2 + [None]
    assert (tasks_of(1) + tasks).domains.tolist()[0] is None


def test_domains_select_tasks(tasks):
    clinic = tasks[tasks.domains == "clinic"]
    assert clinic.names == (3, 4)
    assert repr(tasks).endswith("2 features, 2 domains)")
    assert repr(clinic).endswith("2 features, 1 domain)")


def test_domains_cannot_be_written_to(tasks):
    tasks.domains[0] = "other"  # a copy
    assert tasks.domains[0] == "hospital"


def test_summary_and_frame_show_domains(tasks):
    assert list(tasks.summary().columns)[:2] == ["domain", "n_rows"]
    assert tasks.summary()["domain"].tolist() == tasks.domains.tolist()
    again = TaskSet.from_frame(
        tasks.to_frame(), target="y", task="task", domain="domain"
    )
    assert again.domains.tolist() == tasks.domains.tolist()
    assert list(again[0].X.columns) == ["x0", "x1"]


def test_tuples_and_numbers_are_domains_too():
    tasks = tasks_of(3, domains=[("a", 1), ("b", 2), 7])
    assert tasks.domains.tolist() == [("a", 1), ("b", 2), 7]
    assert tasks[[2, 0]].domains.tolist() == [7, ("a", 1)]


def test_long_format_with_rows_out_of_order():
    groups = list("babab")
    tasks = TaskSet.from_arrays(
        np.zeros((5, 1)), np.arange(5), groups, domains=pd.Series(list("BABAB"))
    )
    assert dict(zip(tasks.names, tasks.domains, strict=True)) == {"b": "B", "a": "A"}


@pytest.mark.parametrize(
    ("domains", "message"),
    [
        (list("ABAAB"), r"Task 'b': its rows have the domains 'A' and 'B'"),
        (["A", None, "A", "A", "A"], "domains is missing .* in 1 rows, first in row 1"),
        (["A"], r"domains has shape \(1,\), expected \(5,\)"),
    ],
)
def test_long_format_refuses(domains, message):
    with pytest.raises(ValueError, match=message):
        TaskSet.from_arrays(
            np.zeros((5, 1)), np.arange(5), list("babab"), domains=domains
        )


def test_from_frame_refuses_a_column_with_two_roles():
    df = pd.DataFrame({"x": [0.0, 1.0], "y": [1, 2], "t": [0, 0]})
    with pytest.raises(ValueError, match="'t' is asked for twice"):
        TaskSet.from_frame(df, target="y", task="t", domain="t")


# Joining tasks -------------------------------------------------------------------


def test_names_stay_unless_two_domains_share_one():
    apart = TaskSet.from_domains({"a": tasks_of(2, "pq"), "b": tasks_of(2, "rs")})
    assert apart.names == ("p", "q", "r", "s")
    shared = TaskSet.from_domains({"a": tasks_of(2, "pq"), 1: tasks_of(2, "qs")})
    assert shared.names == ("a/p", "a/q", "1/q", "1/s")
    assert shared.named.all()


def test_positions_are_counted_on(tasks):
    assert tasks.names == (0, 1, 2, 3, 4)
    assert not tasks.named.any()
    mixed = TaskSet.from_domains({"a": tasks_of(2), "b": tasks_of(1, [0])})
    assert mixed.names[2] == 0
    assert len(set(mixed.names)) == 3
    assert mixed.named.tolist() == [False, False, True]


def test_lists_and_fixed_supports_are_joined():
    marked = Task([[0.0], [1.0]], [0.0, 1.0], "m", support=[True, False], domain="old")
    pairs = [([[2.0], [3.0]], [2.0, 3.0])]
    tasks = TaskSet.from_domains({"new": [marked], "other": pairs})
    assert tasks.domains.tolist() == ["new", "other"]
    assert tasks[0].support.tolist() == [True, False]
    assert tasks[1].support is None
    assert marked.domain == "old"


def test_labels_of_lists_and_sets():
    local = tasks_of(1, labels="local")
    pairs = [(np.zeros((2, 2)), [0.0, 1.0])]
    joined = TaskSet.from_domains({"a": local, "b": pairs}, labels="local")
    assert joined.labels == "local"
    with pytest.raises(ValueError, match="'a' has labels='local' and domain 'b' lab"):
        TaskSet.from_domains({"a": local, "b": pairs})


@pytest.mark.parametrize(
    ("domains", "error", "message"),
    [
        ([tasks_of(1)], TypeError, "dict of domain name to tasks, got a list"),
        ({}, ValueError, "no domains"),
        ({"a": tasks_of(1)[:0]}, ValueError, "'a' has no tasks"),
        ({"a": []}, ValueError, "Domain 'a': There are no tasks"),
        ({"a": ([[0.0]], [1.0])}, TypeError, "'a' is a tuple; expected a TaskSet"),
        ({"a": pool_of([0, 1])}, TypeError, r"ClassPool\.from_domains"),
        ({"a": MixedTasks([tasks_of(1)])}, TypeError, "by MixedTasks"),
        ({np.nan: tasks_of(1)}, ValueError, "domain is NaN"),
        (
            {"a": tasks_of(1), "b": tasks_of(1, width=3)},
            ValueError,
            r"'a' and 'b' have rows of shape \(2,\) and \(3,\).*same features",
        ),
    ],
)
def test_joining_refuses(domains, error, message):
    with pytest.raises(error, match=message):
        TaskSet.from_domains(domains)


# Classes -------------------------------------------------------------------------


def test_classes_are_told_apart_by_their_domain(pool):
    assert pool.classes.tolist() == ["a/0", "a/1", "a/2", "b/x", "b/y"]
    assert pool.domains.tolist() == ["a"] * 3 + ["b"] * 2
    assert pool.y.tolist() == np.repeat(pool.classes, 4).tolist()
    same = ClassPool.from_domains({1: pool_of([0.0, 1.0]), 2: pool_of([0.0, 1.0])})
    assert same.classes.tolist() == ["1/0", "1/1", "2/0", "2/1"]


def test_domains_of_classes_survive(pool):
    assert pool[[4, 0]].domains.tolist() == ["b", "a"]
    assert pool[[4, 0]].rows().domains.tolist() == ["b", "a"]
    assert pickle.loads(pickle.dumps(pool[3:])).domains.tolist() == ["b", "b"]
    assert [one.domains.tolist() for one in pool] == [["a"]] * 3 + [["b"]] * 2
    assert (pool + pool_of(["z"])).domains.tolist() == [*pool.domains, None]
    assert pool_of([0, 1]).domains.tolist() == [None, None]
    assert repr(pool).endswith("rows of shape (3,), 2 domains)")
    for train, test in TaskKFold(2).split(pool):
        assert pool[train].domains.tolist() == np.delete(pool.domains, test).tolist()


IMAGES = pool_of([0, 1], (28, 28))


@pytest.mark.parametrize(
    ("pools", "error", "message"),
    [
        ([IMAGES], TypeError, "dict of domain name to classes, got a list"),
        ({"a": tasks_of(2)}, TypeError, "'a' is a TaskSet, expected a ClassPool"),
        ({"a": next(iter(IMAGES))}, TypeError, "'a' is one class of a pool"),
        ({"a": IMAGES[:0]}, ValueError, "'a' has no classes"),
        ({"a/b": pool_of(["c"]), "a": pool_of(["b/c"])}, ValueError, "called 'a/b/c'"),
        (
            {"letters": IMAGES, "digits": pool_of([0, 1], (8, 8))},
            ValueError,
            r"'letters' and 'digits' have rows of shape \(28, 28\) and \(8, 8\).*"
            r"resize_images\(X, \(28, 28\)\)",
        ),
        (
            {"a": IMAGES, "b": pool_of([0, 1], (28, 28, 1))},
            ValueError,
            r"same channels: np\.repeat\(X\[\.\.\., None\], 3",
        ),
        (
            {"a": IMAGES, "b": pool_of([0, 1], (784,))},
            ValueError,
            r"flat images of several sizes as \(n, height, width\)",
        ),
        (
            {"a": ClassPool(IMAGES.X.astype(np.uint8), IMAGES.y), "b": IMAGES},
            ValueError,
            "'a' and 'b' hold images of type uint8 and int64",
        ),
    ],
)
def test_joining_classes_refuses(pools, error, message):
    with pytest.raises(error, match=message):
        ClassPool.from_domains(pools)


# Every door ----------------------------------------------------------------------


def test_forms_of_domains_are_joined(pool):
    pools = {"a": pool_of([0, 1, 2]), "b": pool_of(["x", "y"])}
    for made in (as_tasks(pools), ValidationTasks(pools).tasks):
        assert made.classes.tolist() == pool.classes.tolist()
    by_position = as_tasks(list(pools.values()))
    assert by_position.domains.tolist() == [0, 0, 0, 1, 1]
    sets = as_tasks({"a": tasks_of(2), "b": [*tasks_of(1)]})
    assert sets.domains.tolist() == ["a", "a", "b"]


def test_domains_bring_their_own_targets(pool):
    with pytest.raises(ValueError, match="y beside tasks"):
        as_tasks({"a": tasks_of(2)}, [0, 1])


def test_classes_of_one_pool_are_no_domains():
    with pytest.raises(TypeError, match="Domain 0 is one class of a pool"):
        as_tasks(list(load_digits_pool()))


def test_sparse_rows_that_are_a_dict_are_no_domains():
    with pytest.raises(TypeError, match="made of a dok_array"):
        as_tasks(dok_array((2, 2)), [0, 1], groups=[0, 1])


@pytest.mark.parametrize(
    "domains", [[pool_of([0, 1]), pool_of([2, 3])], {"a": tasks_of(3)}]
)
def test_domains_are_joined_before_they_are_split(domains):
    with pytest.raises(TypeError, match=r"folds of domains or of their tasks\. Join"):
        next(TaskKFold(2).split(domains))


def test_mixtures_keep_domains(tasks):
    simulated = make_sinusoids(2, random_state=0).rows()
    flat = TaskSet.from_offsets(
        np.zeros((40, 2)), simulated.y, simulated.offsets, domains=["sim", "sim"]
    )
    drawn = MixedTasks([tasks, flat]).sample(30, random_state=0)
    assert set(drawn.domains) == {"hospital", "clinic", "sim"}
    assert (drawn.summary()["n_rows"] == 20).tolist() == (
        drawn.domains == "sim"
    ).tolist()
