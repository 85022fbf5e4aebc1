"""The recurrent policy of RL^2: a net whose state is what it knows of a trial."""

from __future__ import annotations

from typing import Any, NamedTuple

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

__all__ = ["RecurrentPolicy", "RecurrentState"]


# Logit of what update gates keep of the state at first.
KEPT_AT_FIRST = 1.0


class RecurrentState(NamedTuple):
    """What the policy knows of B trials."""

    hidden: Tensor  # (B, H)
    action: Tensor  # (B, action width): the last one, zeros at first
    reward: Tensor  # (B,): the last one
    begins: Tensor  # (B,): 1 where an episode has just ended


class RecurrentPolicy(nn.Module):
    """A gated recurrent unit with a policy and a value head: an `OnlinePolicy`.

    Each step it reads the observation, the previous action, its reward, and whether
    that ended an episode (equation-free section 2.2 of arXiv:1611.02779).

    Parameters
    ----------
    observation, action : SpaceCode
        How both are coded.
    hidden_size : int
        Units of the recurrent layer.
    head_size : int or None
        Units of a layer that reads the state and the inputs for both heads; None:
        the heads read the state.
    """

    def __init__(
        self,
        observation: SpaceCode,
        action: SpaceCode,
        hidden_size: int,
        head_size: int | None = None,
    ) -> None:
        super().__init__()
        self.observation, self.action = observation, action
        n_inputs = observation.width + action.width + 2
        self.gru = nn.GRU(n_inputs, hidden_size)
        _remember_at_first(self.gru)
        self.head: nn.Module | None = None
        if head_size is not None:
            reader = nn.Linear(hidden_size + n_inputs, head_size)
            self.head = nn.Sequential(reader, nn.ReLU())
        self.actor = nn.Linear(head_size or hidden_size, action.width)
        self.critic = nn.Linear(head_size or hidden_size, 1)
        self.log_std = nn.Parameter(
            torch.zeros(() if action.is_discrete else action.width)
        )
        self.observation_moments = RunningMoments(observation.width)
        self.reward_moments = RunningMoments(1)

    # OnlinePolicy ----------------------------------------------------------------

    def initial(self, n_trials: int, device: torch.device) -> RecurrentState:
        return RecurrentState(
            torch.zeros(n_trials, self.gru.hidden_size, device=device),
            torch.zeros(n_trials, self.action.width, device=device),
            torch.zeros(n_trials, device=device),
            torch.zeros(n_trials, device=device),
        )

    def act(
        self,
        state: RecurrentState,
        observation: Tensor,
        generator: torch.Generator,
        deterministic: bool = False,
    ) -> Decision:
        code = self.observation.code(observation)
        return self.act_coded(state, code, generator, deterministic)

    @torch.no_grad()
    def act_coded(
        self,
        state: RecurrentState,
        code: Tensor,
        generator: torch.Generator,
        deterministic: bool,
    ) -> Decision:
        """Choose actions by codes of observations (B, width)."""
        inputs = self.inputs(state, code)
        features, hidden = self.gru(inputs[None], state.hidden[None])
        distribution, value = self.heads(features[0], inputs)
        chosen = (
            distribution.mode() if deterministic else distribution.sample(generator)
        )
        recorded = {
            "inputs": inputs,
            "chosen": chosen,
            "hidden": state.hidden,
            "log_prob": distribution.log_prob(chosen),
            "value": value,
        }
        action = chosen if self.action.is_discrete else self.action.from_unit(chosen)
        return Decision(action, state._replace(hidden=hidden[0]), recorded)

    def observe(self, state: RecurrentState, experience: Experience) -> RecurrentState:
        return RecurrentState(
            state.hidden,
            self.action.unit(experience.action),
            experience.reward,
            torch.zeros_like(state.begins),
        )

    def begin_episode(
        self, state: RecurrentState, mask: Tensor, generator: torch.Generator
    ) -> RecurrentState:
        return state._replace(begins=state.begins.masked_fill(mask, 1.0))

    # What training asks ----------------------------------------------------------

    def inputs(self, state: RecurrentState, code: Tensor) -> Tensor:
        """Return what the recurrent layer reads (B, n_inputs)."""
        if not self.observation.is_discrete:
            code = self.observation_moments.standardised(code)
        reward = self.reward_moments.scaled(state.reward[:, None])
        return torch.cat([code, state.action, reward, state.begins[:, None]], -1)

    def heads(
        self, features: Tensor, inputs: Tensor
    ) -> tuple[ActionDistribution, Tensor]:
        """Return the distribution of actions and the value, in units of its scale."""
        if self.head is not None:
            features = self.head(torch.cat([features, inputs], -1))
        outputs, value = self.actor(features), self.critic(features)[..., 0]
        if self.action.is_discrete:
            return CategoricalActions(outputs), value
        return NormalActions(outputs, self.log_std), value

    def sequences(
        self, inputs: Tensor, hidden: Tensor
    ) -> tuple[ActionDistribution, Tensor]:
        """Return distributions and values along sequences.

        `inputs` (T, B, n_inputs); `hidden` (B, H) before their first step.
        """
        features, _ = self.gru(inputs, hidden[None].contiguous())
        return self.heads(features, inputs)


@torch.no_grad()
def _remember_at_first(gru: nn.GRU) -> None:
    """Set initial weights with which the state of a recurrent layer lasts.

    Recurrent weights are orthogonal, and update gates nearly closed, so that gradients
    reach far back.
    """
    size = gru.hidden_size
    weights: Any = (gru.weight_hh_l0, gru.weight_ih_l0)
    for weight in weights:
        for gate in weight.split(size):
            nn.init.orthogonal_(gate)
    biases: Any = (gru.bias_ih_l0, gru.bias_hh_l0)
    for bias in biases:
        bias.zero_()
    _, update_gate, _ = biases[1].split(size)
    update_gate.fill_(KEPT_AT_FIRST)
