"""Learners meta-trained on episodes: fit, adapt, predict, score, and what they keep."""

import copy
import pickle
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version
from skorch.callbacks import Callback
from torch import nn

from sklmeta import (
    ClassPool,
    MAMLClassifier,
    MAMLRegressor,
    MANNClassifier,
    MatchingNetClassifier,
    ProtoNetClassifier,
    RecurrentNetClassifier,
    Task,
    TaskLeakageWarning,
    TaskSet,
    ValidationTasks,
    _episodes,
    _supports,
)
from sklmeta.datasets import Sinusoids, make_sinusoids
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec
from sklmeta.model_selection import TaskKFold


def small_net(input_shape):
    return nn.Sequential(nn.Linear(input_shape[0], 16), nn.Tanh())


QUICK = {
    "backbone": small_net,
    "max_iter": 20,
    "eval_every": 10,
    "batch_size": 4,
    "random_state": 0,
}
TASKS = make_sinusoids(24, random_state=0)
NEW = make_sinusoids(6, random_state=1)


def labelled_tasks(n_tasks=12, n_rows=20, labels=("no", "yes", "maybe"), seed=0):
    """Return tasks of one blob per class, each task shifted."""
    rng = np.random.default_rng(seed)
    code = np.tile(np.arange(n_rows) % len(labels), n_tasks)
    X = rng.normal(size=(n_tasks * n_rows, 3))
    X[:, :2] += 2 * np.stack([np.cos(2 * code), np.sin(2 * code)], 1)
    offsets = np.arange(n_tasks + 1) * n_rows
    return TaskSet.from_offsets(X, np.array(labels)[code], offsets)


def weights_of(meta):
    return {name: w.clone() for name, w in meta.learner_.state_dict().items()}


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def regressor():
    return MAMLRegressor(**QUICK).fit(TASKS)


@pytest.fixture(scope="module")
def shared():
    return MAMLClassifier(**QUICK).fit(labelled_tasks())


@pytest.fixture(scope="module")
def local():
    return ProtoNetClassifier(**QUICK).fit(TaskSet(labelled_tasks(), labels="local"))


# Adapting -----------------------------------------------------------------------------


def test_adapted_models_are_independent_of_everything_later():
    meta = MAMLRegressor(**QUICK).fit(TASKS)
    a, b = NEW[0], NEW[1]
    model = meta.adapt(a.X[:5], a.y[:5])
    assert meta.adapted_ is model
    expected = model.predict(a.X)
    np.testing.assert_array_equal(meta.predict(a.X), expected)

    other = meta.adapt(b.X[:5], b.y[:5])
    np.testing.assert_array_equal(meta.predict(b.X), other.predict(b.X))
    assert not np.array_equal(other.predict(a.X), expected)
    for later in (
        lambda: meta.set_params(inner_lr=0.5, inner_steps=1),
        lambda: meta.partial_fit(TASKS),
        lambda: meta.set_params(warm_start=True).fit(TASKS),
        lambda: meta.set_params(warm_start=False, backbone=None).fit(TASKS),
    ):
        later()
        np.testing.assert_array_equal(model.predict(a.X), expected)
    assert not hasattr(meta, "adapted_"), "fit forgets what the old weights gave"


def test_adapt_reads_the_parameters_of_today_and_keeps_the_weights():
    meta = MAMLRegressor(**QUICK).fit(TASKS)
    task, before = NEW[0], weights_of(meta)
    few = meta.adapt(task.X[:5], task.y[:5]).predict(task.X)
    meta.set_params(inner_steps=20)
    many = meta.adapt(task.X[:5], task.y[:5])
    error = [np.abs(p[:5] - task.y[:5]).mean() for p in (few, many.predict(task.X))]
    assert error[1] < error[0], "more inner steps fit the support rows better"
    assert many.meta_.inner_steps == 20
    assert_same_weights(before, weights_of(meta))


def test_partial_fit_and_warm_start_read_the_inner_parameters_of_today():
    for go_on in (
        lambda meta: meta.partial_fit(TASKS),
        lambda meta: meta.set_params(warm_start=True, max_iter=6).fit(TASKS),
    ):
        same = go_on(MAMLRegressor(**QUICK).fit(TASKS))
        other = go_on(MAMLRegressor(**QUICK).fit(TASKS).set_params(inner_lr=0.1))
        same, other = weights_of(same), weights_of(other)
        assert any(not torch.equal(same[name], other[name]) for name in same)


