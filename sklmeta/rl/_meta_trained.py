"""Agents whose weights are meta-trained: the loop of meta-updates."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn

from sklmeta._parameters import (
    check_choice,
    check_integer,
    resolve_device,
    same_value,
)
from sklmeta.exceptions import EnvTaskError, EnvTaskWarning, MetaTrainingError
from sklmeta.rl._env_pool import EnvPool
from sklmeta.rl._sources import TaskSource, task_source
from sklmeta.rl.base import CPU, BaseAgent
from sklmeta.rl.tasks import EnvTask

__all__ = ["MetaTrainedAgent", "Training"]

Result = TypeVar("Result")

# Environments that may fail one after the other, with `env_errors="warn"`.
MOST_FAILURES = 20


@dataclass
class Training:
    """What meta-training holds between two updates."""

    learner: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    seeds: np.random.RandomState
    history: list[dict[str, float]] = field(default_factory=list)
    n_env_steps: int = 0

    def next_seed(self) -> int:
        return int(self.seeds.randint(np.iinfo(np.int32).max))


class MetaTrainedAgent(BaseAgent):
    """Base of agents that are meta-trained.

    Subclasses add their parameters, `_new_learner`, `_outer_step_size` and `_update`.
    """

    max_iter: int
    max_env_steps: int | None
    batch_size: int
    env_errors: str
    device: Any
    warm_start: bool
    verbose: int

    learner_: nn.Module
    history_: list[dict[str, float]]
    n_iter_: int
    n_env_steps_: int

    # What to lower when meta-training diverges.
    _step_size = "lr"
    # Built into the learner by the first fit.
    _structural_parameters: ClassVar[tuple[str, ...]] = ()

    def _new_learner(self) -> nn.Module:
        """Return a learner with initial weights, drawn from torch's generator."""
        raise NotImplementedError

    def _outer_step_size(self) -> float:
        """Return the step size of the optimizer; a warm start may change it."""
        raise NotImplementedError

    def _new_optimizer(self, learner: nn.Module) -> torch.optim.Optimizer:
        """Return what changes the weights."""
        return torch.optim.Adam(learner.parameters(), self._outer_step_size(), eps=1e-5)

    def _update(
        self, training: Training, pool: EnvPool, tasks: list[EnvTask]
    ) -> dict[str, float]:
        """Make one meta-update; return its row of `history_`, `env_steps` in it."""
        raise NotImplementedError

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_integer("max_iter", self.max_iter, 1)
        check_integer("batch_size", self.batch_size, 1)
        if self.max_env_steps is not None:
            check_integer("max_env_steps", self.max_env_steps, 1)
        check_choice("env_errors", self.env_errors, ["raise", "warn"])
        check_choice("warm_start", self.warm_start, [True, False])
        if not isinstance(self.verbose, bool):
            check_integer("verbose", self.verbose, 0)

    def fit(self, X: Any, y: None = None) -> Self:
        """Meta-train on environments.

        Parameters
        ----------
        X : list of EnvTask, callables, gymnasium ids or specs, or a distribution
            Environments in any form. Each update takes `batch_size` of a list, in a new
            order each round, or new ones of a distribution with
            ``sample(n_tasks, random_state)``.
        y : None
            Ignored; scikit-learn passes it.

        Returns
        -------
        self : object
            The fitted agent.

        Raises
        ------
        EnvTaskError
            If an environment fails, unless ``env_errors="warn"``; what was learned so
            far is kept.
        MetaTrainingError
            If numbers are not finite.
        TypeError, ValueError
            If parameters or tasks are not usable.
        """
        self._check_parameters()
        before = dict(self.__dict__)
        rng = check_random_state(self.random_state)
        source = task_source(X, rng)
        training = self._begun(source, rng)
        n_done = len(training.history)
        try:
            with self._pool() as pool:
                self._train(training, pool, source)
        finally:
            if len(training.history) > n_done:
                self._keep(training)
            else:  # nothing was learned: what was before stays
                self.__dict__.clear()
                self.__dict__.update(before)
        return self

    def _begun(self, source: TaskSource, rng: np.random.RandomState) -> Training:
        """Return a new training, or with `warm_start` the last one's next part."""
        device = resolve_device(self.device)
        if self.warm_start and hasattr(self, "learner_"):
            self._refuse_another_start(source)
            training = deepcopy(self._training)
            training.learner.to(device)
            for group in training.optimizer.param_groups:
                group["lr"] = self._outer_step_size()
            return training
        self._without_failures(lambda: self._keep_spaces(source.draw(1)[0]), source)
        seed = int(rng.randint(np.iinfo(np.int32).max))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learner = self._new_learner().to(device)
        generator = torch.Generator(device).manual_seed(seed)
        optimizer = self._new_optimizer(learner)
        return Training(learner, optimizer, generator, rng)

    def _refuse_another_start(self, source: TaskSource) -> None:
        """Refuse to go on with a net of another size, or tasks of other spaces.

        Raises
        ------
        ValueError
            Saying what was fitted.
        """
        for name in self._structural_parameters:
            now, before = getattr(self, name), self._built_with[name]
            if not same_value(now, before):
                raise ValueError(
                    f"{name}={now!r} acts in the first fit, and warm_start=True goes "
                    f"on with a net of {name}={before!r}. Set it back, or fit anew "
                    "with warm_start=False."
                )
        with self._pool() as pool:
            spaces = pool.spaces_of(source.draw(1)[0])
        self._refuse_spaces(*spaces)

    def _train(self, training: Training, pool: EnvPool, source: TaskSource) -> None:
        for _ in range(self.max_iter):
            learned = deepcopy(training.learner.state_dict())
            try:
                row = self._next_row(training, pool, source)
            except BaseException:  # Ctrl-C, too, can come in the middle of an update
                training.learner.load_state_dict(learned)
                raise
            training.n_env_steps += int(row["env_steps"])
            row["env_steps"] = training.n_env_steps
            training.history.append(row)
            self._report(training)
            limit = self.max_env_steps
            if limit is not None and training.n_env_steps >= limit:
                break

    def _next_row(
        self, training: Training, pool: EnvPool, source: TaskSource
    ) -> dict[str, float]:
        """Make an update."""

        def update() -> dict[str, float]:
            try:
                return self._update(training, pool, source.draw(self.batch_size))
            except EnvTaskError:
                pool.close()
                raise

        return self._without_failures(update, source)

    def _without_failures(
        self, attempt: Callable[[], Result], source: TaskSource
    ) -> Result:
        """Return what an attempt gives, with ``env_errors="warn"`` one of many.

        Tasks that fail are left out of the next attempts.
        """
        for place in range(MOST_FAILURES):
            try:
                return attempt()
            except EnvTaskError as error:
                is_last = place == MOST_FAILURES - 1 or error.task_name is None
                if self.env_errors == "raise" or is_last:
                    raise
                if not source.drop(error.task_name):
                    raise
                warnings.warn(
                    f"{error} Meta-training goes on without it.",
                    EnvTaskWarning,
                    stacklevel=2,
                )
        raise AssertionError("unreachable")

    def _keep(self, training: Training) -> None:
        self.learner_ = training.learner
        self._built_with = {n: getattr(self, n) for n in self._structural_parameters}
        self.history_ = training.history
        self.n_iter_ = len(training.history)
        self.n_env_steps_ = training.n_env_steps
        if self.warm_start:
            self._training = training

    def _report(self, training: Training) -> None:
        if self.verbose:
            row = training.history[-1]
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
            print(f"update {len(training.history)}: {numbers}")

    def _learner_on(self, device: torch.device) -> Any:
        """Return the learner on a device; a copy where it is on another."""
        learner = self.learner_
        if next(learner.parameters()).device == device:
            return learner
        return deepcopy(learner).to(device)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle tensors of the CPU, and what training holds only to go on with it."""
        state = super().__getstate__()
        if "learner_" in state:
            state["learner_"] = self._learner_on(CPU)
        if not self.warm_start:
            state.pop("_training", None)
        return state

    def _refuse_divergence(self, losses: dict[str, float]) -> None:
        if not all(np.isfinite(value) for value in losses.values()):
            raise MetaTrainingError(
                f"Meta-training of {type(self).__name__} diverged: {losses}. Lower "
                f"{self._step_size}."
            )

    def _device(self) -> torch.device:
        return resolve_device(self.device)
