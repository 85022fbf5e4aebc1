"""MetaPipeline against its steps put together by hand."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import (
    BaseEstimator,
    TransformerMixin,
    clone,
    is_classifier,
    is_regressor,
)
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import RFECV
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OneHotEncoder,
    StandardScaler,
)
from sklearn.utils import estimator_html_repr
from skorch.callbacks import Callback

from sklmeta import (
    ClassPool,
    FewShotClassifier,
    FewShotRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MetaPipeline,
    MetaTrainingError,
    PerTaskRegressor,
    PooledRegressor,
    ProtoNetClassifier,
    Task,
    TaskLeakageWarning,
    TaskSet,
    TaskTransformer,
    ValidationTasks,
    make_meta_pipeline,
)
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.model_selection import TaskKFold, compare, evaluate
from sklmeta.utils.learner_checks import yield_meta_checks

SHORT = {"max_iter": 8, "batch_size": 4, "random_state": 0}
REGRESSOR = MAMLRegressor(inner_lr=0.05, inner_steps=2, n_shot=4, **SHORT)
CLASSIFIER = MAMLClassifier(inner_lr=0.1, n_shot=4, **SHORT)
PROTONET = ProtoNetClassifier(n_shot=2, n_query=4, **SHORT)


def table(n_tasks, seed=0):
    """Return ragged tasks of named rows: two numbers, a text, three targets."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(9, 14, n_tasks)
    n, slope = sizes.sum(), np.repeat(rng.uniform(1, 5, n_tasks), sizes)
    df = pd.DataFrame(
        {
            "shop": np.repeat([f"shop {i}" for i in range(n_tasks)], sizes),
            "price": rng.uniform(1, 3, n),
            "day": rng.choice(["Fri", "Sat", "Sun"], n),
            "area": rng.normal(50, 20, n),
        }
    )
    df["units"] = 40 - slope * df["price"] + 3 * (df["day"] == "Sat")
    df["busy"] = np.where(df["units"] > df["units"].median(), "yes", "no")
    # Means something inside one shop only: above its own median or not.
    own = df.groupby("shop")["units"].transform("median")
    df["side"] = np.where(df["units"] > own, "up ", "down ") + df["shop"]
    return df


FRAME = table(24)
NUMBERS = ["price", "area"]


def shops(target="units", features=None, **options):
    return TaskSet.from_frame(
        FRAME, target=target, task="shop", features=features, **options
    )


def tasks_of(kind):
    """Return meta-training and new tasks of a kind, and a meta-learner for them."""
    if kind == "regression":
        tasks, meta = shops(features=NUMBERS), REGRESSOR
    elif kind == "shared":
        tasks, meta = shops("busy", NUMBERS), CLASSIFIER
    elif kind == "local":
        tasks, meta = shops("side", NUMBERS, labels="local"), PROTONET
    else:
        pool = load_digits_pool()
        pool = ClassPool(pool.X.reshape(len(pool.X), -1), pool.y)
        return pool[:6], pool[6:], PROTONET
    return tasks[:16], tasks[16:], meta


def piped(*steps, **options):
    """Return a pipeline of clones."""
    return make_meta_pipeline(*map(clone_if_any, steps), **options)


def clone_if_any(step):
    return step if isinstance(step, str) else clone(step)


KINDS = ["regression", "shared", "local", "classes"]


def scaled(tasks, scaler):
    """Return tasks with rows transformed by a fitted scaler, made anew."""
    rows = tasks.rows()
    X = scaler.transform(rows.X)
    if isinstance(tasks, ClassPool):
        return ClassPool(X, rows.y)
    groups = np.repeat(tasks.names, rows.sizes)
    return TaskSet.from_arrays(X, rows.y, groups, labels=tasks.labels)


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    """A fitted pipeline, what it was made of, and new tasks."""
    train, new, meta = tasks_of(request.param)
    pipe = piped(StandardScaler(), meta).fit(train)
    scaler = StandardScaler().fit(train.rows().X)
    by_hand = clone(meta).fit(scaled(train, scaler))
    return pipe, scaler, by_hand, train, new


@pytest.fixture(scope="module")
def pipe():
    return piped(StandardScaler(), REGRESSOR).fit(shops(features=NUMBERS))


@pytest.fixture(scope="module")
def own_scales():
    """A pipeline whose scaler is fitted to each task."""
    scaler = TaskTransformer(StandardScaler(), per_task=True)
    return piped(scaler, REGRESSOR).fit(shops(features=NUMBERS)[:16])


def one_task(tasks):
    """Return rows of one new task, support first."""
    if isinstance(tasks, ClassPool):
        order = np.random.default_rng(0).permutation(len(tasks.y))[:40]
        return tasks.X[order], tasks.y[order]
    task = tasks[0]
    return task.X, task.y


# The pipeline is its steps ------------------------------------------------------------


def test_score_is_that_of_the_steps(case):
    pipe, scaler, by_hand, _, new = case
    assert pipe.score(new) == by_hand.score(scaled(new, scaler))


def test_adapt_is_that_of_the_steps(case):
    pipe, scaler, by_hand, _, new = case
    X, y = one_task(new)
    model = pipe.adapt(X[:20], y[:20])
    expected = by_hand.adapt(scaler.transform(X[:20]), y[:20])
    assert isinstance(model, Pipeline)
    assert_array_equal(model.predict(X), expected.predict(scaler.transform(X)))
    assert_array_equal(pipe.predict(X), model.predict(X))
    assert pipe.adapted_ is model
    if is_classifier(pipe):
        proba = expected.predict_proba(scaler.transform(X))
        assert_array_equal(model.predict_proba(X), proba)
        assert_array_equal(pipe.predict_proba(X), proba)
        assert_array_equal(model.classes_, expected.classes_)


