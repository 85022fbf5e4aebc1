"""MAML against finite differences, a plain loop and closed forms, in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sklmeta.backbones import MLP, ConvNet
from sklmeta.backbones.normalization import TaskBatchNorm, convert_batch_norm
from sklmeta.datasets import make_sinusoids
from sklmeta.engine import updates
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Progress
from sklmeta.gradient import MAML, MAMLRegressor, network
from sklmeta.gradient.maml import step_importance

N_TASKS, N_SUPPORT, N_QUERY, N_FEATURES, N_WAYS = 3, 6, 5, 4, 3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_rows(n_rows, shape, target, generator, n_way=None):
    x = torch.randn(N_TASKS, n_rows, *shape, generator=generator, dtype=torch.float64)
    if target == "numbers":
        size = (N_TASKS, n_rows, 2)
        y = torch.randn(size, generator=generator, dtype=torch.float64)
    else:
        y = torch.randint(N_WAYS, (N_TASKS, n_rows), generator=generator)
    mask = torch.ones(N_TASKS, n_rows, dtype=torch.bool)
    return Rows(x, y, mask, n_way)


def make_episodes(shape=(N_FEATURES,), target="shared", *, ragged=False, seed=0):
    generator, n_way = rng(seed), None
    if target == "local":
        n_way = torch.tensor([N_WAYS, N_WAYS - 1, N_WAYS])
    support = make_rows(N_SUPPORT, shape, target, generator, n_way)
    query = make_rows(N_QUERY, shape, target, generator, n_way)
    if target == "local":
        for rows in (support, query):
            rows.y.clamp_(max=(n_way - 1)[:, None])
    if ragged:
        support.mask[0, 4:] = False
        query.mask[2, 2:] = False
    return Episodes(support, query)


def make_learner(backbone, target="shared", **options):
    n_outputs = {"shared": N_WAYS, "local": None, "numbers": 2}[target]
    kind = "regression" if target == "numbers" else "classification"
    options = {"inner_lr": 0.1, "inner_steps": 2, **options}
    learner = MAML(
        backbone,
        backbone.out_features,
        n_outputs,
        task_type=kind,
        generator=rng(1),
        **options,
    )
    return learner.double().eval()


def mlp():
    return MLP(N_FEATURES, (8, 7), generator=rng(2))


def conv_net(downsample="pool"):
    return ConvNet((1, 6, 6), 4, 2, downsample, generator=rng(2))


def meta_gradient(learner, episodes):
    loss = learner.meta_loss(episodes).sum()
    parameters = list(learner.parameters())
    return loss, torch.autograd.grad(loss, parameters, materialize_grads=True)


def assert_same_gradients(one, other, **tolerance):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def assert_finite_differences_agree(learner, episodes, step=1e-7):
    """Compare derivatives along random directions, each parameter by itself too.

    By a stencil of fourth order, with steps that jump over no kink of ReLU or pooling.
    """
    _, gradient = meta_gradient(learner, episodes)
    parameters = list(learner.parameters())
    generator = rng(3)
    for which in [None, None, *range(len(parameters))]:
        direction = [
            torch.randn(p.shape, generator=generator, dtype=p.dtype)
            * (which is None or i == which)
            for i, p in enumerate(parameters)
        ]

        def at(length, direction=direction):
            moved = copy.deepcopy(learner)
            with torch.no_grad():
                for p, d in zip(moved.parameters(), direction, strict=True):
                    p.add_(d, alpha=length)
            # As in meta-training: without gradients, some losses are others.
            return moved.meta_loss(episodes).sum().detach()

        near, far = (at(h) - at(-h) for h in (step, 2 * step))
        expected = (8 * near - far) / (12 * step)
        found = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.fixture(params=["loop", "vmap"])
def method(request, monkeypatch):
    monkeypatch.setattr(network, "mapping_method", lambda module, device: request.param)
    return request.param


@pytest.mark.parametrize("target", ["shared", "local", "numbers"])
@pytest.mark.parametrize("ragged", [False, True])
def test_meta_gradient_of_mlp_is_second_order(method, target, ragged):
    learner = make_learner(mlp(), target, inner_steps=3)
    episodes = make_episodes(target=target, ragged=ragged)
    assert_finite_differences_agree(learner, episodes)


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("target", ["shared", "local"])
def test_meta_gradient_of_conv_net_is_second_order(method, target, transductive):
    learner = make_learner(conv_net(), target, transductive=transductive)
    assert_finite_differences_agree(learner, make_episodes((1, 6, 6), target))


def test_meta_gradient_of_strided_conv_net_is_second_order(method):
    learner = make_learner(conv_net("stride"), "numbers")
    assert_finite_differences_agree(learner, make_episodes((1, 6, 6), "numbers"))


class Normalised(nn.Sequential):
    """A backbone as users write them, with torch's batch normalisation."""

    out_features = 5

    def __init__(self):
        super().__init__(
            nn.Linear(N_FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5)
        )
        for p in self.parameters():
            nn.init.uniform_(p, 0.2, 1.5, generator=rng(4))
            with torch.no_grad():
                p.flatten()[::2].neg_()


