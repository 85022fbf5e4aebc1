"""Gradients and statistics on a GPU against the CPU's; run by `pytest -m gpu`."""

import copy

import pytest
import torch
from torch import nn

from sklmeta.backbones import MLP, ConvNet
from sklmeta.backbones.normalization import TaskBatchNorm, batch_statistics
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.gradient import MAML, network

GPU = "cuda"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    """TF32, torch's default for convolutions on newer GPUs, is no measure."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


class Recurrent(nn.Module):
    """Reads a row's features one after another."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(1, 8, batch_first=True)

    def forward(self, x):
        return self.gru(x.unsqueeze(-1))[0][:, -1]


def make_rows(n_rows, shape, n_way, generator):
    x = torch.randn(3, n_rows, *shape, generator=generator, dtype=torch.float64)
    y = torch.arange(n_rows).remainder(n_way).expand(3, -1).contiguous()
    ways = torch.full((3,), n_way)
    return Rows(x, y, torch.ones(3, n_rows, dtype=torch.bool), ways)


def make_episodes(shape):
    generator = torch.Generator().manual_seed(0)
    return Episodes(
        make_rows(6, shape, 3, generator), make_rows(9, shape, 3, generator)
    )


def meta_gradients(learner, episodes, device, dtype):
    learner = copy.deepcopy(learner).to(device, dtype)
    rows = [
        Rows(one.x.to(dtype), one.y, one.mask, one.n_way).to(device)
        for one in (episodes.support, episodes.query)
    ]
    loss = learner.meta_loss(Episodes(*rows)).sum()
    gradients = torch.autograd.grad(
        loss, list(learner.parameters()), materialize_grads=True
    )
    return torch.cat([g.flatten().double().cpu() for g in gradients])


def backbone_of(kind):
    generator = torch.Generator().manual_seed(1)
    if kind == "mlp":
        return MLP(4, (8, 8), generator=generator), (4,), 8
    if kind == "normalised":
        return nn.Sequential(nn.Linear(4, 8), TaskBatchNorm(8), nn.Tanh()), (4,), 8
    if kind == "recurrent":
        return Recurrent(), (4,), 8
    net = ConvNet((1, 8, 8), 4, 3, kind, generator=generator)
    return net, (1, 8, 8), net.out_features


@pytest.mark.parametrize("method", ["vmap", "loop"])
@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "normalised", "pool", "stride", "recurrent"])
def test_second_order_gradients_are_those_of_the_cpu(
    monkeypatch, kind, transductive, method
):
    if kind == "recurrent" and method == "vmap":
        pytest.skip("recurrent layers are never vectorised")
    cudnn = torch.backends.cudnn.enabled
    backbone, shape, n_features = backbone_of(kind)
    learner = MAML(
        backbone,
        n_features,
        None,
        task_type="classification",
        inner_lr=0.1,
        inner_steps=3,
        transductive=transductive,
    )
    episodes = make_episodes(shape)
    expected = meta_gradients(learner, episodes, "cpu", torch.float64)
    monkeypatch.setattr(network, "mapping_method", lambda module, device: method)
    found = meta_gradients(learner, episodes, GPU, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    single = meta_gradients(learner, episodes, GPU, torch.float32)
    assert (single - expected).norm() < 1e-3 * expected.norm()
    assert torch.backends.cudnn.enabled == cudnn  # recurrent layers turn it off


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 5, 5), (1, 3)])
@pytest.mark.parametrize("mode", ["train", "eval", "batch"])
def test_batch_normalisation_is_that_of_the_cpu(shape, mode):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    results = []
    for device in ("cpu", GPU):
        layer = TaskBatchNorm(3).double().to(device).train(mode == "train")
        x, g = (part.to(device).requires_grad_() for part in data[:2])

        def forward(layer=layer, x=x):
            if mode != "batch":
                return layer(x)
            with batch_statistics(layer):
                return layer(x)

        y = forward()
        inputs = [x, layer.weight, layer.bias]
        first = torch.autograd.grad(y, inputs, g, create_graph=True)
        second = torch.autograd.grad(
            sum((part * part.cos()).sum() for part in first),
            [x, g, layer.weight],
            materialize_grads=True,
        )
        buffers = [layer.running_mean, layer.running_var]
        results.append([t.detach().cpu() for t in (y, *first, *second, *buffers)])
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-10)
