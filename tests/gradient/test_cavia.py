"""CAVIA against finite differences, a plain loop and closed forms, in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta import CAVIAClassifier, CAVIARegressor, MAMLRegressor, TaskSet
from sklmeta.backbones import MLP, ConvNet, FiLM
from sklmeta.backbones.film import insert_film
from sklmeta.backbones.normalization import convert_batch_norm
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.programs import replays
from sklmeta.engine.recorded import RecordedUpdate
from sklmeta.engine.updates import make_update, parts_of
from sklmeta.gradient import CAVIA, network
from sklmeta.gradient._context import CONTEXT, refuse_idle_context

N_TASKS, N_SUPPORT, N_QUERY, N_FEATURES, N_WAYS, N_CONTEXT = 3, 7, 5, 4, 3, 2
KINDS = ["shared", "local", "numbers"]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_rows(n_rows, shape, kind, generator):
    x = torch.randn(N_TASKS, n_rows, *shape, generator=generator).double()
    mask, n_way = torch.ones(N_TASKS, n_rows, dtype=torch.bool), None
    if kind == "numbers":
        y = torch.randn(N_TASKS, n_rows, 2, generator=generator).double()
        return Rows(x, y, mask)
    y = torch.arange(n_rows).expand(N_TASKS, -1) % N_WAYS
    if kind == "local":
        n_way = torch.tensor([N_WAYS, N_WAYS - 1, N_WAYS])
        y = y % n_way.unsqueeze(1)
    return Rows(x, y.clone(), mask, n_way)


def make_episodes(shape=(N_FEATURES,), kind="shared", *, ragged=False):
    generator = rng()
    support = make_rows(N_SUPPORT, shape, kind, generator)
    query = make_rows(N_QUERY, shape, kind, generator)
    if ragged:
        support.mask[0, 4:] = False
        query.mask[2, 2:] = False
    return Episodes(support, query)


def make_learner(backbone, kind="shared", **options):
    learner = CAVIA(
        backbone,
        backbone.out_features,
        {"shared": N_WAYS, "local": None, "numbers": 2}[kind],
        task_type="regression" if kind == "numbers" else "classification",
        generator=rng(1),
        **{"inner_lr": 0.5, "inner_steps": 3, "n_ways": N_WAYS, **options},
        n_context=N_CONTEXT,
    )
    return learner.double().eval()


def mlp():
    return MLP(N_FEATURES + N_CONTEXT, (6, 5), generator=rng(2))


class Normalised(nn.Sequential):
    """Dense layers as users write them, with torch's batch normalisation."""

    out_features = 5

    def __init__(self):
        n_inputs = N_FEATURES + N_CONTEXT
        super().__init__(
            *(nn.Linear(n_inputs, 6), nn.Tanh(), nn.BatchNorm1d(6)),
            *(nn.Linear(6, 5), nn.Tanh()),
        )


class PlainConv(nn.Sequential):
    """Convolutions as users write them, without normalisation."""

    out_features = 4 * 3 * 3

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()
        )


def with_film(backbone):
    n_features = backbone.out_features
    found = insert_film(backbone, N_CONTEXT, n_features, rng(5))
    found.out_features = n_features
    return found


BACKBONES = {
    "mlp": (mlp, (N_FEATURES,)),
    "dense with batch norm": (lambda: convert_batch_norm(Normalised()), (N_FEATURES,)),
    "conv": (lambda: with_film(PlainConv()), (1, 6, 6)),
    "conv with batch norm": (
        lambda: with_film(ConvNet((1, 6, 6), 4, 2, generator=rng(2))),
        (1, 6, 6),
    ),
}


@pytest.fixture(params=["loop", "vmap"])
def method(request, monkeypatch):
    monkeypatch.setattr(network, "mapping_method", lambda module, device: request.param)
    return request.param


def meta_gradient(learner, episodes):
    loss = learner.meta_loss(episodes).sum()
    parameters = list(learner.parameters())
    return loss, torch.autograd.grad(loss, parameters, materialize_grads=True)


