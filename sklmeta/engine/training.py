"""The outer loop: skorch's training loop, with episode batches for batches.

An epoch is `eval_every` meta-updates; each ends with one row of the history and, where
there are held-out tasks, with their loss on fixed episodes. skorch's callbacks,
history and progress table come along.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil, isfinite
from typing import Any

import torch
from sklearn import config_context
from skorch import NeuralNet
from skorch.callbacks import Callback, EarlyStopping
from skorch.history import History
from torch import Tensor, nn

from sklmeta.backbones.freezing import is_fixed
from sklmeta.engine.batches import Episodes
from sklmeta.engine.eager import device_of, parts_of
from sklmeta.engine.learner import Learner, Progress
from sklmeta.engine.updates import Update, UpdateOptions, make_update
from sklmeta.exceptions import MetaTrainingError

__all__ = ["OPTIMIZERS", "TrainingOptions", "TrainingResult", "meta_train"]

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}
FUSED = ("adam", "adamw", "sgd")


@dataclass(frozen=True)
class TrainingOptions:
    """How to train; the estimators' parameters of the same names."""

    optimizer: str | type[torch.optim.Optimizer] = "adam"
    outer_lr: float = 1e-3
    n_updates: int = 1000
    n_done_before: int = 0
    has_plan: bool = True
    eval_every: int = 100
    patience: int | None = None
    callbacks: Sequence[Any] = ()
    verbose: int = 0
    remedy: str = "Lower outer_lr."
    update: UpdateOptions = field(default_factory=UpdateOptions)


@dataclass(frozen=True)
class TrainingResult:
    """What a run of the outer loop leaves behind."""

    history: History
    n_updates: int
    optimizer_state: dict[str, Any] = field(repr=False)
    interrupted: KeyboardInterrupt | None = None


class _NoCriterion(nn.Module):
    """skorch asks for a criterion; learners bring their own meta-loss."""