def test_predict_tasks_is_adapt_task_by_task(case):
    pipe, _, _, _, new = case
    pairs = [one_task(new)] if isinstance(new, ClassPool) else [(t.X, t.y) for t in new]
    supports = TaskSet(
        [(X[:6], y[:6]) for X, y in pairs],
        labels="local" if pipe._label_kind == "local" else "shared",
    )
    queries = [X[6 + i % 3 :] for i, (X, _) in enumerate(pairs)]
    together = pipe.predict_tasks(supports, queries)
    for (X, y), query, found in zip(pairs, queries, together, strict=True):
        alone = pipe._own_copy().adapt(X[:6], y[:6]).predict(query)
        if is_classifier(pipe):
            assert_array_equal(found, alone)
        else:
            assert_allclose(found, alone, rtol=1e-4)


def test_evaluate_judges_the_steps(case):
    pipe, scaler, by_hand, _, new = case
    found = evaluate(pipe, new, n_shot=3, n_episodes=3).scores
    expected = evaluate(by_hand, scaled(new, scaler), n_shot=3, n_episodes=3).scores
    assert_array_equal(found["score"], expected["score"])
    assert list(found["task"]) == list(expected["task"])


def test_kind_of_estimator(case):
    pipe, _, by_hand, train, _ = case
    assert is_classifier(pipe) == is_classifier(by_hand) == pipe._classifies
    assert is_regressor(pipe) == is_regressor(by_hand)
    assert pipe._label_kind == by_hand._label_kind
    assert pipe.n_features_in_ == train.rows().X.shape[1]
    assert hasattr(pipe, "predict_proba") == is_classifier(pipe)
    assert hasattr(pipe, "classes_") == hasattr(by_hand, "classes_")
    for verb in ("transform", "fit_transform", "fit_predict", "decision_function"):
        assert not hasattr(pipe, verb)


def test_stock_pipeline_of_a_task_transformer_scores_the_same(case):
    pipe, _, by_hand, train, new = case
    stock = make_pipeline(TaskTransformer(StandardScaler()), clone(by_hand)).fit(train)
    assert stock.score(new) == pipe.score(new)


@pytest.mark.parametrize(
    "form", ["list", "pairs", "long format", "long format, shuffled"]
)
def test_every_form_of_tasks_learns_the_same(pipe, form):
    tasks = shops(features=NUMBERS)
    blank = clone(pipe)
    if form == "list":
        blank.fit(list(tasks))
    elif form == "pairs":
        blank.fit([(task.X, task.y) for task in tasks])
    else:
        df = FRAME
        if form.endswith("shuffled"):
            df = FRAME.sample(frac=1, random_state=0).sort_values("shop", kind="stable")
            assert not df.index.equals(FRAME.index)
        tasks = TaskSet.from_frame(df, target="units", task="shop", features=NUMBERS)
        blank.fit(df[NUMBERS], df["units"], groups=df["shop"])
        assert_array_equal(blank["standardscaler"].n_samples_seen_, len(df))
        expected = clone(pipe).fit(tasks)
        assert blank.score(tasks) == expected.score(tasks)
        return
    assert blank.score(tasks) == pipe.score(tasks)


def test_score_in_long_format(pipe):
    score = pipe.score(FRAME[NUMBERS], FRAME["units"], groups=FRAME["shop"])
    assert score == pipe.score(shops(features=NUMBERS))


def test_task_distribution():
    class Waves:
        def sample(self, n_tasks, random_state=None):
            return make_sinusoids(n_tasks, n_samples=12, random_state=random_state)

    pipe = piped(StandardScaler(), REGRESSOR).fit(Waves())
    seen = Waves().sample(200, 0).rows().X
    assert_allclose(pipe[0].mean_, seen.mean(0), rtol=1e-5)
    assert pipe.n_features_in_ == 1
    assert np.isfinite(pipe.score(Waves()))


def test_images_pass_through_to_the_meta_learner():
    pool = load_digits_pool()
    brighter = FunctionTransformer(lambda X: X + 1)
    meta = clone(PROTONET).set_params(backbone="identity")
    pipe = piped(brighter, meta).fit(pool[:6])
    by_hand = clone(meta).fit(ClassPool(pool[:6].X + 1, pool[:6].y))
    new = ClassPool(pool[6:].X + 1, pool[6:].y)
    assert pipe.score(pool[6:]) == by_hand.score(new)
    X, y = pool[6:].X, pool[6:].y
    assert_array_equal(
        pipe.adapt(X[::20], y[::20]).predict(X[:9]),
        by_hand.adapt(X[::20] + 1, y[::20]).predict(X[:9] + 1),
    )


# Columns of tables --------------------------------------------------------------------


def columns():
    return make_column_transformer(
        (StandardScaler(), NUMBERS), (OneHotEncoder(), ["day"])
    )


def test_columns_of_numbers_and_text():
    tasks = shops(features=[*NUMBERS, "day"])
    pipe = piped(columns(), REGRESSOR).fit(tasks[:16])
    assert_array_equal(pipe.feature_names_in_, [*NUMBERS, "day"])
    assert pipe.n_features_in_ == 3
    assert pipe[-1].n_features_in_ == 5
    names = pipe[:-1].get_feature_names_out()
    assert list(names[:2]) == ["standardscaler__price", "standardscaler__area"]
    new = tasks[20]
    moved = pipe[:-1].transform(new.X)
    expected = pipe[-1]._own_copy().adapt(moved[:5], new.y[:5]).predict(moved)
    assert_array_equal(pipe.adapt(new.X[:5], new.y[:5]).predict(new.X), expected)
    with pytest.raises(ValueError, match="columns are missing"):
        pipe.adapt(new.X[["price"]], new.y)