@pytest.mark.parametrize("transductive", [False, True])
def test_meta_gradient_through_converted_batch_norm(method, transductive):
    backbone = convert_batch_norm(Normalised())
    learner = make_learner(backbone, transductive=transductive)
    assert_finite_differences_agree(learner, make_episodes())


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("backbone", [mlp, conv_net], ids=["mlp", "conv"])
def test_loop_and_vmap_agree(monkeypatch, backbone, first_order):
    shape = (N_FEATURES,) if backbone is mlp else (1, 6, 6)
    learner = make_learner(backbone(), "local", first_order=first_order)
    episodes = make_episodes(shape, "local")
    found = {}
    for method in ("loop", "vmap"):
        monkeypatch.setattr(network, "mapping_method", lambda *_, m=method: m)
        found[method] = meta_gradient(learner, episodes)
    torch.testing.assert_close(found["loop"][0], found["vmap"][0])
    assert_same_gradients(found["loop"][1], found["vmap"][1])


def plain_maml(learner, episodes, *, detach):
    """MAML on a two-layer MLP, one task after another, written out."""
    names = [f"backbone.layers.{i}.{k}" for i in (0, 2) for k in ("weight", "bias")]
    initial = [learner.get_parameter(n) for n in (*names, "head.weight", "head.bias")]

    def loss(weights, x, y):
        w1, b1, w2, b2, w3, b3 = weights
        h = torch.relu(torch.relu(x @ w1.T + b1) @ w2.T + b2)
        return F.cross_entropy(h @ w3.T + b3, y)

    losses = []
    for task in range(len(episodes)):
        weights = initial
        support, query = episodes.support, episodes.query
        own, asked = support.mask[task], query.mask[task]
        for _ in range(learner.inner_steps):
            inner = loss(weights, support.x[task][own], support.y[task][own])
            gradients = torch.autograd.grad(inner, weights, create_graph=True)
            if detach:
                gradients = [g.detach() for g in gradients]
            weights = [
                w - learner.inner_lr * g
                for w, g in zip(weights, gradients, strict=True)
            ]
        losses.append(loss(weights, query.x[task][asked], query.y[task][asked]))
    total = torch.stack(losses).sum()
    return total, torch.autograd.grad(total, initial)


@pytest.mark.parametrize("first_order", [False, True])
def test_equals_plain_loop_over_tasks(method, first_order):
    learner = make_learner(mlp(), first_order=first_order, inner_steps=3)
    episodes = make_episodes(ragged=True)
    loss, gradient = meta_gradient(learner, episodes)
    plain_loss, plain_gradient = plain_maml(learner, episodes, detach=first_order)
    torch.testing.assert_close(loss, plain_loss)
    assert_same_gradients(gradient, plain_gradient)


def test_first_order_differs_from_second_order():
    episodes = make_episodes()
    _, second = meta_gradient(make_learner(mlp()), episodes)
    _, first = meta_gradient(make_learner(mlp(), first_order=True), episodes)
    assert not torch.allclose(first[0], second[0], rtol=1e-3)


def test_one_step_on_linear_model_in_closed_form():
    lr = 0.05
    backbone = nn.Identity()
    backbone.out_features = N_FEATURES
    learner = make_learner(backbone, "numbers", inner_lr=lr, inner_steps=1)
    episodes = make_episodes(target="numbers")
    loss, gradient = meta_gradient(learner, episodes)

    theta = np.c_[learner.head.weight.detach(), learner.head.bias.detach()].T  # (F+1,2)
    expected_loss, expected_gradient = 0.0, np.zeros_like(theta)
    for task in range(N_TASKS):
        a, b = (
            np.c_[rows.x[task].numpy(), np.ones(rows.x.shape[1])]
            for rows in (episodes.support, episodes.query)
        )
        ys, yq = episodes.support.y[task].numpy(), episodes.query.y[task].numpy()
        adapted = theta - lr * 2 / ys.size * a.T @ (a @ theta - ys)
        residual = b @ adapted - yq
        expected_loss += (residual**2).mean()
        by_adapted = 2 / yq.size * b.T @ residual
        expected_gradient += by_adapted - lr * 2 / ys.size * a.T @ a @ by_adapted
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    found = np.c_[gradient[0], gradient[1]].T
    np.testing.assert_allclose(found, expected_gradient, rtol=1e-10)


