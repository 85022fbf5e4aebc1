"""Baselines say what their inner estimator says, on the rows that they should see."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from sklmeta import (
    ClassPool,
    FewShotClassifier,
    FewShotRegressor,
    PerTaskClassifier,
    PerTaskRegressor,
    PooledClassifier,
    PooledRegressor,
    ProtoNetClassifier,
    Task,
    TaskLeakageWarning,
    TaskSet,
    baselines,
)
from sklmeta._episodes import task_seeds
from sklmeta._schema import local_codes
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec, RowPool
from sklmeta.model_selection import TaskKFold

WORDS = np.array(["ash", "birch", "cedar"])


def labelled(n_tasks=8, n_rows=24, seed=0, labels="shared", names=WORDS):
    """Return tasks of one blob per class, of different sizes."""
    rng = np.random.default_rng(seed)
    tasks = []
    for t in range(n_tasks):
        code = np.arange(n_rows - t) % len(names)
        X = rng.normal(size=(len(code), 4)) + 2 * np.eye(4)[code]
        tasks.append(Task(X + rng.normal(size=4), names[code], f"wood {seed}.{t}"))
    return TaskSet(tasks, labels=labels)


def numeric(n_tasks=8, n_rows=20, seed=0, n_outputs=1):
    """Return tasks with linear targets, of different sizes."""
    rng = np.random.default_rng(seed)
    tasks = []
    for t in range(n_tasks):
        X = rng.normal(size=(n_rows - t, 4))
        slopes = 1 + 0.3 * rng.normal(size=(4, n_outputs))
        y = X @ slopes + 0.1 * rng.normal(size=(len(X), n_outputs))
        tasks.append(Task(X, y[:, 0] if n_outputs == 1 else y, f"wave {seed}.{t}"))
    return TaskSet(tasks)


def class_pool(n_classes=8, seed=0, first=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), 12) + first
    centres = 2 * rng.normal(size=(n_classes, 4))
    return ClassPool(rng.normal(size=(len(y), 4)) + centres[y - first], y)


TREES, NUMBERS = labelled(), numeric()
NEW_TREES, NEW_NUMBERS = labelled(seed=1), numeric(seed=1)
LOGISTIC = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
RIDGE = make_pipeline(StandardScaler(), Ridge())


def rows_of(tasks):
    return tasks.rows().X, tasks.rows().y


def support_of(task, n=9):
    return task.X[:n], task.y[:n], task.X[n:], task.y[n:]


def episodes_of(tasks, n_shot=5, n_way=None, seed=0):
    """Return the support and query rows that score must judge, task by task."""
    rows, names = tasks.rows(), getattr(tasks, "names", None)
    if isinstance(tasks, ClassPool):
        pool = RowPool.from_classes(
            np.zeros((len(rows.y), 1)), rows.offsets, tasks.classes.tolist()
        )
    else:
        y = local_codes(rows.y, rows.offsets) if tasks.labels == "local" else rows.y
        y = np.zeros(len(rows.y)) if tasks.labels == "shared" else y
        pool = RowPool.from_tasks(np.zeros((len(y), 1)), y, rows.offsets, names)
    per_class = names is None or tasks.labels == "local"
    sampler = EpisodeSampler(pool, EpisodeSpec(n_shot, None, n_way, per_class))
    if names is None:
        index = sampler.draw(200, torch.Generator().manual_seed(seed))
    else:
        index = sampler.draw_tasks(task_seeds(names, seed))
    for i in range(len(index)):
        yield (
            index.support[i][index.support_mask[i]].numpy(),
            index.query[i][index.query_mask[i]].numpy(),
        )


# What they predict --------------------------------------------------------------------


@pytest.mark.parametrize(
    "inner", [None, DecisionTreeClassifier(random_state=0), SVC()], ids=repr
)
def test_pooled_classifier_is_its_estimator_on_all_rows(inner):
    X, y = rows_of(TREES)
    oracle = clone(LOGISTIC if inner is None else inner).fit(X, y)
    meta = PooledClassifier(inner, random_state=0).fit(TREES)
    assert meta.classes_.tolist() == WORDS.tolist()
    for task in NEW_TREES[:3]:
        support_X, support_y, query_X, _ = support_of(task)
        model = meta.adapt(support_X, support_y)
        np.testing.assert_array_equal(model.predict(query_X), oracle.predict(query_X))
        assert hasattr(model, "predict_proba") == hasattr(oracle, "predict_proba")
        if hasattr(oracle, "predict_proba"):
            got, want = (one.predict_proba(query_X) for one in (model, oracle))
            np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("inner", [None, LinearRegression(), DecisionTreeRegressor()])
def test_pooled_regressor_is_its_estimator_on_all_rows(inner, n_outputs):
    tasks, new = numeric(n_outputs=n_outputs), numeric(2, seed=1, n_outputs=n_outputs)
    oracle = clone(RIDGE if inner is None else inner)
    if inner is not None and "random_state" in inner.get_params():
        inner = clone(inner).set_params(random_state=0)
        oracle.set_params(random_state=0)
    oracle.fit(*rows_of(tasks))
    model = PooledRegressor(inner).fit(tasks).adapt(new[0].X[:3], new[0].y[:3])
    np.testing.assert_allclose(model.predict(new[1].X), oracle.predict(new[1].X))
    assert model.predict(new[1].X).dtype == np.float64


@pytest.mark.parametrize("labels", ["shared", "local"])
@pytest.mark.parametrize("inner", [None, KNeighborsClassifier(3)], ids=repr)
def test_per_task_classifier_is_its_estimator_on_the_support_rows(inner, labels):
    meta = PerTaskClassifier(inner).fit(labelled(labels=labels))
    for task in NEW_TREES[:3]:
        support_X, support_y, query_X, _ = support_of(task)
        oracle = clone(LOGISTIC if inner is None else inner).fit(support_X, support_y)
        model = meta.adapt(support_X, support_y)
        np.testing.assert_array_equal(model.predict(query_X), oracle.predict(query_X))
        got, want = (one.predict_proba(query_X) for one in (model, oracle))
        np.testing.assert_allclose(got, want, atol=1e-12)
        assert meta.adapted_ is model


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_per_task_regressor_is_its_estimator_on_the_support_rows(n_outputs):
    meta = PerTaskRegressor().fit(numeric(n_outputs=n_outputs))
    for task in numeric(3, seed=1, n_outputs=n_outputs):
        support_X, support_y, query_X, _ = support_of(task)
        oracle = clone(RIDGE).fit(support_X, support_y)
        model = meta.adapt(support_X, support_y)
        np.testing.assert_allclose(model.predict(query_X), oracle.predict(query_X))


@pytest.mark.parametrize("kind", ["pool", "tasks"])
@pytest.mark.parametrize("gives", ["decision values", "log-probabilities"])
def test_pooled_local_is_the_nearest_mean_of_outputs(kind, gives):
    inner = LogisticRegression(max_iter=1000)
    if gives == "log-probabilities":
        inner = DecisionTreeClassifier(max_leaf_nodes=6, random_state=0)
    tasks = class_pool() if kind == "pool" else labelled(labels="local")
    rows = tasks.rows()
    codes = rows.y
    if kind == "tasks":  # every class of every task is one of its own
        names = np.repeat(tasks.names, rows.sizes)
        codes = np.char.add(names, rows.y)
    oracle = clone(inner).fit(rows.X, codes)
    new = class_pool(3, seed=5, first=100)
    support, query = np.arange(36) % 12 < 5, np.arange(36) % 12 >= 5

    def outputs(X):
        if gives == "decision values":
            return oracle.decision_function(X)
        return np.log(oracle.predict_proba(X).clip(1e-6))

    means = np.stack(
        [outputs(new.X[support & (new.y == label)]).mean(0) for label in new.classes]
    )
    squares = ((outputs(new.X[query])[:, None] - means) ** 2).sum(-1)
    meta = PooledClassifier(inner).fit(tasks)
    model = meta.adapt(new.X[support], new.y[support])
    assert model.classes_.tolist() == [100, 101, 102]
    np.testing.assert_allclose(
        model.predict_proba(new.X[query]), softmax(-squares, axis=1), atol=1e-9
    )
    np.testing.assert_array_equal(
        model.predict(new.X[query]), new.classes[squares.argmin(1)]
    )


def test_local_labels_take_any_number_of_ways():
    for meta in (PooledClassifier(), PerTaskClassifier()):
        meta.fit(class_pool())
        for n_ways in (1, 2, 7):
            new = class_pool(n_ways, seed=3)
            proba = meta.adapt(new.X, new.y).predict_proba(new.X)
            assert proba.shape == (12 * n_ways, n_ways)
            np.testing.assert_allclose(proba.sum(1), 1.0)


def test_pooled_ignores_what_the_support_rows_say_but_checks_them():
    meta = PooledClassifier().fit(TREES)
    X, y, query, _ = support_of(NEW_TREES[0])
    want = meta.adapt(X, y).predict_proba(query)
    other = meta.adapt(-X[:2], y[:2])
    np.testing.assert_array_equal(other.predict_proba(query), want)
    with pytest.raises(ValueError, match="never had: \\['oak'\\]"):
        meta.adapt(X[:2], ["oak", "ash"])
    with pytest.raises(ValueError, match="X has 3 features, but FewShotClassifier"):
        meta.adapt(X[:, 1:], y)
    with pytest.raises(ValueError, match="cannot predict: Input X contains NaN"):
        meta.adapt(np.full_like(X, np.nan), y)


def test_predict_tasks_is_adapt_and_predict_task_by_task():
    for meta, tasks, new in (
        (PooledClassifier(), TREES, NEW_TREES),
        (PooledClassifier(), labelled(labels="local"), NEW_TREES),
        (PooledClassifier(), class_pool(), NEW_TREES),
        (PooledRegressor(), NUMBERS, NEW_NUMBERS),
        (PerTaskClassifier(), TREES, NEW_TREES),
        (PerTaskRegressor(), NUMBERS, NEW_NUMBERS),
    ):
        meta.fit(tasks)
        parts = [support_of(task) for task in new]
        labels = "local" if meta._label_kind == "local" else "shared"
        supports = TaskSet([part[:2] for part in parts], labels=labels)
        together = meta.predict_tasks(supports, [part[2] for part in parts])
        for got, (X, y, query, _) in zip(together, parts, strict=True):
            np.testing.assert_array_equal(got, meta.adapt(X, y).predict(query))
        with pytest.raises(ValueError, match="8 support tasks and 1 entries"):
            meta.predict_tasks(supports, [parts[0][2]])


def test_outputs_of_many_rows_are_not_kept_at_once(monkeypatch):
    meta = PooledClassifier().fit(class_pool())
    new = class_pool(5, seed=2)
    want = meta.score(new)
    monkeypatch.setattr(baselines, "OUTPUTS_AT_ONCE", 10)
    assert meta.score(new) == want


def test_rows_are_predicted_in_one_call():
    class Counting(LinearRegression):
        calls = 0

        def predict(self, X):
            type(self).calls += 1
            return super().predict(X)

    meta = PooledRegressor(Counting()).fit(NUMBERS)
    meta.score(NEW_NUMBERS)
    assert Counting.calls == 1


# The support's classes ----------------------------------------------------------------


def test_classes_without_support_rows_have_probability_zero():
    meta = PerTaskClassifier().fit(TREES)
    X, y, query, _ = support_of(NEW_TREES[0], 12)
    some = y != "birch"
    model = meta.adapt(X[some], y[some])
    assert model.classes_.tolist() == WORDS.tolist()
    proba = model.predict_proba(query)
    oracle = clone(LOGISTIC).fit(X[some], y[some])
    np.testing.assert_array_equal(proba[:, 1], 0)
    np.testing.assert_allclose(proba[:, [0, 2]], oracle.predict_proba(query))


@pytest.mark.parametrize("labels", ["shared", "local"])
def test_one_class_is_predicted_for_all(labels):
    meta = PerTaskClassifier().fit(labelled(labels=labels))
    X = NEW_TREES[0].X
    model = meta.adapt(X[:2], ["birch", "birch"])
    assert set(model.predict(X)) == {"birch"}
    want = [0, 1, 0] if labels == "shared" else [1]
    np.testing.assert_array_equal(model.predict_proba(X), [want] * len(X))


@pytest.mark.parametrize(
    "names",
    [np.array([3, 1, 2]), np.array([True, False]), WORDS.astype(object), WORDS],
    ids=["int", "bool", "object", "str"],
)
def test_labels_of_any_type(names):
    tasks = labelled(names=names)
    for meta in (PooledClassifier(), PerTaskClassifier()):
        model = meta.fit(tasks).adapt(*tasks[0].X[None, :9], tasks[0].y[:9])
        predictions = model.predict(tasks[1].X)
        assert set(predictions.tolist()) <= set(names.tolist())
        assert predictions.dtype == tasks[0].y.dtype
        assert meta.score(tasks) > 0.4


def test_class_weights_are_by_label():
    """The inner estimator sees the labels themselves, not their positions."""
    weights = {"ash": 1, "birch": 100.0, "cedar": 1}
    inner = LogisticRegression(class_weight=weights, max_iter=1000)
    X, y, query, _ = support_of(NEW_TREES[0])
    for meta, rows in (
        (PooledClassifier(inner), rows_of(TREES)),
        (PerTaskClassifier(inner), (X, y)),
    ):
        model = meta.fit(TREES).adapt(X, y)
        want = clone(inner).fit(*rows).predict(query)
        np.testing.assert_array_equal(model.predict(query), want)
        unweighted = LogisticRegression(max_iter=1000).fit(*rows).predict(query)
        assert (want != unweighted).any()


# Scores -------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [PooledClassifier(), PerTaskClassifier()], ids=repr)
@pytest.mark.parametrize("kind", ["shared", "local", "pool"])
def test_score_is_a_loop_over_the_same_episodes(meta, kind):
    train, new = labelled(labels="local"), labelled(seed=1, labels="local")
    if kind == "shared":
        train, new = TREES, NEW_TREES
    elif kind == "pool":
        train, new = class_pool(), class_pool(6, seed=1)
    n_way = None if kind == "shared" else 2
    meta = clone(meta).set_params(n_shot=3, n_way=n_way, random_state=7).fit(train)
    X, y = rows_of(new)
    accuracies = []
    for support, query in episodes_of(new, 3, n_way, seed=7):
        model = meta.adapt(X[support], y[support])
        accuracies.append(np.mean(model.predict(X[query]) == y[query]))
    assert len(accuracies) == (200 if kind == "pool" else len(new))
    assert meta.score(new) == pytest.approx(np.mean(accuracies), abs=1e-12)


@pytest.mark.parametrize("meta", [PooledRegressor(), PerTaskRegressor()], ids=repr)
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_score_of_regressors_is_one_minus_pooled_errors_over_squares(meta, n_outputs):
    meta = clone(meta).fit(numeric(n_outputs=n_outputs))
    new = numeric(seed=1, n_outputs=n_outputs)
    X, y = rows_of(new)
    errors = squares = 0.0
    for support, query in episodes_of(new):
        predictions = meta.adapt(X[support], y[support]).predict(X[query])
        errors += ((predictions - y[query]) ** 2).sum(0)
        squares += ((y[query] - y[query].mean(0)) ** 2).sum(0)
    assert meta.score(new) == pytest.approx(np.mean(1 - errors / squares), abs=1e-12)


def test_episodes_of_score_are_those_of_torch_learners():
    """A ProtoNet on the features themselves is the nearest mean of the support rows."""

    class NearestMean(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.classes_, codes = np.unique(y, return_inverse=True)
            ways = range(len(self.classes_))
            self.means_ = np.stack([X[codes == way].mean(0) for way in ways])
            return self

        def predict(self, X):
            squares = ((X[:, None] - self.means_) ** 2).sum(-1)
            return self.classes_[squares.argmin(1)]

    common = {"n_shot": 2, "n_way": 3, "random_state": 4}
    proto = ProtoNetClassifier("identity", normalize_x=False, max_iter=1, **common)
    meta = PerTaskClassifier(NearestMean(), **common)
    for train, new in (
        (class_pool(), class_pool(6, seed=1)),
        (labelled(labels="local"), labelled(seed=1, labels="local")),
    ):
        assert meta.fit(train).score(new) == pytest.approx(
            proto.fit(train).score(new), abs=1e-9
        )


def test_fixed_support_rows_are_adapted_on():
    mask = np.zeros(13, dtype=bool)
    mask[[1, 4, 6]] = True
    tasks = TaskSet([Task(t.X[:13], t.y[:13], support=mask) for t in NEW_NUMBERS])
    meta = PerTaskRegressor().fit(NUMBERS)
    errors = squares = 0.0
    for task in tasks:
        rest = task.y[~mask]
        model = meta.adapt(task.X[mask], task.y[mask])
        errors += ((model.predict(task.X[~mask]) - rest) ** 2).sum()
        squares += ((rest - rest.mean()) ** 2).sum()
    assert meta.score(tasks) == pytest.approx(1 - errors / squares)


def test_leakage_warns_where_something_can_leak():
    named = TaskSet([Task(t.X[:8], t.y[:8], t.name) for t in NUMBERS])
    rest = TaskSet([Task(t.X[5:], t.y[5:], t.name) for t in NUMBERS])
    meta = PooledRegressor().fit(named)
    meta.score(named)
    with pytest.warns(TaskLeakageWarning, match="^8 of 8 scored tasks"):
        meta.score(rest)
    # Who learned nothing from the rows of a task can be scored on others of it.
    PerTaskRegressor().fit(named).score(rest)


# Rows in their own container ----------------------------------------------------------


def sales(n_shops=8, seed=0):
    """Return rows with text, missing numbers and a shop each."""
    rng = np.random.default_rng(seed)
    n = 20 * n_shops
    frame = pd.DataFrame(
        {
            "price": rng.normal(size=n),
            "day": rng.choice(["Mon", "Tue", "Sun"], n),
            "shop": np.repeat([f"shop {seed}.{i}" for i in range(n_shops)], 20),
        }
    )
    frame["units"] = 2 * (frame["day"] == "Sun") - frame["price"]
    frame["sold out"] = np.where(frame["units"] > 0.5, "yes", "no")
    return frame


def text_and_numbers(last):
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["day"]), (StandardScaler(), ["price"])
    )
    return make_pipeline(columns, last)


@pytest.mark.parametrize("face", ["Pooled", "PerTask"])
def test_text_columns_reach_a_column_transformer(face):
    train, test = sales(), sales(2, seed=1)
    for kind, last, target in (
        ("Regressor", Ridge(1e-6), "units"),
        ("Classifier", LogisticRegression(max_iter=1000), "sold out"),
    ):
        meta = getattr(baselines, f"{face}{kind}")(text_and_numbers(last), n_shot=12)
        tasks, new = (
            TaskSet.from_frame(
                frame, target=target, task="shop", features=["price", "day"]
            )
            for frame in (train, test)
        )
        meta.fit(tasks)
        assert meta.feature_names_in_.tolist() == ["price", "day"]
        assert meta.score(new) > 0.8
        task = new[0]
        model = meta.adapt(task.X[:12], task.y[:12])
        rows = train if face == "Pooled" else test[:12]
        oracle = text_and_numbers(last).fit(rows[["price", "day"]], rows[target])
        got, want = (one.predict(task.X[12:]) for one in (model, oracle))
        if kind == "Regressor":
            np.testing.assert_allclose(got, want, atol=1e-9)
        else:
            np.testing.assert_array_equal(got, want)
        with pytest.raises(ValueError, match="feature names should match"):
            model.predict(task.X[["day", "price"]])
        # Without names, the columns are those of meta-training.
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            unnamed = model.predict(task.X[12:].to_numpy())
        np.testing.assert_array_equal(unnamed, got)


def test_missing_values_are_up_to_the_inner_estimator():
    def with_gaps(tasks):
        rows, rng = tasks.rows(), np.random.default_rng(0)
        X = np.where(rng.random(rows.X.shape) < 0.1, np.nan, rows.X)
        return TaskSet.from_offsets(X, rows.y, rows.offsets, names=tasks.names)

    boosting = {"max_iter": 5, "min_samples_leaf": 2}
    for meta, train, new in (
        (PooledClassifier, TREES, NEW_TREES),
        (PerTaskClassifier, TREES, NEW_TREES),
        (PooledRegressor, NUMBERS, NEW_NUMBERS),
        (PerTaskRegressor, NUMBERS, NEW_NUMBERS),
    ):
        inner = HistGradientBoostingRegressor(**boosting)
        if train is TREES:
            inner = HistGradientBoostingClassifier(**boosting)
        taking = meta(inner).fit(with_gaps(train))
        assert np.isfinite(taking.score(with_gaps(new)))
        support = with_gaps(new)[0]
        taking.adapt(support.X, support.y).predict(support.X)
        refusing = meta().fit(train)
        with pytest.raises(ValueError, match=r"Task '\w+ 1.0': Pipeline.* NaN"):
            refusing.score(with_gaps(new))
    with pytest.raises(
        ValueError,
        match=r"cannot be fitted to 132 rows of 8 tasks \(there is a missing value in "
        r"task 'wave 0.0', row \d\): Input X contains NaN",
    ):
        PooledRegressor().fit(with_gaps(NUMBERS))


def test_text_that_the_estimator_does_not_take_is_found():
    frame = sales()
    frame["price"] = frame["price"].astype(object)
    frame.loc[27, "price"] = "free"
    tasks = TaskSet.from_frame(frame, target="units", task="shop", features=["price"])
    with pytest.raises(ValueError, match=r"text in task 'shop 0\.1', row 7"):
        PooledRegressor().fit(tasks)
    meta = PerTaskRegressor(n_shot=19).fit(tasks)
    with pytest.raises(ValueError, match=r"Task 'shop 0.1': .* 'free'"):
        meta.score(tasks)


def test_infinity_is_found():
    rows = NUMBERS.rows()
    X = rows.X.copy()
    X[21, 2] = np.inf
    with pytest.raises(ValueError, match=r"infinity in task 'wave 0\.1', row 1"):
        PooledRegressor().fit(
            TaskSet.from_arrays(X, rows.y, np.repeat(NUMBERS.names, rows.sizes))
        )


class Spy(ClassifierMixin, BaseEstimator):
    """Remembers the rows it was given."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.fitted_to_ = X
        return self

    def decision_function(self, X):
        self.asked_ = X
        return np.zeros((len(X), len(self.classes_)))

    def predict(self, X):
        self.asked_ = X
        return np.full(len(X), self.classes_[0])


