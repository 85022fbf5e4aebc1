"""Linear mixed models against lme4, statsmodels and textbooks' formulas."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.linear_model import LinearRegression

from sklmeta import (
    HierarchicalLinearRegressor,
    HierarchicalLogisticClassifier,
    PerTaskRegressor,
    TaskSet,
)
from sklmeta.datasets import fetch_sleepstudy
from sklmeta.exceptions import MetaTrainingError

# As lme4 prints them for Reaction ~ Days + (Days | Subject).
LME4 = {
    "intercept": "251.405",
    "slope": "10.467",
    "sd of intercepts": "24.74",
    "sd of slopes": "5.92",
    "correlation": "0.066",
    "residual": "25.59",
    "REML criterion": "1743.6",
}
LINES_PARAMETERS = {
    "beta": np.array([1.0, 2.0, -1.0]),
    "covariance": np.array([[1.0, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 0.4]]),
    "noise": 0.7,
}


def lines(n_tasks, n_rows, seed=0, scale=1.0):
    """Return tasks of the model's own kind, about straight planes."""
    rng = np.random.default_rng(seed)
    beta, covariance, noise = LINES_PARAMETERS.values()
    coefficients = rng.multivariate_normal(beta, scale * covariance, size=n_tasks)
    X = rng.normal(0.5, 1.5, size=(n_tasks, n_rows, 2))
    y = coefficients[:, :1] + np.einsum("tnf,tf->tn", X, coefficients[:, 1:])
    y += noise * rng.normal(size=y.shape)
    return TaskSet(list(zip(X, y, strict=True)))


def columns(X):
    """Return rows with a column of ones."""
    return np.column_stack([np.ones(len(X)), np.asarray(X, dtype=float)])


def textbook(meta, X, y, query):
    """Return mean and standard deviation of new targets given rows, by all of V."""
    beta = np.append(meta.intercept_, meta.coef_)
    prior, noise = meta.covariance_, meta.noise_variance_
    x, z = columns(X), columns(query)
    gain = prior @ x.T @ np.linalg.inv(x @ prior @ x.T + noise * np.eye(len(x)))
    mean = z @ (beta + gain @ (y - x @ beta))
    left = z @ (prior - gain @ x @ prior) @ z.T
    return mean, np.sqrt(np.diag(left) + noise)


@pytest.fixture(scope="module")
def sleepstudy(data_home):
    return fetch_sleepstudy(data_home=data_home)


@pytest.fixture(scope="module")
def sleepers(sleepstudy):
    return HierarchicalLinearRegressor().fit(sleepstudy)


@pytest.fixture(scope="module")
def planes():
    return HierarchicalLinearRegressor().fit(lines(80, 12))


# The sleep study --------------------------------------------------------------------


def test_estimates_are_lme4s_to_every_digit(sleepers):
    intercepts, slopes = np.sqrt(np.diag(sleepers.covariance_))
    found = {
        "intercept": sleepers.intercept_,
        "slope": sleepers.coef_[0],
        "sd of intercepts": intercepts,
        "sd of slopes": slopes,
        "correlation": sleepers.covariance_[0, 1] / (intercepts * slopes),
        "residual": np.sqrt(sleepers.noise_variance_),
        "REML criterion": -2 * sleepers.log_likelihood_,
    }
    printed = {
        name: f"{found[name]:.{len(value.partition('.')[2])}f}"
        for name, value in LME4.items()
    }
    assert printed == LME4


def test_conditional_modes_of_the_subjects(sleepers, sleepstudy):
    modes = sleepers.random_effects_
    assert modes.shape == (18, 2)
    assert modes.columns.tolist() == ["intercept", "Days"]
    assert modes.index.tolist() == [task.name for task in sleepstudy]
    beta, prior = np.append(sleepers.intercept_, sleepers.coef_), sleepers.covariance_
    for task in sleepstudy:
        x = columns(task.X)
        V = x @ prior @ x.T + sleepers.noise_variance_ * np.eye(len(x))
        expected = prior @ x.T @ np.linalg.solve(V, task.y - x @ beta)
        np.testing.assert_allclose(modes.loc[task.name], expected, rtol=1e-8)


