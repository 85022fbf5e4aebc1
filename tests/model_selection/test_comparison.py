"""evaluate and compare: tidy scores, honest intervals, the same episodes for all."""

import pickle
import warnings
from dataclasses import replace

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.exceptions import NotFittedError, UndefinedMetricWarning
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklmeta import (
    ClassPool,
    FewShotRegressor,
    MAMLRegressor,
    PerTaskRegressor,
    PooledRegressor,
    ProtoNetClassifier,
    SmallTaskWarning,
    Task,
    TaskLeakageWarning,
    TaskSet,
)
from sklmeta.datasets import Sinusoids, load_digits_pool
from sklmeta.model_selection import (
    TaskKFold,
    _predictions,
    compare,
    evaluate,
    make_episode_scorer,
)
from sklmeta.model_selection._protocol import EpisodeProtocol
from sklmeta.pipeline import make_meta_pipeline


def lines(n_tasks=8, n_rows=12, seed=0):
    """Noisy lines, each with a slope of its own."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_tasks, n_rows, 2))
    slopes = rng.normal(size=(n_tasks, 2))
    y = np.einsum("trf,tf->tr", X, slopes) + rng.normal(size=(n_tasks, n_rows)) / 5
    tasks = [Task(X[t], y[t], f"line {seed}-{t}") for t in range(n_tasks)]
    return TaskSet(tasks)


LINES, TRAIN = lines(), lines(20, seed=1)
POOL = load_digits_pool()
FLAT = ClassPool(POOL.X.reshape(-1, 64), POOL.y)


class MetaRidge(RegressorMixin, BaseEstimator):
    """Ridge on support rows; remembers what it was fitted to."""

    def __init__(self, alpha=1.0, fails=""):
        self.alpha = alpha
        self.fails = fails

    def fit(self, X, y=None):
        if self.fails == "fit":
            raise RuntimeError("no luck")
        self.names_ = X.names
        return self

    def adapt(self, X, y):
        if self.fails == "adapt":
            raise ValueError("no luck")
        return Ridge(self.alpha).fit(X, y)


class MetaNeighbours(ClassifierMixin, BaseEstimator):
    def __init__(self, n_neighbors=1):
        self.n_neighbors = n_neighbors

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        return KNeighborsClassifier(self.n_neighbors).fit(X, y)


@pytest.fixture(scope="module")
def maml():
    return MAMLRegressor(max_iter=20, random_state=0).fit(TRAIN)


@pytest.fixture(scope="module")
def protonet():
    return ProtoNetClassifier("identity", random_state=0).fit(POOL[:5])


def table_of(result):
    """Return the lines of a printed table that are rows, as lists of cells."""
    end = -2 if "method" in result.scores else -1  # the notes below
    return [line.split() for line in str(result).split("\n")[2:end]]


class TestEvaluate:
    def test_tidy(self, maml):
        result = evaluate(maml, LINES, metric=["rmse", "mae"], n_episodes=3)
        scores = result.scores
        assert list(scores.columns) == ["task", "episode", "metric", "score"]
        assert len(scores) == 2 * 3 * len(LINES)
        assert not scores.duplicated(["task", "episode", "metric"]).any()
        assert set(scores["task"]) == set(LINES.names)
        assert result.unit == "task"

    def test_hand_loop(self, maml):
        """Each episode's score is that of adapt and predict on its rows."""
        result = evaluate(maml, LINES, n_shot=4, n_query=3, n_episodes=2)
        drawn = EpisodeProtocol(n_shot=4, n_query=3, n_episodes=2).draw(LINES, False)
        X, y, own = LINES.rows().X, LINES.rows().y, maml._own_copy()
        expected = []
        for e in range(len(drawn)):
            support, query = drawn.support_rows(e), drawn.query_rows(e)
            error = own.adapt(X[support], y[support]).predict(X[query]) - y[query]
            expected.append(np.sqrt(np.mean(error**2)))
        np.testing.assert_allclose(result.scores["score"], expected, rtol=1e-5)

    def test_interval_over_task_means(self, maml):
        result = evaluate(maml, LINES, n_episodes=3, confidence=0.9)
        means = result.scores.groupby("task")["score"].mean()
        expected = stats.ttest_1samp(means, 0).confidence_interval(0.9)
        row = result.summary().loc["rmse"]
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected))
        assert row["mean"] == pytest.approx(means.mean())
        assert row["n_tasks"] == len(LINES)

    def test_interval_over_the_episodes_of_a_pool(self, protonet):
        result = evaluate(protonet, POOL[5:], n_shot=1, n_query=5, n_episodes=30)
        expected = stats.ttest_1samp(result.scores["score"], 0)
        expected = expected.confidence_interval(0.95)
        row = result.summary().loc["accuracy"]
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected))
        assert row["n_episodes"] == 30
        assert result.scores["task"].tolist() == [(5, 6, 7, 8, 9)] * 30

    def test_repeated_tasks_count_as_often_as_they_come(self, maml):
        """As in a bootstrap over tasks, and as scorers count them."""
        tasks = LINES[[6, 6, 6, 7]]
        result = evaluate(maml, tasks, n_episodes=2)
        six, seven = (
            evaluate(maml, LINES[[t]], n_episodes=2).summary().loc["rmse", "mean"]
            for t in (6, 7)
        )
        row = result.summary().loc["rmse"]
        assert row["n_tasks"] == 4
        assert "on 4 tasks, 2 episodes each" in str(result)
        means = [six, six, six, seven]
        assert row["mean"] == pytest.approx(np.mean(means), rel=1e-5)
        expected = stats.ttest_1samp(means, 0).confidence_interval(0.95)
        assert row["high"] == pytest.approx(expected.high, rel=1e-5)
        scorer = make_episode_scorer("rmse", n_episodes=2)
        assert -scorer(maml, tasks) == pytest.approx(row["mean"])

    def test_bit_identical(self, maml):
        one, two = (evaluate(maml, LINES, n_episodes=2).scores for _ in "12")
        pd.testing.assert_frame_equal(one, two)

    def test_order_of_tasks(self, maml):
        keys = ["task", "episode"]
        one, two = (
            evaluate(maml, tasks, n_episodes=2).scores.set_index(keys)["score"]
            for tasks in (LINES, LINES[::-1])
        )
        pd.testing.assert_series_equal(one.sort_index(), two.sort_index(), rtol=1e-5)

    def test_one_task_has_no_interval(self, maml):
        result = evaluate(maml, LINES[:1], n_episodes=5)
        assert np.isnan(result.summary().loc["rmse", ["low", "high"]]).all()
        assert "No interval: there is one task" in str(result)
        assert "1 task, 5 episodes each" in str(result)

    def test_one_episode_is_one(self, protonet):
        result = evaluate(protonet, POOL[5:], n_way=2, n_episodes=1)
        assert "Scores on 1 episode of 2 classes" in str(result)

    def test_a_distribution(self):
        meta = MAMLRegressor(max_iter=2, random_state=0).fit(Sinusoids())
        result = evaluate(meta, Sinusoids(), random_state=5)
        assert result.summary().loc["rmse", "n_tasks"] == 200

    def test_the_users_object_is_untouched(self, maml):
        before, params = dict(maml.__dict__), maml.get_params()
        evaluate(maml, LINES)
        assert maml.__dict__ == before and maml.get_params() == params

    def test_processes_change_nothing(self, maml, protonet, monkeypatch):
        monkeypatch.setattr(_predictions, "EPISODES_PER_BLOCK", 8)
        for meta, tasks in ((maml, LINES), (MetaRidge().fit(TRAIN), LINES)):
            one = evaluate(meta, tasks, n_episodes=4).scores
            two = evaluate(meta, tasks, n_episodes=4, n_jobs=2).scores
            pd.testing.assert_frame_equal(one, two)

    def test_threads_change_nothing(self, maml, monkeypatch):
        monkeypatch.setattr(_predictions, "EPISODES_PER_BLOCK", 8)
        one = evaluate(maml, LINES, n_episodes=4).scores
        with joblib.parallel_config("threading", n_jobs=3):
            pd.testing.assert_frame_equal(
                one, evaluate(maml, LINES, n_episodes=4).scores
            )

    def test_pickle(self, maml):
        result = evaluate(maml, LINES, n_episodes=1)
        assert str(pickle.loads(pickle.dumps(result))) == str(result)

    def test_verbose(self, maml, capsys):
        evaluate(maml, LINES, n_episodes=2, verbose=1)
        assert capsys.readouterr().out.startswith("evaluate: 16 episodes in ")


