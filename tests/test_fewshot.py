"""Few-shot estimators are ordinary scikit-learn estimators that keep their weights."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import (
    GridSearchCV,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from sklmeta import (
    ClassPool,
    FewShotClassifier,
    FewShotRegressor,
    MAMLClassifier,
    MAMLRegressor,
    ProtoNetClassifier,
    TaskSet,
)
from sklmeta.datasets import make_sinusoids


def small_net(input_shape):
    return nn.Sequential(nn.Linear(input_shape[0], 16), nn.Tanh())


QUICK = {"backbone": small_net, "max_iter": 30, "batch_size": 4, "random_state": 0}
NEW = make_sinusoids(1, n_samples=40, random_state=1)[0]


def labelled_rows(labels, n_tasks=1, n_rows=60, seed=0):
    """Return X, y, groups of tasks with one blob per class."""
    rng = np.random.default_rng(seed)
    code = np.tile(np.arange(n_rows) % len(labels), n_tasks)
    X = 0.5 * rng.normal(size=(n_tasks * n_rows, 3))
    X[:, :2] += np.stack([np.cos(2 * code), np.sin(2 * code)], 1)
    return X, np.array(labels)[code], np.repeat(np.arange(n_tasks), n_rows)


def fitted(template, labels, kind):
    X, y, groups = labelled_rows(labels, n_tasks=10)
    return template.fit(TaskSet.from_arrays(X, y, groups, labels=kind))


@pytest.fixture(scope="module")
def regressor():
    return MAMLRegressor(**QUICK).fit(make_sinusoids(40, random_state=0))


@pytest.fixture(scope="module")
def shared():
    return fitted(MAMLClassifier(**QUICK), ["low", "mid", "top"], "shared")


@pytest.fixture(scope="module")
def local():
    return fitted(ProtoNetClassifier(**QUICK), ["low", "mid", "top"], "local")


# Owning -------------------------------------------------------------------------------


def test_clone_keeps_the_weights_and_owns_the_parameters(regressor):
    few_shot = FewShotRegressor(regressor)
    copy = clone(few_shot)
    assert copy.meta is not regressor
    assert copy.meta.learner_ is regressor.learner_
    copy.meta.set_params(inner_steps=50)
    assert regressor.inner_steps == 5
    assert few_shot.get_params()["meta__inner_steps"] == 5
    a, b = clone(few_shot).fit(NEW.X, NEW.y), few_shot.fit(NEW.X, NEW.y)
    np.testing.assert_array_equal(a.predict(NEW.X), b.predict(NEW.X))
    # Cloned before it was fitted, like any estimator.
    assert not hasattr(clone(b), "meta_")


def test_nested_parameters_never_reach_the_given_object(regressor):
    few_shot = FewShotRegressor(regressor).set_params(meta__inner_steps=7)
    assert (few_shot.meta.inner_steps, regressor.inner_steps) == (7, 5)
    few_shot.set_params(meta=regressor, meta__inner_steps=9)
    assert (few_shot.meta.inner_steps, regressor.inner_steps) == (9, 5)
    assert few_shot.get_params()["meta__inner_steps"] == 9
    with pytest.raises(ValueError, match="Invalid parameter 'outer_steps'"):
        few_shot.set_params(meta__outer_steps=3)
    bare = FewShotRegressor(regressor)
    assert bare.meta is regressor, "init only assigns"


def test_nested_parameters_act_when_adapting(regressor):
    few_shot = FewShotRegressor(regressor)
    few = few_shot.fit(NEW.X, NEW.y).score(NEW.X, NEW.y)
    many = few_shot.set_params(meta__inner_steps=100).fit(NEW.X, NEW.y)
    assert many.score(NEW.X, NEW.y) > few
    # A fitted model predicts with what it was fitted with.
    before = many.predict(NEW.X)
    many.set_params(meta__inner_steps=1)
    np.testing.assert_array_equal(many.predict(NEW.X), before)


def test_parameters_of_meta_training_are_refused_in_fit_only(regressor):
    few_shot = FewShotRegressor(regressor)
    few_shot.set_params(meta__outer_lr=0.5)
    with pytest.raises(ValueError, match=r"outer_lr=0.5 acts in meta-training only"):
        few_shot.fit(NEW.X, NEW.y)
    few_shot.set_params(meta__outer_lr=1e-3).fit(NEW.X, NEW.y)
    free = {"random_state": 7, "device": "cpu", "verbose": 1, "n_shot": 2}
    few_shot.set_params(**{f"meta__{name}": value for name, value in free.items()})
    few_shot.fit(NEW.X, NEW.y)


def test_a_meta_learner_among_candidates_is_refused_with_the_reason(regressor):
    search = GridSearchCV(
        FewShotRegressor(regressor), {"meta": [regressor]}, error_score="raise", cv=2
    )
    with pytest.raises(ValueError, match=r"compare FewShotRegressor\(a\) and"):
        search.fit(NEW.X, NEW.y)


def test_meta_must_be_of_the_same_kind(regressor, shared):
    with pytest.raises(TypeError, match="must be a classifier, got MAMLRegressor"):
        FewShotClassifier(regressor).fit(NEW.X, NEW.y > 0)
    with pytest.raises(TypeError, match="must be a regressor, got MAMLClassifier"):
        FewShotRegressor(shared).fit(*labelled_rows(["low", "mid"])[:2])


def test_fitted_meta_learners_are_compared_as_few_shot_estimators(regressor):
    other = MAMLRegressor(**{**QUICK, "max_iter": 1}).fit(make_sinusoids(20))
    pipe = make_pipeline(FunctionTransformer(), FewShotRegressor(regressor))
    steps = [FewShotRegressor(regressor), FewShotRegressor(other)]
    search = GridSearchCV(pipe, {"fewshotregressor": steps}, cv=3, error_score="raise")
    scores = search.fit(NEW.X, NEW.y).cv_results_["mean_test_score"]
    expected = [cross_val_score(step, NEW.X, NEW.y, cv=3).mean() for step in steps]
    np.testing.assert_allclose(scores, expected)


def test_pickles_predict_alike(regressor, shared, local):
    X, y, _ = labelled_rows(["low", "mid", "top"])
    for few_shot, rows in (
        (FewShotRegressor(regressor).fit(NEW.X, NEW.y), NEW.X),
        (FewShotClassifier(shared).fit(X, y), X),
        (FewShotClassifier(local).fit(X, y), X),
    ):
        stored = pickle.loads(pickle.dumps(few_shot))
        np.testing.assert_array_equal(stored.predict(rows), few_shot.predict(rows))
        np.testing.assert_array_equal(
            stored.fit(rows, few_shot.predict(rows)).predict(rows[:3]).shape, (3,)
        )


# Predicting ---------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["regressor", "shared", "local"])
def test_a_prediction_depends_on_no_other_query_row(problem, request):
    meta = request.getfixturevalue(problem)
    X, y, _ = labelled_rows(["low", "mid", "top"])
    X, y = (X, y) if meta._classifies else (NEW.X, NEW.y)
    model = meta.adapt(X[:9], y[:9])
    answer = model.predict_proba if meta._classifies else model.predict
    together = answer(X)
    alone = np.concatenate([answer(row[None]) for row in X])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)
    backwards = answer(X[::-1])[::-1]
    np.testing.assert_allclose(together, backwards, rtol=1e-12, atol=1e-12)


def test_probabilities_are_of_the_classes_in_order(local, shared):
    X, y, _ = labelled_rows(["low", "mid", "top"])
    for meta in (local, shared):
        model = FewShotClassifier(meta).fit(X, y)
        proba = model.predict_proba(X)
        assert model.classes_.tolist() == ["low", "mid", "top"]
        np.testing.assert_allclose(proba.sum(1), 1.0)
        assert model.classes_[proba.argmax(1)].tolist() == model.predict(X).tolist()
        assert model.score(X, y) > 0.6


@pytest.mark.parametrize(
    "labels",
    [["a", "b", "c", "d", "e"], [5, 3], [True, False], [0.0, 1.0, 2.0], ["only"]],
)
def test_local_labels_take_any_ways_and_any_type(local, labels):
    X, y, _ = labelled_rows(labels)
    model = FewShotClassifier(local).fit(X, y)
    assert model.classes_.tolist() == sorted(labels)
    assert set(model.predict(X).tolist()) <= set(labels)
    assert model.predict(X).dtype == np.unique(y).dtype


def test_support_and_query_in_any_container(shared):
    X, y, _ = labelled_rows(["low", "mid", "top"])
    expected = FewShotClassifier(shared).fit(X, y).predict_proba(X)
    frame, series = pd.DataFrame(X), pd.Series(y, index=np.arange(60)[::-1])
    for X_form, y_form in (
        (frame, series),
        (X.tolist(), y.tolist()),
        (torch.tensor(X), pd.Categorical(y)),
        (X, y.astype(object)),
        (np.asfortranarray(X), y),
    ):
        model = FewShotClassifier(shared).fit(X_form, y_form)
        np.testing.assert_allclose(model.predict_proba(X_form), expected, atol=1e-6)
    X, y = torch.tensor(NEW.X), torch.tensor(NEW.y, requires_grad=True)
    meta = MAMLRegressor(**{**QUICK, "max_iter": 1}).fit(make_sinusoids(20))
    assert meta.adapt(X, y).predict(X).shape == (40,)


def test_feature_names_are_those_of_meta_training():
    X, y, groups = labelled_rows(["low", "mid", "top"], n_tasks=6)
    frame = pd.DataFrame(X, columns=["price", "size", "age"])
    meta = MAMLClassifier(**QUICK).fit(frame, y, groups=groups)
    model = meta.adapt(frame[:60], y[:60])
    assert model.feature_names_in_.tolist() == ["price", "size", "age"]
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["size", "price", "age"]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X[:2])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_views_of_images_are_predicted_as_they_are(dtype):
    images = np.random.default_rng(0).integers(0, 2, (40, 5, 5)).astype(dtype)
    y = np.arange(40) % 4
    meta = ProtoNetClassifier(max_iter=1, random_state=0).fit(ClassPool(images, y))
    model = meta.adapt(images[:12], y[:12])
    expected = model.predict_proba(images)
    images.flags.writeable = False  # as joblib's memory maps are
    np.testing.assert_array_equal(model.predict_proba(images), expected)
    np.testing.assert_array_equal(model.predict_proba(images[::-1]), expected[::-1])


# Shared labels under wrappers ---------------------------------------------------------


def test_ranks_stand_for_shared_labels(shared):
    X, y, _ = labelled_rows(["low", "mid", "top"])
    named = FewShotClassifier(shared).fit(X, y)
    ranked = FewShotClassifier(shared).fit(X, np.searchsorted(named.classes_, y))
    assert ranked.classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(ranked.predict_proba(X), named.predict_proba(X))


def test_missing_classes_are_predicted_over_too(shared):
    X, y, _ = labelled_rows(["low", "mid", "top"])
    X, y = X[y != "mid"], y[y != "mid"]
    model = FewShotClassifier(shared, missing_classes="allow").fit(X, y)
    assert model.classes_.tolist() == ["low", "mid", "top"]
    np.testing.assert_array_equal(
        model.predict_proba(X), shared.adapt(X, y).predict_proba(X)
    )
    ranks = FewShotClassifier(shared, missing_classes="allow")
    assert ranks.fit(X, np.where(y == "low", 0, 2)).classes_.tolist() == [0, 1, 2]


def test_labels_that_may_be_ranks_are_refused():
    meta = fitted(ProtoNetClassifier(**QUICK), [1, 2, 3], "shared")
    X = labelled_rows([1, 2, 3])[0][:4]
    few_shot = FewShotClassifier(meta, missing_classes="allow")
    with pytest.raises(ValueError, match=r"y=\[1, 2\] can be read as labels and as"):
        few_shot.fit(X, [1, 2, 1, 2])
    assert few_shot.fit(X, [3, 2, 3, 2]).predict(X).dtype.kind == "i"
    # Text that looks like ranks is text.
    meta = fitted(ProtoNetClassifier(**QUICK), ["0", "1"], "shared")
    model = FewShotClassifier(meta).fit(X, [0, 1, 0, 1])
    assert model.classes_.tolist() == [0, 1]
    assert FewShotClassifier(meta).fit(X, ["0", "1", "0", "1"]).classes_[0] == "0"