def test_sparse_rows_are_made_dense_for_one_task_too():
    tasks = shops(features=["day"])
    for encoder in (OneHotEncoder(), TaskTransformer(OneHotEncoder())):
        pipe = piped(encoder, REGRESSOR).fit(tasks[:16])
        task = tasks[20]
        model = pipe.adapt(task.X[:5], task.y[:5])
        dense = OneHotEncoder(sparse_output=False)
        by_hand = piped(dense, REGRESSOR).fit(tasks[:16])
        expected = by_hand.adapt(task.X[:5], task.y[:5]).predict(task.X)
        assert_array_equal(model.predict(task.X), expected)
        assert_array_equal(
            clone(model).fit(task.X[:5], task.y[:5]).predict(task.X), expected
        )


def test_pandas_output_reaches_the_meta_learner():
    pipe = piped(StandardScaler(), REGRESSOR)
    pipe.set_output(transform="pandas").fit(shops(features=NUMBERS)[:16])
    assert_array_equal(pipe[-1].feature_names_in_, NUMBERS)
    task = shops(features=NUMBERS)[20]
    model = pipe.adapt(task.X[:5], task.y[:5])  # warns of no missing names
    assert isinstance(model[:-1].transform(task.X), pd.DataFrame)
    model.predict(task.X)


def test_a_pipeline_of_transformers_as_one_step():
    inner = make_pipeline(StandardScaler(), PCA(1))
    tasks = shops(features=NUMBERS)
    pipe = piped(inner, REGRESSOR).fit(tasks[:16])
    flat = piped(StandardScaler(), PCA(1), REGRESSOR).fit(tasks[:16])
    assert pipe.score(tasks[16:]) == flat.score(tasks[16:])
    X, y, query = support_of()
    again = pickle.loads(pickle.dumps(pipe))._own_copy()
    assert_array_equal(
        again.adapt(X, y).predict(query), flat.adapt(X, y).predict(query)
    )
    with pytest.raises(ValueError, match="pipeline__standardscaler__with_mean=False"):
        pipe.set_params(pipeline__standardscaler__with_mean=False).adapt(X, y)


def test_arrays_have_no_feature_names():
    pipe = piped(StandardScaler(), REGRESSOR).fit(make_sinusoids(9))
    assert not hasattr(pipe, "feature_names_in_")


def test_passthrough_steps():
    tasks = shops(features=NUMBERS)
    plain = clone(REGRESSOR).fit(tasks[:16])
    for nothing in ("passthrough", None):
        pipe = MetaPipeline([("scale", nothing), ("meta", REGRESSOR)]).fit(tasks[:16])
        assert pipe.score(tasks[16:]) == plain.score(tasks[16:])
        model = pipe.adapt(tasks[20].X[:5], tasks[20].y[:5])
        assert list(model.named_steps) == ["scale", "meta"]
    alone = piped(REGRESSOR).fit(tasks[:16])
    assert alone.score(tasks[16:]) == plain.score(tasks[16:])
    assert len(alone.adapt(tasks[20].X[:5], tasks[20].y[:5]).steps) == 1


# What adapt returns -------------------------------------------------------------------


def support_of(pipe_tasks=None):
    task = shops(features=NUMBERS)[20]
    return task.X[:6], task.y[:6], task.X


def test_adapted_pipeline_is_refitted_without_forgetting(pipe):
    X, y, query = support_of()
    model = pipe._own_copy().adapt(X, y)
    assert isinstance(model[0], FrozenEstimator)
    assert isinstance(model[-1], FewShotRegressor)
    again = clone(model).fit(X, y)
    assert_array_equal(again.predict(query), model.predict(query))
    other = clone(model).fit(X[:3], y[:3] + 50)
    assert abs(other.predict(query) - model.predict(query)).min() > 1
    assert_array_equal(other[0].mean_, pipe[0].mean_)


def test_adapted_pipeline_in_a_search(pipe):
    task = shops(features=NUMBERS)[20]
    model = pipe._own_copy().adapt(task.X[:3], task.y[:3])
    steps = {"mamlregressor__meta__inner_steps": [1, 4]}
    search = GridSearchCV(model, steps, cv=3, error_score="raise")
    search.fit(task.X, task.y)
    few_shot = FewShotRegressor(pipe[-1])
    X = pipe[0].transform(task.X)
    for n_steps, found in zip(
        [1, 4], search.cv_results_["mean_test_score"], strict=True
    ):
        few_shot.set_params(meta__inner_steps=n_steps)
        expected = cross_val_score(few_shot, X, task.y, cv=3).mean()
        assert_allclose(found, expected, rtol=1e-6)


def test_adapted_pipeline_is_independent_of_what_comes_later():
    X, y, query = support_of()
    tasks = shops(features=NUMBERS)
    pipe = piped(StandardScaler(), REGRESSOR).fit(tasks[:16])
    model = pipe.adapt(X, y)
    before = model.predict(query)
    pipe.set_params(standardscaler__with_mean=False, mamlregressor__inner_steps=9)
    assert_array_equal(model.predict(query), before)
    pipe.fit(tasks[16:])
    assert not hasattr(pipe, "adapted_")
    assert_array_equal(model.predict(query), before)
    pipe.adapt(X, y)
    assert_array_equal(model.predict(query), before)


def test_output_of_an_adapted_pipeline_is_its_own(pipe):
    """Frozen transformers hand `set_output` on."""
    X, y, query = support_of()
    model = pipe.adapt(X, y)
    want, score = model.predict(query), pipe.score(shops(features=NUMBERS))
    model[:-1].set_output(transform="pandas")
    assert isinstance(model[:-1].transform(query), pd.DataFrame)
    other = pipe.adapt(X, y)
    assert isinstance(other[:-1].transform(query), np.ndarray)
    assert_array_equal(other.predict(query), want)
    assert pipe.score(shops(features=NUMBERS)) == score