def test_images_are_rows_of_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 5, 4, 3), dtype=np.uint8)
    y = np.repeat(np.arange(4), 10)
    pool = ClassPool(images, y)
    meta = PooledClassifier(Spy()).fit(pool)
    want = images.reshape(40, -1) / 255
    np.testing.assert_array_equal(meta.estimator_.fitted_to_, want)
    assert meta.n_features_in_ == 60
    model = meta.adapt(images[:10], y[:10])
    model.predict(images[20:23])
    np.testing.assert_array_equal(meta.estimator_.asked_, want[20:23])
    model.predict(images[20:23] / 255)
    np.testing.assert_array_equal(meta.estimator_.asked_, want[20:23])
    with pytest.raises(ValueError, match=r"scales to \[0, 1\]; X holds float64 up to"):
        model.predict(images[:2].astype(float))
    with pytest.raises(ValueError, match=r"rows of shape \(4, 5, 3\), but Pooled"):
        model.predict(images.swapaxes(1, 2))
    assert PerTaskClassifier().fit(pool).score(pool) >= 0


def test_values_are_not_rounded():
    """The fraction that tells two rows apart is lost in single precision."""
    X = 1.0 + np.array([[0], [1], [2], [3]]) * 1e-12
    y = np.array([0, 1, 0, 1])
    meta = PerTaskClassifier(DecisionTreeClassifier()).fit([(X, y), (X, y)])
    spied = PerTaskClassifier(Spy()).fit([(X, y), (X, y)]).adapt(X, y)
    assert spied._model.estimator.fitted_to_.dtype == np.float64
    np.testing.assert_array_equal(spied._model.estimator.fitted_to_, X)
    assert meta.adapt(X, y).predict(X).shape == (4,)