@pytest.mark.parametrize("problem", ["regressor", "shared", "local"])
def test_predict_tasks_is_adapt_and_predict_task_by_task(problem, request):
    meta = request.getfixturevalue(problem)
    tasks = labelled_tasks(5, seed=3) if meta._classifies else NEW[:5]
    n_support = [7, 9, 20, 12, 8]  # ragged
    n_query = [3, 11, 1, 5, 4]
    support = [
        Task(t.X[:n], t.y[:n], name)
        for t, n, name in zip(tasks, n_support, "abcde", strict=True)
    ]
    queries = [t.X[-n:] for t, n in zip(tasks, n_query, strict=True)]
    together = meta.predict_tasks(support, queries)
    for task, X, got in zip(support, queries, together, strict=True):
        alone = meta.adapt(task.X, task.y).predict(X)
        assert got.shape == alone.shape
        if meta._classifies:
            assert got.tolist() == alone.tolist()
        else:
            np.testing.assert_allclose(got, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("problem", ["regressor", "shared", "local"])
def test_very_ragged_tasks_are_predicted_and_scored_in_parts(
    problem, request, monkeypatch
):
    meta = copy.deepcopy(request.getfixturevalue(problem)).set_params(n_shot=1)
    tasks = labelled_tasks(6, 40, seed=3) if meta._classifies else make_sinusoids(6, 40)
    n_rows = [40, 9, 12, 38, 8, 21]
    ragged = TaskSet(
        [(t.X[:n], t.y[:n]) for t, n in zip(tasks, n_rows, strict=True)],
        labels="local" if problem == "local" else "shared",
    )
    queries = [t.X[-n:] for t, n in zip(tasks, [3, 30, 1, 5, 7, 2], strict=True)]
    together, score = meta.predict_tasks(ragged, queries), meta.score(ragged)
    monkeypatch.setattr(_supports, "VALUES_AT_ONCE", 60)
    monkeypatch.setattr(_episodes, "VALUES_SCORED_AT_ONCE", 60)
    for got, want in zip(meta.predict_tasks(ragged, queries), together, strict=True):
        if meta._classifies:
            assert got.tolist() == want.tolist()
        else:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert meta.score(ragged) == pytest.approx(score, abs=1e-6)


def test_class_pools_are_scored_in_parts(local, monkeypatch):
    rng, y = np.random.default_rng(0), np.arange(140) % 7
    pool = ClassPool(rng.normal(size=(140, 3)) + 3 * rng.normal(size=(7, 3))[y], y)
    score = local.score(pool)
    monkeypatch.setattr(_episodes, "VALUES_SCORED_AT_ONCE", 1000)
    assert local.score(pool) == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize("learner", [MAMLClassifier, ProtoNetClassifier])
def test_batches_of_different_ways_without_batch_normalisation(learner):
    def convolution(input_shape):
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten())

    pool = ClassPool(np.random.default_rng(0).random((80, 5, 5)), np.arange(80) % 8)
    meta = learner(convolution, n_way=(2, 6), max_iter=5, random_state=0).fit(pool)
    assert 0 <= meta.score(pool) <= 1


def test_predict_tasks_takes_any_number_of_ways(local):
    X = np.random.default_rng(0).normal(size=(12, 3))
    tasks = [Task(X, np.arange(12) % n, f"{n} ways") for n in (1, 2, 6, 3)]
    for task, got in zip(tasks, local.predict_tasks(tasks, [X] * 4), strict=True):
        assert got.tolist() == local.adapt(task.X, task.y).predict(X).tolist()


def test_threads_predict_as_one_after_another(regressor):
    models = [regressor.adapt(task.X[:5], task.y[:5]) for task in NEW[:2]]
    X = np.linspace(-5, 5, 200)[:, None]
    expected = [model.predict(X) for model in models]
    wrong = []

    def run(which):
        for _ in range(20):
            if not np.array_equal(models[which].predict(X), expected[which]):
                wrong.append(which)

    threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Meta-training: going on, stopping ----------------------------------------------------