def test_own_copy_leaves_the_pipeline_alone(pipe):
    X, y, query = support_of()
    pipe.adapt(X, y)
    before = pipe.predict(query)
    own = pipe._own_copy()
    assert not hasattr(own, "adapted_")
    own.set_params(standardscaler__with_std=False, mamlregressor__inner_lr=1e-4)
    own.set_params(standardscaler__with_std=True).adapt(X[:2], y[:2])
    assert_array_equal(pipe.predict(query), before)
    assert pipe.get_params()["mamlregressor__inner_lr"] == 0.05


# Each task's own transformer ----------------------------------------------------------


def test_own_scales_when_adapting(own_scales):
    X, y, query = support_of()
    model = own_scales.adapt(X, y)
    scaler = StandardScaler().fit(X)
    expected = own_scales[-1]._own_copy().adapt(scaler.transform(X), y)
    assert_array_equal(model.predict(query), expected.predict(scaler.transform(query)))
    # Refitted on what a search gives it.
    again = clone(model).fit(X[:4], y[:4])
    assert_array_equal(again[0].transformer_.mean_, X[:4].mean())


def test_own_scales_when_judged(own_scales):
    new = shops(features=NUMBERS)[16:]
    meta = own_scales[-1]
    marked, moved = [], []
    for task in new:
        mask = np.arange(len(task)) % 3 == 0
        scaler = StandardScaler().fit(task.X[mask])
        marked.append(Task(task.X, task.y, task.name, support=mask))
        moved.append(Task(scaler.transform(task.X), task.y, task.name, support=mask))
    expected = meta.score(TaskSet(moved))
    assert_allclose(own_scales.score(TaskSet(marked)), expected, rtol=1e-5)
    found = evaluate(own_scales, TaskSet(marked)).scores["score"]
    judged = evaluate(meta, TaskSet(moved)).scores["score"]
    assert_allclose(found, judged, rtol=1e-4)


def test_own_scales_see_the_episodes_of_score(own_scales):
    """Scaling that changes nothing scores as no scaling, episode by episode."""
    new = shops(features=NUMBERS)[16:]
    same = TaskTransformer(FunctionTransformer(), per_task=True)
    for kind in ("regression", "shared", "local"):
        train, new, meta = tasks_of(kind)
        plain = clone(meta).fit(train)
        pipe = piped(same, meta).fit(train)
        assert_allclose(pipe.score(new), plain.score(new), rtol=1e-5)
        found = evaluate(pipe, new, n_shot=2, n_episodes=2).scores
        expected = evaluate(plain, new, n_shot=2, n_episodes=2).scores
        assert_allclose(found["score"], expected["score"], rtol=1e-4)


def test_own_scales_on_a_class_pool():
    train, new, meta = tasks_of("local")
    rows = new.rows()
    codes = np.arange(len(rows.y)) % 4
    pool = ClassPool(rows.X, codes)
    same = TaskTransformer(FunctionTransformer(), per_task=True)
    plain = clone(meta).fit(train)
    pipe = piped(same, meta).fit(train)
    assert_allclose(pipe.score(pool), plain.score(pool), rtol=1e-5)
    expected = evaluate(plain, pool, n_way=3, n_episodes=5).scores
    found = evaluate(pipe, pool, n_way=3, n_episodes=5).scores
    assert_allclose(found["score"], expected["score"], rtol=1e-5)


def test_own_scales_predict_tasks(own_scales):
    new = shops(features=NUMBERS)[16:]
    supports = [(task.X[:6], task.y[:6]) for task in new]
    queries = [task.X[6:] for task in new]
    together = own_scales.predict_tasks(supports, queries)
    for (X, y), query, found in zip(supports, queries, together, strict=True):
        alone = own_scales._own_copy().adapt(X, y).predict(query)
        assert_allclose(found, alone, rtol=1e-4)


def test_own_scales_after_common_columns():
    tasks = shops(features=[*NUMBERS, "day"])
    own = TaskTransformer(StandardScaler(), per_task=True)
    pipe = piped(columns(), own, REGRESSOR).fit(tasks[:16])
    X, y = tasks[20].X, tasks[20].y
    model = pipe.adapt(X[:6], y[:6])
    common = pipe[0].transform(X)
    scaler = StandardScaler().fit(common[:6])
    expected = pipe[-1]._own_copy().adapt(scaler.transform(common[:6]), y[:6])
    assert_array_equal(model.predict(X), expected.predict(scaler.transform(common)))
    assert np.isfinite(pipe.score(tasks[16:]))


# Searches -----------------------------------------------------------------------------


def test_search_over_both_steps_in_every_form():
    tasks = shops(features=NUMBERS)
    grid = {
        "standardscaler": [StandardScaler(), MinMaxScaler(), "passthrough"],
        "mamlregressor__inner_lr": [0.01, 0.1],
    }
    pipe = piped(StandardScaler(), REGRESSOR)
    search = GridSearchCV(pipe, grid, cv=TaskKFold(2), error_score="raise")
    on_tasks = clone(search).fit(tasks)
    on_list = clone(search).fit(list(tasks))
    with sklearn.config_context(enable_metadata_routing=True):
        in_rows = clone(search).fit(
            FRAME[NUMBERS], FRAME["units"], groups=FRAME["shop"]
        )
    for other in (on_list, in_rows):
        assert_array_equal(
            other.cv_results_["mean_test_score"],
            on_tasks.cv_results_["mean_test_score"],
        )
        assert str(other.best_params_) == str(on_tasks.best_params_)
    # One candidate and fold, by hand.
    train, test = next(TaskKFold(2).split(tasks))
    scaler = StandardScaler().fit(tasks[train].rows().X)
    meta = clone(REGRESSOR).set_params(inner_lr=0.01).fit(scaled(tasks[train], scaler))
    assert on_tasks.cv_results_["split0_test_score"][0] == meta.score(
        scaled(tasks[test], scaler)
    )
    X, y, query = support_of()
    assert len(on_tasks.best_estimator_.adapt(X, y).predict(query)) == len(query)