class TestEvaluateText:
    def test_table(self, maml):
        result = evaluate(maml, LINES, metric=["rmse", "r2"], n_episodes=2)
        title, header, *_, note = str(result).split("\n")
        assert title == "Scores on 8 tasks, 2 episodes each"
        assert header.split() == ["metric", "mean", "95", "%", "interval"]
        assert note == "95 % Student's t intervals over 8 tasks."
        (name, mean, low, high), _ = table_of(result)
        row = result.summary().loc["rmse"]
        assert name == "rmse"
        assert float(mean) == pytest.approx(row["mean"], abs=0.05)
        assert float(low.strip("[,")) == pytest.approx(row["low"], abs=0.05)
        assert float(high.strip("]")) == pytest.approx(row["high"], abs=0.05)
        lengths = {len(line) for line in str(result).split("\n")[1:-1]}
        assert len(lengths) == 1, "columns are aligned"

    def test_episodes_of_a_pool(self, protonet):
        text = str(evaluate(protonet, POOL[5:], n_way=(2, 4), n_episodes=40))
        assert "40 episodes of 2 to 4 classes" in text
        assert "95 % Student's t intervals over 40 episodes." in text

    def test_html_holds_the_same_cells(self, maml):
        result = evaluate(maml, LINES, metric={"a < b": "rmse"}, n_episodes=2)
        html = result._repr_html_()
        assert "a &lt; b" in html
        (table,) = pd.read_html(html) if _has_parser() else (None,)
        for cell in ("95 % interval", "8 tasks, 2 episodes each"):
            assert cell in html
        if table is not None:
            mean = result.summary().loc["a < b", "mean"]
            assert table["mean"][0] == pytest.approx(mean, abs=0.05)

    def test_other_levels_are_named(self, maml):
        text = str(evaluate(maml, LINES, n_episodes=1, confidence=0.999))
        assert "99.9 % Student's t intervals" in text


