"""ABML against torch.distributions, finite differences and its steps written out.

What it shares with probabilistic MAML is tested in `test_platipus.py`.
"""

import pickle

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sklmeta import ABMLClassifier, ABMLRegressor
from sklmeta.backbones import MLP
from sklmeta.datasets import AmbiguousAttributes, make_sinusoids
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.probabilistic import ABML
from sklmeta.probabilistic._sampled_weights import gaussian_kl

N_TASKS, N_SUPPORT, N_QUERY, N_DRAWS = 2, 6, 5, 4
INNER_LR, KL_WEIGHT = 0.01, 0.5


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_rows(n_rows, generator):
    shape = N_TASKS, n_rows
    x = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(*shape, 1, generator=generator, dtype=torch.float64)
    return Rows(x, y, torch.ones(shape, dtype=torch.bool))


@pytest.fixture
def episodes():
    generator = rng()
    return Episodes(make_rows(N_SUPPORT, generator), make_rows(N_QUERY, generator))


def make_learner(**options):
    backbone = MLP(3, (6,), generator=rng(2))
    given = {"task_type": "regression", "generator": rng(1), "n_samples": N_DRAWS}
    given |= {"inner_lr": INNER_LR, "kl_weight": KL_WEIGHT, "initial_std": 0.2}
    learner = ABML(backbone, 6, 1, **given | options).double()
    with torch.no_grad():  # other standard deviations in each layer
        for place, log_std in enumerate(learner.log_std.values()):
            log_std.add_(0.2 * place)
    return learner


def rows_of(weights):
    """Return the weights of each task in one row, (T, n_weights)."""
    return torch.cat([weight.flatten(1) for weight in weights.values()], 1)


def prior_of(learner):
    """Return the density of weights that all tasks share."""
    stds = learner.stds(learner.log_std)
    std = torch.cat([own.flatten() for own in stds.values()])
    return Normal(rows_of(learner.means(1))[0].detach(), std.detach())


def posterior_of(learner, episodes, noise):
    """Return means and standard deviations after the inner steps, (T, n_weights)."""
    found = learner.posterior(episodes.support, learner.ways(episodes.support), noise)
    return rows_of(found.means).detach(), rows_of(found.stds).detach()


def negative_log_likelihood(learner, mean, log_std, noise, rows, task):
    """Return that of a task's rows, the mean over draws of all weights."""
    found = []
    for own in noise:
        weights, parts = mean + log_std.exp() * own, []
        for shape in learner.shapes.values():
            part, weights = weights.tensor_split([shape.numel()])
            parts.append(part.view(shape))
        (w, b, head_w, head_b), x = parts, rows.x[task]
        output = (x @ w.T + b).relu() @ head_w.T + head_b
        std = learner.log_noise.detach().exp()
        found.append(-Normal(output, std).log_prob(rows.y[task]).mean())
    return torch.stack(found).mean()


def slopes(function, at, step=1e-6):
    """Return the gradient of a function by finite differences."""
    found = []
    for place in range(len(at)):
        way = torch.zeros_like(at)
        way[place] = step
        found.append((function(at + way) - function(at - way)) / (2 * step))
    return torch.stack(found)


# Inference -----------------------------------------------------------------------


def test_without_steps_the_posterior_is_the_prior(episodes):
    learner = make_learner(inner_steps=0)
    noise = learner.noise_of_draws(episodes.support.x)[:, :N_DRAWS]
    mean, std = posterior_of(learner, episodes, noise)
    prior = prior_of(learner)
    torch.testing.assert_close(mean, prior.mean.expand_as(mean))
    torch.testing.assert_close(std, prior.stddev.expand_as(std))


