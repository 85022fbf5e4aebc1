"""Models of one task: what adapting makes, and few-shot estimators predict with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as pytree

from sklmeta._checks import diverged, finite_rows, refuse_more_ways
from sklmeta._parameters import resolve_device
from sklmeta.engine.batches import Rows
from sklmeta.engine.inference import adapt, draw_rows, predict_rows, streamed
from sklmeta.engine.learner import Learner, State
from sklmeta.engine.pool import RowPool

__all__ = ["AdaptedModel", "TorchModel"]


class AdaptedModel(Protocol):
    """What a meta-learner makes of one task's support rows; it is pickled.

    That of a classifier has `predict_proba` too: probabilities (Q, n_classes). That of
    a regressor with predictive densities has ``predict_std(X)``, means and standard
    deviations, and ``sample(X, n_samples, random_state, noise)``, joint draws
    (n_samples, Q, n_outputs), all in the units of the targets.
    """

    def predict(self, X: Any) -> NDArray[Any]:
        """Return positions of classes (Q,), or targets (Q,) or (Q, n_outputs)."""


class TorchModel:
    """State of a torch learner, adapted to one task.

    Parameters
    ----------
    meta : EpisodicMetaLearner
        Whose weights and adaptation parameters predict.
    state : State
        Of one task.
    scale : pair of Tensor, or None
        Level and spread of the task's targets, with ``normalize_y="task"``.
    """

    def __init__(
        self, meta: Any, state: State, scale: Sequence[Tensor] | None = None
    ) -> None:
        self.meta = meta
        self.state = state
        self.scale = scale

    @classmethod
    def of_support(
        cls, meta: Any, X: NDArray[Any], y: NDArray[Any], classes: NDArray[Any] | None
    ) -> TorchModel:
        """Adapt to checked rows and their labels or targets."""
        preparation, device = meta._preparation, resolve_device(meta.device)
        if classes is None:
            y = preparation.encode_targets(y)
        x = preparation.features(X)
        pool = RowPool.from_tasks(x, y, [0, len(x)], [None], None, device)
        learner, n_way = meta._configured_learner(), None
        if preparation.labels == "local":
            assert classes is not None
            n_way = torch.tensor([len(classes)], device=device)
            refuse_more_ways(meta, learner, n_way, lambda _: "y_support")
        learner, pool = streamed(learner, pool)
        support = Rows(
            pool.take(torch.arange(len(x))[None]),
            pool.y[None],
            torch.ones(1, len(x), dtype=torch.bool, device=device),
            n_way,
        )
        targets = preparation.task_targets
        scaled = support if targets is None else targets.standardise_support(support)
        state = adapt(learner, scaled)
        _refuse_non_finite(state, meta)
        if targets is None:
            return cls(meta, state)
        return cls(meta, state, [part[0].cpu() for part in targets.scale(support)])

    @classmethod
    def of_prior(cls, meta: Any) -> TorchModel:
        """Return the model of a task without any support rows."""
        preparation, device = meta._preparation, resolve_device(meta.device)
        single, shape = torch.float32, preparation.input_shape  # as rows are stored
        masked = Rows(
            torch.zeros(1, 1, *shape, dtype=single, device=device),
            torch.zeros(1, 1, preparation.n_outputs, dtype=single, device=device),
            torch.zeros(1, 1, dtype=torch.bool, device=device),
        )
        state = adapt(meta._configured_learner(), masked)
        targets = preparation.task_targets
        if targets is None:
            return cls(meta, state)
        return cls(meta, state, [part[0].cpu() for part in targets.scale(masked)])

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return positions of classes, or targets in their own units."""
        outputs = self._outputs(X)
        if self.meta._classifies:
            return outputs.argmax(-1).numpy()
        return self._in_units(outputs)

    def predict_std(self, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return targets and their standard deviations, in the targets' own units."""
        view = self.meta._configured_learner().with_options(gives_std=True)
        mean, std = self._outputs(X, view).chunk(2, dim=-1)
        if self.scale is not None:
            std = std * self.scale[1]
        return self._in_units(mean), self.meta._preparation.decode_spread(std.numpy())

    def sample(
        self, X: NDArray[Any], n_samples: int, seed: int, noise: bool
    ) -> NDArray[np.float64]:
        """Return joint draws (n_samples, Q, n_outputs) in the targets' own units."""
        draws = draw_rows(*self._ready(X), n_samples, seed, noise)
        if not draws.isfinite().all():
            where = "the support rows, or drawing at rows far from them,"
            raise diverged(self.meta, where)
        return self._in_units(draws).reshape(draws.shape)

    def _in_units(self, outputs: Tensor) -> NDArray[np.float64]:
        if self.scale is not None:
            level, spread = self.scale
            outputs = outputs * spread + level
        return self.meta._preparation.decode_targets(outputs.numpy())

    def predict_proba(self, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return probabilities of the classes."""
        return torch.softmax(self._outputs(X).double(), dim=-1).numpy()

    def _outputs(self, X: NDArray[Any], learner: Learner | None = None) -> Tensor:
        """Return outputs (Q, N) or (Q, n_outputs) of a learner for checked rows."""
        outputs = predict_rows(*self._ready(X, learner))
        if not finite_rows(outputs, self.meta._classifies).all():
            where = "the support rows, or predicting rows far from them,"
            raise diverged(self.meta, where)
        return outputs

    def _ready(
        self, X: NDArray[Any], learner: Learner | None = None
    ) -> tuple[Learner, State, RowPool]:
        """Return learner, state and checked rows on the device."""
        meta, device = self.meta, resolve_device(self.meta.device)
        x = meta._preparation.features(X)
        y = np.zeros(len(x), dtype=np.int64)
        pool = RowPool.from_tasks(x, y, [0, len(x)], [None], None, device)
        state = pytree.tree_map(lambda leaf: leaf.to(device), self.state)
        return meta._configured_learner() if learner is None else learner, state, pool

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with CPU tensors."""
        return {**self.__dict__, "state": pytree.tree_map(_to_cpu, self.state)}


def _to_cpu(leaf: Any) -> Any:
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf


def _refuse_non_finite(state: State, meta: Any) -> None:
    """Refuse a state whose numbers are not finite: adaptation diverged."""
    for leaf in pytree.tree_leaves(state):
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        if floating and not torch.isfinite(leaf).all():
            raise diverged(meta, "these support rows")
