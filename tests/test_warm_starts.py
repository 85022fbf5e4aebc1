"""A user's own module by one parameter, frozen in part, or another's backbone."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from torch import nn

from sklmeta import (
    ANILClassifier,
    ANILRegressor,
    CAVIAClassifier,
    CAVIARegressor,
    ClassPool,
    FewShotClassifier,
    MAMLClassifier,
    MAMLRegressor,
    MANNClassifier,
    MatchingNetClassifier,
    PooledClassifier,
    ProtoNetClassifier,
    RelationNetClassifier,
    ReptileClassifier,
    RidgeNetClassifier,
    RidgeNetRegressor,
    SimpleShotClassifier,
    TaskSet,
)
from sklmeta.backbones import MLP, ConvNet
from sklmeta.datasets import make_sinusoids
from sklmeta.model_selection import TaskKFold

N_FEATURES = 5
OPTIONS = {"max_iter": 4, "batch_size": 2, "n_shot": 2, "outer_lr": 0.01}
OPTIONS["random_state"] = 0


def make_tasks(n_tasks=6, seed=0, labels="local"):
    rng = np.random.default_rng(seed)
    y = np.tile(np.arange(3), 6)
    scale = np.array([1.0, 10.0, 0.1, 3.0, 1.0])
    pairs = [
        ((rng.normal(size=(18, N_FEATURES)) + y[:, None]) * scale + 2, y)
        for _ in range(n_tasks)
    ]
    return TaskSet(pairs, labels=labels)


def make_images(n_classes=6, seed=0, dtype=np.uint8, side=8):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 256, (n_classes * 6, side, side)).astype(dtype)
    return ClassPool(X, np.repeat(np.arange(n_classes), 6))


def pretrained(norm=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = [nn.Linear(N_FEATURES, 6)]
        features += [nn.BatchNorm1d(6)] if norm else []
        features += [nn.Tanh(), nn.Dropout(0.5)]
        module = nn.Sequential()
        module.add_module("features", nn.Sequential(*features))
        module.add_module("neck", nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)))
    if norm:
        module.features[1].running_mean.fill_(0.2)
    return module


def moved(meta, module):
    """Return the names of weights and buffers that are not those of a module."""
    state = meta.learner_.backbone.state_dict()
    return {n for n, v in module.state_dict().items() if not torch.equal(state[n], v)}


# Freezing by name -------------------------------------------------------------------

USERS_MODULE = {
    "ProtoNet": ProtoNetClassifier,
    "RidgeNet": RidgeNetClassifier,
    "ANIL": ANILClassifier,
    "MAML": MAMLClassifier,
    "Reptile": ReptileClassifier,
    "CAVIA": CAVIAClassifier,
    "RelationNet": RelationNetClassifier,
}


def of_users(name, **changes):
    """Return an estimator and a pre-trained module that its rows fit."""
    module, options = pretrained(), {**OPTIONS, **changes}
    if name == "CAVIA":
        module.features[0] = nn.Linear(N_FEATURES + 5, 6)
    if name == "Reptile":
        options["outer_lr"] = 0.5
    return USERS_MODULE[name](module, **options), module


@pytest.mark.parametrize("name", USERS_MODULE)
def test_frozen_layers_keep_weights_and_running_averages(name):
    meta, module = of_users(name, freeze="features.*")
    meta.fit(make_tasks())
    changed = moved(meta, module)
    assert changed
    assert all(one.startswith("neck") for one in changed)
    assert {"neck.0.weight", "neck.0.bias"} & changed
    assert 0 <= meta.score(make_tasks(seed=1)) <= 1


@pytest.mark.parametrize("name", USERS_MODULE)
def test_the_whole_backbone_frozen_is_as_it_was(name):
    meta, module = of_users(name, freeze=True)
    meta.fit(make_tasks())
    assert not moved(meta, module)
    assert module.training  # the user's own
    assert all(weight.requires_grad for weight in module.parameters())
    new = make_tasks(1, seed=1)[0]
    few_shot = meta.adapt(new.X[:9], new.y[:9])
    assert few_shot.predict_proba(new.X).shape == (18, 3)


def test_without_freezing_everything_is_trained():
    meta, module = of_users("ProtoNet")
    meta.fit(make_tasks())
    weights = {name for name, _ in module.named_parameters()}
    assert weights - {"neck.0.bias"} <= moved(meta, module)


def test_frozen_normalisation_is_of_running_averages_in_gradient_learners_too():
    module = pretrained()
    meta = ANILClassifier(module, freeze=True, **OPTIONS).fit(make_tasks())
    learner, x = meta.learner_, torch.randn(1, 7, N_FEATURES)
    with torch.no_grad():
        want = module.eval()(x[0])
        torch.testing.assert_close(learner.features({}, x)[0], want)
        torch.testing.assert_close(learner.train().features({}, x)[0], want)
        assert not learner.needs_equal_rows


def test_dropout_of_frozen_layers_is_off_and_of_others_is_on():
    meta = ProtoNetClassifier(pretrained(), freeze="features", **OPTIONS)
    learner = meta.fit(make_tasks()).learner_.train()
    assert not learner.backbone.features[3].training
    assert learner.backbone.neck[1].training
    plain = ProtoNetClassifier(pretrained(), freeze="neck", **OPTIONS)
    learner = plain.fit(make_tasks()).learner_.train()
    assert learner.backbone.features[3].training


def test_modules_that_come_frozen_are_frozen():
    module = pretrained()
    module.features.requires_grad_(False)
    meta = ProtoNetClassifier(module, **OPTIONS).fit(make_tasks())
    assert all(one.startswith("neck") for one in moved(meta, module))


def test_images_with_film_layers_of_cavia():
    meta = CAVIAClassifier(
        lambda shape: ConvNet(shape, width=4, n_blocks=2), freeze=True, **OPTIONS
    ).fit(make_images())
    trained = [n for n, p in meta.learner_.named_parameters() if p.requires_grad]
    assert trained
    start = CAVIAClassifier(
        lambda shape: ConvNet(shape, width=4, n_blocks=2),
        **{**OPTIONS, "outer_lr": 1e-12},
    ).fit(make_images())
    for name, weight in meta.learner_.named_parameters():
        before = start.learner_.get_parameter(name)
        assert torch.allclose(weight, before, atol=1e-9) == (name not in trained)


@pytest.mark.parametrize(
    ("backbone", "freeze", "error", "match"),
    [
        (None, "fc.*", ValueError, r"no weight.*'fc\.\*'.*'layers\.0\.weight'"),
        (None, "*", ValueError, "freeze=True if that is meant"),
        ("identity", True, ValueError, "no weights that could be frozen"),
        (None, 1.5, TypeError, "freeze must be None, True"),
    ],
)
def test_patterns_that_make_no_sense(backbone, freeze, error, match):
    with pytest.raises(error, match=match):
        ProtoNetClassifier(backbone, freeze=freeze, **OPTIONS).fit(make_tasks())


def test_freezing_is_of_the_first_fit():
    tasks = make_tasks()
    meta = ProtoNetClassifier(freeze="layers.0", warm_start=True, **OPTIONS).fit(tasks)
    before = meta.learner_.backbone.layers[0].weight.clone()
    meta.fit(tasks)
    assert torch.equal(meta.learner_.backbone.layers[0].weight, before)
    meta.set_params(freeze=None)
    with pytest.raises(ValueError, match="freeze=None acts in the first fit"):
        meta.fit(tasks)


@pytest.mark.parametrize("freeze", [True, "layers.0"])
def test_pickles_go_on_frozen(freeze):
    meta = RidgeNetClassifier(freeze=freeze, warm_start=True, **OPTIONS)
    meta.fit(make_tasks())
    loaded = pickle.loads(pickle.dumps(meta)).fit(make_tasks())
    for one in (loaded, meta.fit(make_tasks())):
        assert one.n_iter_ == 8
    for name, weight in loaded.learner_.named_parameters():
        torch.testing.assert_close(weight, meta.learner_.get_parameter(name))


# From another meta-learner ----------------------------------------------------------


@pytest.fixture(scope="module")
def source():
    module = MLP(N_FEATURES, (8, 6), generator=torch.Generator().manual_seed(0))
    meta = ProtoNetClassifier(module, **OPTIONS)
    return meta.fit(make_tasks(seed=3))


STARTED = [
    *(ProtoNetClassifier, RidgeNetClassifier, MatchingNetClassifier, ANILClassifier),
    *(MAMLClassifier, RelationNetClassifier, MANNClassifier, ReptileClassifier),
]


@pytest.mark.parametrize("started", STARTED)
def test_the_start_is_the_other_ones_backbone(started, source):
    options = {**OPTIONS, "max_iter": 1, "outer_lr": 1e-12, "backbone_from": source}
    meta = started(**options).fit(make_tasks(seed=4))
    want = source.learner_.backbone.state_dict()
    found = meta.learner_.backbone.state_dict()
    assert found.keys() == want.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, want[name], rtol=0, atol=1e-6)


def test_rows_are_scaled_as_by_the_other(source):
    new = make_tasks(1, seed=1)[0]
    meta = ProtoNetClassifier(
        backbone_from=source, freeze=True, normalize_x=False, **OPTIONS
    ).fit(make_tasks(seed=4))
    found = meta.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    want = source.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_training_goes_on_and_leaves_the_other_alone(source):
    before = {n: w.clone() for n, w in source.learner_.state_dict().items()}
    meta = RidgeNetClassifier(backbone_from=source, **OPTIONS).fit(make_tasks(seed=4))
    assert moved(meta, source.learner_.backbone)
    for name, weight in source.learner_.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_frozen_start_is_trained_unless_it_is_frozen_again(source):
    frozen = RidgeNetClassifier(backbone_from=source, freeze=True, **OPTIONS)
    frozen.fit(make_tasks(seed=4))
    simple = SimpleShotClassifier(source).fit(make_tasks(seed=4))
    for one in (frozen, simple):
        meta = ProtoNetClassifier(backbone_from=one, **OPTIONS).fit(make_tasks(seed=4))
        assert len(moved(meta, source.learner_.backbone)) == 4


def test_numbers_start_from_labels_and_the_other_way_round():
    waves = make_sinusoids(8, random_state=0)
    maml = MAMLRegressor(max_iter=2, batch_size=2, random_state=0).fit(waves)
    meta = RidgeNetRegressor(backbone_from=maml, max_iter=2, random_state=0).fit(waves)
    again = ANILRegressor(backbone_from=meta, max_iter=2, random_state=0).fit(waves)
    assert again.learner_.backbone.layers[0].weight.shape == (64, 1)


def test_cavia_starts_from_cavia_alone_on_rows():
    waves = make_sinusoids(8, random_state=0)
    options = {"max_iter": 2, "batch_size": 2, "random_state": 0}
    cavia = CAVIARegressor(**options).fit(waves)
    assert CAVIARegressor(backbone_from=cavia, **options).fit(waves).n_iter_ == 2
    with pytest.raises(ValueError, match=r"CAVIARegressor given as backbone_from.*\(6"):
        RidgeNetRegressor(backbone_from=cavia, **options).fit(waves)
    plain = RidgeNetRegressor(**options).fit(waves)
    with pytest.raises(ValueError, match="n_context"):
        CAVIARegressor(backbone_from=plain, **options).fit(waves)


def test_images():
    options = {**OPTIONS, "n_way": 3, "max_iter": 2}
    one = ProtoNetClassifier(
        lambda shape: ConvNet(shape, width=4, n_blocks=2), **options
    ).fit(make_images())
    meta = RelationNetClassifier(backbone_from=one, **options).fit(make_images(seed=1))
    assert meta.learner_.backbone.map_shape == (4, 2, 2)
    cavia = CAVIAClassifier(backbone_from=one, freeze=True, **options)
    assert cavia.fit(make_images(seed=1)).n_iter_ == 2
    pool = make_images(dtype=np.float64)
    with pytest.raises(ValueError, match="meta-trained on uint8"):
        ANILClassifier(backbone_from=one, **options).fit(pool)
    plain = ProtoNetClassifier(
        lambda shape: ConvNet(shape, width=4, n_blocks=2), **options
    ).fit(ClassPool(pool.X / 255, pool.y))
    with pytest.raises(ValueError, match=r"hold uint8.*backbone_from"):
        ANILClassifier(backbone_from=plain, **options).fit(make_images())
    flat = ClassPool(pool.X.reshape(len(pool.X), -1) / 255, pool.y)
    with pytest.raises(ValueError, match=r"other rows.*given as backbone_from"):
        ANILClassifier(backbone_from=plain, **options).fit(flat)
    with pytest.raises(ValueError, match=r"image_shape=\(4, 16\).*Leave it out"):
        ANILClassifier(
            backbone_from=ProtoNetClassifier(image_shape=(8, 8), **options).fit(flat),
            image_shape=(4, 16),
            **options,
        ).fit(flat)


def test_image_shape_is_the_other_ones():
    images = make_images(dtype=np.float64)
    flat = ClassPool(images.X.reshape(len(images.X), -1) / 255, images.y)
    options = {**OPTIONS, "n_way": 3, "max_iter": 1}
    one = ProtoNetClassifier(
        lambda shape: ConvNet(shape, width=4, n_blocks=2), image_shape=(8, 8), **options
    ).fit(flat)
    meta = RidgeNetClassifier(backbone_from=one, **options).fit(flat)
    assert 0 <= meta.score(flat) <= 1


def test_averages_that_were_never_learned_are_not_fixed():
    options = {**OPTIONS, "max_iter": 1}
    maml = MAMLClassifier(pretrained(), **options).fit(make_tasks())
    with pytest.raises(
        ValueError, match=r"'features\.1' to its running averages.*MAML"
    ):
        ProtoNetClassifier(backbone_from=maml, freeze=True, **options).fit(make_tasks())
    trained = ProtoNetClassifier(backbone_from=maml, **options).fit(make_tasks())
    assert trained.n_iter_ == 1
    kept = MAMLClassifier(pretrained(), freeze="features", **options).fit(make_tasks())
    meta = ProtoNetClassifier(backbone_from=kept, freeze="features", **options)
    assert meta.fit(make_tasks()).n_iter_ == 1


# scikit-learn's ways -----------------------------------------------------------------


def test_clones_searches_and_few_shot_estimators_keep_it_fitted(source):
    tasks, new = make_tasks(seed=4), make_tasks(1, seed=1)[0]
    meta = RidgeNetClassifier(backbone_from=source, **OPTIONS)
    assert clone(meta).backbone_from is source
    plain = clone(RidgeNetClassifier()).set_params(backbone_from=source)
    assert plain.backbone_from is source
    search = GridSearchCV(
        meta, {"outer_lr": [1e-3, 1e-2]}, cv=TaskKFold(2), error_score="raise"
    ).fit(tasks)
    best = search.best_estimator_
    assert best.backbone_from is source
    few_shot = clone(FewShotClassifier(best)).fit(new.X[:9], new.y[:9])
    assert len(few_shot.predict(new.X)) == 18
    assert clone(few_shot.meta_).fit(tasks).n_iter_ == 4


def test_changing_the_other_later_changes_nothing():
    tasks, new = make_tasks(seed=4), make_tasks(1, seed=1)[0]
    other = ProtoNetClassifier(**OPTIONS).fit(make_tasks())
    meta = ProtoNetClassifier(backbone_from=other, **OPTIONS).fit(tasks)
    want = meta.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    other.set_params(max_iter=2, metric="cosine").fit(make_tasks(seed=7))
    found = meta.adapt(new.X[:9], new.y[:9]).predict_proba(new.X)
    np.testing.assert_array_equal(found, want)
    meta.set_params(backbone_from=None)
    with pytest.raises(ValueError, match="backbone_from=None acts in meta-training"):
        meta.adapt(new.X[:9], new.y[:9])


def test_pickle(source):
    new = make_tasks(1, seed=1)[0]
    meta = RidgeNetClassifier(backbone_from=source, **OPTIONS).fit(make_tasks(seed=4))
    loaded = pickle.loads(pickle.dumps(meta))
    found, want = (
        one.adapt(new.X[:9], new.y[:9]).predict_proba(new.X) for one in (loaded, meta)
    )
    np.testing.assert_array_equal(found, want)
    assert clone(loaded).fit(make_tasks(seed=4)).n_iter_ == 4


# Refusals ---------------------------------------------------------------------------


def fitted_baseline():
    return PooledClassifier(DummyClassifier()).fit(make_tasks(labels="shared"))


@pytest.mark.parametrize(
    ("other", "error", "match"),
    [
        (
            ProtoNetClassifier,
            NotFittedError,
            "backbone_from is a ProtoNet.*not meta-tr",
        ),
        (fitted_baseline, TypeError, "PooledClassifier, which has no torch backbone"),
        (
            lambda: MANNClassifier(**OPTIONS).fit(make_tasks()),
            TypeError,
            "MANNClassifier whose backbone has no weights",
        ),
        (
            lambda: ProtoNetClassifier("identity", **OPTIONS).fit(make_tasks()),
            TypeError,
            "has no weights to start from",
        ),
        (lambda: nn.Linear(5, 2), TypeError, "Linear. Torch modules go in backbone="),
        (LogisticRegression, TypeError, "must be a fitted meta-learner, got a Logis"),
    ],
)
def test_what_has_no_backbone_to_start_from(other, error, match):
    with pytest.raises(error, match=match):
        RidgeNetClassifier(backbone_from=other(), **OPTIONS).fit(make_tasks())


def test_two_starts_are_refused(source):
    with pytest.raises(ValueError, match="backbone and backbone_from are both given"):
        ProtoNetClassifier("identity", backbone_from=source).fit(make_tasks())
    with pytest.raises(TypeError, match="as backbone_from="):
        ProtoNetClassifier(source).fit(make_tasks())


def test_other_rows_are_refused(source):
    rng = np.random.default_rng(0)
    pool = ClassPool(rng.normal(size=(30, 3)), np.repeat(range(6), 5))
    with pytest.raises(
        ValueError, match=r"backbone_from.*X has 3 features, but ProtoNe"
    ):
        ANILClassifier(backbone_from=source, **OPTIONS).fit(pool)
    names = [f"x{i}" for i in range(3)]
    frame = pd.DataFrame(pool.X, columns=names)
    one = ProtoNetClassifier(**OPTIONS).fit(ClassPool(frame, pool.y))
    renamed = ClassPool(frame.rename(columns={"x0": "z"}), pool.y)
    with pytest.raises(ValueError, match=r"backbone_from.*feature names"):
        ANILClassifier(backbone_from=one, **OPTIONS).fit(renamed)
    assert ANILClassifier(backbone_from=one, **OPTIONS).fit(ClassPool(frame, pool.y))


def test_a_module_for_other_rows_says_both_shapes():
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    with pytest.raises(ValueError, match=r"\(3, height, width\).*\(1, 8, 8\).*np\.rep"):
        ProtoNetClassifier(module, **OPTIONS).fit(make_images())