def test_search_over_a_class_pool():
    train, _, meta = tasks_of("classes")
    pipe = piped(PCA(4, random_state=0), clone(meta).set_params(n_way=2))
    search = GridSearchCV(
        pipe,
        {"pca__n_components": [2, 30], "protonetclassifier__outer_lr": [1e-3]},
        cv=TaskKFold(2),
        error_score="raise",
    ).fit(train)
    assert search.best_params_["pca__n_components"] == 30


def test_stock_pipeline_in_long_format_with_routing():
    """What MetaPipeline learns in long format, scikit-learn's own learns too."""
    stock = make_pipeline(StandardScaler(), REGRESSOR)
    with sklearn.config_context(enable_metadata_routing=True):
        rows = (FRAME[NUMBERS], FRAME["units"])
        stock.fit(*rows, groups=FRAME["shop"])
        score = stock.score(*rows, groups=FRAME["shop"])
    pipe = piped(StandardScaler(), REGRESSOR)
    pipe.fit(shops(features=NUMBERS))
    assert score == pipe.score(shops(features=NUMBERS))


def test_long_format_without_routing_names_the_remedy():
    pipe = piped(StandardScaler(), REGRESSOR)
    with pytest.raises(ValueError, match="X and y alone do not say which rows"):
        pipe.fit(FRAME[NUMBERS], FRAME["units"])


def test_search_over_how_transformers_are_fitted():
    pipe = piped(TaskTransformer(StandardScaler()), REGRESSOR)
    grid = {
        "tasktransformer__per_task": [True, False],
        "tasktransformer__transformer__with_std": [True, False],
    }
    search = GridSearchCV(pipe, grid, cv=TaskKFold(2), error_score="raise")
    search.fit(shops(features=NUMBERS))
    own, own_mean, common, common_mean = search.cv_results_["mean_test_score"]
    assert len({own, own_mean, common}) == 3
    # The learner scales columns by all training rows too.
    assert_allclose(common_mean, common, rtol=1e-3)


def test_validation_tasks_in_a_search():
    tasks = shops(features=NUMBERS)
    held_out = ValidationTasks(tasks[16:])
    pipe = piped(StandardScaler(), REGRESSOR)
    pipe.set_params(mamlregressor__early_stopping=True, mamlregressor__eval_every=4)
    search = GridSearchCV(
        pipe, {"mamlregressor__n_shot": [3]}, cv=TaskKFold(2), error_score="raise"
    )
    plain = clone(search).fit(tasks[:16], validation_tasks=held_out)
    assert "valid_loss" in plain.best_estimator_[-1].history_[0]
    with sklearn.config_context(enable_metadata_routing=True):
        search.set_params(estimator=pipe.set_fit_request(validation_tasks=True))
        routed = search.fit(tasks[:16], validation_tasks=held_out)
    assert routed.best_score_ == plain.best_score_


@pytest.mark.parametrize("verb", ["fit", "score", "partial_fit"])
def test_asks_for_groups_by_itself(verb):
    with sklearn.config_context(enable_metadata_routing=True):
        requests = piped(StandardScaler(), REGRESSOR).get_metadata_routing()
    assert getattr(requests, verb).requests["groups"] is True


# Baselines as the last step -----------------------------------------------------------


@pytest.mark.parametrize("baseline", [PooledRegressor(), PerTaskRegressor()])
def test_baselines_come_last_too(baseline):
    tasks = shops(features=NUMBERS)
    pipe = piped(PCA(1), baseline).fit(tasks[:16])
    pca = PCA(1).fit(tasks[:16].rows().X)
    by_hand = clone(baseline).fit(scaled(tasks[:16], pca))
    new = scaled(tasks[16:], pca)
    assert_allclose(pipe.score(tasks[16:]), by_hand.score(new))
    X, y, query = support_of()
    expected = by_hand.adapt(pca.transform(X), y).predict(pca.transform(query))
    assert_allclose(pipe.adapt(X, y).predict(query), expected)
    assert not hasattr(pipe, "partial_fit")
    with pytest.raises(
        TypeError, match=r"validation_tasks were given, and P\w+ takes n"
    ):
        pipe.fit(tasks[:16], validation_tasks=tasks[16:])


def test_compare_pipelines_and_plain_estimators():
    tasks = shops(features=NUMBERS)
    methods = {
        "scaled by task": piped(
            TaskTransformer(StandardScaler(), per_task=True), PerTaskRegressor()
        ),
        "per task": PerTaskRegressor(),
        "pooled": piped("passthrough", PooledRegressor()),
    }
    scores = compare(methods, tasks, cv=TaskKFold(2), n_shot=4, n_episodes=2).scores
    by_method = scores.pivot(
        index=["task", "episode"], columns="method", values="score"
    )
    # Its own estimator scales by the support rows already.
    assert_allclose(by_method["scaled by task"], by_method["per task"], rtol=1e-6)
    assert abs(by_method["pooled"] - by_method["per task"]).min() > 1e-6


# What is kept, what is touched --------------------------------------------------------


def test_given_objects_are_not_touched():
    scaler, meta, steps = StandardScaler(), clone(REGRESSOR), []
    steps += [("scaler", scaler), ("meta", meta)]
    tasks = shops(features=NUMBERS)
    before = tasks.rows().X.copy()
    pipe = MetaPipeline(steps).fit(tasks)
    assert steps == [("scaler", scaler), ("meta", meta)]
    assert not hasattr(scaler, "mean_")
    assert not hasattr(meta, "learner_")
    assert hasattr(pipe["scaler"], "mean_")
    assert hasattr(pipe.named_steps["meta"], "learner_")
    pd.testing.assert_frame_equal(tasks.rows().X, before)