@pytest.mark.parametrize(
    "learner",
    [
        MANNClassifier(hidden_size=4, memory_size=8),
        MatchingNetClassifier(context_embeddings=True, learn_temperature=True),
        RecurrentNetClassifier(hidden_size=4),
    ],
    ids=lambda learner: type(learner).__name__,
)
def test_weights_are_of_single_precision_as_rows_are(learner):
    tasks, before = labelled_tasks(labels=(0, 1)), torch.get_default_dtype()
    learner = clone(learner).set_params(n_shot=3, max_iter=1, random_state=0)
    torch.set_default_dtype(torch.float64)
    try:
        proba = learner.fit(tasks).adapt(tasks[0].X, tasks[0].y).predict_proba
        assert np.isfinite(proba(tasks[1].X)).all()
    finally:
        torch.set_default_dtype(before)
    assert {p.dtype for p in learner.learner_.parameters()} == {torch.float32}


def test_warm_start_goes_on_where_the_last_fit_stopped():
    meta = MAMLRegressor(**QUICK, warm_start=True).fit(TASKS)
    first, learner = weights_of(meta), meta.learner_
    meta.fit(TASKS)
    long = MAMLRegressor(**{**QUICK, "max_iter": 40}).fit(TASKS)
    assert meta.n_iter_ == long.n_iter_ == 40
    assert len(meta.history_) == len(long.history_) == 4
    assert [row["epoch"] for row in meta.history_] == [1, 2, 3, 4]
    assert meta.learner_ is not learner
    assert_same_weights(first, {k: v for k, v in learner.state_dict().items()})
    cold = MAMLRegressor(**QUICK).fit(TASKS).fit(TASKS)
    assert cold.n_iter_ == 20
    assert_same_weights(first, weights_of(cold))


def test_warm_start_draws_other_episodes_and_reads_outer_lr():
    tiny = 1e-12
    meta = MAMLRegressor(**QUICK, warm_start=True).fit(TASKS)
    before = weights_of(meta)
    meta.set_params(outer_lr=tiny).fit(TASKS)
    for name, weight in weights_of(meta).items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-7)
    losses = meta.history_[:, "train_loss"]
    assert losses[:2] != losses[2:]
    # Another optimizer starts afresh.
    assert meta.set_params(optimizer="sgd").fit(TASKS).n_iter_ == 60


@pytest.mark.parametrize("name", ["backbone", "normalize_x", "first_order"])
def test_what_the_first_fit_builds_cannot_change_on_the_way(name):
    meta = MAMLRegressor(**QUICK, warm_start=True).fit(TASKS)
    values = {"backbone": nn.Linear(1, 2), "normalize_x": False, "first_order": True}
    meta.set_params(**{name: values[name]})
    with pytest.raises(ValueError, match=f"{name}=.* acts in the first fit"):
        meta.fit(TASKS)
    with pytest.raises(ValueError, match=f"{name}=.* acts in the first fit"):
        meta.partial_fit(TASKS)
    assert meta.set_params(warm_start=False).fit(TASKS).n_iter_ == 20


def test_partial_fit_passes_over_the_tasks_once():
    meta = MAMLRegressor(**QUICK)
    assert meta.partial_fit(TASKS).n_iter_ == 6  # 24 tasks, 4 at a time
    assert meta.partial_fit(TASKS[:5]).n_iter_ == 8
    assert meta.partial_fit(Sinusoids()).n_iter_ == 9
    assert len(meta.history_) == 3
    assert np.isfinite(meta.score(NEW))


def test_partial_fit_with_all_classes_on_the_first_call():
    labels = ["maybe", "no", "yes"]
    meta = ProtoNetClassifier(**QUICK)
    meta.partial_fit(labelled_tasks(labels=["no", "yes"]), classes=labels)
    assert meta.classes_.tolist() == labels
    meta.partial_fit(labelled_tasks())
    meta = ProtoNetClassifier(**QUICK)
    meta.partial_fit(labelled_tasks(3, labels=["no"]), classes=labels)
    with pytest.raises(ValueError, match="never had"):
        meta.partial_fit(labelled_tasks(labels=["no", "perhaps"]))
    with pytest.raises(ValueError, match=r"never had: \['yes'\]"):
        ProtoNetClassifier().partial_fit(labelled_tasks(), classes=["no", "maybe"])
    local = TaskSet(labelled_tasks(), labels="local")
    with pytest.raises(ValueError, match="classes= is for shared labels only"):
        ProtoNetClassifier().partial_fit(local, classes=labels)


