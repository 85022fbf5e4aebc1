"""Episode scorers: as `scoring=` in every search, on the same episodes for all."""

import copy
import pickle
from dataclasses import FrozenInstanceError
from typing import ClassVar

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import (
    f1_score,
    make_scorer,
    mean_absolute_error,
    roc_auc_score,
)
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklmeta import ClassPool, MAMLRegressor, ProtoNetClassifier, Task, TaskSet
from sklmeta.datasets import load_digits_pool
from sklmeta.model_selection import (
    EpisodeScorer,
    TaskKFold,
    make_episode_scorer,
)
from sklmeta.pipeline import make_meta_pipeline


def lines(n_tasks=8, n_rows=12, seed=0):
    """Noisy lines, each with a slope of its own."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_tasks, n_rows, 2))
    slopes = rng.normal(size=(n_tasks, 2))
    y = np.einsum("trf,tf->tr", X, slopes) + rng.normal(size=(n_tasks, n_rows)) / 5
    tasks = [Task(X[t], y[t], f"line {seed}-{t}") for t in range(n_tasks)]
    return TaskSet(tasks)


LINES = lines()
POOL = load_digits_pool()
LONG = (
    np.asarray(LINES.rows().X),
    LINES.rows().y,
    np.repeat(LINES.names, LINES.rows().sizes),
)


class MetaRidge(RegressorMixin, BaseEstimator):
    """Ridge on support rows; the penalty is its only parameter that matters."""

    supports: ClassVar = []  # of all instances, as searches clone
    __metadata_request__fit: ClassVar = {"groups": True}

    def __init__(self, alpha=1.0, n_shot=5):
        self.alpha = alpha
        self.n_shot = n_shot

    def fit(self, X, y=None, groups=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        self.supports.append((self.alpha, self.n_shot, np.asarray(X).tobytes()))
        return Ridge(self.alpha).fit(X, y)


class MetaNeighbours(ClassifierMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        return KNeighborsClassifier(1).fit(X, y)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="module")
def maml():
    return MAMLRegressor(max_iter=20, random_state=0).fit(lines(20, seed=1))


@pytest.fixture(scope="module")
def protonet():
    return ProtoNetClassifier("identity", random_state=0).fit(POOL[:5])


class TestValue:
    def test_mean_over_tasks_of_means_over_episodes(self, maml):
        """By hand: adapt and predict, task by task."""
        scorer = make_episode_scorer("rmse", n_shot=4, n_query=3, n_episodes=2)
        drawn = scorer._protocol().draw(LINES, False)
        X, y, errors = LINES.rows().X, LINES.rows().y, {}
        for e in range(len(drawn)):
            support, query = drawn.support_rows(e), drawn.query_rows(e)
            predicted = maml._own_copy().adapt(X[support], y[support]).predict(X[query])
            error = np.sqrt(np.mean((predicted - y[query]) ** 2))
            errors.setdefault(drawn.names[e], []).append(error)
        expected = -np.mean([np.mean(own) for own in errors.values()])
        assert scorer(maml, LINES) == pytest.approx(expected, rel=1e-5)

    def test_default_is_the_accuracy_of_score(self, protonet):
        """The very episodes that `score` judges."""
        one = clone(protonet).set_params(n_shot=3, random_state=7).fit(POOL[:5])
        scorer = make_episode_scorer(n_shot=3, random_state=7)
        assert scorer(one, POOL[5:]) == pytest.approx(one.score(POOL[5:]), abs=1e-12)
        tasks = TaskSet.from_arrays(
            np.asarray(POOL.X).reshape(-1, 64),
            POOL.y,
            np.arange(len(POOL.y)) % 7,
            labels="local",
        )
        one = clone(one).fit(tasks[:3])
        scorer = make_episode_scorer(n_shot=3, random_state=7, n_episodes=1)
        expected = one.score(tasks[3:])
        assert scorer(one, tasks[3:]) == pytest.approx(expected, abs=1e-12)

    def test_default_of_regressors_is_minus_rmse(self, maml):
        assert make_episode_scorer()(maml, LINES) == make_episode_scorer(
            "neg_root_mean_squared_error"
        )(maml, LINES)

    @pytest.mark.parametrize(
        ("short", "long"),
        [
            ("mse", "neg_mean_squared_error"),
            ("mae", "neg_mean_absolute_error"),
            ("mae", make_scorer(mean_absolute_error, greater_is_better=False)),
        ],
    )
    def test_signs(self, maml, short, long):
        values = [make_episode_scorer(one)(maml, LINES) for one in (short, long)]
        assert values[0] == pytest.approx(values[1])
        assert values[0] < 0

    def test_metric_functions(self, maml, protonet):
        scorer = make_episode_scorer(mean_absolute_error, greater_is_better=False)
        assert scorer(maml, LINES) == pytest.approx(
            make_episode_scorer("mae")(maml, LINES)
        )
        scorer = make_episode_scorer(
            lambda y, p: roc_auc_score(y, p, multi_class="ovr"),
            response_method="predict_proba",
            n_episodes=20,
        )
        by_name = make_episode_scorer("roc_auc_ovr", n_episodes=20)
        assert scorer(protonet, POOL[5:]) == pytest.approx(by_name(protonet, POOL[5:]))

    def test_several_metrics(self, maml):
        found = make_episode_scorer(["rmse", "r2"])(maml, LINES)
        assert found == {
            name: make_episode_scorer(name)(maml, LINES) for name in ("rmse", "r2")
        }
        named = make_episode_scorer({"fit": "r2"})(maml, LINES)
        assert named == {"fit": found["r2"]}

    def test_bit_identical_and_in_any_order_of_tasks(self, maml):
        scorer = make_episode_scorer("mae", n_episodes=2)
        one = scorer(maml, LINES)
        assert scorer(maml, LINES) == one
        assert scorer(maml, LINES[::-1]) == pytest.approx(one, rel=1e-5)

    def test_every_form_of_tasks(self, maml):
        scorer = make_episode_scorer(n_episodes=2)
        expected = scorer(maml, LINES)
        X, y, groups = LONG
        assert scorer(maml, list(LINES)) == expected
        assert scorer(maml, X, y, groups=groups) == expected
        shuffled = np.random.default_rng(0).permutation(len(y))
        assert scorer(maml, X[shuffled], y[shuffled], groups=groups[shuffled]) < 0

    def test_the_users_object_is_untouched(self, maml):
        before = dict(maml.__dict__)
        make_episode_scorer()(maml, LINES)
        assert maml.__dict__ == before

    def test_labels_are_local_to_a_learner_of_local_labels(self, protonet):
        """Long format says nothing of labels; the meta-training tasks did."""
        X, y = np.asarray(POOL[5:].X), POOL[5:].y
        groups = np.arange(len(y)) % 3
        scorer = make_episode_scorer(n_shot=2, n_episodes=3)
        local = TaskSet.from_arrays(X, y, groups, labels="local")
        assert scorer(protonet, X, y, groups=groups) == scorer(protonet, local)


class TestObject:
    SCORER = make_episode_scorer("log_loss", n_shot=(1, 3), random_state=4)

    def test_repr(self):
        text = "make_episode_scorer('log_loss', n_shot=(1, 3), random_state=4)"
        assert repr(self.SCORER) == text
        assert repr(make_episode_scorer()) == "make_episode_scorer()"

    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
    )
    def test_copies(self, copied):
        found = copied(self.SCORER)
        assert isinstance(found, EpisodeScorer)
        assert found == self.SCORER and found is not self.SCORER

    def test_frozen(self):
        with pytest.raises(FrozenInstanceError):
            self.SCORER.n_shot = 2

    def test_requests_groups(self):
        request = self.SCORER.get_metadata_routing()
        assert request.score.requests == {"groups": True}
        assert not request.fit.requests

    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            ({"metric": "acuracy"}, ValueError, "'acuracy' is unknown"),
            ({"metric": 3}, TypeError, "metric must be a name"),
            ({"metric": ["f1", 3]}, TypeError, "metric must be a name"),
            ({"n_shot": 0}, ValueError, "n_shot must be at least 1"),
            ({"random_state": None}, TypeError, "random_state must be an int"),
            ({"greater_is_better": False}, ValueError, "describe one metric function"),
            (
                {"metric": "f1", "response_method": "predict_proba"},
                ValueError,
                "metric='f1' knows its own",
            ),
            (
                {"metric": [mean_absolute_error], "greater_is_better": False},
                ValueError,
                r"got several. Wrap each function with sklearn.metrics.make_scorer",
            ),
            (
                {"metric": make_scorer(f1_score), "greater_is_better": False},
                ValueError,
                r"metric=make_scorer\(f1_score.* knows its own",
            ),
        ],
    )
    def test_refused_at_once(self, values, error, message):
        with pytest.raises(error, match=message):
            make_episode_scorer(**values)

    def test_refused_for_the_kind_of_estimator(self, maml):
        with pytest.raises(ValueError, match="'log_loss' is not for regressors"):
            self.SCORER(maml, LINES)
        with pytest.raises(TypeError, match="a classifier or a regressor, got"):
            self.SCORER(StandardScaler(), LINES)
        with pytest.raises(TypeError, match="LinearRegression cannot adapt to tasks"):
            make_episode_scorer()(LinearRegression(), LINES)
        with pytest.raises(NotFittedError):
            make_episode_scorer()(clone(maml), LINES)


GRID = {"alpha": [1e-3, 1.0, 1e3]}
SEARCHES = {
    "grid": lambda **kw: GridSearchCV(MetaRidge(), GRID, **kw),
    "random": lambda **kw: RandomizedSearchCV(
        MetaRidge(), GRID, n_iter=3, random_state=0, **kw
    ),
    "halving": lambda **kw: HalvingGridSearchCV(
        MetaRidge(), GRID, min_resources=4, factor=2, random_state=0, **kw
    ),
}
SCORING = make_episode_scorer("mae", n_shot=4, n_episodes=2)


class TestSearches:
    @pytest.mark.parametrize("kind", SEARCHES)
    @pytest.mark.parametrize("form", ["tasks", "long"])
    def test_winner(self, routing, kind, form):
        search = SEARCHES[kind](
            scoring=SCORING, cv=TaskKFold(2), error_score="raise", refit=True
        )
        if form == "tasks":
            search.fit(LINES)
        elif kind == "halving":
            # It subsamples rows: tasks lose some.
            search.set_params(min_resources=48).fit(*LONG[:2], groups=LONG[2])
        else:
            search.fit(*LONG[:2], groups=LONG[2])
        assert search.best_params_["alpha"] < 1e3
        assert -5 < search.best_score_ < 0
        assert SCORING(search, lines(seed=3)) < 0

    def test_every_form_gives_the_same_scores(self, routing):
        results = []
        for given in (
            {"X": LINES},
            {"X": list(LINES)},
            {"X": LONG[0], "y": LONG[1], "groups": LONG[2]},
        ):
            search = SEARCHES["grid"](scoring=SCORING, cv=TaskKFold(2))
            results.append(search.fit(**given).cv_results_["mean_test_score"])
        assert np.array_equal(results[0], results[1])
        assert np.array_equal(results[0], results[2])

    def test_all_candidates_meet_the_same_episodes(self):
        """Whatever their own n_shot: only the scorer's protocol counts."""
        MetaRidge.supports.clear()
        search = GridSearchCV(
            MetaRidge(),
            {"alpha": [0.1, 1.0], "n_shot": [2, 7]},
            scoring=SCORING,
            cv=TaskKFold(2),
        )
        search.fit(LINES)
        met = {}
        for alpha, n_shot, support in MetaRidge.supports:
            met.setdefault((alpha, n_shot), []).append(support)
        first, *others = met.values()
        assert len(met) == 4 and len(first) == 2 * len(LINES)
        assert all(other == first for other in others)
        assert len(set(first)) == len(first)

    def test_several_scorers(self):
        scoring = {
            "error": make_episode_scorer("mae", n_episodes=2),
            "one shot": make_episode_scorer("mae", n_shot=1, n_episodes=2),
        }
        search = SEARCHES["grid"](
            scoring=scoring, cv=TaskKFold(2), refit="error", error_score="raise"
        )
        search.fit(LINES)
        errors, one_shot = (search.cv_results_[f"mean_test_{name}"] for name in scoring)
        assert np.argmax(errors) == search.best_index_
        assert not np.allclose(errors, one_shot)

    def test_one_scorer_of_several_metrics(self):
        together = SEARCHES["grid"](
            scoring=make_episode_scorer(["mae", "r2"], n_episodes=2),
            cv=TaskKFold(2),
            refit="r2",
        ).fit(LINES)
        alone = SEARCHES["grid"](
            scoring=make_episode_scorer("mae", n_episodes=2), cv=TaskKFold(2)
        ).fit(LINES)
        found = together.cv_results_["mean_test_mae"]
        assert np.array_equal(found, alone.cv_results_["mean_test_score"])

    def test_threads_and_processes_give_the_same(self):
        found = []
        for backend in ("sequential", "threading", "loky"):
            search = SEARCHES["grid"](scoring=SCORING, cv=TaskKFold(2))
            with joblib.parallel_config(backend, n_jobs=2):
                found.append(search.fit(LINES).cv_results_["mean_test_score"])
        assert np.array_equal(found[0], found[1])
        assert np.array_equal(found[0], found[2])

    def test_nested(self):
        search = SEARCHES["grid"](scoring=SCORING, cv=TaskKFold(2))
        scores = cross_val_score(
            search, LINES, scoring=SCORING, cv=TaskKFold(2), error_score="raise"
        )
        assert scores.shape == (2,) and (scores < 0).all()

    def test_errors_are_raised_when_asked_for(self):
        scoring = make_episode_scorer("neg_mean_squared_log_error")
        message = r"metric 'neg_mean_squared_log_error' fails on task 'line 0-\d'"
        with pytest.raises(ValueError, match=message):
            cross_val_score(
                MetaRidge(),
                LINES,
                scoring=scoring,
                cv=TaskKFold(2),
                error_score="raise",
            )


