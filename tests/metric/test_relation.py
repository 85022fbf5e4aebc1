"""Relation networks against plain loops over pairs."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta import ClassPool, RelationNetClassifier
from sklmeta.backbones import MLP, ConvNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.memory import peak_bytes
from sklmeta.metric import relation as module
from sklmeta.metric._relation_modules import DenseRelation
from sklmeta.metric.relation import RelationNet

N_WAYS, N_FEATURES, SHAPE = 3, 4, (2, 5, 4)
QUICK = {"max_iter": 2, "batch_size": 2, "random_state": 0}
KINDS = ["dense", "conv"]
LOSSES = ["squared_error", "cross_entropy"]


def randn(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def make_rows(kind, n_tasks=2, n_rows=9, seed=0, n_way=None):
    n_features = N_FEATURES if kind == "dense" else 40
    x = randn(n_tasks, n_rows, n_features, seed=seed)
    y = (torch.arange(n_rows) % N_WAYS).repeat(n_tasks, 1)
    x[..., 0] += y
    return Rows(x, y, torch.ones(n_tasks, n_rows, dtype=torch.bool), n_way)


def make_learner(kind, n_outputs=N_WAYS, backbone=None, **options):
    """Return a learner on vectors or flattened images, in evaluation mode."""
    shape = None if kind == "dense" else SHAPE
    n_features = N_FEATURES if kind == "dense" else 40
    learner = RelationNet(
        nn.Flatten() if backbone is None else backbone,
        n_features,
        n_outputs,
        map_shape=shape,
        relation_width=6,
        generator=torch.Generator().manual_seed(0),
        **options,
    )
    with torch.no_grad():  # running averages and scales of their own
        for name, tensor in learner.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.copy_(torch.linspace(0.5, 1.5, len(tensor)))
    return learner.double().eval()


def outputs(learner, support, query):
    with torch.no_grad():
        return learner.predict(learner.adapt(support), query.x)


def class_means(support, task):
    x, y = support.x[task], support.y[task]
    return [x[(y == way) & support.mask[task]].mean(0) for way in range(N_WAYS)]


def logit_of_vectors(net, mean, row):
    x = net.first(torch.cat([mean, row])).relu()
    return net.score(net.second(x).relu())[0]


def logits_of_images(net, pairs, training):
    """Return logits of pairs (n, 2 C, H, W), class before row, by torch's functions."""
    halves = net.first_of_classes.weight, net.first_of_rows.weight
    x = F.conv2d(pairs, torch.cat(halves, 1), padding=1)
    for norm, after in ((net.first_norm, net.second), (net.second_norm, None)):
        averages = norm.running_mean.clone(), norm.running_var.clone()
        x = F.batch_norm(x, *averages, norm.weight, norm.bias, training=training)
        x = F.max_pool2d(x.relu(), 2) if min(x.shape[2:]) > 1 else x.relu()
        x = x if after is None else F.conv2d(x, after.weight, padding=1)
    return net.score(net.hidden(x.flatten(1)).relu())[:, 0]