class StopAt(Callback):
    """Raises what Ctrl-C raises, at one meta-update."""

    def __init__(self, update):
        self.update = update
        self.seen = 0

    def on_batch_end(self, net, batch=None, training=False, **kwargs):
        self.seen += training
        if self.seen == self.update:
            raise KeyboardInterrupt


@pytest.mark.parametrize("verb", ["fit", "partial_fit"])
def test_ctrl_c_keeps_what_was_learned(verb):
    meta = MAMLRegressor(**{**QUICK, "batch_size": 1}, callbacks=[StopAt(13)])
    with pytest.raises(KeyboardInterrupt):
        getattr(meta, verb)(TASKS)
    assert meta.n_iter_ == 13
    assert all("train_loss" in row for row in meta.history_)
    assert np.isfinite(meta.predict_tasks(NEW, [t.X for t in NEW])[0]).all()
    short = MAMLRegressor(**{**QUICK, "batch_size": 1, "max_iter": 13}).fit(TASKS)
    if verb == "fit":
        assert_same_weights(weights_of(short), weights_of(meta))


def test_ctrl_c_leaves_adapted_models_alone():
    meta = MAMLRegressor(**QUICK).fit(TASKS)
    model = meta.adapt(NEW[0].X, NEW[0].y)
    before = model.predict(NEW[0].X)
    meta.set_params(callbacks=[StopAt(2)], warm_start=True)
    with pytest.raises(KeyboardInterrupt):
        meta.fit(TASKS)
    assert meta.n_iter_ == 22
    np.testing.assert_array_equal(model.predict(NEW[0].X), before)


def test_early_stopping_keeps_the_best_weights():
    # Steps far too large: held-out loss is best early, and then only worse.
    stopped = MAMLRegressor(
        **{**QUICK, "max_iter": 400, "eval_every": 2, "outer_lr": 0.3},
        early_stopping=True,
        n_iter_no_change=4,
    )
    stopped.fit(TASKS, validation_tasks=NEW)
    losses = stopped.history_[:, "valid_loss"]
    best = int(np.argmin(losses))
    assert len(losses) == best + 5
    assert stopped.n_iter_ == 2 * len(losses) < 400
    # The same run, cut where it was best, has the same weights.
    cut = clone(stopped).set_params(early_stopping=False, max_iter=2 * (best + 1))
    cut.fit(TASKS, validation_tasks=NEW)
    assert cut.history_[:, "valid_loss"] == losses[: best + 1]
    assert_same_weights(weights_of(stopped), weights_of(cut))


def test_held_out_episodes_are_the_same_in_every_epoch():
    still = MAMLRegressor(**{**QUICK, "outer_lr": 1e-12})
    still.fit(TASKS, validation_tasks=NEW)
    first, last = still.history_[:, "valid_loss"]
    assert first == pytest.approx(last, abs=1e-6)


def test_held_out_tasks_and_their_arithmetic():
    early = {"early_stopping": True, "validation_fraction": 0.25}
    meta = MAMLRegressor(**QUICK, **early).fit(TASKS)
    assert "valid_loss" in meta.history_[-1]
    match = r"max\(ceil\(0.25 \* 5\), 5\) = 5 of 5 tasks, which leaves 0"
    with pytest.raises(ValueError, match=match):
        meta.fit(TASKS[:5])
    rng = np.random.default_rng(0)
    pool = ClassPool(rng.normal(size=(80, 3)), np.arange(80) % 8)
    meta = ProtoNetClassifier(**QUICK, **early, n_way=3).fit(pool)
    assert "valid_loss" in meta.history_[-1]
    match = r"max\(ceil\(0.25 \* 8\), 5\) = 5 of 8 classes, which leaves 3"
    with pytest.raises(ValueError, match=match):
        meta.set_params(n_way=5).fit(pool)
    fresh = MAMLRegressor(**QUICK, **early).fit(Sinusoids())
    assert "valid_loss" in fresh.history_[-1]


