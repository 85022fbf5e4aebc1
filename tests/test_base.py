"""The contract needs no torch: a closed-form learner has all of it from the base class.

Its rows and targets are prepared as those of torch learners; what it adds is `fit` and
the model of one task.
"""

import copy

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from sklmeta import FewShotRegressor, MetaTrainingError, Task, TaskSet, _leakage
from sklmeta._preparation import Preparation, Settings
from sklmeta.base import BaseMetaLearner, MetaRegressorMixin
from sklmeta.datasets import make_sinusoids
from sklmeta.tasks import as_tasks
from sklmeta.utils.learner_checks import check_meta_learner


class Line:
    """Posterior mean of a task's coefficients under a normal prior."""

    def __init__(self, preparation, coefficients):
        self.preparation = preparation
        self.coefficients = coefficients

    def predict(self, X):
        outputs = with_constant(self.preparation.features(X)) @ self.coefficients
        return self.preparation.decode_targets(outputs)


class LinesRegressor(MetaRegressorMixin, BaseMetaLearner):
    """Lines whose coefficients are drawn from a normal distribution over tasks."""

    _adaptation_parameters = ("noise",)

    def __init__(
        self,
        noise=1.0,
        n_way=None,
        n_shot=5,
        support_order="random",
        small_tasks="shrink",
        random_state=None,
    ):
        self.noise = noise
        self.n_way = n_way
        self.n_shot = n_shot
        self.support_order = support_order
        self.small_tasks = small_tasks
        self.random_state = random_state

    def fit(self, X, y=None, *, groups=None):
        tasks = as_tasks(X, y, groups)
        if not isinstance(tasks, TaskSet) and hasattr(tasks, "sample"):
            tasks = tasks.sample(200, 0)
        preparation = Preparation.learn(Settings(type(self).__name__, False), tasks)
        pool = preparation.pool(tasks, "cpu")
        x, targets = with_constant(pool.x.double().numpy()), pool.y.double().numpy()
        lines = np.stack(
            [
                Ridge(1e-3, fit_intercept=False).fit(x[a:b], targets[a:b]).coef_
                for a, b in zip(pool.offsets, pool.offsets[1:], strict=False)
            ]
        ).reshape(len(tasks), -1, x.shape[1])  # (T, n_outputs, F + 1)
        self._keep_learned(preparation, _leakage.fingerprints(tasks))
        self.mean_ = lines.mean(0).T
        spread = (lines - lines.mean(0)).reshape(-1, x.shape[1])
        self.precision_ = np.linalg.inv(
            spread.T @ spread / len(spread) + 1e-6 * np.eye(x.shape[1])
        )
        return self

    def _adapted_model(self, X, y, classes):
        x = with_constant(self._preparation.features(X).astype(np.float64))
        rest = self._preparation.encode_targets(y) - x @ self.mean_
        gram = x.T @ x + self.noise * self.precision_
        coefficients = self.mean_ + np.linalg.solve(gram, x.T @ rest)
        return Line(self._preparation, coefficients)


def with_constant(x):
    return np.concatenate([x, np.ones((len(x), 1))], 1)


@pytest.fixture(scope="module")
def lines():
    """Return a learner of lines, and tasks it has not seen."""
    return LinesRegressor().fit(related(30)), related(6, seed=1)


def related(n_tasks, seed=0):
    rng = np.random.default_rng(seed)
    tasks = []
    for t in range(n_tasks):
        X = rng.normal(size=(12, 3))
        slopes = np.array([1.0, -2.0, 0.0]) + 0.1 * rng.normal(size=3)
        y = X @ slopes + rng.normal() + 0.1 * rng.normal(size=12)
        tasks.append(Task(X, y, f"line {seed}.{t}"))
    return TaskSet(tasks)


def test_a_learner_without_torch_passes_every_check():
    check_meta_learner(LinesRegressor())


