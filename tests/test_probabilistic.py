"""Verbs and calibration of meta-learners with predictive densities."""

import inspect
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn

from sklmeta import (
    ABMLClassifier,
    ABMLRegressor,
    BayesianLinearNetRegressor,
    DeepKernelClassifier,
    DeepKernelRegressor,
    FewShotRegressor,
    HierarchicalLinearRegressor,
    InContextClassifier,
    InContextRegressor,
    MAMLClassifier,
    MAMLRegressor,
    MetaPipeline,
    NeuralProcessClassifier,
    NeuralProcessRegressor,
    ProbabilisticMAMLClassifier,
    ProbabilisticMAMLRegressor,
    TaskSet,
    TaskTransformer,
    make_meta_pipeline,
)
from sklmeta._probabilistic import (
    ProbabilisticMetaLearner,
    ProbabilisticRegressorMixin,
)
from sklmeta.base import MetaClassifierMixin
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.densities import PredictsDensity
from sklmeta.engine.embedding import EmbeddingLearner
from sklmeta.episodic import EpisodicMetaLearner
from sklmeta.metric import ProtoNet
from sklmeta.model_selection import evaluate
from sklmeta.model_selection._predictions import episode_predictions
from sklmeta.model_selection._protocol import EpisodeProtocol


class NormalMean(PredictsDensity, EmbeddingLearner):
    """Normal targets about a task's own level, both variances 1."""

    def adapt_features(self, features, support):
        real = support.mask.unsqueeze(-1)
        n = real.sum(1, keepdim=True) + 1.0  # (T, 1, 1)
        total = (support.y * real).sum(1, keepdim=True)
        return {"level": total / n, "variance": 1 / n + 1}

    def predict_features(self, state, features):
        shape = (*features.shape[:2], self.n_outputs)
        mean, variance = state["level"], state["variance"]
        return self.outputs(mean.expand(shape), variance.expand(shape))


class NormalMeanRegressor(ProbabilisticRegressorMixin, ProbabilisticMetaLearner):
    def _make_learner(self, backbone, n_features, n_outputs, n_ways, generator):
        return NormalMean("regression", backbone, n_outputs)


class DensityProtoNet(PredictsDensity, ProtoNet):
    adaptation_options = ()

    def predict_features(self, state, features):
        return self.logits(super().predict_features(state, features))


class DensityProtoNetClassifier(MetaClassifierMixin, ProbabilisticMetaLearner):
    def _make_learner(self, backbone, n_features, n_outputs, n_ways, generator):
        return DensityProtoNet(nn.Identity(), n_outputs)


def level_tasks(n_tasks, noise=1.0, seed=0, n_rows=30, unit=1.0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(n_tasks, 1)) + noise * rng.normal(size=(n_tasks, n_rows))
    X = rng.normal(size=(n_tasks * n_rows, 2))
    offsets = np.arange(n_tasks + 1) * n_rows
    return TaskSet.from_offsets(X, 100 + unit * y.ravel(), offsets)


def fitted(tasks=None, **parameters):
    tasks = level_tasks(40) if tasks is None else tasks
    defaults = {"backbone": "identity", "max_iter": 1, "random_state": 0}
    return NormalMeanRegressor(**{**defaults, **parameters}).fit(tasks)


def posterior(meta, y):
    """Return mean and standard deviation of a new row, in the targets' units."""
    level, spread = meta._preparation.y_mean[0], meta._preparation.y_scale[0]
    z = (np.asarray(y) - level) / spread
    mean = z.sum() / (len(z) + 1)
    return level + spread * mean, spread * np.sqrt(1 / (len(z) + 1) + 1)


def test_return_std_is_in_the_units_of_the_targets():
    meta, new = fitted(level_tasks(40, unit=7.0)), level_tasks(1, seed=9)[0]
    model = meta.adapt(new.X[:4], new.y[:4])
    mean, std = model.predict(new.X[4:], return_std=True)
    want = posterior(meta, new.y[:4])
    np.testing.assert_allclose(mean, want[0], rtol=1e-6)
    np.testing.assert_allclose(std, want[1], rtol=1e-6)
    np.testing.assert_array_equal(model.predict(new.X[4:]), mean)
    np.testing.assert_array_equal(meta.predict(new.X[4:], return_std=True)[1], std)


def test_without_support_rows_there_is_the_prior():
    meta, X = fitted(), level_tasks(1)[0].X
    mean, std = meta.adapt().predict(X, return_std=True)
    want = posterior(meta, [])
    np.testing.assert_allclose(mean, want[0], rtol=1e-6)
    np.testing.assert_allclose(std, want[1], rtol=1e-6)
    np.testing.assert_array_equal(meta.predict(X), mean)


