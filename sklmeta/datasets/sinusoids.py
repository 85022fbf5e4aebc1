r"""Sine waves as regression tasks: the toy problem of MAML's paper.

Each task is one wave

.. math:: y = A \sin(x - \varphi) + \epsilon, \qquad
   A \sim U[0.1, 5], \; \varphi \sim U[0, \pi], \; x \sim U[-5, 5].

A few points fix a wave for whoever knows that it is one. A pooled model only learns
the average of all waves, and a model per task has too few rows.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sklmeta.datasets._random import RandomStateLike, as_generator
from sklmeta.tasks import TaskDistribution, TaskSet

__all__ = ["Sinusoids", "make_sinusoids"]

Range = tuple[float, float]


@dataclass(frozen=True)
class Sinusoids(TaskDistribution):
    """Distribution of sine-wave regression tasks, for endless fresh tasks in `fit`.

    The defaults are those of MAML's paper [1]_, section 5.1; as in its code, the phase
    is subtracted.

    Parameters
    ----------
    amplitude : tuple of two floats, default=(0.1, 5.0)
        Lowest and highest amplitude of a task.
    phase : tuple of two floats, default=(0, pi)
        Lowest and highest phase of a task, in radians.
    x_range : tuple of two floats, default=(-5.0, 5.0)
        Lowest and highest x of a row.
    n_samples : int, default=20
        Rows of each task.
    noise : float, default=0.0
        Standard deviation of the normal noise added to y.

    Raises
    ------
    ValueError
        If a range does not ascend, `n_samples` is below 1 or `noise` below 0.

    See Also
    --------
    make_sinusoids : A fixed set of such tasks.

    References
    ----------
    .. [1] Finn, C., Abbeel, P. & Levine, S. (2017). Model-agnostic meta-learning for
       fast adaptation of deep networks. ICML. arXiv:1703.03400

    Examples
    --------
    >>> from sklmeta.datasets import Sinusoids
    >>> tasks = Sinusoids(n_samples=10).sample(3, random_state=0)
    >>> len(tasks), tasks[0].X.shape, tasks[0].y.shape
    (3, (10, 1), (10,))
    """

    amplitude: Range = (0.1, 5.0)
    phase: Range = (0.0, math.pi)
    x_range: Range = (-5.0, 5.0)
    n_samples: int = 20
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that no task can be drawn from."""
        for name in ("amplitude", "phase", "x_range"):
            check_range(name, getattr(self, name))
        check_count("n_samples", self.n_samples)
        check_noise(self.noise)

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
        amplitude = uniform(rng, self.amplitude, (n_tasks, 1))
        phase = uniform(rng, self.phase, (n_tasks, 1))
        x = uniform(rng, self.x_range, (n_tasks, self.n_samples))  # (T, rows)
        y = amplitude * np.sin(x - phase)
        if self.noise:
            y += self.noise * rng.standard_normal(y.shape, dtype=np.float32)
        offsets = np.arange(n_tasks + 1) * self.n_samples
        return TaskSet.from_offsets(x.reshape(-1, 1), y.ravel(), offsets)


def make_sinusoids(
    n_tasks: int = 100,
    n_samples: int = 20,
    *,
    noise: float = 0.0,
    amplitude: Range = (0.1, 5.0),
    phase: Range = (0.0, math.pi),
    x_range: Range = (-5.0, 5.0),
    random_state: RandomStateLike = None,
) -> TaskSet:
    """Make a set of sine-wave regression tasks.

    Parameters
    ----------
    n_tasks : int, default=100
        How many tasks.
    n_samples : int, default=20
        Rows of each task.
    noise : float, default=0.0
        Standard deviation of the normal noise added to y.
    amplitude : tuple of two floats, default=(0.1, 5.0)
        Lowest and highest amplitude of a task.
    phase : tuple of two floats, default=(0, pi)
        Lowest and highest phase of a task, in radians.
    x_range : tuple of two floats, default=(-5.0, 5.0)
        Lowest and highest x of a row.
    random_state : int, RandomState, Generator or None, default=None
        An int gives the same tasks each time.

    Returns
    -------
    tasks : TaskSet of length n_tasks
        Tasks with X of shape (n_samples, 1) and y of shape (n_samples,), float32.

    Raises
    ------
    ValueError
        If a range does not ascend, a count is below 1 or `noise` below 0.

    See Also
    --------
    Sinusoids : The distribution they are drawn from; `fit` takes it too.

    References
    ----------
    .. [1] Finn, C., Abbeel, P. & Levine, S. (2017). Model-agnostic meta-learning for
       fast adaptation of deep networks. ICML. arXiv:1703.03400

    Examples
    --------
    >>> from sklmeta.datasets import make_sinusoids
    >>> tasks = make_sinusoids(n_tasks=8, n_samples=15, random_state=0)
    >>> X_support, y_support = tasks[0].X[:5], tasks[0].y[:5]
    >>> X_support.shape, y_support.shape
    ((5, 1), (5,))
    """
    waves = Sinusoids(amplitude, phase, x_range, n_samples, noise)
    return waves.sample(n_tasks, random_state)


def uniform(
    rng: Generator, bounds: Range, shape: tuple[int, ...], dtype: Any = np.float32
) -> NDArray[Any]:
    """Draw uniformly; by default in single precision, which networks compute in."""
    low, high = bounds
    as_type = np.dtype(dtype).type
    return as_type(low) + as_type(high - low) * rng.random(shape, dtype=dtype)


def check_range(name: str, bounds: Any, *, positive: bool = False) -> None:
    """Raise ValueError unless `bounds` are two numbers that ascend."""
    if not _ascend(bounds) or (positive and bounds[0] <= 0):
        above = " above 0" if positive else ""
        raise ValueError(
            f"{name} must be two finite numbers{above}, (low, high) with low <= high, "
            f"got {bounds!r}."
        )


def _ascend(bounds: Any) -> bool:
    try:
        pair = np.asarray(bounds)
    except ValueError:  # sequences of several lengths
        return False
    if pair.shape != (2,) or pair.dtype.kind not in "iuf":
        return False
    return bool(np.isfinite(pair).all() and pair[0] <= pair[1])


def check_count(name: str, count: Any) -> None:
    """Raise ValueError unless `count` is an int of at least 1."""
    if not is_count(count):
        raise ValueError(f"{name} must be an int of at least 1, got {count!r}.")


def is_count(count: Any) -> bool:
    """Tell ints of at least 1; True is none."""
    is_int = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    return is_int and bool(count >= 1)


def check_noise(noise: Any) -> None:
    """Raise ValueError unless `noise` is a finite number that is not negative."""
    if not isinstance(noise, numbers.Real) or not 0 <= float(noise) < math.inf:
        raise ValueError(f"noise must be a number >= 0, got {noise!r}.")
