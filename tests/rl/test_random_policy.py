"""Actions drawn evenly."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary

from sklmeta.rl._random_policy import RandomPolicy

CPU = torch.device("cpu")


def actions(space, n_trials=6000, seed=0):
    policy = RandomPolicy(space)
    state = policy.initial(n_trials, CPU)
    generator = torch.Generator().manual_seed(seed)
    return policy.act(state, torch.zeros(n_trials), generator).action


def test_ranks_are_even_wherever_the_space_starts():
    drawn = actions(Discrete(3, start=5))
    assert drawn.dtype == torch.long
    assert (drawn.bincount(minlength=3) / 6000).numpy() == pytest.approx(
        1 / 3, abs=0.03
    )


def test_a_box_is_filled_evenly():
    low, high = np.array([-1, 2], np.float32), np.array([1, 6], np.float32)
    drawn = actions(Box(low, high)).numpy()
    assert drawn.shape == (6000, 2)
    assert ((drawn >= low) & (drawn <= high)).all()
    quartiles = np.quantile((drawn - low) / (high - low), [0.25, 0.5, 0.75], axis=0)
    assert quartiles == pytest.approx(
        np.array([[0.25], [0.5], [0.75]]) * [1, 1], abs=0.03
    )


def test_same_seed_same_actions():
    assert torch.equal(actions(Discrete(4), seed=1), actions(Discrete(4), seed=1))
    assert not torch.equal(actions(Discrete(4), seed=1), actions(Discrete(4), seed=2))


@pytest.mark.parametrize(
    "box",
    [
        Box(-np.inf, np.inf, (2,)),
        Box(np.float32([0, 0]), np.float32([1, np.inf])),
        Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (2,)),
    ],
)
def test_an_unbounded_box_is_refused(box):
    with pytest.raises(ValueError, match=r"unbounded Box.*TransformAction"):
        RandomPolicy(box)


def test_other_spaces_are_refused():
    with pytest.raises(ValueError, match="action space must be Discrete or a Box"):
        RandomPolicy(MultiBinary(3))
