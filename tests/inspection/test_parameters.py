"""Score against a parameter of adapting: `evaluate` on copies, drawn."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from sklmeta import (
    MAMLRegressor,
    PerTaskRegressor,
    PooledRegressor,
    ProtoNetClassifier,
)
from sklmeta.datasets import make_sinusoids
from sklmeta.inspection import ParameterCurveDisplay
from sklmeta.model_selection import evaluate

from_estimator = ParameterCurveDisplay.from_estimator


def means(estimator, tasks, name, values, **protocol):
    """Return the mean that `evaluate` finds with each value; puts the first back."""
    before, found = estimator.get_params()[name], []
    for value in values:
        estimator.set_params(**{name: value})
        summary = evaluate(estimator, tasks, **protocol).summary()
        found.append(summary["mean"].iloc[0])
    estimator.set_params(**{name: before})
    return found


def test_scores_are_those_of_evaluate_with_each_value(maml, waves, untouched):
    maml.adapt(waves[0].X, waves[0].y)
    with untouched(maml):
        display = from_estimator(maml, waves, param_range=[0, 3, 20], n_shot=4)
    expected = means(maml, waves, "inner_steps", [0, 3, 20], n_shot=4)
    np.testing.assert_allclose(display.mean, [expected])
    assert len({*display.mean[0]}) == 3
    with untouched(maml):
        display = from_estimator(
            maml, waves, param_name="inner_lr", param_range=(0.01, 0.02), metric="r2"
        )
    expected = means(maml, waves, "inner_lr", [0.01, 0.02], metric="r2")
    np.testing.assert_allclose(display.mean, [expected])
    assert display.ax_.get_ylabel() == "R², mean and 95 % interval"
    assert display.ax_.get_xlabel() == "inner_lr"


def test_what_is_drawn_is_what_was_computed(maml, waves, texts):
    longer = maml._own_copy().set_params(inner_lr=0.02)
    display = ParameterCurveDisplay.from_estimators(
        {"a": maml, "b": longer}, waves, param_range=[0, 1, 2, 50]
    )
    for i in range(2):
        x, y = display.lines_[i].get_data()
        assert np.array_equal(x, [0, 1, 2, 50])
        assert np.array_equal(y, display.mean[i])
        corners = display.bands_[i].get_paths()[0].vertices
        assert set(corners[:, 1]) == {*display.low[i], *display.high[i]}
    assert display.mean[0, 0] == display.mean[1, 0]
    assert display.mean[0, 3] != display.mean[1, 3]
    assert texts(display.legend_) == ["a", "b", "in meta-training (3)"]
    assert set(display.trained_line_.get_xdata()) == {3}
    assert display.ax_.get_xscale() == "symlog"
    ticks = [tick.get_text() for tick in display.ax_.get_xticklabels()]
    assert ticks == ["0", "1", "2", "50"]


def test_the_value_in_meta_training_is_drawn_where_it_says_something(maml, waves):
    changed = maml._own_copy().set_params(inner_steps=7)
    display = from_estimator(changed, waves, param_range=[1, 4])
    assert display.trained_value == 3, "what it is set to now is something else"
    display = from_estimator(maml, waves, param_range=[4, 5])
    assert display.trained_value == 3
    assert display.trained_line_ is None
    other = MAMLRegressor(inner_steps=1, max_iter=1).fit(make_sinusoids(5))
    display = ParameterCurveDisplay.from_estimators(
        {"a": maml, "b": other}, waves, param_range=[1, 4]
    )
    assert display.trained_value is None
    assert display.trained_line_ is None


def test_values_that_are_no_numbers_are_points_with_bars(protonet, digits):
    values = ["cosine", "sqeuclidean"]
    protocol = {"n_shot": 1, "n_query": 5, "n_way": 3, "n_episodes": 20}
    display = from_estimator(
        protonet, digits, param_name="metric", param_range=values, **protocol
    )
    expected = means(protonet, digits, "metric", values, **protocol)
    np.testing.assert_allclose(display.mean, [expected])
    assert display.lines_[0].get_linestyle() == "None"
    ends = [[y for _, y in bar] for bar in display.bands_[0].get_segments()]
    np.testing.assert_allclose(ends, np.stack([display.low[0], display.high[0]], 1))
    ticks = [tick.get_text() for tick in display.ax_.get_xticklabels()]
    assert ticks == values
    assert display.trained_line_ is None


def test_pipelines_know_the_last_steps_parameter_by_both_names(
    pipeline, waves, untouched
):
    full_name = "mamlregressor__inner_steps"
    expected = means(pipeline, waves, full_name, [0, 9], n_shot=3)
    for name in ("inner_steps", full_name):
        with untouched(pipeline, pipeline.steps[-1][1]):
            display = from_estimator(
                pipeline, waves, param_name=name, param_range=[0, 9], n_shot=3
            )
        np.testing.assert_allclose(display.mean, [expected])
        assert display.trained_value == 5
        assert display.names == ["MAMLRegressor"]


def test_searches_and_stock_pipelines(maml, waves):
    expected = means(maml, waves, "inner_steps", [0, 9])
    search = GridSearchCV(
        MAMLRegressor(max_iter=1), {"inner_steps": [2, 4]}, cv=2, error_score="raise"
    ).fit(make_sinusoids(8, random_state=0))
    search.best_estimator_ = maml
    found = from_estimator(search, waves, param_range=[0, 9]).mean
    np.testing.assert_allclose(found, [expected])
    scaler = StandardScaler(with_mean=False, with_std=False).fit(waves[0].X)
    stock = make_pipeline(scaler, maml)
    found = from_estimator(stock, waves, param_range=[0, 9]).mean
    np.testing.assert_allclose(found, [expected], rtol=1e-6)
    assert stock.steps[-1][1] is maml
    assert maml.inner_steps == 3


def test_parameters_of_a_baselines_estimator(waves, untouched):
    baseline = PerTaskRegressor(SVR()).fit(make_sinusoids(5, random_state=0))
    with untouched(baseline, baseline.estimator):
        display = from_estimator(
            baseline, waves, param_name="estimator__C", param_range=[0.01, 100]
        )
    expected = means(baseline, waves, "estimator__C", [0.01, 100])
    np.testing.assert_allclose(display.mean, [expected])
    assert expected[0] > expected[1]
    pooled = PooledRegressor(SVR()).fit(make_sinusoids(5, random_state=0))
    with pytest.raises(ValueError, match="when adapting; it has none that does"):
        from_estimator(pooled, waves, param_name="estimator__C", param_range=[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("outer_lr", "'outer_lr' is no parameter of MAMLRegressor that acts when adap"),
        ("inner_step", "those that do are inner_lr, inner_steps"),
        ("n_shot", "for a curve over n_shot see ShotCurveDisplay"),
    ],
)
def test_refused_parameters(maml, waves, name, message):
    with pytest.raises(ValueError, match=message):
        from_estimator(maml, waves, param_name=name)


def test_refused_values(maml, waves, pipeline):
    with pytest.raises(ValueError, match="param_range is empty"):
        from_estimator(maml, waves, param_range=[])
    with pytest.raises(TypeError, match="param_range must be several values"):
        from_estimator(maml, waves, param_range=3)
    with pytest.raises(ValueError, match=r"inner_steps=-1.*inner_steps == -1"):
        from_estimator(maml, waves, param_range=[1, -1])
    with pytest.raises(ValueError, match="mamlregressor__inner_lr"):
        from_estimator(pipeline, waves, param_name="standardscaler__with_mean")


def test_refused_estimators(waves, digits):
    with pytest.raises(NotFittedError, match="MAMLRegressor instance is not fitted"):
        from_estimator(MAMLRegressor(), waves)
    search = GridSearchCV(MAMLRegressor(), {"inner_steps": [2, 4]})
    with pytest.raises(NotFittedError, match="GridSearchCV instance is not fitted"):
        from_estimator(search, waves)
    search = GridSearchCV(
        ProtoNetClassifier("identity"), {"metric": ["cosine"]}, cv=2, refit=False
    ).fit(digits)
    with pytest.raises(NotFittedError, match="refit=False and keeps no best_estimator"):
        from_estimator(search, digits)