def test_tensors_and_lists_are_rows_too():
    X, y, query, _ = support_of(NEW_NUMBERS[0])
    tensors = [(torch.tensor(t.X), torch.tensor(t.y)) for t in NUMBERS]
    for meta in (PooledRegressor(), PerTaskRegressor()):
        want = meta.fit(NUMBERS).adapt(X, y).predict(query)
        meta.fit(tensors)
        model = meta.adapt(X.tolist(), y.tolist())
        np.testing.assert_allclose(model.predict(torch.tensor(query)), want)


# Seeds, copies, pickles ---------------------------------------------------------------


@pytest.mark.parametrize("face", ["Pooled", "PerTask"])
def test_the_same_seed_gives_the_same_forest(face):
    X, y, query, _ = support_of(NEW_NUMBERS[0])
    nested = make_pipeline(StandardScaler(), RandomForestRegressor(5))
    make = getattr(baselines, f"{face}Regressor")

    def predictions(**parameters):
        return make(nested, **parameters).fit(NUMBERS).adapt(X, y).predict(query)

    first = predictions(random_state=0)
    np.testing.assert_array_equal(predictions(random_state=0), first)
    assert (predictions(random_state=1) != first).any()
    assert nested.get_params()["randomforestregressor__random_state"] is None
    # A seed that the user gave stays.
    nested = make_pipeline(StandardScaler(), RandomForestRegressor(5, random_state=3))
    np.testing.assert_array_equal(
        predictions(random_state=0), predictions(random_state=1)
    )
    # Adapting twice gives the same, without a seed too.
    nested = RandomForestRegressor(5)
    meta = make(nested).fit(NUMBERS)
    both = [meta.adapt(X, y).predict(query) for _ in range(2)]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("face", ["Pooled", "PerTask"])
