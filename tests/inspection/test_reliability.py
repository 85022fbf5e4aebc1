"""Accuracy against confidence: scikit-learn's calibration curve as the oracle."""

import warnings

import joblib
import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from sklmeta import PerTaskClassifier, ProtoNetClassifier, Task, TaskSet
from sklmeta.exceptions import TaskLeakageWarning
from sklmeta.inspection import ReliabilityDisplay
from sklmeta.inspection._reliability_bins import TopLabels, binned, judged_rows
from sklmeta.model_selection import evaluate
from sklmeta.model_selection._intervals import mean_interval
from sklmeta.model_selection._protocol import EpisodeProtocol

PROTOCOL = {"n_shot": 2, "n_episodes": 1, "random_state": 3}


def clustered(rng, n_tasks=40, sizes=(1, 40), spread=0.3):
    """Rows of tasks whose accuracy differs from task to task."""
    n = rng.integers(*sizes, n_tasks)
    unit = np.repeat(np.arange(n_tasks), n)
    accuracy = np.clip(rng.normal(0.7, spread, n_tasks), 0, 1)
    right = (rng.uniform(size=len(unit)) < accuracy[unit]).astype(float)
    return TopLabels(rng.uniform(0.3, 1, len(unit)), right, unit), accuracy


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("n_bins", [1, 7, 10])
def test_bins_are_those_of_a_calibration_curve(strategy, n_bins):
    rows, _ = clustered(np.random.default_rng(0))
    found = binned(rows, n_bins, strategy, 0.95)
    full = found.n_rows > 0
    right, stated = calibration_curve(
        rows.right, rows.confidence, n_bins=n_bins, strategy=strategy
    )
    np.testing.assert_allclose(found.accuracy[full], right)
    np.testing.assert_allclose(found.mean_confidence[full], stated)
    assert found.n_rows.sum() == len(rows.right)
    assert np.isnan(found.accuracy[~full]).all()
    gaps = np.abs(right - stated) * found.n_rows[full]
    assert found.ece == pytest.approx(gaps.sum() / len(rows.right))


def test_the_interval_of_equal_tasks_is_that_of_their_mean():
    rows, _ = clustered(np.random.default_rng(1), sizes=(12, 13))
    found = binned(rows, 1, "uniform", 0.9)
    want = mean_interval(rows.right.reshape(40, 12).mean(1), 0.9)
    np.testing.assert_allclose(found.low, want.low)
    np.testing.assert_allclose(found.high, want.high)


def test_intervals_hold_the_truth_of_ragged_tasks():
    """Rows of one task agree; as if they were independent half would be missed."""
    rng, hits = np.random.default_rng(2), []
    truth = np.clip(np.random.default_rng(0).normal(0.7, 0.3, 10**6), 0, 1).mean()
    for _ in range(300):
        found = binned(clustered(rng)[0], 1, "uniform", 0.9)
        hits.append(found.low[0] <= truth <= found.high[0])
    assert 0.85 <= np.mean(hits) <= 0.95


def test_equal_confidences_share_a_quantile():
    rows = TopLabels(np.ones(20), np.ones(20), np.arange(20))
    found = binned(rows, 5, "quantile", 0.95)
    assert found.n_rows.tolist() == [20, 0, 0, 0, 0]
    assert found.ece == 0


def test_what_states_the_truth_lies_on_the_diagonal(stated_classifier, coins):
    both = {"true": stated_classifier(), "too sure": stated_classifier(4.0)}
    display = ReliabilityDisplay.from_estimators(both, coins, **PROTOCOL)
    assert display.unit == "task"
    n = np.sum([len(task.X) - 2 for task in coins])
    assert display.n_rows.sum(1).tolist() == [n, n]
    full = display.n_rows[0] > 0
    assert full.tolist() == [False] * 5 + [True] * 5
    error = (display.high - display.low)[0, full] / 2
    gap = np.abs(display.accuracy - display.mean_confidence)
    assert (gap[0, full] <= 1.5 * error).all()
    assert display.ece[0] < 0.04
    assert display.ece[1] > 0.1
    pooled = evaluate(both["true"], coins, metric="ece", **PROTOCOL)
    assert pooled.summary().loc["ece", "mean"] > 2 * display.ece[0]


def test_rows_are_those_of_evaluate(protonet, digits):
    protocol = {"n_shot": 1, "n_way": 3, "n_query": 10, "n_episodes": 30}
    display = ReliabilityDisplay.from_estimator(
        protonet, digits, n_bins=1, strategy="quantile", confidence=0.8, **protocol
    )
    found = evaluate(protonet, digits, confidence=0.8, **protocol).summary()
    want = found.loc["accuracy", ["mean", "low", "high"]].to_numpy(float)
    own = [getattr(display, name)[0, 0] for name in ("accuracy", "low", "high")]
    np.testing.assert_allclose(own, want)
    assert display.unit == "episode"
    assert display.n_rows.tolist() == [[900]]
    label = display.ax_.get_ylabel()
    assert label == "Accuracy, 80 % interval over episodes"


def test_workers_share_the_estimators(protonet, digits):
    protocol = EpisodeProtocol(n_shot=1, n_way=3, n_query=5, n_episodes=4)
    both = {"a": protonet, "b": protonet}
    with joblib.parallel_config(backend="threading"):
        (a, b), unit = judged_rows(both, digits, protocol, n_jobs=2)
    (alone,), _ = judged_rows({"a": protonet}, digits, protocol, n_jobs=None)
    assert unit == "episode"
    for rows in (a, b):
        np.testing.assert_array_equal(rows.confidence, alone.confidence)
        np.testing.assert_array_equal(rows.right, alone.right)
    assert alone.unit.tolist() == np.repeat(np.arange(4), 15).tolist()