def test_draws_agree_with_the_moments():
    meta, new = fitted(), level_tasks(1, seed=3)[0]
    model = meta.adapt(new.X[:4], new.y[:4])
    draws = model.sample_y(new.X, n_samples=4000, random_state=1)
    assert draws.shape == (len(new.X), 4000)
    mean, std = model.predict(new.X, return_std=True)
    np.testing.assert_allclose(draws.mean(1), mean, atol=4 * std.max() / 4000**0.5)
    np.testing.assert_allclose(draws.std(1), std, rtol=0.06)
    again = meta.sample_y(new.X, n_samples=4000, random_state=1)
    np.testing.assert_array_equal(again, draws)
    functions = model.sample_y(new.X, 3, noise=False)
    np.testing.assert_array_equal(functions, np.stack([mean] * 3, 1))


def test_several_outputs():
    tasks = TaskSet([(t.X, np.stack([t.y, 5 * t.y], 1)) for t in level_tasks(20)])
    meta = fitted(tasks)
    model = meta.adapt(tasks[0].X[:4], tasks[0].y[:4])
    mean, std = model.predict(tasks[0].X, return_std=True)
    assert mean.shape == std.shape == (30, 2)
    np.testing.assert_allclose(std[:, 1], 5 * std[:, 0], rtol=1e-6)
    assert model.sample_y(tasks[0].X, 6).shape == (30, 2, 6)


@pytest.mark.parametrize("normalize_y", [False, True, "task", None])
def test_episodes_together_have_the_deviations_of_one_by_one(normalize_y):
    if normalize_y is None:  # no torch learner
        meta = HierarchicalLinearRegressor().fit(level_tasks(40))
    else:
        meta = fitted(normalize_y=normalize_y)
    protocol = EpisodeProtocol(n_shot=5, n_episodes=3, random_state=0)
    drawn = protocol.draw(level_tasks(6, seed=5), False)
    found = list(episode_predictions(meta, drawn, "std"))
    for e, prediction in enumerate(found):
        support, query = drawn.support_rows(e), drawn.query_rows(e)
        model = meta.adapt(drawn.rows.X[support], drawn.y[support])
        mean, std = model.predict(drawn.rows.X[query], return_std=True)
        np.testing.assert_allclose(prediction.y_pred, mean, rtol=1e-5)
        np.testing.assert_allclose(prediction.std, std, rtol=1e-5)


def test_held_out_tasks_say_how_far_to_trust():
    # Twice the noise that the learner believes in.
    tasks, new = level_tasks(200, noise=2.0), level_tasks(60, noise=2.0, seed=1)
    raw = fitted(tasks, normalize_y=False)
    scaled = fitted(tasks, normalize_y=False, calibrate=0.8, validation_fraction=0.5)
    assert float(raw.learner_.calibration) == 1
    shares = [_share_within(meta, new, 0.8) for meta in (raw, scaled)]
    assert shares[0] < 0.6
    assert abs(shares[1] - 0.8) < 0.03
    draws = scaled.adapt(new[0].X[:5], new[0].y[:5]).sample_y(new[0].X, 2000)
    std = scaled.predict(new[0].X, return_std=True)[1]
    np.testing.assert_allclose(draws.std(1), std, rtol=0.08)


def _share_within(meta, tasks, level):
    hits = []
    for task in tasks:
        model = meta.adapt(task.X[:5], task.y[:5])
        mean, std = model.predict(task.X[5:], return_std=True)
        hits.append(np.abs(task.y[5:] - mean) <= norm.ppf((1 + level) / 2) * std)
    return np.mean(hits)


def test_going_on_learning_forgets_the_calibration():
    tasks = level_tasks(60, noise=2.0)
    meta = fitted(tasks, normalize_y=False, calibrate=True)
    before = float(meta.learner_.calibration)
    assert before > 1.3
    assert float(pickle.loads(pickle.dumps(meta)).learner_.calibration) == before
    meta.partial_fit(tasks)
    assert float(meta.learner_.calibration) == 1