def test_held_out_tasks_are_not_trained_on():
    meta = MAMLRegressor(**QUICK, early_stopping=True, validation_fraction=0.5)
    names = [f"wave{i}" for i in range(24)]
    tasks = TaskSet(Task(t.X, t.y, name) for t, name in zip(TASKS, names, strict=True))
    meta.fit(tasks)
    changed = TaskSet(Task(t.X, t.y + 1.0, t.name) for t in tasks)
    with pytest.warns(TaskLeakageWarning, match="12 of 24 scored tasks"):
        meta.score(changed)


def test_validation_tasks_pass_through_a_search_whole():
    meta = MAMLRegressor(**{**QUICK, "max_iter": 10})
    search = GridSearchCV(
        meta, {"inner_lr": [0.01, 0.05]}, cv=TaskKFold(2), error_score="raise"
    )
    # As many as there are tasks: scikit-learn would slice a bare TaskSet.
    search.fit(TASKS, validation_tasks=ValidationTasks(make_sinusoids(24)))
    assert "valid_loss" in search.best_estimator_.history_[-1]


# Storing ------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", ["regressor", "shared", "local"])
def test_pickles_predict_alike_and_hold_no_optimizer(problem, request):
    meta = request.getfixturevalue(problem)
    task = labelled_tasks(1, seed=3)[0] if meta._classifies else NEW[0]
    model = meta.adapt(task.X[:9], task.y[:9])
    for stored in (pickle.loads(pickle.dumps(meta)), copy.deepcopy(meta)):
        np.testing.assert_array_equal(stored.predict(task.X), model.predict(task.X))
        again = stored.adapt(task.X[:9], task.y[:9])
        np.testing.assert_array_equal(again.predict(task.X), model.predict(task.X))
        assert stored._optimizer_state is None
        assert stored.partial_fit(labelled_tasks() if meta._classifies else TASKS)
    alone = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(alone.predict(task.X), model.predict(task.X))


def test_pickle_stores_shared_weights_once(regressor):
    regressor.adapt(NEW[0].X, NEW[0].y)
    stored = pickle.loads(pickle.dumps(regressor))
    assert stored.adapted_.meta_.learner_ is stored.learner_


def test_pickle_with_warm_start_goes_on_like_the_original():
    meta = MAMLRegressor(**QUICK, warm_start=True).fit(TASKS)
    stored = pickle.loads(pickle.dumps(meta))
    assert_same_weights(weights_of(meta.fit(TASKS)), weights_of(stored.fit(TASKS)))


def test_clone_is_unfitted_and_has_the_parameters(regressor):
    copy_ = clone(regressor)
    assert not hasattr(copy_, "learner_")
    assert copy_.get_params() == regressor.get_params()


# Judging ------------------------------------------------------------------------------


def episodes_of(meta, tasks):
    """Return the support and query rows that score judges, task by task."""
    from sklmeta._episodes import task_seeds
    from sklmeta.engine.pool import RowPool

    rows = tasks.rows()
    places = np.arange(len(rows.y))
    per_class = meta._preparation.labels == "local"
    y = pd.factorize(rows.y)[0] if per_class else places.astype(float)
    pool = RowPool.from_tasks(
        places[:, None].astype(np.float64), y, rows.offsets, tasks.names
    )
    spec = EpisodeSpec(n_shot=meta.n_shot, per_class=per_class)
    sampler = EpisodeSampler(pool, spec)
    index = sampler.draw_tasks(task_seeds(tasks.names, meta.random_state))
    for i in range(len(tasks)):
        support = index.support[i][index.support_mask[i]].numpy()
        query = index.query[i][index.query_mask[i]].numpy()
        yield support, query


@pytest.mark.parametrize("normalize_y", [True, False, "task"])
def test_score_of_regressors_is_one_minus_pooled_errors_over_squares(normalize_y):
    regressor = MAMLRegressor(**QUICK, normalize_y=normalize_y).fit(TASKS)
    rows = NEW.rows()
    errors = squares = 0.0
    for support, query in episodes_of(regressor, NEW):
        assert len(support) == 5
        assert len(support) + len(query) == 20
        assert not set(support) & set(query)
        model = regressor.adapt(rows.X[support], rows.y[support])
        y = rows.y[query]
        errors += ((model.predict(rows.X[query]) - y) ** 2).sum()
        squares += ((y - y.mean()) ** 2).sum()
    assert regressor.score(NEW) == pytest.approx(1 - errors / squares, rel=1e-5)