def test_a_step_lowers_the_bound_as_written(episodes):
    """Explicit in the likelihood, implicit in the means' share of the divergence."""
    noise = make_learner().noise_of_draws(episodes.support.x)[:, :N_DRAWS]
    learner = make_learner(inner_steps=1)
    prior = prior_of(learner)
    mean, std = posterior_of(learner, episodes, noise)
    new_mean, new_std = posterior_of(make_learner(inner_steps=2), episodes, noise)
    scale = 2 * learner.log_noise.detach().exp().square()
    pull = scale * KL_WEIGHT / N_SUPPORT
    for task in range(N_TASKS):
        at = torch.cat([mean[task], std[task].log()])

        def loss(values, task=task):
            halves = values.chunk(2)
            rows = episodes.support
            return negative_log_likelihood(learner, *halves, noise[0], rows, task)

        by_mean, by_log_std = (scale * slopes(loss, at)).chunk(2)
        towards = pull * (new_mean[task] - prior.mean) / prior.variance
        want = mean[task] - INNER_LR * (by_mean + towards)
        torch.testing.assert_close(new_mean[task], want, rtol=1e-6, atol=1e-8)
        ratio = std[task].square() / prior.variance
        want = std[task].log() - INNER_LR * (by_log_std + pull * (ratio - 1))
        torch.testing.assert_close(new_std[task].log(), want, rtol=1e-6, atol=1e-8)


def test_loss_is_the_bound_on_query_rows(episodes):
    learner = make_learner(inner_steps=2, n_train_samples=3)
    losses = learner.meta_loss(episodes)
    inner, outer = learner.noise_of_update(N_TASKS).chunk(2, dim=1)
    assert inner.shape == outer.shape and not torch.equal(inner, outer)
    mean, std = posterior_of(learner, episodes, inner)
    divergence = kl_divergence(Normal(mean, std), prior_of(learner)).sum(1)
    assert (divergence > 0).all()
    for task in range(N_TASKS):
        own = mean[task], std[task].log(), outer[task]
        loss = negative_log_likelihood(learner, *own, episodes.query, task)
        want = loss + KL_WEIGHT * divergence[task] / N_QUERY
        torch.testing.assert_close(losses[task], want)


def test_divergence_of_stds_of_each_task_is_that_of_torch():
    generator = rng(3)
    means, stds, others = (
        {
            "a": torch.rand(3, 2, 4, generator=generator) + 0.1,
            "b": torch.rand(3, 5, generator=generator) + 0.1,
        }
        for _ in range(3)
    )
    prior_stds = {name: std[0] for name, std in stds.items()}
    want = 0.0
    for name in means:
        q = Normal(means[name], stds[name])
        p = Normal(others[name], prior_stds[name])
        want = want + kl_divergence(q, p).flatten(1).sum(1)
    torch.testing.assert_close(gaussian_kl(means, stds, others, prior_stds), want)


def test_a_strong_divergence_keeps_the_prior(episodes):
    """The means' step is implicit: it does not diverge, however small densities are."""
    for initial_std, kl_weight in ((0.2, 1e6), (1e-4, 1.0)):
        given = {"initial_std": initial_std, "kl_weight": kl_weight, "inner_steps": 5}
        learner = make_learner(**given, inner_lr=1e-3 / kl_weight)
        noise = learner.noise_of_draws(episodes.support.x)[:, :N_DRAWS]
        mean, std = posterior_of(learner, episodes, noise)
        prior = prior_of(learner)
        torch.testing.assert_close(mean, prior.mean.expand_as(mean), rtol=0, atol=1e-3)
        assert torch.isfinite(std).all()


def test_more_rows_make_posteriors_move_further(episodes):
    """The divergence counts less beside more rows."""
    learner = make_learner(inner_steps=5, kl_weight=5.0)
    noise = learner.noise_of_draws(episodes.support.x)[:, :N_DRAWS]
    support = episodes.support
    often = Rows(
        *(torch.cat([part] * 4, 1) for part in (support.x, support.y, support.mask))
    )
    prior = prior_of(learner)
    moved = [
        (posterior_of(learner, Episodes(rows, rows), noise)[0] - prior.mean).norm(dim=1)
        for rows in (support, often)
    ]
    assert (moved[1] > 1.02 * moved[0]).all()


def test_draws_are_of_the_posterior(episodes):
    learner = make_learner(inner_steps=2, n_samples=6000)
    noise = learner.noise_of_draws(episodes.support.x)
    with torch.no_grad():
        state = learner.adapt(episodes.support)
    mean, std = posterior_of(learner, episodes, noise[:, :6000])
    drawn = torch.cat([w.flatten(2) for w in state["parameters"].values()], 2)
    assert drawn.shape == (N_TASKS, 6000, mean.shape[1])
    torch.testing.assert_close(drawn.mean(1), mean, rtol=0, atol=0.05 * std.max())
    torch.testing.assert_close(drawn.std(1), std, rtol=0.05, atol=0)


