"""Predictions for drawn episodes: what adapt and predict give, one by one."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis as LDA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklmeta import (
    ClassPool,
    MAMLClassifier,
    MAMLRegressor,
    MetaTrainingError,
    PerTaskClassifier,
    PerTaskRegressor,
    PooledClassifier,
    PooledRegressor,
    ProtoNetClassifier,
    Task,
    TaskLeakageWarning,
    TaskSet,
)
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.model_selection import TaskKFold, _predictions
from sklmeta.model_selection._predictions import episode_predictions
from sklmeta.model_selection._protocol import EpisodeProtocol


def clusters(n_tasks, labels="shared", seed=0, sizes=(21, 30), frame=False):
    """Tasks of three classes around centres that differ from task to task."""
    rng = np.random.default_rng(seed)
    words = np.array(["low", "mid", "top"])
    tasks = []
    for t in range(n_tasks):
        n = rng.integers(*sizes)
        y = rng.permutation(np.arange(n) % 3)
        X = rng.normal(size=4) + 2 * y[:, None] + rng.normal(size=(n, 4))
        X = pd.DataFrame(X, columns=list("abcd")) if frame else X
        tasks.append(Task(X, words[y], f"{seed}-{t}"))
    return TaskSet(tasks, labels=labels)


def waves(n_tasks, n_outputs, seed=0):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n_tasks):
        X = rng.uniform(-2, 2, size=(rng.integers(8, 20), 1))
        y = np.sin(X + rng.uniform(0, 3)) * rng.uniform(1, 9) + rng.uniform(0, 9)
        pairs.append((X, np.hstack([y, -2 * y])[:, :n_outputs].squeeze()))
    return TaskSet(pairs)


def fast(cls, **params):
    return cls(max_iter=5, eval_every=5, random_state=0, **params)


def as_column(tasks):
    return TaskSet([(t.X, t.y.reshape(-1, 1)) for t in tasks])


POOL = load_digits_pool()
FLAT = ClassPool(POOL.X.reshape(-1, 64), POOL.y)
# Meta-learner, tasks to train on, tasks to judge on, protocol.
CASES = {
    "images": (fast(ProtoNetClassifier), POOL[:5], POOL[5:], {"n_way": (2, 5)}),
    "flat images": (
        fast(MAMLClassifier, image_shape=(8, 8), inner_steps=1),
        FLAT[:5],
        FLAT[5:],
        {"n_way": 3, "n_query": 4},
    ),
    "local": (
        fast(ProtoNetClassifier),
        clusters(6, "local"),
        clusters(4, "local", 1),
        {"n_shot": (1, 3)},
    ),
    "local, maml": (
        fast(MAMLClassifier),
        clusters(6, "local"),
        clusters(4, "local", 1),
        {"n_shot": 2, "n_way": 2},
    ),
    "shared": (fast(MAMLClassifier), clusters(6), clusters(4, seed=1), {}),
    "shared, missing classes": (
        fast(ProtoNetClassifier),
        clusters(6),
        clusters(4, seed=1),
        {"n_shot": 2},
    ),
    "frames": (
        fast(MAMLClassifier),
        clusters(6, frame=True),
        clusters(4, seed=1, frame=True),
        {"support_order": "first"},
    ),
    "numbers": (fast(MAMLRegressor), waves(9, 1), waves(4, 1, 1), {"n_shot": (2, 6)}),
    "own scale": (
        fast(MAMLRegressor, normalize_y="task"),
        waves(9, 1),
        waves(4, 1, 1),
        {},
    ),
    "a column": (
        fast(MAMLRegressor),
        as_column(waves(9, 1)),
        as_column(waves(4, 1, 1)),
        {},
    ),
    "outputs": (fast(MAMLRegressor), waves(9, 2), waves(4, 2, 1), {"n_query": 3}),
}


@pytest.fixture(scope="module")
def fitted():
    """Meta-train each learner once."""
    return {
        name: copy.copy(meta).fit(train) for name, (meta, train, *_) in CASES.items()
    }


def drawn_for(name, **protocol):
    meta, _, tasks, own = CASES[name]
    protocol = {"n_shot": 4, "n_episodes": 3, **own, **protocol}
    return EpisodeProtocol(**protocol).draw(tasks, isinstance(meta, ClassifierMixin))


def close(found, expected):
    """Batches of tasks are computed in single precision, in another order."""
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


class TestTorchLearners:
    @pytest.mark.parametrize("name", CASES)
    def test_equal_adapt_and_predict(self, fitted, name):
        meta, drawn = fitted[name], drawn_for(name)
        X, y = drawn.rows.X, drawn.rows.y
        response = "predict_proba" if meta._classifies else "predict"
        found = list(episode_predictions(meta, drawn, response))
        assert len(found) == len(drawn)
        own = copy.copy(meta)
        for e, given in enumerate(found):
            support, query = drawn.support_rows(e), drawn.query_rows(e)
            take = X.iloc.__getitem__ if isinstance(X, pd.DataFrame) else X.__getitem__
            model = own.adapt(take(support), y[support].squeeze())
            assert np.array_equal(given.y_true, y[query].squeeze(axis=None))
            if response == "predict":
                assert given.y_pred.shape == given.y_true.shape
                close(
                    given.y_pred,
                    model.predict(take(query)).reshape(y[query].shape).squeeze(),
                )
                continue
            assert given.classes.tolist() == model.classes_.tolist()
            assert given.y_pred.tolist() == model.predict(take(query)).tolist()
            close(given.proba, model.predict_proba(take(query)))

    @pytest.mark.parametrize("name", CASES)
    def test_nothing_of_the_users_is_touched(self, fitted, name):
        meta = fitted[name]
        meta.__dict__.pop("adapted_", None)
        before = dict(meta.__dict__)
        weights = [p.clone() for p in meta.learner_.parameters()]
        list(episode_predictions(meta, drawn_for(name)))
        assert meta.__dict__.keys() == before.keys()
        assert all(meta.__dict__[key] is before[key] for key in before)
        assert all(map(torch.equal, weights, meta.learner_.parameters()))

    @pytest.mark.parametrize("name", ["images", "local", "numbers"])
    def test_the_same_in_blocks_and_parts(self, fitted, name, monkeypatch):
        meta, drawn = fitted[name], drawn_for(name)
        whole = list(episode_predictions(meta, drawn))
        monkeypatch.setattr(_predictions, "EPISODES_PER_BLOCK", 2)
        monkeypatch.setattr(_predictions, "VALUES_SCORED_AT_ONCE", 100)
        for given, expected in zip(
            episode_predictions(meta, drawn), whole, strict=True
        ):
            assert np.array_equal(given.y_true, expected.y_true)
            if meta._classifies:
                assert np.array_equal(given.y_pred, expected.y_pred)
            else:
                close(given.y_pred, expected.y_pred)

    def test_bit_identical(self, fitted):
        drawn = drawn_for("numbers")
        one, two = (list(episode_predictions(fitted["numbers"], drawn)) for _ in "12")
        for a, b in zip(one, two, strict=True):
            assert np.array_equal(a.y_pred, b.y_pred)

    def test_divergence_names_the_task(self, fitted):
        meta = fitted["numbers"]._own_copy().set_params(inner_lr=1e30)
        message = r"Adapting MAMLRegressor to task 0 \(episode 0\)"
        with pytest.raises(MetaTrainingError, match=message):
            list(episode_predictions(meta, drawn_for("numbers")))

    def test_leakage(self, fitted):
        train = CASES["shared"][1]
        leaking = TaskSet([Task(t.X + 1, t.y, t.name) for t in train])
        drawn = EpisodeProtocol().draw(leaking, True)
        with pytest.warns(TaskLeakageWarning, match="6 of 6 scored tasks"):
            list(episode_predictions(fitted["shared"], drawn))

    def test_changed_features(self, fitted):
        tasks = TaskSet([Task(t.X[:, :2], t.y, t.name) for t in CASES["shared"][2]])
        drawn = EpisodeProtocol().draw(tasks, True)
        with pytest.raises(ValueError, match="X has 2 features, but MAMLClassifier"):
            list(episode_predictions(fitted["shared"], drawn))


class Nearest(ClassifierMixin, BaseEstimator):
    """A meta-learner of no base class: it only has fit and adapt."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        self.adapted_ = LogisticRegression().fit(X, y)
        return self.adapted_


