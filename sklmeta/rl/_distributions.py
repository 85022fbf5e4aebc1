"""Distributions over actions: categorical for Discrete, normal for Box spaces."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

__all__ = ["ActionDistribution", "CategoricalActions", "NormalActions"]

HALF_LOG_2PI = 0.5 * log(2 * pi)


@dataclass(frozen=True)
class CategoricalActions:
    """One of n actions, with logits (..., n)."""

    logits: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        # Gumbel-max: argmax of logits + Gumbel noise is a draw.
        noise = torch.empty_like(self.logits).exponential_(generator=generator)
        return (self.logits - noise.log()).argmax(-1)

    def mode(self) -> Tensor:
        return self.logits.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        log_p = self.logits.log_softmax(-1)
        return log_p.gather(-1, action[..., None])[..., 0]

    def entropy(self) -> Tensor:
        log_p = self.logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)

    def kl_to(self, other: CategoricalActions) -> Tensor:
        """Return KL(self || other), (...)."""
        log_p, log_q = self.logits.log_softmax(-1), other.logits.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def detach(self) -> CategoricalActions:
        return CategoricalActions(self.logits.detach())

    def tensors(self) -> dict[str, Tensor]:
        return {"logits": self.logits}


@dataclass(frozen=True)
class NormalActions:
    """Independent normals with means (..., A) and log deviations that broadcast."""

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) * (-self.log_std).exp()
        return -(0.5 * z.square() + self.log_std + HALF_LOG_2PI).sum(-1)

    def entropy(self) -> Tensor:
        each = (self.log_std + HALF_LOG_2PI + 0.5).expand(self.mean.shape)
        return each.sum(-1)

    def kl_to(self, other: NormalActions) -> Tensor:
        """Return KL(self || other), (...)."""
        difference = self.mean - other.mean
        scaled = (2 * self.log_std).exp() + difference.square()
        each = other.log_std - self.log_std - 0.5
        each = each + 0.5 * scaled * (-2 * other.log_std).exp()
        return each.sum(-1)

    def detach(self) -> NormalActions:
        return NormalActions(self.mean.detach(), self.log_std.detach())

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "log_std": self.log_std.expand(self.mean.shape)}


ActionDistribution = CategoricalActions | NormalActions
