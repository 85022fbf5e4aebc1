r"""Posterior sampling for reinforcement learning, in tabular decision processes.

At the start of each episode a decision process is drawn from the posterior, solved over
the horizon, and its optimal plan followed until the episode ends (Strens 2000; Osband,
Russo and Van Roy 2013, arXiv:1306.0940, algorithm 1). The prior is conjugate:

.. math::
    P(\cdot \mid s, a) \sim \text{Dirichlet}(\alpha, \ldots, \alpha), \qquad
    \bar r(s, a) \sim N(\mu, \sigma^2), \qquad r \sim N(\bar r(s, a), \tau^2).
"""

from __future__ import annotations

import numbers
from math import isfinite
from typing import NamedTuple

import torch
from sklearn.utils import check_scalar
from torch import Tensor

from sklmeta._parameters import check_integer, check_positive
from sklmeta.rl._draws import log_gamma_draws
from sklmeta.rl._online import Decision, Experience

__all__ = ["PSRLPolicy", "PSRLState", "greedy_plan"]


class PSRLState(NamedTuple):
    """What B trials know of their decision processes, and their plans."""

    transition_counts: Tensor  # (B, S, A, S), the last axis being where it led
    reward_sums: Tensor  # (B, S, A)
    plan: Tensor  # (B, H, S) actions
    n_steps: Tensor  # (B,) steps made in this episode
    is_planned: Tensor  # (B,) bool, whether `plan` is this episode's


