"""Which weights are frozen by name, and which layers are fixed by that."""

import copy
import pickle

import pytest
import torch
from torch import nn

from sklmeta.backbones.freezing import (
    freeze_layers,
    is_fixed,
    matching,
    mode_of_fixed,
    thaw,
)
from sklmeta.backbones.normalization import (
    TaskBatchNorm,
    batch_statistics,
    mixes_rows,
    recorded_statistics,
    uses_batch_statistics,
)


def net():
    first = nn.Sequential(nn.Linear(3, 4), TaskBatchNorm(4), nn.Dropout(0.5))
    second = nn.Sequential(nn.Linear(4, 4), TaskBatchNorm(4))
    return nn.Sequential(first, second)


def trained_names(module):
    return [n for n, weight in module.named_parameters() if weight.requires_grad]


def fixed_names(module):
    return [name for name, layer in module.named_modules() if is_fixed(layer)]


NAMES = [name for name, _ in net().named_parameters()]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ("0", NAMES[:4]),
        ("0.0", NAMES[:2]),
        ("0.0.weight", NAMES[:1]),
        ("*.bias", NAMES[1::2]),
        (["0.0", "1.1.*"], [*NAMES[:2], *NAMES[6:]]),
        ("?.1", [*NAMES[2:4], *NAMES[6:]]),
        ("00", []),
        ([], []),
    ],
)
def test_patterns_of_names(patterns, found):
    assert matching(NAMES, patterns) == set(found)


def test_layers_without_weights_to_train_are_fixed_with_all_that_is_in_them():
    module = net()
    freeze_layers(module, ["0", "1.0.weight"])
    assert trained_names(module) == [NAMES[5], *NAMES[6:]]
    assert fixed_names(module) == ["0", "0.0", "0.1", "0.2"]


@pytest.mark.parametrize("freeze", [None, False])
def test_modules_that_come_frozen_are_fixed_too(freeze):
    module = net()
    module[0].requires_grad_(False)
    freeze_layers(module, freeze)
    assert fixed_names(module) == ["0", "0.0", "0.1", "0.2"]
    plain = net()
    freeze_layers(plain, freeze)
    assert trained_names(plain) == NAMES
    assert not fixed_names(plain)


def test_the_whole_module():
    module = net()
    freeze_layers(module, True)
    assert not trained_names(module)
    assert is_fixed(module)
    assert not uses_batch_statistics(module)
    assert not mixes_rows(module)


def test_normalisation_without_averages_cannot_be_fixed():
    module = nn.Sequential(nn.Linear(3, 4), TaskBatchNorm(4, track_running_stats=False))
    freeze_layers(module, True)
    assert not is_fixed(module[1])
    assert mixes_rows(module)


def test_fixed_layers_keep_their_mode_and_averages():
    module = net()
    freeze_layers(module, "0")
    copied = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    for one in (module, copied):
        one.train()
        mode_of_fixed(one)
        assert [layer.training for layer in one.modules()] == [
            not name.startswith("0") for name, _ in one.named_modules()
        ]
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
        with batch_statistics(one, record=True):
            one(x)
            assert list(recorded_statistics(one)) == ["1.1"]
        one(x)
        assert one[0][1].num_batches_tracked == 0
        assert one[1][1].num_batches_tracked == 1
        torch.testing.assert_close(one[0](x), one[0][0](x) / (1 + 1e-5) ** 0.5)


def test_tied_weights_go_by_either_name():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    freeze_layers(module, "1.weight")
    assert not module[0].weight.requires_grad


def test_thawed_modules_are_as_new():
    module = net()
    freeze_layers(module, True)
    assert thaw(module) is module
    assert trained_names(module) == NAMES
    assert not fixed_names(module)


@pytest.mark.parametrize(
    ("module", "freeze", "error", "match"),
    [
        (net(), "features.*", ValueError, r"no weight.*'features\.\*'.*'0\.0\.weight'"),
        (net(), ["0", "2"], ValueError, "no weight of the backbone matches '2'"),
        (net(), "*", ValueError, r"matches all 8 weights.*freeze=True if that is"),
        (net(), ["0", "1"], ValueError, "matches all 8"),
        (net(), [], ValueError, "holds no pattern"),
        (net(), 3, TypeError, "Got 3"),
        (net(), ["0", 1], TypeError, "list of patterns"),
        (nn.Flatten(), True, ValueError, "no weights that could be frozen"),
        (nn.Flatten(), "0", ValueError, "no weights that could be frozen"),
    ],
)
def test_refusals(module, freeze, error, match):
    with pytest.raises(error, match=match):
        freeze_layers(module, freeze)
    assert all(weight.requires_grad for weight in module.parameters())


def test_long_lists_of_names_are_cut():
    module = nn.Sequential(*[nn.Linear(1, 1) for _ in range(10)])
    with pytest.raises(ValueError, match=r"'3\.bias' and 12 more; the name"):
        freeze_layers(module, "fc")
