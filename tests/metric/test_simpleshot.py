"""SimpleShot against scikit-learn's nearest centroid on transformed features."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize
from torch import nn

from sklmeta import (
    ClassPool,
    FewShotClassifier,
    MAMLClassifier,
    ProtoNetClassifier,
    SimpleShotClassifier,
    TaskSet,
)
from sklmeta.backbones import MLP
from sklmeta.model_selection import TaskKFold
from sklmeta.utils.learner_checks import yield_meta_checks

N_FEATURES = 5
TRANSFORMS = ["none", "l2", "cl2"]
# "cl2" learns one mean from tasks, which tells classes of these problems apart no more.
GAINS = ("check_beats_untrained", "check_beats_per_task_baseline")


def make_tasks(n_tasks=6, labels="shared", seed=0):
    rng = np.random.default_rng(seed)
    y = np.tile(np.arange(3), 6)
    shift = np.array([4.0, -3.0, 2.0, 5.0, 1.0])
    pairs = [
        (rng.normal(size=(18, N_FEATURES)) + y[:, None] / 2 + shift, y)
        for _ in range(n_tasks)
    ]
    return TaskSet(pairs, labels=labels)


def make_images(n_classes=6, seed=0, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 256, (n_classes * 6, 8, 8)).astype(dtype)
    return ClassPool(X, np.repeat(np.arange(n_classes), 6))


def transformed(X, transform, mean):
    return {"none": X, "l2": normalize(X), "cl2": normalize(X - mean)}[transform]


def torch_features(module, X):
    with torch.no_grad():
        return module(torch.tensor(X, dtype=torch.float32)).double().numpy()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_is_nearest_centroid_of_transformed_features(transform):
    tasks, new = make_tasks(), make_tasks(1, seed=1)[0]
    mean = tasks.rows().X.mean(0)
    meta = SimpleShotClassifier(transform=transform).fit(tasks)
    np.testing.assert_allclose(meta.mean_feature_, mean, rtol=1e-6)
    X = transformed(new.X, transform, mean)
    model = NearestCentroid().fit(X[:9], new.y[:9])
    adapted = meta.adapt(new.X[:9], new.y[:9])
    np.testing.assert_array_equal(adapted.predict(new.X), model.predict(X))
    squares = ((X[:, None] - model.centroids_) ** 2).sum(-1)
    p = np.exp(-squares)
    expected = p / p.sum(1, keepdims=True)
    np.testing.assert_allclose(adapted.predict_proba(new.X), expected, rtol=1e-4)


def test_transform_is_read_when_adapting():
    tasks, new = make_tasks(), make_tasks(1, seed=1)[0]
    meta = SimpleShotClassifier().fit(tasks)
    meta.set_params(transform="none")
    found = meta.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    other = SimpleShotClassifier(transform="none").fit(tasks)
    want = other.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    np.testing.assert_array_equal(found, want)


def test_module_is_used_as_it_is():
    module = nn.Sequential(nn.Linear(N_FEATURES, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    module[1].running_mean.fill_(0.3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    tasks, new = make_tasks(), make_tasks(1, seed=1)[0]
    meta = SimpleShotClassifier(module).fit(tasks)
    adapted = meta.adapt(new.X[:9], new.y[:9])
    predicted = adapted.predict(new.X)
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    module.eval()
    mean = torch_features(module, tasks.rows().X).mean(0)
    np.testing.assert_allclose(meta.mean_feature_, mean, rtol=1e-5, atol=1e-6)
    X = normalize(torch_features(module, new.X) - mean)
    model = NearestCentroid().fit(X[:9], new.y[:9])
    np.testing.assert_array_equal(predicted, model.predict(X))


def test_callable_draws_under_random_state():
    tasks, new = make_tasks(), make_tasks(1, seed=1)[0]
    probabilities = [
        SimpleShotClassifier(lambda shape: nn.Linear(*shape, 3), random_state=seed)
        .fit(tasks)
        .adapt(new.X[:9], new.y[:9])
        .predict_proba(new.X)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(probabilities[0], probabilities[1])
    assert np.abs(probabilities[2] - probabilities[0]).max() > 1e-3


# Backbones of fitted meta-learners --------------------------------------------------


@pytest.fixture(scope="module")
def protonet():
    meta = ProtoNetClassifier(
        lambda shape: MLP(shape[0], (8,)), max_iter=20, random_state=0
    )
    return meta.fit(make_tasks(seed=3))


def test_rows_are_scaled_as_the_fitted_meta_learner_scales_them(protonet):
    new = make_tasks(1, seed=1)[0]
    meta = SimpleShotClassifier(protonet, transform="none").fit(make_tasks(seed=4))
    found = meta.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    want = protonet.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    np.testing.assert_array_equal(found, want)


def test_fitting_the_given_meta_learner_anew_changes_nothing():
    tasks, new = make_tasks(), make_tasks(1, seed=1)[0]
    source = ProtoNetClassifier(max_iter=1, random_state=0).fit(tasks)
    meta = SimpleShotClassifier(source).fit(tasks)
    want = meta.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    source.fit(make_tasks(seed=5))
    found = meta.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    np.testing.assert_array_equal(found, want)


def test_clones_and_searches_keep_a_fitted_meta_learner(protonet):
    tasks, new = make_tasks(), make_tasks(1, seed=1)[0]
    meta = SimpleShotClassifier(protonet)
    assert clone(meta).backbone is protonet
    search = GridSearchCV(
        meta, {"transform": TRANSFORMS}, cv=TaskKFold(2), error_score="raise"
    ).fit(tasks)
    few_shot = FewShotClassifier(search.best_estimator_)
    assert len(clone(few_shot).fit(new.X[:9], new.y[:9]).predict(new.X)) == 18
    empty = SimpleShotClassifier(clone(protonet))
    with pytest.raises(
        NotFittedError, match="backbone is a ProtoNetClassifier that is"
    ):
        empty.fit(tasks)


def test_meta_learner_of_other_rows_is_refused(protonet):
    rng = np.random.default_rng(0)
    pool = ClassPool(rng.normal(size=(30, 3)), np.repeat(range(6), 5))
    with pytest.raises(ValueError, match="X has 3 features, but ProtoNetClassifier"):
        SimpleShotClassifier(protonet).fit(pool)
    with pytest.raises(ValueError, match="rows of shape"):
        SimpleShotClassifier(protonet).fit(make_images())
    with pytest.raises(ValueError, match="image_shape"):
        SimpleShotClassifier(protonet, image_shape=(5, 1)).fit(make_tasks())


def test_features_that_adaptation_changes_are_refused():
    tasks = make_tasks()
    maml = MAMLClassifier(max_iter=1).fit(tasks)
    with pytest.raises(TypeError, match="not the same for all tasks"):
        SimpleShotClassifier(maml).fit(tasks)


def test_images_pass_a_fitted_net():
    pool = make_images()
    source = ProtoNetClassifier(max_iter=2, n_shot=2, n_way=3, random_state=0)
    meta = SimpleShotClassifier(source.fit(pool), transform="none", n_way=3, n_shot=2)
    meta.fit(make_images(seed=1))
    new = make_images(3, seed=2)
    found = meta.adapt(new.X[::2], new.y[::2]).predict_proba(new.X)
    want = source.adapt(new.X[::2], new.y[::2]).predict_proba(new.X)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-7)
    assert 0 <= meta.score(pool) <= 1
    with pytest.raises(ValueError, match="uint8"):
        meta.adapt(new.X.astype(np.float32), new.y)


# Contract ---------------------------------------------------------------------------


def contract():
    for _, check in yield_meta_checks(SimpleShotClassifier(n_shot=2)):
        if check.func.__name__ not in GAINS:
            kind = check.keywords["problem"].kind
            yield pytest.param(check, id=f"{check.func.__name__}-{kind}")


@pytest.mark.parametrize("check", list(contract()))
def test_contract_where_tasks_are_learned_from(check):
    check(SimpleShotClassifier(n_shot=2))


def test_blocks_of_rows_change_nothing(monkeypatch):
    tasks = make_tasks()
    want = SimpleShotClassifier().fit(tasks).mean_feature_
    monkeypatch.setattr("sklmeta.metric._fixed_backbone.ROWS_PER_BLOCK", 7)
    found = SimpleShotClassifier().fit(tasks).mean_feature_
    np.testing.assert_allclose(found, want, rtol=1e-12)


def test_one_class_has_probability_one():
    tasks = make_tasks(labels="local")
    adapted = SimpleShotClassifier().fit(tasks).adapt(tasks[0].X[:1], ["only"])
    assert (adapted.predict_proba(tasks[0].X) == 1).all()


def test_class_missing_from_the_support_has_probability_zero():
    tasks = make_tasks()
    task, kept = tasks[0], tasks[0].y != 1
    adapted = SimpleShotClassifier().fit(tasks).adapt(task.X[kept], task.y[kept])
    assert (adapted.predict_proba(task.X)[:, 1] == 0).all()


def test_image_of_another_size_is_refused():
    meta = SimpleShotClassifier(n_shot=2).fit(pool := make_images())
    adapted = meta.adapt(pool.X[:12], pool.y[:12])
    with pytest.raises(ValueError, match=r"shape \(9, 9\)"):
        adapted.predict(np.zeros((2, 9, 9), dtype=np.uint8))


def test_thousands_of_support_rows():
    rng = np.random.default_rng(0)
    y = np.repeat(range(5), 3000)
    X = rng.normal(size=(len(y), N_FEATURES)) + 4 * np.eye(5)[y]
    meta = SimpleShotClassifier(transform="l2").fit(make_tasks(labels="local"))
    assert meta.adapt(X, y).score(X[::50], y[::50]) > 0.9


def test_pickle():
    tasks = make_tasks()
    meta = SimpleShotClassifier("identity").fit(tasks)
    loaded = pickle.loads(pickle.dumps(meta))
    X, y = tasks[0].X, tasks[0].y
    want = meta.adapt(X, y).predict_proba(X)
    np.testing.assert_array_equal(loaded.adapt(X, y).predict_proba(X), want)


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"transform": "zscore"}, ValueError, "transform must be one of"),
        ({"backbone": None}, TypeError, "trains no backbone"),
        ({"backbone": "resnet"}, ValueError, "'identity'"),
        ({"backbone": nn.Conv2d(1, 1, 1)}, ValueError, "fails on a batch"),
        ({"n_shot": 0}, ValueError, "n_shot"),
        ({"device": "abacus"}, ValueError, "not available"),
    ],
)
def test_refusals(parameters, error, match):
    with pytest.raises(error, match=match):
        SimpleShotClassifier(**parameters).fit(make_tasks())


def test_backbone_that_mixes_rows_is_refused():
    layer = nn.BatchNorm1d(N_FEATURES, track_running_stats=False)
    with pytest.raises(ValueError, match="without running averages"):
        SimpleShotClassifier(layer).fit(make_tasks())


def test_features_that_are_not_finite_are_refused():
    layer = nn.Linear(N_FEATURES, 2)
    nn.init.constant_(layer.weight, 1e38)
    with pytest.raises(ValueError, match="not finite"):
        SimpleShotClassifier(layer).fit(make_tasks())
