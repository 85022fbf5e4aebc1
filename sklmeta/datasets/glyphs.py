r"""Made-up handwriting: endless characters of a few strokes, drawn again and again.

A character is two to four strokes. The pen writes each along a heading that turns
steadily, with or without one corner,

.. math:: \theta(t) = \theta_0 + b_1 \min(t, c) + b_2 \max(t - c, 0)
   + \gamma \, [t > c], \qquad
   p(t) = p_0 + \ell \int_0^t (\cos \theta(s), \sin \theta(s)) \, ds, \quad
   t \in [0, 1],

and mostly sets out from the stroke before. A drawing of the character is the same
strokes with other numbers close by, then turned, slanted, stretched and shifted a
little, in a pen of another width. The ink of a pixel is the density, cut off at black,
of the Gaussian spots that the pen leaves all along its way.

How much drawings differ is set so that nearest neighbours among raw pixels find these
characters about as hard as Omniglot's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sklmeta._parameters import check_not_negative
from sklmeta.datasets._random import RandomStateLike, as_generator
from sklmeta.datasets.sinusoids import check_count
from sklmeta.tasks import ClassPool, TaskDistribution, TaskSet

__all__ = ["Glyphs", "make_glyphs"]

Array = NDArray[np.float64]
Singles = NDArray[np.float32]

MOST_STROKES = 4
POINTS = 40  # of a stroke
DRAWINGS_AT_ONCE = 256
TWO_STROKES, THREE_STROKES = 0.45, 0.35  # shares of characters; the others have four
STRAIGHT, CORNERLESS, JOINED = 0.3, 0.5, 0.7  # shares of strokes
# Half of the image is 1. Lengths, scales and the pen's width vary as logarithms.
REACH = (0.5, 0.85)  # from the middle to the furthest ink
PEN = 0.038
GAIN = 1.6  # ink in the middle of a line before black cuts it off
# Standard deviations between drawings, in halves of the image and in radians.
START, HEADING, BEND, CORNER, LENGTH = 0.05, 0.1, 0.3, 0.2, 0.12
ROTATION, SLANT, SCALE, SHIFT, WIDTH = 0.08, 0.12, 0.13, 0.1, 0.12
MOST_VARIATION = 10
# How many numbers make a character, and a drawing of it.
OF_STROKE, OF_CHARACTER = 9, 2
JITTER_OF_STROKE, JITTER_OF_DRAWING = 7, 7


@dataclass(frozen=True)
class Glyphs(TaskDistribution):
    """Distribution of tasks that tell made-up characters apart, all of them new.

    Every task has characters of its own, so that `fit` never sees one twice.

    Parameters
    ----------
    n_way : int, default=5
        Characters of a task.
    n_samples : int, default=20
        Drawings of each character.
    size : int, default=28
        Side of the images in pixels.
    variation : float, default=1.0
        How much drawings of a character differ, 0 to 10; see `make_glyphs`.

    Raises
    ------
    ValueError
        If a count is below 1 or `variation` is not between 0 and 10.
    TypeError
        If `variation` is no number.

    See Also
    --------
    make_glyphs : A fixed set of characters, as a pool of classes.

    Examples
    --------
    >>> from sklmeta.datasets import Glyphs
    >>> tasks = Glyphs(n_way=5, n_samples=6).sample(3, random_state=0)
    >>> tasks
    TaskSet(3 tasks, 30 rows each, 28 x 28, labels='local')
    >>> tasks[0].y[::6]
    array([0, 1, 2, 3, 4])
    """

    n_way: int = 5
    n_samples: int = 20
    size: int = 28
    variation: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values that no task can be drawn from."""
        check_count("n_way", self.n_way)
        _check(self.n_samples, self.size, self.variation)

    def sample(self, n_tasks: int, random_state: RandomStateLike = None) -> TaskSet:
        """Draw tasks.

        Parameters
        ----------
        n_tasks : int
            How many tasks.
        random_state : int, RandomState, Generator or None, default=None
            An int gives the same tasks each time; a generator moves on.

        Returns
        -------
        tasks : TaskSet of length n_tasks
            Tasks with X of shape (n_way * n_samples, size, size), uint8, ink 255 on 0,
            and local labels 0 to n_way - 1, character after character.
        """
        check_count("n_tasks", n_tasks)
        images = _drawings(
            random_state,
            n_tasks * self.n_way,
            self.n_samples,
            self.size,
            self.variation,
        )
        y = np.tile(np.repeat(np.arange(self.n_way), self.n_samples), n_tasks)
        offsets = np.arange(n_tasks + 1) * (self.n_way * self.n_samples)
        return TaskSet.from_offsets(images, y, offsets, labels="local")


