"""Neural processes: bounds, mixtures, draws of whole functions, and their faces."""

import math
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from sklmeta import NeuralProcessClassifier, NeuralProcessRegressor, TaskSet
from sklmeta.datasets import GaussianProcessTasks, load_digits_pool
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Progress
from sklmeta.probabilistic import NeuralProcess
from sklmeta.tasks import TaskDistribution

T, S, Q = 3, 5, 4
TASKS = GaussianProcessTasks(length_scale=(1, 2), noise=0.1, n_samples=12)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(**options):
    options = {"latent": True, "hidden_size": 8, "n_heads": 2, **options}
    return NeuralProcess(
        nn.Flatten(), 1, 2, prior_fraction=0.0, generator=generator(), **options
    ).double()


def make_rows(n_rows, seed):
    x = torch.randn(T, n_rows, 1, generator=generator(seed), dtype=torch.float64)
    y = torch.cat([x.sin(), x.cos()], -1)
    return Rows(x, y, torch.ones(T, n_rows, dtype=torch.bool))


@pytest.fixture
def episodes():
    support, query = make_rows(S, 0), make_rows(Q, 1)
    mask = torch.arange(Q) < torch.tensor([[4], [2], [3]])
    return Episodes(support, Rows(query.x, query.y, mask))


def parts_of_the_bound(learner, episodes):
    """Return q(z | context), q(z | targets), the draws of z and log densities.

    Densities (T, K) are summed over rows and outputs, task after task.
    """
    support, query = episodes.support, episodes.query
    targets = Rows(
        *(
            torch.cat([getattr(support, name), getattr(query, name)], 1)
            for name in ("x", "y", "mask")
        )
    )
    state, seen = learner.adapt(support), learner.adapt(targets)
    prior, posterior = (Normal(one["mean"], one["std"]) for one in (state, seen))
    noise = learner._training_noise(T).double()
    z = posterior.mean[:, None] + posterior.stddev[:, None] * noise
    mean, std = learner.moments(learner.decode(state, targets.x, z).squeeze(2))
    densities = Normal(mean, std).log_prob(targets.y[:, None]).sum(-1)
    total = torch.stack(
        [
            own[:, real].sum(-1)
            for own, real in zip(densities, targets.mask, strict=True)
        ]
    )
    return prior, posterior, z, total, targets.mask.sum(1)


@pytest.mark.parametrize("attention", [False, True])
def test_the_loss_is_the_evidence_lower_bound(attention, episodes):
    learner = make(attention=attention).train()
    learner.progress = Progress(7)
    prior, posterior, _, total, n_rows = parts_of_the_bound(learner, episodes)
    bound = total[:, 0] - kl_divergence(posterior, prior).sum(-1)
    torch.testing.assert_close(learner.meta_loss(episodes), -bound / (2 * n_rows))


def test_with_more_draws_it_is_the_importance_weighted_bound(episodes):
    learner = make(n_train_samples=4).train()
    prior, posterior, z, total, n_rows = parts_of_the_bound(learner, episodes)
    ratio = prior.log_prob(z.transpose(0, 1)) - posterior.log_prob(z.transpose(0, 1))
    weights = total + ratio.sum(-1).transpose(0, 1)
    bound = weights.exp().mean(1).log()
    torch.testing.assert_close(learner.meta_loss(episodes), -bound / (2 * n_rows))


def test_without_a_latent_variable_it_is_the_density_of_all_rows(episodes):
    learner = make(latent=False).train()
    state = learner.adapt(episodes.support)
    losses = []
    for task in range(T):
        real = episodes.query.mask[task]
        x = torch.cat([episodes.support.x[task], episodes.query.x[task][real]])
        y = torch.cat([episodes.support.y[task], episodes.query.y[task][real]])
        own = {name: leaf[task : task + 1] for name, leaf in state.items()}
        mean, std = learner.moments(learner.decode(own, x[None], None)[0, 0, 0])
        losses.append(-Normal(mean, std).log_prob(y).mean())
    torch.testing.assert_close(learner.meta_loss(episodes), torch.stack(losses))


def test_the_training_draws_differ_between_updates_and_not_between_runs():
    learner, same = make(), make()
    assert torch.equal(learner._training_noise(T), same._training_noise(T))
    learner.progress = Progress(1)
    assert not torch.equal(learner._training_noise(T), same._training_noise(T))