def test_failed_fit_keeps_what_was_learned(pipe):
    X, y, query = support_of()
    own = pipe._own_copy()
    before = own.adapt(X, y).predict(query)
    wrong = shops(features=["price", "day"])
    with pytest.raises(ValueError, match="could not convert string"):
        own.fit(wrong)
    own.set_params(mamlregressor__outer_lr=1e30)
    with pytest.raises(MetaTrainingError):
        own.fit(shops(features=NUMBERS))
    own.set_params(mamlregressor__outer_lr=1e-3)
    assert_array_equal(own.predict(query), before)
    assert_array_equal(own.adapt(X, y).predict(query), before)


class StopAt(Callback):
    """Raises what Ctrl-C raises, at one meta-update."""

    def __init__(self, update):
        self.update = update

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        if len(net.history[-1]["batches"]) == self.update:
            raise KeyboardInterrupt


@pytest.mark.parametrize("verb", ["fit", "partial_fit"])
def test_interrupted_fit_keeps_what_was_learned(verb):
    pipe = piped(StandardScaler(), REGRESSOR)
    pipe.set_params(mamlregressor__callbacks=[StopAt(5)])
    with pytest.raises(KeyboardInterrupt):
        getattr(pipe, verb)(shops(features=NUMBERS))
    assert pipe[-1].n_iter_ == 5
    X, y, query = support_of()
    assert np.isfinite(pipe.adapt(X, y).predict(query)).all()


def test_pickle_clone_and_deepcopy(pipe):
    X, y, query = support_of()
    want = pipe.adapt(X, y).predict(query)
    for again in (pickle.loads(pickle.dumps(pipe)), copy.deepcopy(pipe)):
        assert_array_equal(again.predict(query), want)
        assert_array_equal(again.adapt(X, y).predict(query), want)
    blank = clone(pipe)
    with pytest.raises(NotFittedError):
        blank.adapt(X, y)
    assert_array_equal(
        blank.fit(shops(features=NUMBERS)).adapt(X, y).predict(query), want
    )


def test_parts_of_a_pipeline(pipe):
    X, y, query = support_of()
    want = pipe.adapt(X, y).predict(query)
    assert isinstance(pipe[0], StandardScaler)
    assert isinstance(pipe["mamlregressor"], MAMLRegressor)
    first, last = pipe[:-1], pipe[1:]
    assert_array_equal(first.transform(query), pipe[0].transform(query))
    assert isinstance(last, MetaPipeline)
    moved = pipe[0].transform(X)
    assert_array_equal(last.adapt(moved, y).predict(pipe[0].transform(query)), want)
    assert last.n_features_in_ == 2
    assert len(pipe) == 2
    with pytest.raises(ValueError, match="steps of 1"):
        pipe[::2]


def test_part_that_begins_with_a_transformer_that_knows_no_width():
    tasks = shops(features=NUMBERS)
    pipe = piped(StandardScaler(), Halved(), REGRESSOR).fit(tasks)
    last = pipe[1:]
    assert pipe.n_features_in_ == 2
    assert not hasattr(last, "n_features_in_")
    moved = TaskTransformer(pipe[0]).fit_transform(tasks)
    assert_allclose(last.score(moved), pipe.score(tasks), rtol=1e-6)