def test_a_new_subject_has_the_textbook_posterior(sleepstudy):
    meta = HierarchicalLinearRegressor(covariance="full").fit(sleepstudy[:-1])
    X, y = sleepstudy[-1].X, sleepstudy[-1].y
    mean, std = meta.adapt(X[:3], y[:3]).predict(X[3:], return_std=True)
    expected = textbook(meta, X[:3], y[:3], X[3:])
    np.testing.assert_allclose(mean, expected[0], rtol=1e-8)
    np.testing.assert_allclose(std, expected[1], rtol=1e-8)
    (together,) = meta.predict_tasks(TaskSet([(X[:3], y[:3])]), [X[3:]])
    np.testing.assert_allclose(together, expected[0], rtol=1e-8)


def test_coefficients_of_a_new_subject_can_be_read(sleepstudy):
    meta = HierarchicalLinearRegressor(covariance="full").fit(sleepstudy[:-1])
    new = sleepstudy[-1]
    model = meta.adapt(new.X[:3], new.y[:3])
    query = np.asarray(new.X[3:], dtype=float)
    expected = model.intercept_ + query @ model.coef_
    np.testing.assert_allclose(model.predict(new.X[3:]), expected, rtol=1e-10)
    z = columns(query)
    left = np.einsum("qi,ij,qj->q", z, model.coef_covariance_, z)
    std = np.sqrt(left + meta.noise_variance_)
    found = model.predict(new.X[3:], return_std=True)[1]
    np.testing.assert_allclose(found, std, rtol=1e-8)
    prior = meta.adapt()
    np.testing.assert_allclose(prior.coef_covariance_, meta.covariance_, rtol=1e-8)
    np.testing.assert_allclose(prior.coef_, meta.coef_)
    np.testing.assert_allclose(prior.intercept_, meta.intercept_)


def test_coefficients_of_several_targets_have_an_axis_for_them():
    tasks = lines(20, 6)
    twice = TaskSet([(task.X, np.column_stack([task.y] * 2)) for task in tasks])
    model = HierarchicalLinearRegressor(random_effects=[1]).fit(twice).adapt()
    assert model.intercept_.shape == (2,)
    assert model.coef_.shape == (2, 2)
    assert model.coef_covariance_.shape == (2, 2, 2)


def test_other_models_have_no_coefficients():
    tasks = lines(3, 6)
    model = PerTaskRegressor().fit(tasks).adapt(tasks[0].X, tasks[0].y)
    assert not hasattr(model, "coef_")
    with pytest.raises(AttributeError, match="is a linear model"):
        model.intercept_  # noqa: B018


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_sleepstudy_is_statsmodels(sleepstudy, method):
    meta = HierarchicalLinearRegressor(method=method, covariance="full")
    assert_same_as_statsmodels(meta.fit(sleepstudy), sleepstudy, method == "reml")


# Twins ------------------------------------------------------------------------------


def assert_same_as_statsmodels(meta, tasks, reml):
    api = pytest.importorskip("statsmodels.api")
    x, y = columns(tasks.rows().X), np.asarray(tasks.rows().y)
    groups = np.repeat(np.arange(len(tasks)), [len(task) for task in tasks])
    twin = api.MixedLM(y, x, groups=groups, exog_re=x).fit(reml=reml, gtol=1e-6)
    assert meta.log_likelihood_ == pytest.approx(twin.llf, abs=1e-4)
    beta = np.append(meta.intercept_, meta.coef_)
    np.testing.assert_allclose(beta, twin.fe_params, rtol=1e-3)
    assert meta.noise_variance_ == pytest.approx(twin.scale, rel=1e-3)
    scale = np.sqrt(np.diag(meta.covariance_))
    difference = (meta.covariance_ - twin.cov_re) / np.outer(scale, scale)
    np.testing.assert_allclose(difference, 0, atol=2e-3)
    modes = np.array([twin.random_effects[t] for t in range(len(tasks))])
    np.testing.assert_allclose(meta.random_effects_ / scale, modes / scale, atol=5e-3)


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_planes_are_statsmodels(method):
    tasks = lines(30, 8)
    meta = HierarchicalLinearRegressor(method=method, covariance="full")
    assert_same_as_statsmodels(meta.fit(tasks), tasks, method == "reml")


