"""Neural processes and the in-context learner: what they must not depend on."""

from functools import partial

import pytest
import torch
from torch import nn

from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Progress
from sklmeta.probabilistic import InContext, NeuralProcess

T, S, Q, F = 3, 6, 5, 2
MODELS = {
    "conditional": partial(NeuralProcess, attention=False),
    "attentive": NeuralProcess,
    "latent": partial(NeuralProcess, latent=True, attention=False, n_samples=4),
    "latent attentive": partial(NeuralProcess, latent=True, n_samples=4),
    "in context": partial(InContext, n_layers=3),
}
KINDS = {"numbers": 2, "shared": 3, "local": None}
COUNTS = torch.tensor([6, 4, 1])


def make(model, kind="numbers", **options):
    """Return a learner in double precision, its norms away from their first values."""
    task_type = "regression" if kind == "numbers" else "classification"
    options = {"hidden_size": 16, "n_heads": 2, "task_type": task_type, **options}
    generator = torch.Generator().manual_seed(0)
    learner = MODELS[model](
        nn.Flatten(), F, KINDS[kind], generator=generator, **options
    ).double()
    with torch.no_grad():
        for layer in learner.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.weight.uniform_(0.5, 2, generator=generator)
                layer.bias.normal_(generator=generator)
    return learner.eval()


def make_rows(kind, n_rows, seed=0, n_tasks=T, n_ways=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_tasks, n_rows, F, generator=generator, dtype=torch.float64)
    mask = torch.ones(n_tasks, n_rows, dtype=torch.bool)
    if kind == "numbers":
        y = torch.randn(n_tasks, n_rows, 2, generator=generator, dtype=torch.float64)
        return Rows(x, y, mask)
    y = torch.arange(n_rows).expand(n_tasks, -1) % n_ways
    n_way = torch.full((n_tasks,), n_ways) if kind == "local" else None
    return Rows(x, y, mask, n_way)


def with_std(learner, kind):
    return learner.with_options(gives_std=True) if kind == "numbers" else learner


def outputs(learner, kind, support, x):
    with torch.no_grad():
        view = with_std(learner, kind)
        return view.predict(view.adapt(support), x)


def assert_close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


each_model = pytest.mark.parametrize("model", MODELS)
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_model
@each_kind
def test_support_order_does_not_matter(model, kind):
    learner, support = make(model, kind), make_rows(kind, S)
    x = make_rows(kind, Q, seed=1).x
    order = torch.randperm(S, generator=torch.Generator().manual_seed(0))
    shuffled = Rows(
        support.x[:, order], support.y[:, order], support.mask, support.n_way
    )
    assert_close(
        outputs(learner, kind, support, x), outputs(learner, kind, shuffled, x)
    )


@each_model
@each_kind
def test_padding_does_not_matter(model, kind):
    learner, rows = make(model, kind), make_rows(kind, S)
    x = make_rows(kind, Q, seed=1).x
    mask = torch.arange(S) < COUNTS[:, None]
    padded = outputs(learner, kind, Rows(rows.x, rows.y, mask, rows.n_way), x)
    for task, n_real in enumerate(COUNTS.tolist()):
        own = slice(task, task + 1)
        alone = Rows(rows.x[:, :n_real], rows.y[:, :n_real], rows.mask[:, :n_real])
        n_way = None if rows.n_way is None else rows.n_way[own]
        alone = Rows(alone.x[own], alone.y[own], alone.mask[own], n_way)
        assert_close(padded[own], outputs(learner, kind, alone, x[own]))


@each_model
@each_kind
def test_query_rows_do_not_see_each_other(model, kind):
    learner, support = make(model, kind), make_rows(kind, S)
    x = make_rows(kind, Q, seed=1).x
    together = outputs(learner, kind, support, x)
    apart = [outputs(learner, kind, support, row) for row in x.split(1, dim=1)]
    assert_close(together, torch.cat(apart, 1))


@each_model
@each_kind
def test_support_labels_matter(model, kind):
    learner, support = make(model, kind), make_rows(kind, S)
    x = make_rows(kind, Q, seed=1).x
    y = support.y.clone()
    y[:, 0] = y[:, 0] + 1
    other = Rows(support.x, y, support.mask, support.n_way)
    difference = outputs(learner, kind, support, x) - outputs(learner, kind, other, x)
    assert difference.abs().amax((1, 2)).min() > 1e-6