def test_adapting_lowers_the_support_loss_and_leaves_the_weights_alone():
    learner = make_learner(mlp(), inner_steps=20, inner_lr=0.3)
    before = copy.deepcopy(learner.state_dict())
    support = make_episodes().support
    with torch.no_grad():
        untouched = learner.with_options(inner_steps=0)
        start = learner.loss(
            untouched.predict(untouched.adapt(support), support.x), support
        )
        end = learner.loss(learner.predict(learner.adapt(support), support.x), support)
    assert (end < start - 0.1).all()
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])


def test_adapted_weights_carry_no_graph_without_gradients():
    learner = make_learner(mlp(), "local")
    with torch.no_grad():
        state = learner.adapt(make_episodes(target="local").support)
    assert not any(w.requires_grad for w in state["parameters"].values())


@pytest.mark.parametrize("backbone", [mlp, conv_net], ids=["mlp", "conv"])
def test_padding_changes_nothing(backbone):
    shape = (N_FEATURES,) if backbone is mlp else (1, 6, 6)
    learner = make_learner(backbone())
    episodes = make_episodes(shape, ragged=True)
    episodes.support.x[~episodes.support.mask] = 1e3
    episodes.query.x[~episodes.query.mask] = -1e3
    batch = list(learner.parameters())
    together, alone = 0.0, 0.0
    for part in episodes.parts(None, equal_rows=learner.needs_equal_rows):
        together = together + learner.meta_loss(part).sum()
    for task in range(N_TASKS):
        alone = alone + learner.meta_loss(episodes[task : task + 1].trimmed()).sum()
    torch.testing.assert_close(together, alone)
    assert_same_gradients(
        torch.autograd.grad(together, batch), torch.autograd.grad(alone, batch)
    )


def test_inductive_prediction_does_not_depend_on_other_query_rows():
    episodes = make_episodes((1, 6, 6))
    inductive = make_learner(conv_net())
    transductive = make_learner(conv_net(), transductive=True)
    with torch.no_grad():
        for learner, same in ((inductive, True), (transductive, False)):
            state = learner.adapt(episodes.support)
            batch = learner.predict(state, episodes.query.x)[:, :2]
            fewer = learner.predict(state, episodes.query.x[:, :2])
            assert torch.allclose(batch, fewer, rtol=1e-10, atol=1e-12) == same


def test_support_statistics_carry_gradient():
    learner = make_learner(conv_net())
    state = learner.adapt(make_episodes((1, 6, 6)).support)
    assert set(state["statistics"]) == {
        name
        for name, layer in learner.backbone.named_modules()
        if isinstance(layer, TaskBatchNorm)
    }
    for mean, var in state["statistics"].values():
        assert mean.requires_grad and var.requires_grad
        assert len(mean) == len(var) == N_TASKS


def test_running_averages_do_not_move():
    learner = make_learner(conv_net()).train()
    before = {n: b.clone() for n, b in learner.named_buffers()}
    learner.meta_loss(make_episodes((1, 6, 6))).sum().backward()
    for name, buffer in learner.named_buffers():
        assert torch.equal(buffer, before[name])


def test_local_labels_absent_ways_are_minus_infinity():
    learner = make_learner(mlp(), "local")
    episodes = make_episodes(target="local")
    outputs = learner.predict(learner.adapt(episodes.support), episodes.query.x)
    assert torch.isneginf(outputs[1, :, -1]).all()
    assert torch.isfinite(outputs[0]).all()


@pytest.mark.parametrize(("steps", "moves"), [(1, False), (2, True)])
def test_local_labels_from_zero_the_first_step_moves_the_head_alone(steps, moves):
    learner = make_learner(mlp(), "local", head="shared", inner_steps=steps)
    adapted = learner.adapt(make_episodes(target="local").support)["parameters"]
    assert adapted["head.weight"].abs().amax() > 0
    for name, weight in learner.named_parameters():
        assert torch.equal(adapted[name][0], weight) is not moves


