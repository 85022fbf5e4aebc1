"""Pre-trained weights by their names, and what is said of those of another net."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from sklmeta.backbones import load_weights


class Encoder(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)


@pytest.fixture
def trained():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Encoder()
    net.norm.running_mean.fill_(0.5)
    net.norm.num_batches_tracked.fill_(7)
    return net


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in b)


def test_weights_and_buffers_are_loaded_and_the_module_returned(trained):
    fresh = Encoder()
    assert load_weights(fresh, trained.state_dict()) is fresh
    assert same(fresh.state_dict(), trained.state_dict())
    fresh.conv.weight.data.zero_()
    assert trained.conv.weight.abs().min() > 0


def test_a_path_is_read(trained, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(trained.state_dict(), path)
    for given in (path, str(path)):
        assert same(load_weights(Encoder(), given).state_dict(), trained.state_dict())
    with pytest.raises(FileNotFoundError):
        load_weights(Encoder(), tmp_path / "none.pt")


def test_a_file_whose_code_would_have_to_run_is_refused(trained, tmp_path):
    torch.save(trained, tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"module\.pt.*torch\.save\(module\.state"):
        load_weights(Encoder(), tmp_path / "module.pt")


@pytest.mark.parametrize("prefix", ["module.", "encoder.net."])
def test_a_prefix_is_dropped_and_other_parts_are_left_out(trained, prefix):
    weights = {prefix + name: value for name, value in trained.state_dict().items()}
    weights["decoder.weight"] = torch.zeros(2)
    found = load_weights(Encoder(), weights, prefix=prefix).state_dict()
    assert same(found, trained.state_dict())
    with pytest.raises(ValueError, match=r"prefix='other\.'.*'" + prefix):
        load_weights(Encoder(), weights, prefix="other.")


@pytest.mark.parametrize("ignore", ["head", ["head.*"], ("h*d", "head.bias")])
def test_ignored_weights_are_neither_loaded_nor_missed(trained, ignore):
    weights = trained.state_dict()
    weights["head.weight"] = torch.zeros(99, 4)  # of another number of classes
    del weights["head.bias"]
    fresh = Encoder()
    before = fresh.head.weight.clone()
    load_weights(fresh, weights, ignore=ignore)
    assert torch.equal(fresh.head.weight, before)
    assert torch.equal(fresh.conv.weight, trained.conv.weight)


def test_counters_of_batch_normalisation_may_be_missing(trained):
    weights = trained.state_dict()
    del weights["norm.num_batches_tracked"]
    fresh = load_weights(Encoder(), weights)
    assert torch.equal(fresh.norm.running_mean, trained.norm.running_mean)
    del weights["norm.running_mean"]
    with pytest.raises(ValueError, match=r"missing: norm\.running_mean"):
        load_weights(Encoder(), weights)


def test_another_architecture_is_refused_with_what_differs_and_changes_nothing(trained):
    fresh = Encoder()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    weights = trained.state_dict()
    weights["extra"] = torch.zeros(3)
    del weights["conv.bias"]
    weights["head.weight"] = torch.zeros(5, 4)
    with pytest.raises(ValueError) as caught:
        load_weights(fresh, weights)
    message = str(caught.value)
    assert "not those of this Encoder" in message
    assert "missing: conv.bias" in message
    assert "unexpected: extra" in message
    assert "of another shape: head.weight (5, 4), needed (10, 4)" in message
    assert "prefix=" in message
    assert "ignore=" in message
    assert same(fresh.state_dict(), before)


def test_a_few_of_many_differences_are_listed():
    other = nn.Sequential(*[nn.Linear(1, 1) for _ in range(5)])
    with pytest.raises(ValueError, match=r"unexpected: 0\.weight.* and 6 more\. Build"):
        load_weights(Encoder(), other.state_dict())


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (3, "got int"),
        ({"state_dict": OrderedDict(), "epoch": 3}, r"weights\['state_dict'\]"),
        ({"conv.weight": [1.0]}, "'conv.weight'"),
    ],
)
def test_what_is_no_state_dict_is_refused(weights, match):
    with pytest.raises(TypeError, match=match):
        load_weights(Encoder(), weights)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda w: {0: w["0.weight"]}, {}, TypeError, "names to tensors"),
        (lambda w: w, {"ignore": "zzz"}, ValueError, "no weight matches 'zzz'"),
        (lambda w: w, {"ignore": "*"}, ValueError, "none would be loaded"),
        (
            lambda w: {n: v.long() for n, v in w.items()},
            {},
            ValueError,
            "lose its fractions",
        ),
        (
            lambda w: {n: v * torch.nan for n, v in w.items()},
            {},
            ValueError,
            "NaN or infinity",
        ),
    ],
)
def test_weights_that_would_do_nothing_or_harm_are_refused(
    change, options, error, message
):
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(error, match=message):
        load_weights(net, change(net.state_dict()), **options)


def test_what_makes_a_module_is_not_one():
    weights = nn.Linear(3, 2).state_dict()
    with pytest.raises(TypeError, match="give what it returns"):
        load_weights(lambda: nn.Linear(3, 2), weights)
