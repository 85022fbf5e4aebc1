"""TaskKFold: the same folds of tasks in every form, through scikit-learn's routing."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import (
    BaseCrossValidator,
    GridSearchCV,
    KFold,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklmeta.datasets import Sinusoids
from sklmeta.model_selection import TaskKFold
from sklmeta.tasks import ClassPool, TaskSet

N_TASKS = 7


@pytest.fixture
def long_format():
    """Return rows of seven tasks in mixed order, and the tasks they make."""
    rng = np.random.default_rng(0)
    names = np.array(list("gbadfce"))
    groups = np.concatenate([names, rng.permutation(np.repeat(names, 4))])
    X = rng.normal(size=(len(groups), 2))
    return X, X.sum(axis=1), groups


def folds_as_names(splits, names):
    return [(set(names[train]), set(names[test])) for train, test in splits]


@pytest.mark.parametrize("settings", [{}, {"shuffle": True, "random_state": 3}])
def test_folds_are_equal_in_every_form(long_format, settings):
    X, y, groups = long_format
    splitter = TaskKFold(3, **settings)
    tasks = TaskSet.from_arrays(X, y, groups)
    names = np.array(tasks.names)
    expected = folds_as_names(KFold(3, **settings).split(names), names)

    assert folds_as_names(splitter.split(tasks), names) == expected
    assert folds_as_names(splitter.split(list(tasks)), names) == expected
    pairs = [(task.X, task.y) for task in tasks]
    assert folds_as_names(splitter.split(pairs), names) == expected
    pool = ClassPool(X, groups)
    assert folds_as_names(splitter.split(pool), pool.classes) == expected
    for rows, ids in ((X, groups), (pd.DataFrame(X), pd.Series(groups))):
        assert folds_as_names(splitter.split(rows, y, ids), groups) == expected


def test_folds_of_rows_are_a_partition(long_format):
    X, y, groups = long_format
    tested = []
    for train, test in TaskKFold(3).split(X, y, groups):
        assert not set(groups[train]) & set(groups[test])
        assert sorted([*train, *test]) == list(range(len(X)))
        tested += test.tolist()
    assert sorted(tested) == list(range(len(X)))


def test_families_of_tasks_stay_together(long_format):
    tasks = TaskSet.from_arrays(*long_format)
    families = np.array(["u", "v", "u", "w", "v", "w", "u"])
    for train, test in TaskKFold(3).split(tasks, groups=families):
        assert not set(families[train]) & set(families[test])


@pytest.mark.parametrize("rows", [np.zeros((6, 2)), [[0.0, 1.0]] * 6])
def test_long_format_needs_groups(rows):
    message = r"needs groups.*enable_metadata_routing=True.*TaskSet or a ClassPool"
    with pytest.raises(ValueError, match=message):
        next(TaskKFold(2).split(rows, np.zeros(6)))


def test_groups_of_the_wrong_length(long_format):
    tasks = TaskSet.from_arrays(*long_format)
    with pytest.raises(ValueError, match=r"groups has shape \(35,\), expected \(7,\)"):
        next(TaskKFold(2).split(tasks, groups=long_format[2]))


def test_a_distribution_has_nothing_to_split():
    with pytest.raises(TypeError, match=r"A Sinusoids draws fresh .* X\.sample\("):
        next(TaskKFold(2).split(Sinusoids()))


def test_more_folds_than_tasks(long_format):
    X, y, groups = long_format
    for form in ((TaskSet.from_arrays(X, y, groups),), (X, y, groups)):
        with pytest.raises(ValueError, match="n_splits=8 folds of 7 tasks"):
            next(TaskKFold(8).split(*form))
    assert len(list(TaskKFold(7).split(X, y, groups))) == N_TASKS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_splits": 1}, "k-fold cross-validation requires at least one"),
        ({"n_splits": 2.5}, "The number of folds must be of Integral type"),
        ({"random_state": 0}, "random_state has no effect"),
        ({"shuffle": "yes"}, "shuffle must be True or False"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        TaskKFold(**settings)


def test_is_a_splitter():
    splitter = TaskKFold(4, shuffle=True, random_state=0)
    assert isinstance(splitter, BaseCrossValidator)
    assert splitter.get_n_splits() == 4
    assert repr(splitter) == "TaskKFold(n_splits=4, random_state=0, shuffle=True)"
    request = splitter.get_metadata_routing().split.requests
    assert request == {"groups": True}


def test_random_state_gives_the_same_folds_each_time(long_format):
    tasks = TaskSet.from_arrays(*long_format)
    splitter = TaskKFold(3, shuffle=True, random_state=1)
    first, again = (list(splitter.split(tasks)) for _ in range(2))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    other = TaskKFold(3, shuffle=True, random_state=2).split(tasks)
    assert any(
        not np.array_equal(a[1], b[1]) for a, b in zip(first, other, strict=True)
    )


class Spy(BaseEstimator):
    """Records what fit gets, and asks for groups as meta-learners do."""

    __metadata_request__fit = {"groups": True}  # noqa: RUF012
    __metadata_request__score = {"groups": True, "sample_weight": True}  # noqa: RUF012
    seen = ()

    def __init__(self, flavour=0):
        self.flavour = flavour

    def fit(self, X, y=None, groups=None):
        self.fitted_ = True
        Spy.seen = (*Spy.seen, (X, groups))
        return self

    def score(self, X, y=None, sample_weight=None, groups=None):
        return float(len(X))


@pytest.fixture
def spy():
    Spy.seen = ()
    yield Spy()
    Spy.seen = ()


@pytest.mark.parametrize("routing", [False, True])
def test_searches_over_tasks(spy, long_format, routing):
    tasks = TaskSet.from_arrays(*long_format)
    pool = ClassPool(long_format[0], long_format[2])
    with sklearn.config_context(enable_metadata_routing=routing):
        for form in (tasks, pool):
            Spy.seen = ()
            scores = cross_val_score(spy, form, cv=TaskKFold(3), error_score="raise")
            assert scores.tolist() == [3.0, 2.0, 2.0]
            assert all(type(seen) is type(form) for seen, _ in Spy.seen)
        search = GridSearchCV(
            spy, {"flavour": [0, 1]}, cv=TaskKFold(3), error_score="raise"
        ).fit(tasks)
    assert search.best_estimator_.fitted_
    assert clone(search).cv.n_splits == 3


def test_search_over_long_format_with_routing(spy, long_format):
    X, y, groups = long_format
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), spy),
            {"spy__flavour": [0]},
            cv=TaskKFold(3),
            error_score="raise",
        ).fit(X, y, groups=groups)
    assert search.n_splits_ == 3
    *folds, (_, last) = Spy.seen  # the last fit is the refit on all rows
    assert np.array_equal(last, groups)
    names = np.array(list(dict.fromkeys(groups)))
    expected = [set(names[train]) for train, _ in KFold(3).split(names)]
    assert [set(train) for _, train in folds] == expected
