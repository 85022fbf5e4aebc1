"""Gaussian processes on learned features against scikit-learn's."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import (
    RBF,
    ConstantKernel,
    DotProduct,
    Matern,
    WhiteKernel,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import KFold
from torch import nn

from sklmeta import (
    DeepKernelClassifier,
    DeepKernelRegressor,
    MetaTrainingError,
    TaskSet,
)
from sklmeta.closed_form import DeepKernel
from sklmeta.closed_form._kernels import make_kernel
from sklmeta.closed_form._mean_functions import FoldedMean
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.engine.batches import Episodes, Rows

N_TASKS, N_FEATURES = 3, 4
NOISE, VARIANCE, LENGTH_SCALE = 0.2, 1.7, 1.5
QUICK = {"max_iter": 3, "batch_size": 4, "random_state": 0}
KERNELS = {
    "rbf": RBF(LENGTH_SCALE),
    "matern12": Matern(LENGTH_SCALE, nu=0.5),
    "matern32": Matern(LENGTH_SCALE, nu=1.5),
    "matern52": Matern(LENGTH_SCALE, nu=2.5),
    "linear": ConstantKernel(LENGTH_SCALE**-2) * DotProduct(LENGTH_SCALE),
}


def randn(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def numbers(n_rows, n_outputs=1, seed=0, n_tasks=N_TASKS):
    x = randn(n_tasks, n_rows, N_FEATURES, seed=seed)
    y = randn(n_tasks, n_rows, n_outputs, seed=seed + 10) + 1
    return Rows(x, y, torch.ones(n_tasks, n_rows, dtype=torch.bool))


def labelled(n_rows, n_ways=3, seed=0, n_way=None):
    x = randn(N_TASKS, n_rows, N_FEATURES, seed=seed)
    y = (torch.arange(n_rows) % n_ways).repeat(N_TASKS, 1)
    return Rows(x, y, torch.ones(N_TASKS, n_rows, dtype=torch.bool), n_way)


def set_exactly(learner):
    """Give parameters their values in double precision."""
    with torch.no_grad():
        learner.log_noise.fill_(np.log(NOISE - 1e-6))
        for name, value in (
            ("log_length_scale", LENGTH_SCALE),
            ("log_output_scale", VARIANCE),
        ):
            if hasattr(learner.kernel, name):
                getattr(learner.kernel, name).fill_(np.log(value))
    return learner


def process(kernel="rbf", n_outputs=1, backbone=None, **options):
    backbone = nn.Identity() if backbone is None else backbone
    made = make_kernel(
        kernel, N_FEATURES, generator=torch.Generator().manual_seed(0), length_scale=1.0
    )
    learner = DeepKernel(backbone, made, n_outputs, **options).double()
    return set_exactly(learner)


def classifier(n_outputs=3, kernel="rbf", **options):
    return process(kernel, n_outputs, task_type="classification", **options)


def moments(learner, support, query):
    with torch.no_grad():
        view = learner.with_options(gives_std=True)
        return view.predict(view.adapt(support), query.x).chunk(2, dim=-1)


def logits(learner, support, query):
    with torch.no_grad():
        return learner.predict(learner.adapt(support), query.x)


def sklearns(kernel, x, y, with_noise=True):
    kernel = VARIANCE * KERNELS[kernel] + WhiteKernel(NOISE)
    model = GaussianProcessRegressor(kernel, alpha=1e-12, optimizer=None)
    return model.fit(x.numpy(), y.numpy())


# The posterior and the marginal likelihood --------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 12])
@pytest.mark.parametrize("kernel", KERNELS)
def test_posterior_is_sklearns(kernel, n_rows):
    support, query = numbers(n_rows, 2), numbers(6, 2, seed=1)
    mean, std = moments(process(kernel, 2), support, query)
    for task in range(N_TASKS):
        model = sklearns(kernel, support.x[task], support.y[task])
        expected = model.predict(query.x[task].numpy(), return_std=True)
        np.testing.assert_allclose(mean[task], expected[0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(std[task], expected[1], rtol=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_meta_loss_is_sklearns_log_marginal_likelihood(kernel):
    support, query = numbers(7), numbers(5, seed=1)
    found = process(kernel).meta_loss(Episodes(support, query))
    for task in range(N_TASKS):
        x = torch.cat([support.x[task], query.x[task]])
        y = torch.cat([support.y[task], query.y[task]])
        expected = sklearns(kernel, x, y).log_marginal_likelihood_value_
        assert found[task].item() == pytest.approx(-expected / 12, rel=1e-9)


def test_predictive_objective_is_the_density_of_the_query():
    support, query = numbers(7), numbers(5, seed=1)
    learner = process(objective="predictive")
    mean, std = moments(learner, support, query)
    density = torch.distributions.Normal(mean, std).log_prob(query.y)
    found = learner.meta_loss(Episodes(support, query))
    torch.testing.assert_close(found, -density.mean((1, 2)))


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_constant_mean_is_taken_off_and_added(n_outputs):
    support, query = numbers(6, n_outputs), numbers(5, n_outputs, seed=1)
    learner = process(n_outputs=n_outputs)
    mean, std = moments(learner, support, query)
    loss = learner.meta_loss(Episodes(support, query))
    shift = torch.arange(1.0, 1 + n_outputs, dtype=torch.float64)
    with torch.no_grad():
        learner.constant += shift
    moved = Rows(support.x, support.y + shift, support.mask)
    asked = Rows(query.x, query.y + shift, query.mask)
    found = moments(learner, moved, asked)
    torch.testing.assert_close(found[0], mean + shift)
    torch.testing.assert_close(found[1], std)
    torch.testing.assert_close(learner.meta_loss(Episodes(moved, asked)), loss)


@pytest.mark.parametrize("objective", ["marginal", "predictive"])
@pytest.mark.parametrize("kernel", [*KERNELS, "spectral", "cosine"])
def test_meta_gradients_are_finite_differences(kernel, objective):
    net = nn.Sequential(nn.Linear(N_FEATURES, N_FEATURES), nn.Tanh())
    with torch.no_grad():
        for seed, weight in enumerate(net.parameters()):
            weight.copy_(randn(*weight.shape, seed=seed) / 2)
    for learner, episodes in (
        (process(kernel, 2, net), Episodes(numbers(4, 2), numbers(3, 2, seed=1))),
        (
            classifier(3, kernel, backbone=net),
            Episodes(labelled(6), labelled(3, seed=1)),
        ),
    ):
        learner.objective = objective
        assert_gradients_are_slopes(learner, episodes)


def assert_gradients_are_slopes(learner, episodes, h=1e-4):
    """Compare gradients of the meta-loss with differences of fourth order."""
    weights = dict(learner.named_parameters())
    loss = learner.meta_loss(episodes).sum()
    gradients = torch.autograd.grad(
        loss, list(weights.values()), materialize_grads=True
    )
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        direction = randn(*weight.shape, seed=5)

        def at(step, weight=weight, direction=direction):
            with torch.no_grad():
                weight += step * direction
                value = learner.meta_loss(episodes).sum()
                weight -= step * direction
            return value

        slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        found = (gradient * direction).sum()
        torch.testing.assert_close(found, slope, rtol=1e-6, atol=1e-8, msg=name)


# What must not matter -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_padding_and_company_change_nothing(kind):
    is_numbers = kind == "numbers"
    make, learner = (numbers, process()) if is_numbers else (labelled, classifier())
    support, query = make(9), make(6, seed=1)
    support.mask[0, 6:] = False
    query.mask[0, 4:] = False
    support.x[0, 6:] = 1e3
    query.x[0, 4:] = 1e3
    if is_numbers:
        support.y[0, 6:] = -1e3
        query.y[0, 4:] = -1e3
    learner.gives_std = is_numbers
    together = logits(learner, support, query)
    losses = learner.meta_loss(Episodes(support, query))
    for task in range(N_TASKS):
        own = support[task : task + 1].trimmed(), query[task : task + 1].trimmed()
        alone = logits(learner, *own)[0]
        torch.testing.assert_close(together[task, : len(alone)], alone)
        torch.testing.assert_close(
            losses[task : task + 1], learner.meta_loss(Episodes(*own))
        )


@pytest.mark.parametrize("kind", ["numbers", "labels"])
def test_order_of_rows_and_other_queries_do_not_matter(kind):
    is_numbers = kind == "numbers"
    make, learner = (numbers, process()) if is_numbers else (labelled, classifier())
    support, query = make(9), make(6, seed=1)
    learner.gives_std = is_numbers
    expected = logits(learner, support, query)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = Rows(support.x[:, order], support.y[:, order], support.mask[:, order])
    options = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(logits(learner, moved, query), expected, **options)
    one = Rows(query.x[:, :1], query.y[:, :1], query.mask[:, :1])
    found = logits(learner, support, one)
    torch.testing.assert_close(found, expected[:, :1], **options)


def test_no_support_is_the_prior():
    support, query = numbers(2), numbers(5, seed=1)
    support.mask[:] = False
    learner = process()
    with torch.no_grad():
        learner.constant += 0.4
    mean, std = moments(learner, support, query)
    torch.testing.assert_close(mean, torch.full_like(mean, 0.4))
    expected = np.sqrt(VARIANCE + NOISE)
    torch.testing.assert_close(std, torch.full_like(std, expected))
    without = labelled(3)
    without.mask[:] = False
    found = logits(classifier(), without, labelled(5, seed=1)).softmax(-1)
    torch.testing.assert_close(found, torch.full_like(found, 1 / 3))


# Draws and coverage -------------------------------------------------------------------


def test_draws_are_joint():
    support, query = numbers(4, 2, n_tasks=1), numbers(3, 2, seed=1, n_tasks=1)
    learner = process(n_outputs=2)
    with torch.no_grad():
        state = learner.adapt(support)
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        noisy = learner.draw(state, query.x, 40_000, generators[0])[0]
        smooth = learner.draw(state, query.x, 40_000, generators[1], noise=False)[0]
    model = sklearns("rbf", support.x[0], support.y[0])
    mean, covariance = model.predict(query.x[0].numpy(), return_cov=True)
    assert noisy.shape == (40_000, 3, 2)
    for output in range(2):
        np.testing.assert_allclose(
            noisy[..., output].mean(0), mean[:, output], atol=0.02
        )
        np.testing.assert_allclose(
            smooth[..., output].mean(0), mean[:, output], atol=0.02
        )
        expected = covariance[..., output]
        found = np.cov(noisy[..., output].T)
        np.testing.assert_allclose(found, expected, atol=0.04)
        found = np.cov(smooth[..., output].T)
        np.testing.assert_allclose(found, expected - NOISE * np.eye(3), atol=0.04)


def test_rows_drawn_twice_are_the_same_function():
    support, query = numbers(4, n_tasks=1), numbers(3, seed=1, n_tasks=1)
    x = torch.cat([query.x, query.x], 1)
    learner = process("matern12")
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        draws = learner.draw(learner.adapt(support), x, 5, generator, noise=False)[0]
    torch.testing.assert_close(draws[:, :3], draws[:, 3:], rtol=0, atol=1e-3)


def gp_tasks(n_tasks, n_rows=30, seed=0):
    """Draws of one Gaussian process."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n_tasks, n_rows, 1))
    kernel = 2.0 * RBF(0.8)
    tasks = []
    for own in X:
        factor = np.linalg.cholesky(kernel(own) + 0.1 * np.eye(n_rows))
        tasks.append((own, 5 + 3 * factor @ rng.normal(size=n_rows)))
    return TaskSet(tasks)


