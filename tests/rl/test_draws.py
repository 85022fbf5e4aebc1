"""Gamma draws, against their distribution."""

import pytest
import torch
from scipy import stats

from sklmeta.rl._draws import log_gamma_draws


@pytest.mark.parametrize("shape", [0.05, 1.0, 2.5, 500.0])
def test_draws_follow_the_distribution(shape):
    generator = torch.Generator().manual_seed(1)
    draws = log_gamma_draws(torch.full((20_000,), shape), generator)
    assert stats.kstest(draws.numpy(), stats.loggamma(shape).cdf).pvalue > 0.01


def test_each_entry_has_its_own_shape_parameter():
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[0.5, 20.0], [3.0, 1.0]])
    draws = log_gamma_draws(shapes.expand(20_000, 2, 2), generator).exp()
    assert draws.mean(0).numpy() == pytest.approx(shapes.numpy(), rel=0.05)
    assert draws.var(0).numpy() == pytest.approx(shapes.numpy(), rel=0.1)


def test_shares_stay_numbers_however_small_the_parameters():
    generator = torch.Generator().manual_seed(0)
    shares = log_gamma_draws(torch.full((500, 10), 1e-3), generator).softmax(1)
    assert shares.sum(1).numpy() == pytest.approx(1, abs=1e-5)


def test_only_the_given_generator_is_drawn_from():
    before = torch.get_rng_state()
    shapes = torch.ones(100)
    first = log_gamma_draws(shapes, torch.Generator().manual_seed(3))
    again = log_gamma_draws(shapes, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