@pytest.mark.parametrize("problem", ["shared", "local"])
def test_score_of_classifiers_is_the_mean_accuracy_of_tasks(problem, request):
    meta = request.getfixturevalue(problem)
    tasks = labelled_tasks(8, seed=5)
    # Ragged: a mean over tasks is not a mean over rows.
    tasks = TaskSet(
        [
            Task(t.X[:n], t.y[:n], n)
            for t, n in zip(tasks, range(19, 11, -1), strict=True)
        ],
        labels="shared" if problem == "shared" else "local",
    )
    meta = copy.deepcopy(meta).set_params(n_shot=2)
    rows, accuracies = tasks.rows(), []
    for support, query in episodes_of(meta, tasks):
        model = meta.adapt(rows.X[support], rows.y[support])
        accuracies.append(np.mean(model.predict(rows.X[query]) == rows.y[query]))
    assert meta.score(tasks) == pytest.approx(np.mean(accuracies), abs=1e-12)


def test_score_depends_on_neither_order_nor_folds(regressor):
    order = np.random.default_rng(0).permutation(len(NEW))
    assert regressor.score(NEW[order]) == pytest.approx(regressor.score(NEW), rel=1e-6)
    seeded = copy.deepcopy(regressor).set_params(random_state=1)
    assert seeded.score(NEW) != regressor.score(NEW)
    # So do episodes of local labels, whichever labels the other tasks hold.
    tasks = [Task(t.X[i:], t.y[i:], i) for i, t in enumerate(labelled_tasks(8, seed=5))]
    meta = ProtoNetClassifier(**QUICK, n_way=2, n_shot=2)
    meta.fit(TaskSet(labelled_tasks(), labels="local"))
    forth, back = (meta.score(TaskSet(t, labels="local")) for t in (tasks, tasks[::-1]))
    assert forth == pytest.approx(back, abs=1e-12)
    # Accuracies are means over tasks, so that of two halves is the mean of both.
    meta = ProtoNetClassifier(**QUICK).fit(labelled_tasks())
    tasks = labelled_tasks(8, seed=5)
    halves = [meta.score(tasks[:4]), meta.score(tasks[4:])]
    assert np.mean(halves) == pytest.approx(meta.score(tasks))


def test_score_leaves_the_adapted_model_alone(regressor):
    model = regressor.adapt(NEW[0].X, NEW[0].y)
    regressor.score(NEW)
    assert regressor.adapted_ is model


def test_score_skips_tasks_with_one_query_row(regressor):
    small = TaskSet([Task(t.X[:6], t.y[:6]) for t in NEW])
    mixed = TaskSet([*[Task(t.X, t.y) for t in NEW[:4]], *small[4:]])
    with pytest.warns(UserWarning, match="^2 tasks with only one query row"):
        value = regressor.score(mixed)
    assert value == pytest.approx(regressor.score(mixed[:4]), rel=1e-6)
    with pytest.raises(ValueError, match="All 6 scored tasks have only one query row"):
        regressor.score(small)
    flat = TaskSet([Task(t.X, np.ones(20)) for t in NEW])
    with pytest.raises(ValueError, match="do not vary inside any task"):
        regressor.score(flat)


def test_score_of_a_class_pool_is_over_fixed_episodes(local):
    rng = np.random.default_rng(0)
    y = np.arange(140) % 7
    pool = ClassPool(rng.normal(size=(140, 3)) + 3 * rng.normal(size=(7, 3))[y], y)
    assert local.score(pool) == local.score(pool)
    chance = ClassPool(rng.normal(size=(140, 3)), y)
    assert local.score(chance) < 0.3 < local.score(pool)  # 5 ways


def test_fixed_support_rows_are_what_score_adapts_on(regressor):
    mask = np.zeros(20, dtype=bool)
    mask[[1, 4, 16]] = True
    tasks = TaskSet([Task(t.X, t.y, support=mask) for t in NEW])
    errors = squares = 0.0
    for task in tasks:
        model = regressor.adapt(task.X[mask], task.y[mask])
        rest = task.y[~mask]
        errors += ((model.predict(task.X[~mask]) - rest) ** 2).sum()
        squares += ((rest - rest.mean()) ** 2).sum()
    assert regressor.score(tasks) == pytest.approx(1 - errors / squares, rel=1e-5)