def test_moments_are_those_of_the_mixture():
    learner = make(n_samples=20_000).eval()
    support, query = make_rows(S, 0), make_rows(Q, 1)
    state = learner.adapt(support)
    with torch.no_grad():
        found = learner.with_options(gives_std=True).predict(state, query.x)
        draws = learner.draw(state, query.x, 20_000, generator(1))
    mean, std = found.chunk(2, -1)
    torch.testing.assert_close(draws.mean(1), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(draws.std(1), std, rtol=0.03, atol=0)


def test_predictions_are_the_same_in_every_call():
    learner = make(n_samples=3).eval()
    state = learner.adapt(make_rows(S, 0))
    x = make_rows(Q, 1).x
    assert torch.equal(learner.predict(state, x), learner.predict(state, x))


def test_predictions_are_averaged_over_mirrored_points():
    state = make().adapt(make_rows(S, 0))
    for n_samples in (1, 6, 7):
        z = make(n_samples=n_samples).latent_points(state)
        assert z.shape == (T, n_samples, 8)
    even = make(n_samples=6).latent_points(state)
    torch.testing.assert_close(even.mean(1), state["mean"])
    spread = make(n_samples=4000).latent_points(state).std(1)
    torch.testing.assert_close(spread, state["std"], rtol=0.05, atol=0)


def test_draws_without_noise_are_functions():
    x = make_rows(Q, 1).x
    for latent, spread in [(True, True), (False, False)]:
        learner = make(latent=latent).eval()
        state = learner.adapt(make_rows(S, 0))
        functions = learner.draw(state, x, 6, generator(), noise=False)
        assert functions.shape == (T, 6, Q, 2)
        assert bool((functions.std(1) > 1e-6).all()) is spread
        # A row's value does not depend on which rows are drawn with it.
        alone = learner.draw(state, x[:, :1], 6, generator(), noise=False)
        torch.testing.assert_close(alone, functions[:, :, :1])


def test_probabilities_are_averaged_over_draws():
    learner = NeuralProcess(
        nn.Flatten(),
        1,
        None,
        task_type="classification",
        latent=True,
        hidden_size=8,
        n_heads=2,
        n_samples=5,
        generator=generator(),
    ).double()
    x = make_rows(S, 0).x
    labels = torch.arange(S).expand(T, -1) % 2
    n_way = torch.full((T,), 2)
    state = learner.adapt(Rows(x, labels, torch.ones(T, S, dtype=torch.bool), n_way))
    z = learner.latent_points(state)
    logits = learner.answers(learner.decode(state, x, z), state)
    assert logits.shape == (T, 5, S, 2)
    found = learner.predict(state, x).softmax(-1)
    torch.testing.assert_close(found, logits.softmax(-1).mean(1))
    draws = learner.draw(state, x, 7, generator(1))
    assert draws.shape == (T, 7, S, 2)
    learner.calibration.fill_(2.0)  # acts on predictions alone, as with drawn weights
    torch.testing.assert_close(learner.draw(state, x, 7, generator(1)), draws)
    assert not torch.equal(learner.predict(state, x).softmax(-1), found)


# A problem with two answers -------------------------------------------------------


@dataclass(frozen=True)
class SinusoidOrLine(TaskDistribution):
    """y = a x or y = a sin(pi x / 2), which agree at the support rows -1, 0 and 1."""

    def sample(self, n_tasks, random_state=None):
        rng = np.random.default_rng(random_state)
        a = rng.uniform(0.5, 2, (n_tasks, 1))
        is_line = rng.random((n_tasks, 1)) < 0.5
        x = rng.uniform(-2, 2, (n_tasks, 15))
        x[:, :3] = [-1, 0, 1]
        y = np.where(is_line, a * x, a * np.sin(np.pi * x / 2))
        support = np.tile(np.arange(15) < 3, n_tasks)
        offsets = 15 * np.arange(n_tasks + 1)
        return TaskSet.from_offsets(
            x.reshape(-1, 1), y.ravel(), offsets, support=support
        )


def trained(**options):
    meta = NeuralProcessRegressor(
        attention=False,
        hidden_size=32,
        encoder_depth=2,
        prior_fraction=0.0,
        outer_lr=4e-3,
        random_state=0,
        **options,
    )
    return meta.fit(SinusoidOrLine())


@pytest.fixture(scope="module")
def latent():
    return trained(latent=True, n_train_samples=8, max_iter=1500)


@pytest.fixture(scope="module")
def deterministic():
    return trained(max_iter=200)


def functions(meta):
    """Return draws (2, n) at 2 and -2 after support rows that leave two answers."""
    model = meta.adapt([[-1.0], [0.0], [1.0]], [-1.0, 0.0, 1.0])
    return model.sample_y([[2.0], [-2.0]], 400, random_state=0, noise=False)


def test_latent_draws_spread_over_both_explanations(latent):
    right, left = functions(latent)
    is_line = right > 1  # 2 for the line, and 0 for the sinusoid
    assert 0.2 < is_line.mean() < 0.8
    assert right[is_line].mean() > 1.5
    assert right[~is_line].mean() < 0.5
    # What a draw is on the right, it is on the left.
    assert np.corrcoef(right, left)[0, 1] < -0.9
    # Where both explanations agree there is nothing to spread over.
    model = latent.adapt([[-1.0], [0.0], [1.0]], [-1.0, 0.0, 1.0])
    agreed = model.sample_y([[1.0]], 400, random_state=0, noise=False)
    assert agreed.std() < 0.2 * right.std()


def test_the_deterministic_process_draws_one_function(deterministic, latent):
    right, _ = functions(deterministic)
    assert right.std() < 1e-9
    assert functions(latent)[0].std() > 0.4


def test_more_rows_settle_it(latent):
    for kind, value in [(1.8, 2.0), (np.sin(0.9 * np.pi), 0.0)]:
        model = latent.adapt([[-1.0], [0.0], [1.0]], [-1.0, 0.0, 1.0])
        settled = latent.adapt([[-1.0], [0.0], [1.0], [1.8]], [-1.0, 0.0, 1.0, kind])
        before, after = (m.predict([[2.0]], return_std=True) for m in (model, settled))
        assert abs(after[0][0] - value) < abs(before[0][0] - value)


# Faces ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regressor():
    return NeuralProcessRegressor(
        latent=True, hidden_size=16, n_heads=2, max_iter=30, random_state=0
    ).fit(TASKS)


@pytest.fixture
def task():
    return TASKS.sample(1, random_state=2)[0]


def test_std_and_draws(regressor, task):
    model = regressor.adapt(task.X[:8], task.y[:8])
    mean, std = model.predict(task.X[8:], return_std=True)
    assert mean.shape == std.shape == (4,)
    draws = model.sample_y(task.X[8:], n_samples=4000, random_state=0)
    np.testing.assert_allclose(draws.mean(1), mean, atol=0.1)
    np.testing.assert_allclose(draws.std(1), std, rtol=0.1)


def test_n_samples_is_read_when_adapting(regressor, task):
    few = pickle.loads(pickle.dumps(regressor)).set_params(n_samples=1)
    _, narrow = few.adapt(task.X[:3], task.y[:3]).predict(task.X, return_std=True)
    _, wide = regressor.adapt(task.X[:3], task.y[:3]).predict(task.X, return_std=True)
    assert (narrow != wide).all()


def test_pickling(regressor, task):
    again = pickle.loads(pickle.dumps(regressor))
    found, expected = (
        meta.adapt(task.X[:5], task.y[:5]).predict(task.X[5:])
        for meta in (again, regressor)
    )
    np.testing.assert_array_equal(found, expected)


def test_prior(regressor, task):
    mean, std = regressor.adapt().predict(task.X, return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()


def test_more_ways_than_in_training():
    pool = load_digits_pool()
    meta = NeuralProcessClassifier(
        "identity", hidden_size=16, n_heads=2, n_way=2, max_iter=2, random_state=0
    ).fit(pool[:5])
    new = pool[5:]
    probabilities = meta.adapt(new.X[::20], new.y[::20]).predict_proba(new.X[:7])
    assert probabilities.shape == (7, 5)
    np.testing.assert_allclose(probabilities.sum(1), 1)


def test_images_pass_a_convolution_net():
    pool = load_digits_pool()
    meta = NeuralProcessClassifier(
        image_shape=(8, 8), hidden_size=16, n_heads=2, n_shot=2, n_query=2, max_iter=1
    )
    meta.fit(pool[:5])
    assert any(isinstance(layer, nn.Conv2d) for layer in meta.learner_.modules())


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_heads": 7}, ValueError, "n_heads must divide hidden_size, got n_heads=7"),
        ({"latent": "yes"}, ValueError, "latent must be one of"),
        ({"attention": None}, ValueError, "attention must be one of"),
        ({"hidden_size": 0}, ValueError, "hidden_size"),
        ({"encoder_depth": 0}, ValueError, "encoder_depth"),
        ({"decoder_depth": 2.5}, TypeError, "decoder_depth"),
        ({"n_samples": 0}, ValueError, "n_samples"),
        ({"n_train_samples": 0}, ValueError, "n_train_samples"),
        ({"min_std": math.nan}, ValueError, "min_std"),
        ({"prior_fraction": 2}, ValueError, "prior_fraction"),
    ],
)
def test_refusals(parameters, error, message):
    with pytest.raises(error, match=message):
        NeuralProcessRegressor(**parameters).fit(TASKS)


def test_heads_do_not_matter_without_attention():
    meta = NeuralProcessRegressor(
        attention=False, hidden_size=10, n_heads=7, max_iter=1, random_state=0
    )
    assert meta.fit(TASKS).n_iter_ == 1
