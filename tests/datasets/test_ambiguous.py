"""Tasks whose support leaves open what they are: ranges, noise, seeds, refusals."""

import numpy as np
import pytest

from sklmeta.datasets import AmbiguousAttributes, SinusoidsOrLines
from sklmeta.tasks import TaskDistribution, TaskSet

KINDS = [SinusoidsOrLines, AmbiguousAttributes]


def fit(X, y, kind):
    """Least squares of a line or a wave: (coefficients, largest residual)."""
    x = np.asarray(X, dtype=float)[:, 0]
    terms = [x, np.ones_like(x)] if kind == "line" else [np.sin(x), -np.cos(x)]
    design = np.column_stack(terms)
    coefficients = np.linalg.lstsq(design, np.asarray(y, dtype=float), rcond=None)[0]
    return coefficients, np.abs(design @ coefficients - y).max()


@pytest.fixture(scope="module")
def clean():
    return SinusoidsOrLines(noise=0).sample(1000, random_state=0)


@pytest.fixture(scope="module")
def laws(clean):
    """Return the coefficients of lines and of waves among noise-free tasks."""
    found = {"line": [], "wave": []}
    for task in clean:
        fits = {kind: fit(task.X, task.y, kind) for kind in found}
        (kind,) = (kind for kind, (_, residual) in fits.items() if residual < 1e-4)
        found[kind].append(fits[kind][0])
    return {kind: np.array(own) for kind, own in found.items()}


def test_half_of_the_tasks_are_waves(laws):
    assert len(laws["wave"]) + len(laws["line"]) == 1000
    assert 450 < len(laws["wave"]) < 550


def test_waves_are_within_the_ranges_of_the_paper(laws):
    a, b = laws["wave"].T  # A sin(x - p) = A cos(p) sin x - A sin(p) cos x
    amplitude, phase = np.hypot(a, b), np.arctan2(b, a)
    assert 0.1 - 1e-4 <= amplitude.min() < 0.3
    assert 4.8 < amplitude.max() <= 5 + 1e-4
    assert -1e-3 <= phase.min() < 0.1
    assert 3 < phase.max() <= np.pi + 1e-3


def test_lines_are_within_the_ranges_of_the_paper(laws):
    assert (np.abs(laws["line"]) <= 3 + 1e-4).all()
    assert (laws["line"].max(0) > 2.9).all()
    assert (laws["line"].min(0) < -2.9).all()
    slope, intercept = laws["line"].T
    assert abs(np.corrcoef(slope, intercept)[0, 1]) < 0.15


def test_rows_are_within_their_range(clean):
    x = clean.rows().X
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5
    assert clean.rows().y.dtype == x.dtype == np.float32


def test_noise_has_the_asked_standard_deviation(clean):
    noisy = SinusoidsOrLines(noise=0.5).sample(1000, random_state=0)
    np.testing.assert_array_equal(noisy.rows().X, clean.rows().X)
    errors = noisy.rows().y - clean.rows().y
    assert errors.std() == pytest.approx(0.5, rel=0.03)
    assert abs(errors.mean()) < 0.02
    usual = SinusoidsOrLines().sample(1000, random_state=0).rows().y
    assert (usual - clean.rows().y).std() == pytest.approx(0.3, rel=0.03)


def test_support_is_of_its_own_range():
    tasks = SinusoidsOrLines(support_range=(1, 2), n_support=4, n_samples=9)
    found = tasks.sample(200, random_state=0)
    support = np.stack([task.support for task in found])
    np.testing.assert_array_equal(support, np.tile(np.arange(9) < 4, (200, 1)))
    x = np.stack([task.X[:, 0] for task in found])
    assert 1 <= x[:, :4].min() < 1.05
    assert 1.95 < x[:, :4].max() <= 2
    assert x[:, 4:].min() < -4.9
    assert x[:, 4:].max() > 4.9


def test_without_a_range_of_its_own_support_is_left_to_episodes():
    assert SinusoidsOrLines().sample(2, random_state=0)[0].support is None


