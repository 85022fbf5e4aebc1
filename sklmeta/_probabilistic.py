"""Meta-learners with predictive densities: their verbs, and calibration.

How sure a learner is of new tasks is only known from tasks that it was not trained on:
`calibrate=` holds some of them out, and fits one number there.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor

from sklmeta._adapted import TorchModel
from sklmeta._parameters import check_calibrate, resolve_device
from sklmeta._preparation import Preparation
from sklmeta.base import MetaClassifierMixin, MetaProbabilisticRegressorMixin
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.inference import adapt, run_episodes
from sklmeta.engine.losses import cross_entropy
from sklmeta.episodic import (
    CommonParameters,
    EpisodicMetaLearner,
    EpisodicRegressorMixin,
)

__all__ = [
    "ProbabilisticClassifierMixin",
    "ProbabilisticMetaLearner",
    "ProbabilisticParameters",
    "ProbabilisticRegressorMixin",
]

USUAL_LEVEL = 0.9
LARGEST_LOG_TEMPERATURE = 5.0
AT_THE_BOUND = 0.01  # of it, where a search that runs into it ends

NO_SIGNAL = (
    "predictions carry next to no signal on the held-out tasks: their labels are as "
    "well told by almost equal probabilities, which is what logits divided by {:.3g}, "
    "the largest temperature that is tried, give. Check that support rows tell "
    "something about the query rows of new tasks, train for longer, or hold out more "
    "tasks."
)
NO_ERRORS = (
    "the temperature is {:.3g}, the smallest that is tried. Either next to all query "
    "rows of the held-out tasks are predicted right, so that they do not tell how sure "
    "to be, or logits hardly differ. Hold out more tasks, with validation_fraction or "
    "fit(..., validation_tasks=...), or train for longer."
)
NOTHING_TOLD = (
    "{} on the held-out tasks, which say nothing about how far to trust predictions: "
    "they are left as they are. Hold out other tasks, with validation_fraction or "
    "fit(..., validation_tasks=...), or use calibrate=False."
)
LOCAL_LABELS = (
    "adapt() was called without rows, and this {} was meta-trained on labels that mean "
    "something in their task alone: without rows of a task nothing tells its classes "
    "apart. Call adapt(X_support, y_support) with some labelled rows of the task. With "
    "TaskSet(..., labels='shared') there is a prior."
)
OWN_STATISTICS = (
    "adapt() was called without rows, and the backbone of this {} normalises by "
    "statistics of the support rows, of which there are none. Call adapt(X_support, "
    "y_support) with some labelled rows of the task, or use a backbone without batch "
    "normalisation."
)


class ProbabilisticParameters(CommonParameters, total=False):
    """What `ProbabilisticMetaLearner` takes, for subclasses that pass it on by name."""

    calibrate: Any


class ProbabilisticMetaLearner(EpisodicMetaLearner):
    """Base of the meta-learners whose torch learner `PredictsDensity`."""

    def __init__(
        self,
        backbone: Any = None,
        *,
        calibrate: Any = False,
        **common: Unpack[CommonParameters],
    ) -> None:
        super().__init__(backbone, **common)
        self.calibrate = calibrate

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_calibrate(self.calibrate, self._classifies)

    @property
    def _holds_out(self) -> bool:
        """Whether `fit` keeps tasks from training."""
        return super()._holds_out or bool(self.calibrate)

    def _prepared(self, *arguments: Any) -> tuple[Preparation, Any]:
        """Return what `EpisodicMetaLearner` does; the learner is not calibrated yet."""
        preparation, learner = super()._prepared(*arguments)
        _calibrated(learner, 1.0)
        return preparation, learner

    def _finish(self, learner: Any, validation: Sequence[Episodes] | None) -> None:
        """Fit on held-out tasks what makes standard deviations or logits right."""
        if not self.calibrate or validation is None:
            return
        if self._classifies:
            value = _temperature(learner, validation)
        else:
            is_default = isinstance(self.calibrate, (bool, np.bool_))
            level = USUAL_LEVEL if is_default else float(self.calibrate)
            value = _std_factor(learner, validation, level)
        _calibrated(learner, value)


class ProbabilisticRegressorMixin(
    MetaProbabilisticRegressorMixin, EpisodicRegressorMixin
):
    """What regressors add to `ProbabilisticMetaLearner`."""

    def _prior_model(self: Any) -> TorchModel:
        """Return the model of a task without support rows."""
        return TorchModel.of_prior(self)


class ProbabilisticClassifierMixin(MetaClassifierMixin):
    """What classifiers add whose learner has a prior of shared labels."""

    def _prior_model(self: Any) -> TorchModel:
        """Return the model of a task without support rows."""
        name = type(self).__name__
        if self._label_kind == "local":
            raise TypeError(LOCAL_LABELS.format(name))
        if self.learner_.needs_equal_rows and not self.learner_.transductive:
            raise TypeError(OWN_STATISTICS.format(name))
        device, shape = resolve_device(self.device), self._preparation.input_shape
        masked = Rows(
            torch.zeros(1, 1, *shape, dtype=torch.float32, device=device),
            torch.zeros(1, 1, dtype=torch.long, device=device),
            torch.zeros(1, 1, dtype=torch.bool, device=device),
        )
        return TorchModel(self, adapt(self._configured_learner(), masked))


def _calibrated(learner: Any, value: float) -> None:
    learner.calibration.fill_(value)


def _std_factor(learner: Any, validation: Sequence[Episodes], level: float) -> float:
    """Return what standard deviations are to be multiplied by.

    With it, central normal intervals of probability `level` hold as large a share of
    the query targets of held-out episodes, each of which has the same weight.
    """
    view = learner.with_options(gives_std=True)
    errors, weights = [], []
    for episodes in validation:
        mean, std = run_episodes(view, episodes).double().chunk(2, dim=-1)
        query = episodes.query
        mask = query.mask.cpu()
        z = ((query.y.cpu().double() - mean) / std).abs()
        share = 1 / mask.sum(1, keepdim=True).expand_as(mask)
        errors.append(z[mask].reshape(-1))
        weights.append(share[mask].repeat_interleave(z.shape[-1]))
    found = _quantile(torch.cat(errors).numpy(), torch.cat(weights).numpy(), level)
    factor = found / norm.ppf((1 + level) / 2)
    if np.isfinite(factor) and factor > 0:
        return float(factor)
    exact = f"a share of {level:g} of the targets is predicted without any error"
    _warn(NOTHING_TOLD, exact if factor == 0 else "errors are not finite")
    return 1.0


def _quantile(
    values: NDArray[np.float64], weights: NDArray[np.float64], level: float
) -> float:
    """Return the smallest value that a share `level` of the weight does not exceed."""
    order = np.argsort(values)
    mass = np.cumsum(weights[order])
    place = np.searchsorted(mass, level * mass[-1])
    return float(values[order[min(place, len(order) - 1)]])


def _temperature(learner: Any, validation: Sequence[Episodes]) -> float:
    """Return the temperature of least cross-entropy on held-out episodes."""
    outputs = [run_episodes(learner, episodes).double() for episodes in validation]

    def loss(log_temperature: float) -> float:
        losses = [
            _answered(found / np.exp(log_temperature), episodes)
            for found, episodes in zip(outputs, validation, strict=True)
        ]
        return float(torch.cat(losses).mean())

    limit = LARGEST_LOG_TEMPERATURE
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded")
    if not np.isfinite(found.fun):
        _warn(NOTHING_TOLD, "losses are not finite")
        return 1.0
    if loss(0.0) <= found.fun:  # as where all is told right, and surely
        return 1.0
    temperature = float(np.exp(found.x))
    if abs(found.x) > limit - AT_THE_BOUND:
        _warn(NO_SIGNAL if found.x > 0 else NO_ERRORS, temperature)
    return temperature


def _warn(message: str, value: Any) -> None:
    """Warn the caller of `fit` of what calibration has found."""
    text = "calibrate: " + message.format(value)
    warnings.warn(text, UserWarning, stacklevel=5)


def _answered(logits: Tensor, episodes: Episodes) -> Tensor:
    """Return the cross-entropy of each episode's rows whose class could be given."""
    y, mask = episodes.query.y.cpu(), episodes.query.mask.cpu()
    own = logits.nan_to_num(nan=0.0).gather(-1, y.unsqueeze(-1)).squeeze(-1)
    return cross_entropy(logits, y, mask & own.isfinite())
