"""TaskTransformer against transforming by hand."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin, clone, is_regressor
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    StandardScaler,
    TargetEncoder,
)
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.fixes import parse_version

from sklmeta import ClassPool, MAMLRegressor, Task, TaskSet, TaskTransformer
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.tasks import TaskDistribution


class Recorder(TransformerMixin, BaseEstimator):
    """Passes rows through; remembers what its fit was given."""

    def fit(self, X, y=None):
        self.X_, self.y_ = X, y
        return self

    def transform(self, X):
        return X


class Lines:
    """Source of tasks of ten rows."""

    def sample(self, n_tasks, random_state=None):
        rng = np.random.default_rng(random_state)
        X = rng.normal(5, 2, (n_tasks * 10, 2))
        return TaskSet.from_offsets(X, X.sum(1), np.arange(n_tasks + 1) * 10)


def table(n_tasks=6, seed=0):
    """Return ragged named tasks with a text column, in long format."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 9, n_tasks)
    n = sizes.sum()
    return pd.DataFrame(
        {
            "shop": np.repeat([f"shop {i}" for i in range(n_tasks)], sizes),
            "price": rng.uniform(1, 3, n),
            "day": rng.choice(["Fri", "Sat", "Sun"], n),
            "area": rng.normal(50, 20, n),
            "units": rng.normal(size=n),
        }
    )


# TargetEncoder takes a splitter since scikit-learn 1.9, and warns without one.
OLD = parse_version(sklearn.__version__) < parse_version("1.9")
FRAME = table()
SHOPS = TaskSet.from_frame(FRAME, target="units", task="shop")
NUMBERS = TaskSet.from_frame(
    FRAME, target="units", task="shop", features=["price", "area"]
)


def columns():
    return make_column_transformer(
        (StandardScaler(), ["price", "area"]), (OneHotEncoder(), ["day"])
    )


def rows_of(tasks):
    return np.asarray(tasks.rows().X, dtype=float)


# All tasks' rows together -------------------------------------------------------------


def test_equals_transforming_the_pooled_rows():
    moved = TaskTransformer(columns()).fit_transform(SHOPS)
    by_hand = columns().fit_transform(FRAME[["price", "day", "area"]])
    assert_array_equal(rows_of(moved), np.asarray(by_hand))
    assert moved.names == SHOPS.names
    assert_array_equal(moved.rows().y, SHOPS.rows().y)
    assert_array_equal(moved.rows().offsets, SHOPS.rows().offsets)


def test_new_tasks_are_transformed_by_what_training_tasks_said():
    transformer = TaskTransformer(StandardScaler()).fit(NUMBERS[:4])
    scaler = StandardScaler().fit(rows_of(NUMBERS[:4]))
    assert_array_equal(
        rows_of(transformer.transform(NUMBERS[4:])),
        scaler.transform(rows_of(NUMBERS[4:])),
    )


def test_fit_then_transform_equals_fit_transform():
    transformer = TaskTransformer(columns())
    both = transformer.fit_transform(SHOPS)
    assert_array_equal(
        rows_of(clone(transformer).fit(SHOPS).transform(SHOPS)), rows_of(both)
    )


def test_cross_fitted_transformers_are_used_as_pipelines_use_them():
    encoder = TargetEncoder(shuffle=False) if OLD else TargetEncoder(cv=KFold(3))
    days = TaskSet.from_frame(FRAME, target="units", task="shop", features=["day"])
    moved = TaskTransformer(encoder).fit_transform(days)
    assert_array_equal(
        rows_of(moved), encoder.fit_transform(FRAME[["day"]], FRAME["units"])
    )


@pytest.mark.parametrize("labels", ["shared", "local"])
def test_names_labels_and_supports_are_kept(labels):
    tasks = TaskSet(
        [
            Task([[0.0], [1.0], [4.0]], [0, 1, 0], "a", support=[True, True, False]),
            Task([[2.0], [3.0]], [1, 0]),
        ],
        labels=labels,
    )
    moved = TaskTransformer(StandardScaler()).fit_transform(tasks)
    assert moved.labels == labels
    assert moved.names == ("a", 1)
    assert_array_equal(moved.named, [True, False])
    assert_array_equal(moved[0].support, [True, True, False])
    assert moved[1].support is None