def slope(learner, episodes, direction, h=1e-6):
    """Return the derivative of the meta-loss along a direction, to fourth order."""

    def at(step):
        moved = copy.deepcopy(learner)
        with torch.no_grad():
            for p, d in zip(moved.parameters(), direction, strict=True):
                p.add_(d, alpha=step)
            return moved.meta_loss(episodes).sum()

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def assert_finite_differences_agree(learner, episodes):
    """Compare along a random direction of each parameter, and of all together."""
    _, gradient = meta_gradient(learner, episodes)
    generator = rng(3)
    draws = [torch.randn(p.shape, generator=generator).double() for p in gradient]
    parts = []
    for which, (g, d) in enumerate(zip(gradient, draws, strict=True)):
        alone = [d * (i == which) for i, d in enumerate(draws)]
        parts.append((g * d).sum())
        torch.testing.assert_close(
            parts[-1], slope(learner, episodes, alone), rtol=1e-6, atol=1e-8
        )
    torch.testing.assert_close(
        sum(parts), slope(learner, episodes, draws), rtol=1e-6, atol=1e-8
    )


# Meta-gradients --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKBONES)
def test_meta_gradient_is_second_order(method, name, kind):
    make, shape = BACKBONES[name]
    learner = make_learner(make(), kind)
    assert_finite_differences_agree(learner, make_episodes(shape, kind))


@pytest.mark.parametrize("name", ["mlp", "conv with batch norm"])
def test_meta_gradient_of_a_fixed_head(method, name):
    make, shape = BACKBONES[name]
    learner = make_learner(make(), "local", head="fixed").train()
    assert_finite_differences_agree(learner, make_episodes(shape, "local"))