@pytest.mark.parametrize("random_effects", ["intercept", [1], ["b"]])
def test_some_effects_are_random(random_effects):
    tasks = lines(40, 8)
    if random_effects == ["b"]:
        pairs = [(pd.DataFrame(task.X, columns=["a", "b"]), task.y) for task in tasks]
        tasks = TaskSet(pairs)
    meta = HierarchicalLinearRegressor(random_effects=random_effects).fit(tasks)
    names = {"intercept": [], 1: [1], "b": ["b"]}[
        random_effects if isinstance(random_effects, str) else random_effects[0]
    ]
    assert meta.random_effects_.columns.tolist() == ["intercept", *names]
    assert meta.covariance_.shape == (1 + len(names),) * 2
    places = [0, 2][: 1 + len(names)]
    full = np.zeros((3, 3))
    full[np.ix_(places, places)] = meta.covariance_
    meta.covariance_ = full
    X, y = tasks[0].X, tasks[0].y
    mean, std = meta.adapt(X[:4], y[:4]).predict(X[4:], return_std=True)
    expected = textbook(meta, X[:4], y[:4], X[4:])
    np.testing.assert_allclose(mean, expected[0], rtol=1e-8)
    np.testing.assert_allclose(std, expected[1], rtol=1e-8)


# Parameters are found ---------------------------------------------------------------


def test_parameters_of_many_tasks_are_found():
    meta = HierarchicalLinearRegressor().fit(lines(1000, 10, seed=1))
    beta, covariance, noise = LINES_PARAMETERS.values()
    np.testing.assert_allclose(np.append(meta.intercept_, meta.coef_), beta, atol=0.1)
    np.testing.assert_allclose(meta.covariance_, covariance, atol=0.1)
    assert meta.noise_variance_ == pytest.approx(noise**2, rel=0.05)


@pytest.mark.parametrize("n_support", [0, 1, 3, 10])
def test_intervals_hold_what_they_promise(n_support):
    meta = HierarchicalLinearRegressor().fit(lines(200, 10))
    inside = []
    for task in lines(400, n_support + 5, seed=1):
        X, y = task.X[:n_support], task.y[:n_support]
        model = meta.adapt(X, y) if n_support else meta.adapt()
        mean, std = model.predict(task.X[n_support:], return_std=True)
        inside.append(np.abs(task.y[n_support:] - mean) <= norm.ppf(0.95) * std)
    assert 0.87 <= np.mean(inside) <= 0.93


def test_without_rows_the_prior_is_predicted(planes):
    query = lines(1, 6, seed=3)[0].X
    mean, std = planes.adapt().predict(query, return_std=True)
    z = columns(query)
    np.testing.assert_allclose(mean, planes.intercept_ + query @ planes.coef_)
    variance = np.diag(z @ planes.covariance_ @ z.T) + planes.noise_variance_
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-8)


@pytest.mark.parametrize("noise", [True, False])
def test_draws_have_the_posteriors_moments(planes, noise):
    task = lines(1, 8, seed=4)[0]
    model = planes.adapt(task.X[:3], task.y[:3])
    draws = model.sample_y(task.X[3:], n_samples=20_000, noise=noise)
    mean, std = model.predict(task.X[3:], return_std=True)
    variance = std**2 - (0 if noise else planes.noise_variance_)
    np.testing.assert_allclose(draws.mean(1), mean, atol=0.05)
    np.testing.assert_allclose(draws.var(1), variance, rtol=0.05)
    # Jointly: rows share the task's coefficients.
    x, z = columns(task.X[:3]), columns(task.X[3:])
    precision = np.linalg.inv(planes.covariance_) + x.T @ x / planes.noise_variance_
    expected = z @ np.linalg.inv(precision) @ z.T
    expected += noise * planes.noise_variance_ * np.eye(5)
    np.testing.assert_allclose(np.cov(draws), expected, atol=0.08)


# Invariances ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("far", [1.0, 1e4, 1e6])
def test_units_change_nothing_but_units(method, far):
    tasks = lines(30, 8)
    factor, shift = np.array([1e3, 1e-2]), np.array([5.0, -3.0])
    if far > 1:
        shift = far * factor * [1.5, -1.5]
    moved = TaskSet([(task.X * factor + shift, 1e4 * task.y - 7) for task in tasks])
    for normalize_x in (True, False):
        options = {"method": method, "covariance": "full", "tol": 1e-8}
        one = HierarchicalLinearRegressor(**options).fit(tasks)
        other = HierarchicalLinearRegressor(normalize_x=normalize_x, **options)
        other.fit(moved)
        query = tasks[0].X[3:]
        found = [
            meta.adapt(own[0].X[:3], own[0].y[:3]).predict(points, return_std=True)
            for meta, own, points in (
                (one, tasks, query),
                (other, moved, query * factor + shift),
            )
        ]
        np.testing.assert_allclose(found[1][0], 1e4 * found[0][0] - 7, rtol=1e-3)
        np.testing.assert_allclose(found[1][1], 1e4 * found[0][1], rtol=1e-3)
        rows = sum(map(len, tasks))
        volume = np.log(factor).sum() if method == "reml" else 0.0
        degrees = rows - 3 * (method == "reml")
        expected = one.log_likelihood_ - degrees * np.log(1e4) - volume
        assert other.log_likelihood_ == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("shift", [0.0, 3.0, 99.0])
