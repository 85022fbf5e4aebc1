import math

import pytest
import torch
from torch import nn

from sklmeta.backbones.initialization import make_conv, make_linear


@pytest.mark.parametrize(
    ("make", "torchs", "fan_in"),
    [
        (make_linear, lambda: nn.Linear(50, 400), 50),
        (make_conv, lambda: nn.Conv2d(50, 400, 3, padding=1), 450),
    ],
)
def test_same_distribution_as_torchs_layer(make, torchs, fan_in):
    layer = make(50, 400, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = torchs()
    bound = 1 / math.sqrt(fan_in)
    quantiles = torch.linspace(0, 1, 11, dtype=torch.float64)
    for name, ours in layer.named_parameters():
        theirs = reference.get_parameter(name)
        assert ours.shape == theirs.shape
        # Both are uniform in (-bound, bound): deciles agree, up to sampling error.
        tolerance = 4 * bound / math.sqrt(ours.numel())
        deciles = bound * (2 * quantiles - 1)
        for weights in (ours, theirs):
            values = weights.detach().double().flatten()
            assert values.abs().max() <= bound
            found = torch.quantile(values, quantiles)
            torch.testing.assert_close(found, deciles, rtol=0, atol=tolerance)


def test_layers_compute_what_torchs_do():
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    layer = make_conv(3, 4, stride=2, bias=False)
    reference = nn.functional.conv2d(x, layer.weight, stride=2, padding=1)
    torch.testing.assert_close(layer(x), reference)
    assert layer.bias is None
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    assert make_linear(3, 4, bias=False).bias is None
    assert all(weight.requires_grad for weight in make_linear(3, 4).parameters())
