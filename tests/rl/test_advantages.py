"""Advantages against torchrl's, and against their definition."""

import pytest
import torch

from sklmeta.rl._advantages import advantage_estimates, discounted_sums

GAMMA, LAMBDA = 0.97, 0.9


def random_sequences(seed):
    generator = torch.Generator().manual_seed(seed)
    shape = (17, 6)
    reward, value, next_value = torch.randn(3, *shape, generator=generator)
    terminated = torch.rand(shape, generator=generator) < 0.15
    truncated = torch.rand(shape, generator=generator) < 0.15
    last = terminated | truncated
    last[-1] = True
    return reward, value, next_value, terminated, last


@pytest.mark.parametrize("seed", range(5))
def test_they_are_torchrls(seed):
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    reward, value, next_value, terminated, last = random_sequences(seed)
    ours = advantage_estimates(
        reward, value, next_value, terminated, last, GAMMA, LAMBDA
    )

    def column(t):  # torchrl has time last but one
        return t.T[..., None]

    theirs, _ = functional.generalized_advantage_estimate(
        GAMMA,
        LAMBDA,
        *map(column, (value, next_value, reward)),
        done=column(last),
        terminated=column(terminated),
    )
    torch.testing.assert_close(ours, theirs[..., 0].T)


def test_they_are_sums_of_residuals_to_the_end_of_each_sequence():
    reward, value, next_value, terminated, last = random_sequences(9)
    ours = advantage_estimates(
        reward, value, next_value, terminated, last, GAMMA, LAMBDA
    )
    delta = reward + GAMMA * torch.where(terminated, 0, next_value) - value
    for b in range(reward.shape[1]):
        for t in range(len(reward)):
            total, weight = 0.0, 1.0
            for k in range(t, len(reward)):
                total += weight * float(delta[k, b])
                weight *= GAMMA * LAMBDA
                if last[k, b]:
                    break
            assert float(ours[t, b]) == pytest.approx(total, abs=1e-4)


def test_what_is_truncated_is_bootstrapped_and_what_terminates_is_not():
    reward = torch.zeros(1, 2)
    value = torch.zeros(1, 2)
    next_value = torch.ones(1, 2)
    terminated = torch.tensor([[True, False]])
    last = torch.ones(1, 2, dtype=torch.bool)
    found = advantage_estimates(
        reward, value, next_value, terminated, last, GAMMA, LAMBDA
    )
    assert found.tolist() == [[0.0, pytest.approx(GAMMA)]]


def test_sums_start_anew_after_the_last_step():
    terms = torch.tensor([[1.0], [1.0], [1.0]])
    last = torch.tensor([[False], [True], [True]])
    assert discounted_sums(terms, last, 0.5).flatten().tolist() == [1.5, 1.0, 1.0]
