r"""The (restricted) likelihood of linear mixed models, from sums over each task's rows.

Task :math:`t` has :math:`y_t = X_t \beta + Z_t b_t + \varepsilon_t` with
:math:`b_t \sim N(0, \sigma^2 \Psi)`, :math:`\varepsilon_t \sim N(0, \sigma^2 I)` and
:math:`\Psi = \Lambda\Lambda^\top`, where :math:`\Lambda` is lower triangular: the
relative covariance factor of lme4. With :math:`\beta` and :math:`\sigma^2` profiled
out, minus twice the restricted log-likelihood is, up to a constant,

.. math:: d(\Lambda) = \sum_t \log\lvert I + \Lambda^\top G_t \Lambda\rvert
            + \log\lvert S_{xx}\rvert + (N - p) \log r^2, \qquad G_t = Z_t^\top Z_t,

with :math:`S = \sum_t A_t^\top A_t - C_t^\top W_t C_t`, :math:`A_t = [X_t, y_t]`,
:math:`C_t = Z_t^\top A_t`, :math:`W_t = \Lambda(I + \Lambda^\top G_t\Lambda)^{-1}
\Lambda^\top`, and :math:`r^2 = S_{yy} - S_{yx}S_{xx}^{-1}S_{xy}`. Maximum likelihood
leaves the second term out and has :math:`N` for :math:`N - p`. Nothing here is larger
than a task's :math:`C_t`, and nothing costs more than the cube of the number of random
effects for each task.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_solve
from scipy.optimize import minimize

__all__ = [
    "Fit",
    "Likelihood",
    "TaskSums",
    "fit_better",
    "fit_likelihood",
    "independent",
    "posterior",
]

Array = NDArray[Any]

# Entries of temporary arrays of a block of tasks: what a processor's cache holds.
BLOCK_ENTRIES = 2**16
# Targets have variance 1. Noise is not estimated below 1e-4 of their deviation.
LEAST_NOISE = 1e-8
LEAST_VARIANCE = 1e-10
COLLINEAR = 1e-10  # share of a column's mean square that others leave unexplained
EM_STEPS = 5
STARTS, ITERATIONS = 20, 50
ROUNDING = 1e-13
# L-BFGS first tries a step of length 1: here, to change the factor by a quarter. With
# one random effect, a step by the whole of it would end at 0, where no slope leads on.
UNIT = 0.25
RELEASES = 10.0 ** np.arange(-4, 2)
JITTER = 1e-13


@dataclass(frozen=True)
class TaskSums:
    r"""Sums over the rows of each task, and over all rows.

    Attributes
    ----------
    cross : ndarray of shape (T, q, p + 1)
        :math:`C_t`: products of the random effects' columns with the fixed effects'
        and with the target.
    total : ndarray of shape (p + 1, p + 1)
        :math:`\sum_t A_t^\top A_t`.
    effects : ndarray of shape (q,)
        Which of the fixed effects' columns have random effects.
    n_rows : int
    """

    cross: Array
    total: Array
    effects: NDArray[np.int64]
    n_rows: int

    @classmethod
    def of_rows(
        cls,
        rows: Array,
        y: Array,
        offsets: NDArray[np.int64],
        effects: NDArray[np.int64],
    ) -> TaskSums:
        """Add up rows (N, p) and targets (N,) of tasks, one after another."""
        joined = np.column_stack([rows, y])
        z = np.ascontiguousarray(rows[:, effects])
        cross = np.empty((len(offsets) - 1, len(effects), joined.shape[1]))
        for t, (start, stop) in enumerate(itertools.pairwise(offsets)):
            np.matmul(z[start:stop].T, joined[start:stop], out=cross[t])
        return cls(cross, joined.T @ joined, effects, len(rows))

    @staticmethod
    def n_bytes(n_tasks: int, n_columns: int, n_effects: int) -> int:
        """Return the memory of the sums, and of those of a second target."""
        return 16 * (n_tasks * n_effects + n_columns + 1) * (n_columns + 1)

    def blocks(self) -> Iterator[Array]:
        """Yield `cross` in parts whose temporary arrays stay in the cache."""
        size = max(1, BLOCK_ENTRIES // self.cross[0].size)
        for start in range(0, len(self.cross), size):
            yield self.cross[start : start + size]


@dataclass(frozen=True)
class Fit:
    r"""Estimates of a mixed model.

    Attributes
    ----------
    beta : ndarray of shape (p,)
        Fixed effects.
    factor : ndarray of shape (q, q)
        :math:`\Lambda`.
    noise_variance : float
        :math:`\sigma^2`.
    deviance : float
        Minus twice the log-likelihood, restricted or not.
    degrees : int
        What the sum of squares was divided by.
    n_parameters : int
        Of the covariance.
    converged : bool
    """

    beta: Array
    factor: Array
    noise_variance: float
    deviance: float
    degrees: int
    n_parameters: int
    converged: bool


@dataclass(frozen=True)
class Likelihood:
    """The profiled deviance as a function of the relative covariance factor.

    With a ridge penalty, `alpha` is the prior precision of fixed effects in units of
    the noise: what is restricted then integrates over that prior.
    """

    sums: TaskSums
    restricted: bool
    penalty: Array  # (p,)

    @property
    def degrees(self) -> int:
        """What the sum of squares is divided by."""
        if not self.restricted:
            return self.sums.n_rows
        return self.sums.n_rows - int((self.penalty == 0).sum())

    def profile(self, factor: Array) -> tuple[float, Array, float, Array]:
        """Return the deviance, fixed effects, noise variance and inverse of S_xx."""
        logdet, reduced = 0.0, self.sums.total.copy()
        for cross in self.sums.blocks():
            root = _root(cross, factor, self.sums.effects)
            logdet += 2 * np.log(np.diagonal(root, axis1=1, axis2=2)).sum()
            half = _solve_lower(root, factor.T @ cross).reshape(-1, cross.shape[2])
            reduced -= half.T @ half
        return self._profiled(logdet, reduced)

    def _profiled(
        self, logdet: float, reduced: Array
    ) -> tuple[float, Array, float, Array]:
        p, degrees = len(self.penalty), self.degrees
        rounding = JITTER * np.diagonal(self.sums.total)[:p]
        penalised = reduced[:p, :p] + np.diag(self.penalty + rounding)
        root = np.linalg.cholesky(penalised)
        inverse = cho_solve((root, True), np.eye(p))
        beta = inverse @ reduced[:p, p]
        residual = max(reduced[p, p] - reduced[p, :p] @ beta, 0.0)
        variance = np.hypot(residual / degrees, LEAST_NOISE)
        deviance = logdet + degrees * (1 + np.log(2 * np.pi * variance))
        if self.restricted:
            deviance += 2 * np.log(np.diagonal(root)).sum()
            deviance -= np.log(self.penalty[self.penalty > 0]).sum()
        return float(deviance), beta, float(variance), inverse

    def gradient(self, factor: Array) -> tuple[float, Array]:
        r"""Return the deviance and its gradient (q, q) by :math:`\Psi`.

        Which is :math:`\sum_t F_t - E_t K E_t^\top`, where :math:`E_t = Z_t^\top
        V_t^{-1} A_t`, :math:`F_t = Z_t^\top V_t^{-1} Z_t` and :math:`K` is what the
        deviance adds per unit of :math:`S`.
        """
        deviance, beta, variance, inverse = self.profile(factor)
        direction = np.append(-beta, 1.0)
        # What the deviance adds per unit of r^2: 1 / variance, but nothing at the least
        # noise.
        slope = np.sqrt(max(variance**2 - LEAST_NOISE**2, 0.0)) / variance**2
        n_effects = len(factor)
        total = np.zeros((n_effects, n_effects))
        if self.restricted:
            half = np.linalg.cholesky(inverse)
        for cross in self.sums.blocks():
            root = _root(cross, factor, self.sums.effects)
            small = _solve_lower(root, factor.T @ cross)
            gram = cross[:, :, self.sums.effects]
            back = _solve_lower(root, factor.T @ gram)  # M^-1/2 L'G
            remaining = cross - back.swapaxes(1, 2) @ small  # (I - GW) C = E
            total += remaining[:, :, self.sums.effects].sum(0)
            errors = remaining @ direction
            total -= slope * errors.T @ errors
            if self.restricted:
                spread = (remaining[:, :, :-1] @ half).transpose(1, 0, 2)
                spread = spread.reshape(n_effects, -1)
                total -= spread @ spread.T
        return deviance, total


def _root(cross: Array, factor: Array, effects: NDArray[np.int64]) -> Array:
    """Return Cholesky factors of I + L'GL for each task."""
    inner = factor.T @ cross[:, :, effects] @ factor
    diagonal = np.einsum("tii->ti", inner)
    diagonal += 1
    return np.linalg.cholesky(inner)