def test_class_pool_stays_one():
    pool = load_digits_pool()[[3, 1, 4]]
    pool = ClassPool(pool.X.reshape(len(pool.X), -1), pool.y)
    moved = TaskTransformer(PCA(5, random_state=0)).fit_transform(pool)
    assert isinstance(moved, ClassPool)
    assert_array_equal(moved.classes, pool.classes)
    assert_allclose(moved.X, PCA(5, random_state=0).fit_transform(pool.X))


def test_pairs_and_repeated_tasks():
    pairs = [([[0.0], [2.0]], [0.0, 1.0]), ([[4.0], [6.0]], [1.0, 0.0])]
    transformer = TaskTransformer(StandardScaler(with_std=False)).fit(pairs)
    assert_array_equal(rows_of(transformer.transform(pairs)).ravel(), [-3, -1, 1, 3])
    twice = transformer.transform(TaskSet(pairs)[[1, 1]])
    assert_array_equal(rows_of(twice).ravel(), [1, 3, 1, 3])


def test_distribution_transforms_what_it_draws():
    source = TaskTransformer(StandardScaler()).fit(Lines()).transform(Lines())
    assert isinstance(source, TaskDistribution)
    scaler = StandardScaler().fit(rows_of(Lines().sample(200, 0)))
    assert_array_equal(
        rows_of(source.sample(3, 7)), scaler.transform(rows_of(Lines().sample(3, 7)))
    )
    again = pickle.loads(pickle.dumps(source))
    assert_array_equal(rows_of(again.sample(3, 7)), rows_of(source.sample(3, 7)))


def test_torch_rows():
    X = torch.arange(8.0).reshape(4, 2)
    tasks = TaskSet.from_offsets(X, [0.0, 1, 2, 3], [0, 2, 4])
    moved = TaskTransformer(StandardScaler()).fit_transform(tasks)
    assert_array_equal(rows_of(moved), StandardScaler().fit_transform(X.numpy()))


# What the transformer is told of targets ----------------------------------------------


def y_seen(tasks):
    return TaskTransformer(Recorder()).fit(tasks).transformer_.y_


@pytest.mark.parametrize(
    "tasks", [SHOPS, load_digits_pool()[:3], TaskSet([([[0.0], [1.0]], ["no", "yes"])])]
)
def test_targets_are_handed_over(tasks):
    assert_array_equal(y_seen(tasks), tasks.rows().y)


def test_local_labels_are_handed_over_task_by_task():
    X = np.zeros((5, 1))
    tasks = TaskSet.from_arrays(
        X, ["b", "a", "a", "b", "b"], [0, 0, 1, 1, 1], labels="local"
    )
    assert y_seen(tasks).tolist() == [0, 1, 2, 3, 3]
    assert y_seen(tasks[[0, 1, 0]]).tolist() == [0, 1, 2, 3, 3, 0, 1]


def test_local_says_nothing_about_numbers():
    X, y = np.zeros((4, 1)), [0.5, 1.5, 0.5, 2.0]
    tasks = TaskSet.from_arrays(X, y, [0, 0, 1, 1], labels="local")
    assert_array_equal(y_seen(tasks), y)