class TestValidation:
    def test_cross_validate(self):
        found = cross_validate(
            MetaRidge(),
            LINES,
            scoring={"mae": SCORING, "r2": make_episode_scorer("r2", n_episodes=1)},
            cv=TaskKFold(4),
            return_train_score=True,
            return_estimator=True,
            error_score="raise",
        )
        expected = [
            SCORING(model, LINES[test])
            for model, (_, test) in zip(
                found["estimator"], TaskKFold(4).split(LINES), strict=True
            )
        ]
        assert found["test_mae"].tolist() == expected

    def test_cross_validate_in_long_format(self, routing):
        long = cross_validate(
            MetaRidge(),
            *LONG[:2],
            params={"groups": LONG[2]},
            scoring=SCORING,
            cv=TaskKFold(4),
            error_score="raise",
        )
        tasks = cross_validate(MetaRidge(), LINES, scoring=SCORING, cv=TaskKFold(4))
        assert long["test_score"].tolist() == tasks["test_score"].tolist()

    def test_learning_curve(self):
        sizes, train, test = learning_curve(
            MetaRidge(),
            LINES,
            None,
            scoring=SCORING,
            cv=TaskKFold(2),
            train_sizes=[0.5, 1.0],
            error_score="raise",
        )
        assert sizes.tolist() == [2, 4]
        assert train.shape == test.shape == (2, 2) and (test < 0).all()

    def test_validation_curve(self):
        _, test = validation_curve(
            MetaRidge(),
            LINES,
            None,
            param_name="alpha",
            param_range=[1e-3, 1e3],
            scoring=SCORING,
            cv=TaskKFold(2),
            error_score="raise",
        )
        assert test.shape == (2, 2)
        assert test[0].mean() > test[1].mean()

    def test_classes_of_a_pool(self):
        scores = cross_val_score(
            MetaNeighbours(),
            ClassPool(POOL.X.reshape(-1, 64), POOL.y),
            scoring=make_episode_scorer(n_shot=1, n_query=5, n_episodes=10),
            cv=TaskKFold(2),
            error_score="raise",
        )
        assert (scores > 0.6).all()


