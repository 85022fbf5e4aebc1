"""Logistic mixed models against scikit-learn's logistic regression and quadrature."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from sklmeta import ClassPool, HierarchicalLogisticClassifier, TaskSet
from sklmeta.closed_form import _laplace
from sklmeta.closed_form.mixed_logistic import _averaged_sigmoid, _averaged_softmax
from sklmeta.exceptions import MetaTrainingError

NAMES = {2: np.array(["no", "yes"]), 3: np.array(["apple", "bee", "cat"])}
WAYS = pytest.mark.parametrize("n_classes", [2, 3])


def labelled(n_tasks, n_rows, n_classes=2, sd=1.0, seed=0):
    """Return tasks of the model's own kind, with two features and labels as strings."""
    rng = np.random.default_rng(seed)
    n_sets = 1 if n_classes == 2 else n_classes
    beta = np.random.default_rng(99).normal(size=(n_sets, 3))
    pairs = []
    for _ in range(n_tasks):
        X = rng.normal(0.5, 1.5, size=(n_rows, 2))
        own = beta + sd * rng.normal(size=beta.shape)
        logits = np.column_stack([np.ones(n_rows), X]) @ own.T
        if n_sets == 1:
            logits = np.column_stack([np.zeros(n_rows), logits])
        y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
        pairs.append((X, NAMES[n_classes][y]))
    return TaskSet(pairs)


@pytest.fixture(scope="module", params=[2, 3])
def fitted(request):
    """Return a fitted meta-learner and new tasks."""
    n_classes = request.param
    meta = HierarchicalLogisticClassifier().fit(labelled(60, 15, n_classes))
    return meta, labelled(20, 30, n_classes, seed=1)


@WAYS
@pytest.mark.parametrize("normalize_x", [True, False])
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_tasks_that_are_alike_have_sklearns_logistic_regression(
    n_classes, normalize_x, alpha
):
    # Tasks with the same rows: no difference between them is the best estimate.
    task = labelled(1, 60, n_classes)[0]
    tasks = TaskSet([(task.X, task.y)] * 8)
    meta = HierarchicalLogisticClassifier(
        alpha=alpha, normalize_x=normalize_x, tol=1e-8
    ).fit(tasks)
    assert np.abs(meta.covariance_).max() < 1e-4
    X, y = tasks.rows().X, np.asarray(tasks.rows().y)
    scale = X.std(0) if normalize_x else 1.0
    pooled = LogisticRegression(C=1 / alpha, tol=1e-10, max_iter=1000)
    pooled.fit(X / scale, y)
    np.testing.assert_allclose(meta.coef_ * scale, pooled.coef_, atol=1e-3)
    intercept = meta.intercept_ - (meta.intercept_.mean() if n_classes > 2 else 0)
    np.testing.assert_allclose(intercept, pooled.intercept_, atol=2e-3)
    proba = meta.adapt(task.X[:5], task.y[:5]).predict_proba(task.X)
    np.testing.assert_allclose(proba, pooled.predict_proba(task.X / scale), atol=2e-3)
    logs = np.log(pooled.predict_proba(X / scale))
    codes = np.searchsorted(meta.classes_, y)
    penalty = alpha * (pooled.coef_**2).sum() / 2
    expected = logs[np.arange(len(y)), codes].sum() - penalty
    assert meta.log_likelihood_ == pytest.approx(expected, abs=0.02)


def test_random_intercepts_are_near_those_of_the_exact_likelihood():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(60):
        X = rng.normal(size=(20, 1))
        logit = 0.5 + X[:, 0] + rng.normal()
        pairs.append((X, rng.random(20) < expit(logit)))
    meta = HierarchicalLogisticClassifier(
        random_effects="intercept", alpha=1e-8, normalize_x=False, tol=1e-7
    ).fit(TaskSet(pairs))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)

    def loss(values):
        total = 0.0
        for X, y in pairs:
            logits = (values[0] + values[1] * X[:, 0])[:, None] + values[2] * nodes
            logs = np.log(expit(np.where(y, 1, -1)[:, None] * logits)).sum(0)
            total -= logsumexp(logs, b=weights / weights.sum())
        return total

    found = minimize(loss, [0.0, 0.0, 1.0], method="BFGS")
    estimates = [meta.intercept_[0], meta.coef_[0, 0], meta.covariance_[0, 0, 0] ** 0.5]
    np.testing.assert_allclose(estimates, found.x, atol=0.05)
    assert meta.log_likelihood_ == pytest.approx(-found.fun, abs=1.0)


