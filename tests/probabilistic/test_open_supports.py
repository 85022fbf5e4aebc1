"""Draws where the support leaves open what a task is, against deterministic MAML."""

import numpy as np
import pytest
import torch

from sklmeta import (
    ABMLClassifier,
    MAMLClassifier,
    MAMLRegressor,
    NeuralProcessClassifier,
    NeuralProcessRegressor,
    ProbabilisticMAMLClassifier,
    ProbabilisticMAMLRegressor,
)
from sklmeta.backbones import MLP
from sklmeta.datasets import AmbiguousAttributes, SinusoidsOrLines
from sklmeta.engine.batches import Rows


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def small_backbone(input_shape):
    return MLP(input_shape[0], (40, 40), generator=rng())


GRID = np.linspace(-5, 5, 41, dtype=np.float32)[:, None]
STEPS = {"inner_lr": 0.1, "inner_steps": 5, "random_state": 0, "device": "cpu"}


def distance_from(functions, *terms):
    """Return how far functions (K, grid) are from all sums of multiples of terms."""
    design = np.column_stack(terms)
    rest = functions - functions @ design @ np.linalg.pinv(design)
    return np.sqrt(np.square(rest).mean(1))


def is_line(functions):
    """Whether functions are nearer to some line than to some wave, (K,)."""
    x = GRID[:, 0].astype(float)
    to_line = distance_from(functions, x, np.ones_like(x))
    return to_line < distance_from(functions, np.sin(x), np.cos(x))


def fits_both(task):
    """Whether a line and a wave are each within the noise at the support rows."""
    x, y = task.X[task.support][:, 0].astype(float), task.y[None, task.support]
    to_line = distance_from(y, x, np.ones_like(x))
    to_wave = distance_from(y, np.sin(x), np.cos(x))
    return max(to_line[0], to_wave[0]) < 0.3


@pytest.fixture(scope="module")
def open_tasks():
    tasks = SinusoidsOrLines(support_range=(-1, 1)).sample(60, random_state=1)
    return tasks[[fits_both(task) for task in tasks]]


def drawn_functions(meta, task):
    """Return 40 functions of a task on the grid and at query rows."""
    model = meta.adapt(task.X[task.support], task.y[task.support])
    rows = np.concatenate([GRID, task.X[~task.support]])
    draws = model.sample_y(rows, 40, noise=False).T
    return draws[:, : len(GRID)], draws[:, len(GRID) :]


@pytest.fixture(scope="module")
def errors_of_maml(open_tasks):
    """Return the distance of deterministic MAML from query targets, by task."""
    meta = MAMLRegressor(small_backbone, max_iter=800, outer_lr=3e-3, **STEPS)
    meta.fit(SinusoidsOrLines(support_range=(-1, 1)))
    errors = []
    for task in open_tasks:
        model = meta.adapt(task.X[task.support], task.y[task.support])
        rest = ~task.support
        errors.append(np.linalg.norm(model.predict(task.X[rest]) - task.y[rest]))
    return np.array(errors)


@pytest.mark.parametrize(
    "meta",
    [
        ProbabilisticMAMLRegressor(
            small_backbone, n_samples=40, max_iter=800, outer_lr=3e-3, **STEPS
        ),
        NeuralProcessRegressor(
            latent=True, hidden_size=32, max_iter=400, outer_lr=4e-3, random_state=0
        ),
    ],
    ids=["probabilistic MAML", "latent neural process"],
)
def test_draws_spread_over_waves_and_lines(meta, open_tasks, errors_of_maml):
    """Where either fits the support, some draws are waves and some are lines."""
    meta.fit(SinusoidsOrLines(support_range=(-1, 1)))
    shares, best, energy, spread = [], [], [], []
    x = GRID[:, 0]
    for task in open_tasks:
        on_grid, at_query = drawn_functions(meta, task)
        shares.append(is_line(on_grid).mean())
        errors = np.linalg.norm(at_query - task.y[~task.support], axis=1)
        best.append(errors.min())
        between = np.linalg.norm(at_query[:, None] - at_query[None], axis=2)
        energy.append(errors.mean() - between.mean() / 2)
        std = on_grid.std(0)
        spread.append(std[abs(x) > 2].mean() / std[abs(x) < 1].mean())
    shares = np.array(shares)
    assert np.mean((shares >= 0.05) & (shares <= 0.95)) > 0.5
    assert np.minimum(shares, 1 - shares).mean() > 0.05
    # All networks of MAML are one: every share is 0 or 1, and the energy score, which
    # draws from the right distribution make least, is the error.
    assert np.mean(best) < 0.7 * errors_of_maml.mean()
    gain = errors_of_maml - energy
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5
    assert np.median(spread) > 2


