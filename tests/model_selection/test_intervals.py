"""Intervals: scipy as the oracle, and how often they cover a known mean."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sklmeta.model_selection import Comparison, Evaluation
from sklmeta.model_selection._intervals import (
    decisive_unit,
    mean_interval,
    unit_means,
)

LEVEL = 0.95


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_students_t(confidence):
    values = rng().normal(3, 2, size=12)
    found = mean_interval(values, confidence)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert (found.mean, found.n) == (pytest.approx(values.mean()), 12)


def test_one_value_has_no_interval():
    found = mean_interval(np.array([2.0]), LEVEL)
    assert (found.mean, found.n) == (2.0, 1)
    assert np.isnan([found.low, found.high]).all()


def test_equal_values_have_an_interval_of_width_zero():
    found = mean_interval(np.full(4, 0.5), LEVEL)
    assert (found.low, found.high) == (0.5, 0.5)


def test_unit_means_leave_out_what_is_not_defined():
    scores = np.array([1.0, np.nan, 3.0, np.nan, 5.0, 7.0])
    units = np.array([4, 4, 4, 9, 1, 1])
    assert unit_means(scores, units)[:2].tolist() == [6.0, 2.0]
    assert np.isnan(unit_means(scores, units)[2])


def scores_frame(scores, **first):
    """Scores (T, E) as `evaluate` returns them."""
    n_tasks, n_episodes = scores.shape
    return pd.DataFrame(
        {
            **first,
            "task": np.repeat(np.arange(n_tasks), n_episodes),
            "episode": np.tile(np.arange(n_episodes), n_tasks),
            "metric": "accuracy",
            "score": scores.ravel(),
        }
    )


def evaluation(scores):
    return Evaluation(scores_frame(scores), "task", LEVEL, "")


def comparison(own, other):
    frames = [scores_frame(own, method="a"), scores_frame(other, method="b")]
    frame = pd.concat(frames, ignore_index=True)
    return Comparison(frame, "task", LEVEL, "", "b", {"accuracy": True})


def normal_scores(generator, n_tasks, n_episodes=4):
    """Tasks differ by 0.1, episodes of a task by 0.05; the mean is 0.7."""
    tasks = generator.normal(0.7, 0.1, size=(n_tasks, 1))
    return tasks + generator.normal(0, 0.05, size=(n_tasks, n_episodes))


def accuracies(generator, n_tasks, n_episodes=4, n_query=20):
    """Right answers of 20 query rows; tasks skewed towards easy, mean 0.8."""
    tasks = generator.beta(8, 2, size=(n_tasks, 1))
    hits = generator.binomial(n_query, np.repeat(tasks, n_episodes, axis=1))
    return hits / n_query


@pytest.mark.parametrize("n_tasks", [10, 30])
@pytest.mark.parametrize(
    ("draw", "mean"), [(normal_scores, 0.7), (accuracies, 0.8)], ids=["normal", "skew"]
)
def test_intervals_of_evaluate_cover_the_mean(draw, mean, n_tasks):
    """95 % of them do, to within what 400 simulations can tell."""
    generator, covered = rng(1), 0
    for _ in range(400):
        row = evaluation(draw(generator, n_tasks)).summary().loc["accuracy"]
        covered += row["low"] <= mean <= row["high"]
    assert 0.92 <= covered / 400 <= 0.98


def test_intervals_over_episodes_would_not():
    """Episodes of a task are no independent evidence on other tasks."""
    generator, covered = rng(1), 0
    for _ in range(400):
        scores = normal_scores(generator, 10)
        low, high = stats.ttest_1samp(scores.ravel(), 0).confidence_interval(LEVEL)
        covered += low <= 0.7 <= high
    assert covered / 400 < 0.85


def test_intervals_of_compare_cover_the_difference():
    generator, covered = rng(2), 0
    for _ in range(400):
        tasks = generator.normal(0, 0.2, size=(10, 1))  # what both methods share
        own, other = (tasks + normal_scores(generator, 10) for _ in "ab")
        row = comparison(own + 0.03, other).summary().loc["a"]
        covered += row["difference_low"] <= 0.03 <= row["difference_high"]
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, 2.1, 1.9, 1e4, 2.0], (3, 2.0)),
        ([0.9, 0.9, np.nan, -5.0, 0.8, 0.9], (3, 0.875)),  # NaN are left out
        ([0.0, 0.0, 0.0, 0.0, 1.0], (4, 0.0)),
        ([2.0, np.inf, 2.0, 2.0, 2.0], (1, 2.0)),
        ([2.0, np.inf, np.inf, 2.0, 2.0], None),  # nor is there a mean without
        ([2.0, 2.1, 1e4, 2.0], None),  # of four, each counts for much
        ([1e4, 2.1, 1e4, 2.0, 2.0], None),  # of two, none alone
        ([3.0, 2.1, 2.0, 2.0, 2.0], None),
        # A mean about zero: the units scatter, and none stands apart.
        ([1.0, -1.2, 0.7, -0.9, 0.3, 1.1], None),
        ([2.0, 2.0, 2.0, 2.0, 2.0], None),
    ],
)
def test_a_mean_hangs_on_one_unit(values, expected):
    found = decisive_unit(np.array(values))
    assert found == (None if expected is None else pytest.approx(expected))


def test_normal_scores_hang_on_none():
    """Whatever their mean: a false note would be as bad as none."""
    values = rng().normal(size=(500, 12))
    assert np.mean([decisive_unit(own) is not None for own in values]) < 0.02
