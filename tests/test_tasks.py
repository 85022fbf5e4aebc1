"""as_tasks: every form of tasks, and what it refuses; scikit-learn's own slicing."""

from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_score,
    train_test_split,
)

from sklmeta.datasets import Sinusoids
from sklmeta.model_selection import TaskKFold
from sklmeta.tasks import (
    ClassPool,
    Task,
    TaskDistribution,
    TaskSet,
    ValidationTasks,
    as_tasks,
)

X = np.arange(12.0).reshape(6, 2)
Y = np.arange(6)
GROUPS = ["b", "a", "b", "a", "a", "b"]
TASKS = TaskSet.from_arrays(X, Y, GROUPS)


class Noise:
    """A distribution of tasks that inherits nothing."""

    def sample(self, n_tasks, random_state=None):
        rng = np.random.default_rng(random_state)
        return TaskSet([(rng.normal(size=(4, 1)), np.zeros(4)) for _ in range(n_tasks)])


def array_of(items):
    """Return a one-dimensional object array, as numpy makes of tasks."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


@pytest.mark.parametrize("made", [TASKS, ClassPool(X, Y), Noise()])
def test_forms_of_the_library_pass_unchanged(made):
    assert as_tasks(made) is made


@pytest.mark.parametrize(
    "form",
    [
        list(TASKS),
        tuple(TASKS),
        [(task.X, task.y) for task in TASKS],
        [Task(task.X.tolist(), task.y.tolist()) for task in TASKS],
        array_of(list(TASKS)),
        [TASKS[0], (TASKS[1].X, TASKS[1].y)],
        ValidationTasks(list(TASKS)),
    ],
    ids=["tasks", "tuple", "pairs", "lists", "object array", "both", "validation"],
)
def test_collections_of_tasks(form):
    made = as_tasks(form)
    assert type(made) is TaskSet
    assert np.array_equal(made.rows().X, TASKS.rows().X)
    assert made.rows().y.tolist() == [0, 2, 5, 1, 3, 4]
    assert made.rows().offsets.tolist() == [0, 3, 6]


@pytest.mark.parametrize(
    "rows",
    [X, X.tolist(), [tuple(row) for row in X], pd.DataFrame(X), torch.from_numpy(X)],
    ids=["array", "lists", "tuples", "frame", "tensor"],
)
@pytest.mark.parametrize("y", [Y, Y.tolist(), pd.Series(Y), torch.from_numpy(Y)])
def test_long_format(rows, y):
    made = as_tasks(rows, y, GROUPS)
    assert made.names == ("b", "a")
    assert made.labels == "shared"
    assert np.array_equal(np.asarray(made[1].X), X[[1, 3, 4]])
    assert made[1].y.tolist() == [1, 3, 4]


@pytest.mark.parametrize("rows", [X, X.tolist(), pd.DataFrame(X), torch.from_numpy(X)])
@pytest.mark.parametrize("y", [Y, None])
def test_no_guess_without_groups(rows, y):
    with pytest.raises(ValueError, match="do not say which rows") as error:
        as_tasks(rows, y)
    for remedy in ("ClassPool(X, y)", "groups=", "enable_metadata_routing=True"):
        assert remedy in str(error.value)


def test_long_format_needs_y():
    with pytest.raises(ValueError, match="Got groups but no y"):
        as_tasks(X, groups=GROUPS)


def test_family_labels_beside_tasks_are_ignored():
    for form in (TASKS, list(TASKS), ClassPool(X, [0, 0, 0, 1, 1, 1])):
        assert len(as_tasks(form, groups=["family 1", "family 2"])) == 2
        with pytest.raises(ValueError, match="groups has length 6 beside 2 tasks"):
            as_tasks(form, groups=GROUPS)


@pytest.mark.parametrize("form", [TASKS, list(TASKS), ClassPool(X, Y), Noise()])
def test_y_beside_tasks_is_refused(form):
    with pytest.raises(ValueError, match="Got y beside tasks"):
        as_tasks(form, [0, 1])


def test_groups_beside_a_distribution_are_refused():
    with pytest.raises(ValueError, match="Got groups beside a Noise"):
        as_tasks(Noise(), groups=[1, 2])


@pytest.mark.parametrize("form", [[], (), TASKS[:0], ClassPool(X, Y)[:0]])
def test_nothing_is_refused(form):
    with pytest.raises(ValueError, match="no tasks"):
        as_tasks(form)


def test_long_format_without_rows_is_refused():
    with pytest.raises(ValueError, match="no tasks"):
        as_tasks(X[:0], Y[:0], [])


@pytest.mark.parametrize("form", [None, 3, "tasks", Noise])
def test_anything_else_is_refused(form):
    with pytest.raises(TypeError, match=f"made of a {type(form).__name__}"):
        as_tasks(form)


def test_one_task_is_refused():
    with pytest.raises(TypeError, match=r"\[task\].*adapt\(task.X, task.y\)"):
        as_tasks(TASKS[0])


def cross_validated(X):
    return cross_val_score(DummyRegressor(), X, scoring=lambda *_: 0.0, cv=2)


@pytest.mark.parametrize("cut", [KFold(2).split, TaskKFold(2).split, cross_validated])
def test_splitting_a_distribution_is_refused_by_us(cut):
    with pytest.raises(TypeError, match=r"Sinusoids draws fresh tasks.*X\.sample\("):
        list(cut(Sinusoids()))


def test_distributions_are_known_by_their_method():
    class Inheriting(TaskDistribution):
        def sample(self, n_tasks, random_state=None):
            return Noise().sample(n_tasks, random_state)

    assert isinstance(Noise(), TaskDistribution)
    assert isinstance(Inheriting(), TaskDistribution)
    assert issubclass(Noise, TaskDistribution)
    # Data frames sample rows, sets of tasks do not sample at all.
    for other in (pd.DataFrame(X), pd.Series(Y), TASKS, ClassPool(X, Y), X):
        assert not isinstance(other, TaskDistribution)
    with pytest.raises(TypeError, match="abstract"):
        TaskDistribution()


def test_validation_tasks():
    wrapped = ValidationTasks(list(TASKS))
    assert type(wrapped.tasks) is TaskSet
    assert ValidationTasks(wrapped).tasks is wrapped.tasks
    assert not any(hasattr(wrapped, name) for name in ("__len__", "shape", "__array__"))
    with pytest.raises(FrozenInstanceError):
        wrapped.tasks = TASKS
    with pytest.raises(ValueError, match="no tasks"):
        ValidationTasks([])


# scikit-learn's searches slice what they are given: it must stay what it is.


class Spy(BaseEstimator):
    """Records what scikit-learn hands to fit and score."""

    seen = ()

    def __init__(self, flavour=0):
        self.flavour = flavour

    def fit(self, X, y=None, validation_tasks=None):
        self.fitted_ = True
        Spy.seen = (*Spy.seen, (X, validation_tasks))
        return self

    def score(self, X, y=None):
        Spy.seen = (*Spy.seen, (X, None))
        return float(len(X))


@pytest.fixture
def spy():
    Spy.seen = ()
    yield Spy()
    Spy.seen = ()


def many(n_tasks=7):
    rng = np.random.default_rng(0)
    return TaskSet(
        [(rng.normal(size=(n, 2)), np.zeros(n)) for n in range(2, 2 + n_tasks)]
    )


@pytest.mark.parametrize("make", [many, lambda: ClassPool(np.eye(7), np.arange(7))])
def test_cross_val_score_keeps_the_type(spy, make):
    tasks = make()
    scores = cross_val_score(spy, tasks, cv=KFold(3), error_score="raise")
    assert scores.tolist() == [3.0, 2.0, 2.0]
    assert all(type(seen) is type(tasks) for seen, _ in Spy.seen)
    assert [len(seen) for seen, _ in Spy.seen] == [4, 3, 5, 2, 5, 2]


def test_grid_search_keeps_names_and_validation_tasks(spy):
    # As many held-out tasks as tasks: bare, they would be cut like them.
    tasks, held_out = many(), ValidationTasks(many())
    search = GridSearchCV(spy, {"flavour": [0, 1]}, cv=KFold(2), error_score="raise")
    search.fit(tasks, validation_tasks=held_out)
    assert search.best_estimator_.fitted_
    fitted = [(seen, val) for seen, val in Spy.seen if val is not None]
    assert [seen.names for seen, _ in fitted] == [
        *[(4, 5, 6), (0, 1, 2, 3)] * 2,
        tuple(range(7)),
    ]
    assert all(val is held_out for _, val in fitted)


def test_train_test_split_keeps_the_type():
    train, test = train_test_split(many(), test_size=2, random_state=0)
    assert (type(train), type(test)) == (TaskSet, TaskSet)
    assert sorted(train.names + test.names) == list(range(7))


@pytest.mark.skipif(
    sklearn.__version__.startswith("1.6."),
    reason="scikit-learn 1.6 refuses all but arrays under array_api_dispatch",
)
@pytest.mark.parametrize("make", [many, lambda: ClassPool(np.eye(7), np.arange(7))])
def test_folds_stay_tasks_under_array_api_dispatch(spy, monkeypatch, make):
    # scikit-learn looks for scipy's switch when the option is set; indexing tasks
    # needs nothing of scipy.
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    tasks = make()
    with sklearn.config_context(array_api_dispatch=True):
        cross_val_score(spy, tasks, cv=KFold(3), error_score="raise")
    assert [len(seen) for seen, _ in Spy.seen] == [4, 3, 5, 2, 5, 2]
    assert all(type(seen) is type(tasks) for seen, _ in Spy.seen)
