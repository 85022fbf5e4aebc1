import pytest
import torch

from sklmeta.backbones import MLP


def test_layers_and_values():
    net = MLP(3, hidden=(5, 4), generator=torch.Generator().manual_seed(0))
    weights = list(net.parameters())
    assert [tuple(w.shape) for w in weights] == [(5, 3), (5,), (4, 5), (4,)]
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    expected = x
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        expected = (expected @ weight.T + bias).clamp(min=0)
    torch.testing.assert_close(net(x), expected)
    assert net.out_features == 4


def test_no_hidden_layer_passes_features_on():
    net = MLP(3, hidden=())
    x = torch.ones(2, 3)
    assert torch.equal(net(x), x)
    assert net.out_features == 3


def test_generator_decides_and_global_rng_is_left_alone():
    before = torch.get_rng_state()
    first, second, other = (
        MLP(3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    free, freer = MLP(3), MLP(3)
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
        assert not torch.equal(weight, other.state_dict()[name])
        assert not torch.equal(free.state_dict()[name], freer.state_dict()[name])


@pytest.mark.parametrize(("n_features", "hidden"), [(0, (4,)), (3, (4, 0))])
def test_refuses_empty_layers(n_features, hidden):
    with pytest.raises(ValueError, match=rf"n_features={n_features}"):
        MLP(n_features, hidden)
