"""Training curves: the rows of `history_`, drawn."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from sklmeta import MAMLRegressor, PooledClassifier, ProtoNetClassifier
from sklmeta.datasets import make_sinusoids
from sklmeta.inspection import TrainingCurveDisplay

from_estimator = TrainingCurveDisplay.from_estimator


@pytest.fixture(scope="module")
def stopped(small_net):
    """A learner with held-out tasks, whose last epoch is a short one."""
    meta = MAMLRegressor(small_net, early_stopping=True, max_iter=25, eval_every=10)
    return meta.set_params(random_state=0).fit(make_sinusoids(30, random_state=0))


def test_losses_are_those_of_the_history(maml, stopped, texts):
    display = TrainingCurveDisplay.from_estimators({"a": maml, "b": stopped})
    assert [updates.tolist() for updates in display.n_updates] == [
        [10, 20, 30, 40],
        [10, 20, 25],
    ]
    for i, meta in enumerate([maml, stopped]):
        x, y = display.train_lines_[i].get_data()
        assert np.array_equal(x, display.n_updates[i])
        assert np.array_equal(y, [row["train_loss"] for row in meta.history_])
    assert display.valid_losses[0] is None
    assert display.valid_lines_[0] is None
    dashed = display.valid_lines_[1]
    losses = [row["valid_loss"] for row in stopped.history_]
    assert np.array_equal(dashed.get_data()[1], losses)
    assert dashed.get_linestyle() == "--"
    assert dashed.get_color() == display.train_lines_[1].get_color()
    assert dashed.get_color() != display.train_lines_[0].get_color()
    names = ["a, training", "b, training", "b, validation"]
    assert texts(display.legend_) == names
    assert display.ax_.get_xlabel() == "Meta-updates"
    assert display.ax_.get_ylabel() == "Meta-loss"


def test_pipelines_and_searches_show_their_meta_learner(maml, pipeline, texts):
    display = from_estimator(pipeline)
    last = pipeline.steps[-1][1]
    assert np.array_equal(display.train_losses[0], last.history_[:, "train_loss"])
    assert texts(display.legend_) == ["MAMLRegressor, training"]
    search = GridSearchCV(MAMLRegressor(), {"inner_steps": [2, 4]})
    with pytest.raises(NotFittedError, match="GridSearchCV instance is not fitted"):
        from_estimator(search)
    search.best_estimator_ = pipeline
    found = from_estimator(search, name="best").train_losses[0]
    assert np.array_equal(found, display.train_losses[0])


def test_training_that_went_on_is_one_curve(small_net):
    tasks, held_out = make_sinusoids(10), make_sinusoids(5)
    meta = MAMLRegressor(small_net, warm_start=True, max_iter=4, eval_every=2)
    meta.fit(tasks).fit(tasks, validation_tasks=held_out).partial_fit(tasks)
    display = from_estimator(meta)
    assert display.n_updates[0].tolist() == [2, 4, 6, 8, 9]
    seen = ~np.isnan(display.valid_losses[0])
    assert seen.tolist() == [False, False, True, True, False]


def test_a_single_epoch_is_a_point(pipeline):
    display = from_estimator(pipeline)
    assert display.n_updates[0].tolist() == [4]
    assert display.train_lines_[0].get_marker() == "o"
    assert display.plot(marker="x").train_lines_[0].get_marker() == "x"


def test_names_and_axes_can_be_given(maml, pyplot, texts):
    _, ax = pyplot.subplots()
    display = from_estimator(maml, name="mine", ax=ax, linewidth=4)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert texts(display.legend_) == ["mine, training"]
    assert display.train_lines_[0].get_linewidth() == 4
    again = display.plot(name=["other"])
    assert again.ax_ is not ax
    assert texts(again.legend_) == ["other, training"]
    with pytest.raises(ValueError, match="name holds 2 names for 1 curves"):
        display.plot(name=["a", "b"])


def test_refusals(digits):
    with pytest.raises(NotFittedError, match="MAMLRegressor instance is not fitted"):
        from_estimator(MAMLRegressor())
    pixels = ProtoNetClassifier("identity").fit(digits)
    with pytest.raises(ValueError, match="history_ of this ProtoNetClassifier has no"):
        from_estimator(pixels)
    plain = LogisticRegression().fit([[0], [1]], [0, 1])
    for other in (plain, PooledClassifier(plain).fit(digits)):
        with pytest.raises(TypeError, match=f"{type(other).__name__} keeps no history"):
            from_estimator(other)
    with pytest.raises(TypeError, match="must be a dict of names and estimators"):
        TrainingCurveDisplay.from_estimators([pixels])
