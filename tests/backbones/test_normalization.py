import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from sklmeta.backbones.normalization import (
    TaskBatchNorm,
    batch_statistics,
    convert_batch_norm,
    given_statistics,
    recorded_statistics,
    uses_batch_statistics,
)

LAYERS = [
    (nn.BatchNorm1d, (6, 3)),
    (nn.BatchNorm1d, (6, 3, 4)),
    (nn.BatchNorm2d, (5, 3, 4, 2)),
    (nn.BatchNorm3d, (2, 3, 4, 2, 3)),
]
OPTIONS = [
    {},
    {"momentum": None, "eps": 0.1},
    {"affine": False},
    {"track_running_stats": False},
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def randomise(module, seed=0):
    """Move every parameter away from its special first value (ones, zeros)."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.add_(
                randn(*parameter.shape, seed=seed + number, dtype=parameter.dtype) / 3
            )
    return module


def same_state(ours, torchs):
    ours, torchs = ours.state_dict(), torchs.state_dict()
    assert list(ours) == list(torchs)
    for name, value in torchs.items():
        torch.testing.assert_close(ours[name], value)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kind", "shape"), LAYERS)
def test_equals_torchs_layer(kind, shape, options):
    theirs = randomise(kind(3, **options))
    ours = TaskBatchNorm(3, **options)
    ours.load_state_dict(theirs.state_dict())
    for seed in range(3):
        x = randn(*shape, seed=seed, dtype=torch.float32) * 2 + 1
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [layer(x) for layer, x in zip((ours, theirs), inputs, strict=True)]
        torch.testing.assert_close(*outputs)
        for output in outputs:
            output.square().mul(x).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
        same_state(ours, theirs)
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, its.grad)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))
    same_state(ours, theirs)


def test_equals_torchs_layer_under_a_transform():
    theirs = randomise(nn.BatchNorm2d(3)).eval()
    ours = convert_batch_norm(copy.deepcopy(theirs))
    x = randn(4, 3, 2, 2, dtype=torch.float32)
    gradients = [
        grad(lambda x, layer=layer: layer(x).pow(3).sum())(x)
        for layer in (ours, theirs)
    ]
    torch.testing.assert_close(*gradients)


def test_running_averages_move_under_vmap_where_they_are_arguments():
    x = randn(2, 4, 3, dtype=torch.float32)
    results = []
    for layer in (TaskBatchNorm(3), nn.BatchNorm1d(3)):
        state = {k: torch.stack([v, v]) for k, v in layer.state_dict().items()}
        outputs = vmap(partial(functional_call, layer))(state, (x,))
        results.append((outputs, state))
    torch.testing.assert_close(*results)
    assert results[0][1]["num_batches_tracked"].tolist() == [1, 1]


@pytest.mark.parametrize("transform", [vmap, grad])
def test_captured_running_averages_do_not_move_under_a_transform(transform):
    layer = TaskBatchNorm(3)
    with pytest.raises(RuntimeError) as caught:
        transform(lambda x: layer(x).sum())(randn(4, 3, 3, dtype=torch.float32))
    assert "batch_statistics(module)" in caught.value.__notes__[0]


def test_one_value_per_channel_is_normalised_to_the_bias():
    layer = randomise(TaskBatchNorm(3))
    before = layer.running_var.clone()
    x = torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(layer(x), layer.bias[None], rtol=0, atol=1e-4)
    torch.testing.assert_close(layer.running_mean, 0.1 * x[0])
    assert torch.equal(layer.running_var, before)
    for record in (False, True):
        with batch_statistics(layer, record=record):
            torch.testing.assert_close(vmap(layer)(x[None])[0], layer.bias[None])


def test_refuses_other_numbers_of_channels():
    with pytest.raises(ValueError, match=r"\(n, 3, \.\.\.\), got \(4, 2\)"):
        TaskBatchNorm(3)(torch.zeros(4, 2))


def test_half_precision_and_empty_batches_pass_through_torchs_layer():
    ours, theirs = TaskBatchNorm(2).bfloat16(), nn.BatchNorm1d(2).bfloat16()
    x = randn(4, 2, dtype=torch.float32).bfloat16()
    assert torch.equal(ours(x), theirs(x))
    with batch_statistics(ours):
        assert ours(x[:0]).shape == (0, 2)


# --- gradients of gradients -------------------------------------------------------


def small_net(kind=nn.BatchNorm2d):
    """Return a float64 net with smooth activations, for finite differences."""
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        kind(2),
        nn.Tanh(),
        nn.Conv2d(2, 2, 3, padding=1),
        kind(2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(2 * 3 * 3, 2),
    )
    return randomise(net.double().train())


def task_losses(net, support_x, support_y, query_x, query_y, *, inductive):
    """Return a function of the weights: each task's loss after one inner step."""

    def loss(weights, x, y):
        return (functional_call(net, weights, (x,)) - y).square().mean()

    def task_loss(weights, sx, sy, qx, qy):
        with batch_statistics(net, record=inductive):
            gradients = grad(loss)(weights, sx, sy)
            adapted = {name: weights[name] - 0.1 * gradients[name] for name in weights}
            if not inductive:
                return loss(adapted, qx, qy)
            functional_call(net, adapted, (sx,))
            statistics = recorded_statistics(net)
        with given_statistics(net, statistics):
            return loss(adapted, qx, qy)

    batched = vmap(task_loss, in_dims=(None, 0, 0, 0, 0))
    return lambda weights: batched(weights, support_x, support_y, query_x, query_y)


@pytest.mark.parametrize("inductive", [False, True])
@pytest.mark.parametrize("kind", [TaskBatchNorm, nn.BatchNorm2d])
def test_meta_gradient_through_vmap_agrees_with_finite_differences(kind, inductive):
    net = convert_batch_norm(small_net(kind))
    data = (
        randn(3, 4, 1, 3, 3, seed=1),
        randn(3, 4, 2, seed=2),
        randn(3, 5, 1, 3, 3, seed=3),
        randn(3, 5, 2, seed=4),
    )
    losses = task_losses(net, *data, inductive=inductive)
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    direction = {
        name: randn(*p.shape, seed=9 + i) for i, (name, p) in enumerate(weights.items())
    }
    leaves = {name: p.clone().requires_grad_() for name, p in weights.items()}
    gradients = torch.autograd.grad(losses(leaves).sum(), list(leaves.values()))

    def slope(towards):
        """Return the derivative of the losses along `towards`, to fourth order."""

        def at(step):
            moved = {name: p + step * towards[name] for name, p in weights.items()}
            return losses(moved).sum()

        h = 1e-4
        return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)

    zeros = {name: torch.zeros_like(p) for name, p in direction.items()}
    parts = []
    for gradient, (name, part) in zip(gradients, direction.items(), strict=True):
        parts.append((gradient * part).sum())
        torch.testing.assert_close(
            parts[-1], slope(zeros | {name: part}), rtol=1e-7, atol=1e-9
        )
    torch.testing.assert_close(sum(parts), slope(direction), rtol=1e-7, atol=1e-9)


