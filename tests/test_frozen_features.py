"""A frozen backbone sees each row once, and nothing else comes out of it."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import (
    ANILClassifier,
    ANILRegressor,
    CAVIARegressor,
    ClassPool,
    DeepKernelRegressor,
    FineTuneClassifier,
    MAMLClassifier,
    MAMLRegressor,
    MetaBaselineClassifier,
    ProtoNetClassifier,
    ReptileClassifier,
    RidgeNetClassifier,
    RidgeNetRegressor,
    TaskSet,
)
from sklmeta.backbones import ConvNet
from sklmeta.datasets import make_sinusoids
from sklmeta.engine.batches import Rows
from sklmeta.engine.features import FeaturePool
from sklmeta.engine.pool import RowPool
from sklmeta.model_selection import evaluate

SEEN = Counter()  # rows that any copy of a counted module was shown, by their number
TRIED = 15  # rows that are shown to a copy when a module is tried out before


class Counted(nn.Module):
    """Made elsewhere, and counts the rows that it is shown by their first feature."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
        self.n_seen = 0

    def forward(self, x):
        self.n_seen += len(x)
        SEEN.update(x[:, 0].round().int().tolist())
        return self.net(x / 10)


@pytest.fixture
def counted():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Counted()
    SEEN.clear()
    return module


def make_pool(n_classes=8, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(n_classes), 12)
    X = rng.normal(size=(len(y), 4)) + 3 * rng.normal(size=(n_classes, 4))[y]
    X[:, 0] = np.arange(len(y))
    return ClassPool(X, y)


def make_images(n_classes=6):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (n_classes * 8, 8, 8), dtype=np.uint8)
    return ClassPool(X, np.repeat(np.arange(n_classes), 8))


OPTIONS = {
    **{"n_way": 3, "n_shot": 2, "n_query": 4, "normalize_x": False},
    **{"batch_size": 4, "max_iter": 30, "outer_lr": 0.02, "random_state": 0},
}
CLASSIFIERS = {
    "ProtoNet": (ProtoNetClassifier, {"learn_temperature": True}),
    "RidgeNet": (RidgeNetClassifier, {}),
    "ANIL": (ANILClassifier, {"head": "shared"}),
    "ANIL-fixed": (ANILClassifier, {"head": "fixed"}),
    "MAML-head": (MAMLClassifier, {"head": "fixed"}),
    "FineTune": (FineTuneClassifier, {"batch_size": 32, "inner_lr": 0.05}),
    "Meta-Baseline": (MetaBaselineClassifier, {"pretrain_iter": 5}),
}


def made(name, module, **changes):
    cls, own = CLASSIFIERS[name]
    return cls(module, freeze=True, **{**OPTIONS, **own, **changes})


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_row_is_shown_once_in_fit_and_once_in_evaluate(counted, name):
    pool = make_pool()
    meta = made(name, counted).fit(pool)
    n_rows = len(pool.X)
    assert meta.n_iter_ == (0 if name == "ANIL" else 30)
    if meta.n_iter_:
        assert meta.learner_.backbone.n_seen == n_rows
        assert set(SEEN) == set(range(n_rows))
    assert sum(n_times > 1 for n_times in SEEN.values()) <= TRIED
    SEEN.clear()
    held_out = make_pool(seed=1)
    evaluate(meta, held_out, n_way=3, n_shot=2, n_query=3, n_episodes=50)
    assert set(SEEN.values()) == {1}
    SEEN.clear()
    meta.score(held_out)
    assert set(SEEN.values()) == {1}
    assert counted.n_seen == 0  # it was copied