def test_logits_are_tempered_on_held_out_tasks():
    rng = np.random.default_rng(0)
    tasks = []
    for _ in range(60):
        centres = rng.normal(size=(3, 2))
        labels = np.tile(np.arange(3), 20)
        tasks.append((centres[labels] + rng.normal(size=(60, 2)), labels))
    tasks = TaskSet(tasks, labels="local")
    options = {"n_shot": 2, "max_iter": 1, "random_state": 0, "normalize_x": False}
    raw = DensityProtoNetClassifier(**options).fit(tasks[:40])
    tempered = DensityProtoNetClassifier(calibrate=True, **options).fit(tasks[:40])
    assert float(tempered.learner_.calibration) > 1
    losses = [
        evaluate(meta, tasks[40:], metric="log_loss", n_shot=2, random_state=0)
        for meta in (raw, tempered)
    ]
    assert losses[1].scores["score"].mean() < losses[0].scores["score"].mean()


def clusters(of_support=1.0, noise=0.1, scale=1.0, n_tasks=30, n_rows=60):
    """Tasks of three classes; the first row of each is at `of_support` its centre."""
    rng, labels = np.random.default_rng(0), np.tile(np.arange(3), n_rows // 3)
    angles, tasks = 2 * np.pi * np.arange(3) / 3, []
    for _ in range(n_tasks):
        angles = angles + rng.normal()
        X = np.stack([np.cos(angles), np.sin(angles)], 1)[labels]
        X[:3] *= of_support
        tasks.append((scale * (X + noise * rng.normal(size=X.shape)), labels))
    return TaskSet(tasks, labels="local")


def tempered(tasks):
    return DensityProtoNetClassifier(
        calibrate=True,
        n_shot=1,
        support_order="first",
        normalize_x=False,
        max_iter=1,
        random_state=0,
    ).fit(tasks)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (clusters(of_support=-1), "carry next to no signal on the held-out tasks"),
        (clusters(scale=0.1), "all query rows of the held-out tasks are predicted"),
    ],
)
def test_temperatures_at_the_bound_of_the_search_are_warned_of(tasks, message):
    with pytest.warns(UserWarning, match=f"calibrate: .*{message}") as caught:
        tempered(tasks)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_temperatures_stay_where_none_is_better():
    assert float(tempered(clusters(scale=100.0)).learner_.calibration) == 1


def test_targets_without_error_are_warned_of():
    tasks = TaskSet([(t.X, np.zeros(30)) for t in level_tasks(12)])
    with pytest.warns(UserWarning, match=r"calibrate: a share of 0.9 .* without any"):
        meta = fitted(tasks, calibrate=True)
    assert float(meta.learner_.calibration) == 1


def test_calibrate_acts_in_meta_training_only():
    tasks = level_tasks(40)
    meta, new = fitted(tasks), tasks[0]
    message = "calibrate=0.5 acts in meta-training only"
    with pytest.raises(ValueError, match=message):
        meta.set_params(calibrate=0.5).adapt(new.X, new.y)
    with pytest.raises(ValueError, match=message):
        meta.score(tasks)
    few_shot = FewShotRegressor(meta.set_params(calibrate=False))
    grid = {"meta__calibrate": [0.5, 0.9]}
    search = GridSearchCV(few_shot, grid, cv=2, error_score="raise")
    with pytest.raises(ValueError, match=message):
        search.fit(new.X, new.y)
    # Each call that trains reads it, and holds from then on.
    meta.set_params(calibrate=True).partial_fit(tasks).adapt(new.X, new.y)
    meta.set_params(calibrate=0.5, warm_start=True).fit(tasks).adapt(new.X, new.y)


@pytest.mark.parametrize(
    ("value", "error"),
    [("yes", TypeError), (None, TypeError), (1, ValueError), (np.nan, ValueError)],
)
@pytest.mark.parametrize("kind", [NormalMeanRegressor, DensityProtoNetClassifier])
def test_what_calibrate_may_be(kind, value, error):
    meta = kind("identity", calibrate=value)
    message = r"calibrate must be True.* False.* a number between 0 and 1.* Got "
    with pytest.raises(error, match=f"{message}{value!r}"):
        meta.fit(level_tasks(12))


def test_fractions_of_calibrate_are_for_regressors():
    with pytest.raises(ValueError, match=r"between 0 and 1 is for regressors. Got 0.5"):
        DensityProtoNetClassifier(calibrate=0.5).fit(clusters(n_tasks=6))


