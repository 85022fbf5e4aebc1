"""matplotlib is imported to draw, not before; and missed in words."""

import subprocess
import sys

import numpy as np
import pytest

from sklmeta.inspection import (
    AdaptationDisplay,
    EpisodeDisplay,
    IntervalCoverageDisplay,
    ParameterCurveDisplay,
    ReliabilityDisplay,
    ShotCurveDisplay,
    TrainingCurveDisplay,
)

BOUNDS = {"mean": np.ones((1, 2)), "low": np.zeros((1, 2)), "high": 2 * np.ones((1, 2))}
ENDS = {name: BOUNDS[name] for name in ("low", "high")}
LABELS = np.array([0, 1])


def all_displays():
    """Return one display of each kind, made of arrays and not yet drawn."""
    x = np.array([0.0, 1.0])
    images = np.zeros((2, 3, 3))
    rows = {f"{axis}_{part}": x for axis in "xy" for part in ("support", "query")}
    return [
        AdaptationDisplay(x_grid=x, predictions=[x], names=["a"], **rows),
        EpisodeDisplay(
            support_images=images,
            y_support=LABELS,
            query_images=images,
            y_query=LABELS,
            y_pred=LABELS,
        ),
        IntervalCoverageDisplay(levels=x, coverage=BOUNDS["mean"], names=["a"], **ENDS),
        ParameterCurveDisplay(
            param_name="p", param_range=[1, 2], names=["a"], **BOUNDS
        ),
        ReliabilityDisplay(
            mean_confidence=BOUNDS["low"],
            accuracy=BOUNDS["mean"],
            n_rows=np.array([[1, 2]]),
            ece=np.array([0.25]),
            names=["a"],
            **ENDS,
        ),
        ShotCurveDisplay(n_shots=np.array([1, 2]), names=["a"], **BOUNDS),
        TrainingCurveDisplay(
            n_updates=[LABELS], train_losses=[x], valid_losses=[None], names=["a"]
        ),
    ]


@pytest.fixture(params=range(7), ids=[type(one).__name__ for one in all_displays()])
def display(request):
    return all_displays()[request.param]


def test_arrays_are_drawn_when_asked_for(display, pyplot):
    assert not hasattr(display, "ax_")
    assert not pyplot.get_fignums()
    assert display.plot() is display
    assert pyplot.get_fignums() == [display.figure_.number]
    assert display.ax_ in display.figure_.axes


def test_given_axes_keep_their_figure(display, pyplot):
    figure, axes = pyplot.subplots(1, 2)
    display.plot(ax=axes[1])
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert pyplot.get_fignums() == [figure.number]


def test_several_axes_are_refused(display, pyplot):
    axes = pyplot.subplots(1, 2)[1]
    message = r"ax must be one matplotlib Axes, got ndarray.*ax=axes\[0\]"
    with pytest.raises(TypeError, match=message):
        display.plot(ax=axes)


def test_a_missing_matplotlib_is_named(display, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = rf"{type(display).__name__} needs matplotlib.*'sklmeta\[plot\]'"
    with pytest.raises(ImportError, match=message):
        display.plot()


def test_importing_the_displays_imports_no_matplotlib():
    code = "import sys, sklmeta.inspection; assert 'matplotlib' not in sys.modules"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


CURVES = [one for one in all_displays() if hasattr(one, "names")]


@pytest.mark.parametrize("display", CURVES, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("name", ["MAML", "a method of a rather long name"])
def test_legends_lie_outside_of_the_data(display, name):
    ax = display.plot(name=name).ax_
    for _ in range(3):
        display.plot(ax, name=name)
    display.figure_.canvas.draw()
    legend = display.legend_.get_window_extent()
    assert not legend.count_overlaps([ax.get_window_extent()])
    assert legend.y1 <= display.figure_.bbox.y1
    assert legend.x1 <= display.figure_.bbox.x1
