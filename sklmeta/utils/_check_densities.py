"""Checks of regressors with predictive densities."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from sklmeta.utils._check_problems import Problem, assert_same_answers

N_DRAWS = 400
# Draws of mixtures have longer tails than normals with the same moments.
SPREAD = 0.3
SINGLE = 1e-3


def check_std(name: str, meta: Any, problem: Problem) -> None:
    """Check that deviations are positive, of single rows, and pickled."""
    fitted, support, X = _trained(meta, problem)
    model = fitted.adapt(support.X, support.y)
    mean, std = model.predict(X, return_std=True)
    assert mean.shape == std.shape == (len(X),)
    assert np.isfinite(std).all() and (std > 0).all(), f"std of {name} must be > 0."
    np.testing.assert_array_equal(model.predict(X), mean)
    one_by_one = [model.predict(row[None], return_std=True)[1] for row in X]
    message = f"a deviation of {name} depends on the other rows in the call."
    assert_same_answers(np.concatenate(one_by_one), std, message)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.predict(X, return_std=True)[1], std)
    order = np.random.default_rng(0).permutation(len(support.y))
    again = fitted.adapt(support.X[order], support.y[order])
    message = f"a deviation of {name} depends on the order of the support rows."
    assert_same_answers(again.predict(X, return_std=True)[1], std, message, SINGLE)


def check_units(name: str, meta: Any, problem: Problem) -> None:
    """Check that deviations are in the units of the targets."""
    small, large = problem.tasks(), problem.tasks()
    large = type(large)([(task.X, 1000 * task.y) for task in large])
    task, stds = problem.held_out.support[0], []
    for tasks, unit in ((small, 1), (large, 1000)):
        model = problem.quick(meta).fit(tasks).adapt(task.X, unit * task.y)
        stds.append(model.predict(task.X, return_std=True)[1] / unit)
    message = f"deviations of {name} are not in the units of the targets."
    np.testing.assert_allclose(stds[1], stds[0], rtol=0.05, err_msg=message)


def check_draws(name: str, meta: Any, problem: Problem) -> None:
    """Check that draws are seeded and have the moments that are predicted."""
    fitted, support, X = _trained(meta, problem)
    model = fitted.adapt(support.X, support.y)
    draws = model.sample_y(X, N_DRAWS, random_state=0)
    assert draws.shape == (len(X), N_DRAWS)
    np.testing.assert_array_equal(model.sample_y(X, N_DRAWS, random_state=0), draws)
    assert (model.sample_y(X, N_DRAWS, random_state=1) != draws).any()
    mean, std = model.predict(X, return_std=True)
    message = f"draws of {name} do not have the predicted "
    far = np.abs(draws.mean(1) - mean) / std
    assert far.mean() < SPREAD, f"{message}means: {far.mean():.2f} deviations away."
    ratio = np.median(draws.std(1) / std)
    assert abs(ratio - 1) < SPREAD, f"{message}deviations: {ratio:.2f} times them."


def check_prior(name: str, meta: Any, problem: Problem) -> None:
    """Check that there is a prior, which support rows make sharper on the whole."""
    fitted, _, X = _trained(meta, problem)
    prior = fitted.adapt()
    assert fitted.adapted_ is prior
    mean, std = prior.predict(X, return_std=True)
    assert np.isfinite(mean).all() and (std > 0).all()
    held_out = problem.held_out
    before = [prior.predict(X, return_std=True)[1].mean() for X in held_out.X]
    after = [
        fitted.adapt(task.X, task.y).predict(X, return_std=True)[1].mean()
        for task, X in zip(held_out.support, held_out.X, strict=True)
    ]
    message = f"support rows do not make {name} surer than its prior is."
    assert np.mean(after) < np.mean(before), message


def _trained(meta: Any, problem: Problem) -> tuple[Any, Any, Any]:
    fitted = problem.trained(meta)
    return fitted, problem.held_out.support[0], problem.held_out.X[0]
