r"""Covariance functions on features, for many tasks at once, their parameters learned.

With features :math:`z` divided by length scales :math:`\ell`, the distance
:math:`r = \lVert (z - z') / \ell \rVert` and the variance :math:`s^2` of the function:

==============  ==================================================================
"rbf"           :math:`s^2 \exp(-r^2 / 2)`
"matern12"      :math:`s^2 \exp(-r)`
"matern32"      :math:`s^2 (1 + \sqrt 3 r) \exp(-\sqrt 3 r)`
"matern52"      :math:`s^2 (1 + \sqrt 5 r + 5 r^2 / 3) \exp(-\sqrt 5 r)`
"linear"        :math:`s^2 (1 + (z / \ell)^\top (z' / \ell))`
"cosine"        :math:`s^2 z^\top z' / (\lVert z \rVert \lVert z' \rVert)`
"spectral"      :math:`\sum_m w_m \exp(-2 \pi^2 \lVert \sigma_m \odot (z - z')
                \rVert^2) \cos(2 \pi \mu_m^\top (z - z'))`
==============  ==================================================================

The last is the spectral mixture kernel of Wilson and Adams ("Gaussian process kernels
for pattern discovery and extrapolation", ICML 2013, arXiv:1302.4245): its spectral
density is a mixture of normal densities, each with its mirror image at the origin.
Their equation (12) has a product of cosines, which mirrors each feature by itself; with
one feature both are the same.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["KERNELS", "Kernel", "check_shapes", "make_kernel"]

SMALLEST_NORM = 1e-12  # of features whose direction is asked for


class Kernel(nn.Module):
    """Base of the kernels, whose parameters are logarithms of what is positive.

    Attributes
    ----------
    n_copies : int
        Matrices of the size of a covariance that live at one time, from its rows to
        its factor.
    """

    # Measured are 4.1; jitter needs one more.
    n_copies: int = 5

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return covariances (T, S, Q) of features (T, S, D) and (T, Q, D)."""
        raise NotImplementedError

    def diagonal(self, a: Tensor) -> Tensor:
        """Return the variances (T, S) of features (T, S, D)."""
        raise NotImplementedError