def _solve_lower(root: Array, right: Array) -> Array:
    """Solve triangular systems of all tasks, which numpy has nothing for."""
    left, known = torch.from_numpy(root), torch.from_numpy(np.ascontiguousarray(right))
    return torch.linalg.solve_triangular(left, known, upper=False).numpy()


def fit_better(
    likelihood: Likelihood, *, tol: float, basis: Array | None = None
) -> Fit:
    """Return the fit of a diagonal or of a full covariance, by Akaike's criterion."""
    fits = [
        fit_likelihood(likelihood, diagonal=diagonal, tol=tol, basis=basis)
        for diagonal in (True, False)
    ]
    return min(fits, key=lambda fit: fit.deviance + 2 * fit.n_parameters)


def fit_likelihood(
    likelihood: Likelihood, *, diagonal: bool, tol: float, basis: Array | None = None
) -> Fit:
    """Minimise the deviance: some EM steps, then L-BFGS.

    Each start of L-BFGS searches D in L = L_0 D, where L_0 is the estimate so far,
    which makes the deviance curve about alike in all directions. With `basis` B (q, q),
    a diagonal covariance is one of other coefficients, L = B D.
    """
    n_tasks, q = likelihood.sums.cross.shape[:2]
    if basis is None or not diagonal:
        basis = np.eye(q)
    # Of a diagonal covariance only a diagonal factor is searched.
    free = np.eye(q, dtype=bool) if diagonal else np.tri(q, dtype=bool)
    factor, before = _em_factor(likelihood, diagonal, basis), np.inf
    converged = False
    for _ in range(STARTS):
        # A gain as small is nothing beside the deviance's standard deviation.
        factor, found = _searched(likelihood, factor, free, tol * n_tasks)
        gain, before = before - found.fun, found.fun
        small = np.abs(found.jac).max(initial=0.0) <= tol * n_tasks * UNIT
        converged = bool(small or gain <= max(tol * n_tasks, ROUNDING * abs(found.fun)))
        if not converged:
            continue
        released = _released(likelihood, factor, diagonal, tol * n_tasks, basis)
        if released is None:
            break
        factor, converged = released, False
    deviance, beta, variance, _ = likelihood.profile(factor)
    degrees, n_parameters = likelihood.degrees, int(free.sum())
    return Fit(beta, factor, variance, deviance, degrees, n_parameters, converged)


