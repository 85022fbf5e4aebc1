r"""Few-shot problems whose support rows leave open what the task is.

A point estimate has to settle for one answer, or for something between the answers that
is none of them. Methods that draw functions can be seen to draw from each.

Sinusoids or lines: a task is one of

.. math:: y = A \sin(x - \varphi) + \epsilon \quad\text{or}\quad y = a x + b + \epsilon,
   \qquad \epsilon \sim N(0, 0.3^2),

and few noisy rows in a narrow range could be of either.

Attributes: the class of a row is the sign of one of its attributes, another one in
each task, and in the support rows all attributes have the same sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sklmeta.datasets._random import RandomStateLike, as_generator
from sklmeta.datasets.sinusoids import (
    Range,
    check_count,
    check_noise,
    check_range,
    uniform,
)
from sklmeta.tasks import TaskDistribution, TaskSet

__all__ = ["AmbiguousAttributes", "SinusoidsOrLines"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class SinusoidsOrLines(TaskDistribution):
    """Distribution of regression tasks that are sine waves or lines, equally likely.

    The defaults are those of the paper of probabilistic MAML [1]_.

    Parameters
    ----------
    amplitude : tuple of two floats, default=(0.1, 5.0)
        Lowest and highest amplitude of a wave.
    phase : tuple of two floats, default=(0, pi)
        Lowest and highest phase of a wave, in radians.
    slope : tuple of two floats, default=(-3.0, 3.0)
        Lowest and highest slope of a line.
    intercept : tuple of two floats, default=(-3.0, 3.0)
        Lowest and highest value of a line at 0.
    x_range : tuple of two floats, default=(-5.0, 5.0)
        Lowest and highest x of a row.
    n_samples : int, default=20
        Rows of each task.
    noise : float, default=0.3
        Standard deviation of the normal noise added to y.
    support_range : tuple of two floats, default=None
        Lowest and highest x of the first `n_support` rows of each task, which are then
        its support (`Task.support`): a narrow range leaves more open. None leaves it to
        episodes to draw support rows.
    n_support : int, default=5
        Support rows of each task; only with `support_range`.

    Raises
    ------
    ValueError
        If a range does not ascend, a count is below 1, `noise` below 0, or no row is
        left beside the support.

    See Also
    --------
    Sinusoids : Waves only.

    References
    ----------
    .. [1] Finn, C., Xu, K. & Levine, S. (2018). Probabilistic model-agnostic
       meta-learning. NeurIPS. arXiv:1806.02817

    Examples
    --------
    >>> from sklmeta.datasets import SinusoidsOrLines
    >>> tasks = SinusoidsOrLines(support_range=(-1, 1)).sample(3, random_state=0)
    >>> len(tasks), tasks[0].X.shape, tasks[0].y.shape, int(tasks[0].support.sum())
    (3, (20, 1), (20,), 5)
    """

    amplitude: Range = (0.1, 5.0)
    phase: Range = (0.0, math.pi)
    slope: Range = (-3.0, 3.0)
    intercept: Range = (-3.0, 3.0)
    x_range: Range = (-5.0, 5.0)
    n_samples: int = 20
    noise: float = 0.3
    support_range: Range | None = None
    n_support: int = 5

    def __post_init__(self) -> None:
        """Refuse values that no task can be drawn from."""
        for name in ("amplitude", "phase", "slope", "intercept", "x_range"):
            check_range(name, getattr(self, name))
        check_count("n_samples", self.n_samples)
        check_noise(self.noise)
        if self.support_range is not None:
            check_range("support_range", self.support_range)
            _check_support(self.n_support, self.n_samples)

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
            Tasks with X of shape (n_samples, 1) and y of shape (n_samples,), float32.
        """
        check_count("n_tasks", n_tasks)
        rng = as_generator(random_state)
        is_wave = rng.random((n_tasks, 1)) < 0.5
        amplitude, phase, slope, intercept = (
            uniform(rng, bounds, (n_tasks, 1))
            for bounds in (self.amplitude, self.phase, self.slope, self.intercept)
        )
        x, support = self._inputs(rng, n_tasks)  # (T, rows)
        wave = amplitude * np.sin(x - phase)
        y = np.where(is_wave, wave, slope * x + intercept)
        if self.noise:
            y += self.noise * rng.standard_normal(y.shape, dtype=np.float32)
        return _task_set(x.reshape(-1, 1), y.astype(np.float32), support)

    def _inputs(
        self, rng: Generator, n_tasks: int
    ) -> tuple[Array, NDArray[np.bool_] | None]:
        """Return x (T, rows), and which rows are support if that is fixed."""
        x = uniform(rng, self.x_range, (n_tasks, self.n_samples))
        if self.support_range is None:
            return x, None
        own = uniform(rng, self.support_range, (n_tasks, self.n_support))
        x[:, : self.n_support] = own
        return x, _first(n_tasks, self.n_samples, self.n_support)