def test_what_is_drawn_is_what_was_computed(stated_classifier, coins, texts):
    both = {"a": stated_classifier(), "b": stated_classifier(2.0)}
    display = ReliabilityDisplay.from_estimators(both, coins, **PROTOCOL)
    ax = display.ax_
    assert display.figure_ is ax.figure
    for i in range(2):
        x, y = display.lines_[i].get_data()
        np.testing.assert_array_equal(x, display.mean_confidence[i])
        np.testing.assert_array_equal(y, display.accuracy[i])
        full = display.n_rows[i] > 0
        bars = [bar for bar in display.bands_[i].get_segments() if len(bar)]
        ends = np.stack(bars)[:, :, 1]
        np.testing.assert_array_equal(ends[:, 0], display.low[i, full])
        np.testing.assert_array_equal(ends[:, 1], display.high[i, full])
    a, b = display.ece
    assert texts(display.legend_) == [
        f"a (ECE {a:.3f})",
        f"b (ECE {b:.3f})",
        "ideal",
    ]
    assert ax.get_xlabel() == "Confidence in the most probable label"
    assert ax.get_ylabel() == "Accuracy, 95 % interval over tasks"
    assert ax.get_xlim() == ax.get_ylim() == (0, 1)
    assert len({line.get_color() for line in display.lines_}) == 2


def test_displays_share_axes_and_a_diagonal(stated_classifier, coins, texts):
    first = ReliabilityDisplay.from_estimator(stated_classifier(), coins, **PROTOCOL)
    second = ReliabilityDisplay.from_estimator(
        stated_classifier(2.0), coins, name="other", ax=first.ax_, **PROTOCOL
    )
    assert first.diagonal_ is second.diagonal_
    assert first.lines_[0].get_color() != second.lines_[0].get_color()
    names = [text.split(" (")[0] for text in texts(second.legend_)]
    assert names == ["StatedClassifier", "ideal", "other"]


def test_a_display_can_be_drawn_again(stated_classifier, coins, pyplot, texts):
    display = ReliabilityDisplay.from_estimator(stated_classifier(), coins, **PROTOCOL)
    _, (left, right) = pyplot.subplots(1, 2)
    again = display.plot(right, name="again", linewidth=5, band_kw={"alpha": 0.5})
    assert again is display
    assert display.ax_ is right
    assert not left.lines
    assert display.lines_[0].get_linewidth() == 5
    assert display.bands_[0].get_alpha() == 0.5
    assert texts(display.legend_)[0].startswith("again (ECE")


def test_estimators_are_left_as_they_are(protonet, digits, untouched):
    with untouched(protonet):
        ReliabilityDisplay.from_estimator(protonet, digits, n_shot=1, n_episodes=5)


def test_intervals_of_one_task_are_not_drawn(stated_classifier, coins):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        display = ReliabilityDisplay.from_estimator(stated_classifier(), coins[:1])
    assert np.isfinite(display.ece).all()
    assert np.isnan(display.low).all()
    display.figure_.canvas.draw()


def test_tasks_that_were_meta_trained_on(digits):
    tasks = digits_tasks(digits)
    meta = ProtoNetClassifier("identity", max_iter=1, random_state=0).fit(tasks)
    with pytest.warns(TaskLeakageWarning, match="training scores"):
        ReliabilityDisplay.from_estimator(meta, tasks, **PROTOCOL)


def digits_tasks(pool):
    rows = pool.rows()
    return TaskSet([Task(rows.X, rows.y, name="all")], labels="local")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_bins": 0}, ValueError, "n_bins"),
        ({"n_bins": 2.5}, TypeError, "n_bins"),
        ({"strategy": "equal"}, ValueError, "strategy must be one of"),
        ({"confidence": 95}, ValueError, "confidence"),
        ({"n_shot": 0}, ValueError, "n_shot"),
        ({"random_state": None}, TypeError, "random_state must be an int"),
    ],
)
def test_refusals(stated_classifier, coins, changes, error, message, pyplot):
    with pytest.raises(error, match=message):
        ReliabilityDisplay.from_estimator(stated_classifier(), coins, **changes)
    assert not pyplot.get_fignums(), "a figure was opened for nothing"


def test_refused_estimators(stated_regressor, digits, noise):
    draw = ReliabilityDisplay.from_estimator
    with pytest.raises(NotFittedError, match="ProtoNetClassifier instance is not fit"):
        draw(ProtoNetClassifier(), digits)
    message = "is of classifiers, and 'StatedRegressor' is a regressor: use IntervalCov"
    with pytest.raises(TypeError, match=message):
        draw(stated_regressor(), noise)
    with pytest.raises(TypeError, match=r"'PerTaskClassifier'.*needs probabilities"):
        draw(PerTaskClassifier(LinearSVC()).fit(digits), digits, n_episodes=2)
    with pytest.raises(TypeError, match="is a regressor"):
        draw(Ridge().fit([[1], [2]], [1, 2]), digits)
    with pytest.raises(TypeError, match="must be a dict of names and estimators"):
        ReliabilityDisplay.from_estimators([stated_regressor()], noise)
