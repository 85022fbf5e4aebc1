"""Parameters of implicit MAML's estimators: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any, Unpack

from sklmeta._meta_training import Seeds
from sklmeta._parameters import (
    Class,
    check_integer,
    check_not_negative,
    check_positive,
    filled_in,
)
from sklmeta.gradient._estimator import (
    GradientMetaLearner,
    GradientParameters,
    with_gradient_parameters,
)

__all__ = ["ImplicitMAMLParametersBase", "with_implicit_maml_parameters"]

PARAMETERS = """\
inner_lr : float, default=0.02
    Step size of the inner gradient descent. Read when adapting.

inner_steps : int, default=32
    Its steps, in meta-training and when adapting. Memory does not grow with them.

regularization : float, default=2.0
    Weight of half the squared distance to the meta-learned weights,
    :math:`\\lambda`: the larger, the closer a task's weights stay to them. Read when
    adapting, where it may be 0. Gradient descent needs
    ``inner_lr * regularization < 2``.

cg_steps : int, default=5
    Steps of conjugate gradients for a meta-gradient, each a Hessian-vector product,
    about twice the cost of an inner step; 0 leaves second derivatives out.

cg_damping : float, default=0.0
    Added to the identity of their linear system: more keeps meta-gradients closer
    to those without second derivatives.
"""


def with_implicit_maml_parameters(cls: Class) -> Class:
    """Write all parameters into a docstring, those of both faces and the shared."""
    texts = {"<implicit maml parameters>": PARAMETERS}
    return with_gradient_parameters(filled_in(cls, texts))


class ImplicitMAMLParametersBase(GradientMetaLearner):
    """What implicit MAML's faces take, and which of it is refused."""

    _adaptation_parameters = ("inner_lr", "inner_steps", "regularization")
    _step_sizes = ("inner_lr", "outer_lr")
    _structural_parameters = (
        *GradientMetaLearner._structural_parameters,
        *("cg_steps", "cg_damping"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        inner_lr: float = 0.02,
        inner_steps: int = 32,
        regularization: float = 2.0,
        cg_steps: int = 5,
        cg_damping: float = 0.0,
        **common: Unpack[GradientParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.regularization = regularization
        self.cg_steps = cg_steps
        self.cg_damping = cg_damping

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("inner_lr", self.inner_lr)
        check_integer("inner_steps", self.inner_steps, 0)
        check_integer("cg_steps", self.cg_steps, 0)
        check_not_negative("cg_damping", self.cg_damping)
        check_not_negative("regularization", self.regularization)
        if not self.inner_lr * self.regularization < 2:
            raise ValueError(
                f"Gradient descent with inner_lr={self.inner_lr!r} on an inner problem "
                f"with regularization={self.regularization!r} diverges: their product "
                "must be below 2. Lower one of them."
            )

    def _start(self, goes_on: bool) -> Seeds:
        """Refuse meta-training without a regulariser, which has no equation (2)."""
        check_positive("regularization", self.regularization)
        return super()._start(goes_on)