# The estimators ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"n_train_samples": 1.5}, "n_train_samples"),
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"initial_std": 0.0}, "initial_std"),
        ({"inner_lr": -1}, "inner_lr"),
        ({"inner_steps": -1}, "inner_steps"),
        ({"first_order": 2}, "first_order"),
    ],
)
def test_unusable_parameters_are_refused(parameters, match):
    with pytest.raises((TypeError, ValueError), match=match):
        ABMLRegressor(**parameters).fit(make_sinusoids(20, random_state=0))


def test_vectors_of_ways_are_refused():
    with pytest.raises(ValueError, match="head must be one of"):
        ABMLClassifier(head="fixed").fit(AmbiguousAttributes().sample(4, 0))


def small_backbone(input_shape):
    return MLP(input_shape[0], (20, 20), generator=rng())


def train(random_state=0):
    meta = ABMLRegressor(small_backbone, max_iter=20, random_state=random_state)
    return meta.fit(make_sinusoids(40, random_state=0))


@pytest.fixture(scope="module")
def meta():
    return train()


@pytest.fixture(scope="module")
def task():
    return make_sinusoids(1, random_state=1)[0]


def test_seeds_decide_the_result(meta, task):
    again, other = train(), train(1)
    want, same, different = (
        one.adapt(task.X[:5], task.y[:5]).predict(task.X[5:], return_std=True)
        for one in (meta, again, other)
    )
    np.testing.assert_array_equal(want, same)
    assert not np.allclose(want[0], different[0])


def test_number_of_networks_can_be_set_after_fit(meta, task):
    for n_samples in (3, 30):
        meta.set_params(n_samples=n_samples)
        model = meta.adapt(task.X[:5], task.y[:5])
        draws = model.sample_y(task.X[5:], 100, noise=False)
        assert len(np.unique(draws[0].round(12))) == n_samples
    meta.set_params(n_samples=20)


def test_pickles_hold_no_noise_of_training_and_predict_the_same(meta, task):
    copied = pickle.loads(pickle.dumps(meta))
    assert not len(copied.learner_.training_noise)
    want, found = (
        one.adapt(task.X[:5], task.y[:5]).predict(task.X[5:], return_std=True)
        for one in (meta, copied)
    )
    np.testing.assert_array_equal(want, found)


def test_training_learns_and_support_rows_matter():
    """Rows of a wave make predictions of others better."""
    options = {"max_iter": 200, "outer_lr": 3e-3, "inner_lr": 0.1, "random_state": 0}
    meta = ABMLRegressor(small_backbone, **options)
    meta.fit(make_sinusoids(200, random_state=0))
    errors = {0: [], 10: []}
    for task in make_sinusoids(60, random_state=1):
        for n_shot in errors:
            rows = (task.X[:n_shot], task.y[:n_shot]) if n_shot else ()
            mean = meta.adapt(*rows).predict(task.X[10:])
            errors[n_shot].append(np.square(mean - task.y[10:]).mean())
    gain = np.subtract(errors[0], errors[10])
    assert gain.mean() > 3 * gain.std() / len(gain) ** 0.5


def test_networks_of_labels_are_drawn_without_noise():
    """Labels have no noise of their own: draws are logits, of each network."""
    tasks = AmbiguousAttributes().sample(20, random_state=0)
    meta = ABMLClassifier(small_backbone, max_iter=3, random_state=0).fit(tasks)
    X, y = (torch.from_numpy(part[None, :4]) for part in (tasks[0].X, tasks[0].y))
    rows = Rows(X, y, torch.ones(1, 4, dtype=torch.bool))
    with torch.no_grad():
        state = meta.learner_.adapt(rows)
        noisy, clean = (
            meta.learner_.draw(state, X, 20, rng(), noise=noise)
            for noise in (True, False)
        )
    assert noisy.shape == (1, 20, 4, 2)
    assert torch.equal(noisy, clean)