@pytest.fixture(scope="module")
def of_draws():
    meta = DeepKernelRegressor(
        "identity",
        length_scale=0.5,
        n_query=25,
        outer_lr=0.03,
        max_iter=120,
        batch_size=10,
        random_state=0,
    )
    return meta.fit(gp_tasks(200))


def test_what_is_learned_is_the_process_that_made_the_tasks(of_draws):
    learner, preparation = of_draws.learner_, of_draws._preparation
    scale = 3 / preparation.y_scale.item()
    length_scale = learner.kernel.log_length_scale.exp().item()
    assert length_scale * preparation.x_scale.item() == pytest.approx(0.8, rel=0.1)
    assert learner.noise.item() == pytest.approx(0.1 * scale**2, rel=0.15)
    variance = learner.kernel.log_output_scale.exp().item()
    assert variance == pytest.approx(2.0 * scale**2, rel=0.2)


@pytest.mark.parametrize("n_support", [1, 8])
def test_intervals_cover_what_they_say(of_draws, n_support):
    inside = []
    for task in gp_tasks(150, seed=1):
        model = of_draws.adapt(task.X[:n_support], task.y[:n_support])
        mean, std = model.predict(task.X[n_support:], return_std=True)
        inside.append(np.mean(np.abs(task.y[n_support:] - mean) <= 1.6449 * std))
    assert 0.87 <= np.mean(inside) <= 0.93


