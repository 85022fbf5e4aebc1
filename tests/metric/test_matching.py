"""Matching networks against numpy, and against prototypical networks."""

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import ClassPool, MatchingNetClassifier, TaskSet
from sklmeta.backbones import MLP, ConvNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.mapping import tasks_per_pass
from sklmeta.metric.matching import MatchingNet
from sklmeta.metric.protonet import ProtoNet

N_WAYS, N_FEATURES = 3, 4
METRICS = ["cosine", "sqeuclidean"]
CONTEXT = [False, True]


def make_rows(n_tasks=2, n_rows=9, seed=0, n_way=None):
    generator = torch.Generator().manual_seed(seed)
    size = (n_tasks, n_rows, N_FEATURES)
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    y = (torch.arange(n_rows) % N_WAYS).repeat(n_tasks, 1)
    x[..., 0] += y
    return Rows(x, y, torch.ones(n_tasks, n_rows, dtype=torch.bool), n_way)


def identity(context=False, **options):
    generator = torch.Generator().manual_seed(0)
    width = N_FEATURES if context else None
    options = {"n_context": width, "generator": generator, **options}
    return MatchingNet(nn.Flatten(), N_WAYS, **options).double().eval()


def outputs(learner, support, query):
    with torch.no_grad():
        return learner.predict(learner.adapt(support), query.x)


def attention(query, support, metric, temperature):
    if metric == "cosine":
        lengths = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(
            support, axis=1
        )
        scores = query @ support.T / lengths
    else:
        scores = -((query[:, None] - support) ** 2).sum(-1)
    scores = scores / temperature
    a = np.exp(scores - scores.max(1, keepdims=True))
    return a / a.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [None, 2.5])
@pytest.mark.parametrize("metric", METRICS)
def test_probabilities_are_sums_of_attention(metric, temperature):
    support, query = make_rows(), make_rows(n_rows=20, seed=1)
    learner = identity(metric=metric, temperature=temperature)
    found = outputs(learner, support, query).softmax(-1)
    used = temperature or {"cosine": 0.1, "sqeuclidean": 1.0}[metric]
    for task in range(2):
        a = attention(query.x[task].numpy(), support.x[task].numpy(), metric, used)
        expected = a @ np.eye(N_WAYS)[support.y[task]]
        np.testing.assert_allclose(found[task], expected, rtol=1e-9)


def test_one_row_per_class_is_a_prototypical_network():
    support, query = make_rows(n_rows=N_WAYS), make_rows(n_rows=20, seed=1)
    found = outputs(identity(metric="sqeuclidean"), support, query)
    prototypes = ProtoNet(nn.Flatten(), N_WAYS)
    assert torch.equal(found, outputs(prototypes, support, query))


def test_ways_whose_attention_underflows_have_finite_logits():
    support, query = make_rows(), make_rows(seed=1)
    learner = identity(metric="sqeuclidean", temperature=1e-4)
    logits = outputs(learner, support, query)
    assert torch.isfinite(logits).all() and logits.min() < -1e4


@pytest.mark.parametrize("metric", METRICS)
def test_outputs_with_and_without_gradients_agree(metric):
    support, query = make_rows(), make_rows(seed=1)
    for rows in (support, query):
        rows.x.add_(50.0)  # far from 0, matrix products lose digits
    learner = identity(metric=metric)
    with torch.enable_grad():
        found = learner.predict(learner.adapt(support), query.x)
    torch.testing.assert_close(found, outputs(learner, support, query))


@pytest.mark.parametrize("context", CONTEXT)
@pytest.mark.parametrize("metric", METRICS)
def test_meta_gradient_is_that_of_finite_differences(metric, context):
    generator = torch.Generator().manual_seed(1)
    backbone = MLP(N_FEATURES, (3,), generator=generator)
    learner = MatchingNet(
        backbone,
        N_WAYS,
        metric=metric,
        learn_temperature=True,
        n_context=3 if context else None,
        n_processing_steps=2,
        generator=generator,
    ).double()
    support, query = make_rows(), make_rows(seed=1)
    support.mask[1] = support.y[1] != 2  # a class is missing, rows are padding
    episodes = Episodes(support, query)
    weights = list(learner.parameters())
    found = torch.autograd.grad(learner.meta_loss(episodes).sum(), weights)
    for weight, gradient in zip(weights, found, strict=True):
        flat = weight.detach().view(-1)
        places = torch.randperm(len(flat), generator=generator)[:6]
        for place in places.tolist():
            expected = _difference(learner, episodes, flat, place)
            torch.testing.assert_close(
                gradient.flatten()[place], expected, rtol=1e-6, atol=1e-9
            )