class Astray(MetaRidge):
    """Ridge that goes astray on the support rows of one task."""

    def adapt(self, X, y):
        model = super().adapt(X, y)
        if (X[0] == LINES[3].X).all(1).any():
            model.intercept_ = 1e6
        return model


ALL_BUT = [t for t in range(8) if t != 3]


class TestHanging:
    """A mean that hangs on one task is said to."""

    def test_evaluate(self):
        result = evaluate(Astray().fit(TRAIN), LINES, metric=["rmse", "mae"])
        without = evaluate(MetaRidge().fit(TRAIN), LINES[ALL_BUT], n_episodes=25)
        mean = without.summary().loc["rmse", "mean"]
        *_, interval, rmse, mae = str(result).split("\n")
        assert interval.startswith("95 % Student's t intervals")
        assert rmse == (
            "rmse: the mean hangs on task 'line 0-3' (mean 1e+06); without it "
            f"{mean:.2g}."
        )
        assert mae.startswith("mae: the mean hangs on task 'line 0-3'")
        assert "the mean hangs on task &#x27;line 0-3&#x27;" in result._repr_html_()
        assert result.summary().loc["rmse", "n_tasks"] == 8, "it is kept"

    def test_not_of_few_tasks(self):
        result = evaluate(Astray().fit(TRAIN), LINES[:4], n_episodes=2)
        assert "hangs" not in str(result)

    def test_compare(self):
        methods = {"astray": Astray(), "ridge": MetaRidge()}
        result = compare(methods, LINES, train_tasks=TRAIN, n_episodes=2)
        notes = [line for line in str(result).split("\n") if "hangs" in line]
        assert len(notes) == 1
        assert notes[0].startswith("astray: the mean hangs on task 'line 0-3'")
        several = compare(methods, LINES, cv=TaskKFold(4), metric=["rmse", "mae"])
        assert "mae: astray: the mean hangs on task 'line 0-3'" in str(several)

    def test_episodes_of_a_pool(self, protonet):
        result = evaluate(protonet, POOL[5:], n_episodes=9)
        scores = result.scores.assign(score=[1e6 * (e == 4) for e in range(9)])
        note = "accuracy: the mean hangs on episode 4 (mean 1e+06); without it 0."
        assert str(replace(result, scores=scores)).endswith(note)

    def test_repeated_tasks(self):
        """A bootstrap that holds it twice does not hang on one of the two."""
        tasks = LINES[[*range(8), 3]]
        result = evaluate(Astray().fit(TRAIN), tasks, n_episodes=2)
        assert result.summary().loc["rmse", "n_tasks"] == 9
        assert "hangs" not in str(result)


