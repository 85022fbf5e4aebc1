"""ANIL against finite differences, MAML with a still backbone, and plain numpy."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from sklmeta import ANILClassifier, ANILRegressor
from sklmeta.backbones import MLP, ConvNet
from sklmeta.backbones.normalization import convert_batch_norm
from sklmeta.datasets import load_digits_pool
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.inference import embedded, run_episodes
from sklmeta.engine.programs import replays
from sklmeta.engine.recorded import RecordedUpdate
from sklmeta.engine.updates import make_update, parts_of
from sklmeta.gradient import ANIL, MAML, network
from sklmeta.tasks import ClassPool

N_TASKS, N_SUPPORT, N_QUERY, N_FEATURES, N_WAYS = 3, 7, 5, 4, 3
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


def make_learner(backbone, kind="shared", make=ANIL, **options):
    learner = make(
        backbone,
        backbone.out_features,
        {"shared": N_WAYS, "local": None, "numbers": 2}[kind],
        task_type="regression" if kind == "numbers" else "classification",
        generator=rng(1),
        **{"inner_lr": 0.1, "inner_steps": 3, "n_ways": N_WAYS, **options},
    )
    return learner.double().eval()


def mlp():
    return MLP(N_FEATURES, (6, 5), generator=rng(2))


def conv_net():
    return ConvNet((1, 6, 6), 4, 2, generator=rng(2))


class PlainConv(nn.Sequential):
    """Convolutions as users write them, without normalisation."""

    out_features = 4 * 3 * 3

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()
        )


class Normalised(nn.Sequential):
    """Dense layers as users write them, with torch's batch normalisation."""

    out_features = 5

    def __init__(self):
        super().__init__(
            nn.Linear(N_FEATURES, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 5)
        )


BACKBONES = {
    "mlp": (mlp, (N_FEATURES,)),
    "dense with batch norm": (lambda: convert_batch_norm(Normalised()), (N_FEATURES,)),
    "conv": (PlainConv, (1, 6, 6)),
    "conv with batch norm": (conv_net, (1, 6, 6)),
}


@pytest.fixture(params=["loop", "vmap"])
def method(request, monkeypatch):
    monkeypatch.setattr(network, "mapping_method", lambda module, device: request.param)
    return request.param


def meta_gradient(learner, episodes):
    loss = learner.meta_loss(episodes).sum()
    parameters = list(learner.parameters())
    return loss, torch.autograd.grad(loss, parameters, materialize_grads=True)


def slope(learner, episodes, direction, h=1e-5):
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKBONES)
def test_meta_gradient_is_second_order(method, name, kind):
    make, shape = BACKBONES[name]
    learner = make_learner(make(), kind)
    assert_finite_differences_agree(learner, make_episodes(shape, kind))


@pytest.mark.parametrize("options", [{"head": "fixed"}, {"head": "prototype"}], ids=str)
@pytest.mark.parametrize("name", ["mlp", "conv with batch norm"])
def test_meta_gradient_of_heads(method, name, options):
    make, shape = BACKBONES[name]
    learner = make_learner(make(), "local", **options).train()
    assert_finite_differences_agree(learner, make_episodes(shape, "local"))


@pytest.mark.parametrize(
    "options", [{"transductive": True}, {"checkpoint_steps": True}], ids=str
)
def test_meta_gradient_of_options(options):
    learner = make_learner(conv_net(), **options)
    assert_finite_differences_agree(learner, make_episodes((1, 6, 6)))


