"""What estimators share whose learner is conditioned on a context set."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from torch import nn

from sklmeta._parameters import check_fraction, check_integer
from sklmeta._probabilistic import ProbabilisticMetaLearner, ProbabilisticParameters

__all__ = [
    "CONTEXT_PARAMETERS",
    "ContextEstimator",
    "ContextParameters",
    "check_heads",
]

CONTEXT_PARAMETERS = """\
prior_fraction : float, default=0.05
    Share of the training episodes whose support rows are hidden: it trains what is
    predicted of a task without any. No rows are hidden with labels that mean something
    in their task alone, of which there is no prior.
"""


class ContextParameters(ProbabilisticParameters, total=False):
    """What `ContextEstimator` takes, for subclasses that pass it on by name."""

    prior_fraction: float


class ContextEstimator(ProbabilisticMetaLearner):
    """Base of the estimators whose learner is a `ContextLearner`."""

    _structural_parameters: ClassVar[tuple[str, ...]] = (
        *ProbabilisticMetaLearner._structural_parameters,
        "prior_fraction",
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        prior_fraction: float = 0.05,
        **common: Unpack[ProbabilisticParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.prior_fraction = prior_fraction

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_fraction("prior_fraction", self.prior_fraction, boundaries="left")

    def _make_backbone(
        self, input_shape: tuple[int, ...], seed: int
    ) -> tuple[nn.Module, int]:
        if self._given_backbone is not None or len(input_shape) > 1:
            return super()._make_backbone(input_shape, seed)
        return nn.Flatten(), input_shape[0]


def check_heads(estimator: Any) -> None:
    """Raise unless a positive number of heads divides the hidden size."""
    for name in ("hidden_size", "n_heads"):
        check_integer(name, getattr(estimator, name), 1)
    if estimator.hidden_size % estimator.n_heads:
        raise ValueError(
            "n_heads must divide hidden_size, got "
            f"n_heads={estimator.n_heads} and hidden_size={estimator.hidden_size}."
        )