ATTRIBUTES = {"max_iter": 600, "random_state": 0, "normalize_x": False}


@pytest.fixture(scope="module")
def maml_of_attributes():
    meta = MAMLClassifier(
        small_backbone, inner_lr=0.3, inner_steps=5, outer_lr=5e-3, **ATTRIBUTES
    )
    return settled(meta.fit(AmbiguousAttributes()))


@pytest.mark.parametrize(
    "meta",
    [
        ProbabilisticMAMLClassifier(
            small_backbone, n_samples=40, inner_lr=0.3, outer_lr=5e-3, **ATTRIBUTES
        ),
        NeuralProcessClassifier(
            latent=True, n_train_samples=8, hidden_size=32, outer_lr=4e-3, **ATTRIBUTES
        ),
    ],
    ids=["probabilistic MAML", "latent neural process"],
)
def test_draws_settle_on_either_attribute(meta, maml_of_attributes):
    found, one = settled(meta.fit(AmbiguousAttributes())), maml_of_attributes
    assert np.mean([0.1 <= share <= 0.9 for share in found["first"]]) > 0.8
    # MAML is right to say 1/2 here: its network is not certain, most draws are.
    assert np.mean(found["certain"]) > np.mean(one["certain"]) + 0.3
    # Some draw is about right, whichever attribute it was.
    assert np.mean(found["best"]) < 0.5 * np.mean(one["best"])


def test_one_normal_of_all_weights_settles_on_neither():
    """Draws of ABML move together, and say 1/2 each, as MAML does."""
    meta = ABMLClassifier(
        small_backbone, inner_lr=0.3, outer_lr=5e-3, **{**ATTRIBUTES, "max_iter": 200}
    )
    found = settled(meta.fit(AmbiguousAttributes()))
    assert np.mean(found["certain"]) < 0.3
    # Which is the right answer, about log 2 for half of the rows.
    assert np.mean(found["loss"]) < 0.6 * np.log(2)


def settled(meta):
    """Return how networks of each task tell rows whose attributes differ."""
    held_out = AmbiguousAttributes(n_samples=204).sample(20, random_state=1)
    found = {"first": [], "certain": [], "best": [], "loss": []}
    for task in held_out:
        p = class_1_of_networks(meta, task)
        X, y = task.X[~task.support], task.y[~task.support]
        assert np.mean((p.mean(0) > 0.5)[X.min(1) > 0.2]) > 0.95
        differ = X[:, 0] * X[:, 1] < 0
        first = ((p > 0.5) == (X[:, 0] > 0))[:, differ].mean(1)
        found["first"].append(np.mean(first > 0.5))
        found["certain"].append(np.abs(2 * p - 1)[:, differ].mean())
        losses = -np.log(np.where(y == 1, p, 1 - p).clip(1e-6)).mean(1)
        found["best"].append(losses.min())
        found["loss"].append(losses.mean())
    return found


def class_1_of_networks(meta, task):
    """Return each network's probability of class 1, (K, Q)."""
    learner = meta.learner_
    X, y = (torch.from_numpy(part)[None] for part in (task.X, task.y))
    support = torch.from_numpy(task.support)
    rows = Rows(X[:, support], y[:, support], torch.ones(1, int(support.sum())) > 0)
    with torch.no_grad():
        state = learner.adapt(rows)
        if hasattr(learner, "draw"):
            logits = learner.draw(state, X[:, ~support], 40, rng(), noise=False)[0]
        else:
            logits = learner.predict(state, X[:, ~support])
    return logits.double().softmax(-1)[..., 1].numpy()
