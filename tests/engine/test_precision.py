"""Mixed precision: backbones in bfloat16, everything else in single precision."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import MAMLClassifier, MAMLRegressor, ProtoNetClassifier
from sklmeta.backbones import MLP, ConvNet
from sklmeta.backbones.normalization import TaskBatchNorm
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.gradient import MAML


def rng(seed):
    return torch.Generator().manual_seed(seed)


def make_rows(shape, seed):
    x = torch.randn(3, 6, *shape, generator=rng(seed))
    y = torch.randn(3, 6, 1, generator=rng(seed + 1))
    return Rows(x, y, torch.ones(3, 6, dtype=torch.bool))


class Watching(nn.Module):
    """Writes down the precision that its backbone computes in."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.seen = []

    def forward(self, x):
        y = self.backbone(x)
        self.seen.append(y.dtype)
        return y


def mlp():
    return MLP(4, (16, 8), generator=rng(0)), (4,), 8


def conv():
    return ConvNet((1, 8, 8), 8, 2, generator=rng(0)), (1, 8, 8), 32


def make_learner(make, **options):
    backbone, shape, n_features = make()
    settings = {"inner_lr": 0.1, "inner_steps": 2, "generator": rng(1), **options}
    learner = MAML(backbone, n_features, 1, task_type="regression", **settings)
    return learner, Episodes(make_rows(shape, 0), make_rows(shape, 2))


def meta_gradient(learner, episodes):
    loss = learner.meta_loss(episodes).sum()
    return loss, torch.autograd.grad(loss, list(learner.parameters()))


@pytest.mark.parametrize("options", [{}, {"checkpoint_steps": True}])
@pytest.mark.parametrize("make", [mlp, conv])
def test_gradients_are_close_and_in_single_precision(make, options):
    learner, episodes = make_learner(make, **options)
    learner.train()
    expected_loss, expected = meta_gradient(learner, episodes)
    learner.mixed_precision = True
    loss, found = meta_gradient(learner, episodes)
    assert loss.dtype == torch.float32
    assert loss.item() != expected_loss.item()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=0.03)
    one, other = (torch.cat([g.flatten() for g in gs]) for gs in (found, expected))
    assert one.dtype == torch.float32
    assert torch.cosine_similarity(one, other, 0) > 0.99


def test_the_backbone_computes_in_bfloat16_in_training_alone():
    with torch.random.fork_rng(devices=[]):
        watching = Watching(nn.Linear(4, 8, bias=False))
    learner = MAML(watching, 8, 1, task_type="regression")
    episodes = Episodes(make_rows((4,), 0), make_rows((4,), 2))
    learner.mixed_precision = True
    for mode, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        watching.seen.clear()
        learner.train(mode).meta_loss(episodes)
        assert set(watching.seen) == {dtype}


def test_batch_statistics_keep_their_precision():
    x = torch.randn(64, 3, generator=rng(0)) + 100
    layer = TaskBatchNorm(3)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(copy.deepcopy(layer)(x), expected)
        assert layer(x.bfloat16()).dtype == torch.float32


@pytest.fixture(scope="module")
def waves():
    return make_sinusoids(150, random_state=0)


def test_it_learns(waves):
    options: dict[str, Any] = {"max_iter": 250, "outer_lr": 3e-3, "random_state": 0}
    scores = {}
    for mixed in (False, True):
        meta = MAMLRegressor(mixed_precision=mixed, **options).fit(waves[:100])
        scores[mixed] = meta.score(waves[100:])
        assert {p.dtype for p in meta.learner_.parameters()} == {torch.float32}
        assert not meta.learner_.mixed_precision
    assert scores[True] > 0.3
    assert scores[True] > scores[False] - 0.15


@pytest.mark.parametrize("estimator", [MAMLClassifier, ProtoNetClassifier])
def test_images(estimator):
    pool = load_digits_pool()
    meta = estimator(
        lambda shape: ConvNet(shape, 8, 2),
        n_way=3,
        n_shot=2,
        n_query=4,
        batch_size=4,
        max_iter=15,
        outer_lr=5e-3,
        mixed_precision=True,
        random_state=0,
    ).fit(pool[:6])
    assert meta.score(pool[6:]) > 0.45


def test_same_seed_same_result(waves):
    options = {"max_iter": 5, "mixed_precision": True, "random_state": 0}
    one, other = (MAMLRegressor(**options).fit(waves) for _ in range(2))
    np.testing.assert_array_equal(
        *(
            meta.adapt(waves[0].X, waves[0].y).predict(waves[1].X)
            for meta in (one, other)
        )
    )


def test_devices_that_cannot_are_refused(waves, monkeypatch):
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device: False)
    meta = MAMLRegressor(mixed_precision=True, device="cpu")
    with pytest.raises(ValueError, match="bfloat16, which 'cpu' does not"):
        meta.fit(waves)
    with pytest.raises(ValueError, match="mixed_precision must be one of"):
        MAMLRegressor(mixed_precision="bfloat16").fit(waves)
