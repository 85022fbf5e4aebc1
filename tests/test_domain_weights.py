"""domain_weights of meta-training: what is drawn, checked and held out."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sklmeta import (
    ClassPool,
    MAMLRegressor,
    ProtoNetClassifier,
    SimpleShotClassifier,
    TaskSet,
)
from sklmeta._episodes import hold_out
from sklmeta.datasets import Sinusoids, load_digits_pool
from sklmeta.model_selection import TaskKFold

DIGITS = load_digits_pool()
FLAT = ClassPool(DIGITS.X.reshape(-1, 64)[:, ::3], DIGITS.y)
POOLS = {"low": FLAT[:4], "high": FLAT[4:]}
QUICK = {"n_shot": 2, "n_query": 3, "batch_size": 2, "eval_every": 2, "random_state": 0}


def lines(n_tasks, slope):
    x = np.linspace(-1, 1, 8 * n_tasks)[:, None]
    return TaskSet.from_offsets(x, slope * x[:, 0], np.arange(n_tasks + 1) * 8)


TASKS = TaskSet.from_domains({"up": lines(8, 1.0), "down": lines(8, -1.0)})


def maml(**parameters):
    return MAMLRegressor("identity", normalize_y=False, **(QUICK | parameters))


def test_regression_learns_the_domain_that_has_all_the_weight():
    x = np.array([[1.0]])
    for weights, sign in (({"up": 1, "down": 0}, 1), ({"up": 0, "down": 0.2}, -1)):
        meta = maml(domain_weights=weights, max_iter=20, outer_lr=0.1).fit(TASKS)
        assert meta.adapt([[0.0]], [0.0]).predict(x) * sign > 0.3


def test_pools_in_any_form_train_the_same():
    pool = ClassPool.from_domains(POOLS)
    expected = ProtoNetClassifier(max_iter=4, **QUICK).fit(pool).history_
    for form in (POOLS, [pool[:4], pool[4:]]):
        found = ProtoNetClassifier(max_iter=4, **QUICK).fit(form).history_
        assert found[:, "train_loss"] == expected[:, "train_loss"]
    other = ProtoNetClassifier(max_iter=4, domain_weights={"low": 0, "high": 1})
    other.set_params(**QUICK).fit(pool)
    assert other.history_[:, "train_loss"] != expected[:, "train_loss"]


def test_ways_of_an_episode_are_those_of_one_domain():
    meta = ProtoNetClassifier(max_iter=1, **QUICK).fit(POOLS)
    assert meta._preparation.most_ways == 6
    assert meta._preparation.usual_ways == 5
    small = {"low": FLAT[:2], "high": FLAT[4:7]}
    assert (
        ProtoNetClassifier(max_iter=1, **QUICK).fit(small)._preparation.most_ways == 3
    )
    with pytest.raises(ValueError, match="at least 2 classes of one domain, got 1"):
        ProtoNetClassifier(**QUICK).fit([FLAT[:1], FLAT[1:2]])


def test_scores_and_other_learners_take_domains():
    meta = ProtoNetClassifier(max_iter=1, n_way=2, **QUICK).fit(POOLS)
    assert 0.5 < meta.score(POOLS) <= 1
    assert (
        SimpleShotClassifier("identity", n_shot=2, n_way=2)
        .fit(POOLS)
        .score(list(POOLS.values()))
        > 0.5
    )


def test_partial_fit_takes_domains():
    meta = ProtoNetClassifier(domain_weights="equal", **QUICK)
    assert meta.partial_fit(POOLS).n_iter_ == 1
    assert meta.partial_fit(FLAT).n_iter_ == 2  # which has none


def test_searches_fold_over_classes_of_domains():
    search = GridSearchCV(
        ProtoNetClassifier(max_iter=1, n_way=2, **QUICK),
        {"domain_weights": ["equal", {"low": 1, "high": 3}]},
        cv=TaskKFold(2, shuffle=True, random_state=0),
        error_score="raise",
    )
    search.fit(ClassPool.from_domains(POOLS))
    assert (search.cv_results_["mean_test_score"] > 0.5).all()


def test_weights_are_cloned():
    meta = clone(maml(domain_weights={"up": 1, "down": 2}))
    assert meta.domain_weights == {"up": 1, "down": 2}


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("same", ValueError, "must be None, 'equal', or a dict .* got 'same'"),
        ([1, 2], TypeError, r"must be None, 'equal', or a dict .* got \[1, 2\]"),
        ({"up": -1, "down": 1}, ValueError, r"domain_weights\['up'\] == -1"),
        ({"up": np.nan, "down": 1}, ValueError, r"domain_weights\['up'\] must be fin"),
        ({"up": "1", "down": 1}, TypeError, r"domain_weights\['up'\] must be an inst"),
        ({"up": True, "down": 1}, TypeError, r"domain_weights\['up'\] must be a num"),
        ({"up": 0, "down": 0}, ValueError, "at least one weight above 0"),
        ({}, ValueError, "at least one weight above 0"),
        ({"up": 1}, ValueError, r"lacks \['down'\]; .* are \['up', 'down'\]"),
        ({"up": 1, "down": 1, "x": 1}, ValueError, r"names \['x'\]; the domains"),
    ],
)
def test_weights_that_are_refused(weights, error, message):
    with pytest.raises(error, match=message):
        maml(domain_weights=weights).fit(TASKS)


def test_weights_without_domains_are_refused():
    with pytest.raises(ValueError, match="weighs domains, and the tasks have none"):
        maml(domain_weights="equal").fit(lines(8, 1.0))
    with pytest.raises(ValueError, match=r"a Sinusoids draws its own.*MixedTasks"):
        maml(domain_weights="equal").fit(Sinusoids())


def test_classes_of_each_domain_are_held_out():
    pool = ClassPool.from_domains({"a": FLAT, "b": FLAT[:5], "c": FLAT})
    train, held = hold_out(pool[np.random.default_rng(0).permutation(25)], 0.1, 4, 0)
    counts = {d: (held.domains == d).sum() for d in "abc"}
    assert counts == {"a": 4, "b": 0, "c": 4}
    assert sorted([*train.classes, *held.classes]) == sorted(pool.classes)
    with pytest.raises(
        ValueError, match="= 4 of 5 classes of the largest domain, which leaves 1"
    ):
        hold_out(ClassPool.from_domains({"a": FLAT[:5], "b": FLAT[5:9]}), 0.1, 4, 0)


def test_early_stopping_judges_whole_episodes_of_domains():
    pools = {"a": FLAT, "b": FLAT}
    meta = ProtoNetClassifier(
        max_iter=2, n_way=3, early_stopping=True, domain_weights="equal", **QUICK
    )
    assert len(meta.fit(pools).history_[:, "valid_loss"]) == 1
