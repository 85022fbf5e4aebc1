import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from sklmeta.backbones import ConvNet
from sklmeta.backbones.normalization import (
    TaskBatchNorm,
    batch_statistics,
    given_statistics,
    recorded_statistics,
)


def images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def net(input_shape, **options):
    return ConvNet(input_shape, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize(
    ("input_shape", "downsample", "out_features"),
    [
        ((1, 28, 28), "pool", 64),
        ((1, 28, 28), "stride", 64 * 2 * 2),
        ((1, 8, 8), "pool", 64),
        ((1, 8, 8), "stride", 64),
        ((3, 32, 32), "pool", 64 * 2 * 2),
        ((3, 32, 32), "stride", 64 * 2 * 2),
        ((3, 84, 84), "pool", 1600),
        ((2, 7, 1), "pool", 64 * 7),
        ((2, 5, 9), "stride", 64 * 1 * 2),
    ],
)
def test_output_size(input_shape, downsample, out_features):
    backbone = net(input_shape, downsample=downsample)
    assert backbone.out_features == out_features
    assert backbone(images(2, *input_shape)).shape == (2, out_features)


@pytest.mark.parametrize(
    ("n_halvings", "map_shape"),
    [(None, (64, 1, 1)), (2, (64, 7, 7)), (0, (64, 28, 28)), (9, (64, 1, 1))],
)
def test_first_blocks_alone_may_halve(n_halvings, map_shape):
    backbone = net((1, 28, 28), n_halvings=n_halvings)
    x = images(2, 1, 28, 28)
    assert backbone.map_shape == backbone.blocks(x).shape[1:] == map_shape
    assert torch.equal(backbone(x), backbone.blocks(x).flatten(1))
    with pytest.raises(ValueError, match="n_halvings must be 0 or more, got -1"):
        net((1, 28, 28), n_halvings=-1)


@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_equals_the_papers_blocks(downsample):
    backbone = net((3, 9, 9), width=5, n_blocks=2, downsample=downsample)
    x = images(4, 3, 9, 9)
    expected = x
    stride = 2 if downsample == "stride" else 1
    for block in backbone.blocks:
        expected = nn.functional.conv2d(
            expected, block[0].weight, stride=stride, padding=1
        )
        expected = nn.functional.batch_norm(expected, None, None, training=True)
        expected = expected.relu()
        if downsample == "pool":
            expected = nn.functional.max_pool2d(expected, 2)
    torch.testing.assert_close(backbone(x), expected.flatten(1))


def gradients(backbone, x):
    backbone.zero_grad()
    backbone(x).square().sum().backward()
    return [parameter.grad.clone() for parameter in backbone.parameters()]


@pytest.mark.parametrize("downsample", ["pool", "stride"])
def test_channels_last_gives_the_same_values(downsample):
    backbone = net((3, 8, 8), width=4, downsample=downsample).double()
    x = images(3, 3, 8, 8).double()
    last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(backbone(last), backbone(x))
    torch.testing.assert_close(gradients(backbone, last), gradients(backbone, x))


def in_mode(mode, backbone, x):
    """Return features of a backbone in one of the ways that it can be run."""
    if mode in ("training", "evaluation"):
        return backbone.train(mode == "training")(x)
    with batch_statistics(backbone, record=mode != "batch"):
        if mode == "batch":
            return backbone(x)
        backbone(x[:3])
        statistics = recorded_statistics(backbone)
        if mode == "record":
            parts = [part for pair in statistics.values() for part in pair]
            return torch.cat([backbone(x).flatten(), *parts])
    with given_statistics(backbone, statistics):
        return backbone(x)


@pytest.mark.parametrize("downsample", ["pool", "stride"])
@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("mode", ["training", "evaluation", "batch", "record", "given"])
def test_blocks_are_their_layers_one_after_another(mode, tracks, downsample):
    backbone = net((2, 9, 8), width=4, n_blocks=2, downsample=downsample).double()
    for layer in backbone.modules():
        if isinstance(layer, TaskBatchNorm):
            with torch.no_grad():  # of either sign
                layer.weight.copy_(torch.linspace(-1, 2, 4))
                layer.bias.copy_(torch.linspace(-0.3, 0.4, 4))
            if not tracks:
                layer.running_mean = layer.running_var = None
    layers = nn.Sequential(
        *(nn.Sequential(*copy.deepcopy(block)) for block in backbone.blocks)
    )
    x, results = images(7, 2, 9, 8).double(), []
    for one in (backbone, nn.Sequential(layers, nn.Flatten())):
        outputs = in_mode(mode, one, x)
        weights = [p for p in one.parameters()]
        loss = outputs.pow(2).mul(
            torch.linspace(0, 1, outputs.numel()).view_as(outputs)
        )
        first = torch.autograd.grad(loss.sum(), weights, create_graph=True)
        total = sum(
            (g * torch.linspace(0, 1, g.numel()).view_as(g)).sum() for g in first
        )
        second = torch.autograd.grad(total, weights, materialize_grads=True)
        results.append((outputs, *first, *second, *one.buffers()))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_layers_that_were_hooked_or_replaced_are_called():
    x, seen = images(3, 1, 8, 8), []
    hooked = net((1, 8, 8), width=4)
    hooked.blocks[1][1].register_forward_hook(lambda *args: seen.append(args[2].shape))
    hooked(x)
    assert seen == [(3, 4, 4, 4)]
    replaced = net((1, 8, 8), width=4)
    replaced.blocks[0][1] = nn.Sequential(replaced.blocks[0][1], nn.Dropout(1.0))
    first = replaced.blocks[0](x)
    assert torch.equal(first, torch.zeros_like(first))


def test_tasks_can_be_mapped():
    backbone = net((1, 8, 8), width=4)
    x = images(2, 5, 8, 8, 1).permute(0, 1, 4, 2, 3)
    weights = {name: torch.stack([p, 2 * p]) for name, p in backbone.named_parameters()}
    with batch_statistics(backbone):
        mapped = vmap(lambda w, x: functional_call(backbone, w, (x,)))(weights, x)
        for task in range(2):
            own = {name: p[task] for name, p in weights.items()}
            expected = functional_call(backbone, own, (x[task],))
            torch.testing.assert_close(mapped[task], expected)


def test_generator_decides_and_global_rng_is_left_alone():
    before = torch.get_rng_state()
    first, second = net((1, 8, 8)), net((1, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    assert not torch.equal(
        ConvNet((1, 8, 8)).blocks[0][0].weight, ConvNet((1, 8, 8)).blocks[0][0].weight
    )


def test_copies_keep_weights_channels_last():
    weight = copy.deepcopy(net((3, 8, 8))).blocks[0][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_normalisation_is_ours():
    kinds = [type(layer) for layer in net((1, 8, 8)).modules()]
    assert kinds.count(TaskBatchNorm) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (28, 28)}, r"\(channels, height, width\).*\(28, 28\)"),
        ({"input_shape": (1, 28, 0)}, r"\(1, 28, 0\)"),
        ({"width": 0}, "width=0"),
        ({"n_blocks": 0}, "n_blocks=0"),
        ({"downsample": "none"}, "'pool' or 'stride', got 'none'"),
    ],
)
def test_refuses_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNet(**{"input_shape": (1, 8, 8), **options})
