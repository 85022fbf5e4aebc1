"""Many environments side by side, as the collector steps them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import gymnasium
from torch import Tensor

__all__ = ["BatchedEnvs", "Step"]


class Step(NamedTuple):
    """What one step of B environments gave.

    `observation` is the one that the step led to, also where it ended an episode: the
    first one of the next episode comes from `BatchedEnvs.reset`.
    """

    observation: Tensor  # (B, *observation)
    reward: Tensor  # (B,)
    terminated: Tensor  # (B,) bool
    truncated: Tensor  # (B,) bool
    # False where an environment did not take the action (it was being reset, as some
    # vector environments do in a step of their own): the step does not count.
    valid: Tensor  # (B,) bool
    # 1 where the environment says that its goal is reached; None where none says.
    success: Tensor | None = None  # (B,) float


class BatchedEnvs(Protocol):
    """B environments that are stepped together."""

    n_envs: int
    observation_space: gymnasium.Space  # of one environment
    action_space: gymnasium.Space

    def reset(self, mask: Tensor | None = None) -> Tensor:
        """Begin an episode where `mask` (B,) says so, by default everywhere.

        Returns the current observation of every environment, (B, *observation).
        """
        ...

    def step(self, actions: Tensor) -> Step:
        """Take an action (B, *action) in every environment.

        Environments whose episode has ended and was not reset may be stepped: what
        they give means nothing.
        """
        ...

    def close(self) -> None:
        """Give back what the environments hold."""
        ...