def test_diagonal_covariances_are_of_features_as_they_are(shift):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 8, 1)) + shift
    own = rng.normal(size=(2, 40, 1)) * [[[2.0]], [[0.5]]]
    y = own[0] + own[1] * X[..., 0] + rng.normal(size=(40, 8))
    meta = HierarchicalLinearRegressor(
        random_effects="all", covariance="diagonal", normalize_x=False, tol=1e-9
    ).fit(TaskSet(list(zip(X, y, strict=True))))
    assert meta.covariance_[0, 1] == meta.covariance_[1, 0] == 0

    def deviance(logs):
        values = np.exp(logs)
        total, gram, moment, square = 0.0, 0.0, 0.0, 0.0
        for rows, targets in zip(X, y, strict=True):
            x = columns(rows)
            V = np.eye(8) + x @ np.diag(values) @ x.T
            x = columns(rows - shift)  # the same fixed effects
            inverse = np.linalg.inv(V)
            total += np.linalg.slogdet(V)[1]
            gram, moment = gram + x.T @ inverse @ x, moment + x.T @ inverse @ targets
            square += targets @ inverse @ targets
        degrees = y.size - 2
        left = square - moment @ np.linalg.solve(gram, moment)
        total += degrees * (1 + np.log(2 * np.pi * left / degrees))
        return total + np.linalg.slogdet(gram)[1]

    found = minimize(deviance, [0.0, 0.0], method="Nelder-Mead")
    assert -2 * meta.log_likelihood_ == pytest.approx(found.fun, abs=1e-3)


def test_diagonal_covariances_of_features_far_from_zero_are_warned_of():
    tasks = TaskSet([(task.X + np.array([0, 1e4]), task.y) for task in lines(30, 8)])
    options = {"covariance": "diagonal", "normalize_x": False}
    with pytest.warns(UserWarning, match=r"Means of the features \[1\] are over 100"):
        HierarchicalLinearRegressor(**options).fit(tasks)
    labelled = TaskSet([(task.X, task.y > 0) for task in tasks])
    with pytest.warns(UserWarning, match=r"Means of the features \[1\] are over 100"):
        HierarchicalLogisticClassifier(**options).fit(labelled)


def test_a_penalty_is_of_the_features_that_it_says():
    tasks = lines(10, 3)
    scale = tasks.rows().X.std(0)
    scaled = TaskSet([(task.X / scale, task.y) for task in tasks])
    options = {"covariance": "full", "alpha": 5.0, "tol": 1e-8}
    one = HierarchicalLinearRegressor(**options).fit(tasks)
    other = HierarchicalLinearRegressor(normalize_x=False, **options).fit(scaled)
    np.testing.assert_allclose(one.coef_ * scale, other.coef_, rtol=1e-3)
    assert one.log_likelihood_ == pytest.approx(other.log_likelihood_, abs=1e-4)
    free = HierarchicalLinearRegressor(covariance="full").fit(tasks)
    assert (np.abs(one.coef_) < np.abs(free.coef_)).all()


def test_order_of_tasks_and_rows_does_not_matter(planes):
    tasks = lines(80, 12)
    moved = TaskSet([(task.X[::-1], task.y[::-1]) for task in reversed(list(tasks))])
    other = HierarchicalLinearRegressor().fit(moved)
    np.testing.assert_allclose(other.coef_, planes.coef_, rtol=1e-4)
    np.testing.assert_allclose(
        other.random_effects_[::-1], planes.random_effects_, atol=1e-3
    )


