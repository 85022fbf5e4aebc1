"""Share of targets inside intervals against their level: the numbers of `evaluate`."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.exceptions import NotFittedError

from sklmeta import HierarchicalLinearRegressor, MAMLRegressor
from sklmeta.inspection import IntervalCoverageDisplay
from sklmeta.model_selection import evaluate

PROTOCOL = {"n_shot": 5, "n_episodes": 2, "random_state": 3}


def test_shares_and_intervals_are_those_of_evaluate(stated_regressor, noise):
    both = {"true": stated_regressor(), "too sure": stated_regressor(0.5)}
    display = IntervalCoverageDisplay.from_estimators(
        both, noise, levels=[0.9, 0.5, 0.975], confidence=0.8, **PROTOCOL
    )
    assert display.levels.tolist() == [0.5, 0.9, 0.975]
    names = ["coverage_50", "coverage_90", "coverage_97.5"]
    for row, estimator in enumerate(both.values()):
        found = evaluate(estimator, noise, metric=names, confidence=0.8, **PROTOCOL)
        want = found.summary()[["mean", "low", "high"]].to_numpy()
        own = [getattr(display, name)[row] for name in ("coverage", "low", "high")]
        np.testing.assert_allclose(np.stack(own, 1), want)


def test_levels_keep_their_digits(stated_regressor, noise):
    levels = [0.07, 0.29, 0.9, 0.90000001, 0.9999999]
    display = IntervalCoverageDisplay.from_estimator(
        stated_regressor(), noise, levels=levels, **PROTOCOL
    )
    assert display.levels.tolist() == levels
    assert display.coverage.shape == (1, 5)
    assert display.coverage[0, -1] > 0.99


def test_what_states_the_truth_lies_on_the_diagonal(stated_regressor, noise):
    both = {"true": stated_regressor(), "too sure": stated_regressor(0.5)}
    display = IntervalCoverageDisplay.from_estimators(
        both, noise, confidence=0.999, **PROTOCOL
    )
    assert display.levels[[0, -1]].tolist() == [0.05, 0.95]
    want = [display.levels, 2 * norm.cdf(norm.ppf((1 + display.levels) / 2) / 2) - 1]
    assert (display.low <= want).all()
    assert (display.high >= want).all()
    assert (display.high - display.low).max() < 0.15


def test_closed_form_posteriors_are_drawn(waves):
    meta = HierarchicalLinearRegressor().fit(waves)
    display = IntervalCoverageDisplay.from_estimator(meta, waves, **PROTOCOL)
    assert display.names == ["HierarchicalLinearRegressor"]
    assert np.isfinite(display.coverage).all()
    assert (np.diff(display.coverage) >= 0).all(), "wider intervals hold more"


def test_what_is_drawn_is_what_was_computed(stated_regressor, noise, texts):
    both = {"a": stated_regressor(), "b": stated_regressor(2.0)}
    display = IntervalCoverageDisplay.from_estimators(both, noise, **PROTOCOL)
    ax = display.ax_
    assert display.figure_ is ax.figure
    for i in range(2):
        x, y = display.lines_[i].get_data()
        np.testing.assert_array_equal(x, display.levels)
        np.testing.assert_array_equal(y, display.coverage[i])
        corners = display.bands_[i].get_paths()[0].vertices
        assert set(corners[:, 1]) == {*display.low[i], *display.high[i]}
    assert texts(display.legend_) == ["a", "b", "ideal"]
    assert ax.get_xlabel() == "Level of intervals"
    assert ax.get_ylabel() == "Share of targets inside, 95 % interval over tasks"
    assert ax.get_xlim() == ax.get_ylim() == (0, 1)
    assert len({line.get_marker() for line in display.lines_}) == 2


def test_displays_share_axes_and_a_diagonal(stated_regressor, noise, texts):
    first = IntervalCoverageDisplay.from_estimator(stated_regressor(), noise)
    second = IntervalCoverageDisplay.from_estimator(
        stated_regressor(2.0), noise, name="other", ax=first.ax_
    )
    assert first.diagonal_ is second.diagonal_
    assert first.lines_[0].get_color() != second.lines_[0].get_color()
    assert texts(second.legend_) == ["StatedRegressor", "ideal", "other"]


def test_intervals_of_one_task_are_not_drawn(stated_regressor, noise):
    display = IntervalCoverageDisplay.from_estimator(stated_regressor(), noise[:1])
    assert np.isfinite(display.coverage).all()
    assert np.isnan(display.low).all()
    display.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"levels": []}, ValueError, "levels is empty"),
        ({"levels": 0.9}, TypeError, "levels must be several values, .* got 0.9"),
        ({"levels": [50, 90]}, ValueError, "levels must be fractions .* got 50"),
        ({"levels": [90]}, ValueError, r"Did you mean 0\.9\?"),
        ({"levels": [0.5, 1]}, ValueError, "fractions below 1, got 1: 0.9 stands"),
        ({"levels": [0.0]}, ValueError, "levels"),
        ({"levels": [0.001]}, ValueError, "levels must be at least 0.01, got 0.001"),
        ({"levels": ["90"]}, TypeError, "levels"),
        ({"confidence": 95}, ValueError, "confidence"),
        ({"random_state": None}, TypeError, "random_state must be an int"),
    ],
)
def test_refusals(stated_regressor, noise, changes, error, message, pyplot):
    with pytest.raises(error, match=message):
        IntervalCoverageDisplay.from_estimator(stated_regressor(), noise, **changes)
    assert not pyplot.get_fignums(), "a figure was opened for nothing"


def test_refused_estimators(maml, stated_classifier, waves, coins):
    draw = IntervalCoverageDisplay.from_estimator
    with pytest.raises(NotFittedError, match="MAMLRegressor instance is not fitted"):
        draw(MAMLRegressor(), waves)
    message = "is of regressors, and 'StatedClassifier' is a classifier: use Reliab"
    with pytest.raises(TypeError, match=message):
        draw(stated_classifier(), coins)
    with pytest.raises(TypeError, match=r"'MAMLRegressor'.*predictive standard devi"):
        draw(maml, waves)
