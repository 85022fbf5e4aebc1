"""Spaces of environments as tensors: what a net reads, and what it puts out."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.spaces import Box, Discrete
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sklmeta._parameters import shown

__all__ = ["SpaceCode", "space_code"]


@dataclass(frozen=True)
class SpaceCode:
    """How values of a space lie in tensors, and how a net reads them.

    Values of a Discrete space are ranks ``0, ..., n - 1`` (int64, no axis of their
    own), those of a Box are float32 of shape `shape`. A net reads `width` numbers:
    one-hot codes, or the values in a row.
    """

    n_values: int | None
    start: int
    shape: tuple[int, ...]
    low: NDArray[np.float32] | None
    high: NDArray[np.float32] | None

    @property
    def is_discrete(self) -> bool:
        return self.n_values is not None

    @property
    def width(self) -> int:
        return prod(self.shape) if self.n_values is None else self.n_values

    def from_env(self, values: Any, device: torch.device | str = "cpu") -> Tensor:
        """Return values of an environment as a tensor."""
        if self.is_discrete:
            ranks = torch.as_tensor(np.asarray(values), device=device).long()
            return ranks - self.start if self.start else ranks
        array = np.asarray(values, dtype=np.float32)
        return torch.as_tensor(array, device=device)

    def rows(self, X: ArrayLike) -> Tensor:
        """Return observations given by a user (n, *shape) as a tensor.

        Raises
        ------
        ValueError
            Naming the shape or the value that does not fit.
        """
        array = np.asarray(X)
        expected = ("n_observations", *self.shape)
        if array.shape[1:] != self.shape or array.ndim == 0:
            names = ", ".join(str(part) for part in expected)
            raise ValueError(
                f"Observations must have shape ({names}), got {array.shape}."
            )
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise ValueError("Observations must be finite numbers.")
        if self.n_values is not None:
            ranks = array - self.start
            if ((ranks < 0) | (ranks >= self.n_values) | (ranks % 1 != 0)).any():
                last = self.start + self.n_values - 1
                raise ValueError(
                    f"Observations must be integers from {self.start} to {last}, got "
                    f"{shown(array)}."
                )
        return self.from_env(array)

    def row(self, observation: Any) -> Tensor:
        """Return one observation given by a user as a tensor (1, *shape).

        Raises
        ------
        ValueError
            Naming the shape or the value that does not fit.
        """
        array = np.asarray(observation)
        if array.shape != self.shape:
            raise ValueError(
                f"An observation must have shape {self.shape}, got {array.shape}."
            )
        return self.rows(array[None])

    def to_env(self, values: Tensor) -> NDArray[Any]:
        """Return a tensor as an environment takes it; a Box's are clipped to it."""
        array = values.detach().cpu().numpy()
        if self.is_discrete:
            return array + self.start
        return np.clip(array, self.low, self.high)

    def unit(self, values: Tensor) -> Tensor:
        """Return actions in units of their limits, as `code` does, (..., width)."""
        code = self.code(values)
        if self.is_discrete:
            return code
        center, half = self._center_and_half(values.device)
        return (code - center) / half

    def from_unit(self, code: Tensor) -> Tensor:
        """Return the values of a Box that `unit` gave a code of."""
        center, half = self._center_and_half(code.device)
        return (center + half * code).view(*code.shape[:-1], *self.shape)

    def _center_and_half(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the middle and the half width of a Box, 0 and 1 where it has none."""
        low, high = np.ravel(np.asarray(self.low)), np.ravel(np.asarray(self.high))
        bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
        with np.errstate(invalid="ignore", over="ignore"):
            center = np.where(bounded, (low + high) / 2, 0)
            half = np.where(bounded, (high - low) / 2, 1)
        both = np.stack([center, half]).astype(np.float32)
        center_tensor, half_tensor = torch.as_tensor(both, device=device)
        return center_tensor, half_tensor

    def clipped(self, values: Tensor) -> Tensor:
        """Return values of a Box inside its limits."""
        if self.low is None or self.high is None:
            return values
        low = torch.as_tensor(self.low, device=values.device)
        high = torch.as_tensor(self.high, device=values.device)
        return torch.minimum(torch.maximum(values, low), high)

    def code(self, values: Tensor) -> Tensor:
        """Return what a net reads: (..., width)."""
        if self.n_values is not None:
            return F.one_hot(values, self.n_values).float()
        return values.flatten(values.ndim - len(self.shape)) if self.shape else values


def space_code(space: gymnasium.Space, what: str) -> SpaceCode:
    """Return how the values of a space are coded.

    Raises
    ------
    ValueError
        If it is neither Discrete nor a Box of numbers; `what` names it.
    """
    if isinstance(space, Discrete):
        return SpaceCode(int(space.n), int(space.start), (), None, None)
    if isinstance(space, Box) and space.shape and space.dtype.kind in "fiu":
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return SpaceCode(None, 0, tuple(space.shape), low, high)
    raise ValueError(
        f"The {what} space must be Discrete or a Box with at least one axis, got "
        f"{space}. Wrap the environment: gymnasium.wrappers.FlattenObservation, "
        "TransformAction and the like turn other spaces into these."
    )