def _has_parser():
    try:
        import lxml  # noqa: F401
    except ImportError:
        return False
    return True


class TestEvaluateRefuses:
    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            ({"confidence": 95}, ValueError, "confidence == 95, must be < 1"),
            ({"n_shot": 0}, ValueError, "n_shot must be at least 1"),
            ({"n_way": 2}, ValueError, "n_way=2 draws classes"),
            ({"metric": "accuracy"}, ValueError, "'accuracy' is not for regressors"),
            ({"random_state": None}, TypeError, "random_state must be an int"),
        ],
    )
    def test_values(self, maml, values, error, message):
        with pytest.raises(error, match=message):
            evaluate(maml, LINES, **values)

    def test_estimators(self, maml):
        with pytest.raises(NotFittedError):
            evaluate(clone(maml), LINES)
        with pytest.raises(TypeError, match="LinearRegression cannot adapt to tasks"):
            evaluate(LinearRegression().fit([[0]], [0]), LINES)

    def test_tasks(self, maml, protonet):
        with pytest.raises(TypeError, match="Got one task"):
            evaluate(maml, LINES[0])
        with pytest.raises(ValueError, match="X and y alone do not say"):
            evaluate(maml, LINES.rows().X)
        with pytest.raises(ValueError, match="numbers are to be predicted"):
            evaluate(maml, POOL)

    def test_more_shots_than_any_class_has(self, protonet):
        message = r"Class 5 has 182 rows, but n_shot=500 .* which no class has"
        with pytest.raises(ValueError, match=message):
            evaluate(protonet, POOL[5:], n_shot=500, small_tasks="raise")
        with pytest.warns(SmallTaskWarning, match="5 of 5 classes have fewer than 501"):
            evaluate(protonet, POOL[5:], n_shot=500, n_episodes=2)

    def test_leakage_is_warned_of(self, maml):
        seen = TaskSet([Task(t.X + 1, t.y, t.name) for t in TRAIN])
        with pytest.warns(TaskLeakageWarning, match="20 of 20 scored tasks"):
            evaluate(maml, seen, n_episodes=1)


def only(record):
    """Return the text of the one warning there was."""
    (warning,) = record
    assert warning.category is TaskLeakageWarning
    assert warning.filename == __file__
    return str(warning.message)


class TestTrainingTasks:
    """Scores on tasks that were meta-trained on are said to be that."""

    BOTH = TaskSet([*TRAIN[:3], *LINES])

    def test_identical_rows(self, maml):
        with pytest.warns() as record:
            evaluate(maml, self.BOTH, n_episodes=1)
        text = only(record)
        assert text.startswith("3 of 11 scored tasks, such as 'line 1-0', are meta-")
        assert "these are training scores" in text

    def test_scorers_are_silent(self, maml):
        """As return_train_score=True needs it."""
        assert np.isfinite(make_episode_scorer()(maml, TRAIN))

    def test_once_in_processes_too(self, maml, monkeypatch):
        monkeypatch.setattr(_predictions, "EPISODES_PER_BLOCK", 8)
        seen = TaskSet([Task(t.X + 1, t.y, t.name) for t in TRAIN])
        with pytest.warns() as record:
            evaluate(maml, seen, n_episodes=1, n_jobs=2)
        only(record)

    def test_pipelines_and_searches(self, maml):
        search = GridSearchCV(clone(maml), {"inner_lr": [0.01]}, cv=TaskKFold(2))
        scaler = StandardScaler().fit(TRAIN.rows().X)
        for one in (
            make_meta_pipeline(StandardScaler(), clone(maml)).fit(TRAIN),
            make_pipeline(scaler, maml),
            search.fit(TRAIN),
        ):
            with pytest.warns() as record:
                evaluate(one, self.BOTH, n_episodes=1)
            assert only(record).startswith("3 of 11 scored tasks")

    def test_names_that_nobody_gave(self):
        """Two sets of tasks without names are numbered alike."""
        train, test = (TaskSet([(t.X, t.y) for t in one]) for one in (TRAIN, LINES))
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            evaluate(PooledRegressor().fit(train), test, n_episodes=1)
        assert not record

    def test_who_learns_nothing_from_tasks(self):
        per_task = PerTaskRegressor().fit(TRAIN)
        methods = {"a": per_task, "b": PerTaskRegressor(LinearRegression())}
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            evaluate(per_task, TRAIN, n_episodes=1)
            compare(methods, TRAIN, train_tasks=TRAIN, n_episodes=1)
        assert not record

    def test_compare_of_fitted_ones(self, maml):
        methods = {"maml": maml, "per task": PerTaskRegressor().fit(TRAIN)}
        with pytest.warns() as record:
            compare(methods, self.BOTH, n_episodes=1)
        text = only(record)
        assert text.startswith("3 of 11 scored tasks, such as 'line 1-0', are meta-")
        assert "trained on by 'maml': these" in text

    def test_compare_before_anything_is_fitted(self):
        methods = {
            "per task": PerTaskRegressor(),
            "ridge": MetaRidge(fails="fit"),
            "scaled": make_meta_pipeline(StandardScaler(), PerTaskRegressor()),
        }
        with (
            pytest.warns(TaskLeakageWarning, match="3 of 11 .* by 'ridge', 'scaled':"),
            pytest.raises(RuntimeError, match="no luck"),
        ):
            compare(methods, self.BOTH, train_tasks=TRAIN)

    def test_folds_do_not_overlap(self, maml):
        methods = {"maml": maml, "ridge": MetaRidge()}
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            compare(methods, TRAIN, cv=2, n_episodes=1)
        assert not record


