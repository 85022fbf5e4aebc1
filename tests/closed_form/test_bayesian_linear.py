"""Bayesian linear regression on features against textbook formulas and scikit-learn."""

import pickle

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, WhiteKernel
from sklearn.linear_model import BayesianRidge
from torch import nn

from sklmeta import BayesianLinearNetRegressor, TaskSet
from sklmeta.closed_form import BayesianLinearNet
from sklmeta.datasets import make_sinusoids
from sklmeta.engine.batches import Episodes, Rows

N_TASKS, N_FEATURES = 3, 4
QUICK = {"max_iter": 3, "batch_size": 4, "random_state": 0}


def randn(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def numbers(n_rows, n_outputs=1, seed=0, n_tasks=N_TASKS):
    x = randn(n_tasks, n_rows, N_FEATURES, seed=seed)
    y = randn(n_tasks, n_rows, n_outputs, seed=seed + 10) + 1
    return Rows(x, y, torch.ones(n_tasks, n_rows, dtype=torch.bool))


def made(n_outputs=1, backbone=None, fit_intercept=True, seed=3):
    """Return a learner whose prior is any: correlated weights, a mean, own noises."""
    backbone = nn.Identity() if backbone is None else backbone
    learner = BayesianLinearNet(
        backbone, N_FEATURES, n_outputs, fit_intercept=fit_intercept
    ).double()
    with torch.no_grad():
        for place, weight in enumerate(
            (
                *(learner.prior_mean, learner.prior_factor),
                *(learner.log_prior_diagonal, learner.log_noise),
            )
        ):
            weight.copy_(0.5 * randn(*weight.shape, seed=seed + place))
    return learner


def moments(learner, support, query):
    with torch.no_grad():
        view = learner.with_options(gives_std=True)
        return view.predict(view.adapt(support), query.x).chunk(2, dim=-1)


def phi(learner, x):
    """Return features and the constant of one task's rows."""
    x = x.numpy()
    return np.hstack([x, np.ones((len(x), 1))]) if learner.fit_intercept else x


def prior(learner, output):
    """Return mean and covariance of an output's weights, and its noise variance."""
    lower = np.tril(learner.prior_factor.detach().numpy(), -1)
    factor = lower + np.diag(np.exp(learner.log_prior_diagonal.detach().numpy()))
    noise = np.exp(learner.log_noise[output].item())
    mean = learner.prior_mean[:, output].detach().numpy()
    return mean, noise * np.linalg.inv(factor @ factor.T), noise


def textbook(learner, x, y, query, output):
    """Condition the joint normal density of targets: Bishop, equations 3.50 to 3.59."""
    mean, covariance, noise = prior(learner, output)
    rows, asked = phi(learner, x), phi(learner, query)
    precision = np.linalg.inv(covariance) + rows.T @ rows / noise
    posterior = np.linalg.inv(precision)
    weights = posterior @ (
        np.linalg.inv(covariance) @ mean + rows.T @ y[:, output].numpy() / noise
    )
    variance = noise + np.einsum("qd,de,qe->q", asked, posterior, asked)
    return asked @ weights, np.sqrt(variance)


# The posterior ------------------------------------------------------------------------


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("n_rows", [1, 3, 20])
def test_posterior_is_that_of_textbooks(n_rows, n_outputs, fit_intercept):
    learner = made(n_outputs, fit_intercept=fit_intercept)
    support, query = numbers(n_rows, n_outputs), numbers(6, n_outputs, seed=1)
    mean, std = moments(learner, support, query)
    for task in range(N_TASKS):
        for output in range(n_outputs):
            expected = textbook(
                learner, support.x[task], support.y[task], query.x[task], output
            )
            np.testing.assert_allclose(mean[task, :, output], expected[0], rtol=1e-9)
            np.testing.assert_allclose(std[task, :, output], expected[1], rtol=1e-9)


def test_rows_one_after_another_give_the_same():
    """The paper's algorithm 2: rank-one updates of Lambda^-1 and of Q."""
    learner, support, query = made(), numbers(9), numbers(6, seed=1)
    mean, std = moments(learner, support, query)
    start, covariance, noise = prior(learner, 0)
    for task in range(N_TASKS):
        inverse = covariance / noise  # Lambda_0^-1
        q = np.linalg.solve(inverse, start)
        rows, y = phi(learner, support.x[task]), support.y[task, :, 0].numpy()
        for row, target in zip(rows, y, strict=True):
            gain = inverse @ row
            inverse -= np.outer(gain, gain) / (1 + row @ gain)
            q += row * target
        asked = phi(learner, query.x[task])
        np.testing.assert_allclose(mean[task, :, 0], asked @ inverse @ q, rtol=1e-8)
        spread = 1 + np.einsum("qd,de,qe->q", asked, inverse, asked)
        np.testing.assert_allclose(std[task, :, 0], np.sqrt(noise * spread), rtol=1e-8)


@pytest.mark.parametrize("n_rows", [1, 15])
def test_is_a_gaussian_process_with_a_linear_kernel(n_rows):
    precision, noise = 2.5, 0.3
    learner = BayesianLinearNet(
        nn.Identity(), N_FEATURES, 1, noise=noise, prior_precision=precision
    ).double()
    with torch.no_grad():
        learner.log_noise.fill_(np.log(noise))
        learner.log_prior_diagonal.fill_(np.log(precision) / 2)
    support, query = numbers(n_rows), numbers(6, seed=1)
    mean, std = moments(learner, support, query)
    loss = learner.meta_loss(Episodes(support, query))
    kernel = ConstantKernel(noise / precision) * DotProduct(1.0) + WhiteKernel(noise)
    for task in range(N_TASKS):
        model = GaussianProcessRegressor(kernel, alpha=1e-13, optimizer=None)
        model.fit(support.x[task].numpy(), support.y[task, :, 0].numpy())
        expected = model.predict(query.x[task].numpy(), return_std=True)
        np.testing.assert_allclose(mean[task, :, 0], expected[0], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(std[task, :, 0], expected[1], rtol=1e-7)
        z = (query.y[task, :, 0].numpy() - expected[0]) / expected[1]
        nlpd = 0.5 * z**2 + np.log(expected[1]) + 0.5 * np.log(2 * np.pi)
        assert loss[task].item() == pytest.approx(nlpd.mean(), rel=1e-7)


def test_is_bayesian_ridge_with_its_precisions():
    support, query = numbers(30, n_tasks=1), numbers(6, seed=1, n_tasks=1)
    x, y = support.x[0].numpy(), support.y[0, :, 0].numpy()
    y = y + x @ [1.0, -2.0, 0.5, 0.0]
    ridge = BayesianRidge(fit_intercept=False).fit(x, y)
    learner = made(fit_intercept=False)
    with torch.no_grad():
        learner.prior_mean.zero_()
        learner.prior_factor.zero_()
        # Ours is in units of the noise's precision.
        learner.log_prior_diagonal.fill_(np.log(ridge.lambda_ / ridge.alpha_) / 2)
        learner.log_noise.fill_(-np.log(ridge.alpha_))
    given = Rows(support.x, torch.from_numpy(y)[None, :, None], support.mask)
    mean, std = moments(learner, given, query)
    expected = ridge.predict(query.x[0].numpy(), return_std=True)
    # BayesianRidge updates its precisions once more after its weights.
    np.testing.assert_allclose(mean[0, :, 0], expected[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(std[0, :, 0], expected[1], rtol=1e-3)


def test_meta_gradients_are_finite_differences():
    net = nn.Sequential(nn.Linear(N_FEATURES, N_FEATURES), nn.Tanh()).double()
    with torch.no_grad():
        for seed, weight in enumerate(net.parameters()):
            weight.copy_(randn(*weight.shape, seed=seed) / 2)
    learner = made(2, net)
    episodes = Episodes(numbers(5, 2), numbers(4, 2, seed=1))
    names, weights = zip(*learner.named_parameters(), strict=True)
    gradients = torch.autograd.grad(learner.meta_loss(episodes).sum(), weights)
    h = 1e-5
    for name, weight, gradient in zip(names, weights, gradients, strict=True):
        direction, values = randn(*weight.shape, seed=5), []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * h * direction
                values.append(learner.meta_loss(episodes).sum())
                weight -= sign * h * direction
        slope = (values[0] - values[1]) / (2 * h)
        found = (gradient * direction).sum()
        torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-7, msg=name)


# What must not matter, and what must --------------------------------------------------


def test_padding_and_company_change_nothing():
    learner = made(2)
    support, query = numbers(9, 2), numbers(6, 2, seed=1)
    support.mask[0, 6:] = False
    query.mask[0, 4:] = False
    for rows, start in ((support, 6), (query, 4)):
        rows.x[0, start:], rows.y[0, start:] = 1e3, -1e3
    together = moments(learner, support, query)
    losses = learner.meta_loss(Episodes(support, query))
    for task in range(N_TASKS):
        own = [rows[task : task + 1].trimmed() for rows in (support, query)]
        for found, alone in zip(together, moments(learner, *own), strict=True):
            torch.testing.assert_close(found[task, : alone.shape[1]], alone[0])
        loss = learner.meta_loss(Episodes(*own))
        torch.testing.assert_close(losses[task : task + 1], loss)


def test_order_of_rows_and_other_queries_do_not_matter():
    learner, support, query = made(), numbers(9), numbers(6, seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    moved = Rows(support.x[:, order], support.y[:, order], support.mask[:, order])
    one = Rows(query.x[:, :1], query.y[:, :1], query.mask[:, :1])
    expected = moments(learner, support, query)
    for found, want in zip(moments(learner, moved, query), expected, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
    for found, want in zip(moments(learner, support, one), expected, strict=True):
        torch.testing.assert_close(found, want[:, :1], rtol=1e-10, atol=1e-10)


def test_no_support_is_the_prior():
    learner, support, query = made(2), numbers(3, 2), numbers(5, 2, seed=1)
    support.mask[:] = False
    mean, std = moments(learner, support, query)
    for output in range(2):
        weights, covariance, noise = prior(learner, output)
        asked = phi(learner, query.x[1])
        np.testing.assert_allclose(mean[1, :, output], asked @ weights, rtol=1e-9)
        variance = noise + np.einsum("qd,de,qe->q", asked, covariance, asked)
        np.testing.assert_allclose(std[1, :, output], np.sqrt(variance), rtol=1e-9)


def test_draws_have_the_moments_and_are_joint():
    learner, support, query = made(2), numbers(5, 2, n_tasks=2), numbers(3, 2, seed=1)
    query = query[:2]
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    with torch.no_grad():
        state = learner.adapt(support)
        noisy = learner.draw(state, query.x, 40_000, generators[0])
        smooth = learner.draw(state, query.x, 40_000, generators[1], noise=False)
    mean, std = moments(learner, support, query)
    assert noisy.shape == (2, 40_000, 3, 2)
    torch.testing.assert_close(noisy.mean(1), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(noisy.std(1), std, rtol=0.02, atol=0)
    for task in range(2):
        for output in range(2):
            _, covariance, noise = prior(learner, output)
            rows = phi(learner, support.x[task])
            precision = np.linalg.inv(covariance) + rows.T @ rows / noise
            asked = phi(learner, query.x[task])
            expected = asked @ np.linalg.inv(precision) @ asked.T
            scale = np.abs(expected).max()
            found = np.cov(smooth[task, :, :, output].T)
            np.testing.assert_allclose(found, expected, atol=0.03 * scale)
            found = np.cov(noisy[task, :, :, output].T)
            expected = expected + noise * np.eye(3)
            np.testing.assert_allclose(found, expected, atol=0.03 * expected.max())


# The regressor ------------------------------------------------------------------------

NOISE = 0.5
PRIOR_MEAN = np.array([1.0, -2.0, 0.0])
PRIOR_COVARIANCE = block_diag([[1.0, 0.8], [0.8, 1.0]], [[0.25]])


def linear_tasks(n_tasks, n_rows=25, seed=0, unit=1.0, n_outputs=1):
    """Tasks of the learner's own model, two features and an intercept."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_tasks, n_rows, 2))
    rows = np.concatenate([X, np.ones((n_tasks, n_rows, 1))], 2)
    targets = []
    for output in range(n_outputs):
        weights = rng.multivariate_normal(PRIOR_MEAN, PRIOR_COVARIANCE, n_tasks)
        y = np.einsum("tnd,td->tn", rows, weights)
        y += NOISE * rng.normal(size=y.shape)
        targets.append(50 + unit * 10**output * y)
    y = targets[0] if n_outputs == 1 else np.stack(targets, -1)
    return TaskSet(list(zip(X, y, strict=True)))


@pytest.fixture(scope="module")
def of_linear():
    meta = BayesianLinearNetRegressor(
        "identity",
        n_shot=(1, 10),
        outer_lr=0.03,
        max_iter=200,
        batch_size=25,
        random_state=0,
    )
    return meta.fit(linear_tasks(300, unit=7.0))


def shares_within(meta, tasks, n_support, level=1.6449):
    shares = []
    for task in tasks:
        model = meta.adapt(task.X[:n_support], task.y[:n_support])
        mean, std = model.predict(task.X[n_support:], return_std=True)
        shares.append(np.mean(np.abs(task.y[n_support:] - mean) <= level * std, axis=0))
    return np.mean(shares, axis=0)


@pytest.mark.parametrize("n_support", [1, 3, 10])
def test_intervals_cover_what_they_say(of_linear, n_support):
    new = linear_tasks(200, seed=1, unit=7.0)
    assert 0.87 <= shares_within(of_linear, new, n_support) <= 0.93


def test_what_is_learned_is_the_model_that_made_the_tasks(of_linear):
    learner, preparation = of_linear.learner_, of_linear._preparation
    unit = 7 / preparation.y_scale.item()
    mean, covariance, noise = prior(learner, 0)
    assert np.sqrt(noise) == pytest.approx(NOISE * unit, rel=0.06)
    found = mean[:2] / (unit * preparation.x_scale)
    np.testing.assert_allclose(found, PRIOR_MEAN[:2], atol=0.2)
    spread = covariance[:2, :2] / unit**2
    np.testing.assert_allclose(spread, PRIOR_COVARIANCE[:2, :2], atol=0.3)


def test_without_rows_there_is_the_prior(of_linear):
    X = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, -1.0]])
    mean, std = of_linear.adapt().predict(X, return_std=True)
    rows = np.hstack([X, np.ones((3, 1))])
    np.testing.assert_allclose(mean, 50 + 7 * rows @ PRIOR_MEAN, atol=2.5)
    variance = np.einsum("qd,de,qe->q", rows, PRIOR_COVARIANCE, rows) + NOISE**2
    np.testing.assert_allclose(std, 7 * np.sqrt(variance), rtol=0.15)
    draws = of_linear.sample_y(X, 4000)
    np.testing.assert_allclose(draws.std(1), std, rtol=0.06)
    np.testing.assert_allclose(draws.mean(1), mean, atol=4 * std.max() / 4000**0.5)


def test_one_support_row_moves_the_prior(of_linear):
    X, query = np.array([[1.0, 1.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    before, std_before = of_linear.adapt().predict(query, return_std=True)
    after, std = of_linear.adapt(X, [before[0] + 20]).predict(query, return_std=True)
    assert before[0] + 10 < after[0] < before[0] + 20
    assert (std < std_before).all()


def test_pickled_models_predict_and_draw_the_same(of_linear):
    task = linear_tasks(1, seed=2, unit=7.0)[0]
    adapted = of_linear.adapt(task.X[:5], task.y[:5])
    loaded = pickle.loads(pickle.dumps(adapted))
    for found, expected in zip(
        loaded.predict(task.X, return_std=True),
        adapted.predict(task.X, return_std=True),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    draws = [one.sample_y(task.X, 3, random_state=0) for one in (loaded, adapted)]
    np.testing.assert_array_equal(*draws)


def test_several_outputs_keep_their_units():
    meta = BayesianLinearNetRegressor(
        "identity", n_shot=8, outer_lr=0.03, max_iter=150, random_state=0
    ).fit(linear_tasks(150, n_outputs=2))
    new = linear_tasks(100, seed=1, n_outputs=2)
    shares = shares_within(meta, new, 8)
    assert shares.shape == (2,)
    assert ((shares >= 0.86) & (shares <= 0.94)).all()
    model = meta.adapt(new[0].X[:8], new[0].y[:8])
    std = model.predict(new[0].X, return_std=True)[1]
    assert np.mean(std[:, 1] / std[:, 0]) == pytest.approx(10, rel=0.1)
    assert model.sample_y(new[0].X, 6).shape == (25, 2, 6)


def test_calibration_makes_up_for_tails_that_are_not_normal():
    def tailed(n_tasks, seed):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n_tasks, 20, 1))
        noise = np.where(rng.random((n_tasks, 20)) < 0.1, 5.0, 0.2)
        return TaskSet(list(zip(X, noise * rng.normal(size=noise.shape), strict=True)))

    options = {"outer_lr": 0.03, "max_iter": 60, "random_state": 0}
    raw, calibrated = (
        BayesianLinearNetRegressor(
            "identity", calibrate=level, validation_fraction=0.4, **options
        ).fit(tailed(250, 0))
        for level in (False, 0.6)
    )
    assert float(calibrated.learner_.calibration) < 0.7
    new, width = tailed(150, 1), 0.8416  # of a central interval of 60 %
    assert shares_within(raw, new, 5, width) > 0.7
    assert shares_within(calibrated, new, 5, width) == pytest.approx(0.6, abs=0.05)


# Odd data -----------------------------------------------------------------------------


def test_collinear_and_constant_features_have_one_answer():
    learner, support, query = made(), numbers(12), numbers(6, seed=1)
    for rows in (support, query):
        rows.x[..., 1] = 3 * rows.x[..., 0]
        rows.x[..., 2] = 1.0  # beside the constant feature
    mean, std = moments(learner, support, query)
    for task in range(N_TASKS):
        expected = textbook(learner, support.x[task], support.y[task], query.x[task], 0)
        np.testing.assert_allclose(mean[task, :, 0], expected[0], rtol=1e-8)
        np.testing.assert_allclose(std[task, :, 0], expected[1], rtol=1e-8)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_features_of_any_size(scale):
    learner, support, query = made(), numbers(12), numbers(6, seed=1)
    for rows in (support, query):
        rows.x.mul_(scale)
    mean, std = moments(learner, support, query)
    for task in range(N_TASKS):
        expected = textbook(learner, support.x[task], support.y[task], query.x[task], 0)
        np.testing.assert_allclose(mean[task, :, 0], expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(std[task, :, 0], expected[1], rtol=1e-4)


def test_constant_columns_and_targets_are_met():
    rng = np.random.default_rng(0)
    tasks = [(np.ones((8, 3)), np.full(8, 5.0)) for _ in range(8)]
    tasks = [(np.column_stack([X[:, :2], rng.normal(size=8)]), y) for X, y in tasks]
    meta = BayesianLinearNetRegressor(**QUICK).fit(TaskSet(tasks))
    mean, std = meta.adapt(tasks[0][0], tasks[0][1]).predict(tasks[0][0], True)
    np.testing.assert_allclose(mean, 5.0, atol=1e-4)
    assert np.isfinite(std).all() and (std > 0).all()


def test_the_same_row_many_times_counts_each_time():
    learner = made()
    one = numbers(1)
    many = Rows(one.x.repeat(1, 50, 1), one.y.repeat(1, 50, 1), one.mask.repeat(1, 50))
    mean, std = moments(learner, many, one)
    assert (mean - one.y).abs().max() < 0.1
    torch.testing.assert_close(
        std.square(), (1 + 1 / 50) * learner.noise.expand_as(std), rtol=0.01, atol=0
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"noise": 0}, "noise == 0, must be > 0"),
        ({"prior_precision": -1.0}, "prior_precision == -1.0, must be > 0"),
        ({"fit_intercept": "yes"}, "fit_intercept must be one of"),
        ({"calibrate": 1.0}, "calibrate"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        BayesianLinearNetRegressor(**parameters, **QUICK).fit(linear_tasks(12))


def test_parameters_of_meta_training_are_kept():
    tasks = make_sinusoids(12, random_state=0)
    meta = BayesianLinearNetRegressor(**QUICK).fit(tasks)
    meta.set_params(prior_precision=2.0)
    with pytest.raises(ValueError, match=r"prior_precision=2.0 acts in meta-training"):
        meta.adapt(tasks[0].X, tasks[0].y)