@pytest.mark.parametrize("name", [n for n in CLASSIFIERS if n != "ANIL"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_same_as_with_features_made_in_each_episode(
    counted, name, early_stopping, monkeypatch
):
    pool, new = make_pool(), make_pool(3, seed=1)
    options = {"early_stopping": early_stopping, "eval_every": 10}
    meta = made(name, counted, **options).fit(pool)
    SEEN.clear()
    monkeypatch.setattr(
        "sklmeta.episodic.features_once",
        lambda estimator, preparation, learner, *_: (preparation, learner),
    )
    other = made(name, counted, **options).fit(pool)
    assert max(SEEN.values()) > 5
    weights = other.learner_.state_dict()
    assert weights.keys() == meta.learner_.state_dict().keys()
    for key, weight in meta.learner_.state_dict().items():
        torch.testing.assert_close(weight, weights[key], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        meta.history_[:, "train_loss"], other.history_[:, "train_loss"], rtol=1e-4
    )
    rows = np.r_[:6, 12:18, 24:30]
    found, want = (
        one.adapt(new.X[rows], new.y[rows]).predict_proba(new.X)
        for one in (meta, other)
    )
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-5)
    assert meta.score(new) == pytest.approx(other.score(new), abs=1e-6)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_learner_and_its_view_on_features_predict_the_same(counted, name):
    pool = make_pool()
    learner = made(name, counted, max_iter=2).fit(pool).learner_
    embed, view = learner.on_features()
    x = torch.tensor(pool.X[:36], dtype=torch.float32).unsqueeze(0)
    y = torch.arange(36).unsqueeze(0) // 12
    order = [1, 2, 0]  # which is that of labels, not that of rows
    y, n_way = torch.tensor(order)[y], torch.tensor([3])
    mask = torch.ones_like(y, dtype=torch.bool)
    with torch.no_grad():
        found = view.predict(
            view.adapt(Rows(embed(x[0]).unsqueeze(0), y, mask, n_way)),
            embed(x[0]).unsqueeze(0),
        )
        want = learner.predict(learner.adapt(Rows(x, y, mask, n_way)), x)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("meta", "freeze"),
    [
        (ANILRegressor, True),
        (MAMLRegressor, True),
        (RidgeNetRegressor, True),
        (DeepKernelRegressor, None),
        (DeepKernelRegressor, True),
    ],
)
def test_regressors_and_modules_that_come_frozen(meta, freeze, monkeypatch):
    waves = make_sinusoids(12, random_state=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(1, 8), nn.Tanh()).requires_grad_(False)
    params = {"max_iter": 10, "batch_size": 4, "random_state": 0, "freeze": freeze}
    if hasattr(meta(), "calibrate"):
        params["calibrate"] = True
    first = meta(module, **params).fit(waves)
    assert first.n_iter_ == 10
    assert torch.equal(first.learner_.backbone[0].weight, module[0].weight)
    monkeypatch.setattr(
        "sklmeta.episodic.features_once",
        lambda estimator, preparation, learner, *_: (preparation, learner),
    )
    second = meta(module, **params).fit(waves)
    weights = second.learner_.state_dict()
    for key, weight in first.learner_.state_dict().items():
        torch.testing.assert_close(weight, weights[key], rtol=1e-4, atol=1e-5)
    assert first.score(waves) == pytest.approx(second.score(waves), rel=1e-3)


@pytest.mark.parametrize("meta", [RidgeNetClassifier, ANILClassifier])
def test_images_and_batch_normalisation_by_running_averages(meta, monkeypatch):
    def module(shape):
        return ConvNet(shape, width=4, n_blocks=2)

    options = {"n_shot": 2, "n_way": 3, "max_iter": 4, "batch_size": 2}
    options |= {"head": "fixed"} if meta is ANILClassifier else {}
    pool = make_images()
    found = meta(module, freeze=True, random_state=0, **options).fit(pool)
    monkeypatch.setattr(
        "sklmeta.episodic.features_once",
        lambda estimator, preparation, learner, *_: (preparation, learner),
    )
    want = meta(module, freeze=True, random_state=0, **options).fit(pool)
    assert found.n_iter_ == want.n_iter_ == 4
    weights = want.learner_.state_dict()
    for key, weight in found.learner_.state_dict().items():
        torch.testing.assert_close(weight, weights[key], rtol=1e-4, atol=1e-5)
        if "num_batches" in key:
            assert weight == 0
    assert not found.learner_.backbone.training
    assert found.score(pool) == pytest.approx(want.score(pool), abs=0.01)


