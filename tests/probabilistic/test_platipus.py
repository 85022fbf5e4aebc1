"""Probabilistic MAML against MAML, torch.distributions and finite differences."""

import pickle

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sklmeta import ProbabilisticMAMLClassifier, ProbabilisticMAMLRegressor, TaskSet
from sklmeta.backbones import MLP, ConvNet
from sklmeta.datasets import AmbiguousAttributes, make_sinusoids
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Progress
from sklmeta.gradient import MAML
from sklmeta.probabilistic import ABML, ProbabilisticMAML
from sklmeta.probabilistic._sampled_weights import gaussian_kl

N_TASKS, N_SUPPORT, N_QUERY, N_FEATURES, N_WAYS = 3, 6, 5, 4, 3
KINDS = ["numbers", "shared", "local"]
LEARNERS = [ProbabilisticMAML, ABML]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def make_rows(n_rows, target, generator):
    shape = N_TASKS, n_rows
    x = torch.randn(*shape, N_FEATURES, generator=generator, dtype=torch.float64)
    mask = torch.ones(shape, dtype=torch.bool)
    if target == "numbers":
        y = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
        return Rows(x, y, mask)
    y = torch.randint(N_WAYS, shape, generator=generator)
    if target == "shared":
        return Rows(x, y, mask)
    n_way = torch.tensor([N_WAYS, N_WAYS - 1, N_WAYS])
    return Rows(x, y.clamp(max=(n_way - 1)[:, None]), mask, n_way)


def make_episodes(target="numbers", seed=0):
    generator = rng(seed)
    support = make_rows(N_SUPPORT, target, generator)
    return Episodes(support, make_rows(N_QUERY, target, generator))


def network_options(target):
    kind = "regression" if target == "numbers" else "classification"
    n_outputs = {"shared": N_WAYS, "local": None, "numbers": 2}[target]
    backbone = MLP(N_FEATURES, (8, 7), generator=rng(2))
    return (backbone, 7, n_outputs), {"task_type": kind, "generator": rng(1)}


def make_learner(target="numbers", kind=ProbabilisticMAML, **options):
    args, network = network_options(target)
    options = {"inner_lr": 0.1, "inner_steps": 2, "n_samples": 4, **options}
    return kind(*args, **network, **options).double()


def make_maml(target, **options):
    args, network = network_options(target)
    return MAML(*args, **network, inner_lr=0.1, **options).double()


def outputs(learner, episodes):
    with torch.no_grad():
        return learner.predict(learner.adapt(episodes.support), episodes.query.x)


def without_spread(learner, rate):
    """Draw the means only, after a step of the prior of a given rate."""
    with torch.no_grad():
        for log_std in learner.log_std.values():
            log_std.fill_(-100.0)
        learner.prior_rate.rates["all"].fill_(rate)
    return learner


# Against MAML --------------------------------------------------------------------


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("n_samples", [1, 3])
def test_without_spread_it_is_maml(target, n_samples):
    episodes = make_episodes(target)
    learner = without_spread(make_learner(target, n_samples=n_samples), 0.0)
    want = outputs(make_maml(target, inner_steps=2), episodes)
    if target != "numbers":
        want = want.log_softmax(-1)
    torch.testing.assert_close(outputs(learner, episodes), want)


def test_without_spread_the_priors_step_is_one_more_of_maml():
    episodes = make_episodes("numbers")
    learner = without_spread(make_learner("numbers"), 0.1)
    want = outputs(make_maml("numbers", inner_steps=3), episodes)
    torch.testing.assert_close(outputs(learner, episodes), want)


# The bound -----------------------------------------------------------------------


def normals(means, stds):
    return Normal(torch.cat([m.flatten(1) for m in means.values()], 1), flat(stds))


def flat(stds):
    return torch.cat([s.flatten() for s in stds.values()])


