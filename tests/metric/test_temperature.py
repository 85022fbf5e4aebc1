"""The learned temperature."""

import torch

from sklmeta.metric._temperature import Temperature


def test_starts_where_it_is_told_and_is_learned():
    temperature = Temperature(0.25)
    torch.testing.assert_close(temperature(), torch.tensor(0.25))
    names = [name for name, _ in temperature.named_parameters()]
    assert names == ["log_value"]


def test_no_step_makes_it_negative():
    temperature = Temperature(2.0)
    (gradient,) = torch.autograd.grad(temperature(), temperature.parameters())
    torch.testing.assert_close(gradient, torch.tensor(2.0))  # d e^t / dt = e^t
    with torch.no_grad():
        temperature.log_value -= 10 * gradient
    assert temperature() > 0