def test_local_labels_names_of_ways_do_not_matter():
    learner = make_learner(mlp(), "local")
    episodes = make_episodes(target="local")[0:1]
    order = torch.tensor([2, 0, 1])
    support = Rows(
        episodes.support.x,
        order[episodes.support.y],
        episodes.support.mask,
        episodes.support.n_way,
    )
    outputs = learner.predict(learner.adapt(episodes.support), episodes.query.x)
    renamed = learner.predict(learner.adapt(support), episodes.query.x)
    torch.testing.assert_close(renamed[..., order], outputs)


def test_local_labels_need_the_number_of_ways():
    learner = make_learner(mlp(), "local")
    with pytest.raises(ValueError, match=r"needs Rows\.n_way"):
        learner.adapt(make_episodes().support)


def test_head_none_trains_the_backbone_alone():
    backbone = nn.Linear(N_FEATURES, N_WAYS)
    learner = MAML(
        backbone, N_WAYS, N_WAYS, task_type="classification", head="none"
    ).double()
    assert learner.head is None
    assert_finite_differences_agree(learner, make_episodes())


def test_frozen_weights_are_neither_adapted_nor_trained():
    learner = make_learner(mlp())
    frozen = learner.backbone.layers[0].requires_grad_(False)
    state = learner.adapt(make_episodes().support)
    assert "backbone.layers.0.weight" not in state["parameters"]
    learner.meta_loss(make_episodes()).sum().backward()
    assert frozen.weight.grad is None
    assert learner.head.weight.grad.abs().sum() > 0


def test_unused_weights_have_no_gradient_and_do_no_harm(method):
    backbone = mlp()
    backbone.unused = nn.Parameter(torch.ones(2))
    learner = make_learner(backbone)
    plain = make_learner(mlp())
    episodes = make_episodes()
    torch.testing.assert_close(learner.meta_loss(episodes), plain.meta_loss(episodes))


# Learned inner rates -------------------------------------------------------------

GRANULARITIES = ["shared", "layer", "parameter"]


def with_other_rates(learner):
    """Give every rate a value of its own, some of them negative."""
    for rates in learner.inner_rates.parameters():
        nn.init.uniform_(rates, -0.05, 0.2, generator=rng(5))
    return learner


@pytest.mark.parametrize(
    ("granularity", "per_step"),
    [("shared", False), ("layer", True), ("parameter", False), ("parameter", True)],
)
@pytest.mark.parametrize("target", ["shared", "local", "numbers"])
def test_meta_gradient_of_learned_rates(method, target, granularity, per_step):
    options = {"learn_inner_lr": granularity, "inner_lr_per_step": per_step}
    learner = with_other_rates(make_learner(mlp(), target, **options))
    episodes = make_episodes(target=target, ragged=True)
    assert_finite_differences_agree(learner, episodes)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("head", ["fixed", "prototype"])
def test_meta_gradient_of_learned_rates_with_other_heads(method, head, granularity):
    learner = make_learner(
        mlp(), "local", head=head, n_ways=N_WAYS, learn_inner_lr=granularity
    )
    assert_finite_differences_agree(
        with_other_rates(learner), make_episodes(target="local")
    )