class StillMAML(MAML):
    """MAML whose backbone has an inner learning rate of zero."""

    def support_gradients(self, weights, support, ways, *, create_graph):
        gradients = super().support_gradients(
            weights, support, ways, create_graph=create_graph
        )
        return {
            name: value if name.startswith("head.") else torch.zeros_like(value)
            for name, value in gradients.items()
        }


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("head", ["auto", "fixed", "shared", "prototype"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKBONES)
def test_equals_maml_with_a_still_backbone(name, kind, head, first_order):
    make, shape = BACKBONES[name]
    options = {"head": head, "first_order": first_order}
    learner = make_learner(make(), kind, **options).train()
    twin = make_learner(make(), kind, StillMAML, **options).train()
    twin.load_state_dict(learner.state_dict())
    ragged = not learner.needs_equal_rows
    episodes = make_episodes(shape, kind, ragged=ragged)
    loss, gradient = meta_gradient(learner, episodes)
    twin_loss, twin_gradient = meta_gradient(twin, episodes)
    torch.testing.assert_close(loss, twin_loss)
    for own, other in zip(gradient, twin_gradient, strict=True):
        torch.testing.assert_close(own, other)


def test_first_order_leaves_second_derivatives_out():
    second = meta_gradient(make_learner(mlp()), make_episodes())[1]
    first = meta_gradient(make_learner(mlp(), first_order=True), make_episodes())[1]
    assert not torch.allclose(first[0], second[0], rtol=1e-3)


@pytest.mark.parametrize("first_order", [False, True])
def test_checkpointed_steps_have_the_same_gradients(first_order):
    options = {"first_order": first_order}
    plain = make_learner(mlp(), **options)
    again = make_learner(mlp(), checkpoint_steps=True, **options)
    for own, other in zip(
        meta_gradient(plain, make_episodes())[1],
        meta_gradient(again, make_episodes())[1],
        strict=True,
    ):
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


def identity(n_features=N_FEATURES):
    backbone = nn.Flatten()
    backbone.out_features = n_features
    return backbone


def test_on_rows_themselves_it_is_logistic_regression_by_gradient_steps():
    learner = make_learner(identity(), inner_steps=4)
    support = make_episodes().support
    state = learner.adapt(support)
    x, onehot = support.x[1].numpy(), np.eye(N_WAYS)[support.y[1].numpy()]
    weight = learner.head.weight.detach().numpy()
    bias = learner.head.bias.detach().numpy()
    for _ in range(4):
        scores = np.exp(x @ weight.T + bias)
        error = (scores / scores.sum(1, keepdims=True) - onehot) / len(x)
        weight = weight - 0.1 * error.T @ x
        bias = bias - 0.1 * error.sum(0)
    found = state["parameters"]
    np.testing.assert_allclose(found["head.weight"][1].detach(), weight, rtol=1e-12)
    np.testing.assert_allclose(found["head.bias"][1].detach(), bias, rtol=1e-12)


def test_on_rows_themselves_it_is_least_squares_by_gradient_steps():
    learner = make_learner(identity(), "numbers", inner_steps=3000, inner_lr=0.5)
    support = make_episodes(kind="numbers").support
    with torch.no_grad():
        state = learner.adapt(support)
        fitted = learner.predict(state, support.x)[0].numpy()
    x = np.c_[support.x[0].numpy(), np.ones(N_SUPPORT)]
    y = support.y[0].numpy()
    np.testing.assert_allclose(fitted, x @ np.linalg.pinv(x) @ y, atol=1e-6)


class Counting(nn.Module):
    """Counts the rows that pass."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.out_features = backbone, backbone.out_features
        self.passes = []

    def forward(self, x):
        self.passes.append(len(x))
        return self.backbone(x)


def test_the_backbone_is_passed_once_for_all_steps_and_tasks():
    backbone = Counting(mlp())
    learner = make_learner(backbone, inner_steps=7)
    learner.meta_loss(make_episodes()).sum().backward()
    assert backbone.passes == [N_TASKS * (N_SUPPORT + N_QUERY)]


@pytest.mark.parametrize("name", ["dense with batch norm", "conv with batch norm"])
def test_the_backbone_is_passed_once_by_each_task_with_statistics(name):
    make, shape = BACKBONES[name]
    backbone = Counting(make())
    learner = make_learner(backbone, inner_steps=7)
    learner.meta_loss(make_episodes(shape)).sum().backward()
    if backbone.passes != [N_SUPPORT, N_QUERY]:  # vmap shows one task's rows
        assert backbone.passes == [N_SUPPORT] * N_TASKS + [N_QUERY] * N_TASKS


@pytest.mark.parametrize("head", ["shared", "fixed", "prototype"])
def test_features_of_rows_can_be_made_beforehand(head):
    learner = make_learner(PlainConv(), "local", head=head)
    episodes = make_episodes((1, 6, 6), "local")
    embed, on_features = learner.on_features()
    rows = [
        Rows(
            embed(own.x.flatten(0, 1)).unflatten(0, own.y.shape),
            own.y,
            own.mask,
            own.n_way,
        )
        for own in (episodes.support, episodes.query)
    ]
    want = run_episodes(learner, episodes)
    torch.testing.assert_close(run_episodes(on_features, Episodes(*rows)), want)
    assert isinstance(learner.backbone, PlainConv)
    assert on_features.head is learner.head


def test_features_made_beforehand_keep_the_options():
    learner = make_learner(mlp(), "local").with_options(inner_lr=0.7, inner_steps=2)
    _, on_features = learner.on_features()
    assert (on_features.inner_lr, on_features.inner_steps) == (0.7, 2)
    assert on_features.weights_id is not learner.weights_id


def test_batch_statistics_keep_features_from_being_made_beforehand():
    assert make_learner(conv_net()).on_features() is None


@pytest.mark.parametrize("head", ["shared", "fixed", "prototype"])
def test_scores_on_a_class_pool_are_those_of_adapt_and_predict(head, monkeypatch):
    from sklmeta import _scores

    pool = load_digits_pool()
    flat = ClassPool(pool.X.reshape(len(pool.X), -1).astype(float), pool.y)
    meta = ANILClassifier(
        head=head, n_shot=2, max_iter=3, random_state=0, device="cpu"
    ).fit(flat[:5])
    made = []

    def recorded(*args):
        made.append(embedded(*args))
        return made[-1]

    monkeypatch.setattr(_scores, "embedded", recorded)
    score = meta.score(flat[5:])
    assert made[0][0].sees_features
    monkeypatch.setattr(
        _scores, "embedded", lambda learner, pool, rows: (learner, pool)
    )
    assert meta.score(flat[5:]) == pytest.approx(score, abs=2e-3)


@pytest.mark.parametrize("name", BACKBONES)
def test_padding_and_other_tasks_change_nothing(name):
    make, shape = BACKBONES[name]
    learner = make_learner(make())
    episodes = make_episodes(shape, ragged=True)
    episodes.support.x[~episodes.support.mask] = 1e3
    episodes.query.x[~episodes.query.mask] = -1e3
    parameters = list(learner.parameters())
    together, alone = 0.0, 0.0
    for part in episodes.parts(None, equal_rows=learner.needs_equal_rows):
        together = together + learner.meta_loss(part).sum()
    for task in range(N_TASKS):
        alone = alone + learner.meta_loss(episodes[task : task + 1].trimmed()).sum()
    torch.testing.assert_close(together, alone)
    for own, other in zip(
        torch.autograd.grad(together, parameters),
        torch.autograd.grad(alone, parameters),
        strict=True,
    ):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("transductive", [False, True])
def test_query_rows_do_not_matter_to_each_other_unless_transductive(transductive):
    learner = make_learner(conv_net(), transductive=transductive)
    episodes = make_episodes((1, 6, 6))
    with torch.no_grad():
        state = learner.adapt(episodes.support)
        all_rows = learner.predict(state, episodes.query.x)[:, :2]
        fewer = learner.predict(state, episodes.query.x[:, :2])
    assert torch.allclose(all_rows, fewer, rtol=1e-10) is not transductive


def test_adapting_moves_the_head_alone_and_no_meta_learned_weight():
    learner = make_learner(mlp())
    before = copy.deepcopy(learner.state_dict())
    with torch.no_grad():
        state = learner.adapt(make_episodes().support)
    assert set(state["parameters"]) == {"head.weight", "head.bias"}
    assert not any(w.requires_grad for w in state["parameters"].values())
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])


def test_absent_ways_are_minus_infinity():
    learner = make_learner(mlp(), "local")
    episodes = make_episodes(kind="local")
    outputs = learner.predict(learner.adapt(episodes.support), episodes.query.x)
    assert torch.isneginf(outputs[1, :, -1]).all()
    assert torch.isfinite(outputs[0]).all()


def test_local_labels_need_the_number_of_ways():
    with pytest.raises(ValueError, match=r"ANIL with local labels.*needs Rows\.n_way"):
        make_learner(mlp(), "local").adapt(make_episodes().support)


def test_no_head_is_refused():
    match = "ANIL adapts the head alone.*or use MAML"
    with pytest.raises(ValueError, match=match):
        make_learner(mlp(), head="none")
    pairs = [(np.ones((6, 2)), np.arange(6.0))] * 3
    with pytest.raises(ValueError, match=match):
        ANILRegressor(head="none").fit(pairs)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"head": "linear"}, "head must be one of"),
        ({"inner_lr": 0.0}, "inner_lr"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"first_order": "yes"}, "first_order must be one of"),
    ],
)
def test_parameters_out_of_range_are_refused(parameters, match):
    with pytest.raises(ValueError, match=match):
        ANILClassifier(**parameters).fit(load_digits_pool()[:5])