def test_the_given_estimator_is_never_fitted(face):
    inner = LogisticRegression()
    meta = getattr(baselines, f"{face}Classifier")(inner).fit(TREES)
    meta.adapt(*support_of(NEW_TREES[0])[:2])
    meta.score(NEW_TREES)
    assert meta.estimator is inner
    assert not hasattr(inner, "coef_")
    assert not hasattr(clone(meta), "classes_")


def test_adapted_models_are_independent_of_everything_later():
    X, y, query, _ = support_of(NEW_NUMBERS[0])
    for meta in (PooledRegressor(Ridge()), PerTaskRegressor(Ridge())):
        model = meta.fit(NUMBERS).adapt(X, y)
        before = model.predict(query)
        meta.set_params(estimator__alpha=100.0)
        meta.fit(NEW_NUMBERS).adapt(NEW_NUMBERS[1].X, NEW_NUMBERS[1].y)
        np.testing.assert_array_equal(model.predict(query), before)
        stored = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(stored.predict(query), before)


def test_parameters_of_the_inner_estimator_act_where_it_is_fitted():
    X, y, query, _ = support_of(NEW_NUMBERS[0])
    pooled = PooledRegressor(make_pipeline(StandardScaler(), Ridge())).fit(NUMBERS)
    stored = pickle.loads(pickle.dumps(pooled))
    for meta in (pooled, stored):
        with pytest.raises(ValueError, match=r"estimator=.* acts in meta-tr"):
            clone(FewShotRegressor(meta)).set_params(
                meta__estimator__ridge__alpha=9.0
            ).fit(X, y)
        FewShotRegressor(meta).fit(X, y)
    pooled.set_params(estimator__ridge__alpha=9.0)
    with pytest.raises(ValueError, match="was meta-trained with estimator="):
        pooled.adapt(X, y)
    per_task = PerTaskRegressor(Ridge()).fit(NUMBERS)
    search = GridSearchCV(
        FewShotRegressor(per_task),
        {"meta__estimator__alpha": [1e-3, 1e3]},
        cv=3,
        error_score="raise",
    ).fit(X, y)
    assert search.best_params_ == {"meta__estimator__alpha": 1e-3}
    assert per_task.estimator.alpha == 1.0
    oracle = Ridge(1e-3).fit(X, y)
    np.testing.assert_allclose(search.predict(query), oracle.predict(query))