def test_loop_and_vmap_give_the_same_meta_gradient():
    net = convert_batch_norm(small_net())
    x, y = randn(3, 4, 1, 3, 3, seed=1), randn(3, 4, 2, seed=2)
    weights = dict(net.named_parameters())
    vmapped = torch.autograd.grad(
        task_losses(net, x, y, x, y, inductive=False)(weights).sum(), weights.values()
    )

    def loss(weights, x, y):
        return (functional_call(net, weights, (x,)) - y).square().mean()

    total = torch.zeros((), dtype=torch.float64)
    with batch_statistics(net):
        for sx, sy in zip(x, y, strict=True):
            gradients = torch.autograd.grad(
                loss(weights, sx, sy), list(weights.values()), create_graph=True
            )
            steps = zip(weights.items(), gradients, strict=True)
            adapted = {name: w - 0.1 * g for (name, w), g in steps}
            total = total + loss(adapted, sx, sy)
    looped = torch.autograd.grad(total, weights.values())
    for one, other in zip(looped, vmapped, strict=True):
        torch.testing.assert_close(one, other)


def test_given_statistics_are_differentiable():
    layer = randomise(TaskBatchNorm(2).double())
    x, mean, var = randn(4, 2, 3), randn(2, seed=1), randn(2, seed=2).square()
    inputs = [tensor.requires_grad_() for tensor in (x, mean, var)]

    def normalise(x, mean, var):
        with given_statistics(layer, {"": (mean, var)}):
            return layer(x)

    assert torch.autograd.gradcheck(normalise, inputs)
    assert torch.autograd.gradgradcheck(normalise, inputs)


# --- contexts -----------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_batch_statistics_leave_the_running_averages_alone(training):
    net = convert_batch_norm(small_net()).train(training)
    x = randn(4, 1, 3, 3)
    before = copy.deepcopy(net.state_dict())
    with batch_statistics(net):
        inside = net(x)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    torch.testing.assert_close(inside, net.train()(x))


