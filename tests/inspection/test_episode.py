"""An episode's images: the rows of the drawn episode, and what was predicted."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklmeta import ClassPool, ProtoNetClassifier, TaskSet
from sklmeta.inspection import EpisodeDisplay
from sklmeta.model_selection import evaluate
from sklmeta.model_selection._protocol import EpisodeProtocol

from_estimator = EpisodeDisplay.from_estimator
from_predictions = EpisodeDisplay.from_predictions


@pytest.fixture(scope="module")
def episode():
    """Support and query images of three classes, and predictions, two wrong."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (11, 6, 4), dtype=np.uint8)
    y_support = np.array(["b", "a", "c", "a", "b"])
    y_query = np.array(["a", "c", "b", "a", "b", "b"])
    y_pred = np.array(["a", "b", "b", "c", "b", "b"])
    return images[:5], y_support, images[5:], y_query, y_pred


# The picture --------------------------------------------------------------------------


def corner(artist):
    """Return where an image is drawn: its class's row, and its column."""
    left, _, _, top = artist.get_extent()
    return round(top, 6), round(left, 6)


def test_images_lie_in_the_rows_of_their_classes(episode):
    display = from_predictions(*episode)
    artists = {"support": display.support_artists_, "query": display.query_artists_}
    places = {name: [corner(one) for one in drawn] for name, drawn in artists.items()}
    rows = sorted({row for row, _ in places["support"]})
    assert len(rows) == 3
    for name, y in (("support", episode[1]), ("query", episode[3])):
        own = [rows["abc".index(label)] for label in y]
        assert [row for row, _ in places[name]] == own
    together = places["support"] + places["query"]
    assert len(set(together)) == 11, "images lie on each other"
    assert max(places["support"])[1] < min(column for _, column in places["query"])


def test_images_are_drawn_as_they_are(episode):
    display = from_predictions(*episode)
    for images, artists in (
        (episode[0], display.support_artists_),
        (episode[2], display.query_artists_),
    ):
        for image, artist in zip(images, artists, strict=True):
            np.testing.assert_allclose(artist.get_array(), image / 255)
            assert artist.get_clim() == (0, 1)
            assert artist.get_cmap().name == "gray"


def test_labels_are_below_and_wrong_ones_are_framed(episode):
    display = from_predictions(*episode)
    assert [text.get_text() for text in display.label_texts_] == episode[4].tolist()
    wrong = episode[3] != episode[4]
    bold = [text.get_weight() == "bold" for text in display.label_texts_]
    assert bold == wrong.tolist()
    framed = {round(frame.get_y(), 6) for frame in display.frames_}
    tops = [corner(artist)[0] for artist in display.query_artists_]
    assert framed == {top for top, bad in zip(tops, wrong, strict=True) if bad}
    assert len(display.frames_) == 2
    for text, artist in zip(display.label_texts_, display.query_artists_, strict=True):
        left, right, bottom, _ = artist.get_extent()
        x, y = text.get_position()
        assert x == pytest.approx((left + right) / 2)
        assert y > bottom


def test_axes_say_what_is_shown(episode):
    display = from_predictions(*episode, name="mine")
    ax = display.ax_
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b", "c"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["Support", "Query"]
    assert ax.get_title() == "mine: 4 of 6 right"
    assert display.plot().ax_.get_title() == "4 of 6 right"
    assert display.figure_ is display.ax_.figure


def test_nothing_overlaps(episode):
    """Long labels are cut; the texts below neighbouring images stay apart."""
    X_support, y_support, X_query, y_query, y_pred = episode
    long = {one: f"Bengali/character_0{one}" for one in "abc"}
    relabel = np.vectorize(long.get)
    display = from_predictions(
        X_support, relabel(y_support), X_query, relabel(y_query), relabel(y_pred)
    )
    figure = display.figure_
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in display.label_texts_]
    boxes += [tick.get_window_extent() for tick in display.ax_.get_yticklabels()]
    boxes += [display.ax_.title.get_window_extent()]
    for i, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:i])
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert display.label_texts_[0].get_text() == "Beng…r_0a"