@pytest.mark.parametrize(
    "inner",
    [
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=KFold(3)),
        RandomForestClassifier(3, random_state=np.random.RandomState(0)),
    ],
    ids=["splitter", "generator"],
)
def test_parameters_without_an_equality_of_their_own_are_unchanged(inner):
    """Copies of KFold and RandomState are not equal to what they were copied from."""
    X, y, query, _ = support_of(NEW_TREES[0])
    meta = PooledClassifier(inner).fit(TREES)
    want = meta.adapt(X, y).predict(query)
    again = pickle.loads(pickle.dumps(meta))
    np.testing.assert_array_equal(again.adapt(X, y).predict(query), want)
    assert again.score(NEW_TREES) == meta.score(NEW_TREES)


def test_a_search_over_tasks_tunes_the_inner_estimator():
    for meta in (PooledRegressor(Ridge()), PerTaskRegressor(Ridge())):
        search = GridSearchCV(
            meta,
            {"estimator__alpha": [1e-2, 1e4]},
            cv=TaskKFold(4),
            error_score="raise",
        ).fit(NUMBERS)
        assert search.best_params_ == {"estimator__alpha": 1e-2}
        assert search.best_estimator_.adapt(*support_of(NUMBERS[0])[:2])


def test_few_shot_classifiers_in_wrappers():
    X, y = NEW_TREES[0].X, NEW_TREES[0].y
    for meta in (PooledClassifier(), PerTaskClassifier()):
        few_shot = FewShotClassifier(meta.fit(TREES))
        calibrated = CalibratedClassifierCV(few_shot, cv=2).fit(X, y)
        assert calibrated.predict_proba(X).shape == (len(X), 3)
        ranks = FewShotClassifier(meta).fit(X, np.searchsorted(WORDS, y))
        np.testing.assert_array_equal(
            WORDS[ranks.predict(X)], few_shot.fit(X, y).predict(X)
        )


