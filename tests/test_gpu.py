"""What must hold on a GPU; run by `pytest -m gpu` where there is one.

The CPU is the reference throughout. Convolutions and matrix products keep full single
precision here, which TF32, torch's default for convolutions on newer GPUs, does not.
"""

import copy
import functools
import gc
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from joblib import parallel_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback
from torch import nn

from sklmeta import (
    ABMLRegressor,
    BayesianLinearNetRegressor,
    DeepKernelClassifier,
    DeepKernelRegressor,
    FewShotClassifier,
    FewShotRegressor,
    FineTuneClassifier,
    FineTuneRegressor,
    InContextRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MetaBaselineClassifier,
    MetaTransferClassifier,
    NeuralProcessRegressor,
    ProbabilisticMAMLClassifier,
    ProbabilisticMAMLRegressor,
    ProtoNetClassifier,
    TaskSet,
    make_meta_pipeline,
)
from sklmeta.backbones import ConvNet
from sklmeta.datasets import Sinusoids, load_digits_pool, make_sinusoids
from sklmeta.model_selection import TaskKFold, evaluate

GPU = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on_gpu(tensor):
    return tensor.device.type == GPU


# Problems and learners ----------------------------------------------------------------


def make_tables(n_tasks, labels, ragged=False, seed=0):
    """Return tasks of 4 features whose two classes lie on both sides of a plane."""
    rng = np.random.default_rng(seed)
    tasks = []
    for task in range(n_tasks):
        n_rows = int(rng.integers(12, 30)) if ragged else 24
        X = rng.normal(size=(n_rows, 4))
        y = (X @ rng.normal(size=4) > 0).astype(int)
        y[:2] = 0, 1
        if labels == "local":
            y += 2 * task
        tasks.append((X, y))
    return TaskSet(tasks, labels=labels)


class Normalised(nn.Sequential):
    """A backbone with torch's batch normalisation, as users write them."""

    def __init__(self, input_shape):
        n_in = input_shape[0]
        super().__init__(nn.Linear(n_in, 16), nn.BatchNorm1d(16), nn.ReLU())


class Recurrent(nn.Module):
    """Reads a row's features one after another."""

    def __init__(self, input_shape=(4,)):
        super().__init__()
        self.gru = nn.GRU(1, 8, batch_first=True)

    def forward(self, x):
        return self.gru(x.unsqueeze(-1))[0][:, -1]


class Dropping(nn.Sequential):
    def __init__(self, input_shape):
        super().__init__(nn.Linear(input_shape[0], 16), nn.ReLU(), nn.Dropout(0.2))


def shallow(input_shape):
    return ConvNet(input_shape, 8, 2, generator=torch.Generator().manual_seed(0))


WAVES = make_sinusoids(60, random_state=0)
SHARED = make_tables(40, "shared")
LOCAL = make_tables(40, "local")
RAGGED = make_tables(40, "shared", ragged=True)
DIGITS = load_digits_pool()
IMAGES = {"n_way": 5, "n_shot": 1, "n_query": 5, "batch_size": 4}

