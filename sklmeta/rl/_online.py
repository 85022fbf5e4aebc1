"""Policies that learn while they act, batched over trials."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["Decision", "Experience", "OnlinePolicy"]


class Decision(NamedTuple):
    """What a policy chose in B trials."""

    action: Tensor  # (B, *action)
    state: Any  # a pytree of tensors with leading axis B
    # What training wants to know of it later, such as log probabilities: (B, ...).
    recorded: dict[str, Tensor]


class Experience(NamedTuple):
    """What came of the actions in B trials."""

    observation: Tensor  # (B, *observation), where the action was taken
    action: Tensor  # (B, *action)
    reward: Tensor  # (B,)
    next_observation: Tensor  # (B, *observation)
    terminated: Tensor  # (B,) bool
    truncated: Tensor  # (B,) bool


class OnlinePolicy(Protocol):
    """Acts in B trials side by side, each with a state of its own.

    A trial is a number of episodes in one environment. All that a policy knows of a
    trial is in its state, a pytree of tensors with leading axis B; the policy itself
    does not change. For each step the caller asks `act`, and tells `observe` what came
    of it; between two episodes of a trial it calls `begin_episode`.
    """

    def initial(self, n_trials: int, device: torch.device) -> Any:
        """Return the state of trials of which nothing is known."""
        ...

    def act(
        self,
        state: Any,
        observation: Tensor,
        generator: torch.Generator,
        deterministic: bool = False,
    ) -> Decision:
        """Choose actions. `deterministic`: the likeliest, where actions are drawn."""
        ...

    def observe(self, state: Any, experience: Experience) -> Any:
        """Return the state that knows what came of the last actions."""
        ...

    def begin_episode(
        self, state: Any, mask: Tensor, generator: torch.Generator
    ) -> Any:
        """Return the state at the start of a further episode, where `mask` (B,)."""
        ...
