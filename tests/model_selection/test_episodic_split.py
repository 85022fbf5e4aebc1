"""EpisodicSplit: the episodes of a ClassPool or TaskSet, as splits of plain rows."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import (
    BaseCrossValidator,
    GridSearchCV,
    cross_val_score,
    cross_validate,
)
from sklearn.neighbors import KNeighborsClassifier

from sklmeta import FewShotClassifier, ProtoNetClassifier, SmallTaskWarning
from sklmeta._episodes import scoring_parts
from sklmeta.datasets import Sinusoids, load_digits_pool, make_sinusoids
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec, RowPool
from sklmeta.model_selection import EpisodicSplit, evaluate
from sklmeta.tasks import ClassPool, TaskSet


@pytest.fixture(scope="module")
def digits():
    """Return 400 digits as flat rows in mixed order, and their labels as words."""
    X, y = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(y))[:400]
    return X[chosen] / 16, np.array([f"digit {label}" for label in y[chosen]])


@pytest.fixture
def long_format():
    """Return rows of four tasks in mixed order: X, numbers, labels, tasks."""
    rng = np.random.default_rng(1)
    groups = rng.permutation(np.repeat(["d", "a", "c", "b"], [30, 40, 50, 60]))
    X = rng.normal(size=(len(groups), 2))
    return X, X.sum(axis=1), rng.integers(3, size=len(groups)), groups


def as_lists(splits):
    return [(train.tolist(), test.tolist()) for train, test in splits]


def as_sets(splits):
    return {(frozenset(train), frozenset(test)) for train, test in splits}


# Labels without groups: one data set of many classes.


@pytest.mark.parametrize(("n_way", "ways"), [(None, 5), (2, 2), (10, 10)])
def test_episodes_hold_the_rows_asked_for_of_each_class(digits, n_way, ways):
    X, y = digits
    splitter = EpisodicSplit(n_way, n_shot=2, n_query=3, n_episodes=60, random_state=0)
    splits = list(splitter.split(X, y))
    assert len(splits) == 60
    for train, test in splits:
        assert len({*train, *test}) == len(train) + len(test)
        classes, counts = np.unique(y[train], return_counts=True)
        assert counts.tolist() == [2] * ways
        tested, counts = np.unique(y[test], return_counts=True)
        assert counts.tolist() == [3] * ways
        assert tested.tolist() == classes.tolist()
    assert set(np.concatenate([y[train] for train, _ in splits])) == set(y)


def test_all_other_rows_of_the_classes_are_query(digits):
    X, y = digits
    for train, test in EpisodicSplit(3, n_query=None, n_episodes=5).split(X, y):
        own = np.flatnonzero(np.isin(y, y[train]))
        assert sorted([*train, *test]) == own.tolist()
        assert len(train) == 3


def test_ranges_are_drawn_by_each_episode(digits):
    splitter = EpisodicSplit((2, 4), n_shot=(1, 3), n_query=2, n_episodes=60)
    ways, shots = zip(
        *[
            (len(set(digits[1][train])), len(train) // len(set(digits[1][train])))
            for train, _ in splitter.split(*digits)
        ],
        strict=True,
    )
    assert set(ways) == {2, 3, 4}
    assert set(shots) == {1, 2, 3}


@pytest.mark.parametrize("sorted_rows", [False, True])
def test_sees_the_episodes_that_scoring_a_class_pool_draws(digits, sorted_rows):
    pool = ClassPool(*digits)
    X, y = (pool.X, pool.y) if sorted_rows else digits
    rows = pool.rows()
    spec = EpisodeSpec(n_shot=2, n_query=4, n_way=3, per_class=True)
    sampler = EpisodeSampler(
        RowPool.from_classes(rows.X, rows.offsets, pool.classes), spec
    )
    expected = {
        (rows.X[support].tobytes(), rows.X[query].tobytes())
        for index in scoring_parts(sampler, 7)
        for support, query in zip(index.support, index.query, strict=True)
    }
    splitter = EpisodicSplit(3, n_shot=2, n_query=4, random_state=7)
    found = {
        (X[train].tobytes(), X[test].tobytes()) for train, test in splitter.split(X, y)
    }
    assert len(found) == 200
    assert found == expected


class Recorder(ClassifierMixin, BaseEstimator):
    """Fits an estimator, and records the rows that it is trained and tested on."""

    seen = ()

    def __init__(self, estimator=None):
        self.estimator = estimator

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.estimator_ = clone(self.estimator).fit(X, y)
        Recorder.seen = (*Recorder.seen, (X.tobytes(), y.tolist()))
        return self

    def predict(self, X):
        Recorder.seen = (*Recorder.seen, X.tobytes())
        return self.estimator_.predict(X)


@pytest.fixture
def recorder():
    Recorder.seen = ()
    yield Recorder
    Recorder.seen = ()


@pytest.fixture(scope="module")
def protonet():
    """Return a prototypical network meta-trained for a moment on five digits."""
    meta = ProtoNetClassifier(
        n_shot=1,
        n_way=3,
        image_shape=(8, 8),
        max_iter=3,
        batch_size=2,
        random_state=0,
    )
    pool = load_digits_pool(classes=range(5))
    return meta.fit(ClassPool(pool.X.reshape(len(pool.X), -1), pool.y))


def test_any_classifier_sees_the_same_episodes(digits, protonet, recorder):
    splitter = EpisodicSplit(
        n_way=5, n_shot=1, n_query=15, n_episodes=20, random_state=0
    )
    seen = []
    for estimator in (LogisticRegression(), FewShotClassifier(protonet)):
        recorder.seen = ()
        scores = cross_val_score(
            recorder(estimator), *digits, cv=splitter, error_score="raise"
        )
        assert scores.mean() > 0.3
        seen.append(recorder.seen)
    assert len(seen[0]) == 40
    assert seen[0] == seen[1]


def test_scores_are_those_of_a_class_pool(protonet):
    """Row by row through scikit-learn, or batched by the meta-learner itself."""
    pool = load_digits_pool(classes=range(5, 10))
    X, y = pool.X.reshape(len(pool.X), -1), pool.y
    few = np.flatnonzero(np.arange(len(y)) % 12 == 0)
    splitter = EpisodicSplit(3, n_query=None, random_state=0)
    scores = cross_val_score(
        FewShotClassifier(protonet), X[few], y[few], cv=splitter, error_score="raise"
    )
    assert len(scores) == 200
    expected = protonet.score(ClassPool(X[few], y[few]))
    assert scores.mean() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n_query", [3, None])
def test_scores_are_those_of_evaluate(protonet, n_query):
    """Episode by episode."""
    pool = load_digits_pool(classes=range(5, 10))[::-1]
    X, y = pool.X.reshape(len(pool.X), -1), pool.y
    settings = {"n_shot": 2, "n_way": 3, "n_query": n_query, "n_episodes": 10}
    scores = cross_val_score(
        FewShotClassifier(protonet),
        X,
        y,
        cv=EpisodicSplit(random_state=3, **settings),
        error_score="raise",
    )
    judged = evaluate(protonet, ClassPool(X, y), random_state=3, **settings)
    np.testing.assert_allclose(scores, judged.scores["score"], atol=1e-6)


# With groups: episodes inside tasks.


def test_episodes_stay_inside_tasks_which_come_equally_often(long_format):
    X, _, y, groups = long_format
    splitter = EpisodicSplit(n_shot=2, n_query=4, n_episodes=10, random_state=0)
    names = []
    for train, test in splitter.split(X, y, groups):
        assert len({*train, *test}) == len(train) + len(test)
        assert len({*groups[train], *groups[test]}) == 1
        assert np.bincount(y[train]).tolist() == [2, 2, 2]
        assert np.bincount(y[test]).tolist() == [4, 4, 4]
        names.append(groups[train[0]])
    for first in (0, 4):
        assert sorted(names[first : first + 4]) == ["a", "b", "c", "d"]
    assert len(set(names[8:])) == 2
    assert len(as_sets(splitter.split(X, y, groups))) == 10


def test_an_incomplete_round_takes_random_tasks(long_format):
    X, _, y, groups = long_format
    firsts = {
        groups[next(EpisodicSplit(random_state=seed).split(X, y, groups))[0][0]]
        for seed in range(20)
    }
    assert firsts == {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("kind", "labels", "per_class"),
    [
        ("labels", "local", True),
        ("labels", "shared", False),
        ("numbers", "local", False),
        ("whole numbers", "shared", False),
    ],
)
def test_sees_the_episodes_that_scoring_a_task_set_draws(
    long_format, kind, labels, per_class
):
    X, numbers, classes, groups = long_format
    y = {"labels": classes, "numbers": numbers, "whole numbers": np.round(numbers)}
    tasks = TaskSet.from_arrays(X, y[kind], groups)
    rows = tasks.rows()
    codes = np.concatenate([pd.factorize(task.y)[0] for task in tasks])
    sampler = EpisodeSampler(
        RowPool.from_tasks(rows.X, codes, rows.offsets, tasks.names),
        EpisodeSpec(n_shot=3, per_class=per_class),
    )
    expected = {
        (frozenset(map(tuple, rows.X[support[real]])), int(asked.sum()))
        for index in scoring_parts(sampler, 5)
        for support, real, asked in zip(
            index.support, index.support_mask, index.query_mask, strict=True
        )
    }
    splitter = EpisodicSplit(
        n_shot=3, n_query=None, n_episodes=4, labels=labels, random_state=5
    )
    found = {
        (frozenset(map(tuple, X[train])), len(test))
        for train, test in splitter.split(X, y[kind], groups)
    }
    assert len(found) == 4
    assert found == expected


def test_names_of_tasks_and_order_of_others_do_not_matter(long_format):
    """An episode depends on its own task alone."""
    X, y, _, groups = long_format
    splitter = EpisodicSplit(n_shot=3, n_episodes=4, random_state=0)
    everything = as_sets(splitter.split(X, y, groups))
    own = np.flatnonzero(np.isin(groups, ["a", "b"]))
    half = EpisodicSplit(n_shot=3, n_episodes=2, random_state=0)
    found = as_sets(
        (own[train], own[test])
        for train, test in half.split(X[own], y[own], groups[own])
    )
    assert len(found) == 2
    assert found < everything


def test_numbers_without_groups_are_one_task(long_format):
    X, y, _, _ = long_format
    splits = list(EpisodicSplit(n_shot=10, n_episodes=7).split(X, y))
    assert [(len(train), len(test)) for train, test in splits] == [(10, 15)] * 7
    assert len(as_sets(splits)) == 7
    two_outputs = np.stack([y, -y], axis=1)
    assert len(list(EpisodicSplit(n_episodes=7).split(X, two_outputs))) == 7


def test_the_first_rows_can_be_support(long_format):
    X, y, _, groups = long_format
    splitter = EpisodicSplit(
        n_shot=5, n_query=None, n_episodes=4, support_order="first"
    )
    for train, test in splitter.split(X, y, groups):
        own = np.flatnonzero(groups == groups[train[0]])
        assert train.tolist() == own[:5].tolist()
        assert sorted(test) == own[5:].tolist()


def test_small_classes_and_tasks_on_request(long_format):
    X, numbers, _, groups = long_format
    y = np.repeat(["many", "some", "few"], [100, 77, 3])
    settings = {"n_shot": 5, "n_query": 1, "n_episodes": 20, "random_state": 0}
    with pytest.warns(SmallTaskWarning, match="1 of 3 classes have fewer than 6 rows"):
        dropped = list(EpisodicSplit(small_tasks="drop", **settings).split(X, y))
    assert all(set(y[train]) == {"many", "some"} for train, _ in dropped)
    with pytest.warns(SmallTaskWarning):
        shrunk = list(EpisodicSplit(small_tasks="shrink", **settings).split(X, y))
    assert {(y[train] == "few").sum() for train, _ in shrunk} == {2}

    settings["n_shot"] = 45
    with pytest.warns(SmallTaskWarning, match="2 of 4 tasks have fewer than 46 rows"):
        dropped = list(
            EpisodicSplit(small_tasks="drop", **settings).split(X, numbers, groups)
        )
    assert len(dropped) == 20
    names = [groups[train[0]] for train, _ in dropped]
    assert (names.count("c"), names.count("b")) == (10, 10)


# What scikit-learn asks of splitters.


def test_random_state_is_scikit_learns(digits):
    def episodes(random_state):
        return EpisodicSplit(n_episodes=3, random_state=random_state)

    fixed = episodes(0)
    first = as_lists(fixed.split(*digits))
    assert as_lists(fixed.split(*digits)) == first
    assert as_lists(episodes(np.int64(0)).split(*digits)) == first
    assert as_lists(episodes(1).split(*digits)) != first

    moving, again = episodes(np.random.RandomState(0)), np.random.RandomState(0)
    first = as_lists(moving.split(*digits))
    assert as_lists(moving.split(*digits)) != first
    assert as_lists(episodes(again).split(*digits)) == first
    fresh = episodes(None)
    assert as_lists(fresh.split(*digits)) != as_lists(fresh.split(*digits))


def test_drawing_leaves_the_global_generators_alone(digits):
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    list(EpisodicSplit(n_episodes=3, random_state=0).split(*digits))
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_is_a_splitter(digits):
    splitter = EpisodicSplit(3, n_shot=2, n_episodes=6, random_state=0)
    assert isinstance(splitter, BaseCrossValidator)
    assert splitter.get_n_splits() == splitter.get_n_splits(*digits) == 6
    assert " ".join(repr(splitter).split()) == (
        "EpisodicSplit(labels='local', n_episodes=6, n_query=15, n_shot=2, n_way=3, "
        "random_state=0, small_tasks='raise', support_order='random')"
    )
    assert splitter.get_metadata_routing().split.requests == {"groups": True}
    again = pickle.loads(pickle.dumps(splitter))
    assert as_lists(again.split(*digits)) == as_lists(splitter.split(*digits))
    assert repr(clone(splitter, safe=False)) == repr(splitter)


def test_containers_make_no_difference(digits):
    X, y = digits
    splitter = EpisodicSplit(n_episodes=3, random_state=0)
    expected = as_lists(splitter.split(X, y))
    frame = pd.DataFrame(X, index=np.arange(len(y))[::-1])
    for rows, labels in (
        (frame, pd.Series(y, index=frame.index)),
        (frame, pd.Categorical(y)),
        (X.tolist(), y.tolist()),
        (torch.from_numpy(X), y.astype(object)),
        (np.zeros(len(y)), y[:, None]),
    ):
        assert as_lists(splitter.split(rows, labels)) == expected


@pytest.mark.parametrize("routing", [False, True])
def test_works_inside_scikit_learns_tools(long_format, routing):
    X, numbers, classes, groups = long_format
    splitter = EpisodicSplit(n_shot=4, n_episodes=8, random_state=0)
    with sklearn.config_context(enable_metadata_routing=routing):
        given = {"params": {"groups": groups}} if routing else {"groups": groups}
        for estimator, y in (
            (LinearRegression(), numbers),
            (KNeighborsClassifier(2), classes),
        ):
            scores = cross_validate(
                estimator, X, y, cv=splitter, error_score="raise", **given
            )["test_score"]
            assert scores.shape == (8,)
            assert cross_val_score(estimator, X, y, cv=splitter).shape == (8,)
        assert scores.mean() < 0.9  # labels are noise
        search = GridSearchCV(
            Ridge(), {"alpha": [1e-6, 1e3]}, cv=splitter, error_score="raise"
        ).fit(X, numbers, groups=groups)
    assert search.best_params_ == {"alpha": 1e-6}  # targets are a sum of the features
    assert search.n_splits_ == 8


# Refusals.


@pytest.mark.parametrize("form", ["TaskSet", "ClassPool", "list", "Sinusoids"])
def test_tasks_are_refused(digits, form):
    tasks = make_sinusoids(3, random_state=0)
    forms = [tasks, ClassPool(*digits), list(tasks), Sinusoids()]
    X = {type(one).__name__: one for one in forms}[form]
    message = rf"got a {form} of tasks.*TaskKFold.*make_episode_scorer"
    with pytest.raises(TypeError, match=message):
        next(EpisodicSplit().split(X, np.zeros(3)))


def test_a_missing_y_is_refused(digits):
    with pytest.raises(ValueError, match=r"needs y: split\(X, y\)"):
        next(EpisodicSplit().split(digits[0]))


def few_of_one_class():
    return np.repeat(["oak", "elm", "ash"], [20, 6, 20])


@pytest.mark.parametrize(
    ("settings", "y", "message"),
    [
        (
            {"n_shot": 6},
            few_of_one_class(),
            r"Class 'elm' has 6 rows, but n_shot=6 and one query row need 7. Lower",
        ),
        (
            {"n_shot": 20},
            few_of_one_class(),
            r"Class 'ash' has 20 rows, but n_shot=20 .* need 21, which no class has",
        ),
        (
            {"n_way": 4},
            few_of_one_class(),
            r"at least 4 classes \(n_way=4\), and y has 3. Lower n_way",
        ),
        ({}, np.zeros(46), r"at least 2 classes .*y has 1.*labels='shared'"),
        (
            {"n_shot": 5},
            np.arange(46) // 2,
            r"Class 0 has 2 rows, but n_shot=5 .* numbers to predict, set labels='sha",
        ),
        ({"n_way": 2}, np.linspace(0.1, 1, 46), "n_way=2 draws classes"),
        ({"n_way": 2, "labels": "shared"}, np.zeros(46), "n_way=2 draws classes"),
        ({"n_shot": 46}, np.linspace(0.1, 1, 46), "46 rows, but n_shot=46 and one qu"),
        ({}, np.zeros((46, 2), dtype=int), r"y has shape \(46, 2\), expected one lab"),
        ({}, [1.0, None] * 23, r"y is missing \(NaN or None\) in 23 rows, first in ro"),
        ({}, [0.5] * 45 + [np.nan], r"y is missing .* in 1 rows, first in row 45"),
        ({}, np.zeros(45), "inconsistent numbers of samples: .46, 45."),
        ({"random_state": "now"}, few_of_one_class(), "'now' cannot be used to seed"),
        ({"random_state": -1}, few_of_one_class(), "Seed must be between 0 and"),
    ],
)
def test_rows_that_make_no_episode(settings, y, message):
    with pytest.raises(ValueError, match=message):
        next(EpisodicSplit(**settings).split(np.zeros((46, 1)), y))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_shot": 31, "labels": "shared"}, "Task 'd' has 30 rows, but n_shot=31"),
        ({"n_shot": 15}, r"Class \d of task '\w' has \d+ rows, but n_shot=15"),
        ({"n_way": 4}, "Task 'a' has 3 classes, but an episode needs at least 4"),
    ],
)
def test_tasks_that_make_no_episode(long_format, settings, message):
    X, _, y, groups = long_format
    with pytest.raises(ValueError, match=message):
        next(EpisodicSplit(**settings).split(X, y, groups))


def test_groups_of_the_wrong_length(long_format):
    X, y, _, groups = long_format
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples"):
        next(EpisodicSplit().split(X, y, groups[1:]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_way": 1}, "n_way must be at least 2"),
        ({"n_shot": 0}, "n_shot must be at least 1"),
        ({"n_shot": 1.5}, "n_shot must be an int"),
        ({"n_query": 0}, "n_query must be at least 1"),
        ({"n_episodes": 0}, "n_episodes == 0, must be >= 1"),
        ({"n_episodes": 2.5}, "n_episodes must be an instance of"),
        ({"labels": "own"}, "labels must be one of .*got 'own'"),
        ({"support_order": "last"}, "support_order must be one of .*got 'last'"),
        ({"small_tasks": "keep"}, "small_tasks must be one of .*got 'keep'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        EpisodicSplit(**settings)
