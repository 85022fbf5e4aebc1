"""The parameters of MAML's scikit-learn faces: docs, checks, and what goes together."""

from __future__ import annotations

import numbers
from typing import Any, TypeVar, Unpack

from sklmeta._meta_training import Seeds
from sklmeta._parameters import check_choice, check_integer, filled_in, same_value
from sklmeta.gradient._estimator import (
    GradientMetaLearner,
    GradientParameters,
    with_gradient_parameters,
)
from sklmeta.gradient.inner_rates import (
    GRANULARITIES,
    check_inner_lr,
    check_one_per_step,
)

__all__ = ["MAMLParametersBase", "with_maml_parameters"]

MAML_PARAMETERS = """\
inner_lr : float or list of float, default=0.05
    Step size of the inner loop, or one for each inner step. Read when adapting;
    what learned rates start from, with `learn_inner_lr`.

inner_steps : int, default=5
    Gradient steps of the inner loop, in meta-training and when adapting; change it
    after `fit` to adapt further, or to 0 for the predictions before adaptation.

first_order : bool, default=False
    Leave out second derivatives: cheaper, often as good.

second_order_from : int, default=0
    The first meta-update with second derivatives; those before leave them out
    (derivative-order annealing [2]_). 0 uses them always.

learn_inner_lr : {False, "shared", "layer", "parameter"}, default=False
    Whether to meta-learn the step sizes, from `inner_lr` on: one for all weights,
    one for each weight tensor [2]_, or one for each weight.

inner_lr_per_step : bool, default=False
    Whether every inner step has learned step sizes of its own [2]_; steps beyond
    those of meta-training take the last step's.

multi_step_loss : int, default=0
    For how many meta-updates the query losses after all inner steps count, not only
    after the last: alike at first, then less and less (multi-step loss [2]_). It
    steadies meta-training with many inner steps. `train_loss` is the weighted mean.
"""

Class = TypeVar("Class", bound=type)


def with_maml_parameters(cls: Class) -> Class:
    """Write MAML's and all shared parameters into a class docstring.

    Like `with_gradient_parameters`, in place of the line ``<maml parameters>`` too.
    """
    filled = filled_in(cls, {"<maml parameters>": MAML_PARAMETERS})
    return with_gradient_parameters(filled)


class MAMLParametersBase(GradientMetaLearner):
    """What MAML's faces take, and which of it is refused."""

    _step_sizes = ("inner_lr", "outer_lr")
    _structural_parameters = (
        *GradientMetaLearner._structural_parameters,
        *("first_order", "second_order_from", "multi_step_loss"),
        *("learn_inner_lr", "inner_lr_per_step"),
    )

    def __init__(
        self,
        backbone: Any = None,
        *,
        inner_lr: Any = 0.05,
        inner_steps: int = 5,
        first_order: bool = False,
        second_order_from: int = 0,
        learn_inner_lr: Any = False,
        inner_lr_per_step: bool = False,
        multi_step_loss: int = 0,
        **common: Unpack[GradientParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.second_order_from = second_order_from
        self.learn_inner_lr = learn_inner_lr
        self.inner_lr_per_step = inner_lr_per_step
        self.multi_step_loss = multi_step_loss

    @property
    def _adaptation_parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        """What acts when adapting: learned rates are no parameters any more."""
        return ("inner_steps",) if self.learn_inner_lr else ("inner_lr", "inner_steps")

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_inner_lr(self.inner_lr)
        check_integer("inner_steps", self.inner_steps, 0)
        for name in ("first_order", "inner_lr_per_step"):
            check_choice(name, getattr(self, name), (True, False))
        for name in ("second_order_from", "multi_step_loss"):
            check_integer(name, getattr(self, name), 0)
        check_choice("learn_inner_lr", self.learn_inner_lr, (False, *GRANULARITIES))
        self._refuse_contradictions()
        if not hasattr(self, "learner_") or self._is_another("inner_lr"):
            check_one_per_step(self.inner_lr, self.inner_steps)

    def _is_another(self, name: str) -> bool:
        """Whether a parameter is no longer what it was in meta-training."""
        return not same_value(getattr(self, name), self._trained_with[name])

    def _refuse_contradictions(self) -> None:
        """Refuse parameters that would silently do nothing, or cannot be together."""
        if self.first_order and self.second_order_from:
            raise ValueError(
                f"second_order_from={self.second_order_from} brings in second "
                "derivatives, which first_order=True leaves out for good. Use "
                "first_order=False with it."
            )
        if self.inner_lr_per_step and not self.learn_inner_lr:
            raise ValueError(
                "inner_lr_per_step=True needs learned rates: use learn_inner_lr="
                "'shared', 'layer' or 'parameter'. Fixed rates of each step are a "
                "list: inner_lr=[0.1, 0.05]."
            )
        learns_one = self.learn_inner_lr and not self.inner_lr_per_step
        if learns_one and not isinstance(self.inner_lr, numbers.Real):
            raise ValueError(
                f"inner_lr={self.inner_lr!r} has a rate for each step, and "
                f"learn_inner_lr={self.learn_inner_lr!r} learns rates that all steps "
                "have in common. Use inner_lr_per_step=True, or give one number."
            )

    def _start(self, goes_on: bool) -> Seeds:
        """Check parameters before anything is drawn; return the seeds of this call."""
        if goes_on and self.learn_inner_lr:
            self._refuse_changes_of(["inner_lr"], "as the start of learned rates only")
        seeds = super()._start(goes_on)
        if not (goes_on and self.learn_inner_lr):
            check_one_per_step(self.inner_lr, self.inner_steps)
        return seeds