class PSRLPolicy:
    """Acts by plans for decision processes drawn from the posterior: an `OnlinePolicy`.

    A plan is drawn at the first action of an episode; with ``deterministic=True`` it is
    the one for the posterior's mean.

    Parameters
    ----------
    n_states : int
        Number of states; observations are their ranks.
    n_actions : int
        Number of actions.
    horizon : int
        Steps of an episode, which the plan counts on. Steps beyond it, if there are
        any, are taken as the last one is.
    transition_prior : float, default=1.0
        Parameter of the symmetric Dirichlet prior of the next state.
    reward_mean : float, default=1.0
        Mean of the normal prior of mean rewards. Lower ones try fewer pairs that are
        not known, which collects more in few episodes.
    reward_std : float, default=1.0
        Standard deviation of the normal prior of mean rewards.
    noise_std : float, default=1.0
        Standard deviation of rewards about their mean.

    References
    ----------
    Strens, *A Bayesian Framework for Reinforcement Learning*, ICML 2000.

    Osband, Russo and Van Roy, *(More) Efficient Reinforcement Learning via Posterior
    Sampling*, 2013 (arXiv:1306.0940).

    The defaults are the tabular tasks of Duan et al., *RL^2: Fast Reinforcement
    Learning via Slow Reinforcement Learning*, 2016 (arXiv:1611.02779), section 3.2.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.rl._psrl import PSRLPolicy
    >>> policy = PSRLPolicy(n_states=10, n_actions=5, horizon=10)
    >>> state = policy.initial(4, torch.device("cpu"))
    >>> observation = torch.zeros(4, dtype=torch.long)
    >>> policy.act(state, observation, torch.Generator().manual_seed(0)).action.shape
    torch.Size([4])
    """

    def __init__(
        self,
        n_states: int,
        n_actions: int,
        horizon: int,
        transition_prior: float = 1.0,
        reward_mean: float = 1.0,
        reward_std: float = 1.0,
        noise_std: float = 1.0,
    ) -> None:
        check_integer("n_states", n_states, 1)
        check_integer("n_actions", n_actions, 1)
        check_integer("horizon", horizon, 1)
        check_positive("transition_prior", transition_prior)
        check_scalar(reward_mean, "reward_mean", numbers.Real)
        if not isfinite(reward_mean):
            raise ValueError(f"reward_mean must be finite, got {reward_mean!r}.")
        check_positive("reward_std", reward_std)
        check_positive("noise_std", noise_std)
        self.n_states = n_states
        self.n_actions = n_actions
        self.horizon = horizon
        self.transition_prior = transition_prior
        self.reward_mean = reward_mean
        self.reward_std = reward_std
        self.noise_std = noise_std

    def initial(self, n_trials: int, device: torch.device) -> PSRLState:
        """Return the state of trials of which nothing is known, nor planned."""
        pairs = (n_trials, self.n_states, self.n_actions)
        plan = (n_trials, self.horizon, self.n_states)
        return PSRLState(
            torch.zeros(*pairs, self.n_states, device=device),
            torch.zeros(pairs, device=device),
            torch.zeros(plan, dtype=torch.long, device=device),
            torch.zeros(n_trials, dtype=torch.long, device=device),
            torch.zeros(n_trials, dtype=torch.bool, device=device),
        )

    def act(
        self,
        state: PSRLState,
        observation: Tensor,
        generator: torch.Generator,
        deterministic: bool = False,
    ) -> Decision:
        """Choose the plan's actions, and make the plan where there is none."""
        if not state.is_planned.all():
            state = self._planned(state, generator, deterministic)
        trial = torch.arange(len(observation), device=observation.device)
        step = state.n_steps.clamp_max(self.horizon - 1)
        return Decision(state.plan[trial, step, observation], state, {})

    def observe(self, state: PSRLState, experience: Experience) -> PSRLState:
        """Return the state that counts the last steps.

        Raises
        ------
        ValueError
            If a reward is not finite, which would spoil all that is known.
        """
        reward = experience.reward.to(state.reward_sums.dtype)
        if not reward.isfinite().all():
            raise ValueError(
                "PSRLPolicy takes finite rewards, got "
                f"{reward[~reward.isfinite()][0].item()}."
            )
        trial = torch.arange(len(reward), device=reward.device)
        pair = (trial, experience.observation, experience.action)
        one = torch.ones_like(reward)
        return state._replace(
            transition_counts=state.transition_counts.index_put(
                (*pair, experience.next_observation), one, accumulate=True
            ),
            reward_sums=state.reward_sums.index_put(pair, reward, accumulate=True),
            n_steps=state.n_steps + 1,
        )

    def begin_episode(
        self, state: PSRLState, mask: Tensor, generator: torch.Generator
    ) -> PSRLState:
        """Return the state without a plan, where `mask` (B,)."""
        return state._replace(
            n_steps=state.n_steps.masked_fill(mask, 0),
            is_planned=state.is_planned & ~mask,
        )

    def reward_posterior(self, state: PSRLState) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations of the mean rewards, (B, S, A) each."""
        n = state.transition_counts.sum(-1)
        prior_precision, noise_precision = self.reward_std**-2, self.noise_std**-2
        precision = prior_precision + noise_precision * n
        known = noise_precision * state.reward_sums
        mean = (prior_precision * self.reward_mean + known) / precision
        return mean, precision.rsqrt()

    def _planned(
        self, state: PSRLState, generator: torch.Generator, deterministic: bool
    ) -> PSRLState:
        (rows,) = (~state.is_planned).nonzero(as_tuple=True)
        unplanned = PSRLState(*(part[rows] for part in state))
        alpha = unplanned.transition_counts + self.transition_prior
        rewards, std = self.reward_posterior(unplanned)
        if deterministic:
            transitions = alpha / alpha.sum(-1, keepdim=True)
        else:
            transitions = log_gamma_draws(alpha, generator).softmax(-1)
            noise = torch.empty_like(std).normal_(generator=generator)
            rewards = rewards + std * noise
        plan, _ = greedy_plan(transitions, rewards, self.horizon)
        return state._replace(
            plan=state.plan.index_copy(0, rows, plan),
            is_planned=torch.ones_like(state.is_planned),
        )


def greedy_plan(
    transitions: Tensor, rewards: Tensor, horizon: int
) -> tuple[Tensor, Tensor]:
    """Return optimal actions over a horizon (B, H, S), and their values (B, S).

    Value iteration backwards from the last step. `transitions` are the probabilities
    (B, S, A, S) of next states, `rewards` the mean rewards (B, S, A).
    """
    value = torch.zeros_like(rewards[:, :, 0])  # (B, S) of the steps to come
    plan = []
    for _ in range(horizon):
        gains = rewards + torch.einsum("bsat,bt->bsa", transitions, value)
        value, actions = gains.max(2)
        plan.append(actions)
    return torch.stack(plan[::-1], dim=1), value