def test_divergence_is_that_of_torch():
    episodes, learner = make_episodes(), make_learner()
    ways = learner.ways(episodes.support)
    with torch.no_grad():
        for offset, log_std in enumerate(learner.posterior_log_std.values()):
            log_std.add_(0.1 * offset)
    p = learner.prior_means(episodes.support, ways), learner.stds(learner.log_std)
    stds = learner.stds(learner.posterior_log_std)
    q = learner.posterior_means(episodes, ways), stds
    want = kl_divergence(normals(*q), normals(*p)).sum(1)
    assert (want > 0).all()
    torch.testing.assert_close(gaussian_kl(*q, *p), want)


def test_loss_is_the_bound():
    """Algorithm 1 written out, one task and one draw at a time."""
    episodes, learner = make_episodes(), make_learner(n_train_samples=2, kl_weight=0.5)
    losses = learner.meta_loss(episodes)
    noise = learner.training_noise[:N_TASKS]
    std = learner.stds(learner.posterior_log_std)
    ways = learner.ways(episodes.support)
    means = learner.posterior_means(episodes, ways)
    p = learner.prior_means(episodes.support, ways), learner.stds(learner.log_std)
    divergence = gaussian_kl(means, std, *p)
    for task in range(N_TASKS):
        found = []
        for draw in range(2):
            weights = noise[task, draw] * flat(std)
            weights = weights + torch.cat([m[task].flatten() for m in means.values()])
            found.append(negative_log_likelihood(learner, weights, episodes, task))
        want = sum(found) / 2 + 0.5 * divergence[task] / (N_QUERY * 2)
        torch.testing.assert_close(losses[task], want)