def test_adapting_is_the_posterior_by_quadrature():
    meta = HierarchicalLogisticClassifier(random_effects="intercept")
    meta.fit(labelled(60, 15, sd=0.8))
    task = labelled(1, 25, seed=5)[0]
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    shift = meta.covariance_[0, 0, 0] ** 0.5 * nodes
    sign = np.where(task.y == "yes", 1, -1)[:, None]

    def logits(X):
        return (meta.intercept_[0] + X @ meta.coef_[0])[:, None] + shift

    joint = np.log(expit(sign * logits(task.X))).sum(0) + np.log(weights)
    query = np.array([[0.0, 0.0], [1.0, -1.0], [-2.0, 0.5]])
    expected = expit(logits(query)) @ softmax(joint)
    found = meta.adapt(task.X, task.y).predict_proba(query)[:, 1]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_averages_over_logits():
    rng = np.random.default_rng(0)
    mean, root = rng.normal(size=(4, 3)), rng.normal(size=(4, 3, 3))
    normal = rng.normal(size=(40_000, 3))
    draws = mean[:, None] + normal @ root.swapaxes(1, 2)
    expected = softmax(draws, axis=-1).mean(1)
    found = _averaged_softmax(mean, root @ root.swapaxes(1, 2))
    np.testing.assert_allclose(found, expected, atol=0.015)
    np.testing.assert_allclose(found.sum(1), 1)
    exact = _averaged_softmax(mean, np.zeros((4, 3, 3)))
    np.testing.assert_allclose(exact, softmax(mean, axis=1))
    std = np.array([0.0, 0.5, 2.0, 8.0])
    grid = np.linspace(-9, 9, 20_001)
    weights = np.exp(-(grid**2) / 2) / np.exp(-(grid**2) / 2).sum()
    expected = expit(mean[:, :1] + std[:, None] * grid) @ weights
    found = _averaged_sigmoid(mean[:, 0], std)
    np.testing.assert_allclose(found[:3], expected[:3], atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_probabilities_are_calibrated(fitted):
    meta, new = fitted
    proba, truth = [], []
    for task in new:
        model = meta.adapt(task.X[:6], task.y[:6])
        proba.append(model.predict_proba(task.X[6:]))
        truth.append(task.y[6:, None] == meta.classes_)
        found = model.predict(task.X[6:])
        np.testing.assert_array_equal(found, meta.classes_[proba[-1].argmax(1)])
    proba, truth = np.concatenate(proba).ravel(), np.concatenate(truth).ravel()
    for low, high in ((0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1)):
        own = (proba >= low) & (proba < high)
        assert proba[own].mean() == pytest.approx(truth[own].mean(), abs=0.08)


def test_a_task_with_one_class_keeps_the_others(fitted):
    meta, new = fitted
    label = meta.classes_[0]
    X = new[0].X[:4]
    model = meta.adapt(X, np.array([label] * 4))
    assert model.classes_.tolist() == meta.classes_.tolist()
    proba = model.predict_proba(new[0].X)
    assert (proba > 0).all()
    one = meta.adapt(X[:1], np.array([label])).predict_proba(X[:1])
    four = meta.adapt(X[[0] * 4], np.array([label] * 4)).predict_proba(X[:1])
    assert one[0, 0] < four[0, 0] < 1


def test_meta_training_on_tasks_of_one_class_and_one_row():
    tasks = labelled(30, 8)
    ragged = []
    for i, task in enumerate(tasks):
        rows = task.y == task.y[0] if i % 3 == 0 else slice(None, 1 + i % 8)
        ragged.append((task.X[rows], task.y[rows]))
    meta = HierarchicalLogisticClassifier().fit(TaskSet(ragged))
    assert np.isfinite(meta.covariance_).all()
    assert meta.adapt(*ragged[0]).predict_proba(tasks[0].X).shape == (8, 2)


@WAYS
def test_covariances_are_found(n_classes):
    tasks = labelled(200, 25, n_classes, sd=0.7)
    meta = HierarchicalLogisticClassifier(tol=1e-4, normalize_x=False).fit(tasks)
    diagonal = np.diagonal(meta.covariance_, axis1=1, axis2=2)
    np.testing.assert_allclose(np.sqrt(diagonal), 0.7, atol=0.2)
    assert meta.covariance_.shape == ((1 if n_classes == 2 else 3), 3, 3)


def test_better_covariance_by_akaikes_criterion():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(80):
        X = rng.normal(size=(20, 1))
        effect = 2 * rng.normal()  # of intercept and slope alike
        pairs.append((X, rng.random(20) < expit(effect * (1 + X[:, 0]))))
    tasks = TaskSet(pairs)
    fits = {
        kind: HierarchicalLogisticClassifier(covariance=kind).fit(tasks)
        for kind in ("full", "diagonal", "auto")
    }
    assert fits["full"].log_likelihood_ > fits["diagonal"].log_likelihood_ + 10
    assert fits["auto"].log_likelihood_ == fits["full"].log_likelihood_
    assert fits["full"].covariance_[0, 0, 1] > 1


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
def test_features_far_from_zero_have_the_same_model(far):
    tasks = labelled(30, 12)
    factor = np.array([1e3, 1e-2])
    shift = far * factor
    moved = TaskSet([(task.X * factor + shift, task.y) for task in tasks])
    options = {"covariance": "full", "alpha": 0.0, "tol": 1e-7}
    one = HierarchicalLogisticClassifier(**options).fit(tasks)
    other = HierarchicalLogisticClassifier(normalize_x=False, **options).fit(moved)
    assert other.log_likelihood_ == pytest.approx(one.log_likelihood_, abs=1e-3)
    X, y = tasks[0].X, tasks[0].y
    found = other.adapt(X * factor + shift, y).predict_proba(X * factor + shift)
    expected = one.adapt(X, y).predict_proba(X)
    np.testing.assert_allclose(found, expected, atol=1e-3)


@WAYS
def test_label_names_and_order_of_tasks_do_not_matter(n_classes):
    tasks = labelled(30, 10, n_classes)
    meta = HierarchicalLogisticClassifier(tol=1e-7).fit(tasks)
    codes = [np.searchsorted(NAMES[n_classes], task.y) for task in tasks]
    moved = [(t.X[::-1], y[::-1] * 10) for t, y in zip(tasks, codes, strict=True)]
    other = HierarchicalLogisticClassifier(tol=1e-7).fit(TaskSet(moved[::-1]))
    np.testing.assert_allclose(other.coef_, meta.coef_, atol=1e-3)
    assert other.log_likelihood_ == pytest.approx(meta.log_likelihood_, abs=1e-4)
    X = tasks[0].X
    np.testing.assert_allclose(
        meta.adapt(X[:4], tasks[0].y[:4]).predict_proba(X),
        other.adapt(X[:4], codes[0][:4] * 10).predict_proba(X),
        atol=1e-3,
    )


def test_many_new_tasks_together_are_as_one_by_one(fitted, monkeypatch):
    meta, new = fitted
    monkeypatch.setattr("sklmeta.closed_form.mixed_logistic.EPISODES_AT_ONCE", 3)
    supports = TaskSet([(t.X[:n], t.y[:n]) for n, t in enumerate(new[:8], 1)])
    found = meta.predict_tasks(supports, [task.X for task in new[:8]])
    for support, task, labels in zip(supports, new[:8], found, strict=True):
        expected = meta.adapt(support.X, support.y).predict(task.X)
        np.testing.assert_array_equal(labels, expected)


def test_pickles_predict_the_same(fitted):
    meta, new = fitted
    X, y = new[0].X, new[0].y
    copy = pickle.loads(pickle.dumps(meta))
    np.testing.assert_array_equal(
        copy.adapt(X[:5], y[:5]).predict_proba(X),
        meta.adapt(X[:5], y[:5]).predict_proba(X),
    )


def test_features_by_name_differ():
    tasks = labelled(30, 10)
    named = TaskSet([(pd.DataFrame(t.X, columns=["a", "b"]), t.y) for t in tasks])
    meta = HierarchicalLogisticClassifier(random_effects=["b"]).fit(named)
    by_place = HierarchicalLogisticClassifier(random_effects=[1]).fit(tasks)
    assert meta.feature_names_in_.tolist() == ["a", "b"]
    assert meta.covariance_.shape == (1, 2, 2)
    np.testing.assert_allclose(meta.covariance_, by_place.covariance_)


# Bad input --------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_constant_and_collinear_features(alpha):
    tasks = labelled(30, 10)
    wide = TaskSet(
        [(np.column_stack([t.X, t.X[:, 0], 0 * t.X[:, 0] + 3]), t.y) for t in tasks]
    )
    meta = HierarchicalLogisticClassifier(alpha=alpha).fit(wide)
    assert meta.coef_[0, 3] == 0
    assert not meta.covariance_[0, 4].any()
    assert (meta.coef_[0, 2] == 0) == (alpha == 0)
    if alpha:
        assert meta.coef_[0, 2] == pytest.approx(meta.coef_[0, 0], rel=0.01)
    assert np.isfinite(meta.adapt(wide[0].X, wide[0].y).predict_proba(wide[0].X)).all()


def test_classes_that_a_feature_separates():
    X = np.random.default_rng(0).normal(size=(20, 10, 1))
    tasks = TaskSet([(own, own[:, 0] > 0) for own in X])
    # The penalty is of fixed effects: random ones separate them, without a limit.
    with pytest.warns(ConvergenceWarning, match=r"random coefficients of \[0\] have"):
        meta = HierarchicalLogisticClassifier().fit(tasks)
    assert np.isfinite(meta.coef_).all()
    assert meta.adapt([[1.0]], [True]).predict([[-2.0], [2.0]]).tolist() == [
        False,
        True,
    ]


@WAYS
def test_tasks_of_one_class_each_are_warned_of(n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 4, 1))
    y = np.repeat(rng.integers(0, n_classes, 20)[:, None], 4, axis=1)
    tasks = TaskSet(list(zip(X, y, strict=True)))
    match = r"random coefficients of \['intercept'\] have a standard deviation of"
    with pytest.warns(ConvergenceWarning, match=match) as caught:
        meta = HierarchicalLogisticClassifier(random_effects="intercept").fit(tasks)
    assert caught[0].filename == __file__
    assert np.sqrt(meta.covariance_.max()) <= 51
    assert (meta.adapt(X[0], y[0]).predict(X[0]) == y[0]).all()