def test_meta_gradient_of_learned_rates_of_conv_net(method):
    learner = make_learner(conv_net(), "local", learn_inner_lr="parameter")
    assert_finite_differences_agree(
        with_other_rates(learner), make_episodes((1, 6, 6), "local")
    )


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("target", ["shared", "local", "numbers"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_equal_rates_are_plain_maml(granularity, target, first_order):
    episodes = make_episodes(target=target, ragged=True)
    same = {"inner_lr": 0.125, "inner_steps": 3, "first_order": first_order}
    plain = make_learner(mlp(), target, **same)
    learned = make_learner(
        mlp(), target, learn_inner_lr=granularity, inner_lr_per_step=True, **same
    )
    loss, gradient = meta_gradient(plain, episodes)
    own_loss, own_gradient = meta_gradient(learned, episodes)
    torch.testing.assert_close(own_loss, loss)
    n_rates = len(list(learned.inner_rates.parameters()))
    assert_same_gradients(own_gradient[:-n_rates], gradient)
    assert all(g.abs().sum() > 0 for g in own_gradient[-n_rates:])


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_rates_of_each_step(granularity):
    rates, episodes = [0.25, 0.125, 0.5], make_episodes()
    fixed = make_learner(mlp(), inner_lr=rates, inner_steps=3)
    learned = make_learner(
        mlp(),
        inner_lr=rates,
        inner_steps=3,
        learn_inner_lr=granularity,
        inner_lr_per_step=True,
    )
    one_by_one = make_learner(mlp(), inner_steps=0)
    ways = one_by_one.ways(episodes.support)
    weights = one_by_one.initial_weights(episodes.support)
    for rate in rates:
        gradients = one_by_one.support_gradients(
            weights, episodes.support, ways, create_graph=False
        )
        weights = {name: w - rate * gradients[name] for name, w in weights.items()}
    for learner in (fixed, learned):
        adapted = learner.adapt(episodes.support)["parameters"]
        for name, weight in weights.items():
            torch.testing.assert_close(adapted[name], weight)


@pytest.mark.parametrize("learn", [False, "shared", "layer", "parameter"])
def test_steps_beyond_the_last_rate_use_it_on(learn):
    support = make_episodes().support
    options = {"learn_inner_lr": learn, "inner_lr_per_step": bool(learn)}
    short = make_learner(mlp(), inner_lr=[0.25, 0.125], inner_steps=2, **options)
    long = make_learner(
        mlp(), inner_lr=[0.25, 0.125, 0.125, 0.125], inner_steps=4, **options
    )
    found = short.with_options(inner_steps=4).adapt(support)["parameters"]
    for name, weight in long.adapt(support)["parameters"].items():
        torch.testing.assert_close(found[name], weight)


def test_learned_rates_are_no_adaptation_option():
    learner = make_learner(mlp(), learn_inner_lr="layer")
    with pytest.raises(ValueError, match="no adaptation option"):
        learner.with_options(inner_lr=0.5)


@pytest.mark.parametrize("head", ["shared", "prototype"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_learned_rates_take_more_ways_than_in_training(head, granularity):
    learner = make_learner(mlp(), "local", head=head, learn_inner_lr=granularity)
    x = torch.randn(1, 24, N_FEATURES, generator=rng(), dtype=torch.float64)
    y, n_way = torch.arange(24)[None] % 12, torch.tensor([12])
    support = Rows(x, y, torch.ones(1, 24, dtype=torch.bool), n_way)
    outputs = learner.predict(learner.adapt(support), x)
    order = torch.randperm(12, generator=rng())
    renamed = Rows(x, order[y], support.mask, n_way)
    other = learner.predict(learner.adapt(renamed), x)
    torch.testing.assert_close(other[..., order], outputs)


def test_rates_of_unfrozen_weights_are_asked_for():
    backbone = mlp()
    backbone.layers[0].requires_grad_(False)
    learner = make_learner(backbone, learn_inner_lr="layer")
    learner.meta_loss(make_episodes())
    backbone.layers[0].requires_grad_(True)
    with pytest.raises(ValueError, match=r"layers\.0\.weight' has no inner rate.*Unfr"):
        learner.meta_loss(make_episodes())


@pytest.mark.parametrize("first_order", [False, True])
def test_checkpointed_steps_have_the_gradients_of_rates(first_order):
    options = {"learn_inner_lr": "parameter", "inner_lr_per_step": True}
    options |= {"inner_steps": 3, "first_order": first_order}
    kept = with_other_rates(make_learner(mlp(), **options))
    again = with_other_rates(make_learner(mlp(), checkpoint_steps=True, **options))
    episodes = make_episodes()
    assert_same_gradients(
        meta_gradient(kept, episodes)[1], meta_gradient(again, episodes)[1]
    )


# The multi-step loss -------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [2, 5])
def test_importance_of_steps_goes_from_all_alike_to_the_last(n_steps):
    for left in (1, 0.6, 0):
        found = step_importance(n_steps, left)
        expected = [left / n_steps] * (n_steps - 1)
        assert found[:-1].tolist() == pytest.approx(expected)
        assert found.sum() == pytest.approx(1)
    assert step_importance(n_steps, 0)[-1] == 1


def losses_after_each_step(learner, episodes, n_steps):
    plain = [
        make_learner(mlp(), inner_steps=j, inner_lr=learner.inner_lr)
        for j in range(1, n_steps + 1)
    ]
    return torch.stack([one.meta_loss(episodes) for one in plain])


@pytest.mark.parametrize(
    ("n_done", "weights"),
    [
        (0, [1 / 3, 1 / 3, 1 / 3]),
        (4, [0.2, 0.2, 0.6]),
        (9, [1 / 30, 1 / 30, 28 / 30]),
        (10, [0, 0, 1]),
        (25, [0, 0, 1]),
    ],
)
def test_multi_step_loss_is_the_weighted_sum(n_done, weights):
    learner = make_learner(mlp(), inner_steps=3, multi_step_loss=10)
    learner.progress = Progress(n_done)
    episodes = make_episodes(ragged=True)
    each = losses_after_each_step(learner, episodes, 3)
    expected = (torch.tensor(weights, dtype=torch.float64)[:, None] * each).sum(0)
    torch.testing.assert_close(learner.meta_loss(episodes), expected)
    with torch.no_grad():  # held-out tasks are judged as they will be used
        torch.testing.assert_close(learner.meta_loss(episodes), each[-1])


@pytest.mark.parametrize("backbone", [mlp, conv_net], ids=["mlp", "conv"])
def test_meta_gradient_of_the_multi_step_loss(method, backbone):
    shape = (N_FEATURES,) if backbone is mlp else (1, 6, 6)
    learner = make_learner(backbone(), "local", inner_steps=3, multi_step_loss=10)
    learner.progress = Progress(4)
    assert_finite_differences_agree(learner, make_episodes(shape, "local"))


def test_multi_step_loss_with_learned_rates():
    learner = make_learner(
        mlp(),
        multi_step_loss=4,
        learn_inner_lr="layer",
        inner_lr_per_step=True,
        second_order_from=1,
    )
    learner.progress = Progress(1)
    assert_finite_differences_agree(with_other_rates(learner), make_episodes())


def test_importance_is_written_in_place_and_stages_tell_operations_apart():
    learner = make_learner(mlp(), multi_step_loss=3, second_order_from=2)
    place, stages = learner.importance.data_ptr(), []
    for n_done in range(5):
        learner.progress = Progress(n_done)
        stages.append(learner.stage)
        if n_done < 3:
            assert learner.importance.data_ptr() == place
    assert stages[0] == stages[1]
    assert len({*stages}) == 3
    assert stages[3] == stages[4] == make_learner(mlp()).stage


# Derivative-order annealing ------------------------------------------------------


@pytest.mark.parametrize("n_done", [0, 2, 3, 9])
def test_order_switches_at_the_update(n_done):
    learner = make_learner(mlp(), second_order_from=3)
    learner.progress = Progress(n_done)
    same = make_learner(mlp(), first_order=n_done < 3)
    episodes = make_episodes()
    assert_same_gradients(
        meta_gradient(learner, episodes)[1], meta_gradient(same, episodes)[1]
    )


def trained_weights(n_updates, **options):
    waves = make_sinusoids(20, random_state=0)
    meta = MAMLRegressor(
        lambda shape: MLP(shape[0], (8,)),
        inner_steps=2,
        max_iter=n_updates,
        batch_size=4,
        random_state=0,
        device="cpu",
        **options,
    )
    return meta.fit(waves).learner_.state_dict()


def same_weights(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_order_switches_at_the_update_in_fit():
    annealed = trained_weights(3, second_order_from=3)
    assert same_weights(annealed, trained_weights(3, first_order=True))
    assert not same_weights(annealed, trained_weights(3))
    after = trained_weights(4, second_order_from=3)
    assert not same_weights(after, trained_weights(4, first_order=True))
    assert same_weights(trained_weights(2, second_order_from=0), trained_weights(2))


def test_multi_step_loss_is_annealed_in_fit():
    """It differs from the first update on, and training ends without it."""
    plain, annealed = trained_weights(1), trained_weights(1, multi_step_loss=1)
    assert not same_weights(plain, annealed)
    assert plain.keys() == annealed.keys()


@pytest.mark.parametrize(
    "options",
    [
        {"multi_step_loss": 80, "second_order_from": 40},
        {"learn_inner_lr": "layer", "inner_lr_per_step": True},
        {"learn_inner_lr": "parameter", "multi_step_loss": 200},
    ],
)
def test_replayed_meta_updates_follow_what_is_annealed(monkeypatch, options):
    replayed = trained_weights(120, **options)
    monkeypatch.setattr(updates, "can_be_recorded", lambda learner: False)
    for name, weight in trained_weights(120, **options).items():
        torch.testing.assert_close(replayed[name], weight, rtol=1e-3, atol=1e-4)
