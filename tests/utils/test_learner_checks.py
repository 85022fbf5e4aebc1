"""Each check fails on a learner that breaks what it checks, and says what is wrong."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import NotFittedError
from torch import nn

from sklmeta import (
    MAMLRegressor,
    PerTaskClassifier,
    PerTaskRegressor,
    PooledClassifier,
    PooledRegressor,
    ProtoNetClassifier,
)
from sklmeta.metric.protonet import ProtoNet
from sklmeta.utils.learner_checks import (
    check_meta_learner,
    parametrize_with_meta_checks,
    yield_meta_checks,
)

QUICK = {"max_iter": 5, "outer_lr": 3e-3}


def run(check_name, estimator, kind=None):
    """Run one check, on the first kind of problem that has it unless one is named."""
    for _, check in yield_meta_checks(estimator):
        own_kind = check.keywords["problem"].kind
        if check.func.__name__ == check_name and kind in (None, own_kind):
            return check(estimator)
    raise LookupError(f"{check_name} is not among the checks")


def learning_by(learner_class):
    """Return ProtoNetClassifier with another torch learner."""

    class Broken(ProtoNetClassifier):
        def _make_learner(self, backbone, n_features, n_outputs, n_ways, generator):
            return learner_class(backbone, n_outputs, metric=self.metric)

    return Broken(**QUICK)


# Estimators that break the contract ----------------------------------------------


class SetsAttributeInInit(ProtoNetClassifier):
    def __init__(self, metric="sqeuclidean"):
        super().__init__(metric=metric)
        self.ready = True


class ChangesParameterInInit(ProtoNetClassifier):
    def __init__(self, widths=(64, 64)):
        super().__init__()
        self.widths = list(widths)


class PredictsUnadapted(ProtoNetClassifier):
    def predict(self, X):
        if not hasattr(self, "learner_"):
            raise NotFittedError
        return np.zeros(len(X))


class WritesToInput(ProtoNetClassifier):
    def fit(self, X, y=None, **kwargs):
        super().fit(X, y, **kwargs)
        if y is None and hasattr(X, "rows"):
            X.rows().X[0] += 1
        return self


class ChangesItsParameters(ProtoNetClassifier):
    def fit(self, X, y=None, **kwargs):
        self.n_shot = 4
        return super().fit(X, y, **kwargs)


class AdaptTrainsOn(ProtoNetClassifier):
    def adapt(self, X_support, y_support):
        adapted = super().adapt(X_support, y_support)
        with torch.no_grad():
            next(self.learner_.parameters()).add_(1e-6)
        return adapted


class ReturnsOneModel(ProtoNetClassifier):
    def adapt(self, X_support, y_support):
        super().adapt(X_support, y_support)
        return self


class DrawsGlobally(ProtoNetClassifier):
    def _make_learner(self, *args):
        torch.rand(1)
        return super()._make_learner(*args)


class IgnoresSeed(ProtoNetClassifier):
    def _make_learner(self, *args):
        learner = super()._make_learner(*args)
        generator = torch.Generator()
        generator.seed()
        for weight in learner.parameters():
            nn.init.normal_(weight, generator=generator)
        return learner


class AlwaysOneSeed(ProtoNetClassifier):
    def fit(self, X, y=None, **kwargs):
        given, self.random_state = self.random_state, 0
        super().fit(X, y, **kwargs)
        self.random_state = given
        return self


class StartsFromLastFit(ProtoNetClassifier):
    def fit(self, X, y=None, **kwargs):
        self.warm_start = True
        super().fit(X, y, **kwargs)
        self.warm_start = False
        return self


class PartialFitForgets(ProtoNetClassifier):
    def partial_fit(self, X, y=None, **kwargs):
        return self.fit(X, y)


class IgnoresWarmStart(ProtoNetClassifier):
    def fit(self, X, y=None, **kwargs):
        self.__dict__.pop("learner_", None)
        return super().fit(X, y, **kwargs)


class FailureLosesWeights(ProtoNetClassifier):
    def fit(self, X, y=None, **kwargs):
        if hasattr(self, "learner_"):
            with torch.no_grad():
                next(self.learner_.parameters()).zero_()
        return super().fit(X, y, **kwargs)


class PicklesBadly(ProtoNetClassifier):
    def __setstate__(self, state):
        super().__setstate__(state)
        with torch.no_grad():
            for weight in self.learner_.parameters():
                weight.mul_(1.01)


class ScoresByFirstTask(ProtoNetClassifier):
    def score(self, X, y=None, sample_weight=None, **kwargs):
        return super().score(X[[0]])


@pytest.mark.parametrize(
    ("estimator", "check", "message"),
    [
        (SetsAttributeInInit(), "check_init_only_assigns", r"\['ready'\]"),
        (ChangesParameterInInit(), "check_init_only_assigns", "'widths'"),
        (PredictsUnadapted(), "check_not_fitted", "predict .* before adapt"),
        (WritesToInput(), "check_inputs_not_mutated", "changes its input"),
        (ChangesItsParameters(), "check_inputs_not_mutated", "n_shot"),
        (AdaptTrainsOn(**QUICK), "check_adapt_keeps_weights", "adapt of .* changes"),
        (ReturnsOneModel(**QUICK), "check_side_by_side", "same model twice"),
        (DrawsGlobally(), "check_global_rng", "global random generator"),
        (IgnoresSeed(), "check_same_seed", "differs between runs"),
        (IgnoresSeed(), "check_fit_twice", "differs from the fit of a fresh"),
        (IgnoresSeed(), "check_threads", "threads fit side by side"),
        (AlwaysOneSeed(), "check_same_seed", "random_state"),
        (StartsFromLastFit(), "check_fit_twice", "differs from the fit of a fresh"),
        (PartialFitForgets(), "check_partial_fit", "one pass to n_iter_"),
        (IgnoresWarmStart(), "check_warm_start", "does not go on"),
        (FailureLosesWeights(), "check_failure_keeps", "a failure changes"),
        (PicklesBadly(**QUICK), "check_pickle", "pickle round trip"),
        (ScoresByFirstTask(**QUICK), "check_task_order", "order of the tasks"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else None,
)
def test_broken_estimator_is_caught(estimator, check, message):
    with pytest.raises(AssertionError, match=message):
        run(check, estimator)


# Torch learners that break the contract ------------------------------------------


class SeesTheQueryBatch(ProtoNet):
    def predict(self, state, x):
        return super().predict(state, x - x.mean(1, keepdim=True))


class SeesTheOtherTasks(ProtoNet):
    def predict(self, state, x):
        return super().predict(state, x - x.mean((0, 1), keepdim=True))


class PrefersFirstRows(ProtoNet):
    def adapt(self, support):
        n_rows = support.x.shape[1]
        weight = torch.linspace(2, 0, n_rows)[None, :, None]
        return super().adapt(replace(support, x=support.x * weight))


class PrefersFirstWay(ProtoNet):
    def predict(self, state, x):
        logits = super().predict(state, x)
        return logits + torch.arange(logits.shape[2]).to(logits)


class RemembersLastTask(ProtoNet):
    last = 0.0

    def adapt(self, support):
        state = super().adapt(support)
        remembered = state["prototypes"] + 0.1 * self.last
        type(self).last = float(state["prototypes"].mean())
        return {**state, "prototypes": remembered}


@pytest.mark.parametrize(
    ("learner", "check", "message"),
    [
        (SeesTheQueryBatch, "check_query_batch", "other rows in the call"),
        (SeesTheOtherTasks, "check_task_order", "tasks beside it"),
        (PrefersFirstRows, "check_support_order", "order of the support rows"),
        (PrefersFirstWay, "check_label_names", "names of local labels"),
        (RemembersLastTask, "check_adapt_again", "adapted to A and then B"),
    ],
)
def test_broken_learner_is_caught(learner, check, message):
    with pytest.raises(AssertionError, match=message):
        run(check, learning_by(learner))


# Learners that do not learn -------------------------------------------------------


class IgnoresSupportTargets(MAMLRegressor):
    def _make_learner(self, *args):
        learner = super()._make_learner(*args)
        adapt = learner.adapt
        learner.adapt = lambda support: adapt(
            replace(support, y=torch.zeros_like(support.y))
        )
        return learner


def test_no_meta_training_is_caught():
    standing_still = ProtoNetClassifier(max_iter=5, outer_lr=1e-12)
    with pytest.raises(AssertionError, match="its own untrained initialisation"):
        run("check_beats_untrained", standing_still)


@pytest.mark.parametrize("kind", ["local", "shared"])
def test_nearest_centroid_in_disguise_is_caught(kind):
    disguised = ProtoNetClassifier("identity")
    with pytest.raises(
        AssertionError, match=r"LogisticRegression\(\).* must lie above 0"
    ):
        run("check_beats_per_task_baseline", disguised, kind)


def test_ignoring_support_targets_is_caught():
    estimator = IgnoresSupportTargets(max_iter=20, outer_lr=5e-3)
    with pytest.raises(AssertionError, match="shuffled labels"):
        run("check_uses_support_labels", estimator)


# Promises and their opposites ----------------------------------------------------


def promising(parent, **promises):
    """Return a subclass that promises other things by its tags."""

    class Promising(parent):
        def __sklmeta_tags__(self):
            return replace(super().__sklmeta_tags__(), **promises)

    return Promising


class LearnsInSecret(PerTaskRegressor):
    def fit(self, X, y=None, *, groups=None):
        super().fit(X, y, groups=groups)
        self.shift_ = len(X)
        return self

    def predict_tasks(self, support_tasks, query_Xs):
        predictions = super().predict_tasks(support_tasks, query_Xs)
        return [one + 1e-9 * self.shift_ for one in predictions]


class TakesMissingValues(PooledRegressor):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


ALL = ("local", "shared", "numbers")


@pytest.mark.parametrize(
    ("estimator", "check", "message"),
    [
        (LearnsInSecret(), "check_ignores_tasks", "learns nothing from tasks by its"),
        (
            promising(PerTaskRegressor, uses_support=())(),
            "check_ignores_support",
            "makes no use of support rows by its tags",
        ),
        (
            promising(PooledRegressor, uses_support=ALL)(),
            "check_side_by_side",
            "the same whatever it is adapted to",
        ),
        (
            promising(PooledRegressor, uses_support=ALL)(),
            "check_uses_support_labels",
            "shuffled labels",
        ),
        (
            promising(PerTaskRegressor, learns_from_tasks=True)(),
            "check_beats_untrained",
            "itself trained on unrelated tasks",
        ),
        (
            promising(ProtoNetClassifier, episodic=False)(max_iter=2),
            "check_starts_anew",
            r"\['partial_fit', 'learner_', 'history_', 'n_iter_', 'warm_start'\]",
        ),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else None,
)
def test_broken_promise_is_caught(estimator, check, message):
    with pytest.raises(AssertionError, match=message):
        run(check, estimator)


def test_missing_values_are_a_promise_too():
    with pytest.raises(ValueError, match="NaN"):
        run("check_failure_keeps", TakesMissingValues())
    run("check_failure_keeps", PooledRegressor(HistGradientBoostingRegressor()))


def test_each_promise_or_its_opposite_is_checked():
    def checks(estimator):
        names = {}
        for _, check in yield_meta_checks(estimator):
            kind = check.keywords["problem"].kind
            names.setdefault(kind, set()).add(check.func.__name__)
        return names

    gradients = checks(ProtoNetClassifier())
    for kind in ("local", "shared"):
        assert {
            *("check_partial_fit", "check_warm_start", "check_beats_untrained"),
            *("check_beats_per_task_baseline", "check_uses_support_labels"),
        } <= gradients[kind]
    pooled, per_task = checks(PooledClassifier()), checks(PerTaskClassifier())
    assert "check_uses_support_labels" in pooled["local"]
    assert "check_ignores_support" in pooled["shared"]
    assert "check_ignores_tasks" in per_task["shared"]
    for names in (pooled["local"], pooled["shared"], per_task["local"]):
        assert "check_starts_anew" in names
        assert ("check_beats_untrained" in names) != ("check_ignores_tasks" in names)
        assert ("check_ignores_support" in names) != (
            "check_uses_support_labels" in names
        )


# Learners of others ---------------------------------------------------------------


@pytest.fixture
def own_learner(monkeypatch):
    """Return the example that shows how to write a learner."""
    examples = Path(__file__).parents[2] / "examples" / "extending"
    monkeypatch.syspath_prepend(examples)
    return importlib.import_module("own_learner")


def test_own_learner_passes(own_learner):
    check_meta_learner(own_learner.RidgeHeadRegressor(max_iter=200, outer_lr=5e-3))


def test_first_failure_is_raised():
    with pytest.raises(AssertionError, match="sets attributes beside parameters"):
        check_meta_learner(SetsAttributeInInit())


def test_estimator_is_left_alone():
    estimator = MAMLRegressor(max_iter=2)
    before = dict(vars(estimator))
    for _, check in yield_meta_checks(estimator):
        if check.func.__name__ in ("check_same_seed", "check_query_batch"):
            check(estimator)
    assert vars(estimator) == before


# Checks as tests of pytest --------------------------------------------------------


def test_names_of_tests_are_unique_and_stable():
    estimators = [
        ProtoNetClassifier(backbone=lambda shape: nn.Identity()),
        MAMLRegressor(),
    ]
    mark = parametrize_with_meta_checks(estimators)
    names = mark.kwargs["ids"]
    assert len(set(names)) == len(names) == len(mark.args[1])
    assert not any(" " in name or "0x" in name for name in names)
    assert names == parametrize_with_meta_checks(estimators).kwargs["ids"]


def test_classifiers_are_checked_with_both_meanings_of_labels():
    def kinds(estimator):
        checks = yield_meta_checks(estimator)
        return {check.keywords["problem"].kind for _, check in checks}

    assert kinds(ProtoNetClassifier()) == {"local", "shared"}
    assert kinds(MAMLRegressor()) == {"numbers"}
