"""What a learner holds besides tensors: every change of it is another key."""

import functools
import gc
from collections import OrderedDict, deque
from enum import Enum

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from sklmeta.backbones import MLP
from sklmeta.engine.learner import Learner, Progress
from sklmeta.engine.python_state import PythonState


class Mode(Enum):
    """Ways to be."""

    ON = 1
    OFF = 2


def learner_with(module):
    learner = Learner("regression")
    learner.module = module
    return learner


@pytest.fixture
def learner():
    return learner_with(MLP(3, (4, 4)))


CHANGES = [
    (1, 2),
    (0.5, np.float64(0.5)),
    (np.float32(0.5), np.float32(0.25)),
    ("relu", "tanh"),
    (Mode.ON, Mode.OFF),
    ([1, [2.0]], [1, [3.0]]),
    ((1, 2), [1, 2]),
    (deque([1]), deque([2])),
    ({"a": 1}, OrderedDict(a=1)),
    ({"a": [np.int64(1)]}, {"a": [np.int64(2)]}),
    ({1, 2}, {1, 3}),
    (torch.ones(2), torch.ones(2)),
    ([torch.ones(2)], [torch.ones(2)]),
    (torch.float32, torch.float64),
    (functools.partial(torch.add, alpha=2), functools.partial(torch.add, alpha=3)),
    (torch.relu, torch.tanh),
]


@pytest.mark.parametrize(("first", "second"), CHANGES, ids=range(len(CHANGES)))
def test_other_attributes_give_another_key(learner, first, second):
    learner.module.held = first
    state = PythonState(learner)
    before = state.key()
    assert before is not None and hash(before) == hash(state.key())
    assert before == state.key() and state.unseen() is None
    learner.module.held = second
    assert state.key() != before
    learner.module.held = first
    assert state.key() == before


@pytest.mark.parametrize(
    "held",
    [np.ones(2), object(), [object()], {"a": iter([1])}, nn.Linear(1, 1).forward],
    ids=lambda held: type(held).__name__,
)
def test_what_may_change_without_a_trace_gives_none(learner, held):
    state = PythonState(learner)
    learner.held = held
    assert state.obstacle() is None
    assert state.key() is None and "'held'" in state.unseen()
    del learner.held
    assert state.obstacle() is None and state.key() is not None


def test_an_id_that_comes_back_is_no_key_that_comes_back(learner):
    state, keys = PythonState(learner), set()
    for n in range(1, 30):
        learner.held = [torch.zeros(())]
        learner.rate = np.float64(n)
        state.obstacle()
        keys.add(state.key())
        gc.collect()
        assert len(keys) == n


def test_numbers_in_tensors_and_progress_are_not_looked_at(learner):
    learner.held = torch.zeros(2)
    learner.progress = Progress(0, 2)
    state = PythonState(learner)
    before = state.key()
    learner.held.add_(1)
    learner.progress = Progress(1, 2)
    with torch.no_grad():
        next(learner.parameters()).add_(1)
    assert state.obstacle() is None and state.key() == before


def test_modes_are_looked_at(learner):
    state = PythonState(learner)
    before = state.key()
    learner.module.eval()
    assert state.key() != before


def test_layers_that_come_back_are_no_obstacle(learner):
    learner.module = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    state, layer = PythonState(learner), learner.module[1]
    learner.module[1] = nn.ReLU()
    assert "replaced" in state.obstacle()
    learner.module[1] = layer
    assert state.obstacle() is None


HOOKS = [
    ("register_forward_hook", lambda *_: None),
    ("register_forward_pre_hook", lambda *_: None),
    ("register_full_backward_hook", lambda *_: None),
    ("register_full_backward_pre_hook", lambda *_: None),
]


@pytest.mark.parametrize(("method", "hook"), HOOKS)
def test_hooks_of_modules_are_an_obstacle_until_they_are_removed(learner, method, hook):
    state = PythonState(learner)
    handle = getattr(learner.module, method)(hook)
    assert "hooks" in state.obstacle()
    handle.remove()
    assert state.obstacle() is None


@pytest.mark.parametrize(
    "method", ["register_hook", "register_post_accumulate_grad_hook"]
)
def test_hooks_of_parameters_are_an_obstacle_until_they_are_removed(learner, method):
    state = PythonState(learner)
    handle = getattr(next(learner.parameters()), method)(lambda _: None)
    assert "parameter has hooks" in state.obstacle()
    handle.remove()
    assert state.obstacle() is None


@pytest.mark.parametrize(
    "layer",
    [
        nn.TransformerEncoderLayer(8, 2),
        nn.MultiheadAttention(8, 2),
        nn.BatchNorm1d(4),
        nn.Conv2d(1, 2, 3),
        nn.Dropout(0.1),
        nn.Embedding(3, 4),
        weight_norm(nn.Linear(3, 4)),
        spectral_norm(nn.Linear(3, 4)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_torch_hold_nothing_that_is_unseen(layer):
    state = PythonState(learner_with(layer))
    assert state.unseen() is None and state.obstacle() is None
    assert state.key() == state.key()