# Name: an unfitted meta-learner, its meta-training tasks, and new tasks.
CASES = {
    "waves": (MAMLRegressor(), WAVES[:40], WAVES[40:]),
    "waves, scaled by task": (
        MAMLRegressor(normalize_y="task", n_shot=(3, 8)),
        *(WAVES[:40], WAVES[40:]),
    ),
    "waves, first order": (MAMLRegressor(first_order=True), WAVES[:40], WAVES[40:]),
    "waves, rmsprop": (MAMLRegressor(optimizer="rmsprop"), WAVES[:40], WAVES[40:]),
    "waves, Bayesian linear": (BayesianLinearNetRegressor(), WAVES[:40], WAVES[40:]),
    "waves, deep kernel": (DeepKernelRegressor(), WAVES[:40], WAVES[40:]),
    "waves, probabilistic": (ProbabilisticMAMLRegressor(), WAVES[:40], WAVES[40:]),
    "waves, amortised": (ABMLRegressor(), WAVES[:40], WAVES[40:]),
    "waves, neural process": (NeuralProcessRegressor(), WAVES[:40], WAVES[40:]),
    "waves, latent": (NeuralProcessRegressor(latent=True), WAVES[:40], WAVES[40:]),
    "waves, in context": (InContextRegressor(), WAVES[:40], WAVES[40:]),
    "local labels, deep kernel": (DeepKernelClassifier(), LOCAL[:30], LOCAL[30:]),
    "local labels, probabilistic": (
        ProbabilisticMAMLClassifier(n_shot=3),
        *(LOCAL[:30], LOCAL[30:]),
    ),
    "shared labels": (MAMLClassifier(), SHARED[:30], SHARED[30:]),
    "local labels": (MAMLClassifier(n_shot=3), LOCAL[:30], LOCAL[30:]),
    "ragged, normalised": (MAMLClassifier(Normalised), RAGGED[:30], RAGGED[30:]),
    "ragged, transductive": (
        MAMLClassifier(Normalised, transductive=True, batch_size=4),
        *(RAGGED[:30], RAGGED[30:]),
    ),
    "recurrent": (MAMLClassifier(Recurrent, inner_steps=2), SHARED[:30], SHARED[30:]),
    "recurrent, first order": (
        MAMLClassifier(Recurrent, inner_steps=2, first_order=True),
        *(SHARED[:30], SHARED[30:]),
    ),
    "prototypes": (ProtoNetClassifier(), SHARED[:30], SHARED[30:]),
    "prototypes, ragged": (ProtoNetClassifier(Normalised), RAGGED[:30], RAGGED[30:]),
    "prototypes, cosine": (
        ProtoNetClassifier(metric="cosine", n_shot=3),
        *(LOCAL[:30], LOCAL[30:]),
    ),
    "images": (MAMLClassifier(shallow, **IMAGES), DIGITS[:5], DIGITS[5:]),
    "images, default net": (
        MAMLClassifier(inner_steps=1, **IMAGES),
        *(DIGITS[:5], DIGITS[5:]),
    ),
    "images, transductive": (
        MAMLClassifier(shallow, transductive=True, **IMAGES),
        *(DIGITS[:5], DIGITS[5:]),
    ),
    "images, first order": (
        MAMLClassifier(shallow, first_order=True, **IMAGES),
        *(DIGITS[:5], DIGITS[5:]),
    ),
    "waves, fine-tuning": (FineTuneRegressor(), WAVES[:40], WAVES[40:]),
    "local labels, all layers tuned": (
        FineTuneClassifier(layers="all", inner_steps=5, weight_decay=0.1),
        *(LOCAL[:30], LOCAL[30:]),
    ),
    "images, fine-tuning": (
        FineTuneClassifier(inner_early_stopping=True),
        *(DIGITS[:5], DIGITS[5:]),
    ),
    "images, meta-baseline": (
        MetaBaselineClassifier(pretrain_iter=5, **IMAGES),
        *(DIGITS[:5], DIGITS[5:]),
    ),
    "images, meta-transfer": (
        MetaTransferClassifier(pretrain_iter=5, hard_tasks=1, **IMAGES),
        *(DIGITS[:5], DIGITS[5:]),
    ),
    "images, frozen": (
        ProtoNetClassifier(freeze=True, learn_temperature=True, **IMAGES),
        *(DIGITS[:5], DIGITS[5:]),
    ),
    "images, prototypes": (ProtoNetClassifier(**IMAGES), DIGITS[:5], DIGITS[5:]),
}
TABLES = [name for name in CASES if not name.startswith("images")]


def fitted(name, **params):
    meta, train, _ = CASES[name]
    params = {"max_iter": 4, "random_state": 0, "device": GPU, **params}
    return clone(meta).set_params(**params).fit(train)


@functools.cache
def trained(name, device=GPU):
    """Return the meta-learner of a case after a few updates; tests do not change it."""
    return fitted(name, eval_every=2, device=device)


