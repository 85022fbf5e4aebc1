"""Batched torch simulators: a whole family of environments in a few tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import gymnasium
import torch
from torch import Tensor

from sklmeta.rl._batched import Step
from sklmeta.rl._spaces import SpaceCode, space_code

__all__ = ["Noise", "Simulator", "TorchNoise"]


class Noise(Protocol):
    """Where a simulator's chance comes from."""

    def uniform(self, *shape: int) -> Tensor:
        """Return draws from U[0, 1)."""
        ...

    def normal(self, *shape: int) -> Tensor:
        """Return draws from N(0, 1)."""
        ...


class TorchNoise:
    """Chance from a torch generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.generator.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(
            shape, generator=self.generator, device=self.generator.device
        )


class Simulator(ABC):
    """B environments of one family, stepped together on a device: a `BatchedEnvs`.

    Subclasses hold the parameters and the state of all environments in tensors with a
    leading axis B, and say how episodes begin, go on and look. Every gymnasium
    environment of the library that has one says so by a class method ``simulator``.
    """

    def __init__(
        self,
        n_envs: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
        max_episode_steps: int | None,
        noise: Noise,
        device: torch.device,
    ) -> None:
        self.n_envs = n_envs
        self.observation_space = observation_space
        self.action_space = action_space
        self.max_episode_steps = max_episode_steps
        self.noise = noise
        self.device = device
        self._action_code: SpaceCode = space_code(action_space, "action")
        self._n_steps = torch.zeros(n_envs, dtype=torch.long, device=device)
        self._all = torch.ones(n_envs, dtype=torch.bool, device=device)

    @abstractmethod
    def _begin(self, mask: Tensor) -> None:
        """Set the state of the environments in `mask` (B,) to an episode's first."""

    @abstractmethod
    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Change the state by actions; return rewards (B,) and terminations (B,)."""

    @abstractmethod
    def _observe(self) -> Tensor:
        """Return the observation of every environment (B, *observation)."""

    def reset(self, mask: Tensor | None = None) -> Tensor:
        mask = self._all if mask is None else mask
        self._n_steps = self._n_steps.masked_fill(mask, 0)
        self._begin(mask)
        return self._observe()

    def step(self, actions: Tensor) -> Step:
        reward, terminated = self._advance(self._action_code.clipped(actions))
        self._n_steps = self._n_steps + 1
        if self.max_episode_steps is None:
            truncated = torch.zeros_like(terminated)
        else:
            truncated = self._n_steps >= self.max_episode_steps
        success = self._succeeded(terminated)
        return Step(self._observe(), reward, terminated, truncated, self._all, success)

    def _succeeded(self, terminated: Tensor) -> Tensor | None:
        """Return what the environment calls success (B,), None if nothing."""
        return None

    def close(self) -> None:  # noqa: B027
        """Do nothing: tensors are given back by themselves."""