def test_pipelines_hand_deviations_on():
    tasks, new = level_tasks(40), level_tasks(1, seed=2)[0]
    learner = NormalMeanRegressor("identity", max_iter=1, random_state=0)
    pipeline = make_meta_pipeline(StandardScaler(), learner).fit(tasks)
    model = pipeline.adapt(new.X[:5], new.y[:5])
    mean, std = model.predict(new.X, return_std=True)
    assert (std > 0).all() and mean.shape == std.shape
    np.testing.assert_array_equal(pipeline.predict(new.X, return_std=True)[1], std)
    result = evaluate(pipeline, level_tasks(5, seed=4), metric="nlpd", random_state=0)
    assert np.isfinite(result.scores["score"]).all()


def test_refusals():
    tasks = level_tasks(12)
    with pytest.raises(ValueError, match="calibrate"):
        fitted(tasks, calibrate=1.5)
    with pytest.raises(ValueError, match=r"calibrate=True holds out .* too few"):
        fitted(tasks[:5], calibrate=True)
    maml = MAMLRegressor(max_iter=2, random_state=0).fit(tasks)
    model = maml.adapt(tasks[0].X, tasks[0].y)
    with pytest.raises(TypeError, match="MAMLRegressor has no predictive standard"):
        model.predict(tasks[0].X, return_std=True)
    assert not hasattr(model, "sample_y")
    with pytest.raises(TypeError, match="predictive standard deviations"):
        evaluate(maml, tasks, metric="nlpd")
    meta = fitted(tasks)
    with pytest.raises(ValueError, match="y"):
        meta.adapt(tasks[0].X)
    with pytest.raises(ValueError, match="n_samples"):
        meta.adapt().sample_y(tasks[0].X, n_samples=0)


def test_meta_loss_is_the_negative_log_density():
    learner = NormalMean("regression", nn.Identity(), 1)
    y = torch.tensor([[[1.0], [3.0], [9.0]]])
    rows = Rows(torch.zeros(1, 3, 2), y, torch.tensor([[True, True, False]]))
    loss = learner.meta_loss(Episodes(rows, rows))
    want = -norm(4 / 3, np.sqrt(4 / 3)).logpdf([1.0, 3.0]).mean()
    torch.testing.assert_close(loss, torch.tensor([want], dtype=loss.dtype))


@pytest.mark.parametrize(
    "kind",
    [
        *(ABMLClassifier, ABMLRegressor, BayesianLinearNetRegressor),
        *(DeepKernelClassifier, DeepKernelRegressor),
        *(InContextClassifier, InContextRegressor),
        *(NeuralProcessClassifier, NeuralProcessRegressor),
        *(ProbabilisticMAMLClassifier, ProbabilisticMAMLRegressor),
    ],
)
def test_parameters_act_when_a_learner_is_built_or_when_adapting(kind):
    everyones = inspect.signature(EpisodicMetaLearner).parameters
    in_every_fit = {"calibrate", "checkpoint_steps"}
    own = set(inspect.signature(kind).parameters) - set(everyones) - in_every_fit
    assert own <= {*kind._structural_parameters, *kind._adaptation_parameters}


@pytest.mark.parametrize(
    ("meta", "name", "value"),
    [
        (InContextRegressor(n_layers=1), "prior_fraction", 0.5),
        (NeuralProcessRegressor(hidden_size=8, latent=True), "prior_fraction", 0.5),
        (NeuralProcessRegressor(hidden_size=8, latent=True), "n_train_samples", 2),
    ],
)
def test_warm_starts_refuse_what_they_would_ignore(meta, name, value):
    tasks = level_tasks(10)
    meta.set_params(max_iter=1, random_state=0, warm_start=True).fit(tasks)
    before = getattr(meta, name)
    with pytest.raises(ValueError, match=f"{name}={value} acts in the first fit"):
        meta.set_params(**{name: value}).fit(tasks)
    assert meta.set_params(**{name: before}).fit(tasks).n_iter_ == 2


def test_warm_starts_draw_noise_for_the_tasks_of_todays_batches():
    tasks = level_tasks(10)
    options = {"max_iter": 1, "random_state": 0, "warm_start": True}
    meta = ABMLRegressor(nn.Linear(2, 2), inner_steps=1, **options)
    meta.set_params(batch_size=2).fit(tasks)
    noise = meta.set_params(batch_size=8).fit(tasks).learner_.noise_of_update(8)
    assert len(noise.unique(dim=0)) == 8


def class_tasks(shares=(0.6, 0.3, 0.1), n_tasks=20, n_rows=30, labels="shared"):
    """Tasks of noise, whose classes have certain shares of the rows."""
    rng = np.random.default_rng(0)
    y = rng.choice(np.array(["a", "b", "c"]), p=shares, size=(n_tasks, n_rows))
    y[:, :3] = ["a", "b", "c"]
    X = rng.normal(size=(n_tasks, n_rows, 2))
    return TaskSet(list(zip(X, y, strict=True)), labels=labels)