def test_axes_can_be_given_and_drawn_in_again(episode, pyplot):
    _, (left, right) = pyplot.subplots(1, 2)
    display = from_predictions(*episode, ax=left, cmap="magma")
    assert display.ax_ is left
    assert display.query_artists_[0].get_cmap().name == "magma"
    assert display.plot(right).ax_ is right
    assert len(left.images) == len(right.images) == 11


# Kinds of images ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda X: X / 255, lambda X: X / 255),
        (lambda X: X / 255.0 - 7, lambda X: X / 255),
        (lambda X: X.astype(int) * 3, lambda X: X / 255),
        (lambda X: X[..., None], lambda X: X / 255),
        (lambda X: X > 128, lambda X: X > 128),
        (
            lambda X: np.repeat(X[..., None], 3, 3),
            lambda X: np.repeat(X[..., None], 3, 3) / 255,
        ),
        (lambda X: X.reshape(len(X), -1), lambda X: X / 255),
    ],
    ids=["unit", "shifted", "int", "channel", "bool", "colour", "flat"],
)
def test_kinds_of_images(episode, change, expected):
    X_support, y_support, X_query, y_query, y_pred = episode
    # Both ends of the scale, so that it is the same in every kind.
    X_support = X_support.copy()
    X_support[0, 0, :2] = [0, 255]
    display = from_predictions(
        change(X_support),
        y_support,
        change(X_query),
        y_query,
        y_pred,
        image_shape=(6, 4),
    )
    for image, artist in zip(expected(X_query), display.query_artists_, strict=True):
        np.testing.assert_allclose(artist.get_array(), image, atol=1e-12)


def test_colours_of_zeros_and_ones_are_black_and_white(episode):
    """matplotlib takes integers in colour images for steps of 255."""
    X_support, y_support, _, y_query, y_pred = episode
    black, white = np.zeros((len(X_support), 6, 4, 3), int), np.ones((6, 6, 4, 3), int)
    display = from_predictions(black, y_support, white, y_query, y_pred)
    display.figure_.canvas.draw()
    renderer = display.figure_.canvas.get_renderer()
    drawn, *_ = display.query_artists_[0].make_image(renderer)
    assert drawn.max(axis=(0, 1)).tolist() == [255] * 4


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        (0, np.zeros((5, 24)), "X_support holds flat rows of 24 values, not images"),
        (2, np.zeros(6), r"X_query has shape \(6,\); expected images"),
        (0, np.zeros((5, 6, 4, 2)), "images of 2 channels; only grey"),
        (0, np.zeros((0, 6, 4)), "at least one"),
        (1, ["a"] * 4, r"y_support has shape \(4,\) for 5 images"),
        (4, ["a"] * 5, r"y_pred has shape \(5,\) for 6 images"),
    ],
)
def test_refused_images(episode, part, value, message):
    parts = list(episode)
    parts[part] = value
    with pytest.raises(ValueError, match=message):
        from_predictions(*parts)


def test_refused_image_shape(episode):
    flat = [X.reshape(len(X), -1) if X.ndim == 3 else X for X in episode]
    with pytest.raises(ValueError, match=r"image_shape=\(5, 5\) has 25 values, but"):
        from_predictions(*flat, image_shape=(5, 5))


# Episodes of estimators ---------------------------------------------------------------

PROTOCOL = {"n_way": 3, "n_shot": 2, "n_query": 4, "random_state": 5}