def test_it_borrows_strength_from_the_other_tasks(lines):
    meta, new = lines
    alone = [Ridge(1e-3).fit(t.X[:3], t.y[:3]).predict(t.X[3:]) for t in new]
    supports = TaskSet([(t.X[:3], t.y[:3]) for t in new])
    together = meta.predict_tasks(supports, [t.X[3:] for t in new])
    errors = [
        np.mean([(p - t.y[3:]) ** 2 for p, t in zip(predictions, new, strict=True)])
        for predictions in (together, alone)
    ]
    assert errors[0] < 0.5 * errors[1]
    for t, predictions in zip(new, together, strict=True):
        model = meta.adapt(t.X[:3], t.y[:3])
        np.testing.assert_array_equal(model.predict(t.X[3:]), predictions)


def test_parameters_are_the_few_shot_estimators_own(lines):
    meta, new = lines
    X, y = new[0].X, new[0].y
    few_shot = FewShotRegressor(meta)
    stiff = clone(few_shot).set_params(meta__noise=1e9).fit(X, y)
    assert meta.noise == 1.0
    prior = Line(meta._preparation, meta.mean_).predict(X)
    np.testing.assert_allclose(stiff.predict(X), prior, rtol=1e-3)
    assert few_shot.fit(X, y).score(X, y) > stiff.score(X, y)
    assert few_shot.meta_ is not meta
    assert few_shot.meta_.mean_ is meta.mean_


def test_score_is_a_loop_that_leaves_the_adapted_model_alone(lines):
    meta, new = copy.deepcopy(lines[0]), lines[1]
    mask = np.arange(12) < 4
    fixed = TaskSet([Task(t.X, t.y, t.name, support=mask) for t in new])
    errors = squares = 0.0
    for task in new:
        rest = task.y[4:]
        predictions = meta.adapt(task.X[:4], task.y[:4]).predict(task.X[4:])
        errors += ((predictions - rest) ** 2).sum()
        squares += ((rest - rest.mean()) ** 2).sum()
    model = meta.adapted_
    assert meta.score(fixed) == pytest.approx(1 - errors / squares)
    assert meta.adapted_ is model
    with pytest.raises(ValueError, match="sample_weight is not supported"):
        meta.score(fixed, sample_weight=np.ones(6))


def test_errors_of_one_task_begin_with_its_name(lines):
    class Fails(LinesRegressor):
        def _adapted_model(self, X, y, classes):
            if len(X) == 2:
                raise MetaTrainingError("two rows are not enough.")
            if len(X) == 4:
                raise TypeError("four are odd.")
            return super()._adapted_model(X, y, classes)

    meta = Fails().fit(related(30))
    supports = [Task(t.X[:3], t.y[:3], t.name) for t in lines[1]]
    for n_rows, kind in ((2, MetaTrainingError), (4, TypeError)):
        odd = lines[1][2]
        tasks = [*supports[:2], Task(odd.X[:n_rows], odd.y[:n_rows], "odd")]
        with pytest.raises(kind, match=r"^Task 'odd': (two rows|four are)"):
            meta.predict_tasks(tasks, [t.X for t in tasks])


def test_nothing_is_answered_before_fit():
    meta = LinesRegressor()
    calls = [
        lambda: meta.adapt([[0.0]], [0.0]),
        lambda: meta.predict([[0.0]]),
        lambda: meta.score(related(2)),
        lambda: meta.predict_tasks(related(2), [[[0.0] * 3]] * 2),
    ]
    for call in calls:
        with pytest.raises(NotFittedError):
            call()
    with pytest.raises(NotFittedError, match="not adapted to a task yet"):
        meta.fit(related(5)).predict(np.zeros((1, 3)))


def test_tasks_of_another_kind_are_refused(lines):
    with pytest.raises(ValueError, match="X has 1 features, but LinesRegressor"):
        lines[0].score(make_sinusoids(3, random_state=0))