def small_net(input_shape):
    return nn.Linear(*input_shape, 4)


SMALL = {"hidden_size": 8, "n_heads": 2}
QUICK = {"max_iter": 150, "outer_lr": 0.01, "n_query": None, "random_state": 0}
OF_LABELS = [
    NeuralProcessClassifier(**SMALL, prior_fraction=0.3, **QUICK),
    InContextClassifier(**SMALL, n_layers=1, prior_fraction=0.3, **QUICK),
    ABMLClassifier(small_net, inner_steps=1, inner_lr=0.01, **QUICK),
    ProbabilisticMAMLClassifier(small_net, inner_steps=1, inner_lr=0.01, **QUICK),
]
each_of_labels = pytest.mark.parametrize(
    "meta", OF_LABELS, ids=lambda m: type(m).__name__
)


@each_of_labels
def test_the_prior_of_shared_labels_is_how_often_they_come(meta):
    meta = clone(meta).fit(class_tasks())
    X = np.random.default_rng(1).normal(size=(5, 2))
    model = meta.adapt()
    assert meta.adapted_ is model
    assert list(model.classes_) == ["a", "b", "c"]
    assert list(model.predict(X)) == ["a"] * 5
    found = model.predict_proba(X)
    np.testing.assert_allclose(found, [[0.6, 0.3, 0.1]] * 5, atol=0.2)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).predict_proba(X), found
    )


@each_of_labels
def test_local_labels_have_no_prior(meta):
    meta = clone(meta).set_params(max_iter=1, n_shot=2)
    meta.fit(class_tasks((0.4, 0.3, 0.3), labels="local"))
    with pytest.raises(TypeError, match=r"tells its classes apart. Call adapt"):
        meta.adapt()
    assert not hasattr(meta, "adapted_")


@pytest.mark.parametrize("piped", [False, True])
def test_who_has_no_prior_says_so(piped):
    meta = MAMLClassifier(small_net, max_iter=1, random_state=0)
    meta = make_meta_pipeline(StandardScaler(), meta) if piped else meta
    with pytest.raises(
        TypeError, match=r"this MAMLClassifier has no prior .* Call ada"
    ):
        meta.fit(class_tasks()).adapt()
    with pytest.raises(NotFittedError):
        clone(meta).adapt()


def test_there_is_no_prior_of_rows_that_support_rows_normalise():
    def normed(input_shape):
        return nn.Sequential(nn.Linear(*input_shape, 4), nn.BatchNorm1d(4))

    meta = ABMLClassifier(normed, max_iter=1, inner_steps=1, random_state=0)
    with pytest.raises(TypeError, match="normalises by statistics of the support rows"):
        meta.fit(class_tasks()).adapt()


@pytest.mark.parametrize("kind", ["regression", "shared"])
def test_pipelines_have_the_prior_of_their_last_step(kind):
    if kind == "shared":
        tasks, meta = class_tasks(), clone(OF_LABELS[0]).set_params(max_iter=2)
    else:
        tasks = level_tasks(40)
        meta = NormalMeanRegressor("identity", max_iter=1, random_state=0)
    scaler = StandardScaler().fit(tasks.rows().X)
    steps = (StandardScaler(), "passthrough", TaskTransformer(MinMaxScaler()))
    pipeline = make_meta_pipeline(*steps, meta).fit(tasks)
    X = tasks[0].X
    model = pipeline.adapt()
    assert pipeline.adapted_ is model
    moved = (
        MinMaxScaler()
        .fit(scaler.transform(tasks.rows().X))
        .transform(scaler.transform(X))
    )
    want = pipeline[-1].adapt().predict(moved)
    found = model.predict(X)
    if kind == "shared":
        np.testing.assert_array_equal(found, want)
        assert model.predict_proba(X).shape == (len(X), 3)
    else:
        np.testing.assert_allclose(found, want)
        assert (pipeline.predict(X, return_std=True)[1] > 0).all()


def test_what_is_fitted_to_each_task_needs_its_rows():
    steps = [
        ("scale", TaskTransformer(StandardScaler(), per_task=True)),
        ("meta", NormalMeanRegressor("identity", max_iter=1, random_state=0)),
    ]
    pipeline = MetaPipeline(steps).fit(level_tasks(20))
    with pytest.raises(
        TypeError, match="step 'scale' of this MetaPipeline has per_tas"
    ):
        pipeline.adapt()