@each_model
@each_kind
def test_a_hidden_support_gives_the_prior(model, kind):
    learner = make(model, kind)
    x = make_rows(kind, Q, seed=1).x
    found = []
    for seed, n_rows in [(0, S), (7, 1)]:
        rows = make_rows(kind, n_rows, seed=seed)
        hidden = Rows(rows.x, rows.y, torch.zeros_like(rows.mask), rows.n_way)
        found.append(outputs(learner, kind, hidden, x))
    assert found[0].isfinite().all()
    assert_close(*found)
    if kind == "local":  # nothing tells ways apart
        assert_close(found[0], found[0][..., :1].expand_as(found[0]))


@each_model
def test_ways_are_treated_alike(model):
    learner, support = make(model, "local"), make_rows("local", S)
    x = make_rows("local", Q, seed=1).x
    found = outputs(learner, "local", support, x)
    names = torch.tensor([2, 0, 1])
    renamed = Rows(support.x, names[support.y], support.mask, support.n_way)
    assert_close(outputs(learner, "local", renamed, x)[..., names], found)


@each_model
def test_any_number_of_ways(model):
    learner, x = make(model, "local"), make_rows("local", Q, seed=1).x
    for n_ways in (2, 5):
        support = make_rows("local", 10, n_ways=n_ways)
        assert outputs(learner, "local", support, x).shape == (T, Q, n_ways)


@each_model
def test_absent_ways_get_nothing_and_change_nothing(model):
    learner, rows = make(model, "local"), make_rows("local", S, n_ways=2)
    x = make_rows("local", Q, seed=1).x
    n_way = torch.tensor([2, 4, 2])
    found = outputs(learner, "local", Rows(rows.x, rows.y, rows.mask, n_way), x)
    assert (found[[0, 2], :, 2:] == -torch.inf).all()
    assert found[1].isfinite().all()
    alone = outputs(learner, "local", rows, x)
    assert_close(found[[0, 2], :, :2], alone[[0, 2]])


@each_model
@each_kind
def test_gradients_are_finite_where_supports_are_hidden(model, kind):
    learner = make(model, kind, prior_fraction=0.5).train()
    n_tasks = 8
    support = make_rows(kind, S, n_tasks=n_tasks)
    mask = support.mask & (torch.arange(S) < 4)
    support = Rows(support.x, support.y, mask, support.n_way)
    query = make_rows(kind, Q, seed=1, n_tasks=n_tasks)
    loss = learner.meta_loss(Episodes(support, query))
    assert loss.shape == (n_tasks,)
    loss.sum().backward()
    gradients = [p.grad for p in learner.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_a_share_of_the_supports_is_hidden_anew_in_every_update():
    learner = make("conditional", prior_fraction=0.3).train()
    rows = make_rows("numbers", S, n_tasks=400)
    seen = []
    for n_done in range(5):
        learner.progress = Progress(n_done)
        seen.append(learner._partly_hidden(rows).mask.any(1))
    share = 1 - torch.stack(seen).double().mean().item()
    assert share == pytest.approx(0.3, abs=0.04)
    assert not torch.equal(seen[0], seen[1])


@each_model
def test_nothing_is_hidden_where_labels_are_local(model):
    losses = {}
    for fraction in (0.0, 0.9):
        for kind in ("shared", "local"):
            learner = make(model, kind, prior_fraction=fraction).train()
            rows, query = (make_rows(kind, n, n_tasks=8) for n in (S, Q))
            losses[kind, fraction] = learner.meta_loss(Episodes(rows, query))
    assert torch.equal(losses["local", 0.0], losses["local", 0.9])
    assert not torch.equal(losses["shared", 0.0], losses["shared", 0.9])


@each_model
def test_judged_on_query_rows_outside_of_training(model):
    learner = make(model, prior_fraction=0.9)
    support, query = make_rows("numbers", S), make_rows("numbers", Q, seed=1)
    with torch.no_grad():
        found = learner.meta_loss(Episodes(support, query))
    mean, std = outputs(learner, "numbers", support, query.x).chunk(2, -1)
    normal = torch.distributions.Normal(mean, std)
    assert_close(found, -normal.log_prob(query.y).mean((1, 2)))


@each_model
def test_standard_deviations_have_a_least(model):
    learner = make(model, min_std=0.25)
    with torch.no_grad():
        last = (learner.head if model == "in context" else learner.decoder)[-1]
        last.bias[2:] = -100.0
    support, x = make_rows("numbers", S), make_rows("numbers", Q, seed=1).x
    std = outputs(learner, "numbers", support, x)[..., 2:]
    assert std.min() >= 0.25
    if "latent" not in model:
        assert_close(std, torch.full_like(std, 0.25))
