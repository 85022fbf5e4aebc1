"""Few-shot estimators inside scikit-learn's wrappers, which clone and re-encode them.

Whatever a wrapper does, the meta-learner that was given stays as it was: its weights,
its parameters, `adapted_`, and what a model adapted from it earlier predicts.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from torch import nn

from sklmeta import (
    FewShotClassifier,
    FewShotRegressor,
    MAMLClassifier,
    MAMLRegressor,
    ProtoNetClassifier,
    TaskSet,
)


def small_net(input_shape):
    return nn.Sequential(nn.Linear(input_shape[0], 32), nn.Tanh())


QUICK = {"backbone": small_net, "batch_size": 4, "random_state": 0}
THREE = ["low", "mid", "top"]
N_ROWS = 90


@dataclass(frozen=True)
class Problem:
    """A meta-learner that a user fitted, and labelled rows of a new task."""

    meta: Any
    X: np.ndarray
    y: np.ndarray
    X_query: np.ndarray
    y_query: np.ndarray

    @property
    def few_shot(self):
        face = FewShotClassifier if self.meta._classifies else FewShotRegressor
        return face(self.meta)

    @property
    def n_classes(self):
        return len(np.unique(self.y))


def blobs(labels, rng, turn):
    """Return rows of one task: a blob per class on a circle that is turned."""
    code = np.arange(N_ROWS) % len(labels)
    angle = 2 * np.pi * code / len(labels) + turn
    X = 0.4 * rng.normal(size=(N_ROWS, 3))
    X[:, :2] += np.stack([np.cos(angle), np.sin(angle)], 1)
    return X, np.array(labels)[code]


def classification(meta, labels, kind):
    """Meta-train on tasks with shared labels, or with labels of their own."""
    rng = np.random.default_rng(0)
    turns = rng.uniform(-0.5, 0.5, 12) if kind == "shared" else rng.uniform(0, 6, 12)
    tasks = [blobs(labels, rng, turn) for turn in turns]
    meta = meta.fit(TaskSet(tasks, labels=kind))
    if kind == "local":
        labels = [f"new {label}" for label in labels]  # never seen in meta-training
    X, y = blobs(labels, rng, 0.3)
    X_query, y_query = blobs(labels, rng, 0.3)
    return Problem(meta, X, y, X_query, y_query)


PROBLEMS = {
    "shared-text": (MAMLClassifier, THREE, "shared"),
    "shared-binary-text": (MAMLClassifier, ["no", "yes"], "shared"),
    "shared-numbers": (ProtoNetClassifier, [1, 2, 3], "shared"),
    "local-text": (ProtoNetClassifier, THREE, "local"),
    "local-binary-text": (ProtoNetClassifier, ["no", "yes"], "local"),
    "local-text-gradient": (MAMLClassifier, THREE, "local"),
}
BINARY = [name for name in PROBLEMS if "binary" in name]


@pytest.fixture(scope="module")
def problems():
    """All classification problems, each meta-trained when first asked for."""
    made = {}

    def get(name):
        if name not in made:
            learner, labels, kind = PROBLEMS[name]
            made[name] = classification(learner(max_iter=30, **QUICK), labels, kind)
        return made[name]

    return get


def slopes(rng):
    """Return rows of one task: a bent plane whose slopes are the task's own."""
    X = rng.uniform(-1, 1, size=(N_ROWS, 2))
    return X, X @ rng.normal(size=2) + 0.3 * X[:, 0] ** 2


@pytest.fixture(scope="module")
def planes():
    rng = np.random.default_rng(0)
    tasks = TaskSet([slopes(rng) for _ in range(40)])
    meta = MAMLRegressor(inner_steps=3, max_iter=60, **QUICK).fit(tasks)
    meta.set_params(inner_steps=30)
    X, y = slopes(rng)
    return Problem(meta, X[:40], y[:40], X[40:], y[40:])


@contextmanager
def untouched(problem):
    """Check that the user's meta-learner is the same afterwards."""
    meta = problem.meta
    earlier = meta.adapt(problem.X[:9], problem.y[:9])
    before = earlier.predict(problem.X_query)
    weights = {k: v.clone() for k, v in meta.learner_.state_dict().items()}
    state, params = dict(meta.__dict__), meta.get_params()
    yield
    assert meta.__dict__ == state, "an attribute was set, removed or replaced"
    assert meta.adapted_ is earlier
    assert meta.get_params() == params
    for name, weight in meta.learner_.state_dict().items():
        assert torch.equal(weight, weights[name])
    np.testing.assert_array_equal(earlier.predict(problem.X_query), before)
    np.testing.assert_array_equal(meta.predict(problem.X_query), before)


