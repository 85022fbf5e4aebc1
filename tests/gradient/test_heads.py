"""Heads for local labels: where they start, and what they must not depend on."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.neighbors import NearestCentroid
from torch import nn

from sklmeta import ClassPool, MAMLClassifier, TaskSet
from sklmeta.backbones import MLP, ConvNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec
from sklmeta.engine.pool import RowPool
from sklmeta.gradient import MAML
from sklmeta.gradient.heads import FixedHead, Head
from sklmeta.model_selection import evaluate
from sklmeta.tasks import Task

HEADS = ["fixed", "shared", "prototype"]
N_TASKS, N_SUPPORT, N_QUERY, N_FEATURES, MOST_WAYS = 4, 12, 5, 3, 4


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp():
    return MLP(N_FEATURES, (8, 6), generator=rng(1))


def conv_net():
    return ConvNet((1, 6, 6), 4, 2, "pool", generator=rng(1))


def make_episodes(shape=(N_FEATURES,), n_ways=(4, 3, 2, 4), seed=0):
    """Return tasks of different ways; without batch normalisation ragged ones."""
    generator = rng(seed)
    n_way, parts = torch.tensor(n_ways), []
    for n_rows in (N_SUPPORT, N_QUERY):
        size = (len(n_ways), n_rows, *shape)
        x = torch.randn(size, generator=generator, dtype=torch.float64)
        y = torch.arange(n_rows) % n_way[:, None]
        mask = torch.ones(len(n_ways), n_rows, dtype=torch.bool)
        if len(shape) == 1:
            mask[0, -3:] = False
        parts.append(Rows(x, y, mask, n_way))
    return Episodes(*parts)


def make_learner(head, backbone=None, **options):
    backbone = mlp() if backbone is None else backbone
    options = {"inner_lr": 0.3, "inner_steps": 2, **options}
    learner = MAML(
        backbone,
        backbone.out_features,
        None,
        task_type="classification",
        head=head,
        n_ways=MOST_WAYS,
        generator=rng(2),
        **options,
    )
    return learner.double().eval()


def answers(learner, episodes):
    with torch.no_grad():
        state = learner.adapt(episodes.support)
        return learner.predict(state, episodes.query.x)


def renamed(rows, order):
    """Return the same rows, way `w` called `order[w]`."""
    return Rows(rows.x, order[rows.y], rows.mask, rows.n_way)


# Shared --------------------------------------------------------------------------


class CommonVector(Head):
    """The shared head with the vector that it leaves out."""

    def __init__(self, n_features):
        super().__init__()
        draw = {"generator": rng(5), "dtype": torch.float64}
        self.vector = 3 * torch.randn(n_features, **draw)
        self.offset = torch.randn((), **draw)

    def start(self, support, features):
        shape = len(support), int(support.n_way.max())
        weight = self.vector.expand(*shape, -1)
        return {"weight": weight, "bias": self.offset.expand(shape)}


@pytest.mark.parametrize("backbone", [mlp, conv_net], ids=["mlp", "conv"])
@pytest.mark.parametrize("inner_steps", [0, 1, 2, 10])
def test_a_vector_that_all_ways_share_cancels(backbone, inner_steps):
    n_ways = (4, 3, 2, 4) if backbone is mlp else (4, 4, 4, 4)
    shape = (N_FEATURES,) if backbone is mlp else (1, 6, 6)
    episodes = make_episodes(shape, n_ways)
    zero = make_learner("shared", backbone(), inner_steps=inner_steps)
    common = copy.deepcopy(zero)
    common.head = CommonVector(zero.n_features)
    found, expected = (
        torch.softmax(answers(one, episodes), -1) for one in (common, zero)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(
            one.meta_loss(episodes).sum(),
            list(one.backbone.parameters()),
            materialize_grads=True,
        )
        for one in (common, zero)
    ]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_shared_has_nothing_to_learn():
    assert not list(make_learner("shared").head.parameters())


# Prototype -----------------------------------------------------------------------


def test_prototypes_before_adaptation_are_nearest_class_means():
    learner = make_learner("prototype", Smooth(), inner_steps=0)
    episodes = make_episodes()
    support, query = episodes.support, episodes.query
    outputs = answers(learner, episodes)
    with torch.no_grad():
        features = learner.backbone(support.x).numpy()
        query_features = learner.backbone(query.x).numpy()
    for task in range(N_TASKS):
        own = support.mask[task].numpy()
        nearest = NearestCentroid().fit(
            features[task][own], support.y[task].numpy()[own]
        )
        expected = nearest.predict(query_features[task])
        assert outputs[task].argmax(-1).tolist() == expected.tolist()
        gaps = query_features[task][:, None] - nearest.centroids_
        n_way = int(support.n_way[task])
        found = torch.softmax(outputs[task, :, :n_way], -1)
        squares = torch.from_numpy((gaps**2).sum(-1)) / learner.n_features**0.5
        by_distance = torch.softmax(-squares, -1)
        torch.testing.assert_close(found, by_distance)


def test_prototypes_of_convolutions_are_those_of_support_statistics():
    learner = make_learner("prototype", conv_net(), inner_steps=0)
    episodes = make_episodes((1, 6, 6), (2, 2))
    support = episodes.support
    outputs = answers(learner, episodes)
    for task in range(2):
        backbone = copy.deepcopy(learner.backbone)
        for layer in backbone.modules():
            if hasattr(layer, "momentum"):
                layer.momentum = 1.0  # running averages become those of one batch
        with torch.no_grad():
            features = backbone.train()(support.x[task])
        start = learner.initial_head(support[task : task + 1])
        for way in range(2):
            mean = features[support.y[task] == way].mean(0)
            weight, bias = start["head.weight"][0, way], start["head.bias"][0, way]
            width = len(mean) ** 0.5
            torch.testing.assert_close(weight, 2 * mean / width)
            torch.testing.assert_close(bias, -mean.square().sum() / width)
    assert torch.isfinite(outputs).all()


def finite_difference(learner, loss, direction, step):
    """Derivative along a direction by the fourth-order central stencil."""
    total = 0.0
    for factor, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
        moved = copy.deepcopy(learner)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), direction, strict=True):
                p.add_(d, alpha=factor * step)
            total += weight * loss(moved)
    return total / (12 * step)


def assert_gradient(learner, loss, gradient, step=1e-3):
    generator = rng(7)
    parameters = list(learner.parameters())
    for which in (None, None, *range(len(parameters))):
        direction = [
            torch.randn(p.shape, generator=generator, dtype=p.dtype)
            * (which is None or i == which)
            for i, p in enumerate(parameters)
        ]
        expected = finite_difference(learner, loss, direction, step)
        found = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


class Smooth(nn.Sequential):
    """A backbone without kinks, which finite differences could step over."""

    out_features = 5

    def __init__(self):
        super().__init__(nn.Linear(N_FEATURES, 7), nn.Tanh(), nn.Linear(7, 5))
        for p in self.parameters():
            nn.init.uniform_(p, -0.8, 0.8, generator=rng(4))


@pytest.mark.parametrize("inner_steps", [0, 1, 3])
@pytest.mark.parametrize("head", HEADS)
def test_meta_gradients_through_heads(head, inner_steps):
    learner = make_learner(head, Smooth(), inner_steps=inner_steps)
    episodes = make_episodes()

    def loss(one):
        return one.meta_loss(episodes).sum()

    gradient = torch.autograd.grad(
        loss(learner), list(learner.parameters()), materialize_grads=True
    )
    assert_gradient(learner, loss, gradient)


def test_first_order_still_learns_through_prototypes():
    """The steps are taken for constants; where they start from is not."""
    learner = make_learner("prototype", Smooth(), inner_steps=3, first_order=True)
    episodes = make_episodes()
    support, query = episodes.support, episodes.query
    with torch.no_grad():
        adapted = learner.adapt(support)["parameters"]
        start = learner.initial_weights(support)
        moves = {name: adapted[name] - start[name] for name in start}

    def loss(one):
        weights = one.initial_weights(support)
        weights = {name: weight + moves[name] for name, weight in weights.items()}
        return one.loss(one.outputs(weights, query.x, one.ways(support)), query).sum()

    found = torch.autograd.grad(
        learner.meta_loss(episodes).sum(), list(learner.parameters())
    )
    assert_gradient(learner, loss, found)


# Fixed ---------------------------------------------------------------------------


def ways_of_classes(pool, spec, n_episodes=3000):
    """Return how often each class of a pool came at each way, (classes, ways)."""
    sampler = EpisodeSampler(pool, spec)
    index = sampler.draw(n_episodes, rng(11))
    counts = np.zeros((int(pool.y.max()) + 1, int(index.n_way.max())))
    rows, ways = index.support, index.support_way
    for classes, way, mask in zip(pool.y[rows], ways, index.support_mask, strict=True):
        pairs = torch.stack([classes[mask], way[mask]], 1).unique(dim=0)
        counts[tuple(pairs.T.numpy())] += 1
    return counts


def assert_uniform(counts):
    """Every class comes at every way equally often, by a chi-squared test."""
    for own in counts:
        assert own.sum() > 100
        assert stats.chisquare(own).pvalue > 1e-3


@pytest.mark.parametrize("options", [{}, {"n_way": 3}, {"support_order": "first"}])
def test_classes_of_a_pool_come_at_every_way(options):
    pool = RowPool.from_classes(torch.rand(36, 2), np.arange(0, 37, 6), list("abcdef"))
    spec = EpisodeSpec(n_shot=2, n_query=1, per_class=True, **options)
    assert_uniform(ways_of_classes(pool, spec))


@pytest.mark.parametrize("n_way", [None, 3, (2, 3)])
@pytest.mark.parametrize("fixed_support", [False, True])
def test_classes_of_a_task_come_at_every_way(n_way, fixed_support):
    y = torch.arange(4).repeat(6)  # two tasks of four classes
    y = torch.cat([y, y + 4])
    support = (torch.arange(48) % 24 < 8) if fixed_support else None
    pool = RowPool(torch.rand(48, 2), y, [0, 24, 48], names=["a", "b"], support=support)
    spec = EpisodeSpec(n_shot=2, n_query=1, n_way=n_way, per_class=True)
    counts = ways_of_classes(pool, spec)
    # With 2 or 3 ways the last way comes less often, for all classes alike.
    for way in counts.T:
        assert stats.chisquare(way).pvalue > 1e-3
    if n_way != (2, 3):
        assert_uniform(counts)


def test_fixed_draws_the_order_in_training_only():
    learner, episodes = make_learner("fixed"), make_episodes()
    with torch.no_grad():
        start = learner.train().initial_head(episodes.support)["head.weight"]
        assert torch.equal(start, learner.head.weight.expand_as(start))
        start = learner.eval().initial_head(episodes.support)["head.weight"]
    n_ways = episodes.support.n_way.tolist()
    orders = [
        [(learner.head.weight == vector).all(1).nonzero().item() for vector in own[:n]]
        for own, n in zip(start, n_ways, strict=True)
    ]
    # A task of n ways uses the first n vectors, each once.
    assert [sorted(order) for order in orders] == [list(range(n)) for n in n_ways]
    assert any(order != sorted(order) for order in orders)


def test_fixed_refuses_more_ways():
    learner = make_learner("fixed")
    assert learner.most_ways == MOST_WAYS
    with pytest.raises(ValueError, match=r"a task has 5 classes.*at most 4"):
        learner.adapt(make_episodes(n_ways=(5, 2)).support)
    for head in ("shared", "prototype"):
        learner = make_learner(head)
        assert learner.most_ways is None
        assert answers(learner, make_episodes(n_ways=(5, 2))).shape[-1] == 5


def test_fixed_needs_the_number_of_ways():
    with pytest.raises(ValueError, match="needs n_ways"):
        MAML(mlp(), 6, None, task_type="classification", head="fixed")


def test_initial_weights_are_those_of_a_linear_layer():
    head = FixedHead(25, 200, rng())
    for parameter in head.parameters():
        assert parameter.abs().max() <= 0.2
        assert parameter.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.1)


# All of them ---------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_names_of_ways_do_not_matter(head):
    learner, episodes = make_learner(head), make_episodes(n_ways=(4, 4))
    order = torch.tensor([2, 0, 3, 1])
    expected = answers(learner, episodes)
    support = renamed(episodes.support, order)
    found = answers(learner, Episodes(support, episodes.query))
    torch.testing.assert_close(found[..., order], expected)


@pytest.mark.parametrize("head", HEADS)
def test_order_of_rows_does_not_matter(head):
    learner, episodes = make_learner(head), make_episodes()
    support = episodes.support
    order = torch.randperm(N_SUPPORT, generator=rng(3))
    shuffled = Rows(
        support.x[:, order],
        support.y[:, order],
        support.mask[:, order],
        support.n_way,
    )
    found = answers(learner, Episodes(shuffled, episodes.query))
    torch.testing.assert_close(found, answers(learner, episodes))


@pytest.mark.parametrize("head", HEADS)
def test_other_tasks_and_padding_do_not_matter(head):
    learner, episodes = make_learner(head), make_episodes()
    episodes.support.x[~episodes.support.mask] = 1e3
    together = answers(learner, episodes)
    for task in range(N_TASKS):
        one = episodes[task : task + 1].trimmed()
        alone = answers(learner, one)[0]
        n_query, n_way = alone.shape
        torch.testing.assert_close(together[task, :n_query, :n_way], alone)
        assert torch.isneginf(together[task, :, n_way:]).all()


@pytest.mark.parametrize("head", HEADS)
def test_classes_with_the_same_rows(head):
    learner, episodes = make_learner(head), make_episodes(n_ways=(2, 4))
    support = episodes.support
    support.x[:] = support.x[:, :1]  # every row of every class
    outputs = answers(learner, episodes)
    assert torch.isfinite(outputs[1]).all()
    if head != "fixed":  # whose vectors cannot be the same for both
        torch.testing.assert_close(outputs[1, :, :1].expand(-1, 4), outputs[1])


def test_unknown_heads_are_refused():
    with pytest.raises(ValueError, match=r"head must be one of.*'protoype'"):
        make_learner("protoype")


# The estimator -------------------------------------------------------------------

WORDS = np.array(["yew", "ash", "oak", "elm"], dtype=object)


def make_tasks(n_tasks, n_ways, seed, n_rows=8):
    random = np.random.default_rng(seed)
    tasks = []
    for i in range(n_tasks):
        y = np.arange(n_rows * n_ways) % n_ways
        centres = 2 * random.normal(size=(n_ways, N_FEATURES))
        X = centres[y] + random.normal(size=(len(y), N_FEATURES))
        tasks.append(Task(X, y, f"site {seed}-{i}"))
    return TaskSet(tasks, labels="local")


@pytest.fixture(scope="module", params=HEADS)
def meta(request):
    return MAMLClassifier(
        head=request.param, inner_steps=2, max_iter=30, random_state=0, device="cpu"
    ).fit(make_tasks(20, 4, seed=0))


def test_predictions_depend_on_rows_alone(meta):
    task = make_tasks(1, 4, seed=1)[0]
    X, y, new = task.X[:20], task.y[:20], task.X[20:]
    expected = meta.adapt(X, y).predict(new)
    for seed in range(3):
        random = np.random.default_rng(seed)
        order, names = random.permutation(20), random.permutation(WORDS)
        adapted = meta.adapt(X[order], names[y[order]])
        assert adapted.predict(new).tolist() == names[expected].tolist()


def test_more_ways_than_meta_trained(meta):
    new = make_tasks(3, 6, seed=2)
    tasks = make_tasks(2, 4, seed=3) + new[1:2]
    pool = ClassPool(new[0].X, new[0].y)
    calls = {
        "y_support": lambda: meta.adapt(new[0].X, new[0].y),
        "task 'site 2-1'": lambda: meta.predict_tasks(
            list(tasks), [task.X[:2] for task in tasks]
        ),
        "task 'site 2-1',": lambda: meta.score(tasks),
        "task 'site 2-1' .episode": lambda: evaluate(meta, tasks, n_shot=2),
        "episode 0 of the ClassPool": lambda: evaluate(meta, pool, n_way=6),
    }
    for where, call in calls.items():
        if meta.head != "fixed":
            call()
            continue
        message = f"^Got 6 classes in {where}.* at most 4.*n_way=6.*'shared'"
        with pytest.raises(ValueError, match=message):
            call()


def test_fewer_ways_than_meta_trained(meta):
    tasks = make_tasks(40, 2, seed=4)
    assert meta.score(tasks) > 0.6
    adapted = meta.adapt(tasks[0].X, tasks[0].y)
    assert adapted.predict_proba(tasks[0].X).shape == (16, 2)


def test_identical_rows_in_two_classes(meta):
    X = np.tile(make_tasks(1, 4, seed=5)[0].X[:3], (2, 1))
    adapted = meta.adapt(X, [0, 0, 0, 1, 1, 1])
    assert np.isfinite(adapted.predict_proba(X)).all()
    assert set(adapted.predict(X)) <= {0, 1}
