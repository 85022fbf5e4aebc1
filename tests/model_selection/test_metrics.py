"""Metrics of episodes: scikit-learn's own values, episode by episode, as the oracle."""

import math
from functools import partial

import numpy as np
import pytest
import sklearn.metrics
from scipy.integrate import trapezoid
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.datasets import make_classification, make_regression
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.linear_model import BayesianRidge, LinearRegression
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC
from sklearn.utils.fixes import parse_version

from sklmeta import TaskSet
from sklmeta.model_selection import compare, evaluate, make_episode_scorer
from sklmeta.model_selection._metrics import CLASSIFICATION, REGRESSION, as_metrics
from sklmeta.model_selection._predictions import EpisodePrediction
from sklmeta.model_selection._protocol import EpisodeProtocol

NEW_BRIER = parse_version(sklearn.__version__) >= parse_version("1.7")


class Refit(BaseEstimator):
    """A meta-learner that learns nothing from tasks and fits on support rows."""

    def __init__(self, estimator=None):
        self.estimator = estimator

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        return clone(self.estimator).fit(X, y)


class RefitClassifier(ClassifierMixin, Refit):
    pass


class RefitRegressor(RegressorMixin, Refit):
    pass


def labelled_tasks(classes, n_tasks=2, n_rows=40, labels="shared"):
    pairs = []
    for seed in range(n_tasks):
        X, y = make_classification(
            n_rows,
            n_features=5,
            n_informative=4,
            n_redundant=0,
            n_classes=len(classes),
            n_clusters_per_class=1,
            flip_y=0.3,
            random_state=seed,
        )
        pairs.append((X, np.array(classes)[y]))
    return TaskSet(pairs, labels=labels)


def numbered_tasks(n_outputs=1, n_tasks=2):
    pairs = []
    for seed in range(n_tasks):
        X, y = make_regression(30, 4, n_targets=n_outputs, noise=20, random_state=seed)
        pairs.append((X, np.abs(y) + 1))
    return TaskSet(pairs)