def test_classes_separated_without_a_penalty_are_warned_of():
    X = np.random.default_rng(0).normal(size=(20, 10, 1))
    tasks = TaskSet([(own, own[:, 0] > 0) for own in X])
    meta = HierarchicalLogisticClassifier(alpha=0)
    with pytest.warns(ConvergenceWarning, match=r"random coefficients of \[.*0\]"):
        meta.fit(tasks)


def test_fewer_tasks_than_effects_have_a_diagonal_covariance():
    tasks = labelled(2, 20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        HierarchicalLogisticClassifier(covariance="full").fit(tasks)
    (warning,) = caught
    assert "2 tasks are fewer than the 3 random coefficients" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("kind", ["local", "pool"])
def test_labels_that_mean_nothing_outside_a_task_are_refused(kind):
    tasks = labelled(5, 10)
    if kind == "local":
        tasks = TaskSet([(t.X, t.y) for t in tasks], labels="local")
    else:
        tasks = ClassPool(tasks.rows().X, np.asarray(tasks.rows().y))
    with pytest.raises(ValueError, match="needs labels that mean the same in all task"):
        HierarchicalLogisticClassifier().fit(tasks)


@WAYS
@pytest.mark.parametrize("scale", [1e5, 1e8, 1e12, 1e100])
def test_rows_far_from_all_others_are_adapted_to(n_classes, scale):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 12, 6))
    codes = (X[..., 0] + rng.normal(size=(40, 12)) > 0) * 1 + (X[..., 1] > 1)
    y = np.minimum(codes, n_classes - 1)
    meta = HierarchicalLogisticClassifier(covariance="full", tol=1e-3)
    meta.fit(TaskSet(list(zip(X, y, strict=True))))
    for rows in (slice(None), slice(1)):
        far = X[0].copy()
        far[rows] *= scale
        proba = meta.adapt(far, y[0]).predict_proba(X[0])
        np.testing.assert_allclose(proba.sum(1), 1)
        new = TaskSet([(far, y[0]), (X[1], y[1])])
        assert 0 <= meta.set_params(n_shot=8).score(new) <= 1