@pytest.mark.parametrize("fitted", [True, False])
def test_few_shot_estimators_are_no_meta_learners(maml, fitted):
    one = FewShotRegressor(maml)
    if fitted:
        one.fit(LINES[0].X, LINES[0].y)
    with pytest.raises(TypeError, match="Give its meta, the MAMLRegressor"):
        evaluate(one, LINES)
    with pytest.raises(TypeError, match=r"Method 'a': .* Give its meta"):
        compare({"a": one}, LINES)


METHODS = {"stiff": MetaRidge(10.0), "loose": MetaRidge(0.1), "mid": MetaRidge(1.0)}


class TestCompare:
    def test_tidy(self):
        result = compare(METHODS, LINES, train_tasks=TRAIN, n_episodes=2)
        columns = ["method", "task", "episode", "metric", "score"]
        assert list(result.scores.columns) == columns
        assert len(result.scores) == 3 * 2 * len(LINES)
        assert result.scores["method"].unique().tolist() == list(METHODS)

    def test_equals_evaluate_of_each(self):
        result = compare(METHODS, LINES, train_tasks=TRAIN, n_episodes=2)
        for name, own in result.scores.groupby("method"):
            alone = evaluate(clone(METHODS[name]).fit(TRAIN), LINES, n_episodes=2)
            assert own["score"].tolist() == alone.scores["score"].tolist()
            assert own["task"].tolist() == alone.scores["task"].tolist()

    def test_episodes_are_drawn_once(self, monkeypatch):
        calls = []
        draw = EpisodeProtocol.draw

        def counted(self, *args):
            calls.append(args)
            return draw(self, *args)

        monkeypatch.setattr(EpisodeProtocol, "draw", counted)
        compare(METHODS, LINES, train_tasks=TRAIN, n_episodes=2)
        assert len(calls) == 1

    @pytest.mark.parametrize("reference", [None, "stiff"])
    def test_paired_interval_is_that_of_ttest_rel(self, reference):
        result = compare(
            METHODS, LINES, train_tasks=TRAIN, n_episodes=2, reference=reference
        )
        reference = reference or "mid"
        assert result.reference == reference
        means = result.scores.groupby(["method", "task"])["score"].mean().unstack(0)
        summary = result.summary()
        for name in set(METHODS) - {reference}:
            test = stats.ttest_rel(means[name], means[reference])
            row = summary.loc[name]
            low, high = test.confidence_interval(0.95)
            assert row["difference_low"] == pytest.approx(low)
            assert row["difference_high"] == pytest.approx(high)
            difference = (means[name] - means[reference]).mean()
            assert row["difference"] == pytest.approx(difference)
        blank = ["difference", "difference_low", "difference_high", "win_rate"]
        assert summary.loc[reference, blank].isna().all()

    def test_win_rate_knows_the_direction(self):
        result = compare(
            METHODS, LINES, train_tasks=TRAIN, metric=["rmse", "r2"], n_episodes=1
        )
        summary = result.summary()
        scores = result.scores.groupby(["metric", "method"])["score"]
        for metric, sign in (("rmse", -1), ("r2", 1)):
            loose, mid = (
                scores.get_group((metric, method)).to_numpy()
                for method in ("loose", "mid")
            )
            better = sign * (loose - mid)
            expected = np.mean(better > 0) + np.mean(better == 0) / 2
            found = summary[summary["metric"] == metric].loc["loose", "win_rate"]
            assert found == expected
        same = {"one": MetaRidge(), "two": MetaRidge()}
        tied = compare(same, LINES, train_tasks=TRAIN, n_episodes=1).summary()
        assert tied.loc["one", "win_rate"] == 0.5
        for step, wins in ((1e-14, 0.5), (1e-9, 1.0)):  # rounding, and no rounding
            scores = result.scores[result.scores["metric"] == "r2"].copy()
            own = scores["method"] == "mid"
            mid = scores.loc[own, "score"].to_numpy()
            scores.loc[scores["method"] == "loose", "score"] = mid + step * abs(mid)
            summary = replace(result, scores=scores).summary()
            assert summary.loc["loose", "win_rate"] == wins

    def test_fitted_ones_are_used_as_they_are(self, maml):
        weights = [p.clone() for p in maml.learner_.parameters()]
        before = dict(maml.__dict__)
        result = compare({"maml": maml, "ridge": MetaRidge()}, LINES, train_tasks=TRAIN)
        assert maml.__dict__ == before
        assert all(map(torch.equal, weights, maml.learner_.parameters()))
        alone = evaluate(maml, LINES).summary().loc["rmse", "mean"]
        assert result.summary().loc["maml", "mean"] == alone
        fitted = {"maml": maml, "ridge": MetaRidge().fit(TRAIN)}
        both = compare(fitted, LINES)
        assert str(both) == str(result)

    def test_unfitted_ones_stay_unfitted(self):
        methods = {"ridge": MetaRidge()}
        compare(methods, LINES, train_tasks=TRAIN, n_episodes=1)
        assert not hasattr(methods["ridge"], "names_")

    def test_baselines_pipelines_and_searches(self, maml):
        search = GridSearchCV(MetaRidge(), {"alpha": [1.0]}, cv=TaskKFold(2))
        search.set_params(scoring=lambda est, X: 0.0)
        methods = {
            "search": search,
            "pipeline": make_meta_pipeline(StandardScaler(), clone(maml)),
            "pooled": PooledRegressor(LinearRegression()),
            "per task": PerTaskRegressor(LinearRegression()),
        }
        result = compare(methods, LINES, train_tasks=TRAIN, n_episodes=1)
        means = result.summary()["mean"]
        assert means["search"] == pytest.approx(
            evaluate(MetaRidge().fit(TRAIN), LINES, n_episodes=1)
            .summary()
            .loc["rmse", "mean"]
        )
        assert means["per task"] < means["pooled"]

    def test_local_labels(self, protonet):
        """Long format says nothing of labels; a fitted learner does."""
        X, y = FLAT[5:].X, FLAT[5:].y
        tasks = TaskSet.from_arrays(X, y, np.arange(len(y)) % 3)
        nearest = ProtoNetClassifier("identity").fit(FLAT[:5])
        methods = {"proto": nearest, "neighbours": MetaNeighbours().fit(FLAT)}
        result = compare(methods, tasks, n_shot=1, n_query=1, n_episodes=2)
        local = TaskSet(tasks, labels="local")
        assert (
            result.scores["score"].tolist()
            == compare(methods, local, n_shot=1, n_query=1, n_episodes=2)
            .scores["score"]
            .tolist()
        )
        unfitted = {"proto": clone(nearest), "neighbours": MetaNeighbours()}
        fits = compare(
            unfitted, tasks, train_tasks=FLAT[:5], n_shot=1, n_query=1, n_episodes=2
        )
        assert fits.scores["score"].tolist() == result.scores["score"].tolist()


