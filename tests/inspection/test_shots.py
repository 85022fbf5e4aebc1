"""Score against shots: the numbers of `evaluate`, drawn."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from sklmeta import MAMLRegressor
from sklmeta.inspection import ShotCurveDisplay
from sklmeta.model_selection import evaluate

PROTOCOL = {"n_query": 8, "n_episodes": 2, "random_state": 3}


@pytest.fixture(scope="module")
def both(maml, pipeline):
    return {"MAML": maml, "scaled first": pipeline}


def test_scores_and_intervals_are_those_of_evaluate(both, waves):
    display = ShotCurveDisplay.from_estimators(
        both, waves, n_shots=[10, 2], metric="mae", confidence=0.8, **PROTOCOL
    )
    assert display.n_shots.tolist() == [2, 10]
    for row, estimator in enumerate(both.values()):
        for column, n_shot in enumerate([2, 10]):
            found = evaluate(
                estimator,
                waves,
                n_shot=n_shot,
                metric="mae",
                confidence=0.8,
                **PROTOCOL,
            ).summary()
            expected = found.loc["mae", ["mean", "low", "high"]].to_numpy(float)
            drawn = [getattr(display, name)[row, column] for name in ("mean", "low")]
            np.testing.assert_allclose(drawn, expected[:2])
            np.testing.assert_allclose(display.high[row, column], expected[2])


def test_what_is_drawn_is_what_was_computed(both, waves, texts):
    display = ShotCurveDisplay.from_estimators(
        both, waves, n_shots=[1, 5, 12], **PROTOCOL
    )
    ax = display.ax_
    assert display.figure_ is ax.figure
    for i in range(2):
        x, y = display.lines_[i].get_data()
        assert np.array_equal(x, [1, 5, 12])
        assert np.array_equal(y, display.mean[i])
        corners = display.bands_[i].get_paths()[0].vertices
        bounds = {*display.low[i], *display.high[i]}
        assert set(corners[:, 1]) == bounds
    assert texts(display.legend_) == ["MAML", "scaled first"]
    assert ax.get_xlabel() == "Shots (n_shot)"
    assert ax.get_ylabel() == "RMSE, mean and 95 % interval"
    ticks = [tick.get_text() for tick in ax.get_xticklabels()]
    assert ticks == ["1", "5", "12"]
    assert ax.get_xscale() == "log"
    colors = {line.get_color() for line in display.lines_}
    markers = {line.get_marker() for line in display.lines_}
    assert len(colors) == len(markers) == 2
    assert "None" not in markers


def test_one_estimator_is_one_row_and_named_by_its_class(maml, pipeline, waves, texts):
    both = {"a": maml, "b": pipeline}
    together = ShotCurveDisplay.from_estimators(both, waves, n_shots=[3], **PROTOCOL)
    for row, (estimator, name) in enumerate(
        [(maml, None), (pipeline, None), (maml, "mine")]
    ):
        alone = ShotCurveDisplay.from_estimator(
            estimator, waves, n_shots=[3], name=name, **PROTOCOL
        )
        np.testing.assert_allclose(alone.mean, together.mean[[row % 2]])
        assert texts(alone.legend_) == [name or "MAMLRegressor"]


def test_shots_are_counted_per_class_of_a_pool(protonet, digits):
    display = ShotCurveDisplay.from_estimator(
        protonet, digits, n_shots=(1, 5), n_way=3, n_query=10, n_episodes=30
    )
    assert display.metric_name == "accuracy"
    assert display.ax_.get_ylabel() == "Accuracy, mean and 95 % interval"
    one, five = display.mean[0]
    assert 1 / 3 < one < five
    found = evaluate(protonet, digits, n_shot=5, n_way=3, n_query=10, n_episodes=30)
    assert five == found.summary().loc["accuracy", "mean"]


def test_estimators_are_left_as_they_are(both, waves, untouched, maml):
    adapted = maml.adapt(waves[0].X, waves[0].y)
    with untouched(*both.values()):
        ShotCurveDisplay.from_estimators(both, waves, n_shots=[1, 5])
    assert maml.adapted_ is adapted


def test_a_display_can_be_drawn_again(maml, waves, pyplot, texts):
    display = ShotCurveDisplay.from_estimator(maml, waves, n_shots=[1, 5])
    _, (left, right) = pyplot.subplots(1, 2)
    again = display.plot(right, name="again", linewidth=5, band_kw={"alpha": 0.5})
    assert again is display
    assert display.ax_ is right
    assert not left.lines
    assert display.lines_[0].get_linewidth() == 5
    assert display.bands_[0].get_alpha() == 0.5
    assert texts(display.legend_) == ["again"]


def test_displays_share_axes(maml, pipeline, waves, texts):
    first = ShotCurveDisplay.from_estimator(maml, waves, n_shots=[1, 5])
    second = ShotCurveDisplay.from_estimator(
        pipeline, waves, n_shots=[1, 5], name="other", ax=first.ax_
    )
    assert second.ax_ is first.ax_
    assert first.lines_[0].get_color() != second.lines_[0].get_color()
    assert texts(second.legend_) == ["MAMLRegressor", "other"]


def test_intervals_of_one_task_are_not_drawn(maml, waves):
    display = ShotCurveDisplay.from_estimator(maml, waves[:1], n_shots=[1, 5])
    assert np.isfinite(display.mean).all()
    assert np.isnan(display.low).all()
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_shots": []}, ValueError, "n_shots is empty"),
        ({"n_shots": 5}, TypeError, "n_shots must be several values, .* got 5"),
        ({"n_shots": [0, 1]}, ValueError, "n_shots"),
        ({"n_shots": [1.5]}, TypeError, "n_shots"),
        ({"metric": ["mae", "rmse"]}, TypeError, "must be one metric"),
        ({"random_state": None}, TypeError, "random_state must be an int"),
    ],
)
def test_refusals(maml, waves, changes, error, message, pyplot):
    with pytest.raises(error, match=message):
        ShotCurveDisplay.from_estimator(maml, waves, **changes)
    assert not pyplot.get_fignums(), "a figure was opened for nothing"


def test_refused_estimators(maml, waves):
    with pytest.raises(NotFittedError, match="MAMLRegressor instance is not fitted"):
        ShotCurveDisplay.from_estimator(MAMLRegressor(), waves)
    with pytest.raises(TypeError, match="A Ridge cannot adapt to tasks"):
        ShotCurveDisplay.from_estimator(Ridge().fit([[1], [2]], [1, 2]), waves)
    with pytest.raises(TypeError, match="must be a dict of names and estimators"):
        ShotCurveDisplay.from_estimators([maml], waves)
    with pytest.raises(ValueError, match="estimators is empty"):
        ShotCurveDisplay.from_estimators({}, waves)