def test_adapting_without_rows_gives_the_prior(of_draws):
    X = np.linspace(-2, 2, 7)[:, None]
    mean, std = of_draws.adapt().predict(X, return_std=True)
    assert np.ptp(mean) < 1e-6 and np.ptp(std) < 1e-6
    assert std[0] == pytest.approx(3 * np.sqrt(2.1), rel=0.1)
    draws = of_draws.sample_y(X, n_samples=4000)
    np.testing.assert_allclose(draws.std(1), std, rtol=0.08)
    neighbours = np.corrcoef(of_draws.sample_y(X, 4000, noise=False)[2:4])[0, 1]
    assert neighbours == pytest.approx(np.exp(-0.5 * (2 / 3 / 0.8) ** 2), abs=0.1)


def test_pickled_models_predict_the_same(of_draws):
    task = gp_tasks(1, seed=3)[0]
    adapted = of_draws.adapt(task.X[:5], task.y[:5])
    loaded = pickle.loads(pickle.dumps(adapted))
    for found, expected in zip(
        loaded.predict(task.X, return_std=True),
        adapted.predict(task.X, return_std=True),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)


# Labels -------------------------------------------------------------------------------


def test_ways_are_regressed_against_the_rest():
    support, query = labelled(9), labelled(6, seed=1)
    found = logits(classifier(), support, query)
    level = 2 / 3 - 1
    for task in range(N_TASKS):
        codes = 2 * np.eye(3)[support.y[task]] - 1 - level
        model = sklearns("rbf", support.x[task], torch.from_numpy(codes))
        mean, std = model.predict(query.x[task].numpy(), return_std=True)
        expected = 2 * (mean + level) / std**2
        np.testing.assert_allclose(found[task], expected, rtol=1e-8, atol=1e-8)


