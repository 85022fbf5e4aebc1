r"""Logistic regression with random coefficients: Laplace's approximation.

Of class :math:`c`, a row of task :math:`t` has the logit
:math:`x^\top\beta_c + z^\top\Lambda_c u_{tc}` with :math:`u_{tc} \sim N(0, I)`; two
classes share one logit. With :math:`h_t(u) = -\log p(y_t \mid u) + u^\top u / 2`, its
minimum :math:`\hat u_t` and its Hessian :math:`H_t` there, minus the logarithm of the
marginal likelihood is about

.. math:: \sum_t h_t(\hat u_t) + \tfrac12 \log \lvert H_t \rvert,

and the posterior of :math:`u_t` about :math:`N(\hat u_t, H_t^{-1})`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

__all__ = [
    "Block",
    "LogisticFit",
    "NotFiniteError",
    "blocks_of",
    "fit_laplace",
    "laplace_posterior",
]

NEWTON_STEPS = 100
NEWTON_TOLERANCE = 1e-10
HALVINGS = 20
# Of the largest tensor of a block of tasks: 32 MB.
BLOCK_ENTRIES = 2**22
# Padded rows per row, in all but small blocks.
MOST_PADDING = 2
FEW_ENTRIES = 2**16
HESSIANS = 8  # of a block live at one time, where they are differentiated
# Of a Hessian's mean diagonal, added where rounding leaves it without a root.
JITTERS = (1e-15, 1e-13, 1e-11)
START_FACTOR = 0.5
# Random effects in logits: where tasks have one class each, none is too large.
LARGEST_FACTOR = 50.0
ITERATIONS = 500


class NotFiniteError(ArithmeticError):
    """A task has no posterior in the range of floating-point numbers.

    Parameters
    ----------
    task : int
        Its number.
    """

    def __init__(self, task: int) -> None:
        super().__init__(task)
        self.task = task


@dataclass(frozen=True)
class LogisticFit:
    """Estimates of a logistic mixed model.

    Attributes
    ----------
    beta : Tensor of shape (C, p)
        Fixed effects, of one logit for two classes.
    factor : Tensor of shape (C, q, q)
    deviance : float
        Minus twice the approximate marginal log-likelihood, and the ridge penalty.
    n_parameters : int
        Of the covariance.
    converged : bool
    """

    beta: Tensor
    factor: Tensor
    deviance: float
    n_parameters: int
    converged: bool


@dataclass(frozen=True)
class Block:
    """Rows of some tasks, padded.

    Attributes
    ----------
    x : Tensor of shape (T, S, p)
    z : Tensor of shape (T, S, q)
    y : Tensor of shape (T, S)
    mask : Tensor of shape (T, S)
        1 for rows, 0 for padding.
    tasks : ndarray of shape (T,)
        Their numbers.
    """

    x: Tensor
    z: Tensor
    y: Tensor
    mask: Tensor
    tasks: NDArray[np.int64]

    @staticmethod
    def n_bytes(
        supports: Sequence[NDArray[np.int64]],
        n_columns: int,
        n_effects: int,
        n_sets: int,
    ) -> int:
        """Return about the memory of all rows, and of the Hessians of one block."""
        sizes = [len(support) for support in supports]
        rows = MOST_PADDING * sum(sizes) * (n_columns + n_effects)
        width, widest = n_sets * n_effects, _widest(n_columns, n_effects, n_sets)
        hessians = HESSIANS * max(BLOCK_ENTRIES, max(width, *sizes) * widest)
        return 8 * (rows + hessians)

    def nll(self, beta: Tensor, factor: Tensor, u: Tensor) -> Tensor:
        """Return minus the log-likelihood (T,) given random coefficients (T, C, q)."""
        log_p = _log_probabilities(self.logits(beta, factor, u))
        own = log_p.gather(-1, self.y.unsqueeze(-1)).squeeze(-1)
        return -(own * self.mask).sum(1)

    def logits(self, beta: Tensor, factor: Tensor, u: Tensor) -> Tensor:
        """Return logits (T, S, C)."""
        effects = torch.einsum("cij,tcj->tci", factor, u)
        return self.x @ beta.mT + self.z @ effects.mT

    def derivatives(
        self, beta: Tensor, factor: Tensor, u: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return gradient (T, Cq) and Hessian (T, Cq, Cq) of h by u."""
        n_tasks, n_sets, q = u.shape
        p = _log_probabilities(self.logits(beta, factor, u)).exp()
        own = torch.nn.functional.one_hot(self.y, p.shape[-1]).to(p.dtype)
        # 1 - p without cancellation, so that the Hessian is no less than I.
        others = p @ (1 - torch.eye(p.shape[-1], dtype=p.dtype))
        p, own = p[..., -n_sets:], own[..., -n_sets:]  # of two, the second
        others = others[..., -n_sets:]
        rows = torch.einsum("tsi,cij->tscj", self.z, factor)  # L'z, (T, S, C, q)
        real = self.mask.unsqueeze(-1)
        gradient = torch.einsum("tsc,tscj->tcj", (p - own) * real, rows) + u
        weighted = rows * (p * real).unsqueeze(-1)
        curved = rows * (p * others * real).unsqueeze(-1)
        within = torch.einsum("tsci,tscj->tcij", curved, rows)
        flat = weighted.flatten(2)
        between = -(flat.mT @ flat).view(n_tasks, n_sets, q, n_sets, q)
        hessian = between.diagonal_scatter(within.permute(0, 2, 3, 1), 0, 1, 3)
        size = n_sets * q
        full = hessian.reshape(n_tasks, size, size) + torch.eye(size, dtype=u.dtype)
        return gradient.flatten(1), full

    def modes(self, beta: Tensor, factor: Tensor, start: Tensor) -> Tensor:
        """Return the minima of h (T, C, q), by Newton's method with halved steps."""

        def height(u: Tensor) -> Tensor:
            return self.nll(beta, factor, u) + u.square().sum((1, 2)) / 2

        u, now = start, height(start)
        for _ in range(NEWTON_STEPS):
            gradient, hessian = self.derivatives(beta, factor, u)
            step = self._solved(hessian, gradient).view_as(u)
            scale = torch.ones_like(now)
            for _ in range(HALVINGS):
                trial = u - scale[:, None, None] * step
                then = height(trial)
                worse = ~(then <= now + 1e-12 * now.abs())
                if not worse.any():
                    break
                scale = torch.where(worse, scale / 2, scale)
            u, now = trial, then
            if step.abs().max() < NEWTON_TOLERANCE:
                break
        self._refuse(~(now.isfinite() & u.isfinite().all(2).all(1)))
        return u

    def objective(self, beta: Tensor, factor: Tensor, modes: Tensor) -> Tensor:
        """Return Laplace's approximation, summed, that can be differentiated.

        One more Newton step from the minimum moves by nothing, and its derivative is
        the minimum's.
        """
        with torch.no_grad():
            _, hessian = self.derivatives(beta, factor, modes)
        gradient, _ = self.derivatives(beta, factor, modes)
        u = modes - self._solved(hessian, gradient).view_as(modes)
        _, hessian = self.derivatives(beta, factor, u)
        half_logdet = self.root(hessian).diagonal(dim1=1, dim2=2).log()
        height = self.nll(beta, factor, u) + u.square().sum((1, 2)) / 2
        return height.sum() + half_logdet.sum()

    def root(self, hessian: Tensor) -> Tensor:
        """Return Cholesky factors of Hessians (T, Cq, Cq).

        Raises
        ------
        NotFiniteError
            If one has none, or is not finite.
        """
        self._refuse(~hessian.detach().isfinite().all(2).all(1))
        size = torch.eye(hessian.shape[1], dtype=hessian.dtype)
        root, info = torch.linalg.cholesky_ex(hessian)
        for jitter in JITTERS:
            if not info.any():
                break
            mean = hessian.detach().diagonal(dim1=1, dim2=2).mean(1) * (info > 0)
            hessian = hessian + jitter * mean[:, None, None] * size
            root, info = torch.linalg.cholesky_ex(hessian)
        self._refuse(info > 0)
        return root

    def _solved(self, hessian: Tensor, gradient: Tensor) -> Tensor:
        root = self.root(hessian)
        return torch.cholesky_solve(gradient.unsqueeze(-1), root).squeeze(-1)

    def _refuse(self, bad: Tensor) -> None:
        if bad.any():
            raise NotFiniteError(int(self.tasks[int(bad.int().argmax())]))


