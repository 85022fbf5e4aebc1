"""What the optimisation-based learners share: a net with weights of each task's own.

Axes: T tasks, S support rows, Q query rows, F features, N ways.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sklmeta.backbones.normalization import (
    batch_statistics,
    given_statistics,
    recorded_statistics,
)
from sklmeta.backbones.readiness import twice_differentiable
from sklmeta.engine.batches import Rows
from sklmeta.engine.checkpoint import checkpointed
from sklmeta.engine.learner import Learner, State, WeightsId, way_mask
from sklmeta.engine.mapping import (
    TaskFunction,
    map_module,
    map_tasks,
    mapping_method,
    passing,
    task_gradients,
)
from sklmeta.gradient.heads import (
    DEFAULT_HEAD,
    HEADS,
    FixedHead,
    Head,
    LinearHead,
    PrototypeHead,
    SharedHead,
)

__all__ = ["GradientLearner", "TaskWeights", "below"]

TaskWeights = dict[str, Tensor]
"""Weights by name, as the learner's parameters are called, with the task axis first."""

Statistics = dict[str, tuple[Tensor, Tensor]]


class GradientLearner(Learner):
    """Base of the learners that adapt a backbone and a head by gradient steps.

    Subclasses write `adapt`, which returns what `state` makes of adapted weights.

    Parameters
    ----------
    backbone : nn.Module
        Maps rows (n, *F) to features (n, n_features). It is used itself, and changed
        by `sklmeta.backbones.readiness.twice_differentiable`.
    n_features : int
        Width of the features.
    n_outputs : int or None
        Number of classes (shared labels) or of targets; None for local labels, where
        each task has its own number of ways.
    task_type : {"classification", "regression"}
        What outputs are: logits, or numbers.
    head : {"auto", "fixed", "shared", "prototype", "none"}, default="auto"
        See `sklmeta.gradient.heads`; "none" where the backbone ends in `n_outputs`
        outputs itself. With shared labels and numbers, "auto" and "fixed" are the same.
    n_ways : int, default=None
        The most ways of a training episode; for ``head="fixed"`` with local labels.
    transductive : bool, default=False
        Normalise query rows by the query batch's own statistics.
    checkpoint_steps : bool, default=False
        Make the graph of inner steps again in the backward pass, instead of keeping it.
    generator : torch.Generator, default=None
        Draws the head's initial weights.
    """

    default_head: ClassVar[str] = DEFAULT_HEAD  # with local labels
    adapts_weights: ClassVar[bool] = True  # of the backbone, where it is alone

    def __init__(
        self,
        backbone: nn.Module,
        n_features: int,
        n_outputs: int | None,
        *,
        task_type: str,
        head: str = "auto",
        n_ways: int | None = None,
        transductive: bool = False,
        checkpoint_steps: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(task_type)
        self.backbone = twice_differentiable(backbone)
        self.n_features = n_features
        self.n_outputs = n_outputs
        self.transductive = transductive
        self.checkpoint_steps = checkpoint_steps
        self.head = self._make_head(head, n_ways, generator)
        if self.head is None and self.adapts_weights and not _any_trained(backbone):
            raise ValueError(
                "head='none' leaves the backbone's weights alone to adapt, and it has "
                "none that are trained. Unfreeze some, or use head='auto'."
            )
        self.most_ways = None if self.head is None else self.head.most_ways

    def _make_head(
        self, head: str, n_ways: int | None, generator: torch.Generator | None
    ) -> Head | None:
        if head not in HEADS:
            raise ValueError(f"head must be one of {HEADS}, got {head!r}.")
        if head == "none":
            return None
        if self.n_outputs is not None:
            return LinearHead(self.n_features, self.n_outputs, generator)
        if head == "auto":
            head = self.default_head
        if head == "shared":
            return SharedHead(self.n_features)
        if head == "prototype":
            return PrototypeHead()
        if n_ways is None:
            raise ValueError("head='fixed' with local labels needs n_ways, got None.")
        return FixedHead(self.n_features, n_ways, generator)

    # Before, during and after adaptation -----------------------------------------

    def initial_weights(self, support: Rows) -> TaskWeights:
        """Return every task's weights before adaptation, (T, ...) each.

        Parameters
        ----------
        support : Rows
            x (T, S, *F), y (T, S) or (T, S, n_outputs), mask (T, S), n_way (T,).

        Returns
        -------
        dict of str to Tensor
            "backbone...." as the backbone's parameters are called, those that are
            trained; "head.weight" (T, N, F), "head.bias" (T, N).

        Raises
        ------
        ValueError
            If labels are local and `support.n_way` is missing.
        """
        n_tasks = len(support)
        weights = {
            f"backbone.{name}": weight.expand(n_tasks, *weight.shape)
            for name, weight in self.backbone.named_parameters()
            if weight.requires_grad
        }
        if isinstance(self.head, FixedHead) and not self.training:
            support = self._as_the_head_sees(support)
        return weights | self.initial_head(support)

    def _as_the_head_sees(self, support: Rows) -> Rows:
        """Return the rows that tell ways apart: features where these are always alike.

        A learner on features, which has no others, then gives ways the same vectors.
        """
        if not self._adapts_head_alone:
            return support
        features = self.features({}, support.x)
        return Rows(features, support.y, support.mask, support.n_way)

    def initial_head(
        self, support: Rows, features: Callable[[], Tensor] | None = None
    ) -> TaskWeights:
        """Return every task's head before adaptation; empty where there is none.

        `features` returns those of the support rows, for heads that start from them;
        by default those of the backbone as it is.
        """
        if self.head is None:
            return {}
        if self.n_outputs is None and support.n_way is None:
            raise ValueError(
                f"{type(self).__name__} with local labels (n_outputs=None) needs "
                "Rows.n_way, the number of ways of each task."
            )
        features = features or (lambda: self.features({}, support.x))
        start = self.head.start(support, features)
        return {f"head.{name}": value for name, value in start.items()}

    def ways(self, support: Rows) -> Tensor:
        """Return which ways each task has, (T, N); all of them, if not local."""
        if self.n_outputs is None and support.n_way is not None:
            return way_mask(support.n_way, int(support.n_way.max()))
        shape = (len(support), self.n_outputs or 0)
        return torch.ones(shape, dtype=torch.bool, device=support.x.device)

    def support_loss(self, weights: TaskWeights, support: Rows, ways: Tensor) -> Tensor:
        """Return each task's loss on its support rows, (T,)."""
        return self.loss(self.outputs(weights, support.x, ways), support)

    def support_gradients(
        self, weights: TaskWeights, support: Rows, ways: Tensor, *, create_graph: bool
    ) -> TaskWeights:
        """Return the gradients of each task's support loss by its own weights."""
        return task_gradients(
            lambda own: self.support_loss(own, support, ways),
            weights,
            create_graph=create_graph,
        )

    def take_step(
        self, step: Callable[[TaskWeights], TaskWeights], weights: TaskWeights
    ) -> TaskWeights:
        """Take an inner step, its graph kept or, with `checkpoint_steps`, made again.

        Parameters
        ----------
        step : callable
            Takes every task's weights and returns new ones under the same names. It
            asks `torch.is_grad_enabled` whether its gradients are to be differentiated,
            and uses no tensors with a graph but the weights and the learner's own
            parameters.
        weights : dict of str to Tensor
            Every task's weights before the step, by name.

        Returns
        -------
        dict of str to Tensor
            The weights after it.
        """
        if not (self.checkpoint_steps and torch.is_grad_enabled()):
            return step(weights)
        return checkpointed(step, weights, list(self.parameters()), self)

    def state(self, weights: TaskWeights, support: Rows, ways: Tensor) -> State:
        """Return what `predict` needs of adapted weights.

        Returns
        -------
        dict
            "parameters": adapted weights by name, "ways": which ways each task has
            (T, N), "statistics": batch statistics of the support rows.
        """
        statistics = self.support_statistics(weights, support.x)
        return {"parameters": weights, "ways": ways, "statistics": statistics}

    def predict(self, state: State, x: Tensor) -> Tensor:
        """Return logits or numbers of the adapted networks for query rows.

        Parameters
        ----------
        state : dict
            What `adapt` returned.
        x : Tensor of shape (T, Q, *F)
            Query rows.

        Returns
        -------
        Tensor of shape (T, Q, N) or (T, Q, n_outputs)
            Logits of ways, or numbers.
        """
        return self.outputs(state["parameters"], x, state["ways"], state["statistics"])

    def on_features(self) -> tuple[nn.Module, Learner] | None:
        """Return the backbone, and the adaptation of the head alone on its features.

        Returns
        -------
        tuple of (nn.Module, GradientLearner), or None
            None where weights of the backbone adapt, where it is all that is adapted,
            or normalises by the rows of a task.
        """
        if not self._adapts_head_alone:
            return None
        return self.backbone, self._with_backbone(nn.Identity())

    @property
    def _adapts_head_alone(self) -> bool:
        """Whether features of a row are the same before and after adaptation."""
        adapts = _any_trained(self.backbone) or not self.adapts_weights
        return not (adapts or self.head is None or self.needs_equal_rows)

    def _with_backbone(self, backbone: nn.Module) -> Self:
        """Return a view with another backbone; all other weights are shared."""
        view = copy.copy(self)
        view._modules = {**self._modules, "backbone": backbone}
        view.weights_id = WeightsId()
        return view

    # The net ---------------------------------------------------------------------

    def outputs(
        self,
        weights: TaskWeights,
        x: Tensor,
        ways: Tensor,
        statistics: Statistics | None = None,
    ) -> Tensor:
        """Map rows (T, S, *F) to (T, S, N) or (T, S, n_outputs).

        Weights of the backbone that are not among `weights` are the learner's own.
        Without `statistics`, batch normalisation uses those of the rows.
        """
        features = self.features(below("backbone.", weights), x, statistics)
        return self.head_outputs(weights, features, ways)

    def head_outputs(
        self, weights: TaskWeights, features: Tensor, ways: Tensor
    ) -> Tensor:
        """Map features (T, S, n_features) to (T, S, N) or (T, S, n_outputs)."""
        if self.head is None:
            return features
        bias, weight = weights["head.bias"], weights["head.weight"]
        outputs = torch.baddbmm(bias.unsqueeze(1), features, weight.mT)
        if self.n_outputs is not None:
            return outputs
        return outputs.masked_fill(~ways.unsqueeze(1), -torch.inf)

    def features(
        self, weights: TaskWeights, x: Tensor, statistics: Statistics | None = None
    ) -> Tensor:
        """Map rows (T, S, *F) to features (T, S, n_features).

        `weights` are called as the backbone's parameters; those missing are its own.
        """
        with passing(self, x.device):
            return self._features(weights, x, statistics).to(x.dtype)

    def _features(
        self, weights: TaskWeights, x: Tensor, statistics: Statistics | None
    ) -> Tensor:
        if not weights and not self.needs_equal_rows:
            # Nothing is a task's own: the rows of all tasks are one batch.
            rows = x.flatten(0, 1).unsqueeze(0)
            features = map_module(self.backbone, {}, rows, method="loop")[0]
            return features.unflatten(0, x.shape[:2])
        if not statistics:
            method = mapping_method(self, x.device)
            with batch_statistics(self.backbone):
                return map_module(self.backbone, weights, x, method=method)

        def normalised(weights: TaskWeights, x: Tensor, own: Statistics) -> Tensor:
            with given_statistics(self.backbone, own):
                return functional_call(self.backbone, weights, (x,))

        return self._map(normalised, weights, x, statistics)

    def support_statistics(self, weights: TaskWeights, x: Tensor) -> Statistics:
        """Return each layer's mean and variance of the support rows, once adapted."""
        if self.transductive or not self.needs_equal_rows:
            return {}
        return self.support_features(below("backbone.", weights), x)[1]

    def support_features(
        self, weights: TaskWeights, x: Tensor
    ) -> tuple[Tensor, Statistics]:
        """Return features of support rows (T, S, *F), and their batch statistics.

        Statistics are those that query rows are normalised by: none, where they have
        their own. `weights` are called as the backbone's parameters.
        """
        if self.transductive or not self.needs_equal_rows:
            return self.features(weights, x), {}

        def record(weights: TaskWeights, x: Tensor) -> tuple[Tensor, Statistics]:
            with batch_statistics(self.backbone, record=True):
                features = functional_call(self.backbone, weights, (x,))
                return features, recorded_statistics(self.backbone)

        with passing(self, x.device):
            features, statistics = self._map(record, weights, x)
        return features.to(x.dtype), statistics

    def _map(self, function: TaskFunction, weights: TaskWeights, *args: Any) -> Any:
        """Apply a function of one task's weights and rows to every task."""
        method = mapping_method(self, args[0].device)
        in_dims = (0,) * (1 + len(args))
        return map_tasks(function, weights, *args, in_dims=in_dims, method=method)


def _any_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def below(prefix: str, weights: TaskWeights) -> TaskWeights:
    """Return the weights whose names start with `prefix`, without it."""
    start = len(prefix)
    return {n[start:]: w for n, w in weights.items() if n.startswith(prefix)}
