"""Made-up characters: their form, seeds, strokes, ink, and how hard they are."""

import math

import numpy as np
import pytest

from sklmeta import ProtoNetClassifier
from sklmeta.datasets import Glyphs, glyphs, make_glyphs
from sklmeta.tasks import ClassPool, TaskDistribution, TaskSet


@pytest.fixture(scope="module")
def pool():
    return make_glyphs(100, random_state=0)


def images_of(pool):
    return pool.X.reshape(len(pool), -1, *pool.X.shape[1:])


def test_form_is_that_of_omniglot(pool):
    assert isinstance(pool, ClassPool)
    assert pool.X.shape == (2000, 28, 28)
    assert pool.X.dtype == np.uint8
    np.testing.assert_array_equal(pool.y, np.repeat(np.arange(100), 20))
    # Thin ink on empty paper; Omniglot's mean is 21.
    assert np.median(pool.X) == 0
    assert (pool.X.max(axis=(1, 2)) > 200).all()
    assert 18 < pool.X.mean() < 24


# Seeds.


def test_same_seed_same_images_and_a_generator_moves_on():
    def images(random_state):
        return make_glyphs(3, 2, random_state=random_state).X

    np.testing.assert_array_equal(images(1), images(1))
    assert not np.array_equal(images(1), images(2))
    assert not np.array_equal(images(None), images(None))
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(images(rng), images(1))
    assert not np.array_equal(images(rng), images(1))


@pytest.mark.parametrize(("n_classes", "n_samples"), [(60, 5), (7, 30), (3, 300)])
def test_more_classes_and_samples_leave_the_others_as_they_are(n_classes, n_samples):
    few = images_of(make_glyphs(3, 4, random_state=0))
    many = images_of(make_glyphs(n_classes, n_samples, random_state=0))
    np.testing.assert_array_equal(many[:3, :4], few)


def test_a_block_of_drawings_is_drawn_as_one_by_one(monkeypatch):
    at_once = make_glyphs(5, 3, random_state=0).X
    monkeypatch.setattr(glyphs, "DRAWINGS_AT_ONCE", 1)
    np.testing.assert_array_equal(make_glyphs(5, 3, random_state=0).X, at_once)


# How much drawings differ, and how hard classes are to tell apart.


def test_without_variation_all_drawings_of_a_character_are_equal():
    images = images_of(make_glyphs(20, 3, variation=0, random_state=0))
    assert (images == images[:, :1]).all()
    assert len(np.unique(images[:, 0], axis=0)) == 20


def test_drawings_differ_by_variation():
    def spread(variation):
        made = make_glyphs(20, 5, variation=variation, random_state=0)
        return images_of(made).astype(float).var(axis=1).mean()

    spreads = [spread(variation) for variation in (0.1, 0.5, 1, 2)]
    assert spreads == sorted(spreads)
    assert spreads[0] < 0.3 * spreads[2]


def test_the_widest_variation_still_draws():
    images = make_glyphs(20, 5, variation=10, random_state=0).X
    assert images.any(axis=(1, 2)).mean() > 0.1


def nearest_mean_accuracy(images, n_shot, n_episodes=600, n_way=5):
    """Tell characters apart by the nearest class mean of raw pixels."""
    rng = np.random.default_rng(0)
    rows = images.reshape(*images.shape[:2], -1).astype(np.float32)
    right = []
    for _ in range(n_episodes):
        ways = rng.choice(len(rows), n_way, replace=False)
        drawings = rng.permutation(rows.shape[1])
        means = rows[ways][:, drawings[:n_shot]].mean(axis=1)
        query = rows[ways][:, drawings[n_shot]]
        distances = ((query[:, None] - means) ** 2).sum(axis=-1)
        right.append((distances.argmin(axis=1) == np.arange(n_way)).mean())
    return np.mean(right)


@pytest.mark.parametrize(("n_shot", "omniglot"), [(1, 0.44), (5, 0.72)])
def test_pixels_tell_characters_apart_as_well_as_omniglots(pool, n_shot, omniglot):
    accuracy = nearest_mean_accuracy(images_of(pool), n_shot)
    assert abs(accuracy - omniglot) < 0.06  # chance is 0.2


# Strokes and ink, against geometry.


def strokes(**numbers):
    """Two strokes for one character; what is not given is 0."""
    arrays = {
        "start": np.zeros((2, 2)),
        "heading": np.zeros(2),
        "bends": np.zeros((2, 2)),
        "corner": np.zeros(2),
        "corner_at": np.full(2, 0.5),
        "length": np.ones(2),
        "joint": np.full(2, np.nan),
    }
    return glyphs._Strokes(
        **{name: np.array(numbers.get(name, array)) for name, array in arrays.items()}
    )


@pytest.fixture
def two_strokes(monkeypatch):
    monkeypatch.setattr(glyphs, "MOST_STROKES", 2)


@pytest.mark.usefixtures("two_strokes")
def test_a_stroke_without_bends_is_a_line():
    (line, other) = strokes(heading=[0, math.pi / 2], length=[1, 2]).points()
    np.testing.assert_allclose(line[-1], [1, 0], atol=1e-12)
    np.testing.assert_allclose(line[:, 1], 0)
    np.testing.assert_allclose(np.diff(line[:, 0]), 1 / glyphs.POINTS)
    np.testing.assert_allclose(other[-1], [0, 2], atol=1e-12)