def negative_log_likelihood(learner, weights, episodes, task):
    """Return that of a task's query rows, of weights after two inner steps."""
    shapes = list(learner.shapes.values())
    parts = weights.split([shape.numel() for shape in shapes])
    weights = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def network(x):
        hidden = x
        for place in range(0, 4, 2):
            hidden = (hidden @ weights[place].T + weights[place + 1]).relu()
        return hidden @ weights[4].T + weights[5]

    support, query = episodes.support, episodes.query
    for _ in range(2):
        loss = (network(support.x[task]) - support.y[task]).square().mean()
        gradients = torch.autograd.grad(loss, weights, create_graph=True)
        weights = [w - 0.1 * g for w, g in zip(weights, gradients, strict=True)]
    std = learner.log_noise.exp()
    return -Normal(network(query.x[task]), std).log_prob(query.y[task]).mean()


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("target", KINDS)
def test_meta_gradient_is_that_of_finite_differences(target, kind):
    learner = make_learner(target, kind, n_train_samples=2)
    learner.progress = Progress(7)
    episodes, step = make_episodes(target), 1e-6
    parameters = list(learner.parameters())
    loss = learner.meta_loss(episodes).sum()
    gradients = torch.autograd.grad(loss, parameters)
    generator = rng(3)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        shape = parameter.shape
        way = torch.randn(shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(way, alpha=sign * step)
            values.append(learner.meta_loss(episodes).sum().item())
            with torch.no_grad():
                parameter.sub_(way, alpha=sign * step)
        found = (values[0] - values[1]) / (2 * step)
        expected = (gradient * way).sum().item()
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", LEARNERS)
def test_first_order_leaves_second_derivatives_out(kind):
    episodes = make_episodes()
    gradients = []
    for first_order in (False, True):
        learner = make_learner(kind=kind, first_order=first_order)
        loss = learner.meta_loss(episodes).sum()
        gradients.append(torch.autograd.grad(loss, learner.head.weight)[0])
    assert not torch.allclose(*gradients, rtol=1e-3)


@pytest.mark.parametrize("kind", LEARNERS)
def test_noise_is_that_of_the_update(kind):
    episodes, learner = make_episodes(), make_learner(kind=kind)
    losses = []
    for n_done in (0, 1, 0):
        learner.progress = Progress(n_done)
        losses.append(learner.meta_loss(episodes).detach())
    assert not torch.allclose(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("kind", LEARNERS)
def test_validation_is_by_the_predictive_density(kind):
    episodes, learner = make_episodes(), make_learner(kind=kind).eval()
    view = learner.with_options(gives_std=True)
    mean, std = outputs(view, episodes).chunk(2, dim=-1)
    with torch.no_grad():
        losses = learner.meta_loss(episodes)
    want = -Normal(mean, std).log_prob(episodes.query.y).mean((1, 2))
    torch.testing.assert_close(losses, want)


# Predictions ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", LEARNERS)
def test_moments_are_those_of_the_mixture(kind):
    episodes, learner = make_episodes(), make_learner(kind=kind, initial_std=0.3)
    view = learner.with_options(gives_std=True)
    with torch.no_grad():
        state = learner.adapt(episodes.support)
        networks = learner.sampled_outputs(state, episodes.query.x)
        mean, std = view.predict(state, episodes.query.x).chunk(2, dim=-1)
    assert networks.shape == (N_TASKS, 4, N_QUERY, 2)
    second = networks.square().mean(1) + learner.log_noise.detach().exp().square()
    torch.testing.assert_close(mean, networks.mean(1))
    torch.testing.assert_close(std, (second - mean.square()).sqrt())


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("target", ["shared", "local"])
def test_probabilities_are_means_over_networks(target, kind):
    episodes = make_episodes(target)
    learner = make_learner(target, kind, initial_std=0.3)
    with torch.no_grad():
        state = learner.adapt(episodes.support)
        networks = learner.sampled_outputs(state, episodes.query.x)
        found = learner.predict(state, episodes.query.x)
    torch.testing.assert_close(found.exp(), networks.softmax(-1).mean(1))
    if target == "local":
        assert (found[1, :, -1] == -torch.inf).all()


@pytest.mark.parametrize("kind", LEARNERS)
def test_draws_take_each_network_once_before_any_again(kind):
    episodes, learner = make_episodes(), make_learner(kind=kind, initial_std=0.3)
    with torch.no_grad():
        state = learner.adapt(episodes.support)
        networks = learner.sampled_outputs(state, episodes.query.x)
        draws = learner.draw(state, episodes.query.x, 10, rng(), noise=False)
        noisy = learner.draw(state, episodes.query.x, 4000, rng(), noise=True)
    assert draws.shape == (N_TASKS, 10, N_QUERY, 2)
    for block in (draws[:, :4], draws[:, 4:8]):
        torch.testing.assert_close(block.sum(1), networks.sum(1))
    assert torch.unique(draws[0, :, 0, 0]).numel() == 4
    variance = learner.log_noise.exp().square() + networks.var(1, correction=0)
    torch.testing.assert_close(noisy.var(1), variance.detach(), rtol=0.15, atol=0)


@pytest.mark.parametrize("kind", LEARNERS)
@pytest.mark.parametrize("target", KINDS)
def test_padding_order_and_other_tasks_do_not_matter(target, kind):
    episodes, learner = make_episodes(target), make_learner(target, kind)
    support = episodes.support
    want = outputs(learner, episodes)
    padded = Rows(*(torch.cat([a, a[:, :2]], 1) for a in parts(support)), support.n_way)
    padded.mask[:, N_SUPPORT:] = False
    order = torch.tensor([4, 0, 5, 1, 3, 2])
    shuffled = Rows(*(a[:, order] for a in parts(support)), support.n_way)
    for other in (padded, shuffled):
        found = outputs(learner, Episodes(other, episodes.query))
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
    alone = outputs(learner, episodes[torch.tensor([2])])
    torch.testing.assert_close(alone, want[2:], rtol=1e-10, atol=1e-10)


def parts(rows):
    return rows.x, rows.y, rows.mask


@pytest.mark.parametrize("kind", LEARNERS)
def test_without_support_networks_are_draws_of_the_prior(kind):
    episodes, learner = make_episodes(), make_learner(kind=kind)
    support = episodes.support
    support.mask.fill_(False)
    with torch.no_grad():
        state = learner.adapt(support)
        noise = learner.noise_of_draws(support.x)[:, -4:]
        drawn = learner.drawn(learner.means(1), learner.stds(learner.log_std), noise)
    for name, weight in drawn.items():
        found = state["parameters"][name]
        torch.testing.assert_close(found, weight.expand_as(found))


def test_vectors_of_ways_are_refused():
    with pytest.raises(ValueError, match=r"head='fixed'.*no density"):
        make_learner("local", head="fixed", n_ways=3)
    with pytest.raises(ValueError, match="head must be one of"):
        pool_free = ProbabilisticMAMLClassifier(head="fixed")
        pool_free.fit(AmbiguousAttributes().sample(4, 0))


def test_images_have_statistics_of_each_network():
    generator = rng()
    backbone = ConvNet((1, 6, 6), 4, 2, generator=rng(2))
    learner = ProbabilisticMAML(
        backbone, backbone.out_features, None, task_type="classification", n_samples=3
    )
    x = torch.randn(2, 6, 1, 6, 6, generator=generator)
    y = torch.tensor([[0, 1, 2] * 2] * 2)
    mask, n_way = torch.ones(2, 6, dtype=torch.bool), torch.tensor([3, 3])
    rows = Rows(x, y, mask, n_way)
    loss = learner.meta_loss(Episodes(rows, rows))
    assert loss.shape == (2,) and torch.isfinite(loss).all()
    learner.eval()
    with torch.no_grad():
        state = learner.adapt(rows)
        whole, first = learner.predict(state, x), learner.predict(state, x[:, :2])
    assert whole.shape == (2, 6, 3)
    torch.testing.assert_close(whole[:, :2], first, rtol=1e-4, atol=1e-5)


# The estimators ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"n_samples": 0}, "n_samples"),
        ({"n_train_samples": 0}, "n_train_samples"),
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"initial_std": 0.0}, "initial_std"),
        ({"inner_lr": 0}, "inner_lr"),
        ({"first_order": "yes"}, "first_order"),
    ],
)
def test_unusable_parameters_are_refused(parameters, match):
    tasks = make_sinusoids(20, random_state=0)
    with pytest.raises((TypeError, ValueError), match=match):
        ProbabilisticMAMLRegressor(**parameters).fit(tasks)