def test_supervised_selection():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 5)), np.tile([0, 1], 30)
    X[:, 3] += y
    tasks = TaskSet.from_arrays(X, y, np.arange(60) // 6)
    moved = TaskTransformer(SelectKBest(k=1)).fit_transform(tasks)
    assert_array_equal(rows_of(moved), X[:, [3]])


# Rows, in stock pipelines -------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_is_a_scikit_learn_transformer():
    check_estimator(TaskTransformer(StandardScaler()))


def test_rows_are_transformed_as_by_the_transformer():
    X = FRAME[["price", "day", "area"]]
    transformer = TaskTransformer(columns()).fit(X, FRAME["units"])
    assert_array_equal(transformer.transform(X), columns().fit_transform(X))
    assert_array_equal(
        TaskTransformer(columns()).fit_transform(X), columns().fit_transform(X)
    )


def test_groups_make_no_difference_to_pooled_rows():
    X, y = rows_of(NUMBERS), NUMBERS.rows().y
    by_rows = TaskTransformer(StandardScaler()).fit(X, y, groups=FRAME["shop"])
    assert_array_equal(by_rows.transform(X), StandardScaler().fit_transform(X))


@pytest.mark.parametrize("per_task", [False, True])
def test_in_a_stock_pipeline_on_tasks(per_task):
    meta = MAMLRegressor(n_shot=2, max_iter=2, random_state=0)
    if per_task:  # what is scored has fixed support rows
        marked = [
            Task(t.X, t.y, t.name, support=np.arange(len(t)) < 2) for t in NUMBERS
        ]
        tasks = TaskSet(marked)
    else:
        tasks = NUMBERS
    transformer = TaskTransformer(StandardScaler(), per_task=per_task)
    pipeline = make_pipeline(transformer, meta).fit(tasks[:4])
    by_hand = clone(transformer)
    expected = clone(meta).fit(by_hand.fit_transform(tasks[:4]))
    assert pipeline.score(tasks[4:]) == expected.score(by_hand.transform(tasks[4:]))


# Each task by itself ------------------------------------------------------------------


def masked(tasks):
    return TaskSet(
        Task(t.X, t.y, t.name, support=np.arange(len(t)) % 2 == 0) for t in tasks
    )


def test_training_tasks_are_scaled_by_their_own_rows():
    moved = TaskTransformer(StandardScaler(), per_task=True).fit_transform(NUMBERS)
    for task, before in zip(moved, NUMBERS, strict=True):
        assert_array_equal(task.X, StandardScaler().fit_transform(before.X))


@pytest.mark.parametrize("verb", ["fit_transform", "transform"])
def test_only_support_rows_are_fitted_on(verb):
    tasks = masked(NUMBERS)
    transformer = TaskTransformer(StandardScaler(), per_task=True).fit(NUMBERS)
    moved = getattr(transformer, verb)(tasks)
    for task, before in zip(moved, tasks, strict=True):
        scaler = StandardScaler().fit(before.X[before.support])
        assert_array_equal(task.X, scaler.transform(before.X))
        assert_array_equal(task.support, before.support)


def test_tasks_without_support_are_refused_by_transform():
    transformer = TaskTransformer(StandardScaler(), per_task=True).fit(NUMBERS)
    with pytest.raises(ValueError, match=r"Task 'shop 4': it has no fixed support"):
        transformer.transform(NUMBERS[4:])


def test_tasks_of_different_width_are_named():
    days = TaskSet.from_arrays(
        pd.DataFrame({"day": ["Fri", "Sat", "Fri", "Fri"]}),
        [0.0, 1, 2, 3],
        list("aabb"),
    )
    own = TaskTransformer(OneHotEncoder(), per_task=True)
    with pytest.raises(ValueError, match=r"Task 'a' and task 'b' differ: rows of shap"):
        own.fit_transform(days)
    fixed = OneHotEncoder(categories=[["Fri", "Sat"]])
    moved = TaskTransformer(fixed, per_task=True).fit_transform(days)
    assert_array_equal(rows_of(moved), [[1, 0], [0, 1], [1, 0], [1, 0]])


def test_task_that_cannot_be_fitted_is_named():
    rows = [[0.0, 1.0], [1.0, 0.0]]
    tasks = TaskSet([(rows, [0, 1]), Task(rows[:1], [0], "Nice")])
    own = TaskTransformer(PCA(2), per_task=True)
    with pytest.raises(ValueError, match="Task 'Nice': n_components=2 must be betwe"):
        own.fit_transform(tasks)


@pytest.mark.parametrize(
    ("value", "what"),
    [(np.nan, "a missing value"), (np.inf, "infinity"), ("high", "text")],
)
@pytest.mark.parametrize("framed", [False, True])
def test_values_that_are_not_taken_are_found(value, what, framed):
    def shops(last):
        rows = [[[float(i + t), i % 3] for i in range(5)] for t in range(4)]
        rows[3][2][0] = last
        wrap = pd.DataFrame if framed else np.array
        dtype = object if isinstance(last, str) else float
        return TaskSet(
            [(wrap(X, dtype=dtype), np.arange(5.0)) for X in rows],
        )

    pca = TaskTransformer(PCA(1)).fit(shops(1.0))
    found = rf"PCA cannot .* these tasks \(there is {what} in task 3, row 2\): "
    for verb in (pca.transform, pca.fit, pca.fit_transform):
        with pytest.raises(ValueError, match=found):
            verb(shops(value))


def test_other_errors_are_left_as_they_are():
    """A missing value is not the cause of all that fails."""
    tasks = TaskSet([([[np.nan, 1.0], [2.0, 3.0]], [0.0, 1.0])])
    with pytest.raises(ValueError, match=r"^n_bins"):
        TaskTransformer(Refuses()).fit(tasks)


class Refuses(Recorder):
    def fit(self, X, y=None):
        raise ValueError("n_bins is too small. See the documentation for information.")


def test_class_pool_and_rows_have_no_tasks_to_fit_on():
    own = TaskTransformer(StandardScaler(), per_task=True)
    with pytest.raises(ValueError, match="cannot transform a ClassPool"):
        own.fit(load_digits_pool()[:3])
    with pytest.raises(ValueError, match="takes tasks and got rows"):
        own.fit(rows_of(NUMBERS))
    with pytest.raises(ValueError, match="takes tasks and got rows"):
        own.fit_transform(rows_of(NUMBERS), FRAME["units"], groups=FRAME["shop"])
    with pytest.raises(ValueError, match="takes tasks and got rows"):
        own.fit(NUMBERS).transform(rows_of(NUMBERS))


def test_distribution_of_own_scales():
    own = TaskTransformer(StandardScaler(), per_task=True)
    for task in own.fit_transform(Lines()).sample(3, 0):
        assert_allclose(task.X.mean(0), 0, atol=1e-12)


# Containers and names -----------------------------------------------------------------


def test_feature_names():
    transformer = TaskTransformer(columns()).fit(SHOPS)
    by_hand = columns().fit(FRAME[["price", "day", "area"]])
    assert_array_equal(
        transformer.get_feature_names_out(), by_hand.get_feature_names_out()
    )
    assert_array_equal(transformer.feature_names_in_, ["price", "day", "area"])
    assert transformer.n_features_in_ == 3
    assert not hasattr(TaskTransformer(Recorder()), "get_feature_names_out")


@pytest.mark.parametrize("per_task", [False, True])
def test_pandas_output(per_task):
    transformer = TaskTransformer(StandardScaler(), per_task=per_task)
    moved = transformer.set_output(transform="pandas").fit_transform(NUMBERS)
    X = moved.rows().X
    assert isinstance(X, pd.DataFrame)
    assert list(X.columns) == ["price", "area"]
    assert list(X.index) == list(NUMBERS.rows().X.index)
    transformer.set_output(transform="default")
    if not per_task:
        assert isinstance(transformer.transform(NUMBERS).rows().X, np.ndarray)


def test_pandas_output_by_configuration():
    with sklearn.config_context(transform_output="pandas"):
        moved = TaskTransformer(StandardScaler()).fit_transform(NUMBERS)
    assert isinstance(moved, TaskSet)
    assert isinstance(moved.rows().X, pd.DataFrame)


class WithoutOutput(BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


def test_transformers_without_containers():
    transformer = TaskTransformer(WithoutOutput()).set_output(transform=None)
    with pytest.raises(ValueError, match=r"WithoutOutput\(\) has no set_output"):
        transformer.set_output(transform="pandas")
    moved = transformer.fit_transform(NUMBERS)  # has no fit_transform either
    assert_array_equal(rows_of(moved), rows_of(NUMBERS))


def test_sparse_output_becomes_dense():
    moved = TaskTransformer(OneHotEncoder()).fit_transform(
        TaskSet.from_frame(FRAME, target="units", task="shop", features=["day"])
    )
    assert_array_equal(rows_of(moved), pd.get_dummies(FRAME["day"], dtype=float))
    rows = TaskTransformer(OneHotEncoder()).fit_transform(FRAME[["day"]])
    assert_array_equal(rows, rows_of(moved))


def test_selector_of_columns_sees_the_data_frame():
    by_kind = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        remainder="drop",
    )
    assert TaskTransformer(by_kind).fit_transform(SHOPS).rows().X.shape[1] == 2


# Nobody's objects are changed ---------------------------------------------------------


def test_given_transformer_stays_unfitted():
    scaler = StandardScaler()
    before = rows_of(NUMBERS).copy()
    transformer = TaskTransformer(scaler).fit(NUMBERS)
    transformer.transform(NUMBERS)
    assert not hasattr(scaler, "mean_")
    assert_array_equal(rows_of(NUMBERS), before)


def test_frozen_transformers_stay_as_they_are():
    scaler = StandardScaler().fit(NUMBERS[:2].rows().X)
    moved = TaskTransformer(FrozenEstimator(scaler)).fit_transform(NUMBERS)
    assert_array_equal(rows_of(moved), scaler.transform(NUMBERS.rows().X))


def test_failed_fit_keeps_what_was_fitted():
    transformer = TaskTransformer(StandardScaler()).fit(NUMBERS)
    mean = transformer.transformer_.mean_
    with pytest.raises(ValueError, match="could not convert string"):
        transformer.fit(SHOPS)
    assert transformer.transformer_.mean_ is mean


# Refusals -----------------------------------------------------------------------------


def test_transformer_that_drops_rows():
    drops = FunctionTransformer(lambda X: X[1:])
    n = len(FRAME)
    text = rf"FunctionTransformer returned {n - 1} rows for {n}, so"
    with pytest.raises(ValueError, match=text):
        TaskTransformer(drops).fit_transform(NUMBERS)
    with pytest.raises(ValueError, match=text):
        TaskTransformer(drops).fit(NUMBERS).transform(NUMBERS)
    with pytest.raises(ValueError, match=r"Task 'shop 0': FunctionTransformer return"):
        TaskTransformer(drops, per_task=True).fit_transform(NUMBERS)


@pytest.mark.parametrize(
    "wrong", [LogisticRegression(), StandardScaler, "passthrough", None]
)
def test_what_is_no_transformer(wrong):
    with pytest.raises(TypeError, match="transformer must be a scikit-learn transform"):
        TaskTransformer(wrong).fit(NUMBERS)


def test_per_task_is_a_bool():
    with pytest.raises(TypeError, match="per_task must be True or False, got 'yes'"):
        TaskTransformer(StandardScaler(), per_task="yes").fit(NUMBERS)


def test_one_task_and_unfitted():
    with pytest.raises(TypeError, match="Got one task"):
        TaskTransformer(StandardScaler()).fit(NUMBERS[0])
    with pytest.raises(NotFittedError):
        TaskTransformer(StandardScaler()).transform(NUMBERS)


def test_images():
    images = load_digits_pool()[:3]
    with pytest.raises(ValueError, match=r"StandardScaler does not take images of sha"):
        TaskTransformer(StandardScaler()).fit(images)
    inverted = TaskTransformer(FunctionTransformer(lambda X: 16 - X))
    assert_array_equal(inverted.fit_transform(images).X, 16 - images.X)


def test_output_that_is_no_rows():
    text = TaskSet.from_arrays(FRAME[["day"]], FRAME["units"], FRAME["shop"])
    with pytest.raises(ValueError, match=r"CountVectorizer returned 1 rows for"):
        TaskTransformer(CountVectorizer()).fit_transform(text)
    flat = FunctionTransformer(lambda X: X.iloc[:, 0].to_numpy())
    with pytest.raises(ValueError, match=r"Transformed X has shape \(\d+,\)"):
        TaskTransformer(flat).fit_transform(NUMBERS)


def test_is_no_predictor():
    assert not is_regressor(TaskTransformer(StandardScaler()))


def test_waves_of_the_readme():
    waves = make_sinusoids(5, random_state=0)
    assert TaskTransformer(StandardScaler()).fit_transform(waves)[2].name == 2
