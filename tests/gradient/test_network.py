"""The network that optimisation-based learners share, against plain calls of it."""

import copy

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

import sklmeta
from sklmeta.backbones import MLP, ConvNet
from sklmeta.backbones.normalization import TaskBatchNorm
from sklmeta.datasets import load_digits_pool
from sklmeta.engine.batches import Rows
from sklmeta.gradient import MAML, ImplicitMAML, Reptile, network
from sklmeta.gradient.heads import (
    DEFAULT_HEAD,
    FixedHead,
    LinearHead,
    PrototypeHead,
    SharedHead,
)
from sklmeta.gradient.network import GradientLearner, below

N_TASKS, N_SUPPORT, N_FEATURES, N_WAYS = 3, 6, 4, 3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp():
    return MLP(N_FEATURES, (7, 5), generator=rng(1))


def conv_net():
    return ConvNet((1, 6, 6), 4, 2, "pool", generator=rng(1))


def make_learner(backbone, n_outputs=N_WAYS, **options):
    options = {"task_type": "classification", **options}
    n_features = backbone.out_features
    learner = GradientLearner(
        backbone, n_features, n_outputs, generator=rng(2), **options
    )
    return learner.double().eval()


def make_support(shape=(N_FEATURES,), n_way=None):
    size = (N_TASKS, N_SUPPORT, *shape)
    x = torch.randn(size, generator=rng(3), dtype=torch.float64)
    y = torch.randint(N_WAYS, (N_TASKS, N_SUPPORT), generator=rng(4))
    if n_way is not None:
        y = torch.arange(N_SUPPORT) % n_way[:, None]
    mask = torch.ones(N_TASKS, N_SUPPORT, dtype=torch.bool)
    return Rows(x, y, mask, n_way)


def own_weights(learner, support):
    """Return weights as if every task had adapted its own."""
    generator = rng(5)
    return {
        name: w + 0.1 * torch.randn(w.shape, generator=generator, dtype=w.dtype)
        for name, w in learner.initial_weights(support).items()
    }


def plain_features(learner, weights, x, task):
    """Features of one task, by a copy of the backbone in training mode."""
    backbone = copy.deepcopy(learner.backbone).train()
    own = {n: w[task] for n, w in below("backbone.", weights).items()}
    return functional_call(backbone, own, (x[task],))


@pytest.fixture(params=["loop", "vmap"])
def method(request, monkeypatch):
    monkeypatch.setattr(network, "mapping_method", lambda *_: request.param)
    return request.param


@pytest.mark.parametrize("backbone", [mlp, conv_net], ids=["mlp", "conv"])
def test_outputs_are_those_of_each_tasks_own_net(method, backbone):
    support = make_support((N_FEATURES,) if backbone is mlp else (1, 6, 6))
    learner = make_learner(backbone())
    weights = own_weights(learner, support)
    outputs = learner.outputs(weights, support.x, learner.ways(support))
    for task in range(N_TASKS):
        features = plain_features(learner, weights, support.x, task)
        weight, bias = weights["head.weight"][task], weights["head.bias"][task]
        torch.testing.assert_close(outputs[task], features @ weight.T + bias)


@pytest.mark.parametrize("backbone", [mlp, conv_net], ids=["mlp", "conv"])
def test_weights_that_are_not_given_are_the_learners_own(method, backbone):
    shape = (N_FEATURES,) if backbone is mlp else (1, 6, 6)
    support, learner = make_support(shape), make_learner(backbone())
    weights = own_weights(learner, support)
    same = learner.initial_weights(support)
    ways = learner.ways(support)
    given = {name: same[name] for name in same if name.startswith("backbone.")}
    head = {name: weights[name] for name in weights if name.startswith("head.")}
    expected = learner.outputs(given | head, support.x, ways)
    torch.testing.assert_close(learner.outputs(head, support.x, ways), expected)
    first = next(iter(given))
    some = {n: w for n, w in given.items() if n != first} | head
    torch.testing.assert_close(learner.outputs(some, support.x, ways), expected)


def test_initial_weights_are_named_as_parameters():
    learner, support = make_learner(mlp()), make_support()
    learner.backbone.layers[0].requires_grad_(False)
    weights = learner.initial_weights(support)
    trained = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    assert weights.keys() == trained.keys()
    for name, weight in weights.items():
        assert weight.shape == (N_TASKS, *trained[name].shape)
        assert all(torch.equal(own, trained[name]) for own in weight)


@pytest.mark.parametrize("create_graph", [False, True])
def test_support_gradients_are_each_tasks_own(method, create_graph):
    support, learner = make_support(), make_learner(mlp())
    weights = {n: w.detach() for n, w in own_weights(learner, support).items()}
    ways = learner.ways(support)
    found = learner.support_gradients(weights, support, ways, create_graph=create_graph)
    names = list(weights)
    for task in range(N_TASKS):
        own = {n: w[task].clone().requires_grad_() for n, w in weights.items()}
        features = functional_call(
            learner.backbone, below("backbone.", own), (support.x[task],)
        )
        outputs = features @ own["head.weight"].T + own["head.bias"]
        loss = F.cross_entropy(outputs, support.y[task])
        gradients = torch.autograd.grad(loss, [own[n] for n in names])
        for name, expected in zip(names, gradients, strict=True):
            torch.testing.assert_close(found[name][task], expected)