def test_several_targets_are_as_many_models(planes):
    tasks = lines(80, 12)
    both = TaskSet([(t.X, np.column_stack([-2 * t.y + 1, t.y])) for t in tasks])
    meta = HierarchicalLinearRegressor().fit(both)
    assert meta.random_effects_.shape == (80, 6)
    assert meta.random_effects_.columns[4] == (1, 0)
    np.testing.assert_allclose(
        meta.random_effects_[1], planes.random_effects_, atol=1e-6
    )
    new = lines(1, 8, seed=2)[0]
    targets = np.column_stack([-2 * new.y + 1, new.y])
    model = meta.adapt(new.X[:3], targets[:3])
    mean, std = model.predict(new.X[3:], return_std=True)
    single = planes.adapt(new.X[:3], new.y[:3]).predict(new.X[3:], return_std=True)
    np.testing.assert_allclose(mean[:, 1], single[0], rtol=1e-6)
    np.testing.assert_allclose(mean[:, 0], 1 - 2 * single[0], rtol=1e-3)
    np.testing.assert_allclose(std, single[1][:, None] * [2, 1], rtol=1e-3)
    draws = model.sample_y(new.X[3:], n_samples=4000)
    assert draws.shape == (5, 2, 4000)
    np.testing.assert_allclose(draws.std(2), std, rtol=0.1)


def test_many_new_tasks_together_are_as_one_by_one(planes, monkeypatch):
    monkeypatch.setattr("sklmeta.closed_form.mixed_model.EPISODES_AT_ONCE", 3)
    new = lines(8, 6, seed=5)
    supports = TaskSet([(t.X[:n], t.y[:n]) for n, t in enumerate(new, 1)])
    found = planes.predict_tasks(supports, [task.X for task in new])
    for support, task, mean in zip(supports, new, found, strict=True):
        expected = planes.adapt(support.X, support.y).predict(task.X)
        np.testing.assert_allclose(mean, expected, rtol=1e-10)


def test_pickles_predict_the_same(planes):
    new = lines(1, 8, seed=2)[0]
    expected = planes.adapt(new.X[:3], new.y[:3]).predict(new.X, return_std=True)
    copy = pickle.loads(pickle.dumps(planes))
    found = copy.adapt(new.X[:3], new.y[:3]).predict(new.X, return_std=True)
    np.testing.assert_array_equal(found, expected)