def test_meta_loss_of_labels_is_the_density_of_their_codes():
    support, query = labelled(6), labelled(6, seed=1)
    found = classifier().meta_loss(Episodes(support, query))
    for task in range(N_TASKS):
        x = torch.cat([support.x[task], query.x[task]])
        y = torch.cat([support.y[task], query.y[task]])
        codes = 2 * np.eye(3)[y] - 1 - (2 / 3 - 1)
        each = [
            sklearns("rbf", x, torch.from_numpy(code)).log_marginal_likelihood_value_
            for code in codes.T
        ]
        assert found[task].item() == pytest.approx(-np.mean(each) / 12, rel=1e-9)


def test_absent_class_has_probability_zero_and_is_not_counted():
    support, query = labelled(9), labelled(6, seed=1)
    support.mask[1], query.mask[1] = support.y[1] != 2, query.y[1] != 2
    found = logits(classifier(), support, query)
    assert torch.isneginf(found[1, :, 2]).all() and torch.isfinite(found[0]).all()
    n_way = torch.tensor([3, 2, 3])
    local = [
        Rows(rows.x, rows.y.clamp(max=1) * (rows.mask) + 0, rows.mask, n_way)
        for rows in (support, query)
    ]
    for rows, own in zip(local, (support, query), strict=True):
        rows.y[[0, 2]] = own.y[[0, 2]]
    episodes = Episodes(support, query)
    two_ways = classifier(None).meta_loss(Episodes(*local))
    torch.testing.assert_close(classifier().meta_loss(episodes), two_ways)


