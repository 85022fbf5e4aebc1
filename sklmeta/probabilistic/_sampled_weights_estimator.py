"""What the scikit-learn faces of learners with drawn weights share."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from sklmeta._parameters import (
    check_choice,
    check_integer,
    check_not_negative,
    check_positive,
    filled_in,
)
from sklmeta._probabilistic import ProbabilisticMetaLearner
from sklmeta.gradient._estimator import (
    GradientMetaLearner,
    with_gradient_parameters,
)
from sklmeta.probabilistic._sampled_weights import SampledWeights

__all__ = [
    "SampledWeightsMetaLearner",
    "with_sampling_parameters",
]

SAMPLING_PARAMETERS = {
    "n_samples": """\
n_samples : int, default=20
    Networks of a task, when adapting; change it after `fit` for more or fewer.
""",
    "n_train_samples": """\
n_train_samples : int, default=1
    Networks of a task in a meta-update: more make its gradient less noisy.
""",
    "kl_weight": """\
kl_weight : float, default=1.0
    What the divergence counts beside the likelihood; below 1 it favours fit.
""",
    "initial_std": """\
initial_std : float, default=0.05
    What the standard deviations of weights start from in meta-training.
""",
    "first_order": """\
first_order : bool, default=False
    Leave out second derivatives: cheaper, often as good.
""",
}

HEAD = """\
head : {"auto", "shared", "prototype", "none"}, default="auto"
    What the linear layer on the features starts from in a new task, with local labels:
    "shared" treats the ways alike, "prototype" starts from class means; "auto" is
    "prototype". With shared labels the start is meta-learned in any case. "none" is for
    a `backbone` that ends in the outputs itself.
"""

Class = TypeVar("Class", bound=type)


def with_sampling_parameters(cls: Class) -> Class:
    """Write the parameters of drawn weights and all shared ones into a docstring.

    Like `with_gradient_parameters`, in place of the line ``<sampling parameters>`` too.
    """
    doc = cls.__doc__ or ""  # which tells of those that the class has other defaults of
    sampling = [
        text for name, text in SAMPLING_PARAMETERS.items() if f" {name} : " not in doc
    ]
    texts = {"<sampling parameters>": "\n".join(sampling)}
    if getattr(cls, "_classifies", True):
        texts["<gradient parameters>"] = f"{HEAD}\n<network parameters>"
    return with_gradient_parameters(filled_in(cls, texts))


class SampledWeightsMetaLearner(GradientMetaLearner, ProbabilisticMetaLearner):
    """Base of the estimators whose learner is of `SampledWeights`."""

    _heads = ("auto", "shared", "prototype", "none")
    _adaptation_parameters = ("inner_lr", "inner_steps", "n_samples")
    _step_sizes = ("inner_lr", "outer_lr")
    _structural_parameters = (
        *GradientMetaLearner._structural_parameters,
        *("n_train_samples", "kl_weight", "initial_std", "first_order"),
    )
    _learner_class: ClassVar[type[SampledWeights]]

    def __init__(
        self,
        backbone: Any = None,
        *,
        inner_lr: float = 0.05,
        inner_steps: int = 5,
        n_samples: int = 20,
        n_train_samples: int = 1,
        kl_weight: float = 1.0,
        initial_std: float = 0.05,
        first_order: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(backbone, **common)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.n_samples = n_samples
        self.n_train_samples = n_train_samples
        self.kl_weight = kl_weight
        self.initial_std = initial_std
        self.first_order = first_order

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("inner_lr", self.inner_lr)
        check_integer("inner_steps", self.inner_steps, 0)
        for name in ("n_samples", "n_train_samples"):
            check_integer(name, getattr(self, name), 1)
        check_not_negative("kl_weight", self.kl_weight)
        check_positive("initial_std", self.initial_std)
        check_choice("first_order", self.first_order, (True, False))

    def _prepared(self, *arguments: Any) -> tuple[Any, Any]:
        """Return what `EpisodicMetaLearner` does; `batch_size` may have changed."""
        preparation, learner = super()._prepared(*arguments)
        learner.noise_tasks = self.batch_size
        return preparation, learner

    def _make_learner(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        n_ways: int | None,
        generator: torch.Generator,
    ) -> SampledWeights:
        return self._learner_class(
            backbone,
            n_features,
            n_outputs,
            inner_lr=self.inner_lr,
            inner_steps=self.inner_steps,
            n_samples=self.n_samples,
            n_train_samples=self.n_train_samples,
            kl_weight=self.kl_weight,
            initial_std=self.initial_std,
            first_order=self.first_order,
            noise_tasks=self.batch_size,
            **self._network_options(n_features, n_outputs, n_ways),
            generator=generator,
            seed=int(torch.randint(2**31, (), generator=generator)),
        )