@WAYS
def test_one_row_far_from_all_others_is_trained_on(n_classes):
    tasks = labelled(40, 12, n_classes)
    far = tasks[0].X.copy()
    far[0] *= 1e9
    moved = TaskSet([(far, tasks[0].y), *((t.X, t.y) for t in tasks[1:])])
    meta = HierarchicalLogisticClassifier(normalize_x=False).fit(moved)
    assert np.isfinite(meta.log_likelihood_)


@WAYS
def test_numbers_that_are_not_finite_are_refused(n_classes):
    tasks = labelled(30, 8, n_classes)
    meta = HierarchicalLogisticClassifier().fit(tasks)
    X, y = tasks[0].X, tasks[0].y
    match = r"gave numbers that are not finite .*\. Check the scale of X\."
    with pytest.raises(MetaTrainingError, match=f"Adapting to these rows {match}"):
        meta.adapt(X * 1e300, y)
    model = meta.adapt(X, y)
    with pytest.raises(MetaTrainingError, match=match):
        model.predict(X * 1e300)
    new = TaskSet([(X, y), (X * 1e300, y)])
    with pytest.raises(MetaTrainingError, match=f"Task 1: adapting .*{match}"):
        meta.score(new)
    with pytest.raises(MetaTrainingError, match=f"Task 1: .*{match}"):
        meta.predict_tasks(TaskSet([(X, y)] * 2), [X, X * 1e300])