# Refusals -----------------------------------------------------------------------------


def test_before_fit():
    meta = PerTaskRegressor()
    with pytest.raises(NotFittedError):
        meta.adapt([[0.0]], [0.0])
    with pytest.raises(NotFittedError, match="is not meta-trained"):
        FewShotRegressor(meta).fit([[0.0]], [0.0])


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (PooledRegressor(SVC()), r"PooledRegressor .* regressor, got the .* SVC\(\)"),
        (PerTaskClassifier(Ridge()), r"PerTaskClassifier .* the regressor Ridge\(\)"),
        (PooledClassifier(RIDGE), r"the regressor Pipeline\(steps=.*Ridge\(\)\)\]\)"),
        (PooledClassifier(KMeans(2)), r"must be a classifier, got the clusterer KMea"),
        (PerTaskRegressor(IsolationForest()), "regressor, got the outlier detector I"),
        (PerTaskRegressor(Ridge), "must be a scikit-learn regressor, got <class"),
        (PooledRegressor(make_pipeline(StandardScaler())), "regressor, got Pipeline"),
        (PooledRegressor(PerTaskRegressor()), "learns from rows, and PerTaskRegressor"),
        (PooledClassifier("forest"), "must be a scikit-learn classifier, got 'forest'"),
    ],
    ids=repr,
)
def test_estimators_of_another_kind(meta, message):
    with pytest.raises(TypeError, match=message):
        meta.fit(TREES if meta._classifies else NUMBERS)


