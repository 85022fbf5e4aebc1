"""One-dimensional adaptation: predictions of adapted copies, and the rows."""

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.inspection import DecisionBoundaryDisplay
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from sklmeta import (
    MAMLRegressor,
    PerTaskRegressor,
    ProtoNetClassifier,
    Task,
    TaskSet,
)
from sklmeta.datasets import make_sinusoids
from sklmeta.inspection import AdaptationDisplay
from sklmeta.model_selection._protocol import EpisodeProtocol

from_estimator = AdaptationDisplay.from_estimator


@pytest.fixture(scope="module")
def calibrated(waves):
    """A task that says which rows to adapt to, and those rows."""
    X, y = waves[0].X, waves[0].y
    support = np.arange(len(y)) % 4 == 0
    return Task(X, y, "wave", support=support), X[support], y[support]


def test_predictions_are_those_before_and_after_adapting(maml, calibrated, untouched):
    task, X, y = calibrated
    maml.adapt(task.X, task.y)
    with untouched(maml):
        display = from_estimator(maml, task, grid_resolution=50)
    grid = np.linspace(task.X.min(), task.X.max(), 50)
    np.testing.assert_allclose(display.x_grid, grid)
    after = maml._adapted_to(X, y).predict(grid[:, None])
    unadapted = maml._own_copy().set_params(inner_steps=0)
    before = unadapted._adapted_to(X, y).predict(grid[:, None])
    np.testing.assert_allclose(display.predictions, [before, after], rtol=1e-5)
    assert not np.allclose(before, after)
    assert display.names == ["before adapting", "after adapting"]


def test_what_is_drawn_is_the_task_and_the_predictions(maml, calibrated, texts):
    task, X, y = calibrated
    display = from_estimator(maml, task)
    drawn = display.support_points_.get_offsets()
    expected = np.stack([X[:, 0], y], axis=1)
    np.testing.assert_allclose(sorted(drawn.tolist()), sorted(expected.tolist()))
    others = display.query_points_.get_offsets()
    assert len(drawn) + len(others) == len(task)
    for line, predicted in zip(display.lines_, display.predictions, strict=True):
        assert np.array_equal(line.get_data(), [display.x_grid, predicted])
    assert texts(display.legend_) == [
        f"support rows ({len(y)})",
        "query rows",
        "before adapting",
        "after adapting",
    ]
    assert display.ax_.get_xlabel() == "x"
    assert display.figure_ is display.ax_.figure


def test_support_rows_are_those_that_evaluate_takes_first(maml, waves):
    """Whether the task is taken by an int or a slice, or has a name."""
    named = TaskSet([Task(one.X, one.y, f"wave {one.name}") for one in waves])
    for tasks in (waves, named):
        drawn = EpisodeProtocol(n_shot=3, random_state=4).draw(tasks, False)
        first = np.flatnonzero((drawn.task == 7) & (drawn.number == 0))[0]
        expected = drawn.rows.X[drawn.support_rows(first), 0]
        for task in (tasks[7], tasks[7:8]):
            display = from_estimator(maml, task, n_shot=3, random_state=4)
            assert display.x_support.tolist() == expected.tolist()
    display = from_estimator(maml, waves[7], n_shot=3, support_order="first")
    assert display.x_support.tolist() == waves[7].X[:3, 0].tolist()
    assert sorted(display.x_query.tolist()) == sorted(waves[7].X[3:, 0].tolist())


def test_several_estimators_adapt_to_the_same_rows(
    maml, pipeline, calibrated, texts, untouched
):
    task, X, y = calibrated
    stock = make_pipeline(StandardScaler(with_mean=False).fit(3 * X), maml)
    methods = {"MAML": maml, "pipeline": pipeline, "stock": stock}
    with untouched(maml, pipeline, stock):
        display = AdaptationDisplay.from_estimators(methods, task)
    grid = display.x_grid[:, None]
    scaled = stock[0].transform
    expected = [
        maml._adapted_to(X, y).predict(grid),
        pipeline._adapted_to(X, y).predict(grid),
        maml._adapted_to(scaled(X), y).predict(scaled(grid)),
    ]
    np.testing.assert_allclose(display.predictions, expected, rtol=1e-4, atol=1e-5)
    assert texts(display.legend_)[2:] == list(methods)
    assert len({line.get_color() for line in display.lines_}) == 3


def test_pipelines_have_predictions_before_adapting(pipeline, calibrated):
    assert from_estimator(pipeline, calibrated[0]).names[0] == "before adapting"
    display = from_estimator(pipeline, calibrated[0], show_before=False)
    assert display.names == ["after adapting"]


def test_learners_without_steps_show_predictions_after_adapting(calibrated):
    task, X, y = calibrated
    baseline = PerTaskRegressor(SVR()).fit(make_sinusoids(5))
    display = from_estimator(baseline, task)
    assert display.names == ["after adapting"]
    expected = SVR().fit(X, y).predict(display.x_grid[:, None])
    np.testing.assert_allclose(display.predictions, [expected])


def test_columns_name_the_axis(waves, small_net):
    frames = TaskSet(
        [(pd.DataFrame({"hours": one.X[:, 0]}), one.y) for one in waves[:6]]
    )
    meta = MAMLRegressor(small_net, max_iter=2).fit(frames)
    display = from_estimator(meta, frames[5])
    assert display.ax_.get_xlabel() == "hours"
    assert display.feature_name == "hours"


def test_names_and_axes_can_be_given(maml, waves, pyplot, texts):
    _, ax = pyplot.subplots()
    display = from_estimator(maml, waves[0], name=["0", "3"], ax=ax, linewidth=3)
    assert display.ax_ is ax
    assert texts(display.legend_)[2:] == ["0", "3"]
    assert {line.get_linewidth() for line in display.lines_} == {3}
    with pytest.raises(ValueError, match="name holds 1 names for 2 curves"):
        display.plot(name="one")


def test_scikit_learn_draws_the_regions_of_two_features(small_net):
    """What the refusal of classifiers and the docstring point to."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(120, 2)), np.tile(["a", "b", "c"], 40)
    X += 3 * np.stack([y == "a", y == "b"], axis=1)
    tasks = TaskSet.from_arrays(X, y, np.arange(120) // 30)
    meta = ProtoNetClassifier(small_net, max_iter=5, random_state=0).fit(tasks[:3])
    model = meta.adapt(tasks[3].X[:9], tasks[3].y[:9])
    display = DecisionBoundaryDisplay.from_estimator(
        model, X, response_method="predict"
    )
    assert len(np.unique(display.response)) == 3
    with pytest.raises(TypeError, match="scikit-learn's DecisionBoundaryDisp"):
        from_estimator(meta, tasks[3])


def test_refusals(maml, protonet, waves, digits):
    X, y = np.zeros((8, 2)), np.arange(8.0)
    with pytest.raises(ValueError, match=r"of one feature.*have shape \(2,\)"):
        from_estimator(maml, (X, y))
    with pytest.raises(ValueError, match="of one output, and those of this task have"):
        from_estimator(maml, (X[:, :1], np.stack([y, y], axis=1)))
    with pytest.raises(TypeError, match=r"draws one task, got TaskSet\(12 tasks"):
        from_estimator(maml, waves)
    with pytest.raises(TypeError, match="ProtoNetClassifier is no regressor"):
        from_estimator(protonet, waves[0])
    with pytest.raises(NotFittedError, match="MAMLRegressor instance is not fitted"):
        from_estimator(MAMLRegressor(), waves[0])
    with pytest.raises(ValueError, match="grid_resolution"):
        from_estimator(maml, waves[0], grid_resolution=1)
