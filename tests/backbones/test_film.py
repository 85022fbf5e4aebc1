import copy
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from sklmeta.backbones import ConvNet, FiLM
from sklmeta.backbones.film import insert_film
from sklmeta.backbones.normalization import TaskBatchNorm


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def films_of(module):
    return [name for name, layer in module.named_modules() if isinstance(layer, FiLM)]


def test_scales_and_shifts_channels():
    layer, x = FiLM(3, 2, generator=rng()), torch.randn(5, 2, 4, 4, generator=rng(1))
    context = torch.tensor([1.0, -2.0, 0.5])
    found = functional_call(layer, {"context": context}, (x,))
    scale, shift = (layer.weight @ context).reshape(2, 2)
    for c in range(2):
        torch.testing.assert_close(found[:, c], x[:, c] * (1 + scale[c]) + shift[c])


@pytest.mark.parametrize("shape", [(5, 2), (5, 2, 3), (5, 2, 3, 4, 2)])
def test_changes_nothing_without_context(shape):
    x = torch.randn(shape, generator=rng())
    assert torch.equal(FiLM(3, 2, generator=rng())(x), x)


def test_every_task_has_its_own_context_under_vmap():
    layer, x = FiLM(3, 2, generator=rng()), torch.randn(4, 5, 2, 3, generator=rng(1))
    contexts = torch.randn(4, 3, generator=rng(2))

    def modulated(context, x):
        return functional_call(layer, {"context": context}, (x,))

    found = vmap(modulated)(contexts, x)
    for own, context, rows in zip(found, contexts, x, strict=True):
        torch.testing.assert_close(own, modulated(context, rows))


def test_state_dict_holds_weights_alone():
    assert set(FiLM(3, 2).state_dict()) == {"weight"}


def test_seeds_decide_the_weights():
    before = torch.get_rng_state()
    first, second = (FiLM(3, 2, generator=rng(7)).weight for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_comes_behind_the_third_of_four_normalisations():
    net = insert_film(ConvNet((1, 16, 16), 4), 3, 4)
    (name,) = films_of(net)
    before = name.rpartition(".")[0] + ".0"
    assert isinstance(net.get_submodule(before), TaskBatchNorm)
    norms = [n for n, m in net.named_modules() if isinstance(m, TaskBatchNorm)]
    assert before == norms[2]


def test_leaves_the_net_as_it_was_without_context():
    x = torch.randn(3, 1, 16, 16, generator=rng(1))
    plain = ConvNet((1, 16, 16), 4, generator=rng())
    modulated = insert_film(copy.deepcopy(plain), 3, 4)
    torch.testing.assert_close(modulated(x), plain(x))


def conv(n_in, n_out):
    return nn.Conv2d(n_in, n_out, 3, padding=1)


@pytest.mark.parametrize(
    ("net", "place", "n_channels"),
    [
        (nn.Sequential(conv(1, 4), nn.ReLU(), nn.Flatten()), "0.1", 4),
        (nn.Sequential(conv(1, 4), nn.GroupNorm(2, 4), nn.Flatten()), "1.1", 4),
        (nn.Sequential(conv(1, 4), nn.InstanceNorm2d(4), nn.Flatten()), "1.1", 4),
        (nn.Sequential(conv(1, 2), conv(2, 3), nn.Flatten()), "1.1", 3),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 6)), "1", 6),
    ],
    ids=["convolution", "group norm", "instance norm", "second", "features"],
)
def test_place_in_nets_of_users(net, place, n_channels):
    n_features = net(torch.zeros(1, 1, 3, 3)).shape[1]
    found = insert_film(net, 3, n_features)
    assert films_of(found) == [place]
    assert found.get_submodule(place).weight.shape == (2 * n_channels, 3)
    assert found(torch.zeros(2, 1, 3, 3)).shape == (2, n_features)


def test_a_layer_used_twice_is_modulated_in_both_places():
    norm = nn.GroupNorm(1, 4)
    net = nn.Sequential(conv(1, 4), norm, nn.ReLU(), conv(4, 4), norm, nn.Flatten())
    found = insert_film(net, 3, 36)
    assert found[1] is found[4]
    assert isinstance(found[1][1], FiLM)


def test_a_layer_alone_is_wrapped():
    found = insert_film(nn.GroupNorm(1, 4), 3, 4)
    assert films_of(found) == ["1"]


class Weighed(nn.Module):
    """A net whose forward reads attributes of its layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        assert self.conv.out_channels == 4
        assert self.conv[0].stride == (1, 1)
        return self.conv(x).flatten(1) + self.conv.weight.mean() + self.conv.bias[0]


def test_a_modulated_layer_has_its_attributes():
    net, x = insert_film(Weighed(), 3, 4), torch.randn(2, 1, 3, 3, generator=rng())
    assert films_of(net) == ["conv.1"]
    conv, shift = net.conv[0], net.conv.weight.mean() + net.conv.bias[0]
    torch.testing.assert_close(net(x), conv(x).flatten(1) + shift)
    other = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    assert not functional_call(net, other, (x,)).any()
    again = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    torch.testing.assert_close(again(x), net(x))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = net.conv.nothing
    assert len(net.state_dict()) == 3


def test_a_net_with_films_of_its_own_is_left_alone():
    net = nn.Sequential(conv(1, 4), FiLM(3, 4), nn.BatchNorm2d(4))
    assert insert_film(net, 3, 4) is net
    assert films_of(net) == ["1"]


def test_can_be_copied_and_pickled():
    net = insert_film(ConvNet((1, 8, 8), 4), 3, 4)
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert films_of(again) == films_of(net)