def make_glyphs(
    n_classes: int = 100,
    n_samples: int = 20,
    *,
    size: int = 28,
    variation: float = 1.0,
    random_state: RandomStateLike = None,
) -> ClassPool:
    """Make a pool of made-up handwritten characters: Omniglot without a download.

    Each class is a few random strokes; each row draws them once more, as another hand
    would. The images have the form of `fetch_omniglot`'s.

    Parameters
    ----------
    n_classes : int, default=100
        How many characters.
    n_samples : int, default=20
        Drawings of each character.
    size : int, default=28
        Side of the images in pixels.
    variation : float, default=1.0
        How much drawings of a character differ, 0 to 10: 0 makes all of them equal, 1
        makes characters about as hard to tell apart by their pixels as Omniglot's.
    random_state : int, RandomState, Generator or None, default=None
        An int gives the same characters each time. With an int, more classes or more
        samples add to those of a smaller call, which stay the same.

    Returns
    -------
    pool : ClassPool of length n_classes
        X of shape (n_classes * n_samples, size, size), uint8, ink 255 on 0; y holds 0
        to n_classes - 1. Rows are ordered by class.

    Raises
    ------
    ValueError
        If a count is below 1 or `variation` is not between 0 and 10.
    TypeError
        If `variation` is no number.

    See Also
    --------
    Glyphs : Endless tasks of such characters, for `fit`.
    fetch_omniglot : 1,623 characters that people drew.

    Notes
    -----
    The nearest class mean of raw pixels tells five characters apart, from one drawing
    each, in 44 % of Omniglot's drawings and in 46 % of these; from five each, in 72 %
    and 71 %.

    Strokes as the parts of which characters are made are the idea of Omniglot's
    authors [1]_; their model of strokes is learned from drawings, this one is not.

    References
    ----------
    .. [1] Lake, B. M., Salakhutdinov, R. & Tenenbaum, J. B. (2015). Human-level
       concept learning through probabilistic program induction. Science
       350(6266):1332-1338.

    Examples
    --------
    >>> from sklmeta.datasets import make_glyphs
    >>> pool = make_glyphs(n_classes=50, random_state=0)
    >>> pool
    ClassPool(50 classes, 20 rows each, rows of shape (28, 28))
    >>> train, test = pool[:40], pool[40:]
    """
    check_count("n_classes", n_classes)
    _check(n_samples, size, variation)
    images = _drawings(random_state, n_classes, n_samples, size, variation)
    return ClassPool(images, np.repeat(np.arange(n_classes), n_samples))


def _check(n_samples: int, size: int, variation: float) -> None:
    check_count("n_samples", n_samples)
    check_count("size", size)
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels for strokes, got {size}.")
    check_not_negative("variation", variation)
    if variation > MOST_VARIATION:
        raise ValueError(
            f"variation must be at most {MOST_VARIATION}, got {variation!r}: beyond, "
            "little ink is left within the image."
        )