class TestAnythingThatAdapts:
    def test_one_by_one(self):
        tasks = clusters(2)
        meta, protocol = Nearest().fit(tasks), EpisodeProtocol(n_shot=9, n_episodes=2)
        drawn = protocol.draw(tasks, True)
        found = list(episode_predictions(meta, drawn, "predict_proba"))
        X, y = drawn.rows.X, drawn.y
        for e, given in enumerate(found):
            support, query = drawn.support_rows(e), drawn.query_rows(e)
            model = LogisticRegression().fit(X[support], y[support])
            assert np.array_equal(given.y_pred, model.predict(X[query]))
            assert np.array_equal(given.proba, model.predict_proba(X[query]))
        assert not hasattr(meta, "adapted_")

    def test_errors_name_the_task(self):
        tasks = clusters(2)
        tasks = TaskSet([tasks[0], Task(tasks[1].X, ["one"] * len(tasks[1]), "flat")])
        meta, protocol = Nearest().fit(tasks), EpisodeProtocol(n_shot=9, n_episodes=2)
        drawn = protocol.draw(tasks, True)
        with pytest.raises(ValueError, match=r"task 'flat' \(episode 0\): This solver"):
            list(episode_predictions(meta, drawn))

    @pytest.mark.parametrize(
        ("estimator", "error", "message"),
        [
            (LogisticRegression(), TypeError, "LogisticRegression cannot adapt to"),
            (Nearest(), NotFittedError, "not fitted yet"),
            (fast(MAMLClassifier), NotFittedError, "not fitted yet"),
        ],
    )
    def test_refused(self, estimator, error, message):
        drawn = EpisodeProtocol().draw(clusters(2), True)
        with pytest.raises(error, match=message):
            list(episode_predictions(estimator, drawn))