def test_too_few_rows_for_the_inner_estimator():
    meta = PerTaskClassifier(KNeighborsClassifier(5), n_shot=3).fit(TREES)
    model = meta.adapt(*support_of(NEW_TREES[0], 3)[:2])
    words = r"KNeighborsClassifier\(\) fitted to 3 support rows cannot predict: .* n_"
    with pytest.raises(ValueError, match=words):
        model.predict(NEW_TREES[0].X)
    with pytest.raises(ValueError, match=rf"^Task 'wood 1.\d': {words}"):
        meta.score(NEW_TREES)
    folds = CalibratedClassifierCV(LogisticRegression(), cv=5)
    meta = PerTaskClassifier(folds, n_shot=4).fit(TREES)
    words = r"^Calibrated.* cannot be fitted to 4 support rows: "
    with pytest.raises(ValueError, match=words):
        meta.adapt(*support_of(NEW_TREES[0], 4)[:2])


def test_wrong_counts_are_refused_in_fit():
    with pytest.raises(ValueError, match="n_shot must be at least 1"):
        PerTaskRegressor(n_shot=0).fit(NUMBERS)
    with pytest.raises(ValueError, match="n_way=3"):
        PooledRegressor(n_way=3).fit(NUMBERS)
    with pytest.raises(ValueError, match="is a regressor; a ClassPool holds classes"):
        PerTaskRegressor().fit(class_pool())
    with pytest.raises(ValueError, match="Did you mean labels='local'"):
        PooledClassifier().fit([(np.eye(2), [0, 1]), (np.eye(2), [2, 3])])


