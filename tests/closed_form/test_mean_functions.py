"""Prior means by regressors: what they are fitted on, and what they predict."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklmeta import DeepKernelRegressor, MetaTrainingError, TaskSet
from sklmeta.closed_form._mean_functions import BesideMeans, FoldedMean

N_ROWS = 6
QUICK = {"max_iter": 3, "batch_size": 4, "random_state": 0}
FITTED_ON = []
PREDICTED = []


class Spy(RegressorMixin, BaseEstimator):
    """Notes the tasks, in the second column, that it is fitted on and predicts."""

    def fit(self, X, y):
        self.tasks_ = set(X[:, 1].tolist())
        self.mean_ = np.mean(y, axis=0)
        FITTED_ON.append(self.tasks_)
        return self

    def predict(self, X):
        PREDICTED.append((self.tasks_, set(X[:, 1].tolist())))
        return np.full((len(X), *np.shape(self.mean_)), self.mean_)


def numbered(n_tasks, n_outputs=None, first=0):
    """Tasks whose number is their second feature, and the level of their targets."""
    rng = np.random.default_rng(0)
    numbers = np.arange(first, first + n_tasks, dtype=float)
    X = rng.normal(size=(n_tasks, N_ROWS, 2))
    X[..., 1] = numbers[:, None]
    y = numbers[:, None] + 0.1 * rng.normal(size=(n_tasks, N_ROWS))
    if n_outputs:
        y = np.stack([y * 10**output for output in range(n_outputs)], -1)
    return TaskSet(list(zip(X, y, strict=True)))


@pytest.fixture
def spied():
    FITTED_ON.clear()
    PREDICTED.clear()
    options = {"normalize_x": False, "n_shot": 3, **QUICK}
    return DeepKernelRegressor("identity", mean=Spy(), **options)


def test_no_meta_training_row_is_predicted_by_who_has_seen_its_task(spied):
    spied.fit(numbered(12))
    everything = set(map(float, range(12)))
    assert len(FITTED_ON) == 6 and FITTED_ON[-1] == everything
    predicted = set()
    for seen, asked in PREDICTED:
        assert not seen & asked
        predicted |= asked
    assert predicted == everything
    # Each task is left out once.
    left_out = [number for seen in FITTED_ON[:-1] for number in everything - seen]
    assert sorted(left_out) == sorted(everything)


def test_new_tasks_are_predicted_by_who_has_seen_all(spied):
    spied.fit(numbered(12))
    PREDICTED.clear()
    new = numbered(1, first=50)[0]
    spied.adapt(new.X[:3], new.y[:3]).predict(new.X[3:])
    spied.score(numbered(3, first=60))
    assert PREDICTED
    assert all(len(seen) == 12 and min(asked) >= 50 for seen, asked in PREDICTED)


def test_going_on_learning_stays_out_of_fold_and_fits_no_further_mean(spied):
    tasks = numbered(12)
    spied.fit(tasks)
    n_fitted = len(FITTED_ON)
    PREDICTED.clear()
    spied.partial_fit(tasks)
    assert len(FITTED_ON) == n_fitted
    assert PREDICTED and not any(seen & asked for seen, asked in PREDICTED)


@pytest.mark.parametrize("n_tasks", [2, 3, 12])
def test_residuals_are_those_of_new_tasks(n_tasks):
    """A task's level is no one else's to know: out of fold, it is missed."""
    tasks = numbered(n_tasks)
    X, y = tasks.rows().X, tasks.rows().y
    names = np.repeat(tasks.names, N_ROWS).tolist()
    folded = FoldedMean.learn(Spy(), X, y, names, seed=0)
    assert len(folded.of_others) == min(5, n_tasks)
    found = folded.predict(X, names)
    for task, name in enumerate(tasks.names):
        others = [n for n in tasks.names if folded.folds[n] != folded.folds[name]]
        expected = y[np.isin(names, others)].mean()
        np.testing.assert_allclose(found[N_ROWS * task], expected)


def test_several_outputs_keep_their_units():
    tasks = numbered(10, n_outputs=2)
    meta = DeepKernelRegressor(mean=LinearRegression(), **QUICK).fit(tasks)
    new = numbered(1, n_outputs=2, first=4)[0]
    found = meta.adapt().predict(new.X)
    constant = meta.learner_.constant.detach().numpy() * meta._preparation.y_scale
    expected = meta._preparation.mean.of_all.predict(new.X) + constant
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert meta.adapt(new.X, new.y).predict(new.X).shape == (N_ROWS, 2)


def test_regressors_that_draw_are_seeded_where_they_are_not():
    X = np.random.default_rng(0).normal(size=(40, 2))
    names = np.repeat(range(4), 10).tolist()
    forest = RandomForestRegressor(n_estimators=3)
    for regressor in (forest, make_pipeline(StandardScaler(), forest)):
        one, other, another = (
            FoldedMean.learn(regressor, X, X[:, 0], names, seed).predict(X, None)
            for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(one, other)
        assert np.abs(one - another).max() > 1e-3
    own = RandomForestRegressor(n_estimators=3, random_state=7)
    kept = FoldedMean.learn(own, X, X[:, 0], names, seed=0)
    assert kept.of_all.random_state == 7
    assert forest.random_state is None


def test_columns_of_means_pass_beside_the_backbone():
    net = nn.Linear(3, 2)
    x = torch.arange(10.0).reshape(2, 5)
    found = BesideMeans(net, 2)(x)
    torch.testing.assert_close(found[:, :2], net(x[:, :3]))
    torch.testing.assert_close(found[:, 2:], x[:, 3:])


class Indefinite(nn.Module):
    """No covariance at all for rows far from the origin."""

    def __init__(self, n_features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, a, b):
        far = (a.abs().amax(-1) > 20).unsqueeze(-1) & (b.abs().amax(-1) > 20)[:, None]
        return torch.where(far, -9.0, (a @ b.mT) * 0 + 1.0) * self.scale.to(a.dtype)

    def diagonal(self, a):
        return self.scale.to(a.dtype).expand(a.shape[:2])


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_task_without_a_covariance_is_named_beside_a_mean(early_stopping):
    options = {"normalize_x": False, "n_shot": 3, **QUICK, "max_iter": 20}
    meta = DeepKernelRegressor(
        "identity",
        kernel=Indefinite,
        mean=LinearRegression(),
        early_stopping=early_stopping,
        **options,
    )
    tasks = numbered(12, first=9)
    assert meta.fit(tasks).score(tasks) < 1
    with pytest.raises(MetaTrainingError, match="covariance of task 2 is not"):
        meta.fit(tasks[:2] + numbered(1, first=30) + tasks[2:])
    with pytest.raises(MetaTrainingError, match="covariance of task 2 is not"):
        meta.partial_fit(tasks[:2] + numbered(1, first=30) + tasks[2:])


class Odd(RegressorMixin, BaseEstimator):
    """Predicts what it is told, for each row."""

    def __init__(self, value=0.0):
        self.value = value

    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.full((len(X), *np.shape(self.value)), self.value)


@pytest.mark.parametrize(
    ("value", "n_outputs", "message"),
    [
        (np.nan, None, r"mean=Odd.* finite numbers; got \[nan\] for a row of task"),
        ((1.0, 2.0), None, r"mean=Odd.*, \(\d+, 1\); got .* shape \(\d+, 2\)"),
        (1.0, 2, r"mean=Odd.*, \(\d+, 2\); got .* shape \(\d+,\)"),
    ],
)
def test_odd_predictions_are_refused_in_terms_of_mean(value, n_outputs, message):
    meta = DeepKernelRegressor("identity", mean=Odd(value), n_shot=3, **QUICK)
    with pytest.raises(ValueError, match=message):
        meta.fit(numbered(6, n_outputs))