@pytest.mark.parametrize(
    "options",
    [{"transductive": True}, {"checkpoint_steps": True}, {"inner_steps": 0}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["shared", "local"])
def test_meta_gradient_of_options(options, kind):
    make, shape = BACKBONES["conv with batch norm"]
    learner = make_learner(make(), kind, **options)
    assert_finite_differences_agree(learner, make_episodes(shape, kind))


@pytest.mark.parametrize("name", BACKBONES)
def test_loop_and_vmap_agree(monkeypatch, name):
    make, shape = BACKBONES[name]
    learner, found = make_learner(make(), "local", first_order=True), {}
    for method in ("loop", "vmap"):
        monkeypatch.setattr(network, "mapping_method", lambda *_, m=method: m)
        found[method] = meta_gradient(learner, make_episodes(shape, "local"))[1]
    for one, other in zip(found["loop"], found["vmap"], strict=True):
        torch.testing.assert_close(one, other)


def plain_cavia(learner, episodes, *, detach):
    """CAVIA on a two-layer MLP, one task after another, written out."""
    names = [f"backbone.layers.{i}.{k}" for i in (0, 2) for k in ("weight", "bias")]
    theta = [learner.get_parameter(n) for n in (*names, "head.weight", "head.bias")]
    w1, b1, w2, b2, w3, b3 = theta

    def loss(context, x, y):
        x = torch.cat([x, context.expand(len(x), -1)], 1)
        h = torch.relu(torch.relu(x @ w1.T + b1) @ w2.T + b2)
        return F.cross_entropy(h @ w3.T + b3, y)

    losses = []
    for task in range(len(episodes)):
        context = torch.zeros(N_CONTEXT, dtype=torch.float64, requires_grad=True)
        support, query = episodes.support, episodes.query
        own, asked = support.mask[task], query.mask[task]
        for _ in range(learner.inner_steps):
            inner = loss(context, support.x[task][own], support.y[task][own])
            (gradient,) = torch.autograd.grad(inner, context, create_graph=True)
            gradient = gradient.detach() if detach else gradient
            context = context - learner.inner_lr * gradient
        losses.append(loss(context, query.x[task][asked], query.y[task][asked]))
    total = torch.stack(losses).sum()
    return total, torch.autograd.grad(total, theta)


@pytest.mark.parametrize("first_order", [False, True])
def test_equals_plain_loop_over_tasks(method, first_order):
    learner = make_learner(mlp(), first_order=first_order)
    episodes = make_episodes(ragged=True)
    loss, gradient = meta_gradient(learner, episodes)
    plain_loss, plain_gradient = plain_cavia(learner, episodes, detach=first_order)
    torch.testing.assert_close(loss, plain_loss)
    for own, other in zip(gradient, plain_gradient, strict=True):
        torch.testing.assert_close(own, other)


def test_checkpointed_first_order_is_first_order():
    found = [
        meta_gradient(
            make_learner(mlp(), first_order=True, checkpoint_steps=again),
            make_episodes(),
        )[1]
        for again in (False, True)
    ]
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("head", ["auto", "fixed", "prototype"])
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_meta_updates_have_the_same_gradients(kind, head):
    learner, reasons = make_learner(mlp(), kind, head=head).train(), []
    update = make_update(learner)
    assert isinstance(update, RecordedUpdate)
    update = RecordedUpdate(
        learner, parts_of, replays, patience=0, on_refusal=reasons.append
    )
    episodes = make_episodes(kind=kind)
    for _ in range(3):  # recorded twice, then replayed
        learner.zero_grad()
        loss = update(episodes)
    assert (reasons, update.n_programs) == ([], 1)
    want_loss, want = meta_gradient(learner, episodes)
    torch.testing.assert_close(loss, want_loss / N_TASKS)
    for p, gradient in zip(learner.parameters(), want, strict=True):
        torch.testing.assert_close(p.grad, gradient / N_TASKS)


def test_one_step_of_a_linear_net_in_closed_form():
    lr, backbone = 0.3, nn.Linear(N_FEATURES + N_CONTEXT, 2)
    learner = CAVIA(
        backbone,
        *(2, 2),
        task_type="regression",
        head="none",
        n_context=N_CONTEXT,
        inner_lr=lr,
    ).double()
    episodes = make_episodes(kind="numbers")
    loss, (by_weight, by_bias) = meta_gradient(learner, episodes)
    state = learner.adapt(episodes.support)

    weight, b = (p.detach().numpy() for p in backbone.parameters())
    a, c = weight[:, :N_FEATURES], weight[:, N_FEATURES:]
    want_loss, want_a, want_c, want_b = 0.0, 0.0, 0.0, 0.0
    for task in range(N_TASKS):
        xs, ys = (v[task].numpy() for v in (episodes.support.x, episodes.support.y))
        xq, yq = (v[task].numpy() for v in (episodes.query.x, episodes.query.y))
        mean_rest = (xs @ a.T + b - ys).mean(0)  # (2,), of a loss averaged over outputs
        context = -lr * c.T @ mean_rest
        np.testing.assert_allclose(
            state["parameters"][CONTEXT][task].detach(), context, rtol=1e-12
        )
        rest = xq @ a.T + c @ context + b - yq
        want_loss += (rest**2).mean()
        by_outputs = 2 / rest.size * rest
        total = by_outputs.sum(0)
        # The context moves the outputs by -lr C C^T (mean rest of the support).
        by_mean_rest = -lr * c @ c.T @ total
        want_a += by_outputs.T @ xq + np.outer(by_mean_rest, xs.mean(0))
        want_b += total + by_mean_rest
        want_c += -lr * (np.outer(total, mean_rest) + np.outer(mean_rest, total)) @ c
    assert loss.item() == pytest.approx(want_loss, rel=1e-12)
    want = np.concatenate([want_a, want_c], 1)
    np.testing.assert_allclose(by_weight, want, rtol=1e-10)
    np.testing.assert_allclose(by_bias, want_b, rtol=1e-10)


# What adapting does ----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKBONES)
def test_adapting_lowers_the_support_loss_and_leaves_the_weights_alone(name, kind):
    make, shape = BACKBONES[name]
    learner = make_learner(make(), kind, inner_steps=20, inner_lr=0.1)
    before = copy.deepcopy(learner.state_dict())
    support, losses = make_episodes(shape, kind).support, []
    with torch.no_grad():
        for steps in (0, 20):
            state = learner.with_options(inner_steps=steps).adapt(support)
            losses.append(learner.loss(learner.predict(state, support.x), support))
    assert (losses[1] < losses[0]).all()
    assert not state["parameters"][CONTEXT].requires_grad
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKBONES)
def test_padding_and_other_tasks_change_nothing(name, kind):
    make, shape = BACKBONES[name]
    learner = make_learner(make(), kind)
    episodes = make_episodes(shape, kind, ragged=True)
    episodes.support.x[~episodes.support.mask] = 1e3
    episodes.query.x[~episodes.query.mask] = -1e3
    parameters = list(learner.parameters())
    together, alone, contexts = 0.0, 0.0, torch.zeros(N_TASKS, N_CONTEXT).double()
    for tasks, part in episodes.indexed_parts(
        None, equal_rows=learner.needs_equal_rows
    ):
        together = together + learner.meta_loss(part).sum()
        state = learner.adapt(part.support)
        contexts[tasks] = state["parameters"][CONTEXT].detach()
    for task in range(N_TASKS):
        own = episodes[task : task + 1].trimmed()
        alone = alone + learner.meta_loss(own).sum()
        context = learner.adapt(own.support)["parameters"][CONTEXT][0]
        torch.testing.assert_close(context, contexts[task])
    torch.testing.assert_close(together, alone)
    for own, other in zip(
        torch.autograd.grad(together, parameters),
        torch.autograd.grad(alone, parameters),
        strict=True,
    ):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("kind", ["shared", "local"])
