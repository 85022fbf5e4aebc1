"""The learner protocol: what follows from adapt and predict."""

import copy
import pickle

import pytest
import torch
from torch import nn

from sklmeta.backbones import ConvNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Learner, way_mask


class Shift(Learner):
    """Predicts a learned number plus the support's mean target."""

    adaptation_options = ("factor",)

    def __init__(self, factor=1.0):
        super().__init__("regression")
        self.factor = factor
        self.shift = nn.Parameter(torch.zeros(1))

    def adapt(self, support):
        return support.y.mean(1, keepdim=True) * self.factor

    def predict(self, state, x):
        return (state + self.shift).expand(-1, x.shape[1], -1)


def make_episodes():
    y = torch.tensor([[[1.0], [3.0]], [[4.0], [6.0]]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    rows = Rows(torch.zeros(2, 2, 1), y, mask)
    return Episodes(rows, rows)


def test_meta_loss_is_the_query_loss_after_adaptation():
    assert Shift().meta_loss(make_episodes()).tolist() == [1.0, 1.0]
    assert Shift(0.0).meta_loss(make_episodes()).tolist() == [5.0, 26.0]


def test_options_make_a_view_on_the_same_weights():
    learner = Shift()
    view = learner.with_options(factor=0.0)
    assert (learner.factor, view.factor) == (1.0, 0.0)
    assert view.shift is learner.shift and view.weights_id is learner.weights_id


def test_copies_have_weights_of_their_own():
    learner = Shift()
    for other in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert other.weights_id is not learner.weights_id
        assert torch.equal(other.shift, learner.shift)


def test_unknown_option_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Shift has no adaptation option \['lr'\]"):
        Shift().with_options(lr=1)


def test_unknown_task_type_is_refused():
    with pytest.raises(ValueError, match=r"task_type must be .*'ranking'"):
        Learner("ranking")


def test_what_must_be_written_is_not_there():
    rows = make_episodes().support
    with pytest.raises(NotImplementedError):
        Learner("regression").adapt(rows)
    with pytest.raises(NotImplementedError):
        Learner("regression").predict(None, rows.x)


def test_batch_normalisation_needs_equal_rows():
    learner = Shift()
    assert not learner.needs_equal_rows
    learner.backbone = ConvNet((1, 4, 4), 2, 1)
    assert learner.needs_equal_rows


def test_way_mask():
    expected = [[True, True, False], [True, True, True]]
    assert way_mask(torch.tensor([2, 3]), 3).tolist() == expected
