r"""Draws of Gaussian processes as regression tasks: functions of many kinds.

Each task has a covariance function of its own,

.. math:: f \sim \mathcal{GP}(0, \sigma^2 k(\cdot, \cdot)), \qquad
   y = f(x) + \epsilon, \qquad \epsilon \sim \mathcal N(0, \text{noise}^2),

with its length scale, and its output scale :math:`\sigma`, drawn uniformly. With
:math:`r = |x - x'| / \ell`, the kernels are

.. math:: k_\text{rbf} &= e^{-r^2 / 2}, \qquad
   k_\text{matern12} = e^{-r}, \\
   k_\text{matern32} &= (1 + \sqrt 3 r) e^{-\sqrt 3 r}, \qquad
   k_\text{matern52} = (1 + \sqrt 5 r + \tfrac{5}{3} r^2) e^{-\sqrt 5 r}, \\
   k_\text{periodic} &= \exp\Bigl(
   -\frac{2}{\ell^2} \sum_j \sin^2 \frac{\pi (x_j - x'_j)}{p} \Bigr).

For meta-learners that see few real tasks these are as many as are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from sklmeta.datasets._random import RandomStateLike, as_generator
from sklmeta.datasets.sinusoids import (
    Range,
    check_count,
    check_noise,
    check_range,
    is_count,
    uniform,
)
from sklmeta.tasks import TaskDistribution, TaskSet

__all__ = ["GaussianProcessTasks", "make_gaussian_process_tasks"]

Array = NDArray[np.float64]

# Of the output scale's square, added to the diagonal: a standard deviation of 1e-4
# makes the factorisation of smooth covariances possible.
JITTER = 1e-8
VALUES_AT_ONCE = 2**22  # entries of covariances: 32 MB


def _matern12(r2: Array) -> Array:
    return np.exp(-np.sqrt(r2))


def _matern32(r2: Array) -> Array:
    r = np.sqrt(3 * r2)
    return (1 + r) * np.exp(-r)


def _matern52(r2: Array) -> Array:
    r = np.sqrt(5 * r2)
    return (1 + r + r * r / 3) * np.exp(-r)


# Of squared distances over squared length scales; the periodic kernel, of chords.
_KERNELS: dict[str, Callable[[Array], Array]] = {
    "rbf": lambda r2: np.exp(-0.5 * r2),
    "matern12": _matern12,
    "matern32": _matern32,
    "matern52": _matern52,
    "periodic": lambda r2: np.exp(-0.5 * r2),
}


@dataclass(frozen=True)
class GaussianProcessTasks(TaskDistribution):
    """Distribution of regression tasks drawn from Gaussian processes.

    The defaults are those of the one-dimensional regression of transformer neural
    processes [1]_.

    Parameters
    ----------
    kernel : {"rbf", "matern12", "matern32", "matern52", "periodic"}, default="rbf"
        Covariance function.
    length_scale : tuple of two floats, default=(0.1, 0.6)
        Lowest and highest length scale of a task, the same for all features.
    output_scale : tuple of two floats, default=(0.1, 1.0)
        Lowest and highest standard deviation of a task's function.
    period : tuple of two floats, default=(0.1, 0.5)
        Lowest and highest period of a task; of the periodic kernel alone.
    noise : float, default=0.02
        Standard deviation of the normal noise added to y.
    x_range : tuple of two floats, default=(-2.0, 2.0)
        Lowest and highest value of a feature.
    n_features : int, default=1
        Features of a row, drawn uniformly.
    n_samples : int or (int, int), default=50
        Rows of each task: a number, or a range drawn per task.

    Raises
    ------
    ValueError
        If a range does not ascend or holds a scale of 0, a count is below 1, `noise` is
        below 0, or there is no such kernel.

    See Also
    --------
    make_gaussian_process_tasks : A fixed set of such tasks.
    MixedTasks : Mixes them with real tasks.

    References
    ----------
    .. [1] T. Nguyen, A. Grover, "Transformer Neural Processes: Uncertainty-Aware Meta
       Learning Via Sequence Modeling", ICML 2022, arXiv:2207.04179.

    Examples
    --------
    >>> from sklmeta.datasets import GaussianProcessTasks
    >>> tasks = GaussianProcessTasks("matern52", n_samples=(10, 30))
    >>> tasks.sample(200, random_state=0)
    TaskSet(200 tasks, 10 to 30 rows, 1 feature)
    """

    kernel: str = "rbf"
    length_scale: Range = (0.1, 0.6)
    output_scale: Range = (0.1, 1.0)
    period: Range = (0.1, 0.5)
    noise: float = 0.02
    x_range: Range = (-2.0, 2.0)
    n_features: int = 1
    n_samples: int | tuple[int, int] = 50

    def __post_init__(self) -> None:
        """Refuse values that no task can be drawn from."""
        if not isinstance(self.kernel, str) or self.kernel not in _KERNELS:
            raise ValueError(
                f"kernel must be one of {sorted(_KERNELS)}, got {self.kernel!r}."
            )
        for name in ("length_scale", "output_scale", "period"):
            check_range(name, getattr(self, name), positive=True)
        check_range("x_range", self.x_range)
        check_count("n_features", self.n_features)
        _row_counts(self.n_samples)
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
            Tasks with X of shape (n_samples, n_features) and y of shape (n_samples,),
            float32.
        """
        check_count("n_tasks", n_tasks)
        rng = as_generator(random_state)
        low, most = _row_counts(self.n_samples)
        shape = n_tasks, most, self.n_features
        x = uniform(rng, self.x_range, shape, np.float64)
        y = self._targets(x, rng)
        if low == most:
            offsets = np.arange(n_tasks + 1) * most
            return _task_set(x.reshape(-1, self.n_features), y.ravel(), offsets)
        # Some rows of a draw are a draw at these rows.
        counts = rng.integers(low, most, n_tasks, endpoint=True)
        kept = np.arange(most) < counts[:, None]
        return _task_set(x[kept], y[kept], np.concatenate([[0], counts.cumsum()]))

    def covariance(
        self,
        X: Any,
        *,
        length_scale: Any = 1.0,
        output_scale: Any = 1.0,
        period: Any = 1.0,
    ) -> NDArray[np.float64]:
        """Return the covariance of a task's function at some rows, without noise.

        Parameters
        ----------
        X : array-like of shape (..., n_rows, n_features)
            Rows.
        length_scale, output_scale, period : array-like of shape (...), default=1.0
            The task's own.

        Returns
        -------
        covariance : ndarray of shape (..., n_rows, n_rows)
            Symmetric.
        """
        X = np.asarray(X, dtype=np.float64)
        length, scale, period = (
            np.asarray(value, dtype=np.float64)[..., None, None]
            for value in (length_scale, output_scale, period)
        )
        difference = X[..., :, None, :] - X[..., None, :, :]
        if self.kernel == "periodic":
            difference = 2 * np.sin(np.pi * difference / period[..., None])
        r2 = np.square(difference).sum(-1) / length**2
        return scale**2 * _KERNELS[self.kernel](r2)

    def _targets(self, x: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
        """Draw targets (T, rows) at x (T, rows, F), as many tasks as memory allows."""
        n_tasks, n_rows, n_features = x.shape
        parameters = [
            uniform(rng, bounds, (n_tasks,), np.float64)
            for bounds in (self.length_scale, self.output_scale, self.period)
        ]
        # The noise of a row is a draw of its own: together with the function's they
        # are normal with the sum of both covariances.
        white = rng.standard_normal((n_tasks, n_rows))
        size = max(1, VALUES_AT_ONCE // (n_rows**2 * n_features))
        y = np.empty((n_tasks, n_rows))
        for start in range(0, n_tasks, size):
            own = slice(start, start + size)
            length, scale, period = (value[own] for value in parameters)
            covariance = self.covariance(
                x[own], length_scale=length, output_scale=scale, period=period
            )
            diagonal = np.einsum("...ii->...i", covariance)
            diagonal += (self.noise**2 + JITTER * scale**2)[:, None]
            root = np.linalg.cholesky(covariance)
            y[own] = (root @ white[own, :, None])[..., 0]
        return y


def make_gaussian_process_tasks(
    n_tasks: int = 100,
    n_samples: int | tuple[int, int] = 50,
    *,
    kernel: str = "rbf",
    length_scale: Range = (0.1, 0.6),
    output_scale: Range = (0.1, 1.0),
    period: Range = (0.1, 0.5),
    noise: float = 0.02,
    x_range: Range = (-2.0, 2.0),
    n_features: int = 1,
    random_state: RandomStateLike = None,
) -> TaskSet:
    """Make a set of regression tasks drawn from Gaussian processes.

    Parameters
    ----------
    n_tasks : int, default=100
        How many tasks.
    n_samples : int or (int, int), default=50
        Rows of each task: a number, or a range drawn per task.
    kernel : {"rbf", "matern12", "matern32", "matern52", "periodic"}, default="rbf"
        Covariance function.
    length_scale : tuple of two floats, default=(0.1, 0.6)
        Lowest and highest length scale of a task, the same for all features.
    output_scale : tuple of two floats, default=(0.1, 1.0)
        Lowest and highest standard deviation of a task's function.
    period : tuple of two floats, default=(0.1, 0.5)
        Lowest and highest period of a task; of the periodic kernel alone.
    noise : float, default=0.02
        Standard deviation of the normal noise added to y.
    x_range : tuple of two floats, default=(-2.0, 2.0)
        Lowest and highest value of a feature.
    n_features : int, default=1
        Features of a row, drawn uniformly.
    random_state : int, RandomState, Generator or None, default=None
        An int gives the same tasks each time.

    Returns
    -------
    tasks : TaskSet of length n_tasks
        Tasks with X of shape (n_samples, n_features) and y of shape (n_samples,),
        float32.

    Raises
    ------
    ValueError
        If a range does not ascend or holds a scale of 0, a count is below 1, `noise` is
        below 0, or there is no such kernel.

    See Also
    --------
    GaussianProcessTasks : The distribution they are drawn from; `fit` takes it too.

    Examples
    --------
    >>> from sklmeta.datasets import make_gaussian_process_tasks
    >>> tasks = make_gaussian_process_tasks(8, n_samples=15, random_state=0)
    >>> tasks[0].X.shape, tasks[0].y.shape
    ((15, 1), (15,))
    """
    tasks = GaussianProcessTasks(
        kernel,
        length_scale,
        output_scale,
        period,
        noise,
        x_range,
        n_features,
        n_samples,
    )
    return tasks.sample(n_tasks, random_state)


def _task_set(x: Array, y: Array, offsets: NDArray[np.int64]) -> TaskSet:
    return TaskSet.from_offsets(x.astype(np.float32), y.astype(np.float32), offsets)


def _row_counts(n_samples: Any) -> tuple[int, int]:
    """Return the least and the most rows of a task."""
    pair = n_samples if isinstance(n_samples, (tuple, list)) else (n_samples,) * 2
    if len(pair) != 2 or not all(map(is_count, pair)) or pair[0] > pair[1]:
        raise ValueError(
            "n_samples must be an int of at least 1, or a (low, high) pair of them "
            f"with low <= high, got {n_samples!r}."
        )
    return int(pair[0]), int(pair[1])