def test_leakage_warns_of_given_names_with_other_rows_only():
    named = TaskSet([Task(t.X[:14], t.y[:14], f"wave{i}") for i, t in enumerate(NEW)])
    rest = TaskSet([Task(t.X[6:], t.y[6:], f"wave{i}") for i, t in enumerate(NEW)])
    meta = MAMLRegressor(**QUICK).fit(named)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        meta.score(named)
        frames = [Task(pd.DataFrame(t.X), t.y, t.name) for t in named]
        meta.score(frames)
        meta.score(TaskSet([(t.X, t.y) for t in rest]))
        meta.score(make_sinusoids(4, random_state=9))
    with pytest.warns(TaskLeakageWarning, match="6 of 6 scored tasks, such as 'wave0'"):
        meta.score(rest)
    with pytest.warns(TaskLeakageWarning, match="1 of 2"):
        meta.score([rest[3], Task(rest[0].X, rest[0].y, "new")])
    # A later fit forgets, partial_fit adds.
    meta.fit(TASKS).score(rest)
    meta.partial_fit(named[:2])
    with pytest.warns(TaskLeakageWarning, match="2 of 6"):
        meta.score(rest)


# Forms of input -----------------------------------------------------------------------


def test_grid_search_over_a_pipeline_in_long_format():
    rows = TASKS.rows()
    ids = np.repeat([f"t{i}" for i in range(24)], 20)
    shuffled = np.random.default_rng(0).permutation(480)
    X, y, ids = rows.X[shuffled], rows.y[shuffled], ids[shuffled]
    pipeline = make_pipeline(StandardScaler(), MAMLRegressor(**QUICK))
    with config_context(enable_metadata_routing=True):
        scoring = None
        if parse_version(sklearn.__version__) < parse_version("1.8"):
            # Its default scorer does not ask a pipeline's steps what they request.
            scoring = check_scoring(pipeline).set_score_request(groups=True)
        search = GridSearchCV(
            pipeline,
            {"mamlregressor__inner_steps": [1, 3]},
            scoring=scoring,
            cv=TaskKFold(3),
            error_score="raise",
        )
        search.fit(X, y, groups=ids)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_[-1].n_iter_ == 20


def test_grid_search_gives_the_same_scores_in_every_form():
    rows = TASKS.rows()
    ids = np.repeat([f"t{i}" for i in range(24)], 20)
    tasks = TaskSet.from_arrays(rows.X, rows.y, ids)
    meta = MAMLRegressor(**QUICK)
    of_tasks = cross_val_score(meta, tasks, cv=TaskKFold(3))
    with config_context(enable_metadata_routing=True):
        of_rows = cross_val_score(
            meta, rows.X, rows.y, params={"groups": ids}, cv=TaskKFold(3)
        )
    np.testing.assert_allclose(of_tasks, of_rows, rtol=1e-6)
    np.testing.assert_allclose(of_tasks, cross_val_score(meta, tasks, cv=KFold(3)))