def blocks_of(
    rows: NDArray[np.float64],
    y: NDArray[np.int64],
    effects: NDArray[np.int64],
    supports: Sequence[NDArray[np.int64]],
    n_sets: int,
) -> Iterator[tuple[NDArray[np.int64], Block]]:
    """Yield tasks, of similar sizes, in blocks that fit into memory, padded."""
    sizes = np.array([len(support) for support in supports])
    order = np.argsort(sizes, kind="stable")
    width, widest = n_sets * len(effects), _widest(rows.shape[1], len(effects), n_sets)
    start = 0
    while start < len(order):
        stop, n_rows = start + 1, sizes[order[start]]
        while stop < len(order):
            longest, n_tasks = sizes[order[stop]], stop + 1 - start
            n_rows += longest
            padded = n_tasks * longest
            if n_tasks * max(longest, width) * widest > BLOCK_ENTRIES or (
                padded > MOST_PADDING * n_rows and padded * widest > FEW_ENTRIES
            ):
                break
            stop += 1
        tasks = order[start:stop]
        own = [supports[t] for t in tasks]
        yield tasks, _padded(rows, y, effects, own, tasks)
        start = stop


def _widest(n_columns: int, n_effects: int, n_sets: int) -> int:
    """Return the entries for one row of the largest tensor."""
    return max(n_sets * n_effects, n_columns)