class TestFolds:
    def test_every_task_is_judged_once_by_a_model_that_never_saw_it(self):
        seen = []

        class Spy(MetaRidge):
            def adapt(self, X, y):
                seen.append((np.asarray(X).tobytes(), self.names_))
                return super().adapt(X, y)

        result = compare({"spy": Spy()}, LINES, cv=TaskKFold(4), n_episodes=2)
        counts = result.scores.groupby("task")["episode"].count()
        assert counts.tolist() == [2] * len(LINES)
        drawn = EpisodeProtocol(n_episodes=2).draw(LINES, False)
        rows = {
            drawn.rows.X[drawn.support_rows(e)].tobytes(): drawn.names[e]
            for e in range(len(drawn))
        }
        assert len(seen) == len(rows) == 2 * len(LINES)
        for support, trained_on in seen:
            assert rows[support] not in trained_on
            assert len(trained_on) == 6

    def test_the_same_episodes_as_without_folds(self):
        """Ridge learns nothing from tasks, so folds make no difference to it."""
        folds = compare(METHODS, LINES, cv=TaskKFold(4))
        plain = compare(METHODS, LINES, train_tasks=TRAIN)
        keys = ["method", "task", "episode"]
        pd.testing.assert_series_equal(
            folds.scores.set_index(keys)["score"].sort_index(),
            plain.scores.set_index(keys)["score"].sort_index(),
        )
        assert folds.scores["fold"].nunique() == 4
        means = folds.summary()["mean"]
        pd.testing.assert_series_equal(means, plain.summary()["mean"])
        assert folds.episodes == plain.episodes == "8 tasks, 25 episodes each"

    def test_fitted_ones_are_fitted_anew(self):
        fitted = MetaRidge().fit(TRAIN)
        compare({"ridge": fitted}, LINES, cv=KFold(2), n_episodes=1)
        assert fitted.names_ == TRAIN.names

    def test_classes_of_a_pool(self):
        methods = {"one": MetaNeighbours(), "three": MetaNeighbours(3)}
        result = compare(methods, FLAT, cv=TaskKFold(2), n_query=3, n_episodes=10)
        assert result.summary().loc["one", "n_episodes"] == 20
        assert result.episodes == "20 episodes of 5 classes"
        means = result.scores.groupby(["method", "fold"])["score"].mean()
        expected = means.groupby("method").mean()
        assert result.summary()["mean"].to_dict() == pytest.approx(expected.to_dict())

    @pytest.mark.parametrize(
        ("cv", "error", "message"),
        [
            ("5", TypeError, "cv must be a number of folds or a splitter over tasks"),
            (True, TypeError, "cv must be a number of folds or a splitter over tasks"),
            (9, ValueError, "n_splits=9"),
            (ShuffleSplit(3, test_size=3), ValueError, "need each exactly once"),
            (TaskKFold(9), ValueError, "9 folds of 8 tasks|n_splits=9"),
        ],
    )
    def test_refused(self, cv, error, message):
        with pytest.raises(error, match=message):
            compare({"ridge": MetaRidge()}, LINES, cv=cv)

    def test_a_number_of_folds(self):
        """As scikit-learn's searches take it."""
        one, two = (compare(METHODS, LINES, cv=cv).scores for cv in (4, TaskKFold(4)))
        pd.testing.assert_frame_equal(one, two)

    def test_families(self):
        """None is cut; their tasks are judged by methods that saw none of them."""
        families = ["a", "b"] * 4
        cv = TaskKFold(2, families="together")
        scores = compare(METHODS, LINES, cv=cv, groups=families, n_episodes=1).scores
        folds = scores.groupby("fold")["task"].unique()
        assert sorted(map(sorted, folds)) == [
            sorted(LINES[first::2].names) for first in (0, 1)
        ]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"groups": range(8)}, "groups are family labels .* there is no cv"),
            ({"cv": 2, "groups": range(7)}, r"shape \(7,\), expected \(8,\)"),
            (
                {"cv": TaskKFold(2, families="together")},
                "families='together' keeps families whole, which groups= tells",
            ),
        ],
    )
    def test_groups_refused(self, values, message):
        with pytest.raises(ValueError, match=message):
            compare({"ridge": MetaRidge().fit(TRAIN)}, LINES, **values)

    def test_repeated_tasks_are_refused(self):
        message = "2 of 3 tasks come more than once, such as 'line 0-6'"
        with pytest.raises(ValueError, match=message):
            compare(METHODS, LINES[[6, 6, 6, 7, 5, 5]], cv=3)
        judged = compare(METHODS, LINES[[6, 6, 7]], train_tasks=TRAIN, n_episodes=1)
        assert judged.summary()["n_tasks"].tolist() == [3, 3, 3]


