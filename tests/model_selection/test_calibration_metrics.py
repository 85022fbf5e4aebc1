"""Metrics of stated uncertainty: oracles, and learners that know how far they err."""

import math
import pickle

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import GridSearchCV
from sklearn.svm import LinearSVC

from sklmeta import PerTaskClassifier, ProtoNetClassifier, TaskSet
from sklmeta.datasets import load_digits_pool
from sklmeta.model_selection import (
    TaskKFold,
    compare,
    evaluate,
    make_episode_scorer,
)
from sklmeta.model_selection._calibration_metrics import (
    bin_numbers,
    interval_metric,
    interval_name,
)
from sklmeta.model_selection._metrics import as_metrics
from sklmeta.model_selection._predictions import EpisodePrediction

PROTOCOL = {"n_shot": 3, "n_episodes": 2}


class NormalLevel(RegressorMixin, BaseEstimator):
    """Targets of variance 1 about a task's level, of prior variance 1: the posterior.

    Standard deviations are multiplied by `spread`, all is in multiples of `unit`.
    """

    def __init__(self, spread=1.0, unit=1.0):
        self.spread = spread
        self.unit = unit

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        return Posterior(y, self.spread, self.unit)


class Posterior(RegressorMixin, BaseEstimator):
    def __init__(self, y, spread, unit):
        self.y, self.spread, self.unit = y, spread, unit

    def predict(self, X, return_std=False):
        shape = (len(X), *self.y.shape[1:])
        mean = np.broadcast_to(self.y.sum(0) / (len(self.y) + 1), shape)
        std = self.unit * self.spread * math.sqrt(1 / (len(self.y) + 1) + 1)
        return (mean, np.full(shape, std)) if return_std else mean


