r"""Learnable step sizes of the inner loop.

An inner step with rates :math:`\alpha` of its own for every weight is

.. math:: \theta_{j+1} = \theta_j
          - \alpha_j \circ \nabla_{\theta_j} \mathcal{L}^s(\theta_j),

where :math:`\alpha` is meta-learned together with :math:`\theta_0`: one number for all
weights, one per layer (MAML++, arXiv:1810.09502, section 4.3), or one per weight
(Meta-SGD, arXiv:1707.09835, equation 2), the same in every step or each step's own.
Rates are free to become negative, as in both papers.

With local labels the ways of a task share the head's rates: a task can have any number
of ways, in any order, and none of them is told from another by its rates.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sklmeta._parameters import check_positive
from sklmeta.gradient.network import GradientLearner, TaskWeights

__all__ = [
    "GRANULARITIES",
    "InnerRates",
    "check_inner_lr",
    "check_one_per_step",
    "rate_of_step",
    "rate_shapes",
]

GRANULARITIES = ("shared", "layer", "parameter")

Rate = float | Sequence[float]


class InnerRates(nn.Module):
    """Rates of inner steps, for the weights that adapt.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        The shape of each weight's elementwise rates, as `rate_shapes` gives them.
    start : float or sequence of float
        What the rates are before meta-training: one number, or one per step.
    granularity : {"shared", "layer", "parameter"}
        One rate for all weights, one for each weight tensor, or one for each weight.
    n_steps : int, default=1
        Steps with rates of their own; later ones take the last of them.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.gradient import InnerRates
    >>> rates = InnerRates({"w": (2,), "b": ()}, 0.1, granularity="layer")
    >>> weights = {"w": torch.ones(3, 2), "b": torch.zeros(3)}  # three tasks
    >>> gradients = {"w": torch.full((3, 2), 5.0), "b": torch.full((3,), 5.0)}
    >>> rates(weights, gradients, 0)["w"]
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000],
            [0.5000, 0.5000]], grad_fn=<AddcmulBackward0>)
    >>> {name: rate.tolist() for name, rate in rates.by_name().items()}
    {'w': [0.10000000149011612], 'b': [0.10000000149011612]}
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        start: Rate,
        *,
        granularity: str,
        n_steps: int = 1,
    ) -> None:
        super().__init__()
        self.granularity = granularity
        self.n_steps = max(n_steps, 1)
        self.shapes = {name: torch.Size(shape) for name, shape in shapes.items()}
        if granularity != "parameter":
            self.shapes = dict.fromkeys(self.shapes, torch.Size())
        first = torch.tensor(
            [rate_of_step(start, step) for step in range(self.n_steps)]
        )
        self.rates = nn.ParameterDict()
        for name, shape in self.shapes.items():
            # One row per step, flat: memory formats are for weights, not for rates.
            rates = first.unsqueeze(1).repeat(1, shape.numel())
            self.rates[self._key(name)] = nn.Parameter(rates)

    def draw(
        self, low: float, high: float, generator: torch.Generator | None = None
    ) -> None:
        """Draw every rate from a uniform distribution.

        Parameters
        ----------
        low, high : float
            The least and the greatest rate.
        generator : torch.Generator, default=None
            Draws them.
        """
        for rates in self.rates.values():
            nn.init.uniform_(rates, low, high, generator=generator)

    def _key(self, name: str) -> str:
        """Return what a weight's rates are stored under; dots mean submodules."""
        return "all" if self.granularity == "shared" else name.replace(".", "/")

    def forward(
        self, weights: TaskWeights, gradients: TaskWeights, step: int
    ) -> TaskWeights:
        """Return every task's weights after a step against their gradients.

        Parameters
        ----------
        weights, gradients : dict of str to Tensor
            By name, with the task axis first.
        step : int
            Which step of the inner loop it is, from 0.

        Returns
        -------
        dict of str to Tensor
            The weights after the step, by name.

        Raises
        ------
        ValueError
            If a weight has no rate.
        """
        return {
            name: torch.addcmul(
                weight, self._rate(name, step), gradients[name], value=-1
            )
            for name, weight in weights.items()
        }

    def _rate(self, name: str, step: int) -> Tensor:
        if name not in self.shapes:
            raise ValueError(
                f"the weight {name!r} has no inner rate: it was frozen when the "
                "learner was made. Unfreeze it before meta-training."
            )
        rates = self.rates[self._key(name)]  # (n_steps, n_weights)
        if self.n_steps > 1:
            rates = rates[min(step, self.n_steps - 1)]
        return rates.view(self.shapes[name])

    def by_name(self) -> dict[str, Tensor]:
        """Return the rates as they are, without gradients.

        Returns
        -------
        dict of str to Tensor
            For each weight (n_steps,), or (n_steps, ...) with a rate for each of its
            elements. Only one entry, "all", if they share one rate.
        """
        if self.granularity == "shared":
            return {"all": self.rates["all"].detach().flatten()}
        return {
            name: self.rates[self._key(name)].detach().view(-1, *shape)
            for name, shape in self.shapes.items()
        }

    def extra_repr(self) -> str:
        """Return what the module's repr says of it."""
        return f"granularity={self.granularity!r}, n_steps={self.n_steps}"


def rate_shapes(learner: GradientLearner) -> dict[str, torch.Size]:
    """Return the shape of each weight's elementwise rates.

    Parameters
    ----------
    learner : GradientLearner
        With its backbone and head.

    Returns
    -------
    dict of str to torch.Size
        The weights' own shapes; heads for local labels have one row for all ways.
    """
    shapes = {
        f"backbone.{name}": weight.shape
        for name, weight in learner.backbone.named_parameters()
        if weight.requires_grad
    }
    if learner.head is None:
        return shapes
    rows = () if learner.n_outputs is None else (learner.n_outputs,)
    n_features = learner.n_features
    shapes["head.weight"] = torch.Size((*rows, n_features))
    shapes["head.bias"] = torch.Size(rows)
    return shapes


def rate_of_step(inner_lr: Rate, step: int) -> float:
    """Return the rate of a step; after the last one given, that one is used on."""
    if isinstance(inner_lr, numbers.Real):
        return float(inner_lr)
    rates = list(inner_lr)  # type: ignore[arg-type]
    return float(rates[min(step, len(rates) - 1)])


def check_inner_lr(inner_lr: Any) -> None:
    """Raise TypeError or ValueError unless it is a positive number, or a list of them.

    Raises
    ------
    TypeError, ValueError
        Naming what was got and what is expected.
    """
    if not _is_list(inner_lr):
        check_positive("inner_lr", inner_lr)
        return
    if not len(inner_lr):
        raise ValueError(
            "inner_lr is an empty list: give a number, or one for each inner step."
        )
    for step, rate in enumerate(inner_lr):
        check_positive(f"inner_lr[{step}]", rate)


def check_one_per_step(inner_lr: Any, inner_steps: int) -> None:
    """Raise ValueError unless a list has as many rates as there are steps.

    Raises
    ------
    ValueError
        With both numbers.
    """
    if not _is_list(inner_lr) or len(inner_lr) == inner_steps:
        return
    raise ValueError(
        f"inner_lr={inner_lr!r} is for {len(inner_lr)} inner steps, one rate each, and "
        f"inner_steps={inner_steps}. Give as many rates as steps, or a single number "
        "for all steps."
    )


def _is_list(inner_lr: Any) -> bool:
    return isinstance(inner_lr, Sequence) and not isinstance(inner_lr, str)