class TestCompareRuns:
    def test_processes_change_nothing(self):
        one, two = (
            compare(METHODS, LINES, cv=TaskKFold(2), n_episodes=2, n_jobs=n).scores
            for n in (1, 2)
        )
        pd.testing.assert_frame_equal(one, two)

    def test_verbose(self, capsys):
        compare(METHODS, LINES, cv=TaskKFold(2), n_episodes=1, verbose=1)
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == 6
        assert printed[0].startswith("compare: method 'stiff', fold 0: fitted in ")

    def test_undefined_values_are_left_out_in_pairs(self):
        rng = np.random.default_rng(0)
        sizes = (6, 12, 12, 12)  # of the first, one query row is left
        tasks = TaskSet([(rng.normal(size=(n, 2)), rng.normal(size=n)) for n in sizes])
        with pytest.warns(UndefinedMetricWarning, match="not defined on 2 of 8"):
            result = compare(
                {"a": MetaRidge(0.1), "b": MetaRidge()},
                tasks,
                train_tasks=TRAIN,
                metric="r2",
                n_episodes=1,
            )
        assert result.summary()["n_tasks"].tolist() == [3, 3]
        assert "over 3 tasks" in str(result)


class TestCompareText:
    def test_table(self):
        result = compare(METHODS, LINES, train_tasks=TRAIN, n_episodes=2)
        title, header, *_, note, of_difference = str(result).split("\n")
        assert title == "rmse (lower is better) on 8 tasks, 2 episodes each"
        assert header.endswith("wins")
        assert note == "95 % Student's t intervals over 8 tasks."
        assert of_difference.startswith("Difference: minus 'mid', paired.")
        assert [cells[0] for cells in table_of(result)] == list(METHODS)
        assert table_of(result)[-1][-3:] == ["-", "-", "-"]
        assert "<table>" in result._repr_html_()

    def test_several_metrics(self):
        result = compare(
            METHODS, LINES, train_tasks=TRAIN, metric=["rmse", "r2"], n_episodes=2
        )
        names = [line.split("  ")[0] for line in str(result).split("\n")[2:-1]]
        assert names[:4] == ["rmse: stiff", "rmse: loose", "rmse: mid", "r2: stiff"]