def assert_classifies(model, problem, least=0.75):
    """Fit to the task's rows; others of it must be told apart far above chance."""
    with untouched(problem):
        model.fit(problem.X, problem.y)
        predicted = model.predict(problem.X_query)
    assert set(predicted) <= set(problem.y.tolist())
    assert (predicted == problem.y_query).mean() > least
    if hasattr(model, "predict_proba"):
        proba = model.predict_proba(problem.X_query)
        assert proba.shape == (len(problem.X_query), problem.n_classes)
        assert np.isfinite(proba).all()
        np.testing.assert_allclose(proba.sum(1), 1.0)
    return model


def assert_regresses(model, problem, least=0.5):
    with untouched(problem):
        predicted = model.fit(problem.X, problem.y).predict(problem.X_query)
    assert np.isfinite(predicted).all()
    residual = np.square(predicted - problem.y_query).mean()
    assert 1 - residual / problem.y_query.var() > least
    return model


# Classifiers --------------------------------------------------------------------------

CLASSIFIER_WRAPPERS = {
    "calibrated": lambda few: CalibratedClassifierCV(few, cv=3),
    "calibrated-one-model": lambda few: CalibratedClassifierCV(
        few, cv=3, ensemble=False, method="isotonic"
    ),
    "stacking": lambda few: StackingClassifier(
        [("few", few), ("bayes", GaussianNB())], LogisticRegression(), cv=3
    ),
    "stacking-passthrough": lambda few: StackingClassifier(
        [("few", few)], LogisticRegression(), cv=3, passthrough=True
    ),
    "voting-soft": lambda few: VotingClassifier(
        [("few", few), ("bayes", GaussianNB())], voting="soft"
    ),
    "voting-hard": lambda few: VotingClassifier(
        [("few", few), ("again", few), ("bayes", GaussianNB())], voting="hard"
    ),
    "bagging": lambda few: BaggingClassifier(few, 3, random_state=0),
    "grid": lambda few: GridSearchCV(
        few, {"meta__n_shot": [1, 5]}, cv=3, error_score="raise"
    ),
}