@dataclass(frozen=True)
class AmbiguousAttributes(TaskDistribution):
    """Distribution of two-class tasks of which the support fits several explanations.

    Attributes are uniform between -1 and 1, and the class of a row says whether one of
    them is positive, which one being drawn for each task. In a support row all
    attributes have the same sign: any of them explains it. The other rows tell.

    Parameters
    ----------
    n_attributes : int, default=2
        Features of a row, each a possible explanation.
    n_samples : int, default=24
        Rows of each task.
    n_support : int, default=4
        The first rows of each task, which are its support (`Task.support`): in turns of
        class 1 and of class 0.

    Raises
    ------
    ValueError
        If a count is below 1, or no row is left beside the support.

    Examples
    --------
    >>> from sklmeta.datasets import AmbiguousAttributes
    >>> task = AmbiguousAttributes().sample(1, random_state=0)[0]
    >>> task.y[:4], (task.X[:4] > 0).astype(int)
    (array([1, 0, 1, 0]), array([[1, 1],
           [0, 0],
           [1, 1],
           [0, 0]]))
    """

    n_attributes: int = 2
    n_samples: int = 24
    n_support: int = 4

    def __post_init__(self) -> None:
        """Refuse values that no task can be drawn from."""
        for name in ("n_attributes", "n_samples"):
            check_count(name, getattr(self, name))
        _check_support(self.n_support, self.n_samples)

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
            Tasks with X of shape (n_samples, n_attributes), float32, and labels 0 and 1
            of shape (n_samples,) that mean the same in every task.
        """
        check_count("n_tasks", n_tasks)
        rng = as_generator(random_state)
        shape = n_tasks, self.n_samples, self.n_attributes
        size = 1 - rng.random(shape, dtype=np.float32)  # no attribute is 0
        positive = rng.random(shape) < 0.5
        turn = np.arange(self.n_support) % 2 == 0
        positive[:, : self.n_support] = turn[:, None]
        explains = rng.integers(self.n_attributes, size=(n_tasks, 1, 1))
        y = np.take_along_axis(positive, explains, 2)[..., 0].astype(np.int64)
        x = np.where(positive, size, -size).reshape(-1, self.n_attributes)
        support = _first(n_tasks, self.n_samples, self.n_support)
        return _task_set(x, y, support)


def _task_set(x: Array, y: NDArray, support: NDArray[np.bool_] | None) -> TaskSet:
    """Return tasks of equally many rows; y and support are (T, rows)."""
    offsets = np.arange(len(y) + 1) * y.shape[1]
    flat = None if support is None else support.ravel()
    return TaskSet.from_offsets(x, y.ravel(), offsets, support=flat)


def _first(n_tasks: int, n_rows: int, n_support: int) -> NDArray[np.bool_]:
    """Return which rows are among the first of their task, (T, rows)."""
    return np.tile(np.arange(n_rows) < n_support, (n_tasks, 1))


def _check_support(n_support: int, n_samples: int) -> None:
    check_count("n_support", n_support)
    if n_support >= n_samples:
        raise ValueError(
            f"n_support must be below n_samples={n_samples}, so that a row is left to "
            f"predict, got {n_support!r}."
        )
