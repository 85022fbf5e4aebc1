"""Splitters over tasks: equal folds in every form, scikit-learn's own as the oracle."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import (
    BaseCrossValidator,
    GridSearchCV,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklmeta.datasets import Sinusoids
from sklmeta.model_selection import LeaveOneTaskOut, TaskKFold, TaskShuffleSplit
from sklmeta.tasks import ClassPool, TaskSet

N_TASKS = 7
# Every splitter beside the one of scikit-learn that splits range(n_tasks) alike.
ORACLES = {
    "folds": (TaskKFold(3), KFold(3)),
    "shuffled folds": (
        TaskKFold(3, shuffle=True, random_state=3),
        KFold(3, shuffle=True, random_state=3),
    ),
    "random": (
        TaskShuffleSplit(4, random_state=0, test_size=2),
        ShuffleSplit(4, random_state=0, test_size=2),
    ),
    "random share": (
        TaskShuffleSplit(4, random_state=0, test_size=0.4, train_size=0.4),
        ShuffleSplit(4, random_state=0, test_size=0.4, train_size=0.4),
    ),
    "one out": (LeaveOneTaskOut(), LeaveOneOut()),
}
FAMILY_ORACLES = {
    "folds": (TaskKFold(2), StratifiedKFold(2)),
    "shuffled folds": (
        TaskKFold(2, shuffle=True, random_state=1),
        StratifiedKFold(2, shuffle=True, random_state=1),
    ),
    "random": (
        TaskShuffleSplit(4, test_size=3, random_state=1),
        StratifiedShuffleSplit(4, test_size=3, random_state=1),
    ),
    "one out": (LeaveOneTaskOut(), LeaveOneOut()),
}
FAMILIES = np.array(["u", "v", "u", "w", "v", "w", "u"])
every_splitter = pytest.mark.parametrize("name", ORACLES)


@pytest.fixture
def long_format():
    """Return rows of seven tasks in mixed order, and the tasks they make."""
    rng = np.random.default_rng(0)
    names = np.array(list("gbadfce"))
    groups = np.concatenate([names, rng.permutation(np.repeat(names, 4))])
    X = rng.normal(size=(len(groups), 2))
    return X, X.sum(axis=1), groups


@pytest.fixture
def tasks(long_format):
    return TaskSet.from_arrays(*long_format)


def folds_as_names(splits, names):
    return [(set(names[train]), set(names[test])) for train, test in splits]


def sorted_folds(splits):
    return [(sorted(train), sorted(test)) for train, test in splits]


def as_lists(splits):
    return [(train.tolist(), test.tolist()) for train, test in splits]


@every_splitter
def test_folds_are_scikit_learns_in_every_form(long_format, tasks, name):
    X, y, groups = long_format
    splitter, oracle = ORACLES[name]
    names = np.array(tasks.names)
    expected = sorted_folds(oracle.split(np.arange(N_TASKS)))
    assert as_lists(splitter.split(tasks)) == expected
    assert as_lists(splitter.split(list(tasks))) == expected
    pairs = [(task.X, task.y) for task in tasks]
    assert as_lists(splitter.split(pairs)) == expected

    by_name = [(set(names[train]), set(names[test])) for train, test in expected]
    for rows, ids in ((X, groups), (pd.DataFrame(X), pd.Series(groups))):
        assert folds_as_names(splitter.split(rows, y, ids), groups) == by_name
    if name != "one out":
        assert as_lists(splitter.split(ClassPool(X, groups))) == expected


@every_splitter
def test_folds_of_rows_hold_whole_tasks(long_format, name):
    X, y, groups = long_format
    for train, test in ORACLES[name][0].split(X, y, groups):
        assert not set(groups[train]) & set(groups[test])
        both = set(groups[train]) | set(groups[test])
        own = np.flatnonzero(np.isin(groups, list(both)))
        assert sorted([*train, *test]) == own.tolist()


@every_splitter
def test_the_tasks_of_a_fold_are_equal_in_both_forms(long_format, tasks, name):
    """Also in their order, on which what a meta-learner learns may depend."""
    X, y, groups = long_format
    splitter = ORACLES[name][0]
    folds = zip(splitter.split(tasks), splitter.split(X, y, groups), strict=True)
    for (task_train, _), (train, _) in folds:
        rows = TaskSet.from_arrays(X[train], y[train], groups[train])
        assert tasks[task_train].names == rows.names


def test_folds_partition_the_tasks(tasks):
    tested = np.concatenate([test for _, test in TaskKFold(3).split(tasks)])
    assert sorted(tested) == list(range(N_TASKS))


# Families of tasks.


@pytest.mark.parametrize("name", FAMILY_ORACLES)
def test_families_are_dealt_out_as_scikit_learn_does_classes(tasks, name):
    splitter, oracle = FAMILY_ORACLES[name]
    expected = sorted_folds(oracle.split(np.zeros(N_TASKS), FAMILIES))
    assert as_lists(splitter.split(tasks, groups=FAMILIES)) == expected
    assert as_lists(splitter.split(tasks, groups=pd.Series(FAMILIES))) == expected
    if name != "one out":
        pool = ClassPool(np.zeros((14, 1)), np.arange(14) // 2)
        assert as_lists(splitter.split(pool, groups=FAMILIES)) == expected


@pytest.mark.parametrize(
    "splitter",
    [
        TaskKFold(3, families="together"),
        TaskKFold(3, shuffle=True, random_state=0, families="together"),
        TaskShuffleSplit(5, test_size=1, random_state=0, families="together"),
        LeaveOneGroupOut(),
    ],
    ids=repr,
)
def test_families_stay_together_on_request(tasks, splitter):
    folds = list(splitter.split(tasks, groups=FAMILIES))
    assert len(folds) >= 3
    for train, test in folds:
        assert len(set(FAMILIES[test])) == 1
        assert not set(FAMILIES[train]) & set(FAMILIES[test])
        assert len(train) + len(test) == N_TASKS


def test_a_family_smaller_than_the_folds_is_warned_of(tasks):
    message = r"Family 'v' has only 2 tasks, fewer than n_splits=3: some folds have no"
    with pytest.warns(UserWarning, match=message) as caught:
        folds = list(TaskKFold(3).split(tasks, groups=FAMILIES))
    assert len(caught) == 1
    assert all((FAMILIES[test] == "u").sum() == 1 for _, test in folds)


def test_families_that_cannot_be_dealt_out_are_refused(tasks):
    message = r"n_splits=4 folds.* largest, 'u', has 3 tasks.*families='together'"
    with pytest.raises(ValueError, match=message):
        next(TaskKFold(4).split(tasks, groups=FAMILIES))
    alone = [*"uuuuvv", "w"]
    with pytest.raises(ValueError, match="Family 'w' has one task, which cannot be tr"):
        next(TaskShuffleSplit().split(tasks, groups=alone))
    with pytest.raises(ValueError, match="Cannot split 7 tasks by their families: The"):
        next(TaskShuffleSplit(test_size=1).split(tasks, groups=FAMILIES))
    with pytest.raises(ValueError, match="n_splits=4 folds of 3 families of tasks"):
        next(TaskKFold(4, families="together").split(tasks, groups=FAMILIES))


@pytest.mark.parametrize("splitter", [TaskKFold, TaskShuffleSplit])
def test_families_that_nobody_named_are_refused(tasks, splitter):
    """Instead of folds that cut them."""
    splitter = splitter(2, families="together")
    pool = ClassPool(np.zeros((14, 1)), np.arange(14) // 2)
    for X, what in ((tasks, "tasks"), (list(tasks), "tasks"), (pool, "classes")):
        with pytest.raises(ValueError, match=f"family label for each of the {what}"):
            next(splitter.split(X))
    rows = tasks.rows()
    with pytest.raises(ValueError, match="with rows as X groups are the task of each"):
        next(splitter.split(rows.X, groups=np.arange(len(rows.y)) % 4))


# Refusals.


@every_splitter
@pytest.mark.parametrize("rows", [np.zeros((6, 2)), [[0.0, 1.0]] * 6])
def test_long_format_needs_groups(name, rows):
    message = r"needs groups.*enable_metadata_routing=True.*TaskSet or a ClassPool"
    with pytest.raises(ValueError, match=message):
        next(ORACLES[name][0].split(rows, np.zeros(6)))


@every_splitter
def test_groups_of_the_wrong_length(long_format, tasks, name):
    splitter = ORACLES[name][0]
    message = r"groups has shape \(35,\), expected \(7,\).*one for each task"
    with pytest.raises(ValueError, match=message):
        next(splitter.split(tasks, groups=long_format[2]))
    with pytest.raises(ValueError, match=r"shape \(7,\), expected \(35,\): one per ro"):
        next(splitter.split(*long_format[:2], groups=FAMILIES))


@every_splitter
def test_a_distribution_has_nothing_to_split(name):
    with pytest.raises(TypeError, match=r"A Sinusoids draws fresh .* X\.sample\("):
        next(ORACLES[name][0].split(Sinusoids()))


def test_more_folds_than_tasks(long_format, tasks):
    X, y, groups = long_format
    for form in ((tasks,), (X, y, groups)):
        with pytest.raises(ValueError, match="n_splits=8 folds of 7 tasks; lower n_sp"):
            next(TaskKFold(8).split(*form))
        with pytest.raises(ValueError, match="Cannot split 7 tasks: test_size=7 shou"):
            next(TaskShuffleSplit(test_size=7).split(*form))
    assert len(list(TaskKFold(7).split(X, y, groups))) == N_TASKS
    with pytest.raises(ValueError, match="Cannot leave one task out of 1; give at lea"):
        next(LeaveOneTaskOut().split(tasks[:1]))


@pytest.mark.parametrize(
    "splitter",
    [LeaveOneTaskOut(), TaskKFold(4), TaskShuffleSplit(test_size=1)],
    ids=repr,
)
def test_a_class_alone_in_a_fold_is_refused(long_format, splitter):
    pool = ClassPool(long_format[0], long_format[2])
    message = r"puts one of 7 classes alone into a fold.*TaskKFold with fewer folds"
    with pytest.raises(ValueError, match=message):
        list(splitter.split(pool))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (TaskKFold, {"n_splits": 1}, "k-fold cross-validation requires at least one"),
        (TaskKFold, {"n_splits": 2.5}, "The number of folds must be of Integral type"),
        (TaskKFold, {"random_state": 0}, "random_state has no effect"),
        (TaskKFold, {"shuffle": "yes"}, "shuffle must be True or False"),
        (TaskKFold, {"families": None}, r"families must be one of \['stratify', 'tog"),
        (TaskShuffleSplit, {"n_splits": 0}, "n_splits == 0, must be >= 1"),
        (TaskShuffleSplit, {"n_splits": 2.5}, "n_splits must be an instance of"),
        (TaskShuffleSplit, {"families": "x"}, "families must be one of .*got 'x'"),
    ],
)
def test_bad_settings(kind, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        kind(**settings)


# What scikit-learn asks of splitters.


@pytest.mark.parametrize(
    ("splitter", "n_splits", "text"),
    [
        (
            TaskKFold(4, shuffle=True, random_state=0),
            4,
            "TaskKFold(families='stratify', n_splits=4, random_state=0, shuffle=True)",
        ),
        (
            TaskShuffleSplit(test_size=0.2, random_state=0),
            10,
            "TaskShuffleSplit(families='stratify', n_splits=10, random_state=0, "
            "test_size=0.2, train_size=None)",
        ),
        (LeaveOneTaskOut(), 7, "LeaveOneTaskOut()"),
    ],
)
def test_is_a_splitter(long_format, splitter, n_splits, text):
    assert isinstance(splitter, BaseCrossValidator)
    assert splitter.get_n_splits(*long_format) == n_splits
    assert " ".join(repr(splitter).split()) == text
    assert splitter.get_metadata_routing().split.requests == {"groups": True}
    again = pickle.loads(pickle.dumps(splitter))
    assert repr(again) == repr(splitter)
    assert as_lists(again.split(*long_format)) == as_lists(splitter.split(*long_format))


def test_the_number_of_left_out_tasks_comes_from_the_tasks(long_format, tasks):
    splitter = LeaveOneTaskOut()
    assert splitter.get_n_splits(tasks) == N_TASKS
    assert splitter.get_n_splits(groups=long_format[2]) == N_TASKS
    with pytest.raises(ValueError, match=r"number of tasks, so X .* must be given"):
        splitter.get_n_splits()


@pytest.mark.parametrize("kind", [TaskKFold, TaskShuffleSplit])
def test_random_state_gives_the_same_folds_each_time(tasks, kind):
    settings = {"shuffle": True} if kind is TaskKFold else {}
    splitter = kind(3, random_state=1, **settings)
    first = as_lists(splitter.split(tasks))
    assert as_lists(splitter.split(tasks)) == first
    assert as_lists(kind(3, random_state=2, **settings).split(tasks)) != first
    moving = kind(3, random_state=np.random.RandomState(1), **settings)
    assert as_lists(moving.split(tasks)) == first
    assert as_lists(moving.split(tasks)) != first


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


@every_splitter
@pytest.mark.parametrize("routing", [False, True])
def test_searches_over_tasks(spy, long_format, tasks, routing, name):
    splitter, oracle = ORACLES[name]
    sizes = [len(test) for _, test in oracle.split(np.arange(N_TASKS))]
    forms = [tasks, list(tasks), ClassPool(long_format[0], long_format[2])]
    with sklearn.config_context(enable_metadata_routing=routing):
        for form in forms[: 2 if name == "one out" else 3]:
            Spy.seen = ()
            scores = cross_val_score(spy, form, cv=splitter, error_score="raise")
            assert scores.tolist() == sizes
            assert all(type(seen) is type(form) for seen, _ in Spy.seen)
        search = GridSearchCV(
            spy, {"flavour": [0, 1]}, cv=splitter, error_score="raise"
        ).fit(tasks)
    assert search.best_estimator_.fitted_
    assert search.n_splits_ == len(sizes)
    assert repr(clone(search).cv) == repr(splitter)


@every_splitter
def test_searches_over_long_format_with_routing(spy, long_format, name):
    X, y, groups = long_format
    splitter, oracle = ORACLES[name]
    names = np.array(list(dict.fromkeys(groups)))
    expected = [set(names[train]) for train, _ in oracle.split(names)]
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), spy),
            {"spy__flavour": [0]},
            cv=splitter,
            error_score="raise",
        ).fit(X, y, groups=groups)
        *folds, (_, last) = Spy.seen  # the last fit is the refit on all rows
        Spy.seen = ()
        cross_validate(
            spy, X, y, params={"groups": groups}, cv=splitter, error_score="raise"
        )
    assert search.n_splits_ == len(expected)
    assert np.array_equal(last, groups)
    for seen in (folds, Spy.seen):
        assert [set(train) for _, train in seen] == expected


def test_searches_hand_on_family_labels(spy, tasks):
    expected = [
        FAMILIES[train].tolist()
        for train, _ in StratifiedKFold(2).split(FAMILIES, FAMILIES)
    ]
    with sklearn.config_context(enable_metadata_routing=True):
        cross_validate(
            spy,
            tasks,
            params={"groups": FAMILIES},
            cv=TaskKFold(2),
            error_score="raise",
        )
    assert [groups.tolist() for _, groups in Spy.seen] == expected