@pytest.mark.parametrize("verb", ["fit", "partial_fit"])
def test_containers_make_no_difference(verb):
    X, y = TASKS.rows().X, TASKS.rows().y
    groups = np.repeat(np.arange(24), 20)
    new = NEW[0]
    forms = {
        "numpy": (X, y, new.X, new.y),
        "float64": (X.astype(float), y.astype(float), new.X, new.y),
        "pandas": (pd.DataFrame(X), pd.Series(y), pd.DataFrame(new.X), list(new.y)),
        "torch": tuple(map(torch.tensor, (X, y, new.X, new.y))),
        "lists": (X.tolist(), y.tolist(), new.X.tolist(), new.y.tolist()),
    }
    answers = {}
    for name, (X_form, y_form, X_new, y_new) in forms.items():
        meta = getattr(MAMLRegressor(**QUICK), verb)(X_form, y_form, groups=groups)
        answers[name] = meta.adapt(X_new, y_new).predict(X_new)
    for name, answer in answers.items():
        np.testing.assert_allclose(
            answer, answers["numpy"], rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_image_forms_agree():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(60, 6, 6), dtype=np.uint8)
    y = np.arange(60) % 6
    quick = {"max_iter": 3, "batch_size": 2, "n_shot": 2, "random_state": 0}
    quick["temperature"] = 1e-3  # tells features apart that hardly differ

    def answer(X, support, query, **kwargs):
        meta = ProtoNetClassifier(**quick, **kwargs).fit(ClassPool(X, y))
        return meta.adapt(support, y[:12]).predict_proba(query)

    expected = answer(images, images[:12], images[12:20])
    assert np.ptp(expected) > 0.01
    floats, flat = images / 255, images.reshape(60, 36)
    with_channel = images[..., None]
    shape = {"image_shape": (6, 6)}
    for got in (
        answer(floats, floats[:12], floats[12:20]),
        answer(images, floats[:12], images[12:20]),
        answer(with_channel, with_channel[:12], with_channel[12:20]),
        answer(flat, flat[:12], flat[12:20], **shape),
        answer(flat / 255, flat[:12] / 255, flat[12:20] / 255, **shape),
        answer(torch.tensor(images), torch.tensor(images[:12]), images[12:20]),
    ):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_several_outputs():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    slopes = rng.normal(size=(10, 2, 3))
    y = np.einsum("nf,nfo->no", X, slopes[np.arange(200) // 20])
    y += np.array([0.0, 10.0, 100.0])
    tasks = TaskSet.from_arrays(X, y, np.arange(200) // 20)
    for normalize_y in (True, "task", False):
        meta = MAMLRegressor(**QUICK, normalize_y=normalize_y).fit(tasks)
        model = meta.adapt(X[:8], y[:8])
        assert model.predict(X[:4]).shape == (4, 3)
        assert meta.predict_tasks([(X[:8], y[:8])], [X[:4]])[0].shape == (4, 3)
        assert np.isfinite(meta.score(tasks))
    one = MAMLRegressor(**QUICK).fit(
        TaskSet.from_arrays(X, y[:, :1], np.arange(200) // 20)
    )
    assert one.adapt(X[:8], y[:8, :1]).predict(X[:4]).shape == (4, 1)


def test_targets_in_units_of_their_task():
    # Levels and spreads that no pooled scale could serve.
    rng = np.random.default_rng(0)
    waves = make_sinusoids(40, random_state=2)
    levels, spreads = rng.normal(scale=100, size=40), np.exp(rng.normal(size=40))
    tasks = TaskSet(
        [
            (t.X, level + spread * t.y)
            for t, level, spread in zip(waves, levels, spreads, strict=True)
        ]
    )
    fits = {
        kind: MAMLRegressor(**QUICK, normalize_y=kind).fit(tasks[:30])
        for kind in (True, "task")
    }
    assert fits["task"].score(tasks[30:]) > fits[True].score(tasks[30:])
    # Moving and stretching a new task's targets moves and stretches predictions.
    meta, t = fits["task"], tasks[35]
    plain = meta.adapt(t.X[:10], t.y[:10]).predict(t.X)
    moved = meta.adapt(t.X[:10], t.y[:10] + 50).predict(t.X)
    assert np.corrcoef(plain, moved)[0, 1] > 0.95
    np.testing.assert_allclose((moved - plain).mean(), 50, atol=5)
    together = meta.predict_tasks([(t.X[:10], t.y[:10])], [t.X])[0]
    np.testing.assert_allclose(together, plain, rtol=1e-5, atol=1e-4)


def test_meta_training_beats_a_line_through_the_support_rows():
    tasks = make_sinusoids(200, random_state=0)
    meta = MAMLRegressor(max_iter=300, random_state=0).fit(tasks[:150])
    errors = []
    for task in tasks[150:]:
        line = LinearRegression().fit(task.X[:10], task.y[:10])
        model = meta.adapt(task.X[:10], task.y[:10])
        errors.append(
            [
                np.mean((m.predict(task.X[10:]) - task.y[10:]) ** 2)
                for m in (model, line)
            ]
        )
    ours, theirs = np.mean(errors, axis=0)
    assert ours < theirs


def test_partial_fit_has_nobody_held_out_to_judge_by():
    meta = MAMLRegressor(early_stopping=True, batch_size=1, random_state=0)
    meta.partial_fit(make_sinusoids(24, random_state=0))
    assert meta.n_iter_ >= 24