def new_rows(name):
    """Return support rows, their labels, and query rows of a new task."""
    new = CASES[name][2]
    if isinstance(new, TaskSet):
        task = new[0]
        return task.X[:8], task.y[:8], task.X[8:]
    first = np.unique(new.y, return_index=True)[1]
    return new.X[first], new.y[first], new.X[100:140]


def outputs(few_shot, X):
    """Return what is predicted, as numbers."""
    if hasattr(few_shot, "predict_proba"):
        return few_shot.predict_proba(X)
    return few_shot.predict(X)


# Meta-training ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_meta_training_is_that_of_the_cpu(name):
    """The same weights to begin with, the same episodes, the same arithmetic."""
    meta = trained(name)
    assert all(map(on_gpu, meta.learner_.parameters()))
    assert all(map(on_gpu, meta.learner_.buffers()))
    losses = meta.history_[:, "train_loss"]
    expected = trained(name, "cpu").history_[:, "train_loss"]
    np.testing.assert_allclose(losses, expected, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_predictions_are_those_of_the_cpu(name):
    meta, (X, y, query) = trained(name), new_rows(name)
    found = outputs(meta.adapt(X, y), query)
    on_cpu = pickle.loads(pickle.dumps(meta)).set_params(device="cpu")
    expected = outputs(on_cpu.adapt(X, y), query)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_the_cpu(name):
    meta, new = trained(name), CASES[name][2]
    on_cpu = pickle.loads(pickle.dumps(meta)).set_params(device="cpu")
    assert meta.score(new) == pytest.approx(on_cpu.score(new), abs=0.02)


def test_learning_on_the_gpu_is_learning():
    meta = MAMLRegressor(max_iter=300, device=GPU, random_state=0).fit(WAVES[:40])
    assert meta.score(WAVES[40:]) > 0
    meta = ProtoNetClassifier(max_iter=60, device=GPU, random_state=0, **IMAGES)
    assert meta.fit(DIGITS[:5]).score(DIGITS[5:]) > 0.5  # chance is 0.2


@pytest.mark.parametrize("device", ["auto", "cuda:0", torch.device("cuda")])
@pytest.mark.parametrize("name", ["waves", "images"])
def test_names_of_the_device_mean_the_same(name, device):
    meta = fitted(name, device=device)
    assert all(map(on_gpu, meta.learner_.parameters()))
    X, y, query = new_rows(name)
    found, expected = (outputs(one.adapt(X, y), query) for one in (meta, trained(name)))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"device='cuda:63' is not available here"):
        MAMLRegressor(device="cuda:63").fit(WAVES)