def plain_logits(learner, support, query, task):
    """Return logits (Q, N) of one task, pair by pair."""
    net, means = learner.relation, class_means(support, task)
    if isinstance(net, DenseRelation):
        rows = [[logit_of_vectors(net, m, x) for m in means] for x in query.x[task]]
        return torch.stack([torch.stack(row) for row in rows])
    pairs = [torch.cat([m, x]) for x in query.x[task] for m in means]
    images = torch.stack(pairs).unflatten(1, (2 * SHAPE[0], *SHAPE[1:]))
    logits = logits_of_images(net, images, learner.training)
    return logits.view(-1, N_WAYS)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_pairs_one_by_one(kind):
    support, query = make_rows(kind), make_rows(kind, seed=1)
    learner = make_learner(kind)
    found = outputs(learner, support, query)
    for task in range(2):
        scores = plain_logits(learner, support, query, task).sigmoid()
        torch.testing.assert_close(found[task].exp(), scores)
        share = scores / scores.sum(1, keepdim=True)
        torch.testing.assert_close(found[task].softmax(-1), share)
    with_softmax = outputs(make_learner(kind, loss="cross_entropy"), support, query)
    torch.testing.assert_close(
        with_softmax[0], plain_logits(learner, support, query, 0)
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_meta_loss_is_of_scores_and_matches(kind, training):
    support, query = make_rows(kind), make_rows(kind, seed=1)
    learner = make_learner(kind).train(training)
    expected = []
    for task in range(2):
        scores = plain_logits(learner, support, query, task).sigmoid()
        matches = F.one_hot(query.y[task], N_WAYS)
        expected.append((scores - matches).square().mean())
    loss = learner.meta_loss(Episodes(support, query))
    torch.testing.assert_close(loss, torch.stack(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_cross_entropy_is_of_a_softmax(kind):
    support, query = make_rows(kind), make_rows(kind, seed=1)
    learner = make_learner(kind, loss="cross_entropy")
    loss = learner.meta_loss(Episodes(support, query))
    for task in range(2):
        logits = plain_logits(learner, support, query, task)
        torch.testing.assert_close(loss[task], F.cross_entropy(logits, query.y[task]))


def test_class_features_are_means_or_sums():
    support = make_rows("dense")
    support.mask[0, 5:] = False
    means = make_learner("dense").adapt(support)["classes"]
    sums = make_learner("dense", aggregate="sum").adapt(support)["classes"]
    for task in range(2):
        expected = torch.stack(class_means(support, task))
        torch.testing.assert_close(means[task], expected)
    count = torch.tensor([[2, 2, 1], [3, 3, 3]])
    torch.testing.assert_close(sums, means * count.unsqueeze(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_pass_in_blocks(kind, monkeypatch):
    support, query = make_rows(kind), make_rows(kind, n_rows=30, seed=1)
    learner = make_learner(kind)
    at_once = outputs(learner, support, query)
    with torch.enable_grad():
        with_graph = learner.predict(learner.adapt(support), query.x)
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 1)
    one_by_one = outputs(learner, support, query)
    torch.testing.assert_close(one_by_one, at_once)
    torch.testing.assert_close(with_graph, at_once)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 2**15)
    learner = make_learner("conv")
    many = make_rows("conv", 1, n_rows=9_000)  # 3,000 of each class
    few = make_rows("conv", 1)
    for support, query in ((many, few), (few, many)):
        size = peak_bytes(lambda s=support, q=query: outputs(learner, s, q))
        assert size < 2 * many.x.nbytes  # pairs would take nine times as much


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_absent_class_has_probability_zero_and_no_loss(kind, loss):
    support, query = make_rows(kind), make_rows(kind, seed=1)
    support.mask[1] = support.y[1] != 2
    learner = make_learner(kind, loss=loss)
    logits = outputs(learner, support, query)
    assert torch.isneginf(logits[1, :, 2]).all() and torch.isfinite(logits[0]).all()
    found = learner.meta_loss(Episodes(support, query))[1]
    keep = query.y[1] != 2
    own = logits[1, keep, :2]
    if loss == "cross_entropy":
        expected = F.cross_entropy(own, query.y[1][keep])
    else:
        matches = F.one_hot(query.y[1][keep], 2)
        expected = (own.exp() - matches).square().mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_ways_that_a_task_lacks_enter_no_statistic(kind, loss):
    n_way = torch.tensor([3, 2])
    support, query = (make_rows(kind, seed=s, n_way=n_way) for s in range(2))
    support.y[1] %= 2
    query.y[1] %= 2
    learner = make_learner(kind, None, loss=loss).train()
    together = learner.meta_loss(Episodes(support, query))
    alone = [learner.meta_loss(Episodes(support, query)[t : t + 1]) for t in range(2)]
    torch.testing.assert_close(together, torch.cat(alone))
    together.sum().backward()
    gradients = [p.grad for p in learner.parameters()]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    with pytest.raises(ValueError, match=r"needs Rows\.n_way"):
        learner.adapt(make_rows(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_is_certain(kind):
    support, query = make_rows(kind), make_rows(kind, seed=1)
    support.mask[:] = support.y == 1
    probability = outputs(make_learner(kind), support, query).softmax(-1)
    expected = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(probability, expected.expand_as(probability))


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_support_rows_does_not_matter(kind):
    support, query = make_rows(kind), make_rows(kind, seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = Rows(support.x[:, order], support.y[:, order], support.mask[:, order])
    learner = make_learner(kind)
    torch.testing.assert_close(
        outputs(learner, support, query), outputs(learner, moved, query)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_other_queries_change_nothing(kind):
    support, query = make_rows(kind), make_rows(kind, seed=1)
    support.mask[0, 5:] = False
    support.x[0, 5:] = 1e3
    learner = make_learner(kind)
    together = outputs(learner, support, query)
    for task in range(2):
        own = support[task : task + 1].trimmed()
        for row in range(3):
            one = query.x[task : task + 1, row : row + 1]
            with torch.no_grad():
                alone = learner.predict(learner.adapt(own), one)
            torch.testing.assert_close(together[task, row], alone[0, 0])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
def test_meta_gradients_are_finite_differences(kind, loss):
    width = N_FEATURES if kind == "dense" else 40
    backbone = nn.Sequential(nn.Linear(width, width), nn.Tanh())
    learner = make_learner(kind, backbone=backbone, loss=loss).train()
    episodes = Episodes(make_rows(kind), make_rows(kind, seed=1))
    weights = dict(learner.named_parameters())
    loss = learner.meta_loss(episodes).sum()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    h = 1e-6  # so small that no unit crosses a kink
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        direction = randn(*weight.shape, seed=5)

        def at(step, weight=weight, direction=direction):
            with torch.no_grad():
                weight += step * direction
            value = learner.meta_loss(episodes).sum().detach()
            with torch.no_grad():
                weight -= step * direction
            return value

        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        found = (gradient * direction).sum()
        torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-8, msg=name)


def image_pool(n_classes=6, n_rows=8):
    images = np.random.default_rng(0).random((n_classes * n_rows, 8, 8))
    labels = np.repeat(np.arange(n_classes), n_rows)
    images += labels[:, None, None] * np.eye(8)
    return ClassPool(images, labels)


def two_blocks(input_shape):
    return ConvNet(input_shape, 4, 2, n_halvings=1)


@pytest.fixture(scope="module")
def on_images():
    meta = RelationNetClassifier(two_blocks, relation_width=4, n_way=3, n_shot=2)
    return meta.set_params(**QUICK).fit(image_pool())


def test_images_have_convolutions_and_running_averages(on_images):
    net = on_images.learner_.relation
    assert net.map_shape == (4, 4, 4)
    assert net.first_norm.num_batches_tracked == 4  # one for each episode
    pool = image_pool()
    adapted = on_images.adapt(pool.X[:16], pool.y[:16])
    together = adapted.predict_proba(pool.X)
    alone = np.concatenate([adapted.predict_proba(image[None]) for image in pool.X])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(together.sum(1), 1, rtol=1e-6)


def test_by_default_images_keep_some_pixels():
    meta = RelationNetClassifier(max_iter=1, batch_size=1, n_query=1, n_shot=1)
    pool = ClassPool(np.random.default_rng(0).random((12, 28, 28)), np.arange(12) // 4)
    learner = meta.set_params(n_way=2, random_state=0).fit(pool).learner_
    assert learner.backbone.map_shape == learner.relation.map_shape == (64, 7, 7)
    assert learner.relation.hidden.in_features == 64


def test_features_once_for_many_episodes(on_images):
    learner = on_images.learner_
    x = randn(1, 12, 1, 8, 8).float()
    y = torch.arange(12)[None] % 3
    mask = torch.ones(1, 12, dtype=torch.bool)
    support = Rows(x, y, mask, torch.tensor([3]))
    embed, on_features = learner.on_features()
    features = embed(x[0])[None]
    with torch.no_grad():
        state = on_features.adapt(Rows(features, y, mask, support.n_way))
        found = on_features.predict(state, features)
    torch.testing.assert_close(found, outputs(learner, support, support))


def test_any_number_of_ways(on_images):
    pool = image_pool()
    for n_ways in (1, 2, 6):
        some = pool.y < n_ways
        adapted = on_images.adapt(pool.X[some], pool.y[some])
        assert adapted.predict_proba(pool.X).shape == (48, n_ways)


def test_images_of_another_size_are_refused(on_images):
    pool = image_pool()
    adapted = on_images.adapt(pool.X[:16], pool.y[:16])
    with pytest.raises(ValueError, match=r"rows of shape \(9, 9\).* \(8, 8\)"):
        adapted.predict(np.zeros((2, 9, 9)))


def test_pickled_models_predict_the_same(on_images):
    pool = image_pool()
    adapted = on_images.adapt(pool.X[:16], pool.y[:16])
    loaded = pickle.loads(pickle.dumps(adapted))
    np.testing.assert_array_equal(
        loaded.predict_proba(pool.X), adapted.predict_proba(pool.X)
    )


class Wrong(ConvNet):
    """Says another shape than that of its features."""

    def __init__(self, input_shape):
        super().__init__(input_shape, 4, 2)
        self.map_shape = (4, 3, 3)


class NoShape(nn.Flatten):
    """Says a number of pixels instead of their shape."""

    map_shape = 64


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"relation_width": 0}, "relation_width == 0, must be >= 1"),
        ({"aggregate": "max"}, "aggregate must be one of"),
        ({"loss": "mse"}, "loss must be one of"),
        ({"backbone": Wrong}, r"map_shape=\(4, 3, 3\) must be .* the 16 features"),
        ({"backbone": NoShape()}, "map_shape=64 must be .* the 64 features"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        RelationNetClassifier(**parameters).fit(image_pool())


def test_weights_are_of_single_precision_as_rows_are():
    pool, before = image_pool(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        meta = RelationNetClassifier(relation_width=2, n_shot=1, n_way=2, **QUICK)
        adapted = meta.fit(pool).adapt(pool.X[:16], pool.y[:16])
        assert np.isfinite(adapted.predict_proba(pool.X[:2])).all()
    finally:
        torch.set_default_dtype(before)
    assert all(p.dtype == torch.float32 for p in meta.learner_.parameters())


def test_parameters_of_meta_training_are_kept(on_images):
    pool, meta = image_pool(), pickle.loads(pickle.dumps(on_images))
    meta.set_params(aggregate="sum")
    with pytest.raises(ValueError, match="aggregate='sum' acts in meta-training only"):
        meta.adapt(pool.X, pool.y)


def test_other_features_are_compared_by_dense_layers():
    meta = RelationNetClassifier(lambda shape: MLP(shape[0], (5,)), n_shot=2, **QUICK)
    X = np.random.default_rng(0).normal(size=(30, N_FEATURES))
    learner = meta.fit(ClassPool(X, np.arange(30) % 3)).learner_
    assert isinstance(learner.relation, DenseRelation)
    assert learner.relation.first.in_features == 10
    assert not learner.needs_equal_rows