def test_classes_of_new_tasks_need_outputs():
    class Mute(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.classes_ = np.unique(y)
            return self

        def predict(self, X):
            return self.classes_[:1].repeat(len(X))

    assert not hasattr(PooledClassifier(Mute()).fit(TREES), "predict_proba")
    with pytest.raises(TypeError, match="neither decision values nor probabilities"):
        PooledClassifier(Mute()).fit(class_pool())


def test_predictions_that_are_not_finite():
    class Infinite(LinearRegression):
        def predict(self, X):
            return super().predict(X) * np.inf

    meta = PerTaskRegressor(Infinite()).fit(NUMBERS)
    with pytest.raises(
        ValueError, match=r"^Task 'wave 1.0': Infinite\(\).* not finite"
    ):
        meta.score(NEW_NUMBERS)


def test_warnings_of_the_inner_estimator_stay_warnings():
    inner = make_pipeline(FunctionTransformer(), LogisticRegression(max_iter=1, C=1e3))
    X, y = support_of(NEW_TREES[0])[:2]
    meta = PerTaskClassifier(inner).fit(TREES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Warning, match="failed to converge"):
            meta.adapt(X, y)


def test_a_forest_beats_chance_on_pixels():
    """Any estimator: here one with a random state and no scaling."""
    meta = PerTaskClassifier(RandomForestClassifier(5), random_state=0)
    assert meta.fit(class_pool()).score(class_pool(4, seed=2)[:3]) > 0.5
