"""Factors of parameters that meta-training learns."""

import torch

from sklmeta._learned_factors import log_factor, times


def test_starts_from_one_and_is_learned():
    own = log_factor(True)
    assert isinstance(own, torch.nn.Parameter)
    torch.testing.assert_close(times(0.25, own), torch.tensor(0.25))


def test_what_is_not_learned_stays_as_it_is():
    assert log_factor(False) is None
    assert times(0.25, None) == 0.25


def test_no_step_makes_it_negative():
    own = log_factor(True)
    (gradient,) = torch.autograd.grad(times(2.0, own), own)
    torch.testing.assert_close(gradient, torch.tensor(2.0))  # d 2 e^t / dt = 2 e^t
    with torch.no_grad():
        own -= 10 * gradient
    assert times(2.0, own) > 0