def test_query_rows_are_normalised_by_the_supports_statistics(method):
    support, learner = make_support((1, 6, 6)), make_learner(conv_net())
    weights = own_weights(learner, support)
    state = learner.state(weights, support, learner.ways(support))
    query = make_support((1, 6, 6)).x.flip(1)[:, :2] * 3
    outputs = learner.predict(state, query)
    for task in range(N_TASKS):
        backbone = copy.deepcopy(learner.backbone)
        own = {n: w[task] for n, w in below("backbone.", weights).items()}
        for layer in backbone.modules():
            if isinstance(layer, TaskBatchNorm):
                layer.momentum = 1.0
                # Running averages take the unbiased variance.
                layer.register_forward_hook(to_biased)
        functional_call(backbone.train(), own, (support.x[task],))
        features = functional_call(backbone.eval(), own, (query[task],))
        weight, bias = weights["head.weight"][task], weights["head.bias"][task]
        torch.testing.assert_close(outputs[task], features @ weight.T + bias)


def to_biased(layer, inputs, output):
    if layer.training:
        n = inputs[0].numel() / inputs[0].shape[1]
        layer.running_var.mul_((n - 1) / n)


def test_support_rows_that_are_queries_keep_their_outputs(method):
    support, learner = make_support((1, 6, 6)), make_learner(conv_net())
    weights, ways = own_weights(learner, support), learner.ways(support)
    state = learner.state(weights, support, ways)
    expected = learner.outputs(weights, support.x, ways)
    torch.testing.assert_close(learner.predict(state, support.x), expected)


def test_support_features_come_with_their_statistics(method):
    support, learner = make_support((1, 6, 6)), make_learner(conv_net())
    weights = below("backbone.", own_weights(learner, support))
    features, statistics = learner.support_features(weights, support.x)
    torch.testing.assert_close(features, learner.features(weights, support.x))
    again = learner.features(weights, support.x, statistics)
    torch.testing.assert_close(features, again)
    learner.transductive = True
    assert learner.support_features(weights, support.x)[1] == {}
    assert learner.support_statistics({}, support.x) == {}


def test_ways_that_a_task_does_not_have():
    n_way = torch.tensor([3, 2, 3])
    support, learner = make_support(n_way=n_way), make_learner(mlp(), None)
    ways = learner.ways(support)
    assert ways.tolist() == [[True] * 3, [True, True, False], [True] * 3]
    outputs = learner.outputs(own_weights(learner, support), support.x, ways)
    assert torch.isneginf(outputs[1, :, 2]).all()
    assert torch.isfinite(outputs[[0, 2]]).all()
    assert torch.isfinite(outputs[1, :, :2]).all()
    assert make_learner(mlp()).ways(support).all()


@pytest.mark.parametrize(
    ("n_outputs", "head", "expected"),
    [
        (3, "auto", LinearHead),
        (3, "fixed", LinearHead),
        (
            None,
            "auto",
            {"shared": SharedHead, "prototype": PrototypeHead}[DEFAULT_HEAD],
        ),
        (None, "fixed", FixedHead),
        (None, "shared", SharedHead),
        (None, "prototype", PrototypeHead),
        (3, "none", type(None)),
    ],
)
def test_which_head(n_outputs, head, expected):
    learner = make_learner(mlp(), n_outputs, head=head, n_ways=5)
    assert type(learner.head) is expected


def test_head_none_leaves_outputs_to_the_backbone():
    support = make_support()
    learner = make_learner(mlp(), 5, head="none")
    weights = learner.initial_weights(support)
    assert all(name.startswith("backbone.") for name in weights)
    outputs = learner.outputs(weights, support.x, learner.ways(support))
    torch.testing.assert_close(outputs, learner.backbone(support.x))


def test_head_none_wants_weights_that_adapt():
    with pytest.raises(ValueError, match=r"head='none'.*none that are trained"):
        make_learner(mlp().requires_grad_(False), 5, head="none")


@pytest.mark.parametrize(
    ("learner", "head"),
    [(MAML, PrototypeHead), (Reptile, FixedHead), (ImplicitMAML, SharedHead)],
)
def test_learners_default_heads_are_their_estimators(learner, head):
    options = {"task_type": "classification", "n_ways": 3}
    assert type(learner(mlp(), 3, None, **options).head) is head
    estimator = getattr(sklmeta, f"{learner.__name__}Classifier")(n_way=3, max_iter=1)
    assert type(estimator.fit(load_digits_pool()[:5]).learner_.head) is head


def test_local_labels_need_the_number_of_ways():
    learner = make_learner(mlp(), None)
    with pytest.raises(ValueError, match=r"n_outputs=None.*needs Rows\.n_way"):
        learner.initial_weights(make_support())


def test_below():
    weights = {"backbone.0.weight": 1, "head.weight": 2, "backbone.bias": 3}
    assert below("backbone.", weights) == {"0.weight": 1, "bias": 3}