def predictions(n_classes, classes=None, seed=0):
    """Made-up predictions of ragged episodes, some of which miss classes."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n_classes) if classes is None else np.array(classes)
    found = []
    for size in (1, 7, 20, 33):
        y_true = rng.choice(classes, size)
        proba = rng.dirichlet(np.full(n_classes, 0.5), size)
        y_pred = classes[proba.argmax(1)]
        found.append(EpisodePrediction(y_true, y_pred, classes, proba))
    return found


def numbers(n_outputs, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(s,) if n_outputs is None else (s, n_outputs) for s in (1, 6, 25)]
    return [
        EpisodePrediction(*rng.normal(size=(2, *shape)), std=rng.uniform(1, 2, shape))
        for shape in shapes
    ]


def brier(y, proba, classes):
    if len(classes) == 2:
        return sklearn.metrics.brier_score_loss(y == classes[1], proba[:, 1])
    if NEW_BRIER:
        return sklearn.metrics.brier_score_loss(y, proba, labels=classes)
    return np.mean(((y[:, None] == classes) - proba) ** 2) * len(classes)


def calibration_error(episode, n_bins=10):
    """Ten bins of equal width, an edge belonging to the bin below it."""
    best = episode.proba.argmax(1)
    stated = episode.proba[np.arange(len(best)), best]
    right = episode.classes[best] == episode.y_true
    total = 0.0
    for k in range(n_bins):
        own = (stated > k / n_bins) & (stated <= (k + 1) / n_bins)
        if own.any():
            total += own.mean() * abs(right[own].mean() - stated[own].mean())
    return total


def integrated(episode):
    """The continuous ranked probability score by its definition, on a fine grid."""
    y, mean, std = (x[..., None] for x in (episode.y_true, episode.y_pred, episode.std))
    grid = np.linspace(-20, 20, 20001)
    rows = (norm.cdf(grid, mean, std) - (grid >= y)) ** 2
    return trapezoid(rows, grid).mean()


def inside(episode, level):
    low, high = norm.interval(level, episode.y_pred, episode.std)
    return np.mean((low <= episode.y_true) & (episode.y_true <= high))


ORACLES = {
    "ece": calibration_error,
    "crps": integrated,
    "coverage": lambda e: inside(e, 0.9),
    "interval_width": lambda e: np.mean(2 * 1.6448536269514722 * e.std),
    "accuracy": lambda e: sklearn.metrics.accuracy_score(e.y_true, e.y_pred),
    "log_loss": lambda e: sklearn.metrics.log_loss(e.y_true, e.proba, labels=e.classes),
    "brier_score": lambda e: brier(e.y_true, e.proba, e.classes),
    "mse": lambda e: sklearn.metrics.mean_squared_error(e.y_true, e.y_pred),
    "rmse": lambda e: sklearn.metrics.root_mean_squared_error(e.y_true, e.y_pred),
    "mae": lambda e: sklearn.metrics.mean_absolute_error(e.y_true, e.y_pred),
    "nlpd": lambda e: np.mean(
        np.log(e.std)
        + math.log(2 * math.pi) / 2
        + ((e.y_true - e.y_pred) / e.std) ** 2 / 2
    ),
}
TWINS = {
    "neg_log_loss": "log_loss",
    "neg_brier_score": "brier_score",
    "neg_mean_squared_error": "mse",
    "neg_root_mean_squared_error": "rmse",
    "neg_mean_absolute_error": "mae",
}


class TestTogether:
    """What is computed for all episodes at once."""

    def test_all_have_an_oracle(self):
        assert {*CLASSIFICATION, *REGRESSION} == {*ORACLES, *TWINS}

    @pytest.mark.parametrize("name", CLASSIFICATION)
    @pytest.mark.parametrize("classes", [[0, 1], ["no", "yes"], list("abcd")])
    def test_classification(self, name, classes):
        episodes = predictions(len(classes), classes)
        (metric,) = as_metrics(name, True)
        oracle, sign = ORACLES[TWINS.get(name, name)], -1 if name in TWINS else 1
        expected = [sign * oracle(episode) for episode in episodes]
        np.testing.assert_allclose(metric.compute(episodes, None), expected)

    @pytest.mark.parametrize("name", REGRESSION)
    @pytest.mark.parametrize("n_outputs", [None, 1, 3])
    def test_regression(self, name, n_outputs):
        episodes = numbers(n_outputs)
        (metric,) = as_metrics(name, False)
        oracle, sign = ORACLES[TWINS.get(name, name)], -1 if name in TWINS else 1
        expected = [sign * oracle(episode) for episode in episodes]
        rtol = 1e-3 if name == "crps" else 1e-7
        np.testing.assert_allclose(metric.compute(episodes, None), expected, rtol)

    def test_one_episode_alone(self):
        episodes = predictions(3)
        for name in CLASSIFICATION:
            (metric,) = as_metrics(name, True)
            alone = [metric.compute([episode], None)[0] for episode in episodes]
            np.testing.assert_allclose(alone, metric.compute(episodes, None))

    def test_ways_may_differ_between_episodes(self):
        episodes = [*predictions(2), *predictions(5, list("vwxyz"))]
        for name in ("log_loss", "brier_score"):
            (metric,) = as_metrics(name, True)
            expected = [ORACLES[name](episode) for episode in episodes]
            np.testing.assert_allclose(metric.compute(episodes, None), expected)

    def test_a_class_that_could_not_be_predicted(self):
        """It had probability 0: the worst Brier score, and a large finite loss."""
        given = EpisodePrediction(
            np.array(["c"]), np.array(["a"]), np.array(["a", "b"]), np.array([[1.0, 0]])
        )
        (brier_score,), (log_loss,) = (
            as_metrics(name, True) for name in ("brier_score", "log_loss")
        )
        assert brier_score.compute([given], None) == [1.0]
        assert log_loss.compute([given], None) == pytest.approx(-math.log(2**-52))

    def test_certain_and_wrong_is_finite(self):
        given = EpisodePrediction(
            np.array([0]), np.array([1]), np.array([0, 1]), np.array([[0.0, 1.0]])
        )
        (log_loss,) = as_metrics("log_loss", True)
        assert log_loss.compute([given], None) == pytest.approx(-math.log(2**-52))


PROTOCOL = {"n_shot": 15, "n_episodes": 2}


def one_by_one(meta, tasks, scorer):
    """Return the scores of adapted estimators, as scikit-learn gives them."""
    drawn = EpisodeProtocol(**PROTOCOL).draw(tasks, isinstance(meta, ClassifierMixin))
    X, y = drawn.rows.X, drawn.y
    scores = []
    for e in range(len(drawn)):
        support, query = drawn.support_rows(e), drawn.query_rows(e)
        scores.append(scorer(meta.adapt(X[support], y[support]), X[query], y[query]))
    return scores


CASES = {
    "binary": (RefitClassifier(GaussianNB(var_smoothing=1)), labelled_tasks([0, 1])),
    "words": (
        RefitClassifier(GaussianNB(var_smoothing=1)),
        labelled_tasks(["no", "yes"]),
    ),
    "classes": (
        RefitClassifier(GaussianNB(var_smoothing=1)),
        labelled_tasks(list("abc")),
    ),
    "numbers": (RefitRegressor(LinearRegression()), numbered_tasks()),
    "outputs": (RefitRegressor(LinearRegression()), numbered_tasks(2)),
}


class TestScikitLearns:
    @pytest.mark.filterwarnings("ignore::UserWarning")
    @pytest.mark.parametrize("name", get_scorer_names())
    @pytest.mark.parametrize("case", CASES)
    def test_any_scorer_name(self, name, case):
        """The value that the scorer gives for the adapted estimator, or its error."""
        meta, tasks = CASES[case]
        meta = clone(meta).fit(tasks)
        labels = isinstance(meta, ClassifierMixin)
        if name in (REGRESSION if labels else CLASSIFICATION):
            with pytest.raises(ValueError, match="is not for"):
                evaluate(meta, tasks, metric=name, **PROTOCOL)
            return
        if name == "neg_brier_score":
            return  # ours takes any number of classes, scikit-learn 1.6's only two
        try:
            expected = one_by_one(meta, tasks, get_scorer(name))
        except Exception as error:
            with pytest.raises(type(error), match=r"fails on task \d"):
                evaluate(meta, tasks, metric=name, **PROTOCOL)
            return
        found = evaluate(meta, tasks, metric=name, **PROTOCOL).scores["score"]
        np.testing.assert_allclose(found, expected)

    @pytest.mark.parametrize(
        "metric",
        [
            make_scorer(sklearn.metrics.f1_score, average="macro", pos_label=None),
            make_scorer(sklearn.metrics.f1_score, pos_label="yes"),
            make_scorer(
                sklearn.metrics.log_loss,
                response_method="predict_proba",
                greater_is_better=False,
                labels=["no", "yes"],
            ),
            make_scorer(sklearn.metrics.roc_auc_score, response_method="predict_proba"),
        ],
        ids=["f1 macro", "f1 of yes", "log loss", "roc auc"],
    )
    def test_scorer_objects(self, metric):
        meta, tasks = CASES["words"]
        meta = clone(meta).fit(tasks)
        expected = one_by_one(meta, tasks, metric)
        found = evaluate(meta, tasks, metric=metric, **PROTOCOL).scores
        np.testing.assert_allclose(found["score"], expected)
        (name,) = found["metric"].unique()
        assert name in (
            "f1_score(average=macro, pos_label=None)",
            "f1_score(pos_label=yes)",
            "neg_log_loss(labels=['no', 'yes'])",
            "roc_auc_score",
        )

    def test_metric_functions(self):
        meta, tasks = CASES["numbers"]
        meta = clone(meta).fit(tasks)
        function = sklearn.metrics.median_absolute_error
        expected = one_by_one(meta, tasks, make_scorer(function))
        found = evaluate(meta, tasks, metric=function, **PROTOCOL).scores
        np.testing.assert_allclose(found["score"], expected)
        assert found["metric"].unique().tolist() == ["median_absolute_error"]

    def test_callable_scorers_see_estimator_rows_and_targets(self):
        meta, tasks = CASES["words"]
        meta, seen = clone(meta).fit(tasks), []

        def surprise(estimator, X, y):
            seen.append((X, y))
            assert estimator.classes_.tolist() == ["no", "yes"]
            hit = estimator.predict_proba(X)[:, 1][y == "yes"]
            return -np.log(hit).mean()

        found = evaluate(meta, tasks, metric=surprise, **PROTOCOL).scores["score"]
        np.testing.assert_allclose(found, one_by_one(meta, tasks, surprise))
        drawn = EpisodeProtocol(**PROTOCOL).draw(tasks, True)
        X, y = seen[-1]
        assert np.array_equal(X, drawn.rows.X[drawn.query_rows(len(drawn) - 1)])
        assert np.array_equal(y, drawn.y[drawn.query_rows(len(drawn) - 1)])

    def test_pos_label_names_the_task(self):
        meta, tasks = CASES["words"]
        message = r"metric 'f1' fails on task 0 \(episode 0\): pos_label=1 is not"
        with pytest.raises(ValueError, match=message):
            evaluate(clone(meta).fit(tasks), tasks, metric="f1", **PROTOCOL)

    def test_any_failure_names_the_task(self):
        meta, tasks = CASES["numbers"]

        def fails(y_true, y_pred):
            return 1 / 0

        message = r"metric 'fails' fails on task 0 \(episode 0\): division by zero"
        with pytest.raises(ZeroDivisionError, match=message):
            evaluate(clone(meta).fit(tasks), tasks, metric=fails, **PROTOCOL)

    def test_no_probabilities(self):
        tasks = labelled_tasks([0, 1])
        meta = RefitClassifier(LinearSVC()).fit(tasks)
        evaluate(meta, tasks, metric=["accuracy", "f1"], **PROTOCOL)
        with pytest.raises(TypeError, match="LinearSVC has no predict_proba"):
            evaluate(meta, tasks, metric="log_loss", **PROTOCOL)

    def test_multi_output_targets_of_a_classifier(self):
        tasks = numbered_tasks(2)
        with pytest.raises(ValueError, match="task 0"):
            meta = RefitClassifier(GaussianNB(var_smoothing=1)).fit(tasks)
            evaluate(meta, tasks, **PROTOCOL)


class TestUndefined:
    """Queries with one class: no ROC AUC, and no warning for each of them."""

    def tasks(self):
        rng = np.random.default_rng(0)
        one = np.array([0, 1] * 5 + [1] * 10)  # the support has both, the query one
        both = np.array([0, 1] * 10)
        mask = np.arange(20) < 10
        X = rng.normal(size=(20, 2))
        return TaskSet.from_arrays(
            np.tile(X, (3, 1)),
            np.concatenate([both, one, both]),
            np.repeat(["a", "b", "c"], 20),
            support=np.tile(mask, 3),
        )

    def test_left_out_with_one_warning(self):
        tasks = self.tasks()
        meta = RefitClassifier(GaussianNB(var_smoothing=1)).fit(tasks)
        message = "'roc_auc' is not defined on 1 of 3 episodes"
        with pytest.warns(UndefinedMetricWarning, match=message):
            result = evaluate(meta, tasks, metric=["roc_auc", "accuracy"])
        scores = result.scores.set_index(["metric", "task"])["score"]
        assert np.isnan(scores["roc_auc", "b"])
        assert scores.notna().sum() == 5
        summary = result.summary()
        assert summary["n_tasks"].tolist() == [2, 3]
        assert summary.loc["roc_auc", "mean"] == pytest.approx(
            (scores["roc_auc", "a"] + scores["roc_auc", "c"]) / 2
        )
        with pytest.warns(UndefinedMetricWarning, match=message):
            value = make_episode_scorer("roc_auc")(meta, tasks)
        assert value == pytest.approx(summary.loc["roc_auc", "mean"])

    @pytest.mark.parametrize("n_jobs", [None, 1])
    def test_ill_defined_is_told_once(self, n_jobs):
        """What scikit-learn says of every episode of every method."""
        tasks = labelled_tasks([0, 1])
        methods = {
            name: RefitClassifier(DummyClassifier(strategy="constant", constant=0))
            for name in "ab"
        }
        with pytest.warns(
            match="metric 'precision_macro', on one .*ill-defined"
        ) as record:
            compare(
                methods,
                tasks,
                cv=2,
                metric=["precision_macro", "accuracy"],
                n_jobs=n_jobs,
            )
        assert [w.category for w in record] == [UndefinedMetricWarning]
        assert record[0].filename == __file__
        meta = methods["a"].fit(tasks)
        for judge in (
            lambda: evaluate(meta, tasks, metric="precision_macro"),
            lambda: make_episode_scorer("precision_macro")(meta, tasks),
        ):
            with pytest.warns(UndefinedMetricWarning) as record:
                judge()
            assert len(record) == 1
            assert record[0].filename == __file__

    def test_nan_of_ones_own_metric(self):
        """Nobody else knows why it gives NaN."""
        tasks = numbered_tasks()
        meta = RefitRegressor(LinearRegression()).fit(tasks)

        def own(y_true, y_pred):
            return np.nan if y_true[0] > limit else 1.0

        limit = np.median(tasks.rows().y)
        message = r"^metric 'own' gives NaN on \d+ of \d+ episodes; they are left out"
        with pytest.warns(UndefinedMetricWarning, match=message):
            evaluate(meta, tasks, metric=own)
        limit = -np.inf
        message = r"metric 'own' gives NaN on each of the \d+ episodes. Return"
        with pytest.raises(ValueError, match=message):
            evaluate(meta, tasks, metric=own)

    def test_nowhere_defined(self):
        tasks = self.tasks()[[1]]
        meta = RefitClassifier(GaussianNB(var_smoothing=1)).fit(tasks)
        with pytest.raises(ValueError, match=r"not defined on any of the 1 episodes"):
            evaluate(meta, tasks, metric="roc_auc")

    @pytest.mark.parametrize("name", ["roc_auc_ovr", "roc_auc_ovo_weighted"])
    def test_queries_that_lack_a_class(self, name):
        """scikit-learn has no value of one class against the rest without its rows."""
        tasks = labelled_tasks(list("abc"), n_tasks=6)
        meta = RefitClassifier(GaussianNB(var_smoothing=1)).fit(tasks)
        few = {"n_shot": 15, "n_query": 5, "n_episodes": 4}
        drawn = EpisodeProtocol(**few).draw(tasks, True)
        lack = [len(np.unique(drawn.y[drawn.query_rows(e)])) < 3 for e in range(24)]
        assert 0 < sum(lack) < 24
        message = f"'{name}' is not defined on {sum(lack)} of 24 episodes"
        with pytest.warns(UndefinedMetricWarning, match=message):
            result = evaluate(meta, tasks, metric=name, **few)
        assert result.scores["score"].isna().tolist() == lack

    def test_r2_of_one_row(self):
        tasks = TaskSet([(np.arange(n)[:, None], np.arange(n)) for n in (6, 12, 12)])
        meta = RefitRegressor(LinearRegression()).fit(tasks)
        message = "'r2' is not defined on 4 of 12 episodes"
        with pytest.warns(UndefinedMetricWarning, match=message):
            result = evaluate(meta, tasks, metric="r2", n_episodes=4)
        assert result.summary().loc["r2", "n_tasks"] == 2


class TestDensity:
    def test_closed_form(self):
        """The mean over rows of minus the normal's log density."""
        tasks = numbered_tasks()
        meta = RefitRegressor(BayesianRidge()).fit(tasks)

        def density(model, X, y):
            mean, std = model.predict(X, return_std=True)
            return np.mean(
                np.log(2 * np.pi * std**2) / 2 + (y - mean) ** 2 / (2 * std**2)
            )

        found = evaluate(meta, tasks, metric=["nlpd", "rmse"], **PROTOCOL)
        scores = found.scores.set_index("metric")["score"]
        np.testing.assert_allclose(scores["nlpd"], one_by_one(meta, tasks, density))
        assert found.summary().loc["rmse", "mean"] > 0
        turned = make_episode_scorer("nlpd", **PROTOCOL)(meta, tasks)
        assert turned == pytest.approx(-found.summary().loc["nlpd", "mean"])

    def test_learners_without_a_density(self):
        tasks = numbered_tasks()
        meta = RefitRegressor(LinearRegression()).fit(tasks)
        message = "needs predictive standard deviations, and LinearRegression gives"
        with pytest.raises(TypeError, match=message):
            evaluate(meta, tasks, metric="nlpd", **PROTOCOL)