@pytest.mark.parametrize("transductive", [False, True])
def test_query_rows_do_not_matter_to_each_other_unless_transductive(kind, transductive):
    make, shape = BACKBONES["conv with batch norm"]
    learner = make_learner(make(), kind, transductive=transductive)
    episodes = make_episodes(shape, kind)
    with torch.no_grad():
        state = learner.adapt(episodes.support)
        all_rows = learner.predict(state, episodes.query.x)[:, :2]
        fewer = learner.predict(state, episodes.query.x[:, :2])
    assert torch.allclose(all_rows, fewer, rtol=1e-10) is not transductive


@pytest.mark.parametrize("head", ["prototype", "fixed"])
def test_names_of_ways_do_not_matter(head):
    learner = make_learner(mlp(), "local", head=head)
    episodes = make_episodes(kind="local")[0:1]
    order = torch.tensor([2, 0, 1])
    own = episodes.support
    renamed = Rows(own.x, order[own.y], own.mask, own.n_way)
    outputs = learner.predict(learner.adapt(own), episodes.query.x)
    again = learner.predict(learner.adapt(renamed), episodes.query.x)
    torch.testing.assert_close(again[..., order], outputs)


def test_prototypes_are_of_the_features_after_adaptation():
    learner = make_learner(mlp(), "local")
    support = make_episodes(kind="local").support
    found = learner.adapt(support)["parameters"]
    features = learner.features({"context": found[CONTEXT]}, support.x)
    way = features[0][support.y[0] == 1].mean(0)
    expected = 2 * way / len(way) ** 0.5
    torch.testing.assert_close(found["head.weight"][0, 1], expected)


def test_absent_ways_are_minus_infinity():
    learner = make_learner(mlp(), "local")
    episodes = make_episodes(kind="local")
    outputs = learner.predict(learner.adapt(episodes.support), episodes.query.x)
    assert torch.isneginf(outputs[1, :, -1]).all()
    assert torch.isfinite(outputs[0]).all()


def test_two_parameters_tell_waves_of_sine_apart():
    """Amplitude and phase are two numbers."""
    meta = CAVIARegressor(
        n_context=2, n_shot=10, n_query=10, max_iter=300, random_state=0, device="cpu"
    ).fit(make_sinusoids(500, random_state=0))
    tasks = make_sinusoids(100, random_state=1)
    adapted = meta.set_params(n_shot=10).score(tasks)
    assert adapted > 0.7 > 0.2 > meta.set_params(inner_steps=0).score(tasks)


# Refusals --------------------------------------------------------------------------


