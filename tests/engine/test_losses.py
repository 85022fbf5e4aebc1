"""Masked losses against numpy."""

import numpy as np
import pytest
import torch

from sklmeta.engine.losses import cross_entropy, masked_mean, squared_error


@pytest.fixture
def mask():
    return torch.tensor([[True, True, True], [True, False, False], [False] * 3])


def test_cross_entropy_is_mean_negative_log_probability(mask):
    logits = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[0, 1, 3], [2, 0, 0], [0, 0, 0]])
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(-1, keepdims=True)
    log_p = np.log(np.take_along_axis(p, y.numpy()[..., None], -1)[..., 0])
    expected = [-log_p[0].mean(), -log_p[1, 0], 0.0]
    np.testing.assert_allclose(cross_entropy(logits, y, mask), expected, rtol=1e-5)


def test_squared_error_averages_rows_and_outputs(mask):
    outputs = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(0))
    errors = outputs.numpy() ** 2
    expected = [errors[0].mean(), errors[1, 0].mean(), 0.0]
    found = squared_error(outputs, torch.zeros_like(outputs), mask)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("junk", [torch.inf, torch.nan, 1e30])
def test_masked_values_change_neither_value_nor_gradient(mask, junk):
    values = torch.ones(3, 3)
    values[~mask] = junk
    values.requires_grad_()
    total = masked_mean(values, mask)
    assert total.tolist() == [1, 1, 0]
    (gradient,) = torch.autograd.grad(total.sum(), values)
    assert torch.equal(gradient[1], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.isfinite(gradient).all()


def test_gradient_is_finite_where_padding_names_an_absent_way():
    logits = torch.tensor([[[1.0, -torch.inf], [2.0, -torch.inf]]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([[0, 1]]), torch.tensor([[True, False]]))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.isfinite(gradient).all()