def test_training_that_is_not_finite_names_the_task(monkeypatch):
    def spoilt(block, beta, factor, start):
        raise _laplace.NotFiniteError(7)

    monkeypatch.setattr(_laplace.Block, "modes", spoilt)
    match = r"Task 7: meta-training gave numbers that are not finite .* scale of X"
    with pytest.raises(MetaTrainingError, match=match):
        HierarchicalLogisticClassifier().fit(labelled(10, 5))


def test_one_task_is_refused():
    with pytest.raises(ValueError, match=r"needs at least 2 tasks .* got 1 task"):
        HierarchicalLogisticClassifier().fit(labelled(1, 10))


def test_without_rows_the_prior_is_predicted(fitted):
    meta, new = fitted
    X = new[0].X[:4]
    model = meta.adapt()
    assert model.classes_.tolist() == meta.classes_.tolist()
    rng = np.random.default_rng(0)
    n_sets = len(meta.intercept_)
    draws = []
    for _ in range(20_000 // 4):
        own = [rng.multivariate_normal(np.zeros(3), part) for part in meta.covariance_]
        own = np.column_stack([meta.intercept_, meta.coef_]) + own
        logits = np.column_stack([np.ones(4), X]) @ own.T
        if n_sets == 1:
            logits = np.column_stack([np.zeros(4), logits])
        draws.append(softmax(logits, axis=1))
    found = meta.predict_proba(X)
    np.testing.assert_allclose(found, np.mean(draws, 0), atol=0.02)
    np.testing.assert_array_equal(model.predict_proba(X), found)
    labels = meta.classes_[found.argmax(1)]
    np.testing.assert_array_equal(model.predict(X), labels)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(X), found)


def test_estimates_far_from_convergence_are_warned_of(monkeypatch):
    monkeypatch.setattr("sklmeta.closed_form._laplace.ITERATIONS", 1)
    with pytest.warns(UserWarning, match="has not converged to tol=1e-05"):
        HierarchicalLogisticClassifier().fit(labelled(20, 10))
