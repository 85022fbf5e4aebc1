"""Ridge regression on learned features against scikit-learn's."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

from sklmeta import ClassPool, RidgeNetClassifier, RidgeNetRegressor, TaskSet
from sklmeta.backbones import MLP, ConvNet
from sklmeta.closed_form._systems import ridge_weights
from sklmeta.closed_form.ridge import RidgeNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.memory import peak_bytes

N_TASKS, N_WAYS, N_FEATURES = 2, 3, 4
FEW, MANY = 3, 12  # support rows: fewer than features, and more
QUICK = {"max_iter": 2, "batch_size": 4, "random_state": 0}


def randn(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def numbers(n_rows, n_outputs=1, seed=0):
    x = randn(N_TASKS, n_rows, N_FEATURES, seed=seed) + 1
    y = randn(N_TASKS, n_rows, n_outputs, seed=seed + 10) + 3
    return Rows(x, y, torch.ones(N_TASKS, n_rows, dtype=torch.bool))


def labelled(n_rows, seed=0, n_way=None):
    x = randn(N_TASKS, n_rows, N_FEATURES, seed=seed)
    y = (torch.arange(n_rows) % N_WAYS).repeat(N_TASKS, 1)
    return Rows(x, y, torch.ones(N_TASKS, n_rows, dtype=torch.bool), n_way)


def regressor(n_outputs=1, backbone=None, **options):
    backbone = nn.Flatten() if backbone is None else backbone
    learner = RidgeNet(backbone, n_outputs, task_type="regression", **options)
    return learner.double()


def classifier(n_outputs=N_WAYS, backbone=None, **options):
    backbone = nn.Flatten() if backbone is None else backbone
    return RidgeNet(backbone, n_outputs, **options).double()


def outputs(learner, support, query):
    with torch.no_grad():
        return learner.predict(learner.adapt(support), query.x)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("n_rows", [FEW, N_FEATURES, MANY])
@pytest.mark.parametrize("alpha", [1e-6, 0.7, 30.0])
def test_is_sklearns_ridge(alpha, n_rows, n_outputs, fit_intercept):
    support, query = numbers(n_rows, n_outputs), numbers(20, n_outputs, seed=1)
    learner = regressor(n_outputs, alpha=alpha, fit_intercept=fit_intercept)
    found = outputs(learner, support, query)
    state = learner.adapt(support)
    for task in range(N_TASKS):
        model = Ridge(alpha, fit_intercept=fit_intercept, solver="svd")
        model.fit(support.x[task], support.y[task])
        expected = model.predict(query.x[task].numpy()).reshape(20, n_outputs)
        np.testing.assert_allclose(found[task], expected, rtol=1e-7, atol=1e-9)
        weight = state["weight"][task].T.detach()
        coef = model.coef_.reshape(n_outputs, N_FEATURES)
        np.testing.assert_allclose(weight, coef, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n_rows", [FEW, MANY])
def test_logits_are_regressed_one_hot_labels(n_rows):
    support, query = labelled(n_rows), labelled(20, seed=1)
    found = outputs(classifier(alpha=0.3, temperature=0.2), support, query)
    for task in range(N_TASKS):
        one_hot = np.eye(N_WAYS)[support.y[task]]
        model = Ridge(0.3).fit(support.x[task].numpy(), one_hot)
        expected = model.predict(query.x[task].numpy()) / 0.2
        np.testing.assert_allclose(found[task], expected, rtol=1e-7, atol=1e-9)


def test_both_forms_are_the_same():
    z, y = randn(2, 7, 5), randn(2, 7, 2, seed=1)
    primal = ridge_weights(z, y, 0.3)
    # Rows of zeros change nothing; features of zeros make for the other form.
    wide = torch.cat([z, z.new_zeros(2, 7, 9)], 2)
    woodbury = ridge_weights(wide, y, 0.3)
    torch.testing.assert_close(woodbury[:, :5], primal)
    assert not woodbury[:, 5:].any()


def test_a_penalty_below_rounding_still_solves():
    # Twice the same row: without a penalty there is no single solution.
    z = torch.tensor([[[1e3, 1e3], [1e3, 1e3]]], dtype=torch.float64)
    y = torch.tensor([[[1.0], [1.0]]], dtype=torch.float64)
    weight = ridge_weights(z, y, 1e-300)
    assert torch.isfinite(weight).all()
    torch.testing.assert_close(z @ weight, y)


def test_small_penalties_are_precise_for_rows_in_single_precision():
    # Two features that are almost the same, and a target in their difference.
    difference = randn(1, 40, 1)
    x = torch.cat([5 + difference, 5 - 1e-3 * difference], 2).float()
    rows = Rows(x, difference.float(), torch.ones(1, 40, dtype=torch.bool))
    learner = RidgeNet(nn.Identity(), 1, task_type="regression", alpha=1e-7)
    found = outputs(learner, rows, rows)
    assert found.dtype == torch.float32
    model = Ridge(1e-7, solver="svd").fit(x[0].double(), rows.y[0].double())
    expected = model.predict(x[0].double().numpy())
    np.testing.assert_allclose(found[0, :, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_rows", [FEW, MANY])
@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_padding_and_company_change_nothing(kind, n_rows):
    make, learner = (
        (numbers, regressor()) if kind == "numbers" else (labelled, classifier())
    )
    support, query = make(n_rows + 5), make(6, seed=1)
    support.mask[0, n_rows:] = False
    support.x[0, n_rows:] = 1e3
    if kind == "numbers":
        support.y[0, n_rows:] = -1e3
    together = outputs(learner, support, query)
    for task in range(N_TASKS):
        own = support[task : task + 1].trimmed()
        alone = outputs(learner, own, query[task : task + 1])
        torch.testing.assert_close(together[task], alone[0])


def test_order_of_support_rows_does_not_matter():
    support, query = labelled(MANY), labelled(5, seed=1)
    order = torch.randperm(MANY, generator=torch.Generator().manual_seed(0))
    moved = Rows(support.x[:, order], support.y[:, order], support.mask[:, order])
    learner = classifier()
    torch.testing.assert_close(
        outputs(learner, support, query), outputs(learner, moved, query)
    )


def test_absent_class_has_probability_zero_and_no_loss():
    support, query = labelled(MANY), labelled(MANY, seed=1)
    support.mask[1] = support.y[1] != 2
    logits = outputs(classifier(), support, query)
    assert torch.isneginf(logits[1, :, 2]).all() and torch.isfinite(logits[0]).all()
    loss = classifier().meta_loss(Episodes(support, query))
    answerable = query.y[1] != 2
    p = logits[1].log_softmax(-1)[answerable, query.y[1][answerable]]
    torch.testing.assert_close(loss[1], -p.mean())


def test_one_class_is_certain():
    support, query = labelled(MANY), labelled(5, seed=1)
    support.mask[:] = support.y == 1
    probability = outputs(classifier(), support, query).softmax(-1)
    expected = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(probability, expected.expand_as(probability))


def test_local_labels_have_as_many_ways_as_the_task():
    n_way = torch.tensor([3, 2])
    support, query = labelled(9, n_way=n_way), labelled(9, seed=1, n_way=n_way)
    support.y[1] %= 2
    logits = outputs(classifier(None), support, query)
    assert logits.shape == (2, 9, 3)
    assert torch.isneginf(logits[1, :, 2]).all()
    with pytest.raises(ValueError, match=r"needs Rows\.n_way"):
        classifier(None).adapt(labelled(9))


def assert_gradients_are_slopes(learner, episodes):
    """Compare gradients of the meta-loss with finite differences of fourth order."""
    weights = dict(learner.named_parameters())
    loss = learner.meta_loss(episodes).sum()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    h = 1e-4
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        direction = randn(*weight.shape, seed=5)

        def at(step, weight=weight, direction=direction):
            with torch.no_grad():
                weight += step * direction
                value = learner.meta_loss(episodes).sum()
                weight -= step * direction
            return value

        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        found = (gradient * direction).sum()
        assert found != 0, name
        torch.testing.assert_close(found, slope, rtol=1e-7, atol=1e-9, msg=name)


def smooth_net():
    net = nn.Sequential(nn.Linear(N_FEATURES, 5), nn.Tanh())
    with torch.no_grad():
        for seed, weight in enumerate(net.parameters()):
            weight.copy_(randn(*weight.shape, seed=seed) / 2)
    return net


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_rows", [FEW, MANY])
def test_meta_gradients_are_finite_differences(n_rows, fit_intercept):
    options = {"alpha": 0.3, "fit_intercept": fit_intercept}
    on_labels = classifier(backbone=smooth_net(), temperature=0.4, **options)
    names = [name for name, _ in on_labels.named_parameters()]
    assert names[:2] == ["log_alpha_factor", "log_temperature_factor"]
    episodes = Episodes(labelled(n_rows), labelled(6, seed=1))
    assert_gradients_are_slopes(on_labels, episodes)
    on_numbers = regressor(2, smooth_net(), **options)
    episodes = Episodes(numbers(n_rows, 2), numbers(6, 2, seed=1))
    assert_gradients_are_slopes(on_numbers, episodes)


def test_meta_loss_is_the_query_loss_of_predict():
    learner = classifier(backbone=MLP(N_FEATURES, (5,)))
    support, query = labelled(MANY), labelled(6, seed=1)
    expected = learner.loss(outputs(learner, support, query), query)
    torch.testing.assert_close(learner.meta_loss(Episodes(support, query)), expected)


def test_what_is_learned_multiplies_what_is_given():
    support, query = labelled(MANY), labelled(6, seed=1)
    learner = classifier()
    with torch.no_grad():
        learner.log_alpha_factor += np.log(3)
        learner.log_temperature_factor -= np.log(2)
    view = learner.with_options(alpha=0.5, temperature=0.8)
    fixed = classifier(
        alpha=1.5, temperature=0.4, learn_alpha=False, learn_temperature=False
    )
    assert not list(fixed.parameters())
    torch.testing.assert_close(
        outputs(view, support, query), outputs(fixed, support, query)
    )


def test_numbers_have_no_temperature():
    learner = regressor()
    assert learner.adaptation_options == ("alpha",)
    assert [name for name, _ in learner.named_parameters()] == ["log_alpha_factor"]


def feature_tasks(n_tasks=20, n_rows=20, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_tasks, n_rows, N_FEATURES))
    slopes = rng.normal(size=(n_tasks, N_FEATURES, 1))
    y = (X @ slopes)[..., 0] + 0.5 * rng.normal(size=(n_tasks, n_rows))
    return TaskSet(list(zip(X, y, strict=True)))


def test_on_given_features_only_the_penalty_is_learned():
    tasks = feature_tasks()
    meta = RidgeNetRegressor("identity", alpha=100.0, max_iter=50, random_state=0)
    learned = meta.fit(tasks).learner_
    assert [name for name, _ in learned.named_parameters()] == ["log_alpha_factor"]
    assert learned.log_alpha_factor < -0.01  # the slopes are no small ones
    meta = RidgeNetRegressor(
        "identity", learn_alpha=False, normalize_x=False, normalize_y=False
    )
    meta.fit(tasks)
    assert meta.n_iter_ == 0
    X, y = tasks[0].X, tasks[0].y
    for alpha in (1.0, 5.0):
        found = meta.set_params(alpha=alpha).adapt(X[:8], y[:8]).predict(X[8:])
        expected = Ridge(alpha).fit(X[:8], y[:8]).predict(X[8:])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_parameters_of_meta_training_are_kept():
    tasks = feature_tasks()
    meta = RidgeNetRegressor(n_shot=5, **QUICK).fit(tasks)
    meta.set_params(fit_intercept=False)
    with pytest.raises(ValueError, match="fit_intercept=False acts in meta-training"):
        meta.adapt(tasks[0].X, tasks[0].y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 0.0}, "alpha == 0.0, must be > 0"),
        ({"alpha": np.inf}, "alpha must be finite"),
        ({"learn_alpha": "yes"}, "learn_alpha must be one of"),
        ({"fit_intercept": None}, "fit_intercept must be one of"),
        ({"temperature": -1.0}, "temperature == -1.0, must be > 0"),
        ({"learn_temperature": 2}, "learn_temperature must be one of"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        RidgeNetClassifier(**parameters).fit(image_pool())


def image_pool(n_classes=6, n_rows=8):
    images = np.random.default_rng(0).random((n_classes * n_rows, 8, 8))
    labels = np.repeat(np.arange(n_classes), n_rows)
    images += labels[:, None, None] * np.eye(8)
    return ClassPool(images, labels)


def one_block(input_shape):
    return ConvNet(input_shape, 4, 1)


@pytest.fixture(scope="module")
def on_images():
    pool = image_pool()
    return RidgeNetClassifier(one_block, n_way=3, n_shot=2, **QUICK).fit(pool)


def test_images_of_another_size_are_refused(on_images):
    pool = image_pool()
    adapted = on_images.adapt(pool.X[:16], pool.y[:16])
    with pytest.raises(ValueError, match=r"rows of shape \(9, 9\).* \(8, 8\)"):
        adapted.predict(np.zeros((2, 9, 9)))


def test_any_number_of_ways(on_images):
    pool = image_pool()
    for n_ways in (1, 2, 6):
        some = pool.y < n_ways
        adapted = on_images.adapt(pool.X[some], pool.y[some])
        probability = adapted.predict_proba(pool.X)
        assert probability.shape == (48, n_ways)
        np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-6)


def test_pickled_models_predict_the_same(on_images):
    pool = image_pool()
    adapted = on_images.adapt(pool.X[:16], pool.y[:16])
    loaded = pickle.loads(pickle.dumps(adapted))
    np.testing.assert_array_equal(
        loaded.predict_proba(pool.X), adapted.predict_proba(pool.X)
    )


def test_thousands_of_rows_of_a_class():
    n_rows = 4000 * N_WAYS
    support = labelled(n_rows)
    support.x[..., :N_WAYS] += 3 * nn.functional.one_hot(support.y)
    learner = classifier()
    # A matrix of rows by rows would take 1.2 GB for each task.
    size = peak_bytes(lambda: outputs(learner, support, numbers(5)), limit=10**8)
    assert size < 10 * support.x.nbytes
    found = outputs(learner, support, support).argmax(-1)
    assert (found == support.y).double().mean() > 0.9