@pytest.fixture(scope="module")
def of_digits():
    # Five classes teach a kernel of pixels; features of a network would be theirs only.
    meta = DeepKernelClassifier(
        "identity", n_shot=5, n_query=5, max_iter=60, outer_lr=0.03, random_state=0
    )
    return meta.fit(load_digits_pool()[:5])


def test_digits_never_seen_are_told_apart_with_honest_probabilities(of_digits):
    pool = load_digits_pool()[5:]
    rng = np.random.default_rng(0)
    right, sure, floor = [], [], []
    for _ in range(20):
        order = rng.permutation(len(pool.y))
        support = np.concatenate([order[pool.y[order] == c][:5] for c in range(5, 10)])
        rest = np.setdiff1d(order, support)[:200]
        found = of_digits.adapt(pool.X[support], pool.y[support])
        probability = found.predict_proba(pool.X[rest])
        right.append(np.mean(found.predict(pool.X[rest]) == pool.y[rest]))
        sure.append(probability.max(1).mean())
        flat = pool.X.reshape(len(pool.X), -1) / 255
        simple = LogisticRegression().fit(flat[support], pool.y[support])
        floor.append(simple.score(flat[rest], pool.y[rest]))
    assert np.mean(right) > np.mean(floor)
    assert np.mean(sure) == pytest.approx(np.mean(right), abs=0.1)


def test_any_number_of_ways(of_digits):
    pool = load_digits_pool()
    for n_ways in (1, 2, 10):
        some = np.flatnonzero(pool.y < n_ways)[::7]
        adapted = of_digits.adapt(pool.X[some], pool.y[some])
        probability = adapted.predict_proba(pool.X[:5])
        assert probability.shape == (5, n_ways)
        np.testing.assert_allclose(probability.sum(1), 1, rtol=1e-6)


# A regressor as the mean --------------------------------------------------------------


