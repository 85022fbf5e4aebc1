"""Feed-forward policies with weights of their own for each of T tasks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from sklmeta.rl._distributions import (
    ActionDistribution,
    CategoricalActions,
    NormalActions,
)
from sklmeta.rl._online import Decision, Experience
from sklmeta.rl._running import RunningMoments
from sklmeta.rl._spaces import SpaceCode

__all__ = ["PolicyNet", "StackedPolicy", "Weights"]

# Weights of T tasks: (T, ...) each.
Weights = tuple[Tensor, ...]

# exp(-3) of the width of the action space: narrower, and likelihood ratios explode.
LEAST_LOG_STD = -3.0


class PolicyNet(nn.Module):
    """The meta-learned initial weights of a policy, a multi-layer perceptron.

    Parameters
    ----------
    observation, action : SpaceCode
        How both are coded.
    hidden_sizes : sequence of int
        Units of the hidden layers, with tanh.
    """

    def __init__(
        self, observation: SpaceCode, action: SpaceCode, hidden_sizes: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.observation, self.action = observation, action
        widths = [observation.width, *hidden_sizes, action.width]
        layers = [nn.Linear(n_in, n_out) for n_in, n_out in pairwise(widths)]
        with torch.no_grad():
            layers[-1].weight.mul_(0.1)
        weights = [p for layer in layers for p in (layer.weight.t(), layer.bias)]
        if not action.is_discrete:
            weights.append(torch.full((action.width,), -0.5))
        self.weights = nn.ParameterList(w.detach().clone() for w in weights)
        self.observation_moments = RunningMoments(observation.width)

    def stacked(self, n_tasks: int) -> Weights:
        """Return the initial weights for each of T tasks, as views."""
        return tuple(w.expand(n_tasks, *w.shape) for w in self.weights)

    def code(self, observation: Tensor) -> Tensor:
        """Return what the net reads (..., width)."""
        code = self.observation.code(observation)
        if self.observation.is_discrete:
            return code
        return self.observation_moments.standardised(code)

    def distribution(self, weights: Weights, code: Tensor) -> ActionDistribution:
        """Return what T tasks' weights say of rows `code` (T, N, width)."""
        n_layers = len(weights) // 2
        hidden = code
        for layer in range(n_layers):
            weight, bias = weights[2 * layer], weights[2 * layer + 1]
            hidden = torch.baddbmm(bias[:, None], hidden, weight)
            if layer < n_layers - 1:
                hidden = hidden.tanh()
        if self.action.is_discrete:
            return CategoricalActions(hidden)
        log_std = weights[-1].clamp(min=LEAST_LOG_STD)
        return NormalActions(hidden, log_std[:, None])


class StackedPolicy:
    """The policies of T tasks, each in R environments: an `OnlinePolicy` of T R trials.

    Parameters
    ----------
    net : PolicyNet
        What computes.
    weights : tuple of Tensor
        The weights of each task.
    """

    def __init__(self, net: PolicyNet, weights: Weights) -> None:
        self.net, self.weights = net, weights

    def initial(self, n_trials: int, device: torch.device) -> tuple[()]:
        return ()

    @torch.no_grad()
    def act(
        self,
        state: Any,
        observation: Tensor,
        generator: torch.Generator,
        deterministic: bool = False,
    ) -> Decision:
        n_tasks = len(self.weights[0])
        code = self.net.code(observation)
        rows = code.view(n_tasks, -1, code.shape[-1])
        distribution = self.net.distribution(self.weights, rows)
        chosen = (
            distribution.mode() if deterministic else distribution.sample(generator)
        )
        recorded = {
            "code": code,
            "chosen": chosen.flatten(0, 1),
            "log_prob": distribution.log_prob(chosen).flatten(),
        }
        for name, tensor in distribution.tensors().items():
            recorded[name] = tensor.flatten(0, 1)
        action = recorded["chosen"]
        if not self.net.action.is_discrete:
            action = self.net.action.from_unit(action)
        return Decision(action, state, recorded)

    def observe(self, state: Any, experience: Experience) -> Any:
        return state

    def begin_episode(
        self, state: Any, mask: Tensor, generator: torch.Generator
    ) -> Any:
        return state