TO_LOCAL = clusters(6, "local"), clusters(4, "local", 1)
BASELINES = {
    "pooled, shared": (PooledClassifier(), clusters(6), clusters(4, seed=1)),
    "pooled, local": (PooledClassifier(), *TO_LOCAL),
    "pooled, classes": (PooledClassifier(LDA()), FLAT[:5], FLAT[5:]),
    "pooled, numbers": (PooledRegressor(), waves(9, 1), waves(4, 1, 1)),
    "pooled, outputs": (PooledRegressor(), waves(9, 2), waves(4, 2, 1)),
    "pooled, frames": (
        PooledClassifier(),
        clusters(6, frame=True),
        clusters(4, seed=1, frame=True),
    ),
    "per task, shared": (PerTaskClassifier(), clusters(6), clusters(4, seed=1)),
    "per task, local": (PerTaskClassifier(), *TO_LOCAL),
    "per task, a column": (
        PerTaskRegressor(),
        as_column(waves(9, 1)),
        as_column(waves(4, 1, 1)),
    ),
}


class TestBaselines:
    @pytest.mark.parametrize("name", BASELINES)
    def test_together_as_one_by_one(self, name, monkeypatch):
        meta, train, tasks = BASELINES[name]
        meta = copy.copy(meta).fit(train)
        drawn = EpisodeProtocol(n_shot=4, n_episodes=5).draw(tasks, meta._classifies)
        assert _predictions._way_to_predict(meta, drawn, "predict") == (
            _predictions._row_by_row
        )
        monkeypatch.setattr(_predictions, "EPISODES_PER_BLOCK", 3)
        before = dict(meta.__dict__)
        found = list(episode_predictions(meta, drawn))
        assert meta.__dict__ == before
        expected = _predictions._one_by_one(meta, drawn, "predict")
        for given, one in zip(found, expected, strict=True):
            assert np.array_equal(given.y_true, one.y_true)
            assert given.y_pred.dtype == one.y_pred.dtype
            if meta._classifies:
                assert np.array_equal(given.y_pred, one.y_pred)
                assert np.array_equal(given.classes, one.classes)
            else:
                np.testing.assert_allclose(given.y_pred, one.y_pred, rtol=1e-9)

    def test_pooled_ones_predict_all_rows_at_once(self):
        calls = []

        class Counting(LinearRegression):
            def predict(self, X):
                calls.append(len(X))
                return super().predict(X)

        meta = PooledRegressor(Counting()).fit(waves(9, 1))
        drawn = EpisodeProtocol(n_episodes=20).draw(waves(4, 1, 1), False)
        assert len(list(episode_predictions(meta, drawn))) == 80
        assert calls == [len(drawn.y)]

    def test_shared_labels_of_tasks_that_are_read_as_local(self):
        """As where a learner of local labels is compared with."""
        meta = PerTaskClassifier().fit(clusters(6))
        drawn = EpisodeProtocol(n_shot=4, n_episodes=2).draw(TO_LOCAL[1], True)
        for given in episode_predictions(meta, drawn):
            assert given.classes.tolist() == ["low", "mid", "top"]

    @pytest.mark.parametrize("response", ["predict", "predict_proba"])
    @pytest.mark.parametrize("framed", [True, False])
    def test_other_names_are_warned_of_once(self, framed, response):
        meta = PerTaskClassifier().fit(clusters(6, frame=framed))
        tasks = clusters(4, seed=1, frame=not framed)
        drawn = EpisodeProtocol(n_shot=4, n_episodes=3).draw(tasks, True)
        with pytest.warns(UserWarning, match="feature names") as record:
            found = list(episode_predictions(meta, drawn, response))
        assert len(record) == 1
        alike = clusters(4, seed=1, frame=framed)
        expected = episode_predictions(meta, drawn.with_tasks(alike), response)
        for given, one in zip(found, expected, strict=True):
            assert np.array_equal(given.y_pred, one.y_pred)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_unusable_predictions_name_the_task(self, value):
        class Bad(LinearRegression):
            def predict(self, X):
                return np.where(X[:, 0] == bad, value, super().predict(X))

        tasks = waves(4, 1, 1)
        bad = tasks[2].X[-1, 0]
        protocol = EpisodeProtocol(support_order="first", n_episodes=1)
        drawn = protocol.draw(tasks, False)
        for cls in (PooledRegressor, PerTaskRegressor):
            meta = cls(Bad()).fit(waves(9, 1))
            with pytest.raises(ValueError, match=r"task 2 \(episode 0\): .*not fini"):
                list(episode_predictions(meta, drawn))