class TestPipelines:
    SCORER = make_episode_scorer("rmse", n_shot=4, n_episodes=2)

    def test_stock_and_meta_pipelines_agree(self, routing):
        grid = {"mamlregressor__inner_lr": [0.01, 0.1]}
        meta = MAMLRegressor(max_iter=10, random_state=0)
        common = {"scoring": self.SCORER, "cv": TaskKFold(2), "error_score": "raise"}
        stock = GridSearchCV(make_pipeline(StandardScaler(), meta), grid, **common)
        stock.fit(*LONG[:2], groups=LONG[2])
        ours = GridSearchCV(make_meta_pipeline(StandardScaler(), meta), grid, **common)
        ours.fit(LINES)
        np.testing.assert_allclose(
            stock.cv_results_["mean_test_score"],
            ours.cv_results_["mean_test_score"],
            rtol=1e-5,
        )
        assert self.SCORER(ours, LINES) == pytest.approx(
            self.SCORER(stock, LINES), rel=1e-5
        )

    def test_only_a_copy_of_the_last_step_adapts(self, maml):
        pipe = make_pipeline(StandardScaler().fit(LONG[0]), maml)
        before = dict(maml.__dict__)
        assert self.SCORER(pipe, LINES) < 0
        assert maml.__dict__ == before


class TestLongFormatWithoutGroups:
    def test_remedies(self):
        with pytest.raises(ValueError, match="X and y alone do not say which rows"):
            SCORING(MetaRidge().fit(LINES), *LONG[:2])

    def test_in_a_search_without_routing(self):
        with pytest.raises(ValueError, match="enable_metadata_routing=True"):
            SEARCHES["grid"](scoring=SCORING, cv=TaskKFold(2), error_score="raise").fit(
                *LONG[:2], groups=LONG[2]
            )

    def test_row_wise_scorers_name_this_one(self, routing, maml):
        with pytest.raises(NotFittedError, match="make_episode_scorer"):
            cross_val_score(
                clone(maml),
                *LONG[:2],
                params={"groups": LONG[2]},
                scoring="r2",
                cv=TaskKFold(2),
                error_score="raise",
            )