class TestCompareRefuses:
    @pytest.mark.parametrize(
        ("estimators", "values", "error", "message"),
        [
            ([MetaRidge()], {}, TypeError, "must be a dict of names and estimators"),
            ({}, {}, ValueError, "estimators is empty"),
            ({1: MetaRidge()}, {}, TypeError, "must be strings, got 1"),
            (
                {"a": MetaRidge()},
                {},
                ValueError,
                "Method 'a' is not fitted, and there is nothing to fit it to",
            ),
            (
                {"a": MetaRidge()},
                {"train_tasks": TRAIN, "cv": TaskKFold(2)},
                ValueError,
                "Got train_tasks and cv",
            ),
            (
                {"a": MetaRidge(), "b": MetaNeighbours()},
                {"train_tasks": TRAIN},
                ValueError,
                r"cannot be compared: \['b'\] are classifiers",
            ),
            (
                {"a": MetaRidge()},
                {"train_tasks": TRAIN, "reference": "b"},
                ValueError,
                r"reference='b' is none of the methods \['a'\]",
            ),
            (
                {"a": StandardScaler()},
                {"train_tasks": TRAIN},
                TypeError,
                "Method 'a': Expected a meta-learner",
            ),
            (
                {"a": MetaRidge(fails="fit")},
                {"train_tasks": TRAIN},
                RuntimeError,
                "Method 'a' fails in fit: no luck",
            ),
            (
                {"a": MetaRidge(fails="adapt")},
                {"cv": TaskKFold(2)},
                ValueError,
                r"Method 'a', fold 0 fails in scoring: task 'line 0-0' \(episode 0\)",
            ),
            (
                {"a": LinearRegression()},
                {"cv": TaskKFold(2)},
                TypeError,
                "Method 'a': A LinearRegression cannot adapt to tasks",
            ),
            (
                {"a": make_pipeline(StandardScaler(), MetaRidge())},
                {"train_tasks": TRAIN},
                Exception,
                "use make_meta_pipeline",
            ),
        ],
    )
    def test_refused(self, estimators, values, error, message):
        with pytest.raises(error, match=message):
            compare(estimators, LINES, **values)