class ScaledKernel(Kernel):
    """A kernel with a variance, and length scales that features are divided by.

    Parameters
    ----------
    length_scale, output_scale : float
        From which learning starts.
    n_scales : int
        Length scales: 1 for all features, or one for each.
    """

    def __init__(self, length_scale: float, output_scale: float, n_scales: int) -> None:
        super().__init__()
        start = torch.full((n_scales,), math.log(length_scale))
        self.log_length_scale = nn.Parameter(start)
        self.log_output_scale = nn.Parameter(torch.tensor(math.log(output_scale)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return covariances (T, S, Q)."""
        length_scale = self.log_length_scale.to(a.dtype).exp()
        return self._variance(a) * self.correlation(a / length_scale, b / length_scale)

    def diagonal(self, a: Tensor) -> Tensor:
        """Return the variances (T, S)."""
        return self._variance(a).expand(a.shape[:2])

    def correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the kernel of variance 1 at scaled features."""
        raise NotImplementedError

    def _variance(self, a: Tensor) -> Tensor:
        return self.log_output_scale.to(a.dtype).exp()


class RBF(ScaledKernel):
    """The squared exponential kernel."""

    def correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the kernel of variance 1 at scaled features."""
        return (-0.5 * _distances(a, b).square()).exp()


class Matern12(ScaledKernel):
    """The exponential kernel, of rough functions."""

    def correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the kernel of variance 1 at scaled features."""
        return (-_distances(a, b)).exp()


class Matern32(ScaledKernel):
    """The Matern kernel of functions that have one derivative."""

    def correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the kernel of variance 1 at scaled features."""
        r = math.sqrt(3) * _distances(a, b)
        return (1 + r) * (-r).exp()


class Matern52(ScaledKernel):
    """The Matern kernel of functions that have two derivatives."""

    def correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the kernel of variance 1 at scaled features."""
        r = math.sqrt(5) * _distances(a, b)
        return (1 + r + r.square() / 3) * (-r).exp()


class Linear(ScaledKernel):
    """The kernel of linear functions, intercept included."""

    def correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the kernel at scaled features."""
        return 1 + a @ b.mT

    def diagonal(self, a: Tensor) -> Tensor:
        """Return the variances (T, S)."""
        scaled = a / self.log_length_scale.to(a.dtype).exp()
        return self._variance(a) * (1 + scaled.square().sum(-1))


class Cosine(Kernel):
    """Cosine similarity times a variance.

    Parameters
    ----------
    output_scale : float
        From which learning starts.
    """

    def __init__(self, output_scale: float) -> None:
        super().__init__()
        self.log_output_scale = nn.Parameter(torch.tensor(math.log(output_scale)))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return covariances (T, S, Q)."""
        a, b = (F.normalize(z, dim=-1, eps=SMALLEST_NORM) for z in (a, b))
        return self.log_output_scale.to(a.dtype).exp() * (a @ b.mT)

    def diagonal(self, a: Tensor) -> Tensor:
        """Return the variances (T, S), 0 where all features are."""
        directed = F.normalize(a, dim=-1, eps=SMALLEST_NORM).square().sum(-1)
        return self.log_output_scale.to(a.dtype).exp() * directed


class SpectralMixture(Kernel):
    r"""The spectral mixture kernel.

    Parameters
    ----------
    n_features : int
    n_mixtures : int
        Normal densities in the spectrum.
    length_scale, output_scale : float
        From which learning starts: frequencies :math:`2 \pi \mu` are drawn with
        standard deviation ``1 / length_scale``, :math:`2 \pi \sigma` is a tenth of it,
        and the weights add up to `output_scale`.
    generator : torch.Generator
        Of the first frequencies.
    """

    def __init__(
        self,
        n_features: int,
        n_mixtures: int,
        length_scale: float,
        output_scale: float,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        shape = (n_mixtures, n_features)
        unit = 1 / (2 * math.pi * length_scale)
        draws = torch.randn(shape, generator=generator)
        self.frequencies = nn.Parameter(unit * draws)  # (M, D)
        self.log_bandwidths = nn.Parameter(torch.full(shape, math.log(0.1 * unit)))
        start = math.log(output_scale / n_mixtures)
        self.log_weights = nn.Parameter(torch.full((n_mixtures,), start))
        # Of each mixture phases, distances and their functions, before they are added.
        self.n_copies = 4 * n_mixtures + 4

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return covariances (T, S, Q)."""
        turns = 2 * math.pi * self.frequencies.to(a.dtype)  # (M, D)
        phases = [(z @ turns.mT).mT for z in (a, b)]  # (T, M, S)
        phase = phases[0].unsqueeze(-1) - phases[1].unsqueeze(-2)  # (T, M, S, Q)
        widths = 2 * math.pi * self.log_bandwidths.to(a.dtype).exp().unsqueeze(1)
        r = _distances(a.unsqueeze(1) * widths, b.unsqueeze(1) * widths)
        parts = (-0.5 * r.square()).exp() * phase.cos()
        return torch.einsum("m,tmsq->tsq", self.log_weights.to(a.dtype).exp(), parts)

    def diagonal(self, a: Tensor) -> Tensor:
        """Return the variances (T, S)."""
        return self.log_weights.to(a.dtype).exp().sum().expand(a.shape[:2])


KERNELS: dict[str, type[ScaledKernel]] = {
    "rbf": RBF,
    "matern12": Matern12,
    "matern32": Matern32,
    "matern52": Matern52,
    "linear": Linear,
}


def make_kernel(
    name: str,
    n_features: int,
    *,
    length_scale: float | None = None,
    output_scale: float = 1.0,
    ard: bool = False,
    n_mixtures: int = 4,
    generator: torch.Generator | None = None,
) -> Kernel:
    """Return a new kernel.

    Parameters
    ----------
    name : str
        One of `KERNELS`, "cosine" or "spectral".
    n_features : int
    length_scale : float, default=None
        From which learning starts; None is the root of the number of features, which
        keeps distances of standardised features about 1.
    output_scale : float, default=1.0
        Variance of the function, from which learning starts.
    ard : bool, default=False
        A length scale for each feature (automatic relevance determination).
    n_mixtures : int, default=4
        Of "spectral".
    generator : torch.Generator, default=None
        Of the first frequencies of "spectral".

    Returns
    -------
    Kernel
    """
    if length_scale is None:
        length_scale = math.sqrt(n_features)
    if name == "cosine":
        return Cosine(output_scale)
    if name == "spectral":
        return SpectralMixture(
            n_features, n_mixtures, length_scale, output_scale, generator
        )
    return KERNELS[name](length_scale, output_scale, n_features if ard else 1)


def check_shapes(kernel: nn.Module, n_features: int) -> None:
    """Check a user's kernel on a few rows.

    Raises
    ------
    TypeError
        If what it returns has another shape than it should; with what was got.
    ValueError
        If it raises an error itself.
    """
    own: Any = copy.deepcopy(kernel).double()  # some layers learn from what they see
    a, b = (
        torch.linspace(-1, 1, 2 * n_rows * n_features, dtype=torch.float64)
        for n_rows in (3, 4)
    )
    a, b = a.reshape(2, 3, n_features), b.reshape(2, 4, n_features)
    calls = {
        "kernel(a, b)": (lambda: own(a, b), "(T, S, Q)", (2, 3, 4)),
        "kernel.diagonal(a)": (lambda: own.diagonal(a), "(T, S)", (2, 3)),
    }
    for call, (compute, axes, shape) in calls.items():
        rows = f"of features a {tuple(a.shape)} and b {tuple(b.shape)}"
        try:
            with torch.no_grad():
                found = compute()
        except Exception as error:
            raise ValueError(
                f"{call} {rows} raises {type(error).__name__}: {error}. kernel must "
                f"take any number of rows with {n_features} features, and return a "
                f"tensor {axes}, here {shape}."
            ) from error
        if not torch.is_tensor(found) or found.shape != shape:
            got = (
                f"one of shape {tuple(found.shape)}"
                if torch.is_tensor(found)
                else f"a {type(found).__name__}"
            )
            raise TypeError(
                f"{call} {rows} must be a tensor {axes}, here {shape}; got {got}. "
                "Return a covariance for each pair of rows of a task from forward, and "
                "the variance of each row from diagonal."
            )


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Return Euclidean distances (T, S, Q), exact also where they are small.

    Their gradient at 0 is 0.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