def _drawings(
    random_state: RandomStateLike,
    n_classes: int,
    n_samples: int,
    size: int,
    variation: float,
) -> NDArray[np.uint8]:
    """Return images, (n_classes * n_samples, size, size), character after character."""
    key = int(as_generator(random_state).integers(2**63))
    images = np.empty((n_classes, n_samples, size, size), dtype=np.uint8)
    step = max(1, DRAWINGS_AT_ONCE // n_samples)
    for start in range(0, n_classes, step):
        own = range(start, min(start + step, n_classes))
        uniform, normal = _random_numbers(key, own, n_samples)
        points, steps, width = _handwriting(uniform, variation * normal)
        for first in range(0, n_samples, DRAWINGS_AT_ONCE):
            some = slice(first, first + DRAWINGS_AT_ONCE)
            images[start : own.stop, some] = _ink(
                points[:, some], steps[:, some], width[:, some], size
            )
    return images.reshape(-1, size, size)


def _random_numbers(key: int, classes: range, n_samples: int) -> tuple[Array, Array]:
    """Draw what makes characters, (C, numbers), and drawings, (C, samples, numbers).

    Every character has a generator of its own, and its drawings come one by one: both
    stay the same when there are more of them.
    """
    uniform = np.empty((len(classes), MOST_STROKES * OF_STROKE + OF_CHARACTER))
    n_normal = MOST_STROKES * JITTER_OF_STROKE + JITTER_OF_DRAWING
    normal = np.empty((len(classes), n_samples, n_normal))
    for place, number in enumerate(classes):
        rng = np.random.default_rng([key, number])
        rng.random(out=uniform[place])
        rng.standard_normal(out=normal[place])
    return uniform, normal


@dataclass(frozen=True)
class _Strokes:
    """Strokes: arrays of shape (..., MOST_STROKES), those in the plane with a 2 behind.

    `joint` says where on the stroke before one sets out, from 0 to 1; NaN means the
    origin. `start` is added to that. Bends are in radians a unit of t.
    """

    start: Array
    heading: Array
    bends: Array  # before and after the corner
    corner: Array
    corner_at: Array
    length: Array
    joint: Array

    @classmethod
    def of_characters(cls, u: Array) -> _Strokes:
        """Make strokes of uniform numbers, (..., MOST_STROKES, OF_STROKE)."""
        joint = np.where(u[..., 8] < JOINED, u[..., 8] / JOINED, np.nan)
        joint[..., 0] = np.nan
        # Ends are where strokes join more often than elsewhere.
        joint = np.clip(1.6 * joint - 0.3, 0, 1)
        free = np.isnan(joint)[..., None]
        # Most headings are near a multiple of 45 degrees.
        eighths = 8 * u[..., 2]
        eighths = np.rint(eighths) + 0.4 * (eighths - np.rint(eighths))
        bends = _signed((u[..., 3:5] - STRAIGHT) / (1 - STRAIGHT), 0, 5)
        corner = _signed((u[..., 5] - CORNERLESS) / (1 - CORNERLESS), 1, 2.6)
        return cls(
            start=np.where(free, 1.6 * u[..., 0:2] - 0.8, 0),
            heading=math.pi / 4 * eighths,
            bends=bends,
            corner=corner,
            corner_at=0.3 + 0.4 * u[..., 6],
            length=0.5 + 1.2 * u[..., 7],
            joint=joint,
        )

    def in_drawings(self, normal: Array) -> _Strokes:
        """Jitter the strokes by normal numbers, (C, n, MOST_STROKES, 7)."""
        return _Strokes(
            start=self.start[:, None] + START * normal[..., 0:2],
            heading=self.heading[:, None] + HEADING * normal[..., 2],
            bends=self.bends[:, None] + BEND * normal[..., 3:5],
            corner=self.corner[:, None] + CORNER * normal[..., 5],
            corner_at=self.corner_at[:, None],
            length=self.length[:, None] * np.exp(LENGTH * normal[..., 6]),
            joint=self.joint[:, None],
        )

    def points(self) -> Array:
        """Return where the pen goes, (..., MOST_STROKES, POINTS, 2)."""
        t = (np.arange(POINTS) + 0.5) / POINTS
        c = self.corner_at[..., None]
        heading = (
            self.heading[..., None]
            + self.bends[..., :1] * np.minimum(t, c)
            + self.bends[..., 1:] * np.maximum(t - c, 0)
            + self.corner[..., None] * (t > c)
        )
        directions = np.stack([np.cos(heading), np.sin(heading)], axis=-1)
        steps = directions * (self.length / POINTS)[..., None, None]
        points = steps.cumsum(axis=-2) + self.start[..., None, :]
        joint = np.broadcast_to(self.joint, self.heading.shape)
        last = POINTS - 1
        at = np.rint(np.nan_to_num(joint) * last).astype(np.intp)[..., None, None]
        for j in range(1, MOST_STROKES):
            before = points[..., j - 1, :, :]
            place = np.take_along_axis(before, at[..., j, :, :], axis=-2)
            joined = ~np.isnan(joint[..., j, None, None])
            points[..., j, :, :] += np.where(joined, place, 0)
        return points


def _signed(u: Array, low: float, high: float) -> Array:
    """Turn uniform numbers into sizes of either sign; negative ones into 0."""
    size = low + (high - low) * np.abs(2 * u - 1)
    return np.where(u < 0, 0, np.copysign(size, 2 * u - 1))


def _handwriting(uniform: Array, normal: Array) -> tuple[Array, Array, Array]:
    """Write every drawing of some characters.

    Returns
    -------
    points : ndarray of shape (C, n, MOST_STROKES * POINTS, 2)
        Spots of ink, x to the right and y down, between -1 and 1 within the image.
    steps : ndarray of shape (C, n, MOST_STROKES * POINTS)
        How far the pen went from spot to spot; 0 where there is no stroke.
    width : ndarray of shape (C, n)
        Standard deviation of the spots.
    """
    n_classes, n_samples, _ = normal.shape
    of_strokes, whole = np.split(uniform, [MOST_STROKES * OF_STROKE], axis=-1)
    strokes = _Strokes.of_characters(
        of_strokes.reshape(n_classes, MOST_STROKES, OF_STROKE)
    )
    of_strokes, jitter = np.split(normal, [MOST_STROKES * JITTER_OF_STROKE], axis=-1)
    drawn = strokes.in_drawings(
        of_strokes.reshape(n_classes, n_samples, MOST_STROKES, JITTER_OF_STROKE)
    )
    shares = np.array([TWO_STROKES, TWO_STROKES + THREE_STROKES])
    n_strokes = 2 + np.searchsorted(shares, whole[:, 0])
    is_there = np.arange(MOST_STROKES) < n_strokes[:, None]  # (C, strokes)
    centre, scale = _frame(strokes.points(), is_there, whole[:, 1])
    points = (drawn.points() - centre) * scale
    steps = scale[..., 0] * (drawn.length / POINTS * is_there[:, None])[..., None]
    steps = np.broadcast_to(steps, points.shape[:-1])
    return (
        _moved(points, jitter[..., :6]).reshape(n_classes, n_samples, -1, 2),
        steps.reshape(n_classes, n_samples, -1),
        PEN * np.exp(WIDTH * jitter[..., 6]),
    )


def _frame(points: Array, is_there: NDArray[np.bool_], u: Array) -> tuple[Array, Array]:
    """Return the centre of characters, and the scale that gives them their reach."""
    there = is_there[..., None, None]
    low = np.where(there, points, np.inf).min(axis=(1, 2))
    high = np.where(there, points, -np.inf).max(axis=(1, 2))
    centre = (low + high) / 2  # (C, 2)
    smallest, largest = REACH
    reach = smallest + (largest - smallest) * u
    scale = 2 * reach / (high - low).max(axis=-1)
    return centre[:, None, None, None, :], scale[:, None, None, None, None]


def _moved(points: Array, normal: Array) -> Array:
    """Turn, slant, stretch and shift drawings, (C, n, ..., 2)."""
    rotation, slant, wide, high, right, down = np.moveaxis(normal, -1, 0)[
        ..., None, None
    ]
    x = points[..., 0] * np.exp(SCALE * wide)
    y = points[..., 1] * np.exp(SCALE * high)
    x = x + SLANT * slant * y
    cos, sin = np.cos(ROTATION * rotation), np.sin(ROTATION * rotation)
    moved = [cos * x - sin * y + SHIFT * right, sin * x + cos * y + SHIFT * down]
    return np.stack(moved, axis=-1)


def _ink(spots: Array, steps: Array, widths: Array, size: int) -> NDArray[np.uint8]:
    r"""Return the ink of images, (C, n, size, size).

    The density at a pixel, :math:`\sum_p s_p \exp(-d_p^2 / 2 w^2) / (w \sqrt{2 \pi})`,
    is 1 in the middle of a long line. Gaussian spots are products of a row and a
    column, so that the sum is one product of matrices.
    """
    places = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    width = widths.astype(np.float32)[..., None]
    pixels = places / width  # (C, n, size)
    x, y = np.moveaxis(spots.astype(np.float32), -1, 0) / width  # (C, n, spots)
    amount = (
        steps.astype(np.float32) * np.float32(GAIN / math.sqrt(2 * math.pi)) / width
    )
    rows, columns = _spots(y, pixels) * amount[..., None], _spots(x, pixels)
    density = np.swapaxes(rows, -1, -2) @ columns
    return np.rint(255 * np.minimum(density, 1)).astype(np.uint8)


def _spots(at: Singles, pixels: Singles) -> Singles:
    """Return Gaussian profiles, (C, n, spots, size), in units of their width."""
    distance = pixels[..., None, :] - at[..., None]
    np.square(distance, out=distance)
    distance *= np.float32(-0.5)
    # Far away nothing is left, but numbers close to the smallest ones are slow.
    np.maximum(distance, np.float32(-20), out=distance)
    return np.exp(distance, out=distance)