def _difference(learner, episodes, flat, place, step=2e-4):
    """Return a derivative by the fourth-order stencil."""
    start, total = flat[place].clone(), 0.0
    for shift, factor in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
        flat[place] = start + shift * step
        with torch.no_grad():
            total = total + factor * learner.meta_loss(episodes).sum()
    flat[place] = start
    return total / (12 * step)


def test_options_act_when_adapting():
    support, query = make_rows(), make_rows(seed=1)
    view = identity().with_options(metric="sqeuclidean", temperature=0.3)
    expected = identity(metric="sqeuclidean", temperature=0.3)
    found = outputs(view, support, query)
    assert torch.equal(found, outputs(expected, support, query))


@pytest.mark.parametrize("context", CONTEXT)
@pytest.mark.parametrize("metric", METRICS)
def test_absent_class_has_probability_zero_and_no_loss(metric, context):
    support, query = make_rows(), make_rows(seed=1)
    support.mask[1] = support.y[1] != 2
    learner = identity(context, metric=metric)
    logits = outputs(learner, support, query)
    assert torch.isneginf(logits[1, :, 2]).all() and torch.isfinite(logits[0]).all()
    loss = learner.meta_loss(Episodes(support, query))
    answerable = query.y[1] != 2
    p = logits[1].log_softmax(-1)[answerable, query.y[1][answerable]]
    torch.testing.assert_close(loss[1], -p.mean())


@pytest.mark.parametrize("context", CONTEXT)
def test_task_without_answerable_rows_has_zero_loss_and_finite_gradient(context):
    learner = identity(context, learn_temperature=True).train()
    support, query = make_rows(), make_rows(seed=1)
    support.mask[0] = support.y[0] == 0
    query.mask[0] = query.y[0] != 0
    loss = learner.meta_loss(Episodes(support, query))
    assert loss[0] == 0 and loss[1] > 0
    loss.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in learner.parameters())


@pytest.mark.parametrize("context", CONTEXT)
@pytest.mark.parametrize("metric", METRICS)
def test_order_of_support_rows_does_not_matter(metric, context):
    support, query = make_rows(), make_rows(seed=1)
    support.x[:, 3] = support.x[:, 1]  # of another class
    assert (support.y[:, 3] != support.y[:, 1]).all()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = Rows(support.x[:, order], support.y[:, order], support.mask[:, order])
    learner = identity(context, metric=metric)
    torch.testing.assert_close(
        outputs(learner, support, query), outputs(learner, moved, query)
    )


@pytest.mark.parametrize("context", CONTEXT)
@pytest.mark.parametrize("metric", METRICS)
def test_query_rows_do_not_influence_one_another(metric, context):
    support, query = make_rows(), make_rows(n_rows=20, seed=1)
    learner = identity(context, metric=metric)
    state = learner.adapt(support)
    with torch.no_grad():
        together = learner.predict(state, query.x)
        alone = learner.predict(state, query.x[:, :1])
    torch.testing.assert_close(together[:, :1], alone)


def test_local_labels_have_as_many_ways_as_the_task():
    n_way = torch.tensor([3, 2])
    support, query = make_rows(n_way=n_way), make_rows(seed=1, n_way=n_way)
    support.y[1] %= 2
    learner = MatchingNet(nn.Flatten(), None)
    logits = outputs(learner, support, query)
    assert logits.shape == (2, 9, 3)
    assert torch.isneginf(logits[1, :, 2]).all()
    with pytest.raises(ValueError, match=r"needs Rows\.n_way"):
        learner.adapt(make_rows())


@pytest.mark.parametrize("context", CONTEXT)
@pytest.mark.parametrize("backbone", ["mlp", "conv"])
def test_padding_and_company_change_nothing(backbone, context):
    support, query = make_rows(3, 6), make_rows(3, 6, seed=1)
    module = MLP(N_FEATURES, (5,))
    if backbone == "conv":
        module = ConvNet((1, 2, 2), 5, 2)
        support, query = (
            Rows(r.x.unflatten(2, (1, 2, 2)), r.y, r.mask) for r in (support, query)
        )
    width = 5 if context else None
    learner = MatchingNet(module, N_WAYS, n_context=width).double().train()
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