@pytest.mark.usefixtures("two_strokes")
def test_a_stroke_that_turns_all_the_way_is_a_circle():
    circle = strokes(bends=np.full((2, 2), 2 * math.pi)).points()[0]
    np.testing.assert_allclose(circle[-1], 0, atol=1e-12)  # back at the start
    radius = np.linalg.norm(circle - circle.mean(axis=0), axis=1)
    np.testing.assert_allclose(radius, 1 / (2 * math.pi), rtol=2e-3)


@pytest.mark.usefixtures("two_strokes")
def test_a_corner_turns_the_rest_of_a_stroke():
    hook = strokes(corner=np.full(2, math.pi / 2)).points()[0]
    np.testing.assert_allclose(hook[-1], [0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(hook[glyphs.POINTS // 2 - 1], [0.5, 0], atol=1e-12)


@pytest.mark.usefixtures("two_strokes")
@pytest.mark.parametrize(("joint", "place"), [(0.0, 0), (1.0, -1)])
def test_a_joined_stroke_sets_out_from_the_one_before(joint, place):
    before, after = strokes(
        joint=[np.nan, joint], heading=[0, 1], start=[[3, 4], [0, 0]]
    ).points()
    gap = np.linalg.norm(after[0] - before[place])
    np.testing.assert_allclose(gap, 1 / glyphs.POINTS)


def test_ink_is_the_density_of_spots():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (2, 3, 10, 2))
    steps = rng.uniform(0, 0.2, (2, 3, 10))
    width = rng.uniform(0.1, 0.2, (2, 3))
    ink = glyphs._ink(points, steps, width, 8)
    centres = (np.arange(8) + 0.5) / 4 - 1
    x, y = np.meshgrid(centres, centres)
    expected = np.zeros((2, 3, 8, 8))
    for image in np.ndindex(2, 3):
        w = width[image]
        for (px, py), step in zip(points[image], steps[image], strict=True):
            spot = np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * w**2))
            expected[image] += glyphs.GAIN * step * spot / (w * math.sqrt(2 * math.pi))
    assert (expected > 1).any()  # somewhere it is cut off
    np.testing.assert_allclose(ink, 255 * np.minimum(expected, 1), atol=0.51)


def test_larger_images_show_the_same_drawings():
    small = make_glyphs(10, 2, size=28, random_state=0).X
    large = make_glyphs(10, 2, size=112, random_state=0).X
    assert large.shape == (20, 112, 112)
    means = large.reshape(-1, 28, 4, 28, 4).mean(axis=(2, 4))
    assert np.corrcoef(small.ravel(), means.ravel())[0, 1] > 0.98


# Tasks.


def test_tasks_have_local_labels_and_characters_of_their_own():
    tasks = Glyphs(n_way=3, n_samples=2, size=14, variation=0).sample(4, random_state=0)
    assert isinstance(Glyphs(), TaskDistribution)
    assert isinstance(tasks, TaskSet)
    assert tasks.labels == "local"
    for task in tasks:
        assert task.X.shape == (6, 14, 14)
        assert task.X.dtype == np.uint8
        assert task.y.tolist() == [0, 0, 1, 1, 2, 2]
    characters = np.concatenate([task.X[::2] for task in tasks])
    assert len(np.unique(characters, axis=0)) == 12


def test_tasks_follow_the_seed():
    def images(random_state):
        return Glyphs(n_samples=2, size=14).sample(2, random_state).rows().X

    np.testing.assert_array_equal(images(0), images(0))
    assert not np.array_equal(images(0), images(1))


def test_a_meta_learner_takes_the_distribution():
    source = Glyphs(n_way=2, n_samples=2, size=16)
    meta = ProtoNetClassifier(
        n_shot=1, n_query=1, batch_size=2, max_iter=2, random_state=0, device="cpu"
    ).fit(source)
    task = source.sample(1, random_state=9)[0]
    model = meta.adapt(task.X[::2], task.y[::2])
    assert model.predict(task.X).shape == (4,)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples must be an int of at least 1, got 0"),
        ({"size": 28.0}, ValueError, "size must be an int of at least 1, got 28.0"),
        ({"variation": -1}, ValueError, "variation == -1, must be >= 0"),
        ({"variation": 11}, ValueError, "variation must be at most 10, got 11"),
        ({"variation": math.nan}, ValueError, "variation must be finite, got nan"),
        ({"variation": "much"}, TypeError, "variation must be an instance of"),
    ],
)
def test_values_that_cannot_be_drawn_from_are_refused(parameters, error, message):
    with pytest.raises(error, match=message):
        make_glyphs(2, **parameters)
    with pytest.raises(error, match=message):
        Glyphs(**parameters)


def test_no_classes_and_no_tasks_are_refused():
    with pytest.raises(ValueError, match="n_classes must be an int of at least 1"):
        make_glyphs(0)
    with pytest.raises(ValueError, match="n_way must be an int of at least 1"):
        Glyphs(n_way=0)
    with pytest.raises(ValueError, match="n_tasks must be an int of at least 1"):
        Glyphs().sample(0)