def labelled_tasks(labels="local", n_features=N_FEATURES):
    from sklmeta import TaskSet

    draws = np.random.default_rng(0)
    pairs = [
        (draws.normal(size=(12, n_features)), np.tile(["a", "b", "c"], 4))
        for _ in range(4)
    ]
    return TaskSet(pairs, labels=labels)


def test_a_shared_head_is_refused():
    match = "ways could never be told apart. Use head='prototype'"
    with pytest.raises(ValueError, match=match):
        make_learner(mlp(), "local", head="shared")
    with pytest.raises(ValueError, match=match):
        CAVIAClassifier(head="shared").fit(labelled_tasks())


@pytest.mark.parametrize(
    "backbone",
    [nn.Linear(N_FEATURES, 5), lambda shape: nn.Linear(N_FEATURES, 5)],
    ids=["module", "callable"],
)
def test_a_backbone_without_inputs_for_the_context_is_refused(backbone):
    match = "appends n_context=3 parameters to the 4 features.*must take all 7"
    with pytest.raises(ValueError, match=match):
        CAVIAClassifier(backbone, n_context=3).fit(labelled_tasks("shared"))


class Deaf(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(N_FEATURES, 5)

    def forward(self, x):
        return self.layer(x[:, :N_FEATURES]).relu()


def normalised_first(shape):
    return nn.Sequential(nn.Linear(*shape, 8), nn.BatchNorm1d(8), nn.ReLU())


def activated_first(shape):
    return nn.Sequential(nn.Linear(*shape, 8), nn.ReLU(), nn.BatchNorm1d(8))


@pytest.mark.parametrize("labels", ["local", "shared"])
@pytest.mark.parametrize("backbone", [Deaf(), normalised_first], ids=["deaf", "norm"])
def test_a_context_without_effect_is_refused(backbone, labels):
    meta = CAVIAClassifier(backbone, max_iter=1, n_shot=2)
    with pytest.raises(ValueError, match="context has no effect on the support loss"):
        meta.fit(labelled_tasks(labels))
    assert not hasattr(meta, "learner_")


def test_identity_cannot_move_prototypes_but_can_move_numbers():
    with pytest.raises(ValueError, match="also so without any activation"):
        CAVIAClassifier("identity", max_iter=1, n_shot=2).fit(labelled_tasks())
    CAVIARegressor("identity", max_iter=1).fit(make_sinusoids(4, random_state=0))


@pytest.mark.parametrize("labels", ["local", "shared"])
@pytest.mark.parametrize("backbone", [None, activated_first], ids=["mlp", "relu"])
def test_a_context_with_effect_is_taken(backbone, labels):
    meta = CAVIAClassifier(backbone, max_iter=1, n_shot=2, random_state=0)
    assert meta.fit(labelled_tasks(labels)).n_iter_ == 1


def test_a_net_that_starts_at_zero_is_taken():
    backbone = mlp()
    for weight in backbone.parameters():
        nn.init.zeros_(weight)
    learner = make_learner(backbone)
    refuse_idle_context(learner, N_FEATURES, N_CONTEXT)
    assert all(bool((w == 0).all()) for w in learner.backbone.parameters())


class SinglePrecision(nn.Module):
    """Makes tensors of its own precision, whatever rows are of."""

    def __init__(self, shape):
        super().__init__()
        self.layer = nn.Linear(shape[0], 5)

    def forward(self, x):
        return self.layer(x) @ torch.ones(5, 4)


def test_what_fails_is_refused_in_the_words_of_every_learner():
    found = []
    for estimator in (CAVIARegressor, MAMLRegressor):
        meta = estimator(SinglePrecision, max_iter=1, random_state=0)
        with pytest.raises(ValueError, match="work in the precision of the rows") as e:
            meta.fit(make_sinusoids(4, random_state=0))
        found.append(str(e.value))
    assert found[0] == found[1]


class Picky(nn.Module):
    """Takes integers in the first column, as the tasks have them, and nothing else."""

    def __init__(self, shape):
        super().__init__()
        self.table, self.layer = nn.Embedding(2, 5), nn.Linear(shape[0], 5)

    def forward(self, x):
        return self.layer(x) + self.table((x[:, 0] % 1 > 0).long() * 9)


def test_a_net_that_random_rows_do_not_suit_is_tried_on_real_ones():
    rng = np.random.default_rng(0)
    tasks = TaskSet([(rng.choice([0.0, 1.0], (9, 2)), rng.normal(size=9))] * 4)
    meta = CAVIARegressor(Picky, normalize_x=False, max_iter=1, random_state=0)
    assert meta.fit(tasks).n_iter_ == 1


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"n_context": 0}, "n_context"),
        ({"head": "linear"}, "head must be one of"),
        ({"inner_lr": 0.0}, "inner_lr"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"first_order": "yes"}, "first_order must be one of"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, match):
    with pytest.raises(ValueError, match=match):
        CAVIAClassifier(**parameters).fit(labelled_tasks())