def leaning_tasks(n_tasks=24, n_rows=20, seed=0):
    """A common curve, and a level for each task."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-3, 3, size=(n_tasks, n_rows, 2))
    level = rng.normal(size=(n_tasks, 1))
    y = 4 * np.sin(2 * X[..., 0]) + level + 0.1 * rng.normal(size=(n_tasks, n_rows))
    return TaskSet(list(zip(X, y, strict=True)))


def test_mean_is_fitted_out_of_fold():
    tasks = leaning_tasks(7, 3)
    X, y = tasks.rows().X, tasks.rows().y
    names = [name for name in tasks.names for _ in range(3)]
    folded = FoldedMean.learn(LinearRegression(), X, y, names, seed=1)
    found = folded.predict(X, names)[:, 0]
    for train, test in KFold(5, shuffle=True, random_state=1).split(range(7)):
        rows, rest = (
            np.isin(names, np.array(tasks.names)[own]) for own in (train, test)
        )
        expected = LinearRegression().fit(X[rows], y[rows]).predict(X[rest])
        np.testing.assert_allclose(found[rest], expected)
    new = folded.predict(X, None)[:, 0]
    np.testing.assert_allclose(new, LinearRegression().fit(X, y).predict(X))
    np.testing.assert_allclose(folded.predict(X[:1], ["another"])[:, 0], new[:1])


@pytest.fixture(scope="module")
def with_mean():
    meta = DeepKernelRegressor(
        mean=HistGradientBoostingRegressor(),
        kernel="rbf",
        max_iter=60,
        outer_lr=3e-3,
        random_state=0,
    )
    return meta.fit(leaning_tasks())


def test_mean_knows_what_tasks_have_in_common(with_mean):
    task = leaning_tasks(1, 200, seed=1)[0]
    found = with_mean.adapt(task.X[:3], task.y[:3])
    error = np.std(found.predict(task.X[3:]) - task.y[3:])
    alone = with_mean._preparation.mean.of_all.predict(task.X[3:])
    assert error < 0.75 * np.std(task.y[3:])
    assert error < np.sqrt(np.mean((alone - task.y[3:]) ** 2))
    prior = with_mean.adapt().predict(task.X[3:])
    constant = with_mean.learner_.constant.item() * with_mean._preparation.y_scale
    np.testing.assert_allclose(prior, alone + constant, rtol=1e-5, atol=1e-5)


def test_mean_leaves_pickles_and_warm_starts_as_they_are(with_mean):
    task = leaning_tasks(1, seed=2)[0]
    loaded = pickle.loads(pickle.dumps(with_mean))
    expected = with_mean.adapt(task.X[:3], task.y[:3]).predict(task.X)
    np.testing.assert_array_equal(
        loaded.adapt(task.X[:3], task.y[:3]).predict(task.X), expected
    )
    loaded.set_params(warm_start=True, max_iter=2).fit(leaning_tasks())
    assert loaded.n_iter_ == 62
    together = with_mean.predict_tasks([(task.X[:3], task.y[:3])], [task.X])[0]
    np.testing.assert_allclose(together, expected, rtol=1e-5)


def test_mean_of_a_user_is_not_touched(with_mean):
    assert not hasattr(with_mean.mean, "n_iter_")
    assert with_mean.mean.random_state is None


class Narrow(nn.Module):
    """One covariance for each row."""

    def __init__(self, n_features):
        super().__init__()

    def forward(self, a, b):
        return a[..., :1] * 0 + 1

    def diagonal(self, a):
        return a[..., 0] * 0 + 1


class Flat(Narrow):
    """One variance for each task."""

    def forward(self, a, b):
        return a @ b.mT

    def diagonal(self, a):
        return a[:, :1, 0] * 0 + 1


class Failing(Narrow):
    def forward(self, a, b):
        raise IndexError("no such feature")


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"mean": LogisticRegression()}, TypeError, "mean must be a .* regressor"),
        ({"mean": 3.0}, TypeError, "mean must be a scikit-learn regressor"),
        (
            {"mean": LinearRegression(), "normalize_y": "task"},
            ValueError,
            "Use normalize_y=True with mean",
        ),
        ({"kernel": "rfb"}, ValueError, "kernel must be one of"),
        ({"kernel": nn.Identity()}, TypeError, "Pass a function that returns it"),
        ({"kernel": nn.Linear}, ValueError, "number of features.* raises TypeError"),
        ({"kernel": lambda: 1}, ValueError, "number of features.* raises TypeError"),
        ({"kernel": Narrow}, TypeError, r"\(2, 3, 4\); got one of shape \(2, 3, 1\)"),
        ({"kernel": Flat}, TypeError, r"diagonal.*\(2, 3\); got one of shape \(2, 1\)"),
        ({"kernel": Failing}, ValueError, r"kernel\(a, b\) .* raises IndexError: no"),
        ({"kernel": lambda n: n}, TypeError, "kernel must return a torch module"),
        ({"objective": "elbo"}, ValueError, "objective must be one of"),
        ({"noise": 0}, ValueError, "noise == 0, must be > 0"),
        ({"length_scale": -1.0}, ValueError, "length_scale == -1.0, must be > 0"),
        ({"n_mixtures": 0}, ValueError, "n_mixtures == 0, must be >= 1"),
    ],
)
def test_wrong_parameters_are_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        DeepKernelRegressor(**parameters, **QUICK).fit(leaning_tasks())


def test_mean_needs_two_tasks():
    with pytest.raises(ValueError, match="at least 2 meta-training tasks; got 1"):
        DeepKernelRegressor(mean=LinearRegression(), **QUICK).fit(leaning_tasks(1))


# Bad input ----------------------------------------------------------------------------


class Indefinite(nn.Module):
    """No covariance at all for rows far from the origin."""

    def __init__(self, n_features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, a, b):
        far = (a.abs().amax(-1) > 100).unsqueeze(-1) & (b.abs().amax(-1) > 100)[:, None]
        return torch.where(far, -9.0, (a @ b.mT) * 0 + 1.0) * self.scale.to(a.dtype)

    def diagonal(self, a):
        return self.scale.to(a.dtype).expand(a.shape[:2])


def odd_tasks():
    tasks = [(task.X, task.y) for task in make_sinusoids(4, 12, random_state=0)]
    tasks[2] = tasks[2][0] + 1e4, tasks[2][1]
    names = ["Lyon", "Metz", "Brest", "Nancy"]
    X = np.concatenate([X for X, _ in tasks])
    y = np.concatenate([y for _, y in tasks])
    return TaskSet.from_arrays(X, y, np.repeat(names, 12))


INDEFINITE = {"kernel": Indefinite, "backbone": "identity", "normalize_x": False}


@pytest.mark.parametrize("objective", ["marginal", "predictive"])
def test_covariance_that_stays_indefinite_is_refused_by_name(objective):
    tasks = odd_tasks()
    meta = DeepKernelRegressor(objective=objective, **INDEFINITE, **QUICK)
    with pytest.raises(MetaTrainingError, match="covariance of task 'Brest' is not"):
        meta.fit(tasks)
    meta.fit(tasks[[0, 1, 3]])
    with pytest.raises(MetaTrainingError, match="these support rows"):
        meta.adapt(tasks[2].X, tasks[2].y)
    with pytest.raises(MetaTrainingError, match="task 'Brest'"):
        meta.predict_tasks(tasks, [task.X for task in tasks])
    with pytest.raises(MetaTrainingError, match="covariance of task 'Brest' is not"):
        meta.partial_fit(tasks)


def test_draws_that_are_not_finite_are_refused():
    tasks = odd_tasks()
    meta = DeepKernelRegressor(**INDEFINITE, **QUICK).fit(tasks[[0, 1, 3]])
    adapted = meta.adapt(tasks[0].X, tasks[0].y)
    assert np.isfinite(adapted.sample_y(tasks[1].X)).all()
    with pytest.raises(MetaTrainingError, match="or drawing at rows far from them"):
        adapted.sample_y(tasks[2].X)


@pytest.fixture(scope="module")
def of_sinusoids():
    return DeepKernelRegressor(**QUICK).fit(make_sinusoids(20, random_state=0))


def test_the_same_row_many_times(of_sinusoids):
    X, y = np.zeros((40, 1)), np.linspace(0, 1, 40)
    mean, std = of_sinusoids.adapt(X, y).predict(X[:2], return_std=True)
    assert mean[0] == pytest.approx(0.5, abs=0.1) and 0 < std[0] < 2


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_without_noise_are_met(kernel):
    learner = process(kernel)
    with torch.no_grad():
        learner.log_noise.fill_(-60.0)
    support = numbers(6)
    support.x[:, 3:], support.y[:, 3:] = support.x[:, :3], support.y[:, :3]
    mean, std = moments(learner, support, support)
    assert torch.isfinite(std).all()
    torch.testing.assert_close(mean, support.y, rtol=0, atol=1e-3)


def test_constant_features_and_one_row():
    tasks = [(np.ones((8, 3)), np.arange(8.0) + t) for t in range(8)]
    meta = DeepKernelRegressor(**QUICK).fit(TaskSet(tasks))
    mean, std = meta.adapt(np.ones((1, 3)), [4.0]).predict(np.ones((2, 3)), True)
    assert np.isfinite(mean).all() and (std > 0).all()


def test_a_support_too_large_for_memory_is_refused_with_its_size(of_sinusoids):
    meta = of_sinusoids._own_copy().set_params(memory_limit="2GB")
    X = np.linspace(0, 1, 20_000)[:, None]
    message = r"kernel matrix of 20,000 rows takes 3.2 GB.* memory_limit is 2 GB"
    with pytest.raises(ValueError, match=message):
        meta.adapt(X, X[:, 0])
    adapted = meta.adapt(X[:5], X[:5, 0])
    with pytest.raises(ValueError, match="20,000 query rows that are drawn jointly"):
        adapted.sample_y(X)
    assert adapted.predict(X).shape == (20_000,)


def test_parameters_of_meta_training_are_kept(of_sinusoids):
    task = make_sinusoids(1, random_state=1)[0]
    meta = of_sinusoids._own_copy().set_params(kernel="linear")
    with pytest.raises(ValueError, match="kernel='linear' acts in meta-training only"):
        meta.adapt(task.X, task.y)