def test_support_of_attributes_fits_every_attribute():
    tasks = AmbiguousAttributes(n_attributes=3, n_support=6, n_samples=30)
    for task in tasks.sample(50, random_state=0):
        np.testing.assert_array_equal(task.support, np.arange(30) < 6)
        np.testing.assert_array_equal(task.y[:6], [1, 0, 1, 0, 1, 0])
        positive = task.X[:6] > 0
        np.testing.assert_array_equal(positive, np.tile(task.y[:6, None], (1, 3)) > 0)


def test_one_attribute_explains_all_rows_each_as_often():
    tasks = AmbiguousAttributes(n_attributes=3, n_samples=40)
    counts = np.zeros(3)
    for task in tasks.sample(600, random_state=0):
        explains = ((task.X > 0) == (task.y[:, None] == 1)).all(0)
        assert explains.sum() == 1
        counts += explains
    assert (abs(counts - 200) < 50).all()


def test_attributes_are_uniform_and_independent():
    tasks = AmbiguousAttributes(n_samples=104).sample(100, random_state=0)
    X = np.concatenate([task.X[~task.support] for task in tasks])
    assert X.dtype == np.float32
    assert (np.abs(X) <= 1).all() and (X != 0).all()
    np.testing.assert_allclose(X.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(X.std(0), 3**-0.5, rtol=0.02)
    assert abs(np.corrcoef(X.T)[0, 1]) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_decide_what_is_drawn(kind):
    tasks = kind()
    assert isinstance(tasks, TaskDistribution)
    found = [tasks.sample(6, random_state=seed) for seed in (0, 0, 1)]
    assert isinstance(found[0], TaskSet) and found[0].shape == (6,)
    first, again, other = (one.rows() for one in found)
    np.testing.assert_array_equal(first.X, again.X)
    np.testing.assert_array_equal(first.y, again.y)
    assert not np.array_equal(first.X, other.X)
    rng = np.random.default_rng(0)
    one, two = (tasks.sample(6, rng).rows().X for _ in range(2))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (SinusoidsOrLines, {"slope": (2, 1)}, r"slope must be .* got \(2, 1\)"),
        (SinusoidsOrLines, {"intercept": (0,)}, r"intercept must be .* got \(0,\)"),
        (SinusoidsOrLines, {"amplitude": (1, np.inf)}, "amplitude must be two finite"),
        (SinusoidsOrLines, {"support_range": (1, -1)}, "support_range must be"),
        (SinusoidsOrLines, {"n_samples": 0}, "n_samples must be an int of at least 1"),
        (SinusoidsOrLines, {"noise": "x"}, "noise must be a number >= 0, got 'x'"),
        (SinusoidsOrLines, {"noise": -0.1}, "noise must be a number >= 0, got -0.1"),
        (SinusoidsOrLines, {"noise": np.nan}, "noise must be a number >= 0, got nan"),
        (
            SinusoidsOrLines,
            {"support_range": (-1, 1), "n_support": 20},
            "n_support must be below n_samples=20, .* got 20",
        ),
        (AmbiguousAttributes, {"n_attributes": 0}, "n_attributes must be an int"),
        (AmbiguousAttributes, {"n_samples": 1.5}, "n_samples must be an int .* 1.5"),
        (AmbiguousAttributes, {"n_support": 0}, "n_support must be an int"),
        (
            AmbiguousAttributes,
            {"n_support": 24},
            "n_support must be below n_samples=24",
        ),
    ],
)
def test_unusable_parameters_are_refused(kind, parameters, message):
    with pytest.raises(ValueError, match=message):
        kind(**parameters)


@pytest.mark.parametrize("kind", KINDS)
def test_no_tasks_are_refused(kind):
    with pytest.raises(ValueError, match="n_tasks must be an int of at least 1, got 0"):
        kind().sample(0)


def test_number_of_support_rows_is_free_where_episodes_draw_them():
    tasks = SinusoidsOrLines(n_samples=3, n_support=5)
    assert tasks.sample(1, random_state=0)[0].X.shape == (3, 1)