class Stated(ClassifierMixin, BaseEstimator):
    """The feature is the probability of class 1, as it is stated."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict(self, X):
        return (X[:, 0] > 0.5).astype(int)

    def predict_proba(self, X):
        return np.stack([1 - X[:, 0], X[:, 0]], 1)


def level_tasks(n_tasks=200, unit=1.0, n_outputs=None, seed=0):
    """Ragged tasks of 8 to 40 rows."""
    rng = np.random.default_rng(seed)
    pairs = []
    for n in rng.integers(8, 41, n_tasks):
        shape = (n,) if n_outputs is None else (n, n_outputs)
        y = rng.normal(size=shape[1:]) + rng.normal(size=shape)
        pairs.append((np.zeros((n, 1)), unit * y))
    return TaskSet(pairs)


def coin_tasks(n_tasks, n_rows, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.uniform(size=(n_tasks, n_rows, 1))
    y = (rng.uniform(size=p.shape) < p).astype(int)[..., 0]
    y[:, :2] = 0, 1
    return TaskSet(list(zip(p, y, strict=True)))


def computed(name, episodes, labels=False):
    (metric,) = as_metrics(name, labels)
    return metric.compute(episodes, None)


def means(meta, tasks, metric, **protocol):
    return evaluate(meta, tasks, metric=metric, **protocol).summary()["mean"]


class TestDensities:
    def test_crps_is_the_integral_of_its_definition(self):
        rng = np.random.default_rng(0)
        y, mean, std = rng.normal(size=6), rng.normal(size=6), rng.uniform(0.2, 3, 6)
        rows = [
            quad(lambda t, m=m, s=s: norm.cdf(t, m, s) ** 2, -40, target)[0]
            + quad(lambda t, m=m, s=s: norm.sf(t, m, s) ** 2, target, 40)[0]
            for target, m, s in zip(y, mean, std, strict=True)
        ]
        alone = [
            EpisodePrediction(y[[i]], mean[[i]], std=std[[i]]) for i in range(len(y))
        ]
        np.testing.assert_allclose(computed("crps", alone), rows, rtol=1e-6)

    def test_crps_of_certainty_is_the_absolute_error(self):
        given = EpisodePrediction(
            np.array([3.0, 5.0]), np.array([1.0, 5.0]), std=np.full(2, 1e-12)
        )
        assert computed("crps", [given]) == pytest.approx(1.0)

    def test_far_off_is_finite(self):
        given = EpisodePrediction(np.array([1e6]), np.zeros(1), std=np.ones(1))
        for name in ("crps", "nlpd", "coverage", "interval_width"):
            assert np.isfinite(computed(name, [given])).all()

    def test_a_change_of_units(self):
        meta, names = NormalLevel(), ["nlpd", "crps", "coverage", "interval_width"]
        grams = means(meta.fit([]), level_tasks(20), names, **PROTOCOL)
        kilos = means(
            NormalLevel(unit=1e-3).fit([]), level_tasks(20, 1e-3), names, **PROTOCOL
        )
        want = [grams["nlpd"] + math.log(1e-3), grams["crps"] / 1e3]
        want += [grams["coverage"], grams["interval_width"] / 1e3]
        np.testing.assert_allclose(kilos, want, rtol=1e-9)

    def test_the_truth_is_best(self):
        """A search by densities finds it; one by coverage the widest intervals."""
        tasks = level_tasks(100)

        def best(metric):
            scoring = make_episode_scorer(metric, **PROTOCOL)
            search = GridSearchCV(
                NormalLevel(),
                {"spread": [0.5, 1.0, 2.0]},
                scoring=scoring,
                cv=TaskKFold(2),
                refit=metric[0] if isinstance(metric, list) else True,
                error_score="raise",
            )
            return search.fit(tasks).best_params_["spread"]

        assert best("nlpd") == best("crps") == 1.0
        assert best("coverage") == 2.0
        assert best("interval_width") == 0.5
        assert best(["nlpd", "coverage"]) == 1.0


class TestIntervals:
    @pytest.mark.parametrize("n_outputs", [None, 2])
    def test_exact_posteriors_have_nominal_coverage(self, n_outputs):
        tasks, levels = level_tasks(n_outputs=n_outputs), [50, 80, 90, 97.5]
        names = [f"coverage_{level:g}" for level in levels]
        result = evaluate(
            NormalLevel().fit(tasks), tasks, metric=names, confidence=0.99, **PROTOCOL
        )
        found = result.summary()
        assert list(found.index) == names
        share = np.array(levels) / 100
        assert ((found["low"] <= share) & (share <= found["high"])).all()
        assert (found["high"] - found["low"]).max() < 0.12
        assert result.scores["score"].notna().all()

    def test_widths_are_of_the_level(self):
        tasks = level_tasks(5)
        names = ["interval_width", "interval_width_50", "interval_width_90"]
        found = means(NormalLevel().fit(tasks), tasks, names, **PROTOCOL)
        std = math.sqrt(1 / 4 + 1)
        np.testing.assert_allclose(found.iloc[1], 2 * norm.ppf(0.75) * std)
        assert found.iloc[0] == found.iloc[2] == pytest.approx(2 * 1.644853627 * std)

    def test_ends_belong_to_the_interval(self):
        ends = np.array([norm.ppf(0.95), -norm.ppf(0.95), 1.65, -1.65])
        given = EpisodePrediction(ends, np.zeros(4), std=np.ones(4))
        assert computed("coverage", [given]) == pytest.approx(0.5)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("coverage_0", "ends in '0', .* from 1 to below 100"),
            ("coverage_100", "ends in '100', .* as in 'coverage_80'"),
            ("interval_width_wide", "as in 'interval_width_80' or 'interval_width_97"),
            ("coverage_0.9", "Did you mean 'coverage_90'"),
            ("coverage_0.9999999", "Did you mean 'coverage_99.99999'"),
            ("coverage_0.001", "as in 'coverage_80' or 'coverage_97.5'.$"),
            ("coverage_90%", "ends in '90%', .* Did you mean 'coverage_90'"),
            ("coverage_-5", "ends in '-5'"),
            ("coverage_nan", "ends in 'nan'"),
            ("coverage_", "ends in ''"),
        ],
    )
    def test_levels_that_are_none(self, name, message):
        with pytest.raises(ValueError, match=message):
            as_metrics(name, False)
        with pytest.raises(ValueError, match=message):
            make_episode_scorer(name)

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("coverage90", "coverage_90"),
            ("Coverage_90", "coverage_90"),
            ("coverage-90", "coverage_90"),
            ("Coverage 97.5 %", "coverage_97.5"),
            ("coverage0.8", "coverage_80"),
            ("Interval Width-50", "interval_width_50"),
            ("intervalwidth", "interval_width"),
        ],
    )
    def test_names_that_are_nearly_right(self, name, meant):
        with pytest.raises(ValueError, match=f"unknown. Did you mean '{meant}'"):
            as_metrics(name, False)
        with pytest.raises(ValueError, match=f"unknown. Did you mean '{meant}'"):
            make_episode_scorer(name)

    def test_unknown_names_are_answered_with_the_form_of_levels(self):
        form = "coverage_<percent>, interval_width_<percent>"
        with pytest.raises(ValueError, match=f"'xyz' is unknown. .*{form}"):
            as_metrics("xyz", False)
        with pytest.raises(ValueError, match="'coverage90' is unknown") as caught:
            as_metrics("coverage90", True)
        assert "percent" not in str(caught.value)
        assert "coverage_90" not in str(caught.value)

    @pytest.mark.parametrize("level", [0.01, 0.07, 0.29, 0.5, 0.975, 0.9999999])
    def test_names_of_levels(self, level):
        name = interval_name("coverage", level)
        compute, _, _ = interval_metric(name)
        assert compute.keywords["level"] == pytest.approx(level, rel=1e-15)
        assert len(name) <= len("coverage_99.99999")

    def test_levels_are_told_before_anything_is_scored(self):
        assert repr(make_episode_scorer("coverage_80")).endswith("('coverage_80')")
        assert [m.name for m in as_metrics({"c": "coverage_80"}, False)] == ["c"]

    def test_are_not_for_classifiers(self):
        for name in ("coverage", "coverage_80", "crps"):
            with pytest.raises(ValueError, match=f"'{name}' is not for classifiers"):
                as_metrics(name, True)

    def test_directions(self):
        tasks = level_tasks(5)
        names = ["coverage", "interval_width_80", "crps"]
        table = compare(
            {"a": NormalLevel(), "b": NormalLevel(2.0)},
            tasks,
            train_tasks=tasks,
            metric=names,
            **PROTOCOL,
        )
        assert table.greater_is_better == {
            "coverage": True,
            "interval_width_80": False,
            "crps": False,
        }
        assert "interval_width_80, crps (lower is better) on" in str(table)
        # Intervals of another width hold more or less, which is no win.
        found = table.summary().loc["a"].set_index("metric")
        assert found["difference"].notna().all()
        assert found["win_rate"].isna().tolist() == [True, True, False]
        turned = make_episode_scorer(names, **PROTOCOL)(NormalLevel().fit([]), tasks)
        assert turned["coverage"] > 0 > turned["interval_width_80"]

    def test_metrics_travel_to_other_processes(self):
        metrics = as_metrics(["coverage_80", "interval_width", "crps"], False)
        given = EpisodePrediction(np.zeros(3), np.ones(3), std=np.ones(3))
        for metric, back in zip(
            metrics, pickle.loads(pickle.dumps(metrics)), strict=True
        ):
            assert metric.compute([given], None) == back.compute([given], None)


class TestCalibrationError:
    def test_by_hand(self):
        """Bins (0.5, 0.6], (0.6, 0.7] and (0.9, 1]: of five rows 2, 2 and 1."""
        top = np.array([0.55, 0.6, 0.65, 0.7, 1.0])
        given = EpisodePrediction(
            np.array(["a", "b", "a", "a", "b"]),
            np.full(5, "a"),
            np.array(["a", "b"]),
            np.stack([top, 1 - top], 1),
        )
        gaps = [2 * abs(0.5 - 0.575), 2 * abs(1 - 0.675), abs(0 - 1)]
        assert computed("ece", [given], True) == pytest.approx(sum(gaps) / 5)

    def test_certain_and_right_is_without_error(self):
        y = np.arange(3)
        assert computed("ece", [EpisodePrediction(y, y, y, np.eye(3))], True) == 0

    def test_a_class_that_could_not_be_predicted_is_wrong(self):
        given = EpisodePrediction(
            np.array(["c"]),
            np.array(["a"]),
            np.array(["a", "b"]),
            np.array([[0.7, 0.3]]),
        )
        assert computed("ece", [given], True) == pytest.approx(0.7)

    def test_edges_belong_to_the_bin_below(self):
        edges = np.linspace(0, 1, 5)
        stated = np.array([0.0, 0.25, 0.26, 0.5, 1.0, 1 + 1e-12])
        assert bin_numbers(stated, edges).tolist() == [0, 0, 1, 1, 3, 3]

    def test_few_rows_bias_it_upwards(self):
        few = evaluate(Stated().fit([]), coin_tasks(200, 15), metric="ece", n_shot=5)
        many = evaluate(Stated().fit([]), coin_tasks(4, 5000), metric="ece", n_shot=5)
        assert few.summary().loc["ece", "mean"] > 0.2
        assert many.summary().loc["ece", "mean"] < 0.02

    def test_episodes_of_a_pool(self):
        pool = load_digits_pool()
        meta = ProtoNetClassifier("identity", max_iter=1, random_state=0).fit(pool[:5])
        found = evaluate(meta, pool[5:], metric="ece", n_shot=1, n_episodes=20)
        assert found.scores["score"].between(0, 1).all()
        with pytest.raises(ValueError, match="'ece' is not for regressors"):
            as_metrics("ece", False)

    def test_classifiers_without_probabilities(self):
        pool = load_digits_pool()
        meta = PerTaskClassifier(LinearSVC()).fit(pool[:5])
        with pytest.raises(TypeError, match="The metric needs probabilities"):
            evaluate(meta, pool[5:], metric="ece", n_episodes=1)
