"""What MAML and ProMP share: policies that adapt by policy gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sklmeta._parameters import (
    check_fraction,
    check_integer,
    check_positive,
    shown,
)
from sklmeta.rl._env_pool import EnvPool
from sklmeta.rl._inner_loop import Objective, adapted_weights
from sklmeta.rl._meta_trained import MetaTrainedAgent, Training
from sklmeta.rl._online import OnlinePolicy
from sklmeta.rl._stacked_policy import PolicyNet, StackedPolicy, Weights
from sklmeta.rl._task_batches import TaskBatch, task_batch
from sklmeta.rl._trials import Trials, run_trials
from sklmeta.rl.base import CPU
from sklmeta.rl.tasks import EnvTask

__all__ = ["GradientAgent"]


@dataclass(frozen=True)
class _Stages:
    """What T tasks' policies did before and after each gradient step."""

    trials: list[Trials]
    batches: list[TaskBatch]
    weights: Weights  # after the last step


class GradientAgent(MetaTrainedAgent):
    """Base of agents whose initial weights are meta-learned.

    Subclasses say `_inner_objective` and `_outer_update`.
    """

    hidden_sizes: Sequence[int]
    inner_lr: float
    inner_steps: int
    outer_lr: float
    gamma: float
    gae_lambda: float

    _curve_axis: ClassVar[tuple[str, int]] = ("gradient_step", 0)
    _step_size = "inner_lr or outer_lr"
    _structural_parameters: ClassVar[tuple[str, ...]] = ("hidden_sizes",)

    def _inner_objective(self) -> Objective:
        """Return what gradient steps ascend."""
        raise NotImplementedError

    def _outer_update(
        self, training: Training, batches: list[TaskBatch]
    ) -> dict[str, float]:
        """Change the initial weights by rows before and after each inner step."""
        raise NotImplementedError

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if not isinstance(self.hidden_sizes, list | tuple):
            raise TypeError(
                "hidden_sizes must be a list or tuple of the units of each layer, such "
                f"as (64, 64), got {shown(self.hidden_sizes)}."
            )
        for place, size in enumerate(self.hidden_sizes):
            check_integer(f"hidden_sizes[{place}]", size, 1)
        check_integer("inner_steps", self.inner_steps, 1)
        for name in ("inner_lr", "outer_lr"):
            check_positive(name, getattr(self, name))
        for name in ("gamma", "gae_lambda"):
            check_fraction(name, getattr(self, name), boundaries="both")

    # Meta-training ---------------------------------------------------------------

    def _new_learner(self) -> PolicyNet:
        return PolicyNet(*self._codes, tuple(self.hidden_sizes))

    def _outer_step_size(self) -> float:
        return self.outer_lr

    def _update(
        self, training: Training, pool: EnvPool, tasks: list[EnvTask]
    ) -> dict[str, float]:
        net: Any = training.learner
        copies = self._n_copies(tasks, self.n_episodes)
        device = training.generator.device
        envs = pool.batched(tasks, training.next_seed(), device, copies)
        stages = self._stages(net, envs, copies, self.n_episodes, training.generator)
        losses = self._outer_update(training, stages.batches)
        self._refuse_divergence(losses)
        if not net.observation.is_discrete:
            net.observation_moments.update(_observed(net, stages.trials))
        returns = [float(trials.returns.mean()) for trials in stages.trials]
        return {
            "env_steps": sum(trials.n_steps for trials in stages.trials),
            "return": returns[-1],
            "return_before": returns[0],
            **losses,
        }

    def _stages(
        self,
        net: PolicyNet,
        envs: Any,
        copies: int,
        n_episodes: int,
        generator: torch.Generator,
        last: bool = True,
    ) -> _Stages:
        """Act, adapt, act again; `last` says whether also after the last step."""
        n_tasks = envs.n_envs // copies
        weights = net.stacked(n_tasks)
        trials, batches = [], []
        for step in range(self.inner_steps + last):
            policy = StackedPolicy(net, weights)
            trials.append(
                run_trials(policy, envs, n_episodes // copies, generator, record=True)
            )
            rollout: Any = trials[-1].rollout
            discounts = self.gamma, self.gae_lambda
            batches.append(task_batch(net, rollout, n_tasks, *discounts))
            if step < self.inner_steps:
                weights, _ = adapted_weights(
                    net, weights, batches[-1:], self.inner_lr, self._inner_objective()
                )
        return _Stages(trials, batches, tuple(w.detach() for w in weights))

    # Adapting --------------------------------------------------------------------

    def _n_copies(self, tasks: Sequence[EnvTask], n_episodes: int) -> int:
        # Nothing is remembered from one episode to the next: where environments cost
        # nothing, all of a task are run side by side.
        return n_episodes if EnvPool.simulates(tasks) else 1

    def _unadapted(self) -> tuple[OnlinePolicy, Any]:
        net = self._learner_on(CPU)
        return StackedPolicy(net, _detached(net.stacked(1))), ()

    def _adapt_in(
        self, envs: Any, copies: int, n_episodes: int, generator: torch.Generator
    ) -> tuple[OnlinePolicy, Any, Tensor]:
        net = self._learner_on(generator.device)
        stages = self._stages(net, envs, copies, n_episodes, generator, last=False)
        returns = torch.cat([_by_task(t.returns, copies) for t in stages.trials], 1)
        return StackedPolicy(net, stages.weights), (), returns

    def _judged_in(
        self, envs: Any, copies: int, n_episodes: int, generator: torch.Generator
    ) -> Tensor:
        policy, _, _ = self._adapt_in(envs, copies, n_episodes, generator)
        trials = run_trials(
            policy,
            envs,
            n_episodes // copies,
            generator,
            deterministic=self.deterministic,
        )
        return _by_task(trials.returns, copies)

    def _curves_in(
        self, envs: Any, copies: int, n_episodes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        net = self._learner_on(generator.device)
        stages = self._stages(net, envs, copies, n_episodes, generator)
        returns = [_by_task(t.returns, copies).mean(1) for t in stages.trials]
        success = [_by_task(t.success, copies).mean(1) for t in stages.trials]
        return torch.stack(returns, 1), torch.stack(success, 1)


def _by_task(values: Tensor, copies: int) -> Tensor:
    """Return what T R trials gave (T R, n) by task, (T, R n)."""
    return values.view(len(values) // copies, -1)


def _detached(weights: Weights) -> Weights:
    return tuple(w.detach() for w in weights)


def _observed(net: PolicyNet, trials: Sequence[Trials]) -> Tensor:
    """Return the rows of all observations that were made."""
    rollouts: Any = [part.rollout for part in trials]
    rows = [net.observation.code(r.observation)[r.valid] for r in rollouts]
    return torch.cat(rows)