def _searched(
    likelihood: Likelihood, base: Array, free: NDArray[np.bool_], tol: float
) -> tuple[Array, Any]:
    """Return the factor that L-BFGS finds from `base` on, and what scipy says."""

    def relative(values: Array) -> Array:
        matrix = np.zeros(free.shape)
        matrix[free] = UNIT * values
        return matrix

    def objective(values: Array) -> tuple[float, Array]:
        factor = base @ relative(values)
        deviance, by_psi = likelihood.gradient(factor)
        return deviance, (2 * UNIT * base.T @ by_psi @ factor)[free]

    stop = {"maxiter": ITERATIONS, "ftol": ROUNDING, "gtol": tol * UNIT}
    options = {**stop, "maxcor": 20}
    start = np.eye(len(base))[free] / UNIT
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return base @ relative(found.x), found


def _released(
    likelihood: Likelihood,
    factor: Array,
    diagonal: bool,
    tol: float,
    basis: Array,
) -> Array | None:
    """Return a better factor where one is stuck at a variance near zero, or None.

    Near zero the deviance hardly depends on the factor, even where it still falls with
    the variance. At a minimum, no variance would lower it.
    """
    sums = likelihood.sums
    deviance, by_psi = likelihood.gradient(factor)
    if diagonal:
        slopes, directions = np.diagonal(basis.T @ by_psi @ basis), basis
    else:
        slopes, directions = np.linalg.eigh(by_psi)
    steepest = np.argmin(slopes)
    direction = directions[:, steepest]
    # The variance in this direction that is as informative as a task's rows.
    gram = sums.total[np.ix_(sums.effects, sums.effects)]
    squares = float(direction @ gram @ direction)
    unit = len(sums.cross) / max(squares, LEAST_VARIANCE)
    if -slopes[steepest] * unit <= tol:
        return None
    if diagonal:
        added = np.sqrt(unit * RELEASES)
        tried = [_lengthened(factor, steepest, one * direction) for one in added]
    else:
        added = np.sqrt(unit) * direction
        tried = [_widened(factor, np.sqrt(step) * added) for step in RELEASES]
    values = [likelihood.profile(one)[0] for one in tried]
    best = int(np.argmin(values))
    return tried[best] if values[best] < deviance - tol else None