def test_context_does_not_force_tasks_apart():
    assert tasks_per_pass(identity(context=True), torch.device("cpu")) is None


def test_blocks_of_query_rows_change_nothing(monkeypatch):
    support, query = make_rows(), make_rows(n_rows=20, seed=1)
    learner = identity(context=True)
    want = outputs(learner, support, query)
    monkeypatch.setattr("sklmeta.metric.matching.PAIRS_PER_BLOCK", 40)
    torch.testing.assert_close(outputs(learner, support, query), want)


# The estimator ---------------------------------------------------------------------


def small(input_shape):
    return MLP(input_shape[0], (8,))


def make_tasks(n_tasks=8, labels="shared", seed=0):
    rng = np.random.default_rng(seed)
    y = np.tile(np.arange(3), 6)
    pairs = [
        (rng.normal(size=(18, N_FEATURES)) + y[:, None], y) for _ in range(n_tasks)
    ]
    return TaskSet(pairs, labels=labels)


@pytest.mark.parametrize("context", CONTEXT)
def test_shared_labels_with_a_class_missing(context):
    tasks = make_tasks()
    meta = MatchingNetClassifier(small, context_embeddings=context, max_iter=2)
    task, kept = tasks[0], tasks[0].y != 1
    adapted = meta.fit(tasks).adapt(task.X[kept], task.y[kept])
    proba = adapted.predict_proba(task.X)
    assert proba.shape == (18, 3)
    assert (proba[:, 1] == 0).all()
    np.testing.assert_allclose(proba.sum(1), 1)


@pytest.mark.parametrize("context", CONTEXT)
def test_one_class_has_probability_one(context):
    tasks = make_tasks(labels="local")
    meta = MatchingNetClassifier(small, context_embeddings=context, max_iter=2)
    adapted = meta.fit(tasks).adapt(tasks[0].X[:1], ["only"])
    assert (adapted.predict_proba(tasks[0].X) == 1).all()
    assert set(adapted.predict(tasks[0].X)) == {"only"}


def test_image_of_another_size_is_refused():
    rng = np.random.default_rng(0)
    pool = ClassPool(rng.random((30, 8, 8)), np.repeat(range(6), 5))
    meta = MatchingNetClassifier("identity", n_way=2, n_shot=2).fit(pool)
    adapted = meta.adapt(pool.X[:10], pool.y[:10])
    with pytest.raises(ValueError, match=r"shape \(9, 9\)"):
        adapted.predict(rng.random((2, 9, 9)))


@pytest.mark.parametrize("context", CONTEXT)
@pytest.mark.parametrize("metric", METRICS)
def test_thousands_of_support_rows(metric, context):
    rng = np.random.default_rng(0)
    y = np.repeat(range(3), 3000 if not context else 1000)
    X = rng.normal(size=(len(y), N_FEATURES)) + 3 * y[:, None]
    meta = MatchingNetClassifier(
        "identity", metric=metric, context_embeddings=context, max_iter=1
    )
    adapted = meta.fit(make_tasks(labels="local")).adapt(X, y)
    assert np.isfinite(adapted.predict_proba(X[::50])).all()
    if metric == "sqeuclidean" and not context:
        assert adapted.score(X[::50], y[::50]) > 0.9


def test_identity_has_nothing_to_learn_but_a_temperature_or_context():
    tasks = make_tasks()
    fitted = MatchingNetClassifier("identity", max_iter=3).fit(tasks)
    assert fitted.n_iter_ == 0 and not list(fitted.learner_.parameters())
    learned = MatchingNetClassifier(
        "identity", learn_temperature=True, max_iter=3, random_state=0
    ).fit(tasks)
    assert learned.n_iter_ == 3
    assert learned.learner_.log_temperature_factor != 0


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"metric": "euclid"}, ValueError, "metric must be one of"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"n_processing_steps": 0}, ValueError, "n_processing_steps"),
        ({"context_embeddings": "yes"}, ValueError, "context_embeddings must be one"),
        ({"learn_temperature": 2}, ValueError, "learn_temperature must be one"),
    ],
)
def test_refusals(parameters, error, match):
    with pytest.raises(error, match=match):
        MatchingNetClassifier(**parameters).fit(make_tasks())


def test_context_is_built_by_the_first_fit():
    meta = MatchingNetClassifier(small, max_iter=1, warm_start=True).fit(make_tasks())
    meta.set_params(context_embeddings=True)
    with pytest.raises(ValueError, match="context_embeddings=True acts"):
        meta.fit(make_tasks())
