import threading

import pytest
import torch
from torch import nn

from sklmeta.backbones import MLP, ConvNet
from sklmeta.backbones.build import build_backbone, feature_size
from sklmeta.backbones.normalization import TaskBatchNorm


def small_net(shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0], 4), nn.BatchNorm1d(4))


@pytest.fixture(autouse=True)
def global_rng_is_left_alone():
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("shape", "kind", "size"), [((3,), MLP, 64), ((1, 28, 28), ConvNet, 64)]
)
def test_default_backbones(shape, kind, size):
    backbone = build_backbone(None, shape, seed=0)
    assert isinstance(backbone, kind)
    assert feature_size(backbone, shape) == backbone.out_features == size


@pytest.mark.parametrize("backbone", [None, small_net])
def test_seed_decides_the_weights(backbone):
    first, second, other = (
        build_backbone(backbone, (3,), seed=seed).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert not all(torch.equal(weight, other[name]) for name, weight in first.items())


def test_identity_flattens():
    backbone = build_backbone("identity", (2, 3, 4), seed=0)
    x = torch.arange(48.0).reshape(2, 2, 3, 4)
    assert torch.equal(backbone(x), x.reshape(2, 24))
    assert feature_size(backbone, (2, 3, 4)) == 24


def test_modules_are_copied_and_converted():
    with torch.random.fork_rng(devices=[]):
        given = small_net((3,)).eval()
    built = build_backbone(given, (3,), seed=0)
    assert isinstance(given[2], nn.BatchNorm1d)
    assert isinstance(built[2], TaskBatchNorm)
    assert not built.training
    assert torch.equal(built[1].weight, given[1].weight)
    assert built[1].weight.data_ptr() != given[1].weight.data_ptr()


def test_weights_of_any_precision_become_single():
    with torch.random.fork_rng(devices=[]):
        given = nn.Linear(3, 2).double()
    assert build_backbone(given, (3,), seed=0).weight.dtype == torch.float32
    assert given.weight.dtype == torch.float64


def test_factories_get_the_shape_and_are_converted():
    shapes = []

    def factory(shape):
        shapes.append(shape)
        return small_net(shape)

    backbone = build_backbone(factory, [3], seed=0)
    assert shapes == [(3,)]
    assert isinstance(backbone[2], TaskBatchNorm)


def test_factories_in_threads_do_not_disturb_each_other():
    def factory(shape):
        return nn.Sequential(*[nn.Linear(20, 20) for _ in range(20)])

    expected = build_backbone(factory, (20,), seed=3).state_dict()
    built = []

    def build():
        built.append(build_backbone(factory, (20,), seed=3).state_dict())

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 4
    for state in built:
        assert all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4, 5)])
def test_other_shapes_need_a_backbone(shape):
    with pytest.raises(ValueError, match=r"no default backbone.*Give backbone="):
        build_backbone(None, shape, seed=0)
    assert feature_size(build_backbone("identity", shape, seed=0), shape) > 0


@pytest.mark.parametrize(
    ("backbone", "error", "message"),
    [
        ("resnet", ValueError, "'identity', got 'resnet'"),
        (3, TypeError, "got 3"),
        (lambda shape: "net", TypeError, r"return a torch.nn.Module.*\(3,\), got str"),
        (
            lambda shape: nn.Sequential(nn.LazyLinear(2)),
            ValueError,
            r"lazy layers.*0\.weight",
        ),
        (nn.LazyBatchNorm1d(), ValueError, "lazy layers.*running_mean"),
    ],
)
def test_refuses_what_is_no_backbone(backbone, error, message):
    with pytest.raises(error, match=message):
        build_backbone(backbone, (3,), seed=0)


@pytest.mark.parametrize("shape", [(), (0,), (1.5,), (3, -1, 2)])
def test_refuses_bad_shapes(shape):
    with pytest.raises(ValueError, match="positive integers"):
        build_backbone("identity", shape, seed=0)
    with pytest.raises(ValueError, match="positive integers"):
        feature_size(nn.Identity(), shape)


@pytest.mark.parametrize(
    "factory", [nn.Linear, lambda n: nn.Linear(n, 8), lambda: nn.Linear(1, 1)]
)
def test_errors_inside_a_factory_say_what_it_was_called_with(factory):
    with pytest.raises(
        ValueError, match=r"shape of a row, \(3,\).*TypeError: "
    ) as caught:
        build_backbone(factory, (3,), seed=0)
    assert isinstance(caught.value.__cause__, TypeError)
    assert feature_size(build_backbone(small_net, (3,), seed=0), (3,)) == 4


def test_feature_size_leaves_the_module_alone():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.norm = TaskBatchNorm(3)

        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            self.calls += 1
            return self.norm(x) + torch.rand(1)

    module = Counting()
    assert feature_size(module, (3,)) == 3
    assert module.training
    assert module.norm.training
    assert module.calls == 0
    assert module.norm.num_batches_tracked == 0


def test_feature_size_takes_the_dtype_of_the_weights():
    backbone = build_backbone(None, (3,), seed=0).double()
    assert feature_size(backbone, (3,)) == 64


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Unflatten(1, (1, 3)), r"\(2, 3\) to shape \(2, 1, 3\).*Flatten"),
        (nn.Flatten(0), r"to shape \(6,\)"),
        (nn.LSTM(3, 2), "got tuple"),
        (nn.Conv2d(1, 2, 3), r"fails on a batch of shape \(2, 3\).*RuntimeError"),
    ],
)
def test_feature_size_refuses_other_outputs(module, message):
    with pytest.raises(ValueError, match=message):
        feature_size(module, (3,))


def test_feature_size_names_the_cause():
    class Demanding(nn.Module):
        def forward(self, x, y):
            return x

    with pytest.raises(ValueError, match=r"two rows of shape.*TypeError") as caught:
        feature_size(Demanding(), (3,))
    assert isinstance(caught.value.__cause__, TypeError)


def test_threads_that_build_and_measure_leave_the_global_generator_alone():
    def work():
        for _ in range(100):
            module = build_backbone(lambda shape: nn.Linear(*shape, 8), (4,), seed=5)
            feature_size(module, (4,))

    before = torch.get_rng_state()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)