@pytest.mark.parametrize("name", CASES)
def test_same_seed_same_result(name):
    X, y, query = new_rows(name)
    again = fitted(name, eval_every=2)
    found, expected = (
        outputs(one.adapt(X, y), query) for one in (again, trained(name))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


class Spy(Callback):
    """Notes where the batches of meta-training and validation are."""

    def __init__(self):
        self.devices = set()

    def on_batch_begin(self, net, batch=None, training=False, **kwargs):
        for rows in (batch.support, batch.query):
            for tensor in (rows.x, rows.y, rows.mask):
                self.devices.add((tensor.device.type, training))


@pytest.mark.parametrize("name", ["waves, scaled by task", "local labels", "images"])
def test_rows_stay_on_the_gpu(name):
    meta, train, new = CASES[name]
    spy = Spy()
    meta = clone(meta).set_params(max_iter=2, callbacks=[spy], device=GPU)
    meta.fit(train, validation_tasks=new)
    assert spy.devices == {(GPU, True), (GPU, False)}


def test_fresh_tasks_go_to_the_gpu():
    spy = Spy()
    meta = MAMLRegressor(max_iter=3, callbacks=[spy], device=GPU).fit(Sinusoids())
    assert spy.devices == {(GPU, True)}
    assert all(map(on_gpu, meta.learner_.parameters()))


def test_rows_of_the_pool_are_moved_once():
    preparation = trained("images")._preparation
    pool = preparation.pool(DIGITS[5:], torch.device(GPU))
    assert on_gpu(pool.x) and on_gpu(pool.y)
    assert pool.x.dtype == torch.float32 or pool.x.dtype == torch.uint8
    assert on_gpu(pool.take(torch.arange(3)))


@pytest.mark.parametrize("name", ["waves", "images"])
def test_early_stopping(name):
    meta, train, new = CASES[name]
    meta = clone(meta).set_params(
        max_iter=200,
        eval_every=1,
        early_stopping=True,
        n_iter_no_change=2,
        outer_lr=0.1,
        device=GPU,
        random_state=0,
    )
    meta.fit(train, validation_tasks=new)
    assert meta.n_iter_ < 200
    assert all(map(on_gpu, meta.learner_.parameters()))
    assert np.isfinite(meta.history_[:, "valid_loss"]).all()


@pytest.mark.parametrize("name", ["waves", "images"])
@pytest.mark.parametrize("second", [GPU, "cpu"])
def test_warm_start_goes_on_there_and_on_the_cpu(name, second):
    train = CASES[name][1]
    meta = fitted(name, warm_start=True, max_iter=3)
    meta = pickle.loads(pickle.dumps(meta)) if second == "cpu" else meta
    meta.set_params(device=second).fit(train)
    expected = fitted(name, warm_start=True, max_iter=3, device="cpu").fit(train)
    assert meta.n_iter_ == 6
    assert {p.device.type for p in meta.learner_.parameters()} == {second}
    for found, weight in zip(
        meta.learner_.parameters(), expected.learner_.parameters(), strict=True
    ):
        torch.testing.assert_close(found.cpu(), weight, rtol=1e-2, atol=1e-3)


def test_warm_start_moves_between_devices_without_a_pickle():
    meta = fitted("waves", warm_start=True, max_iter=3)
    for device in ("cpu", GPU, "cpu"):
        meta.set_params(device=device).fit(WAVES[:40])
        assert {p.device.type for p in meta.learner_.parameters()} == {device}
    assert meta.n_iter_ == 12


@pytest.mark.parametrize("name", ["waves", "local labels", "images"])
def test_partial_fit(name):
    meta, train, new = CASES[name]
    meta = clone(meta).set_params(device=GPU, random_state=0)
    meta.partial_fit(train).partial_fit(train)
    assert all(map(on_gpu, meta.learner_.parameters()))
    assert np.isfinite(meta.score(new))


def test_models_adapted_before_keep_their_predictions():
    meta = fitted("waves", warm_start=True)
    X, y, query = new_rows("waves")
    model = meta.adapt(X, y)
    before = model.predict(query)
    meta.fit(WAVES[:40])
    np.testing.assert_array_equal(model.predict(query), before)
    assert not np.array_equal(meta.adapt(X, y).predict(query), before)


@pytest.mark.parametrize("backbone", [Dropping, None])
def test_global_generators_are_left_alone(backbone):
    def states():
        return torch.get_rng_state(), torch.cuda.get_rng_state()

    fits = []
    for _ in range(2):
        before = states()
        meta = MAMLRegressor(backbone, max_iter=3, device=GPU, random_state=0)
        fits.append(meta.fit(WAVES[:40]))
        for one, other in zip(before, states(), strict=True):
            assert torch.equal(one, other)
        torch.rand(3, device=GPU)
    query = WAVES[50].X
    one, other = (
        fit.adapt(WAVES[50].X[:5], WAVES[50].y[:5]).predict(query) for fit in fits
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)


# Adapting and predicting --------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_many_tasks_at_once_are_as_one_by_one(name):
    meta, new = trained(name), CASES[name][2]
    if isinstance(new, TaskSet):
        supports = [(task.X[:n], task.y[:n]) for n, task in enumerate(new[:6], 5)]
        queries = [task.X[9 : 12 + n] for n, task in enumerate(new[:6])]
    else:
        supports = [(new.X[:40], new.y[:40]), (new.X[::9], new.y[::9])]
        queries = [new.X[50:60], new.X[60:75]]
    tasks = TaskSet(supports, labels=getattr(new, "labels", "local"))
    together = meta.predict_tasks(tasks, queries)
    for (X, y), query, found in zip(supports, queries, together, strict=True):
        alone = meta.adapt(X, y).predict(query)
        if name.startswith("waves"):
            np.testing.assert_allclose(found, alone, rtol=1e-3, atol=1e-4)
        else:
            assert np.mean(found == alone) >= 0.9


@pytest.mark.parametrize("name", [n for n in CASES if "transductive" not in n])
def test_a_prediction_does_not_depend_on_other_rows(name):
    X, y, query = new_rows(name)
    model = trained(name).adapt(X, y)
    together, alone = outputs(model, query), outputs(model, query[:1])
    if name in TABLES:
        np.testing.assert_allclose(together[:1], alone, rtol=1e-6)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["waves", "local labels", "images"])
