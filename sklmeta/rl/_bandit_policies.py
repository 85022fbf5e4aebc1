"""Policies for bandits that know what the arms paid so far, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from sklmeta._parameters import check_integer, check_not_negative
from sklmeta.rl._bandit_optimum import BayesOptimalTable
from sklmeta.rl._draws import log_gamma_draws
from sklmeta.rl._online import Decision, Experience

__all__ = ["ArmCounts", "BayesOptimalPolicy", "ThompsonPolicy", "UCB1Policy"]


class ArmCounts(NamedTuple):
    """What B trials know of their A arms.

    A reward r between 0 and 1 counts as r of a success and 1 - r of a failure.
    """

    successes: Tensor  # (B, A) float
    failures: Tensor  # (B, A) float


class _BanditPolicy(ABC):
    """An `OnlinePolicy` whose state are the arms' counts.

    Episodes do not matter: what is known of the arms stays until the trial ends.
    """

    _takes_fractions = False

    def __init__(self, n_arms: int) -> None:
        check_integer("n_arms", n_arms, 1)
        self.n_arms = n_arms

    @abstractmethod
    def _choose(
        self, counts: ArmCounts, generator: torch.Generator, deterministic: bool
    ) -> Tensor:
        """Return the arms to pull, (B,)."""

    def initial(self, n_trials: int, device: torch.device) -> ArmCounts:
        """Return the counts of trials without a pull."""
        nothing = torch.zeros(n_trials, self.n_arms, device=device)
        return ArmCounts(nothing, nothing)

    def act(
        self,
        state: ArmCounts,
        observation: Tensor,
        generator: torch.Generator,
        deterministic: bool = False,
    ) -> Decision:
        """Choose the arms to pull; the observation says nothing."""
        return Decision(self._choose(state, generator, deterministic), state, {})

    def observe(self, state: ArmCounts, experience: Experience) -> ArmCounts:
        """Return the counts with the last pulls.

        Raises
        ------
        ValueError
            If a reward is not what the policy takes: 0 or 1, UCB1 also between.
        """
        reward = experience.reward.to(state.successes.dtype)
        self._check_rewards(reward)
        arm = experience.action[:, None]
        return ArmCounts(
            state.successes.scatter_add(1, arm, reward[:, None]),
            state.failures.scatter_add(1, arm, 1 - reward[:, None]),
        )

    def begin_episode(
        self, state: ArmCounts, mask: Tensor, generator: torch.Generator
    ) -> ArmCounts:
        """Return the same counts."""
        return state

    def _check_rewards(self, reward: Tensor) -> None:
        taken = (reward == 0) | (reward == 1)
        if self._takes_fractions:
            taken = (reward >= 0) & (reward <= 1)
        if not taken.all():
            name = type(self).__name__
            meant = "rewards between 0 and 1" if self._takes_fractions else "0 or 1"
            raise ValueError(
                f"{name} is for bandits that pay {meant}, got a reward of "
                f"{reward[~taken][0].item():g}. Rescale it with "
                "gymnasium.wrappers.TransformReward, or use another agent."
            )


class ThompsonPolicy(_BanditPolicy):
    """Pulls the arm that pays best in a draw from the posterior: an `OnlinePolicy`.

    The prior of every arm is Beta(1, 1). With ``deterministic=True`` the arm of the
    largest posterior mean is pulled. Rewards other than 0 and 1 are refused.

    Parameters
    ----------
    n_arms : int
        Number of arms.

    References
    ----------
    Thompson, *On the Likelihood that One Unknown Probability Exceeds Another in View of
    the Evidence of Two Samples*, Biometrika 25, 1933.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.rl._bandit_policies import ThompsonPolicy
    >>> policy = ThompsonPolicy(n_arms=3)
    >>> state = policy.initial(4, torch.device("cpu"))
    >>> observation = torch.zeros(4, dtype=torch.long)
    >>> policy.act(state, observation, torch.Generator().manual_seed(0)).action.shape
    torch.Size([4])
    """

    def _choose(
        self, counts: ArmCounts, generator: torch.Generator, deterministic: bool
    ) -> Tensor:
        alpha, beta = counts.successes + 1, counts.failures + 1
        if deterministic:
            return (alpha / (alpha + beta)).argmax(1)
        # The log odds of a draw from Beta(alpha, beta): a ratio of two Gammas'.
        gammas = log_gamma_draws(torch.stack([alpha, beta]), generator)
        return (gammas[0] - gammas[1]).argmax(1)


class UCB1Policy(_BanditPolicy):
    r"""Pulls the arm of the highest upper confidence bound: an `OnlinePolicy`.

    After t pulls, n_i of them of arm i, that is the arm with the largest

    .. math:: \bar r_i + \sqrt{\text{exploration} \cdot \log t \,/\, n_i},

    the first where several are as good. Rewards outside [0, 1] are refused.

    Parameters
    ----------
    n_arms : int
        Number of arms.
    exploration : float, default=2.0
        Weight of what is not known yet. The value of Auer et al. bounds the regret of
        all bandits; in short trials far smaller ones collect more.
    prior_count : float, default=0.0
        Successes, and failures, that every arm is credited with beforehand in its mean
        and n_i. With 0, each arm is pulled once first, as in Auer et al. Duan et al.
        credit 1 of each, and tune `exploration`.

    References
    ----------
    Auer, Cesa-Bianchi and Fischer, *Finite-time Analysis of the Multiarmed Bandit
    Problem*, Machine Learning 47, 2002, figure 1.

    Duan et al., *RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning*,
    2016 (arXiv:1611.02779).

    Examples
    --------
    >>> import torch
    >>> from sklmeta.rl._bandit_policies import UCB1Policy
    >>> policy = UCB1Policy(n_arms=3, exploration=0.1, prior_count=1.0)
    >>> state = policy.initial(4, torch.device("cpu"))
    >>> observation = torch.zeros(4, dtype=torch.long)
    >>> policy.act(state, observation, torch.Generator()).action
    tensor([0, 0, 0, 0])
    """

    _takes_fractions = True

    def __init__(
        self, n_arms: int, exploration: float = 2.0, prior_count: float = 0.0
    ) -> None:
        super().__init__(n_arms)
        check_not_negative("exploration", exploration)
        check_not_negative("prior_count", prior_count)
        self.exploration = exploration
        self.prior_count = prior_count

    def _choose(
        self, counts: ArmCounts, generator: torch.Generator, deterministic: bool
    ) -> Tensor:
        pulls = counts.successes + counts.failures  # (B, A)
        log_time = pulls.sum(1, keepdim=True).clamp_min(1).log()
        n = pulls + 2 * self.prior_count
        mean = (counts.successes + self.prior_count) / n
        bound = mean + (self.exploration * log_time / n).sqrt()
        return bound.masked_fill(n == 0, torch.inf).argmax(1)


class BayesOptimalPolicy(_BanditPolicy):
    """Pulls the arm that no other policy can better on average: an `OnlinePolicy`.

    Optimal over trials of exactly `n_pulls` pulls of arms that pay 1 with probabilities
    drawn from U[0, 1]. Rewards other than 0 and 1, and further pulls, are refused.

    Parameters
    ----------
    n_arms : int
        Number of arms.
    n_pulls : int
        Number of pulls in a trial.
    memory_limit : int, str or None, default="2GB"
        Bytes that the dynamic program may take. None: no limit.

    Attributes
    ----------
    table : BayesOptimalTable
        The solved dynamic program.

    Raises
    ------
    ValueError
        If the dynamic program would take more than `memory_limit`.

    See Also
    --------
    bayes_optimal_bandit_value : The reward that this policy expects.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.rl._bandit_policies import BayesOptimalPolicy
    >>> policy = BayesOptimalPolicy(n_arms=3, n_pulls=10)
    >>> state = policy.initial(4, torch.device("cpu"))
    >>> observation = torch.zeros(4, dtype=torch.long)
    >>> policy.act(state, observation, torch.Generator()).action
    tensor([0, 0, 0, 0])
    """

    def __init__(
        self, n_arms: int, n_pulls: int, memory_limit: int | str | None = "2GB"
    ) -> None:
        super().__init__(n_arms)
        self.table = BayesOptimalTable(n_arms, n_pulls, memory_limit=memory_limit)

    def _choose(
        self, counts: ArmCounts, generator: torch.Generator, deterministic: bool
    ) -> Tensor:
        return self.table.best_arm(counts.successes, counts.failures)