def test_more_updates_and_partial_fit_go_on(counted):
    pool = make_pool()
    meta = made("RidgeNet", counted, max_iter=5, warm_start=True).fit(pool)
    before = meta.learner_.log_alpha_factor.detach().clone()
    meta.fit(pool)
    assert meta.n_iter_ == 10
    assert not torch.equal(meta.learner_.log_alpha_factor, before)
    meta.partial_fit(pool)
    assert meta.n_iter_ == 11
    once = made("RidgeNet", counted).partial_fit(pool).fit(pool)
    assert once.n_iter_ == 30


def test_fresh_tasks_pass_the_backbone_as_they_come():
    class Fresh:
        def sample(self, n_tasks, random_state):
            rng = np.random.default_rng(random_state)
            pairs = [(rng.normal(size=(20, 2)), rng.normal(size=20))] * n_tasks
            return TaskSet(pairs)

    module = nn.Linear(2, 3).requires_grad_(False)
    meta = RidgeNetRegressor(module, max_iter=3, batch_size=2, random_state=0)
    assert meta.fit(Fresh()).n_iter_ == 3


def test_nothing_is_made_once_where_something_is_trained_or_the_context_acts():
    waves = make_sinusoids(6, random_state=0)
    options = {"max_iter": 2, "batch_size": 2, "random_state": 0}
    meta = CAVIARegressor(freeze=True, **options).fit(waves)
    assert meta.n_iter_ == 2
    meta = ANILRegressor(freeze="layers.0", **options).fit(waves)
    assert not torch.equal(
        meta.learner_.backbone.layers[2].weight,
        ANILRegressor(freeze="layers.0", outer_lr=1e-9, **options)
        .fit(waves)
        .learner_.backbone.layers[2]
        .weight,
    )


def test_moments_of_frozen_weights_are_none():
    meta = ReptileClassifier(freeze=True, **{**OPTIONS, "outer_lr": 1.0, "max_iter": 3})
    assert meta.fit(make_pool()).n_iter_ == 3


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x - x.mean(0))


def test_frozen_modules_that_mix_rows_are_refused():
    for learns in (False, True):  # with nothing to train, too
        meta = ProtoNetClassifier(
            Mixing(), freeze=True, learn_temperature=learns, **OPTIONS
        )
        with pytest.raises(ValueError, match="depend on the other rows"):
            meta.fit(make_pool())


def test_mixed_precision_and_memory_limits_act_on_what_is_trained(counted):
    options = {"mixed_precision": True, "memory_limit": "50 MB"}
    meta = made("RidgeNet", counted, **options).fit(make_pool())
    plain = made("RidgeNet", counted).fit(make_pool())
    torch.testing.assert_close(
        meta.learner_.log_alpha_factor,
        plain.learner_.log_alpha_factor,
        rtol=1e-5,
        atol=1e-6,
    )
    with pytest.raises(ValueError, match="memory_limit is"):
        made("RidgeNet", counted, memory_limit="1 kB").fit(make_pool())


# Pools ------------------------------------------------------------------------------


@pytest.mark.parametrize("keeps", [True, False])
def test_features_of_a_pool(counted, keeps, monkeypatch):
    if not keeps:
        monkeypatch.setattr("sklmeta.engine.features.free_bytes", lambda device: 0)
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    x[:, 0] = torch.arange(9.0)
    rows = RowPool(x, torch.rand(9), [0, 4, 9], names=["a", "b"])
    pool = FeaturePool(rows, counted)
    assert pool.input_shape == (5,)
    assert pool.n_rows == 9
    for index in (torch.tensor([[1, 3], [3, 5]]), torch.arange(9), torch.tensor([3])):
        with torch.no_grad():
            torch.testing.assert_close(pool.take(index), counted.net(x / 10)[index])
    assert (max(SEEN.values()) == 1) == keeps
    assert set(SEEN) == set(range(9))