# Bad input --------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "diagonal", "auto"])
def test_constant_and_collinear_features_get_no_coefficient(planes, covariance):
    tasks = lines(80, 12)
    wide = TaskSet(
        [
            (np.column_stack([t.X[:, 0], 0 * t.y + 3, t.X, t.X @ [1, -2]]), t.y)
            for t in tasks
        ]
    )
    meta = HierarchicalLinearRegressor(covariance=covariance).fit(wide)
    assert meta.coef_[[1, 2, 4]].tolist() == [0, 0, 0]
    assert not meta.covariance_[[2, 3, 5]].any()
    assert not meta.random_effects_[[1, 2, 4]].to_numpy().any()
    plain = HierarchicalLinearRegressor(covariance=covariance).fit(tasks)
    np.testing.assert_allclose(meta.coef_[[0, 3]], plain.coef_, rtol=1e-6)
    X, y = wide[0].X, wide[0].y
    found = meta.adapt(X[:3], y[:3]).predict(X, return_std=True)
    expected = plain.adapt(tasks[0].X[:3], y[:3]).predict(tasks[0].X, return_std=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_penalised_collinear_features_share_a_coefficient():
    tasks = TaskSet([(t.X[:, [0, 0]], t.y) for t in lines(30, 8)])
    meta = HierarchicalLinearRegressor(alpha=1.0, covariance="diagonal").fit(tasks)
    assert meta.coef_[0] == pytest.approx(meta.coef_[1], rel=1e-3)
    assert np.isfinite(meta.adapt(tasks[0].X, tasks[0].y).predict(tasks[0].X)).all()


def test_tasks_of_one_row(planes):
    tasks = lines(80, 12)
    ragged = TaskSet(
        [(t.X[: 1 + i % 6], t.y[: 1 + i % 6]) for i, t in enumerate(tasks)]
    )
    meta = HierarchicalLinearRegressor().fit(ragged)
    X, y = tasks[0].X, tasks[0].y
    mean, std = meta.adapt(X[:1], y[:1]).predict(X[1:], return_std=True)
    expected = textbook(meta, X[:1], y[:1], X[1:])
    np.testing.assert_allclose(mean, expected[0], rtol=1e-8)
    np.testing.assert_allclose(std, expected[1], rtol=1e-8)


@pytest.mark.parametrize("covariance", ["full", "auto"])
def test_fewer_tasks_than_effects_have_a_diagonal_covariance(covariance):
    tasks = lines(2, 20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        meta = HierarchicalLinearRegressor(
            covariance=covariance, normalize_x=False
        ).fit(tasks)
    (warning,) = caught
    assert str(warning.message).startswith(
        "2 tasks are fewer than the 3 random coefficients"
    )
    assert warning.filename == __file__
    off_diagonal = meta.covariance_ - np.diag(np.diag(meta.covariance_))
    assert not off_diagonal.any()
    silent = HierarchicalLinearRegressor(covariance="diagonal", normalize_x=False)
    assert silent.fit(tasks).log_likelihood_ == meta.log_likelihood_


def test_tasks_that_are_alike_have_the_pooled_model():
    tasks = lines(40, 8, seed=1, scale=0.0)
    rows = tasks.rows()
    pooled = LinearRegression().fit(rows.X, rows.y)
    residuals = rows.y - pooled.predict(rows.X)
    meta = HierarchicalLinearRegressor(covariance="full").fit(tasks)
    # Estimates are at the boundary: some variance is zero.
    values = np.linalg.eigvalsh(meta.covariance_)
    assert values[0] < 1e-6
    assert values[-1] < 0.05
    np.testing.assert_allclose(meta.coef_, pooled.coef_, atol=0.02)
    assert meta.noise_variance_ == pytest.approx(residuals.var(ddof=3), rel=0.05)
    new = lines(1, 5, seed=9, scale=0.0)[0]
    mean = meta.adapt(new.X, new.y).predict(new.X)
    np.testing.assert_allclose(mean, pooled.predict(new.X), atol=0.3)


def test_equal_tasks_have_no_variance_between_them():
    task = lines(1, 20)[0]
    tasks = TaskSet([(task.X, task.y)] * 10)
    meta = HierarchicalLinearRegressor().fit(tasks)
    assert np.abs(meta.covariance_).max() < 1e-6
    pooled = LinearRegression().fit(task.X, task.y)
    np.testing.assert_allclose(meta.coef_, pooled.coef_, rtol=1e-6)
    found = meta.adapt(task.X[:2], task.y[:2] + 100).predict(task.X)
    np.testing.assert_allclose(found, pooled.predict(task.X), atol=1e-2)


def test_constant_targets():
    tasks = TaskSet([(task.X, 0 * task.y + 3) for task in lines(20, 8)])
    meta = HierarchicalLinearRegressor().fit(tasks)
    assert meta.intercept_ == pytest.approx(3)
    np.testing.assert_allclose(meta.coef_, 0, atol=1e-6)
    mean, std = meta.adapt(tasks[0].X, tasks[0].y).predict([[0, 1]], return_std=True)
    assert mean == pytest.approx(3)
    assert std < 1e-3


@pytest.mark.parametrize("odd", [{7}, set(range(1, 30, 2))])
def test_targets_in_other_units_are_warned_of(odd):
    tasks = lines(30, 8)
    mixed = [(t.X, t.y * (1e6 if i in odd else 1)) for i, t in enumerate(tasks)]
    with pytest.warns(UserWarning, match="Scale the targets of each task first") as w:
        meta = HierarchicalLinearRegressor().fit(TaskSet(mixed))
    (warning,) = w
    if len(odd) == 1:
        assert str(warning.message).startswith("Targets of task 7 spread ")
    assert "e+0" in str(warning.message)
    assert warning.filename == __file__
    mean, std = meta.adapt(*mixed[0]).predict(mixed[0][0], return_std=True)
    assert np.isfinite(mean).all()
    assert (std > 0).all()


@pytest.mark.parametrize("level", [1.0, 1e3, 1e5])
def test_noise_is_found_wherever_levels_are(level):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 10, 1))
    y = X[..., 0] + level * rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, 10))
    tasks = TaskSet(list(zip(X, y, strict=True)))
    meta = HierarchicalLinearRegressor(random_effects="intercept").fit(tasks)
    assert np.sqrt(meta.noise_variance_) == pytest.approx(0.3, rel=0.1)
    assert np.sqrt(meta.covariance_[0, 0]) == pytest.approx(level, rel=0.3)
    assert meta.coef_[0] == pytest.approx(1, abs=0.05)