@pytest.mark.parametrize("number", [0, 11])
def test_the_episode_is_the_one_that_evaluate_judges(
    protonet, digits, number, untouched
):
    protonet.adapt(digits.X[:9], digits.y[:9])
    with untouched(protonet):
        display = from_estimator(protonet, digits, episode=number, **PROTOCOL)
    scores = evaluate(protonet, digits, **PROTOCOL).scores
    assert scores["task"][number] == tuple(np.unique(display.y_support).tolist())
    accuracy = (display.y_pred == display.y_query).mean()
    assert scores["score"][number] == pytest.approx(accuracy)
    drawn = EpisodeProtocol(**PROTOCOL).draw(digits, True)
    rows = drawn.query_rows(number)
    np.testing.assert_array_equal(display.query_images, drawn.rows.X[rows])
    model = protonet._adapted_to(display.support_images, display.y_support)
    expected = model.predict(display.query_images)
    np.testing.assert_array_equal(display.y_pred, expected)
    assert display.ax_.get_title().startswith("ProtoNetClassifier: ")


def test_tasks_with_labels_of_their_own(protonet, digits):
    X, y = digits.X, digits.y.astype(str)
    halves = np.arange(len(y)) % 2
    tasks = TaskSet.from_arrays(X, y, halves, labels="local")
    second = evaluate(protonet, tasks, **PROTOCOL).scores.index[-1]
    display = from_estimator(protonet, tasks, episode=second, **PROTOCOL)
    assert len(display.y_support) == 6
    odd = {image.tobytes() for image in X[halves == 1]}
    assert {image.tobytes() for image in display.query_images} <= odd
    # Shared by name, but to a learner of local labels they are local.
    tasks = TaskSet.from_arrays(X, y, halves)
    again = from_estimator(protonet, tasks, episode=second, **PROTOCOL)
    np.testing.assert_array_equal(display.query_images, again.query_images)


def test_tasks_that_share_labels_draw_shots_per_task(digits, small_net):
    tasks = TaskSet.from_arrays(digits.X, digits.y, np.arange(len(digits.y)) % 5)
    meta = ProtoNetClassifier(small_net, max_iter=2, random_state=0).fit(tasks[:4])
    display = from_estimator(meta, tasks[4:], n_shot=6, n_query=9)
    assert len(display.support_artists_) == 6
    assert len(display.query_artists_) == 9


def test_flat_rows_take_the_estimators_image_shape(digits, small_net):
    flat = ClassPool(digits.X.reshape(len(digits.X), -1), digits.y)
    kw = {"max_iter": 2, "random_state": 0, "n_way": 2}
    meta = ProtoNetClassifier(small_net, image_shape=(8, 8), **kw).fit(flat)
    display = from_estimator(meta, flat, n_shot=1)
    assert display.query_images.shape == (40, 8, 8)
    rows = ProtoNetClassifier(small_net, **kw).fit(flat)
    with pytest.raises(ValueError, match="flat rows of 64 values"):
        from_estimator(rows, flat, n_shot=1)
    shown = from_estimator(rows, flat, n_shot=1, image_shape=(8, 8))
    np.testing.assert_array_equal(shown.query_images, display.query_images)


def test_stock_pipelines_show_the_rows_they_were_given(protonet, digits, untouched):
    inverted = make_pipeline(FunctionTransformer(np.invert).fit(digits.X), protonet)
    with untouched(inverted, protonet):
        display = from_estimator(inverted, digits, **PROTOCOL)
    plain = from_estimator(protonet, digits, **PROTOCOL)
    np.testing.assert_array_equal(display.query_images, plain.query_images)
    model = protonet._adapted_to(~display.support_images, display.y_support)
    expected = model.predict(~display.query_images)
    np.testing.assert_array_equal(display.y_pred, expected)


def test_refused_estimators_and_episodes(protonet, maml, digits, waves):
    with pytest.raises(TypeError, match="MAMLRegressor is no classifier"):
        from_estimator(maml, waves)
    with pytest.raises(NotFittedError, match="ProtoNetClassifier instance is not fitt"):
        from_estimator(ProtoNetClassifier(), digits)
    for number in (200, -1):
        with pytest.raises(ValueError, match="not among the 200 episodes drawn"):
            from_estimator(protonet, digits, episode=number)
    with pytest.raises(ValueError, match="n_shot"):
        from_estimator(protonet, digits, n_shot=0)