@pytest.mark.parametrize("affine", [True, False])
def test_recorded_statistics_reproduce_the_batch(affine):
    net = nn.Sequential(TaskBatchNorm(3, affine=affine), nn.Tanh(), TaskBatchNorm(3))
    net = net.double()
    x = randn(5, 3, 2)
    with batch_statistics(net, record=True):
        outputs = net(x)
        statistics = recorded_statistics(net)
    assert list(statistics) == ["0", "2"]
    mean, var = statistics["0"]
    torch.testing.assert_close(mean, x.mean((0, 2)))
    torch.testing.assert_close(var, x.var((0, 2), correction=0))
    with given_statistics(net, statistics):
        torch.testing.assert_close(net(x), outputs)
        torch.testing.assert_close(net(x[:1]), outputs[:1])


def test_recorded_statistics_are_accurate_far_from_zero():
    layer = TaskBatchNorm(2)
    x = 1000 + randn(50, 2, 8)
    with batch_statistics(layer, record=True):
        layer(x.float())
        mean, var = recorded_statistics(layer)[""]
    expected = x.float().double()
    torch.testing.assert_close(mean.double(), expected.mean((0, 2)), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        var.double(), expected.var((0, 2), correction=0), rtol=1e-4, atol=0
    )


def test_statistics_per_task_inside_vmap():
    layer = randomise(TaskBatchNorm(2).double())
    support, query = randn(3, 4, 2), randn(3, 1, 2, seed=1)

    def adapt(x):
        with batch_statistics(layer, record=True):
            layer(x)
            return recorded_statistics(layer)

    def predict(statistics, x):
        with given_statistics(layer, statistics):
            return layer(x)

    batched = vmap(predict)(vmap(adapt)(support), query)
    for task in range(3):
        torch.testing.assert_close(
            batched[task], predict(adapt(support[task]), query[task])
        )


def test_contexts_are_undone_and_nest():
    layer = TaskBatchNorm(1).eval()
    x = torch.tensor([[1.0], [3.0]])
    outside = layer(x)
    with pytest.raises(ZeroDivisionError), batch_statistics(layer):
        raise ZeroDivisionError
    assert torch.equal(layer(x), outside)
    with batch_statistics(layer, record=True):
        layer(x)
        with given_statistics(layer, {"": (torch.zeros(1), torch.ones(1))}):
            torch.testing.assert_close(layer(x), outside)
        assert recorded_statistics(layer)[""][0].item() == 2.0
    assert torch.equal(layer(x), outside)
    copy.deepcopy(layer)


def test_recorded_statistics_refuse_other_contexts():
    layer = TaskBatchNorm(1)
    for context in (batch_statistics(layer), given_statistics(layer, {})):
        with context, pytest.raises(RuntimeError, match="record=True"):
            recorded_statistics(layer)
    assert recorded_statistics(nn.Linear(1, 1)) == {}


def test_given_statistics_refuse_what_does_not_fit():
    net = nn.Sequential(TaskBatchNorm(1))
    statistics = (torch.zeros(1), torch.ones(1))
    with (
        pytest.raises(ValueError, match=r"\['1'\].*\['0'\]"),
        given_statistics(net, {"1": statistics}),
    ):
        pass
    with (
        given_statistics(net, {}),
        pytest.raises(RuntimeError, match="without statistics"),
    ):
        net(torch.zeros(2, 1))


# --- conversion ---------------------------------------------------------------------


def test_conversion_keeps_tensors_settings_and_shared_layers():
    shared = nn.BatchNorm2d(2, eps=0.1, momentum=None)
    net = nn.Sequential(shared, nn.Sequential(nn.BatchNorm1d(2, affine=False)), shared)
    net[1].eval()
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    converted = convert_batch_norm(net)
    assert converted is net
    assert net[0] is net[2]
    assert isinstance(net[0], TaskBatchNorm)
    assert (net[0].eps, net[0].momentum) == (0.1, None)
    assert net[0].training
    assert not net[1][0].training
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        assert tensor is tensors[name]
    assert not any(type(m).__name__.startswith("BatchNorm") for m in net.modules())


def test_conversion_of_a_single_layer_returns_a_new_one():
    layer = nn.SyncBatchNorm(2)
    converted = convert_batch_norm(layer)
    assert isinstance(converted, TaskBatchNorm)
    assert converted.weight is layer.weight
    assert convert_batch_norm(converted) is converted


def test_conversion_refuses_lazy_and_foreign_layers():
    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    for layer in (nn.LazyBatchNorm1d(), Activated(2)):
        with pytest.raises(
            ValueError, match=rf"Cannot convert 0, a {type(layer).__name__}"
        ):
            convert_batch_norm(nn.Sequential(layer))


def test_uses_batch_statistics():
    assert uses_batch_statistics(nn.Sequential(TaskBatchNorm(1)))
    assert uses_batch_statistics(nn.BatchNorm3d(1))
    assert not uses_batch_statistics(nn.Sequential(nn.Linear(1, 1), nn.GroupNorm(1, 1)))