@pytest.mark.parametrize("wrapper", CLASSIFIER_WRAPPERS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_classifier_wrapper(problems, name, wrapper):
    problem = problems(name)
    model = CLASSIFIER_WRAPPERS[wrapper](problem.few_shot)
    assert_classifies(model, problem)
    assert model.classes_.tolist() == sorted(set(problem.y.tolist()))


@pytest.mark.parametrize("wrapper", CLASSIFIER_WRAPPERS)
def test_classifier_wrapper_with_metadata_routing(problems, wrapper):
    problem = problems("shared-text")
    plain = CLASSIFIER_WRAPPERS[wrapper](problem.few_shot).fit(problem.X, problem.y)
    with config_context(enable_metadata_routing=True):
        routed = assert_classifies(clone(plain), problem)
        predicted = routed.predict(problem.X_query)
    np.testing.assert_array_equal(predicted, plain.predict(problem.X_query))


@pytest.mark.parametrize("name", BINARY)
def test_tuned_threshold(problems, name):
    problem = problems(name)
    rare = np.flatnonzero(problem.y == problem.y[1])[:8]
    rows = np.sort(np.r_[np.flatnonzero(problem.y == problem.y[0]), rare])
    problem = Problem(
        problem.meta,
        problem.X[rows],
        problem.y[rows],
        problem.X_query,
        problem.y_query,
    )
    tuned = TunedThresholdClassifierCV(
        problem.few_shot, scoring="balanced_accuracy", cv=3
    )
    assert_classifies(tuned, problem)
    assert 0 < tuned.best_threshold_ < 1
    assert tuned.best_score_ > 0.75


def test_stacked_features_are_the_probabilities_of_an_adapted_model(problems):
    for name in ("shared-text", "local-text"):
        problem = problems(name)
        stack = StackingClassifier(
            [("few", problem.few_shot)], LogisticRegression(), cv=3
        )
        assert_classifies(stack, problem)
        alone = problem.few_shot.fit(problem.X, problem.y)
        np.testing.assert_allclose(
            stack.transform(problem.X_query), alone.predict_proba(problem.X_query)
        )


@pytest.mark.parametrize("name", ["shared-text", "local-text"])
def test_models_that_are_fitted_already(problems, name):
    problem = problems(name)
    with untouched(problem):
        fitted = problem.few_shot.fit(problem.X[:30], problem.y[:30])
    expected = fitted.predict_proba(problem.X_query)
    frozen = CalibratedClassifierCV(FrozenEstimator(fitted))
    assert_classifies(frozen, problem)
    np.testing.assert_array_equal(fitted.predict_proba(problem.X_query), expected)
    ready = StackingClassifier([("few", fitted)], LogisticRegression(), cv="prefit")
    assert_classifies(ready, problem)
    assert ready.estimators_[0] is fitted
    np.testing.assert_array_equal(fitted.predict_proba(problem.X_query), expected)


def test_models_of_several_meta_learners_vote(problems):
    problem = problems("local-text")
    other = problems("local-text-gradient").meta
    weights = {k: v.clone() for k, v in other.learner_.state_dict().items()}
    votes = VotingClassifier(
        [("metric", problem.few_shot), ("gradient", FewShotClassifier(other))],
        voting="soft",
    )
    assert_classifies(votes, problem)
    for name, weight in other.learner_.state_dict().items():
        assert torch.equal(weight, weights[name])


@pytest.mark.parametrize("name", ["shared-text", "local-text"])
def test_bags_that_lack_classes(problems, name):
    problem = problems(name)
    bagged = BaggingClassifier(problem.few_shot, 10, max_samples=3, random_state=0)
    if name.startswith("shared"):
        with pytest.raises(ValueError, match="use missing_classes='allow'"):
            bagged.fit(problem.X, problem.y)
        bagged.set_params(estimator__missing_classes="allow")
    bagged = assert_classifies(bagged, problem, least=0.6)
    rows = [set(problem.y[rows]) for rows in bagged.estimators_samples_]
    assert min(map(len, rows)) < 3, "every bag has all classes: nothing is shown"


def test_bags_of_numbers_that_may_be_labels_or_ranks_are_refused(problems):
    problem = problems("shared-numbers")
    few_shot = problem.few_shot.set_params(missing_classes="allow")
    bagged = BaggingClassifier(few_shot, 10, max_samples=3, random_state=0)
    with (
        untouched(problem),
        pytest.raises(ValueError, match=r"Meta-train on labels 0\.\.2"),
    ):
        bagged.fit(problem.X, problem.y)


def test_bags_of_features_are_refused(problems):
    problem = problems("local-text")
    bagged = BaggingClassifier(problem.few_shot, 3, max_features=2, random_state=0)
    message = "X has 2 features, but FewShotClassifier is expecting 3 features"
    with untouched(problem), pytest.raises(ValueError, match=message):
        bagged.fit(problem.X, problem.y)


GRIDS = {
    "shared-text": ("inner_steps", [0, 10]),
    "local-text": ("metric", ["cosine", "sqeuclidean"]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grid_search_adapts_with_the_candidates_parameters(problems, name):
    problem, (parameter, values) = problems(name), GRIDS[name]
    search = GridSearchCV(
        problem.few_shot, {f"meta__{parameter}": values}, cv=3, error_score="raise"
    )
    assert_classifies(search, problem)
    for value in values:
        few_shot = problem.few_shot.set_params(**{f"meta__{parameter}": value})
        alone = few_shot.fit(problem.X, problem.y).predict_proba(problem.X_query)
        chosen = search.best_params_[f"meta__{parameter}"] == value
        found = np.array_equal(search.predict_proba(problem.X_query), alone)
        assert found == chosen


def test_wrappers_inside_wrappers(problems):
    problem = problems("shared-text")
    search = GridSearchCV(
        CalibratedClassifierCV(problem.few_shot, cv=3),
        {"estimator__meta__inner_steps": [1, 10]},
        cv=3,
        error_score="raise",
    )
    assert_classifies(search, problem)
    assert search.best_params_ == {"estimator__meta__inner_steps": 10}


@pytest.mark.parametrize("name", ["local-text", "local-text-gradient"])
def test_one_vs_rest_of_local_labels(problems, name):
    assert_classifies(OneVsRestClassifier(problems(name).few_shot), problems(name))


def test_one_vs_rest_of_shared_labels_is_refused(problems):
    for name in ("shared-text", "shared-numbers"):
        problem = problems(name)
        with (
            untouched(problem),
            pytest.raises(
                ValueError, match=r"y holds 2 classes.*OneVsRest.*labels='local'"
            ),
        ):
            OneVsRestClassifier(problem.few_shot).fit(problem.X, problem.y)
    # With two classes there is one classifier, and it has both.
    assert_classifies(
        OneVsRestClassifier(problems("shared-binary-text").few_shot),
        problems("shared-binary-text"),
    )


# Regressors ---------------------------------------------------------------------------

REGRESSOR_WRAPPERS = {
    "stacking": lambda few: StackingRegressor(
        [("few", few), ("near", KNeighborsRegressor(2))], Ridge(), cv=3
    ),
    "stacking-passthrough": lambda few: StackingRegressor(
        [("few", few)], Ridge(), cv=3, passthrough=True
    ),
    "voting": lambda few: VotingRegressor([("few", few), ("near", few)]),
    "bagging": lambda few: BaggingRegressor(few, 3, random_state=0),
    "transformed": lambda few: TransformedTargetRegressor(
        few, func=np.negative, inverse_func=np.negative
    ),
    "grid": lambda few: GridSearchCV(
        few, {"meta__inner_steps": [0, 50]}, cv=3, error_score="raise"
    ),
}


@pytest.mark.parametrize("wrapper", REGRESSOR_WRAPPERS)
def test_regressor_wrapper(planes, wrapper):
    assert_regresses(REGRESSOR_WRAPPERS[wrapper](planes.few_shot), planes)


@pytest.mark.parametrize("wrapper", REGRESSOR_WRAPPERS)
def test_regressor_wrapper_with_metadata_routing(planes, wrapper):
    plain = REGRESSOR_WRAPPERS[wrapper](planes.few_shot).fit(planes.X, planes.y)
    with config_context(enable_metadata_routing=True):
        routed = assert_regresses(clone(plain), planes)
        predicted = routed.predict(planes.X_query)
    np.testing.assert_array_equal(predicted, plain.predict(planes.X_query))


def test_regressors_that_are_fitted_already(planes):
    with untouched(planes):
        fitted = planes.few_shot.fit(planes.X[:20], planes.y[:20])
    expected = fitted.predict(planes.X_query)
    ready = StackingRegressor([("few", fitted)], Ridge(alpha=0.01), cv="prefit")
    assert_regresses(ready, planes)
    np.testing.assert_array_equal(fitted.predict(planes.X_query), expected)
    transformed = ready.transform(planes.X_query)[:, 0]
    np.testing.assert_array_equal(transformed, expected)


def test_transformed_targets_go_through_the_function_and_back(planes):
    alone = planes.few_shot.fit(planes.X, planes.y).predict(planes.X_query)
    in_cents = Problem(
        planes.meta, planes.X, 100 * planes.y, planes.X_query, 100 * planes.y_query
    )
    moved = TransformedTargetRegressor(
        in_cents.few_shot, func=lambda y: y / 100, inverse_func=lambda y: y * 100
    )
    assert_regresses(moved, in_cents)
    np.testing.assert_allclose(moved.predict(planes.X_query), 100 * alone, rtol=1e-5)


def test_votes_are_means_of_adapted_models(planes):
    short = planes.few_shot.set_params(meta__inner_steps=5)
    votes = VotingRegressor([("short", short), ("long", planes.few_shot)])
    assert_regresses(votes, planes, least=0.3)
    alone = [
        model.fit(planes.X, planes.y).predict(planes.X_query)
        for model in (short, planes.few_shot)
    ]
    np.testing.assert_allclose(votes.predict(planes.X_query), np.mean(alone, axis=0))


def test_grid_search_prefers_adapted_regressors(planes):
    search = GridSearchCV(
        planes.few_shot, {"meta__inner_steps": [0, 50]}, cv=3, error_score="raise"
    )
    assert_regresses(search, planes)
    assert search.best_params_ == {"meta__inner_steps": 50}
    unadapted, adapted = search.cv_results_["mean_test_score"]
    assert adapted > unadapted