class Constant(BaseEstimator):
    """A meta-learner whose models give what it was told."""

    def __init__(self, value=0.0, std=1.0, proba=(0.5, 0.5), n_missing=0):
        self.value = value
        self.std = std
        self.proba = proba
        self.n_missing = n_missing

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def adapt(self, X, y):
        return self

    def predict(self, X, return_std=False):
        mean = np.full(len(X) - self.n_missing, self.value)
        return (mean, np.full(len(X), self.std)) if return_std else mean


class ConstantRegressor(RegressorMixin, Constant):
    pass


class ConstantClassifier(ClassifierMixin, Constant):
    classes_ = np.array([0, 1])

    def predict_proba(self, X):
        return np.tile(self.proba, (len(X), 1))


class TestUnusable:
    """NaN says that a metric has no value; nothing else may end in it."""

    NUMBERS = waves(3, 1)
    LABELS = TaskSet([(t.X, (t.y > 5).astype(int)) for t in NUMBERS])

    @pytest.mark.parametrize(
        ("values", "response", "message"),
        [
            ({"value": np.nan}, "predict", "predicts NaN or infinity"),
            ({"value": -np.inf}, "std", "predicts NaN or infinity"),
            ({"std": 0.0}, "std", "standard deviations that are not positive"),
            ({"std": np.nan}, "std", "standard deviations that are not positive"),
            ({"n_missing": 1}, "predict", "cannot reshape"),
        ],
    )
    def test_numbers(self, values, response, message):
        drawn = EpisodeProtocol(n_episodes=1).draw(self.NUMBERS, False)
        meta = ConstantRegressor(**values).fit(None)
        with pytest.raises(ValueError, match=rf"task 0 \(episode 0\): .*{message}"):
            list(episode_predictions(meta, drawn, response))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"proba": (np.nan, 1.0)}, "probabilities that are NaN"),
            (
                {"proba": (0.2, 0.3, 0.5)},
                r"probabilities of shape \(\d+, 3\), expected",
            ),
            ({"n_missing": 1}, r"predicts values of shape \(\d+,\) for targets of"),
        ],
    )
    def test_labels(self, values, message):
        drawn = EpisodeProtocol(n_episodes=1).draw(self.LABELS, True)
        meta = ConstantClassifier(**values).fit(None)
        message = rf"task 0 \(episode 0\): ConstantClassifier .*{message}"
        with pytest.raises(ValueError, match=message):
            list(episode_predictions(meta, drawn, "predict_proba"))

    def test_truths_that_are_missing(self):
        """Of query rows: no model is fitted to them, which would refuse them."""
        first = {"support_order": "first", "n_episodes": 1}
        pairs = [(t.X, np.append(t.y[:-1], np.nan)) for t in self.NUMBERS]
        meta = ConstantRegressor().fit(None)
        drawn = EpisodeProtocol(**first).draw(TaskSet(pairs), False)
        with pytest.raises(ValueError, match=r"Input y contains NaN \(task 0, row"):
            list(episode_predictions(meta, drawn))
        pairs = [(X, np.append(y[:-1] > 5, None)) for X, y in pairs]
        drawn = EpisodeProtocol(**first).draw(TaskSet(pairs), True)
        with pytest.raises(ValueError, match=r"Input y contains NaN \(task 0, row"):
            list(episode_predictions(ConstantClassifier().fit(None), drawn))