class _EpisodeNet(NeuralNet):
    """skorch net whose batches are `Episodes` and whose module is a learner."""

    update: Update
    compiles = False
    remedy = ""
    n_updates_done = 0
    n_done_before = 0
    n_planned: int | None = None

    def get_split_datasets(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        return X, y

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        return dataset

    def get_all_learnable_params(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in super().get_all_learnable_params():
            if name not in self.module_.own_updates:
                yield name, parameter

    def train_step_single(self, batch: Episodes, **fit_params: Any) -> dict[str, Any]:
        if not all(module.training for module in self._modules_of_learner):
            self._set_training(True)
        n_done = self.n_done_before + self.n_updates_done
        progress = Progress(n_done, self.n_planned)
        object.__setattr__(self.module_, "progress", progress)  # no tensor: quicker
        total = self.update(batch)
        self._refuse_non_finite(total)
        return {"loss": total, "y_pred": None}

    @cached_property
    def _modules_of_learner(self) -> list[nn.Module]:
        """The modules that training sets the mode of.

        Looking them up costs more than asking them.
        """
        return [layer for layer in self.module_.modules() if not is_fixed(layer)]

    def _zero_grad_optimizer(self, set_to_none: bool | None = None) -> None:
        optimizer = self.optimizer_
        if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            return super()._zero_grad_optimizer(set_to_none)
        # The same without its profiling, which costs small nets a tenth of an update.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None
        return None

    def train_step(self, batch: Episodes, **fit_params: Any) -> dict[str, Any]:
        step = super().train_step(batch, **fit_params)
        self.n_updates_done += 1
        return step

    def run_single_epoch(
        self, iterator: Any, training: bool, *args: Any, **kwargs: Any
    ) -> None:
        before = self._compiling_s
        super().run_single_epoch(iterator, training, *args, **kwargs)
        if training and self.compiles:
            self.history.record("compile_dur", self._compiling_s - before)

    @property
    def _compiling_s(self) -> float:
        """Seconds that making programs has taken so far."""
        return getattr(self.update, "seconds", 0.0)

    def validation_step(self, batch: Episodes, **fit_params: Any) -> dict[str, Any]:
        self._set_training(False)
        with torch.no_grad():
            total = sum(
                self.module_.meta_loss(part).sum() / len(batch)
                for part in parts_of(self.module_, batch)
            )
        return {"loss": total, "y_pred": None}

    def _refuse_non_finite(self, loss: Tensor) -> None:
        if not isfinite(loss.item()):
            raise MetaTrainingError(
                f"The meta-training loss became {loss.item()} at meta-update "
                f"{self.n_updates_done + 1}. {self.remedy}"
            )


@dataclass(frozen=True)
class _Updates:
    """`n_updates` batches from a stream, in epochs of `eval_every`.

    Each iteration over it is one epoch.
    """

    stream: Iterator[Episodes]
    n_updates: int
    eval_every: int
    taken: list[int] = field(default_factory=lambda: [0])

    def __iter__(self) -> Iterator[Episodes]:
        for _ in range(len(self)):
            self.taken[0] += 1
            yield next(self.stream)

    def __len__(self) -> int:
        """Return the batches of the epoch that is next; progress bars ask for it."""
        return min(self.eval_every, self.n_updates - self.taken[0])


@dataclass(frozen=True)
class _HeldOut:
    """The batches that every epoch is judged on."""

    batches: Sequence[Episodes]

    def __iter__(self) -> Iterator[Episodes]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def meta_train(
    learner: Learner,
    stream: Iterator[Episodes],
    validation: Sequence[Episodes] | None,
    options: TrainingOptions,
    optimizer_state: dict[str, Any] | None = None,
) -> TrainingResult:
    """Train `learner` in place on the episodes of `stream`.

    Parameters
    ----------
    learner : Learner
        Trained in place; left in evaluation mode.
    stream : iterator of Episodes
        One batch per meta-update.
    validation : sequence of Episodes or None
        Fixed episodes of held-out tasks, judged after every epoch.
    options : TrainingOptions
    optimizer_state : dict, default=None
        State of the optimizer of an earlier run, to go on with.

    Returns
    -------
    TrainingResult
        With `interrupted` set if Ctrl-C ended the run.

    Raises
    ------
    MetaTrainingError
        If the loss or a weight stops being finite.
    """
    net = _make_net(learner, options)
    net.initialize()
    net.update = make_update(net.module_, options.update)
    if optimizer_state is not None:
        # A copy: torch would go on with the tensors of the earlier run's state.
        net.optimizer_.load_state_dict(copy.deepcopy(optimizer_state))
        for group in net.optimizer_.param_groups:
            group["lr"] = options.outer_lr  # the state holds that of the earlier run
    interrupted = None
    with config_context(enable_metadata_routing=False):
        net.notify("on_train_begin", X=None, y=None)
        try:
            net.fit_loop(
                _Updates(stream, options.n_updates, options.eval_every),
                None if validation is None else _HeldOut(validation),
                epochs=ceil(options.n_updates / options.eval_every),
            )
        except KeyboardInterrupt as error:
            interrupted = None if _stopped_early(net) else error
        net.notify("on_train_end", X=None, y=None)
    _drop_unfinished_epoch(net.history)
    learner.eval()
    _refuse_non_finite_weights(learner, options.remedy)
    return TrainingResult(
        net.history, net.n_updates_done, net.optimizer_.state_dict(), interrupted
    )


def _make_net(learner: Learner, options: TrainingOptions) -> _EpisodeNet:
    callbacks: list[Any] = list(options.callbacks)
    if options.patience is not None:
        stopping = EarlyStopping(patience=options.patience, load_best=True)
        callbacks.append(("early_stopping", stopping))
    optimizer = options.optimizer
    settings: dict[str, Any] = {}
    if isinstance(optimizer, str):
        if optimizer in FUSED:
            settings["optimizer__fused"] = True
        optimizer = OPTIMIZERS[optimizer]
    if not options.verbose:
        # It would print all the same where `print` has been replaced, as Ray does.
        settings["callbacks__print_log"] = None
    net = _EpisodeNet(
        learner,
        criterion=_NoCriterion,
        optimizer=optimizer,
        lr=options.outer_lr,
        batch_size=1,  # as skorch counts: batches are the items of its data here
        train_split=None,
        callbacks=callbacks,
        verbose=options.verbose,
        device=str(device_of(learner)),
        **settings,
    )
    net.remedy = options.remedy
    net.compiles = options.update.compile
    net.n_done_before = options.n_done_before
    if options.has_plan:
        net.n_planned = options.n_done_before + options.n_updates
    return net


def _drop_unfinished_epoch(history: History) -> None:
    """Remove the row of an epoch that was interrupted before it had a loss."""
    if history and "train_loss" not in history[-1]:
        del history[-1]


def _stopped_early(net: NeuralNet) -> bool:
    """Whether a callback ended training: skorch's raise KeyboardInterrupt for that."""
    callbacks: list[Callback] = [callback for _, callback in net.callbacks_]
    return any(
        callback.misses_ >= callback.patience
        for callback in callbacks
        if isinstance(callback, EarlyStopping)
    )


def _refuse_non_finite_weights(learner: Learner, remedy: str) -> None:
    for name, weight in learner.named_parameters():
        if not torch.isfinite(weight).all():
            raise MetaTrainingError(
                f"The meta-learned weights {name!r} are not finite after "
                f"meta-training. {remedy}"
            )