def test_the_number_of_context_parameters_is_that_of_meta_training():
    meta = CAVIAClassifier(max_iter=1, n_shot=2, warm_start=True, random_state=0)
    meta.fit(labelled_tasks())
    with pytest.raises(ValueError, match="n_context"):
        meta.set_params(n_context=9).fit(labelled_tasks())


# Images ----------------------------------------------------------------------------


class WithFiLM(nn.Sequential):
    """A net on images with a layer for five context parameters."""

    out_features = 4 * 3 * 3

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1), FiLM(5, 4), nn.AvgPool2d(2), nn.Flatten()
        )


def test_film_layers_for_another_context_are_refused():
    match = "FiLM '1' takes 5 context parameters, but n_context=10"
    with pytest.raises(ValueError, match=match):
        CAVIA(WithFiLM(), 36, None, n_context=10, task_type="classification")
    meta = CAVIAClassifier(WithFiLM(), n_context=10, max_iter=1, n_shot=1)
    with pytest.raises(ValueError, match=match):
        meta.fit(load_digits_pool()[:6])
    assert meta.set_params(n_context=5).fit(load_digits_pool()[:6]).n_iter_ == 1


class ByHand(nn.Module):
    """Takes a layer's weight, and may call it too."""

    def __init__(self, calls):
        super().__init__()
        self.conv, self.calls = nn.Conv2d(1, 4, 3), calls

    def forward(self, x):
        found = F.conv2d(x, self.conv.weight)
        if self.calls:
            found = found + self.conv(x)
        return found.mean((2, 3))


def test_a_net_may_use_the_weights_of_a_modulated_layer():
    meta = CAVIAClassifier(ByHand(True), max_iter=2, n_shot=1, random_state=0)
    pool = load_digits_pool()[:6]
    meta.fit(pool).adapt(pool.X[::20], pool.y[::20])
    assert meta.adapted_._model.state["parameters"][CONTEXT].any()


def test_a_net_that_never_calls_the_modulated_layer_is_refused():
    meta = CAVIAClassifier(ByHand(False), max_iter=2, n_shot=1)
    with pytest.raises(ValueError, match=r"behind 'conv'.* never calls"):
        meta.fit(load_digits_pool()[:6])


@pytest.mark.parametrize("head", ["prototype", "fixed"])
@pytest.mark.parametrize("backbone", [None, PlainConv], ids=["default", "own"])
def test_images_are_adapted_to(backbone, head):
    pool = load_digits_pool()

    def own(shape):
        net = nn.Sequential(PlainConv(), nn.LazyLinear(8))
        net(torch.zeros(1, *shape))
        return net

    meta = CAVIAClassifier(
        None if backbone is None else own,
        head=head,
        n_way=3,
        n_shot=2,
        max_iter=2,
        batch_size=2,
        random_state=0,
        device="cpu",
    ).fit(pool[:5])
    films = [one for one in meta.learner_.modules() if isinstance(one, FiLM)]
    assert len(films) == 1
    new = pool[5:8]
    model = meta.adapt(new.X[::20], new.y[::20])
    assert model.predict(new.X[:9]).shape == (9,)
    context = model._model.state["parameters"][CONTEXT]
    assert context.shape == (1, 5)
    assert context.abs().max() > 0
