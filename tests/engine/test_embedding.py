"""Learners on features: how rows pass the backbone."""

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import ClassPool, ProtoNetClassifier
from sklmeta.backbones import ConvNet
from sklmeta.engine import embedding, inference
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.metric import ProtoNet

N_ROWS = 3_000  # of each class, in supports that are large


class Counting(nn.Module):
    """Flattens images, and writes down how many passed at once."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        return x.flatten(1)


def images(n_rows, seed=0, n_ways=3):
    rng = np.random.default_rng(seed)
    y = np.arange(n_rows) % n_ways
    X = rng.integers(0, 100, (n_rows, 4, 4)).astype(np.uint8)
    X[np.arange(n_rows), y] += 100
    return X, np.array(["a", "b", "c"])[y]


@pytest.fixture(scope="module")
def meta():
    X, y = images(60)
    return ProtoNetClassifier(
        Counting(), n_way=3, n_shot=2, max_iter=1, random_state=0
    ).fit(ClassPool(X, y))


def test_thousands_of_images_pass_in_blocks(meta):
    X, y = images(3 * N_ROWS, seed=1)
    adapted = meta.adapt(X, y)
    sizes = adapted.meta_.learner_.backbone.sizes
    assert sum(sizes[-(3 * N_ROWS // inference.ROWS_EMBEDDED_AT_ONCE + 1) :]) == len(X)
    assert max(sizes) <= inference.ROWS_PER_BLOCK
    prototypes = adapted._model.state["prototypes"][0]
    means = [X[y == k].reshape(N_ROWS, -1).mean(0) / 255 for k in "abc"]
    np.testing.assert_allclose(prototypes, means, rtol=1e-4)
    query, labels = images(200, seed=2)
    assert np.mean(adapted.predict(query) == labels) == 1


def test_blocks_change_nothing(monkeypatch):
    learner = ProtoNet(ConvNet((1, 4, 4), 3, 1), None).double().eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 50, 1, 4, 4, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        whole = learner.embed(x)
        monkeypatch.setattr(embedding, "IMAGES_PER_BLOCK", 7)
        torch.testing.assert_close(learner.embed(x), whole)


def test_view_on_features_shares_the_other_weights():
    learner = ProtoNet(nn.Linear(3, 2), None, learn_temperature=True)
    backbone, view = learner.on_features()
    assert backbone is learner.backbone
    assert view.log_temperature_factor is learner.log_temperature_factor
    assert isinstance(view.backbone, nn.Identity)
    assert isinstance(learner.backbone, nn.Linear)
    rows = Rows(
        torch.randn(2, 6, 3), torch.arange(6).repeat(2, 1) % 2,
        torch.ones(2, 6, dtype=torch.bool), torch.tensor([2, 2]),
    )  # fmt: skip
    features = Rows(backbone(rows.x), rows.y, rows.mask, rows.n_way)
    torch.testing.assert_close(
        view.meta_loss(Episodes(features, features)),
        learner.meta_loss(Episodes(rows, rows)),
    )


def test_identity_with_nothing_to_learn_trains_for_no_update():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 10)
    X = np.eye(6)[y] * 4 + rng.normal(size=(60, 6))
    pool = ClassPool(X, y)
    meta = ProtoNetClassifier("identity", random_state=0).fit(pool[:3])
    assert meta.n_iter_ == 0 and len(meta.history_) == 0
    new = pool[3:]
    assert meta.adapt(new.X[::2], new.y[::2]).score(new.X[1::2], new.y[1::2]) > 0.8


def test_identity_learns_its_temperature_alone():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 10)
    pool = ClassPool(np.eye(6)[y] * 2 + rng.normal(size=(60, 6)), y)
    meta = ProtoNetClassifier(
        "identity", learn_temperature=True, n_shot=1, max_iter=50, random_state=0
    ).fit(pool)
    assert meta.n_iter_ == 50
    factor = meta.learner_.log_temperature_factor.exp().item()
    assert factor > 1.01  # squared distances of noise are too sure of themselves
    assert [n for n, _ in meta.learner_.named_parameters()] == [
        "log_temperature_factor"
    ]


def test_one_class_is_predicted_for_sure(meta):
    X, y = images(9)
    adapted = meta.adapt(X[y == "b"], y[y == "b"])
    assert adapted.predict_proba(X).tolist() == [[1.0]] * len(X)
    assert set(adapted.predict(X)) == {"b"}


def test_queries_of_another_size_are_refused(meta):
    X, y = images(9)
    adapted = meta.adapt(X, y)
    with pytest.raises(ValueError, match=r"\(4, 4\)|4, 4"):
        adapted.predict(np.zeros((2, 5, 5), dtype=np.uint8))