def _lengthened(factor: Array, column: Any, added: Array) -> Array:
    """Return a factor of L L' + a a', where a is a multiple of a column of L."""
    factor = factor.copy()
    length = np.hypot(np.linalg.norm(factor[:, column]), np.linalg.norm(added))
    factor[:, column] = length * added / np.linalg.norm(added)
    return factor


def _widened(factor: Array, added: Array) -> Array:
    """Return a factor of L L' + a a'."""
    _, upper = np.linalg.qr(np.vstack([factor.T, added]))
    return upper.T


def _em_factor(likelihood: Likelihood, diagonal: bool, basis: Array) -> Array:
    """Return a factor after some steps of EM, which by the gradient are P - PgP/T."""
    n_tasks, q = likelihood.sums.cross.shape[:2]
    psi = np.eye(q)
    for _ in range(EM_STEPS):
        _, by_psi = likelihood.gradient(basis @ np.linalg.cholesky(psi))
        by_psi = basis.T @ by_psi @ basis
        psi = psi - psi @ by_psi @ psi / n_tasks
        psi = np.diag(np.diagonal(psi)) if diagonal else (psi + psi.T) / 2
        psi += LEAST_VARIANCE * max(1.0, np.trace(psi)) * np.eye(q)
    return basis @ np.linalg.cholesky(psi)


def posterior(prior: Fit, gram: Array, moment: Array) -> tuple[Array, Array]:
    r"""Return means (T, q) and factors (T, q, q) of covariances of random effects.

    They are NaN where rounding leaves nothing of a task's covariance. By
    :math:`\hat b_t = W_t Z_t^\top (y_t - X_t\beta)` and :math:`\sigma^2 W_t`.

    Parameters
    ----------
    prior : Fit
    gram : ndarray of shape (T, q, q)
        :math:`Z_t^\top Z_t`.
    moment : ndarray of shape (T, q)
        :math:`Z_t^\top (y_t - X_t\beta)`.
    """
    factor = prior.factor
    inner = factor.T @ gram @ factor + np.eye(len(factor))
    root, info = torch.linalg.cholesky_ex(torch.from_numpy(inner))
    root[info > 0] = torch.nan
    half = _solve_lower(root.numpy(), factor.T)  # (T, q, q)
    mean = np.einsum("tki,tk->ti", half, np.einsum("tki,ti->tk", half, moment))
    return mean, half.swapaxes(1, 2) * np.sqrt(prior.noise_variance)


def independent(rows: Array, *, constant_only: bool) -> NDArray[np.int64]:
    """Return the columns that are no linear function of those before them.

    The first column is the intercept. With `constant_only`, only constant columns are
    left out.
    """
    scale = np.sqrt((rows**2).mean(0))
    scaled = rows / np.where(scale > 0, scale, 1.0)
    left = scaled.T @ scaled / len(rows)
    kept = []
    for column in range(len(left)):
        if left[column, column] <= COLLINEAR:
            continue
        kept.append(column)
        if column == 0 or not constant_only:
            pivot = left[column] / np.sqrt(left[column, column])
            left = left - np.outer(pivot, pivot)
    return np.array(kept)