@pytest.fixture(scope="module")
def quick():
    tasks = make_sinusoids(40, random_state=0)
    meta = ProbabilisticMAMLRegressor(max_iter=40, random_state=0)
    return meta.fit(tasks[:30]), tasks[30]


def test_number_of_networks_can_be_set_after_fit(quick):
    meta, task = quick
    means = {}
    for n_samples in (3, 30, 300):
        meta.set_params(n_samples=n_samples)
        model = meta.adapt(task.X[:5], task.y[:5])
        draws = model.sample_y(task.X[5:], 400, noise=False)
        assert len(np.unique(draws[0].round(12))) == n_samples
        means[n_samples] = model.predict(task.X[5:])
    meta.set_params(n_samples=20)
    assert not np.allclose(means[3], means[30])


def test_equal_supports_give_equal_predictions(quick):
    meta, task = quick
    first, again = (
        meta.adapt(task.X[:5], task.y[:5]).predict(task.X[5:], return_std=True)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    others = TaskSet([(task.X[5:9], task.y[5:9]), (task.X[:5], task.y[:5])])
    found = meta.predict_tasks(others, [task.X[9:], task.X[5:]])[1]
    np.testing.assert_allclose(found, first[0], rtol=1e-4, atol=1e-5)


def test_pickles_hold_no_noise_of_training_and_predict_the_same(quick):
    meta, task = quick
    copied = pickle.loads(pickle.dumps(meta))
    assert not len(copied.learner_.training_noise)
    for one in (meta, copied):
        one.adapt(task.X[:5], task.y[:5])
    want = meta.predict(task.X[5:], return_std=True)
    np.testing.assert_array_equal(copied.predict(task.X[5:], return_std=True), want)


def test_compiled_and_recorded_updates_draw_new_noise():
    """Replays of recorded meta-updates read the noise of each update anew."""
    tasks = make_sinusoids(60, random_state=0)

    def trained(max_iter, **options):
        meta = ProbabilisticMAMLRegressor(max_iter=max_iter, random_state=0, **options)
        return meta.fit(tasks).learner_

    recorded = trained(60)
    eager = trained(60, checkpoint_steps=True)  # never recorded
    for a, b in zip(recorded.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