def test_threads_may_share_a_meta_learner(name):
    """Just unpickled, so that the weights are still to be moved."""
    X, y, query = new_rows(name)
    expected = outputs(trained(name).adapt(X, y), query)
    for _ in range(5):
        meta = pickle.loads(pickle.dumps(trained(name)))

        def work(_, meta=meta):
            few_shot = FewShotClassifier if name != "waves" else FewShotRegressor
            return outputs(few_shot(meta).fit(X, y), query)

        with ThreadPoolExecutor(8) as threads:
            for found in threads.map(work, range(16)):
                np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_adapting_does_not_fill_the_memory():
    meta = trained("images")
    X, y, query = new_rows("images")

    def used():
        meta.adapt(X, y).predict(query)
        meta.score(DIGITS[5:])
        gc.collect()
        return torch.cuda.memory_allocated()

    first = used()
    assert max(used() for _ in range(3)) <= first + 2**20


# scikit-learn's tools, pickles, processes ---------------------------------------------


def test_grid_search_is_that_of_the_cpu():
    def search(device, **how):
        meta = MAMLRegressor(max_iter=5, random_state=0, device=device)
        found = GridSearchCV(
            meta, {"inner_lr": [0.01, 0.1]}, cv=TaskKFold(2), error_score="raise", **how
        ).fit(WAVES[:20])
        return found.cv_results_["mean_test_score"]

    expected = search("cpu")
    np.testing.assert_allclose(search(GPU), expected, rtol=1e-3, atol=1e-3)
    # Processes that were started afresh: CUDA does not survive a fork.
    np.testing.assert_allclose(search(GPU, n_jobs=2), expected, rtol=1e-3, atol=1e-3)
    with parallel_config("threading"):
        found = search(GPU, n_jobs=2)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_few_shot_estimators_in_scikit_learn(n_jobs):
    task = WAVES[50]
    few_shot = make_pipeline(StandardScaler(), FewShotRegressor(trained("waves")))
    scores = cross_val_score(
        few_shot, task.X, task.y, cv=3, n_jobs=n_jobs, error_score="raise"
    )
    assert np.isfinite(scores).all()
    X, y = DIGITS[5:].X[:60], DIGITS[5:].y[:60]
    few_shot = FewShotClassifier(trained("images, default net"))
    scores = cross_val_score(few_shot, X, y, cv=2, n_jobs=n_jobs, error_score="raise")
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("waves", "neg_root_mean_squared_error"),
        ("waves, scaled by task", None),
        ("ragged, normalised", "neg_log_loss"),
        ("local labels", "accuracy"),
        ("images", "neg_log_loss"),
        ("images, prototypes", None),
    ],
)
def test_evaluation_is_that_of_the_cpu(name, metric):
    meta, new = trained(name), CASES[name][2]
    on_cpu = pickle.loads(pickle.dumps(meta)).set_params(device="cpu")
    found, expected = (
        evaluate(one, new, metric=metric, n_shot=3, n_episodes=4).scores["score"]
        for one in (meta, on_cpu)
    )
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=0.05)
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=5e-3, abs=5e-3)