class TestWrapped:
    def test_pipelines_transform_then_adapt(self, fitted):
        tasks = clusters(4, seed=1)
        rows = clusters(6).rows()
        scaler = StandardScaler().fit(rows.X)
        scaled = [Task(scaler.transform(t.X), t.y, t.name) for t in clusters(6)]
        meta = fast(MAMLClassifier).fit(TaskSet(scaled))
        pipe = Pipeline([("scale", scaler), ("meta", meta)])
        drawn = EpisodeProtocol(n_episodes=2).draw(tasks, True)
        by_hand = TaskSet([Task(scaler.transform(t.X), t.y, t.name) for t in tasks])
        moved = EpisodeProtocol(n_episodes=2).draw(by_hand, True)
        for given, expected in zip(
            episode_predictions(pipe, drawn, "predict_proba"),
            episode_predictions(meta, moved, "predict_proba"),
            strict=True,
        ):
            assert np.array_equal(given.proba, expected.proba)
        assert not hasattr(meta, "adapted_")

    def test_a_pipeline_of_one_step(self, fitted):
        drawn, meta = drawn_for("shared"), fitted["shared"]
        one = list(episode_predictions(Pipeline([("meta", meta)]), drawn))
        for given, expected in zip(one, episode_predictions(meta, drawn), strict=True):
            assert np.array_equal(given.y_pred, expected.y_pred)

    def test_transformers_that_drop_rows(self, fitted):
        drops = FunctionTransformer(lambda X: X[:-1]).fit(np.zeros((3, 4)))
        pipe = Pipeline([("drop", drops), ("meta", fitted["shared"])])
        with pytest.raises(ValueError, match="Transformers of a pipeline must keep"):
            list(episode_predictions(pipe, drawn_for("shared")))

    def test_searches_answer_by_their_winner(self):
        tasks, drawn = waves(8, 1), EpisodeProtocol().draw(waves(4, 1, 1), False)
        search = GridSearchCV(
            fast(MAMLRegressor), {"inner_lr": [0.01, 0.1]}, cv=TaskKFold(2)
        ).fit(tasks)
        pairs = zip(
            episode_predictions(search, drawn),
            episode_predictions(search.best_estimator_, drawn),
            strict=True,
        )
        assert all(np.array_equal(a.y_pred, b.y_pred) for a, b in pairs)
        search = GridSearchCV(
            fast(MAMLRegressor), {"inner_lr": [0.01]}, cv=TaskKFold(2), refit=False
        )
        with pytest.raises(TypeError, match="was fitted with refit=False"):
            list(episode_predictions(search.fit(tasks), drawn))


def test_tensors_and_unsigned_images():
    """uint8 images as tensors are scaled as arrays are."""
    X = torch.from_numpy(np.asarray(POOL.X))
    meta = fast(ProtoNetClassifier).fit(ClassPool(X, POOL.y)[:5])
    found = {}
    for name, rows in (("tensor", X), ("array", POOL.X)):
        drawn = EpisodeProtocol(n_episodes=5).draw(ClassPool(rows, POOL.y)[5:], True)
        found[name] = [p.y_pred for p in episode_predictions(meta, drawn)]
    assert all(map(np.array_equal, found["tensor"], found["array"]))


def test_a_distribution_is_sampled():
    class Waves:
        def sample(self, n_tasks, random_state=None):
            return make_sinusoids(n_tasks, random_state=random_state)

    meta = fast(MAMLRegressor).fit(Waves())
    drawn = EpisodeProtocol(random_state=3).draw(Waves(), False)
    assert len(list(episode_predictions(meta, drawn))) == 200
