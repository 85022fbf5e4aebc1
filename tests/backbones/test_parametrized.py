"""Parametrized layers are pickled, copied and used as torch's own."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from sklmeta import MAMLRegressor
from sklmeta.backbones.parametrized import picklable
from sklmeta.datasets import make_sinusoids

KINDS = {
    "spectral norm": parametrizations.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "two": lambda layer: parametrizations.weight_norm(
        parametrizations.spectral_norm(layer), name="bias", dim=0
    ),
}


@pytest.fixture(params=KINDS)
def layer(request):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return KINDS[request.param](nn.Linear(3, 4)).eval()


def pickled(module):
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
def test_copies_compute_the_same_and_are_apart(layer, copied):
    x = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
    expected, names = layer(x), [name for name, _ in layer.named_parameters()]
    module = nn.Sequential(layer, nn.Tanh())
    assert picklable(module) is module
    for other in (layer, copied(layer), copied(copied(layer))):
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
        assert [name for name, _ in other.named_parameters()] == names
        assert parametrize.is_parametrized(other, "weight")
        assert isinstance(other, nn.Linear)
    other = copied(layer)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


def test_parametrizations_can_be_removed_and_assigned(layer):
    weight = layer.weight.detach().clone()
    picklable(layer)
    if hasattr(layer.parametrizations["weight"][0], "right_inverse"):
        layer.weight = weight
        torch.testing.assert_close(layer.weight, weight)
    parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(layer.weight, weight)


def normalised(shape):
    layers = (
        parametrizations.spectral_norm(nn.Linear(shape[0], 8)),
        nn.Tanh(),
        parametrizations.weight_norm(nn.Linear(8, 4)),
    )
    return nn.Sequential(*layers)


def test_fitted_estimators_are_pickled():
    tasks = make_sinusoids(20, random_state=0)
    meta = MAMLRegressor(normalised, max_iter=2, random_state=0).fit(tasks)
    task = tasks[0]
    model = meta.adapt(task.X[:5], task.y[:5])
    for copied in (pickled(model), pickled(meta).adapt(task.X[:5], task.y[:5])):
        np.testing.assert_array_equal(copied.predict(task.X), model.predict(task.X))


def test_the_users_module_stays():
    module = normalised((1,))
    before = [type(layer) for layer in module]
    MAMLRegressor(module, max_iter=1).fit(make_sinusoids(20, random_state=0))
    assert [type(layer) for layer in module] == before
