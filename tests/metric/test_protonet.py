"""Prototypical networks against scikit-learn and numpy."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import nn

from sklmeta.backbones import MLP, ConvNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.metric.protonet import ProtoNet

N_WAYS, N_FEATURES = 3, 4


def make_rows(n_tasks=2, n_rows=9, seed=0, n_way=None):
    generator = torch.Generator().manual_seed(seed)
    size = (n_tasks, n_rows, N_FEATURES)
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    y = (torch.arange(n_rows) % N_WAYS).repeat(n_tasks, 1)
    x[..., 0] += y
    return Rows(x, y, torch.ones(n_tasks, n_rows, dtype=torch.bool), n_way)


def identity(**options):
    return ProtoNet(nn.Flatten(), N_WAYS, **options).eval()


def outputs(learner, support, query):
    with torch.no_grad():
        return learner.predict(learner.adapt(support), query.x)


def test_identity_embedding_is_nearest_centroid():
    support, query = make_rows(), make_rows(n_rows=60, seed=1)
    logits = outputs(identity(), support, query)
    for task in range(2):
        model = NearestCentroid().fit(support.x[task], support.y[task])
        state = identity().adapt(support)
        np.testing.assert_allclose(state["prototypes"][task], model.centroids_)
        expected = model.predict(query.x[task].numpy())
        np.testing.assert_array_equal(logits[task].argmax(-1), expected)


def centroids(support, task):
    x, y = support.x[task].numpy(), support.y[task].numpy()
    return np.stack([x[y == way].mean(0) for way in range(N_WAYS)])


def softmax(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [None, 2.5])
def test_probabilities_are_softmax_of_squared_distances(temperature):
    support, query = make_rows(), make_rows(seed=1)
    found = outputs(identity(temperature=temperature), support, query).softmax(-1)
    for task in range(2):
        offsets = query.x[task].numpy()[:, None] - centroids(support, task)
        expected = softmax(-(offsets**2).sum(-1) / (temperature or 1.0))
        np.testing.assert_allclose(found[task], expected, rtol=1e-10)


@pytest.mark.parametrize("temperature", [None, 2.5])
def test_probabilities_are_softmax_of_cosine_distances(temperature):
    support, query = make_rows(), make_rows(seed=1)
    learner = identity(metric="cosine", temperature=temperature)
    found = outputs(learner, support, query).softmax(-1)
    for task in range(2):
        a, b = query.x[task].numpy(), centroids(support, task)
        lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
        expected = softmax((a @ b.T / lengths - 1) / (temperature or 0.1))
        np.testing.assert_allclose(found[task], expected, rtol=1e-10)


def test_options_act_when_adapting():
    support, query = make_rows(), make_rows(seed=1)
    view = identity().with_options(metric="cosine", temperature=0.3)
    expected = identity(metric="cosine", temperature=0.3)
    found = outputs(view, support, query)
    assert torch.equal(found, outputs(expected, support, query))


def test_absent_class_has_probability_zero_and_no_loss():
    support, query = make_rows(), make_rows(seed=1)
    support.mask[1] = support.y[1] != 2
    logits = outputs(identity(), support, query)
    assert torch.isneginf(logits[1, :, 2]).all() and torch.isfinite(logits[0]).all()
    loss = identity().meta_loss(Episodes(support, query))
    answerable = query.y[1] != 2
    p = logits[1].log_softmax(-1)[answerable, query.y[1][answerable]]
    torch.testing.assert_close(loss[1], -p.mean())


def test_task_without_answerable_rows_has_zero_loss_and_finite_gradient():
    learner = ProtoNet(MLP(N_FEATURES, (5,)), N_WAYS).double()
    support, query = make_rows(), make_rows(seed=1)
    support.mask[0] = support.y[0] == 0
    query.mask[0] = query.y[0] != 0
    loss = learner.meta_loss(Episodes(support, query))
    assert loss[0] == 0 and loss[1] > 0
    loss.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in learner.parameters())


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_order_of_support_rows_does_not_matter(metric):
    support, query = make_rows(), make_rows(seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = Rows(support.x[:, order], support.y[:, order], support.mask[:, order])
    learner = identity(metric=metric)
    torch.testing.assert_close(
        outputs(learner, support, query), outputs(learner, moved, query)
    )


def test_local_labels_have_as_many_ways_as_the_task():
    n_way = torch.tensor([3, 2])
    support, query = make_rows(n_way=n_way), make_rows(seed=1, n_way=n_way)
    support.y[1] %= 2
    learner = ProtoNet(nn.Flatten(), None)
    logits = outputs(learner, support, query)
    assert logits.shape == (2, 9, 3)
    assert torch.isneginf(logits[1, :, 2]).all()
    with pytest.raises(ValueError, match=r"needs Rows\.n_way"):
        learner.adapt(make_rows())


def test_meta_loss_is_the_query_loss_of_predict():
    learner = ProtoNet(MLP(N_FEATURES, (5,)), N_WAYS).double()
    support, query = make_rows(), make_rows(seed=1)
    expected = learner.loss(outputs(learner, support, query), query)
    torch.testing.assert_close(learner.meta_loss(Episodes(support, query)), expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("backbone", ["mlp", "conv"])
def test_padding_and_company_change_nothing(backbone, training):
    support, query = make_rows(3, 6), make_rows(3, 6, seed=1)
    module = MLP(N_FEATURES, (5,))
    if backbone == "conv":
        module = ConvNet((1, 2, 2), 3, 2)
        support, query = (
            Rows(r.x.unflatten(2, (1, 2, 2)), r.y, r.mask) for r in (support, query)
        )
    learner = ProtoNet(module, N_WAYS).double().train(training)
    support.mask[0, 3:] = query.mask[2, 4:] = False
    support.x[0, 3:] = query.x[2, 4:] = 1e3
    episodes = Episodes(support, query)
    together = sum(
        learner.meta_loss(part).sum()
        for part in episodes.parts(None, equal_rows=learner.needs_equal_rows)
    )
    alone = sum(
        learner.meta_loss(episodes[t : t + 1].trimmed()).sum() for t in range(3)
    )
    torch.testing.assert_close(together, alone)
    weights = list(learner.parameters())
    for one, other in zip(
        torch.autograd.grad(together, weights),
        torch.autograd.grad(alone, weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_running_averages_move_in_training_and_are_used_afterwards():
    learner = ProtoNet(ConvNet((1, 2, 2), 3, 1), N_WAYS).double().train()
    rows = make_rows()
    rows = Rows(rows.x.unflatten(2, (1, 2, 2)) + 5, rows.y, rows.mask)
    before = {n: b.clone() for n, b in learner.named_buffers()}
    learner.meta_loss(Episodes(rows, rows))
    assert all(not torch.equal(b, before[n]) for n, b in learner.named_buffers())
    learner.eval()
    with torch.no_grad():
        state = learner.adapt(rows)
        batch, fewer = (learner.predict(state, x) for x in (rows.x, rows.x[:, :1]))
    torch.testing.assert_close(batch[:, :1], fewer)


# Covariances, as in Simple CNAPS, and a learned temperature.


def shrunk_covariances(support, task, floor):
    """Equation 2 of Bateni et al. 2020, class by class in numpy."""
    x, y = support.x[task].numpy(), support.y[task].numpy()
    mask = support.mask[task].numpy()
    x, y = x[mask], y[mask]
    of_task = np.cov(x.T)
    for way in range(N_WAYS):
        own = x[y == way]
        of_class = np.cov(own.T) if len(own) > 1 else np.zeros_like(of_task)
        share = len(own) / (len(own) + 1)
        yield share * of_class + (1 - share) * of_task + floor * np.eye(N_FEATURES)


def test_mahalanobis_distances_are_those_of_simple_cnaps():
    support, query = make_rows(n_rows=12), make_rows(seed=1)
    support.mask[1] = support.y[1] != 2
    support.mask[1, 2] = True  # a class with one row
    support.x[1, 5] = 1e3  # of padding
    learner = identity(metric="mahalanobis", covariance_floor=0.3)
    logits = outputs(learner, support, query)
    for task in range(2):
        covariances = shrunk_covariances(support, task, 0.3)
        for way, covariance in enumerate(covariances):
            own = support.mask[task] & (support.y[task] == way)
            offsets = (query.x[task] - support.x[task][own].mean(0)).numpy()
            solved = np.linalg.solve(covariance, offsets.T).T
            expected = -0.5 * (offsets * solved).sum(1)
            np.testing.assert_allclose(logits[task, :, way], expected, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e12])
def test_covariances_of_few_rows_are_those_of_features_of_any_scale(scale):
    # Fewer rows than features: a covariance without a floor is singular.
    x, y = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0)), [0, 1, 2]
    support = Rows(scale * x, torch.tensor([2 * y]), torch.ones(1, 6).bool())
    learner = identity(metric="mahalanobis", covariance_floor=1e-3 * scale**2)
    found = outputs(learner, support, support)
    assert found.dtype == torch.float32
    unscaled = identity(metric="mahalanobis", covariance_floor=1e-3)
    rows = Rows(x.double(), support.y, support.mask)
    expected = outputs(unscaled, rows, rows)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)
    tiny = identity(metric="mahalanobis", covariance_floor=1e-3)
    assert torch.isfinite(outputs(tiny, support, support)).all()


def test_one_row_in_all_has_a_covariance():
    support = make_rows(1, 1)
    logits = outputs(identity(metric="mahalanobis"), support, make_rows(1, seed=1))
    assert torch.isfinite(logits[..., 0]).all() and torch.isneginf(logits[..., 1]).all()


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "mahalanobis"])
def test_gradients_of_the_meta_loss(metric):
    learner = ProtoNet(
        nn.Linear(N_FEATURES, 3), N_WAYS, metric=metric, learn_temperature=True
    ).double()
    episodes = Episodes(make_rows(), make_rows(seed=1))
    names, weights = zip(*learner.named_parameters(), strict=True)
    assert "log_temperature_factor" in names

    def loss(*values):
        own = dict(zip(names, values, strict=True))
        return torch.func.functional_call(_Loss(learner), _prefixed(own), (episodes,))

    assert torch.autograd.gradcheck(loss, weights)


class _Loss(nn.Module):
    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, episodes):
        return self.learner.meta_loss(episodes)


def _prefixed(weights):
    return {f"learner.{name}": value for name, value in weights.items()}


def test_learned_temperature_multiplies_the_given_one():
    support, query = make_rows(), make_rows(seed=1)
    learner = identity(temperature=2.5, learn_temperature=True)
    before = outputs(learner, support, query)
    torch.testing.assert_close(
        before, outputs(identity(temperature=2.5), support, query)
    )
    with torch.no_grad():
        learner.log_temperature_factor.fill_(np.log(4.0))
    torch.testing.assert_close(outputs(learner, support, query), before / 4)