def test_pipelines_work_on_the_gpu():
    meta = MAMLRegressor(max_iter=4, device=GPU, random_state=0)
    pipeline = make_meta_pipeline(StandardScaler(), meta).fit(WAVES[:40])
    X, y, query = new_rows("waves")
    model = pipeline.adapt(X, y)
    alone = model.predict(query)
    together = pipeline.predict_tasks(TaskSet([(X, y)]), [query])[0]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    again = pickle.loads(pickle.dumps(model)).predict(query)
    np.testing.assert_allclose(again, alone, rtol=1e-4, atol=1e-5)


def test_pickles_store_shared_weights_once():
    meta = trained("images")
    X, y, query = new_rows("images")
    models = [FewShotClassifier(meta), meta.adapt(X, y), meta.adapt(X[1:], y[1:])]
    one, *others = pickle.loads(pickle.dumps([meta, *models]))
    learners = [
        others[0].meta.learner_,
        *(model.meta_.learner_ for model in others[1:]),
    ]
    assert all(learner is one.learner_ for learner in learners)
    expected = outputs(models[1], query)
    np.testing.assert_allclose(
        outputs(others[1], query), expected, rtol=1e-3, atol=1e-4
    )
    assert all(map(on_gpu, one.learner_.parameters()))  # moved there when predicting
    again = pickle.loads(pickle.dumps(meta))
    assert not any(map(on_gpu, again.learner_.parameters()))
    assert all(map(on_gpu, meta.learner_.parameters()))


def test_copies_and_clones_work_on_the_gpu():
    meta = trained("images")
    X, y, query = new_rows("images")
    expected = outputs(meta.adapt(X, y), query)
    for again in (copy.deepcopy(meta), clone(FewShotClassifier(meta)).meta):
        found = outputs(again.adapt(X, y), query)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


WITHOUT_A_GPU = """
import pickle, sys
import numpy as np
import torch

assert not torch.cuda.is_available()
with open(sys.argv[1], "rb") as file:
    for name, meta, model, query, expected in pickle.load(file):
        assert not any(p.is_cuda for p in meta.learner_.parameters()), name
        output = getattr(model, "predict_proba", model.predict)
        np.testing.assert_allclose(output(query), expected, rtol=2e-3, atol=2e-3)
        meta.set_params(device="auto").adapt(query[:4], model.predict(query[:4]))
"""


def test_pickles_are_of_use_without_a_gpu(tmp_path):
    rows = []
    for name in ("waves", "shared labels", "prototypes", "images, default net"):
        meta, (X, y, query) = trained(name), new_rows(name)
        meta = copy.deepcopy(meta).set_params(device="auto")
        model = meta.adapt(X, y)
        rows.append((name, meta, model, query, outputs(model, query)))
    path = tmp_path / "models.pickle"
    path.write_bytes(pickle.dumps(rows))
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_A_GPU, str(path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_agents_learn_and_act_on_the_gpu():
    rl = pytest.importorskip("sklmeta.rl")
    bandits, goals = rl.BernoulliBandits(3), rl.PointGoals(horizon=10)
    small = {"max_iter": 3, "batch_size": 50, "random_state": 0}
    cases = [
        (rl.RL2Agent(n_episodes=5, **small), bandits),
        (rl.RL2Agent(n_episodes=2, **small), goals),
        (rl.MAMLAgent(n_episodes=5, **small), goals),
        (rl.ProMPAgent(n_episodes=5, **small), goals),
    ]
    for agent, tasks in cases:
        agent.fit(tasks)
        assert next(agent.learner_.parameters()).is_cuda
        assert np.isfinite(agent.score(tasks.sample(20, random_state=1)))
        policy = agent.adapt(tasks.sample(1, random_state=2))
        again = pickle.loads(pickle.dumps(agent))
        assert not any(p.is_cuda for p in again.learner_.parameters())
        space = agent.observation_space_
        rows = np.zeros((3, *space.shape), dtype=space.dtype)
        np.testing.assert_allclose(
            policy.predict(rows),
            again.adapt(tasks.sample(1, random_state=2)).predict(rows),
            atol=1e-4,
        )