def _padded(
    rows: NDArray[np.float64],
    y: NDArray[np.int64],
    effects: NDArray[np.int64],
    supports: Sequence[NDArray[np.int64]],
    tasks: NDArray[np.int64],
) -> Block:
    longest = max(1, *(len(support) for support in supports))
    index = np.zeros((len(supports), longest), dtype=np.int64)
    mask = np.zeros(index.shape)
    for t, support in enumerate(supports):
        index[t, : len(support)], mask[t, : len(support)] = support, 1.0
    if len(rows) == 0:  # padding alone
        rows, y = np.zeros((1, rows.shape[1])), np.zeros(1, dtype=np.int64)
    x = rows[index] * mask[..., None]
    columns, z, labels, real = (
        torch.from_numpy(np.ascontiguousarray(part))
        for part in (x, x[..., effects], y[index], mask)
    )
    return Block(columns, z, labels, real, tasks)


def fit_laplace(
    blocks: Sequence[Block],
    n_sets: int,
    penalty: Tensor,
    *,
    diagonal: bool,
    tol: float,
    basis: NDArray[np.float64] | None = None,
) -> LogisticFit:
    """Maximise the approximate marginal likelihood by L-BFGS.

    With `basis` B (q, q), a diagonal covariance is one of other coefficients: factors
    are B D.
    """
    p, q = blocks[0].x.shape[2], blocks[0].z.shape[2]
    free = torch.eye(q).bool() if diagonal else torch.ones(q, q).tril().bool()
    unit = torch.eye(q, dtype=torch.float64)
    if diagonal and basis is not None:
        unit = torch.from_numpy(basis)
    n_rows = float(sum(block.mask.sum() for block in blocks))
    modes = [torch.zeros(len(b.x), n_sets, q, dtype=torch.float64) for b in blocks]

    def unpacked(values: Tensor) -> tuple[Tensor, Tensor]:
        beta = values[: n_sets * p].view(n_sets, p)
        factor = torch.zeros(n_sets, q, q, dtype=values.dtype)
        factor[:, free] = values[n_sets * p :].view(n_sets, -1)
        return beta, unit @ factor

    def loss(values: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        leaf = torch.from_numpy(values.copy()).requires_grad_()
        beta, factor = unpacked(leaf)
        total = (penalty * beta.square()).sum() / 2
        for i, block in enumerate(blocks):
            with torch.no_grad():
                modes[i] = block.modes(beta, factor, modes[i])
            total = total + block.objective(beta, factor, modes[i])
        (gradient,) = torch.autograd.grad(total / n_rows, leaf)
        return float(total.detach()) / n_rows, gradient.numpy()

    first = START_FACTOR * torch.eye(q, dtype=torch.float64)[free]
    start = torch.cat([torch.zeros(n_sets * p).double(), first.repeat(n_sets)])
    n_fixed = n_sets * p
    bounds = np.full((len(start), 2), LARGEST_FACTOR) * [-1, 1]
    bounds[:n_fixed] *= np.inf
    options = {"maxiter": ITERATIONS, "ftol": 1e-10, "gtol": tol, "maxcor": 20}
    found = minimize(
        loss,
        start.numpy(),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options=options,
    )
    beta, factor = unpacked(torch.from_numpy(found.x))
    n_parameters = n_sets * int(free.sum())
    deviance = 2 * n_rows * float(found.fun)
    return LogisticFit(beta, factor, deviance, n_parameters, found.status == 0)


def laplace_posterior(block: Block, fit: LogisticFit) -> tuple[Tensor, Tensor]:
    """Return the posterior of random coefficients given a block's rows.

    Returns
    -------
    mean : Tensor of shape (T, C, q)
    half : Tensor of shape (T, C, q, Cq)
        Their covariance is the product of `half` with itself.
    """
    n_sets, q = fit.factor.shape[:2]
    start = torch.zeros(len(block.x), n_sets, q, dtype=torch.float64)
    modes = block.modes(fit.beta, fit.factor, start)
    _, hessian = block.derivatives(fit.beta, fit.factor, modes)
    root = block.root(hessian)
    unit = torch.eye(n_sets * q, dtype=root.dtype)
    inverse = torch.linalg.solve_triangular(root, unit, upper=False).mT  # R^-T
    half = torch.einsum("cij,tcjk->tcik", fit.factor, inverse.unflatten(1, (n_sets, q)))
    return torch.einsum("cij,tcj->tci", fit.factor, modes), half


def _log_probabilities(logits: Tensor) -> Tensor:
    """Return log-probabilities (..., K); one logit is that of the second of two."""
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    return logits.log_softmax(-1)
