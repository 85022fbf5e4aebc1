"""Targets on the scale of their own support rows: hand computation and limits."""

import numpy as np
import pytest
import torch

from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.targets import PRIOR_ROWS, TaskTargets


def rows(*tasks):
    longest = max(map(len, tasks))
    y = torch.full((len(tasks), longest, 1), 1e6, dtype=torch.float64)  # junk padding
    mask = torch.zeros(len(tasks), longest, dtype=torch.bool)
    for t, values in enumerate(tasks):
        y[t, : len(values), 0] = torch.tensor(values)
        mask[t, : len(values)] = True
    return Rows(torch.zeros(*mask.shape, 1), y, mask)


def test_level_and_spread_by_hand():
    targets = TaskTargets(mean=(10.0,), within=(4.0,), between=(2.0,))
    level, spread = targets.scale(rows([11.0, 13.0], [0.0]))
    # Two rows of mean 12: weight 2 / (2 + 4 / 2); one row: 1 / (1 + 4 / 2).
    np.testing.assert_allclose(level.flatten(), [11.0, 10 - 10 / 3])
    expected = [(5 * 4 + 2) / (5 + 1), 4.0]
    assert PRIOR_ROWS == 5
    np.testing.assert_allclose(spread.flatten(), np.sqrt(expected))


def test_many_rows_give_the_tasks_own_mean_and_deviation():
    y = np.random.default_rng(0).normal(100, 7, size=200_000)
    targets = TaskTargets((0.0,), (1.0,), (1.0,))
    level, spread = targets.scale(rows(list(y)))
    assert level.item() == pytest.approx(y.mean(), rel=1e-4)
    assert spread.item() == pytest.approx(y.std(), rel=1e-3)


def test_no_variance_between_tasks_gives_the_grand_mean():
    targets = TaskTargets((5.0,), (1.0,), (1e-12,))
    level, _ = targets.scale(rows([100.0, 101.0]))
    assert level.item() == pytest.approx(5.0, abs=1e-6)


def test_outputs_have_their_own_scales():
    targets = TaskTargets((0.0, 1.0), (1.0, 4.0), (1.0, 1.0))
    y = torch.tensor([[[2.0, 0.0], [4.0, 2.0]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    level, spread = targets.scale(Rows(torch.zeros(1, 2, 1), y, mask))
    np.testing.assert_allclose(level[0, 0], [2.0, 1.0])
    expected = np.sqrt([(5 + 2) / 6, (5 * 4 + 2) / 6])
    np.testing.assert_allclose(spread[0, 0], expected, rtol=1e-6)


def test_learns_variance_components():
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 15, size=4000)
    levels = rng.normal(3.0, 2.0, size=(4000, 1))
    y = np.repeat(levels, counts, axis=0) + rng.normal(0, 0.5, size=(counts.sum(), 1))
    targets = TaskTargets.learn(y, np.r_[0, counts.cumsum()])
    assert targets.mean[0] == pytest.approx(3.0, abs=0.1)
    assert targets.within[0] == pytest.approx(0.25, rel=0.03)
    assert targets.between[0] == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("counts", [[1, 1, 1], [4], [3, 3]])
def test_learning_from_little_or_constant_data_stays_finite(counts):
    offsets = np.r_[0, np.cumsum(counts)]
    targets = TaskTargets.learn(np.full((offsets[-1], 1), 2.0), offsets)
    level, spread = targets.scale(rows([2.0, 2.0]))
    assert level.item() == pytest.approx(2.0)
    assert np.isfinite(spread.item()) and spread.item() > 0


def test_episodes_are_scaled_by_their_support_alone():
    targets = TaskTargets((10.0,), (4.0,), (2.0,))
    episodes = Episodes(rows([11.0, 13.0]), rows([5.0, 7.0, 9.0]))
    scaled = targets.standardise(episodes)
    level, spread = targets.scale(episodes.support)
    torch.testing.assert_close(scaled.query.y * spread + level, episodes.query.y)
    alone = targets.standardise_support(episodes.support)
    assert torch.equal(alone.y, scaled.support.y)
    assert scaled.query.x is episodes.query.x