class TestNames:
    def test_default(self):
        assert [m.name for m in as_metrics(None, True)] == ["accuracy"]
        assert [m.name for m in as_metrics(None, False)] == ["rmse"]

    def test_several(self):
        names = [m.name for m in as_metrics(["r2", "mae"], False)]
        assert names == ["r2", "mae"]
        named = as_metrics({"error": "rmse", "own": lambda y, p: 0.0}, False)
        assert [m.name for m in named] == ["error", "own"]
        assert [m.greater_is_better for m in named] == [False, True]

    @pytest.mark.parametrize(
        ("metric", "name"),
        [
            (get_scorer("r2"), "r2_score"),
            (get_scorer("neg_mean_absolute_error"), "neg_mean_absolute_error"),
            (
                partial(sklearn.metrics.mean_pinball_loss, alpha=0.1),
                "mean_pinball_loss",
            ),
            (
                make_scorer(sklearn.metrics.mean_pinball_loss, alpha=0.1),
                "mean_pinball_loss(alpha=0.1)",
            ),
            (make_scorer(lambda y, p: 0.0), "<lambda>"),
        ],
    )
    def test_of_objects(self, metric, name):
        assert [m.name for m in as_metrics(metric, False)] == [name]

    @pytest.mark.parametrize(
        ("metric", "meant"),
        [
            ("RMSE", "rmse"),
            ("r2_score", "r2"),
            ("mean_squared_error", "neg_mean_squared_error"),
        ],
    )
    def test_near_ones(self, metric, meant):
        with pytest.raises(ValueError, match=f"Did you mean '{meant}'"):
            as_metrics(metric, False)

    @pytest.mark.parametrize(
        ("metric", "error", "message"),
        [
            ("acuracy", ValueError, r"unknown\. Did you mean 'accuracy'\?"),
            ("accuracy_score", ValueError, "Did you mean 'accuracy'"),
            ("Balanced accuracy", ValueError, "Did you mean 'balanced_accuracy'"),
            ("xyz", ValueError, "'xyz' is unknown. Choose one of"),
            ("rmse", ValueError, "'rmse' is not for classifiers"),
            (3, TypeError, "must be a name, a scorer"),
            ([], ValueError, "metric is empty"),
            (["f1", "f1"], ValueError, "Two metrics have one name"),
            (make_episode_scorer("accuracy"), TypeError, "is an episode scorer"),
        ],
    )
    def test_refused(self, metric, error, message):
        with pytest.raises(error, match=message):
            as_metrics(metric, True)

    def test_of_the_other_kind(self):
        with pytest.raises(ValueError, match="'log_loss' is not for regressors"):
            as_metrics("log_loss", False)