def test_scaled_targets_of_odd_tasks_are_as_others():
    tasks = lines(30, 8)
    levels = TaskSet([(t.X, t.y + 1e3 * i) for i, t in enumerate(tasks)])
    # Levels may differ as they like, and a task may be all but constant.
    meta = HierarchicalLinearRegressor(covariance="full").fit(levels)
    mean = meta.adapt(levels[0].X[:4], levels[0].y[:4]).predict(levels[0].X[4:])
    np.testing.assert_allclose(mean, levels[0].y[4:], atol=4)
    flat = TaskSet([(t.X, 0 * t.y if i == 3 else t.y) for i, t in enumerate(tasks)])
    HierarchicalLinearRegressor().fit(flat)


@pytest.mark.parametrize("level", [0.1, -1e5 / 3])
def test_constant_targets_of_some_tasks_are_not_in_other_units(level):
    tasks = lines(30, 7)
    flat = [(t.X, 0 * t.y + level if i % 3 else t.y) for i, t in enumerate(tasks)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        meta = HierarchicalLinearRegressor().fit(TaskSet(flat))
    assert [str(one.message) for one in told] == []
    constant = meta.adapt(flat[1][0], flat[1][1]).predict(flat[1][0])
    np.testing.assert_allclose(constant, level, atol=1.0)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_numbers_that_are_not_finite_are_refused(planes, n_outputs):
    task = lines(1, 8, seed=4)[0]
    X, y, meta = task.X, task.y, planes
    if n_outputs == 2:
        both = [(t.X, np.column_stack([t.y, -t.y])) for t in lines(30, 8)]
        meta, y = HierarchicalLinearRegressor().fit(TaskSet(both)), both[0][1]
        X = both[0][0]
    match = r"numbers that are not finite .* Check the scale of X and y\."
    for far, targets in ((X * 1e200, y), (X * 1e306, y), (X, y * 1e307)):
        with pytest.raises(MetaTrainingError, match=match):
            meta.adapt(far, targets).predict(X * 100)
    assert np.isfinite(meta.adapt(X * 1e5, y).predict(X)).all()
    model = meta.adapt(X, y)
    for query in (X * 1e200, X * 1e306):
        with pytest.raises(MetaTrainingError, match=match):
            model.predict(query, return_std=True)
    huge = [[1.7e308, -1.7e308]]
    with pytest.raises(MetaTrainingError, match=match):
        model.predict(huge)
    with pytest.raises(MetaTrainingError, match=match):
        model.sample_y(huge)
    new = TaskSet([(X, y), (X * 1e200, y)])
    with pytest.raises(MetaTrainingError, match=f"^Task 1: .*{match}"):
        meta.score(new)
    with pytest.raises(MetaTrainingError, match=f"^Task 1: .*{match}"):
        meta.predict_tasks(new, [X, X])


def test_too_few_rows_are_refused():
    tasks = lines(3, 1)
    match = r"3 rows in all are too few for 3 fixed effects, .* Use alpha > 0"
    with pytest.raises(ValueError, match=match):
        HierarchicalLinearRegressor(random_effects="intercept").fit(tasks)
    meta = HierarchicalLinearRegressor(random_effects="intercept", alpha=1.0)
    assert np.isfinite(meta.fit(tasks).coef_).all()


def test_too_few_rows_for_all_features_are_refused_before_any_warning():
    X = np.random.default_rng(0).normal(size=(4, 5, 30))
    tasks = TaskSet([(own, own[:, 0]) for own in X])
    match = r"20 rows in all are too few for 31 fixed effects, .* of 30 features"
    with pytest.raises(ValueError, match=match):
        HierarchicalLinearRegressor().fit(tasks)


def test_targets_whose_squares_vanish_are_refused():
    tasks = lines(30, 8)
    tiny, small = (
        TaskSet([(t.X, t.y * scale) for t in tasks]) for scale in (1e-200, 1e-130)
    )
    with pytest.raises(ValueError, match=r"largest target is \de-199.* Scale y up"):
        HierarchicalLinearRegressor().fit(tiny)
    meta, usual = (HierarchicalLinearRegressor().fit(own) for own in (small, tasks))
    np.testing.assert_allclose(meta.coef_ * 1e130, usual.coef_, rtol=1e-3)


def test_one_task_is_refused():
    with pytest.raises(ValueError, match=r"needs at least 2 tasks .* got 1 task"):
        HierarchicalLinearRegressor().fit(lines(1, 9))


def test_images_are_refused():
    tasks = TaskSet([(np.zeros((4, 5, 5)), np.arange(4.0))] * 3)
    with pytest.raises(ValueError, match=r"takes rows of a table, got images of shape"):
        HierarchicalLinearRegressor().fit(tasks)


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        ("slope", ValueError, "must be 'all', 'intercept' or a list of features"),
        (1, ValueError, "must be 'all', 'intercept' or a list of features, got 1"),
        (["a"], ValueError, "holds 'a', but the tasks' X has no names"),
        ([2], ValueError, "holds 2, but the tasks have 2 features, 0 to 1"),
        ([-1], ValueError, "holds -1, but the tasks have 2 features, 0 to 1"),
        ([True], TypeError, "must list names or positions of features, got True"),
        ([0.5], TypeError, "must list names or positions of features, got 0.5"),
    ],
)
def test_wrong_effects_are_refused(value, error, match):
    with pytest.raises(error, match=match):
        HierarchicalLinearRegressor(random_effects=value).fit(lines(5, 4))