class Halved(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def __sklearn_is_fitted__(self):
        return True

    def transform(self, X):
        return X / 2


def test_memory_fits_each_transformer_once(tmp_path):
    fitted = tmp_path / "fitted"
    fitted.touch()
    tasks = make_sinusoids(12, n_samples=8, random_state=0)
    scaler = Counting(str(fitted))
    pipe = piped(scaler, REGRESSOR, memory=str(tmp_path / "cache"))
    scores = [
        clone(pipe).set_params(mamlregressor__inner_lr=rate).fit(tasks).score(tasks)
        for rate in (0.01, 0.1)
    ]
    assert fitted.read_text() == "once "
    plain = piped(StandardScaler(), REGRESSOR)
    plain.set_params(mamlregressor__inner_lr=0.1)
    assert scores[1] == plain.fit(tasks).score(tasks)


class Counting(StandardScaler):
    """Writes down that it was fitted."""

    def __init__(self, path=None):
        super().__init__()
        self.path = path

    def fit(self, X, y=None):
        with open(self.path, "a") as file:
            file.write("once ")
        return super().fit(X, y)


def test_verbose(capsys):
    pipe = piped(StandardScaler(), REGRESSOR, verbose=True)
    pipe.fit(make_sinusoids(9, random_state=0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[MetaPipeline] (step 1 of 2) fitted standardscaler, ")
    assert lines[1].startswith("[MetaPipeline] (step 2 of 2) fitted mamlregressor, ")


def test_html(pipe):
    X, y, _ = support_of()
    for one in (pipe, clone(pipe), pipe.adapt(X, y)):
        html = estimator_html_repr(one)
        assert "StandardScaler" in html
        assert "MAMLRegressor" in html


def test_partial_fit_goes_on():
    tasks = shops(features=NUMBERS)
    pipe = piped(StandardScaler(), REGRESSOR)
    pipe.partial_fit(tasks[:8]).partial_fit(tasks[8:16])
    scaler = StandardScaler().fit(tasks[:8].rows().X)
    meta = clone(REGRESSOR).partial_fit(scaled(tasks[:8], scaler))
    meta.partial_fit(scaled(tasks[8:16], scaler))
    assert pipe.score(tasks[16:]) == meta.score(scaled(tasks[16:], scaler))
    assert_array_equal(pipe[0].mean_, scaler.mean_)


def test_warm_start_goes_on():
    tasks = shops(features=NUMBERS)[:16]
    meta = clone(REGRESSOR).set_params(warm_start=True)
    pipe = piped(StandardScaler(), meta).fit(tasks).fit(tasks)
    assert pipe[-1].n_iter_ == 2 * SHORT["max_iter"]


@pytest.mark.parametrize("wrap", [ValidationTasks, list, TaskSet])
def test_validation_tasks_are_transformed_and_not_fitted_on(wrap):
    tasks = shops(features=NUMBERS)
    meta = clone(REGRESSOR).set_params(early_stopping=True, eval_every=2)
    pipe = piped(StandardScaler(), meta)
    pipe.fit(tasks[:16], validation_tasks=wrap(tasks[16:]))
    scaler = StandardScaler().fit(tasks[:16].rows().X)
    by_hand = clone(meta).fit(
        scaled(tasks[:16], scaler), validation_tasks=scaled(tasks[16:], scaler)
    )
    assert_array_equal(pipe[0].mean_, scaler.mean_)
    for row, expected in zip(pipe[-1].history_, by_hand.history_, strict=True):
        assert row["valid_loss"] == expected["valid_loss"]


# Leakage ------------------------------------------------------------------------------


def test_training_tasks_score_silently_though_rows_change():
    """PCA gives other last bits for fewer rows, which is no other row."""
    tasks = make_sinusoids(12, random_state=0)
    named = TaskSet(Task(np.hstack([t.X, t.X**2]), t.y, f"w{t.name}") for t in tasks)
    pipe = piped(PCA(2), REGRESSOR).fit(named)
    pipe.score(named[3:5])
    with pytest.warns(TaskLeakageWarning, match="2 of 2 scored tasks, such as 'w3'"):
        evaluate(pipe, named[3:5], n_episodes=1)


def test_other_rows_of_a_training_task_warn():
    tasks = shops(features=NUMBERS)
    first = TaskSet(Task(t.X[:5], t.y[:5], t.name) for t in tasks)
    rest = TaskSet(Task(t.X[2:], t.y[2:], t.name) for t in tasks)
    pipe = piped(StandardScaler(), clone(REGRESSOR).set_params(n_shot=2)).fit(first)
    with pytest.warns(TaskLeakageWarning, match="24 of 24 scored tasks"):
        pipe.score(rest)
    with pytest.warns(TaskLeakageWarning, match="24 of 24 scored tasks"):
        evaluate(pipe, rest, n_episodes=1)
    with pytest.warns(TaskLeakageWarning, match="2 of 2 scored tasks"):
        clone(pipe).partial_fit(first[:2]).partial_fit(first[2:4]).score(rest[1:3])


def test_who_learns_nothing_from_tasks_is_scored_on_them_silently():
    tasks = shops(features=NUMBERS)
    first = TaskSet(Task(t.X[:5], t.y[:5], t.name) for t in tasks)
    rest = TaskSet(Task(t.X[4:], t.y[4:], t.name) for t in tasks)
    own = TaskTransformer(StandardScaler(), per_task=True)
    piped(own, PerTaskRegressor(n_shot=2)).fit(first).score(rest)
    learns = piped(StandardScaler(), PerTaskRegressor(n_shot=2)).fit(first)
    with pytest.warns(TaskLeakageWarning, match="24 of 24"):
        learns.score(rest)


def test_stock_pipelines_take_rounding_for_no_other_rows():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 30)), rng.normal(size=200)
    tasks = TaskSet.from_arrays(X, y, [f"t{i // 10}" for i in range(200)])
    pca = TaskTransformer(PCA(5, svd_solver="full"))  # rounds otherwise in transform
    stock = make_pipeline(pca, clone(REGRESSOR)).fit(tasks)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always", TaskLeakageWarning)
        for n_tasks in range(1, 6):
            stock.score(tasks[:n_tasks])
    assert not record


# Refusals -----------------------------------------------------------------------------


def fitting(*steps):
    return MetaPipeline(list(steps)).fit(make_sinusoids(9, random_state=0))


def test_last_step_is_a_meta_learner(pipe):
    scale = ("scale", StandardScaler())
    with pytest.raises(
        TypeError, match=r"must be a meta-learner.*PooledClassifier\(es"
    ):
        fitting(scale, ("clf", LogisticRegression()))
    with pytest.raises(TypeError, match="is a FewShotRegressor, which learns from"):
        fitting(scale, ("few", FewShotRegressor(pipe[-1])))
    with pytest.raises(TypeError, match="must be a meta-learner"):
        fitting(scale, ("meta", MAMLRegressor))
    with pytest.raises(TypeError, match="must be a meta-learner"):
        fitting(scale, ("end", "passthrough"))


def test_first_steps_are_transformers():
    class Resampler:
        def fit_resample(self, X, y):
            return X, y

    meta = ("meta", REGRESSOR)
    with pytest.raises(TypeError, match="changes which rows there are"):
        fitting(("more", Resampler()), meta)
    with pytest.raises(TypeError, match="Step 'first' must be a transformer"):
        fitting(("first", REGRESSOR), meta)
    with pytest.raises(TypeError, match="Step 'first' must be a transformer"):
        fitting(("first", StandardScaler), meta)
    with pytest.raises(TypeError, match="Step 'first' must be a transformer"):
        fitting(("first", "drop"), meta)


def test_names_of_steps():
    meta = ("meta", REGRESSOR)
    with pytest.raises(ValueError, match="must be unique"):
        fitting(("meta", StandardScaler()), meta)
    for name in ("a__b", "memory"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be the name of a step"):
            fitting((name, StandardScaler()), meta)
    with pytest.raises(TypeError, match="must be strings"):
        fitting((1, StandardScaler()), meta)
    for steps in ([], [REGRESSOR], "meta", None):
        with pytest.raises(TypeError, match="steps must be a list of"):
            MetaPipeline(steps).fit(make_sinusoids(9))


def test_transformer_that_drops_rows():
    tasks = make_sinusoids(9, n_samples=8, random_state=0)
    drops = FunctionTransformer(lambda X: X[X[:, 0] > 0])
    with pytest.raises(ValueError, match=r"returned \d+ rows for 72, so that they no"):
        piped(drops, REGRESSOR).fit(tasks)


def test_not_fitted(pipe):
    X, y, query = support_of()
    blank = clone(pipe)
    for call in (
        lambda: blank.adapt(X, y),
        lambda: blank.predict(query),
        lambda: blank.score(shops(features=NUMBERS)),
        lambda: blank.predict_tasks([(X, y)], [query]),
        lambda: blank.n_features_in_,
    ):
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(NotFittedError, match="not adapted to a task yet"):
        pipe._own_copy().predict(query)


def test_transformers_changed_after_fit_are_refused(pipe):
    X, y, query = support_of()
    changed = pipe._own_copy().set_params(standardscaler__with_mean=False)
    text = "standardscaler__with_mean=False acts in fit only.*fitted with standardsc"
    for call in (
        lambda: changed.adapt(X, y),
        lambda: changed.score(shops(features=NUMBERS)),
        lambda: changed.predict_tasks([(X, y)], [query]),
        lambda: changed.partial_fit(shops(features=NUMBERS)),
    ):
        with pytest.raises(ValueError, match=text):
            call()
    changed.fit(shops(features=NUMBERS)).adapt(X, y)
    replaced = pipe._own_copy().set_params(standardscaler=MinMaxScaler())
    with pytest.raises(
        NotFittedError, match=r"was a StandardScaler.*now is a MinMaxSc"
    ):
        replaced.adapt(X, y)
    shorter = pipe._own_copy()
    shorter.steps = shorter.steps[1:]
    with pytest.raises(NotFittedError, match="was fitted with the steps"):
        shorter.adapt(X, y)


def test_unchanged_parameters_of_any_kind_are_accepted():
    """Also unpickled: arrays, functions, not-a-number, splitters, nested estimators."""
    days = OneHotEncoder(categories=[np.array(["Fri", "Sat", "Sun"])])
    table_ = make_column_transformer((days, ["day"]), (StandardScaler(), NUMBERS))
    double = FunctionTransformer(twice, kw_args={"by": 2})
    tasks = shops(features=[*NUMBERS, "day"])
    full = SimpleImputer(missing_values=np.nan)
    few = RFECV(Ridge(), min_features_to_select=3, cv=KFold(2))
    pipe = piped(table_, double, full, few, REGRESSOR).fit(tasks[:16])
    again = pickle.loads(pickle.dumps(pipe))
    for one in (pipe, again, pipe._own_copy(), copy.deepcopy(pipe)):
        one.set_params(functiontransformer__kw_args={"by": 2})
        one.adapt(tasks[20].X[:5], tasks[20].y[:5])
    nested = "columntransformer__standardscaler__with_mean"
    with pytest.raises(ValueError, match=nested):
        pipe.set_params(**{nested: False}).adapt(tasks[20].X, tasks[20].y)


def twice(X, by):
    return X * by


def test_tasks_instead_of_rows(pipe):
    tasks = shops(features=NUMBERS)
    with pytest.raises(TypeError, match=r"Expected rows, got Task\('shop 2'"):
        pipe.adapt(tasks[2], None)
    own = pipe._own_copy()
    own.adapt(tasks[2].X, tasks[2].y)
    with pytest.raises(TypeError, match=r"Expected rows, got TaskSet\(24 tasks"):
        own.predict(tasks)
    with pytest.raises(TypeError, match="support_tasks must be a TaskSet"):
        pipe.predict_tasks(load_digits_pool(), [])
    with pytest.raises(ValueError, match="2 support tasks and 1 entries of query_Xs"):
        pipe.predict_tasks(tasks[:2], [tasks[0].X])


def test_sample_weight_is_refused(pipe):
    with pytest.raises(ValueError, match="sample_weight is not supported"):
        pipe.score(shops(features=NUMBERS), sample_weight=np.ones(24))


def test_few_shot_of_a_pipeline_says_what_adapt_gives(pipe):
    X, y, _ = support_of()
    with pytest.raises(TypeError, match=r"meta is a MetaPipeline, whose adapt\(X, y\)"):
        FewShotRegressor(pipe).fit(X, y)
    with pytest.raises(TypeError, match=r"meta is a MetaPipeline, whose adapt\(X, y\)"):
        FewShotClassifier(pipe).fit(X, y)


# The contract of meta-learners --------------------------------------------------------

# These look into torch learners, or set parameters that a pipeline's steps have, or
# ask for more training or for more precision than scaling in float32 has.
NOT_FOR_PIPELINES = {
    "check_adapt_keeps_weights",
    "check_beats_per_task_baseline",
    "check_beats_untrained",
    "check_dtypes",
    "check_failure_keeps",
    "check_fit_twice",
    "check_grid_search",
    "check_inputs_not_mutated",
    "check_partial_fit",
    "check_same_seed",
    "check_starts_anew",
    "check_threads",
    "check_warm_start",
}


def contract():
    for meta in (REGRESSOR, PROTONET):
        estimator = piped(StandardScaler(), clone(meta))
        for _, check in yield_meta_checks(estimator):
            if check.func.__name__ not in NOT_FOR_PIPELINES:
                yield pytest.param(estimator, check, id=check.func.__name__)


@pytest.mark.parametrize(("estimator", "check"), list(contract()))
def test_contract(estimator, check):
    check(estimator)
