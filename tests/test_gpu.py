"""What must hold on a GPU; run by `pytest -m gpu` where there is one."""

import pickle

import numpy as np
import pytest
import torch

from sklmeta import MAMLClassifier, MAMLRegressor, ProtoNetClassifier
from sklmeta.datasets import load_digits_pool, make_sinusoids

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def waves():
    return make_sinusoids(60, random_state=0)


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_a_regressor_learns_on_the_device(waves, device):
    meta = MAMLRegressor(max_iter=100, device=device, random_state=0)
    meta.fit(waves[:40])
    assert next(meta.learner_.parameters()).is_cuda
    assert meta.history_[-1, "train_loss"] < 1


def test_cpu_and_gpu_agree_on_predictions(waves):
    meta = MAMLRegressor(max_iter=50, device="cuda", random_state=0).fit(waves[:40])
    support = waves[50].X[:5], waves[50].y[:5]
    on_gpu = meta.adapt(*support).predict(waves[50].X[5:])
    on_cpu = meta.set_params(device="cpu").adapt(*support).predict(waves[50].X[5:])
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)


def test_pickles_load_without_a_gpu(waves):
    meta = MAMLRegressor(max_iter=10, device="cuda", random_state=0).fit(waves[:40])
    again = pickle.loads(pickle.dumps(meta))
    assert not any(p.is_cuda for p in again.learner_.parameters())


@pytest.mark.parametrize("learner", [MAMLClassifier, ProtoNetClassifier])
def test_images_on_the_device(learner):
    pool = load_digits_pool()
    meta = learner(n_shot=1, batch_size=4, max_iter=20, device="cuda", random_state=0)
    meta.fit(pool[:5])
    assert meta.score(pool[5:]) > 0.25  # chance is 0.2
    new = pool[5:]
    queries = [new.X[50:60], new.X[60:75]]
    tasks = [(new.X[:40], new.y[:40]), (new.X[::9], new.y[::9])]
    together = meta.predict_tasks(tasks, queries)
    alone = [
        meta.adapt(X, y).predict(query)
        for (X, y), query in zip(tasks, queries, strict=True)
    ]
    for a, b in zip(together, alone, strict=True):
        assert np.mean(a == b) > 0.9