def test_unknown_names_are_refused():
    tasks = [(pd.DataFrame(t.X, columns=["a", "b"]), t.y) for t in lines(5, 4)]
    match = r"holds 'c', but the tasks have \['a', 'b'\]"
    with pytest.raises(ValueError, match=match):
        HierarchicalLinearRegressor(random_effects=["c"]).fit(TaskSet(tasks))


def test_the_intercept_may_be_listed():
    tasks = [(pd.DataFrame(t.X, columns=["a", "b"]), t.y) for t in lines(8, 6)]
    listed, not_listed = (
        HierarchicalLinearRegressor(random_effects=effects).fit(TaskSet(tasks))
        for effects in (["intercept", "b"], ["b"])
    )
    assert list(listed.random_effects_) == ["intercept", "b"]
    np.testing.assert_array_equal(listed.covariance_, not_listed.covariance_)


def test_names_that_were_lost_or_misspelt():
    tasks = [(pd.DataFrame(t.X, columns=["price", "b"]), t.y) for t in lines(5, 4)]
    with pytest.raises(ValueError, match="Did you mean 'price'"):
        HierarchicalLinearRegressor(random_effects=["Price"]).fit(TaskSet(tasks))
    with pytest.raises(ValueError, match="set_output"):
        HierarchicalLinearRegressor(random_effects=["price"]).fit(lines(5, 4))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "lme"}, "method must be"),
        ({"covariance": "block"}, "covariance must be"),
        ({"alpha": -1.0}, "alpha == -1.0, must be >= 0"),
        ({"tol": 0}, "tol == 0, must be > 0"),
    ],
)
def test_wrong_parameters_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        HierarchicalLinearRegressor(**options).fit(lines(5, 4))


def test_estimates_far_from_convergence_are_warned_of(monkeypatch):
    monkeypatch.setattr("sklmeta.closed_form._likelihood.STARTS", 1)
    monkeypatch.setattr("sklmeta.closed_form._likelihood.ITERATIONS", 1)
    meta = HierarchicalLinearRegressor(covariance="full", tol=1e-10)
    with pytest.warns(UserWarning, match="has not converged to tol=1e-10"):
        meta.fit(lines(30, 8))


@pytest.mark.parametrize(
    ("kind", "n_bytes"),
    [
        (HierarchicalLinearRegressor, 16 * (5 * 3 + 4) * 4),
        # 20 rows, padded, of 3 columns and 3 effects, and the Hessians of a block.
        (HierarchicalLogisticClassifier, 8 * (2 * 20 * 6 + 8 * 2**22)),
    ],
)
def test_what_does_not_fit_in_memory_is_refused(monkeypatch, kind, n_bytes):
    place = "sklmeta.closed_form._mixed_estimator.free_bytes"
    tasks = lines(5, 4)
    if kind is HierarchicalLogisticClassifier:
        tasks = TaskSet([(task.X, task.y > np.median(task.y)) for task in tasks])
    monkeypatch.setattr(place, lambda device: n_bytes)
    kind().fit(tasks)
    monkeypatch.setattr(place, lambda device: n_bytes - 1)
    match = f"{kind.__name__} needs about .* for 5 tasks with 3 random coefficients"
    with pytest.raises(ValueError, match=match):
        kind().fit(tasks)
