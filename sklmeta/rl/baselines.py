"""Agents to compare with: they know the kind of task, and learn nothing from many."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Self

import torch
from gymnasium.spaces import Discrete
from sklearn.utils import check_random_state
from torch import Tensor

from sklmeta._parameters import check_integer, check_not_negative
from sklmeta.rl._bandit_optimum import bayes_optimal_bandit_value
from sklmeta.rl._bandit_policies import (
    ArmCounts,
    BayesOptimalPolicy,
    ThompsonPolicy,
    UCB1Policy,
)
from sklmeta.rl._online import OnlinePolicy
from sklmeta.rl._online_agent import OnlineAgent
from sklmeta.rl._psrl import PSRLPolicy
from sklmeta.rl._random_policy import RandomPolicy
from sklmeta.rl._sources import task_source
from sklmeta.rl.tasks import EnvTask

__all__ = [
    "BayesOptimalBanditAgent",
    "PSRLAgent",
    "RandomAgent",
    "ThompsonSamplingAgent",
    "UCB1Agent",
]


class _BaselineAgent(OnlineAgent):
    """What baselines share: `fit` reads the spaces of the tasks, and no more."""

    def __init__(
        self,
        *,
        n_episodes: int = 10,
        deterministic: bool = False,
        vectorization: str = "sync",
        step_timeout: float | None = None,
        random_state: Any = None,
    ) -> None:
        self.n_episodes = n_episodes
        self.deterministic = deterministic
        self.vectorization = vectorization
        self.step_timeout = step_timeout
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> Self:
        """Read the spaces of environments.

        Parameters
        ----------
        X : list of EnvTask, callables, gymnasium ids or specs, or a distribution
            Environments in any form.
        y : None
            Ignored; scikit-learn passes it.

        Returns
        -------
        self : object
            The agent.

        Raises
        ------
        EnvTaskError
            If an environment fails.
        ValueError
            If the environments are not of the kind that this agent is for.
        """
        self._check_parameters()
        task = task_source(X, check_random_state(self.random_state)).draw(1)[0]
        self._keep_spaces(task)
        self._keep_kind(task)
        return self

    def _keep_kind(self, task: EnvTask) -> None:
        """Set what else the agent wants to know of a task, or refuse it."""

    def _refuse_unless_bandit(self) -> None:
        space = self.observation_space_
        is_bandit = isinstance(space, Discrete) and space.n == 1
        if not is_bandit or not isinstance(self.action_space_, Discrete):
            raise ValueError(
                f"{type(self).__name__} is for bandits, whose observation space is "
                f"Discrete(1) and whose actions are arms; got {space} and "
                f"{self.action_space_}. RL2Agent and RandomAgent act in any "
                "environment."
            )

    @property
    def _n_arms(self) -> int:
        space: Any = self.action_space_
        return int(space.n)


class RandomAgent(_BaselineAgent):
    """Acts at random.

    Parameters
    ----------
    n_episodes : int, default=10
        Episodes of a trial.
    deterministic : bool, default=False
        No effect: nothing is likelier.
    vectorization : {"sync", "async"}, default="sync"
        Whether environments run in this process or in one each.
    step_timeout : float, default=None
        Seconds that a step may take; needs "async".
    random_state : int, RandomState instance or None, default=None
        Seed of actions and environments.

    Attributes
    ----------
    observation_space_, action_space_ : gymnasium.Space
        Spaces of the tasks.
    adapted_ : AdaptedPolicy
        What the last `adapt` returned.

    Examples
    --------
    >>> from sklmeta.rl import BernoulliBandits, RandomAgent
    >>> agent = RandomAgent(random_state=0).fit(BernoulliBandits())
    >>> 0.4 < agent.score(BernoulliBandits()) < 0.6
    True
    """

    def _keep_kind(self, task: EnvTask) -> None:
        RandomPolicy(self.action_space_)  # refuses what has no limits

    def _online_policy(self, device: torch.device) -> OnlinePolicy:
        return RandomPolicy(self.action_space_)


class ThompsonSamplingAgent(_BaselineAgent):
    """Thompson sampling for bandits, with Beta(1, 1) priors.

    Parameters
    ----------
    n_episodes : int, default=10
        Pulls of a trial.
    deterministic : bool, default=False
        Whether to pull the arm with the best posterior mean instead of drawing.
    vectorization : {"sync", "async"}, default="sync"
        Whether environments run in this process or in one each.
    step_timeout : float, default=None
        Seconds that a step may take; needs "async".
    random_state : int, RandomState instance or None, default=None
        Seed of draws and environments.

    Attributes
    ----------
    observation_space_, action_space_ : gymnasium.Space
        Spaces of the tasks.
    adapted_ : AdaptedPolicy
        What the last `adapt` returned.

    References
    ----------
    Thompson, *On the likelihood that one unknown probability exceeds another in view of
    the evidence of two samples*, Biometrika 25, 1933.

    Examples
    --------
    >>> from sklmeta.rl import BernoulliBandits, ThompsonSamplingAgent
    >>> agent = ThompsonSamplingAgent(random_state=0).fit(BernoulliBandits())
    >>> agent.score(BernoulliBandits()) > 0.5
    True
    """

    def _keep_kind(self, task: EnvTask) -> None:
        self._refuse_unless_bandit()

    def _online_policy(self, device: torch.device) -> OnlinePolicy:
        return ThompsonPolicy(self._n_arms)


class UCB1Agent(_BaselineAgent):
    r"""Upper confidence bounds for bandits.

    Every arm is pulled once; then the one with the largest
    :math:`\bar r_a + \sqrt{c \ln t / n_a}`.

    Parameters
    ----------
    exploration : float, default=2.0
        The factor c. 2 is for the paper's guarantee; small values earn more in few
        pulls.
    prior_count : float, default=0.0
        Payments, and as many failures, that every arm counts as having had. With 1, no
        pulls are spent on trying every arm once: few pulls earn much more.
    n_episodes : int, default=10
        Pulls of a trial.
    deterministic : bool, default=False
        No effect: nothing is drawn.
    vectorization : {"sync", "async"}, default="sync"
        Whether environments run in this process or in one each.
    step_timeout : float, default=None
        Seconds that a step may take; needs "async".
    random_state : int, RandomState instance or None, default=None
        Seed of environments.

    Attributes
    ----------
    observation_space_, action_space_ : gymnasium.Space
        Spaces of the tasks.
    adapted_ : AdaptedPolicy
        What the last `adapt` returned.

    References
    ----------
    Auer et al., *Finite-time analysis of the multiarmed bandit problem*, Machine
    Learning 47, 2002.

    Examples
    --------
    >>> from sklmeta.rl import BernoulliBandits, UCB1Agent
    >>> agent = UCB1Agent(exploration=0.2, random_state=0).fit(BernoulliBandits())
    >>> agent.score(BernoulliBandits()) > 0.5
    True
    """

    def __init__(
        self,
        *,
        exploration: float = 2.0,
        prior_count: float = 0.0,
        n_episodes: int = 10,
        deterministic: bool = False,
        vectorization: str = "sync",
        step_timeout: float | None = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            n_episodes=n_episodes,
            deterministic=deterministic,
            vectorization=vectorization,
            step_timeout=step_timeout,
            random_state=random_state,
        )
        self.exploration = exploration
        self.prior_count = prior_count

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_not_negative("exploration", self.exploration)
        check_not_negative("prior_count", self.prior_count)

    def _keep_kind(self, task: EnvTask) -> None:
        self._refuse_unless_bandit()

    def _online_policy(self, device: torch.device) -> OnlinePolicy:
        return UCB1Policy(self._n_arms, self.exploration, self.prior_count)


class BayesOptimalBanditAgent(_BaselineAgent):
    """The policy that earns most in expectation, for small Bernoulli bandits.

    It maximises the expected total of `n_episodes` pulls, where arms pay with
    probabilities from U[0, 1]. Later pulls take the arm with the best posterior mean.

    Parameters
    ----------
    n_episodes : int, default=10
        Pulls of a trial, which the policy plans for.
    deterministic : bool, default=False
        No effect: nothing is drawn.
    vectorization : {"sync", "async"}, default="sync"
        Whether environments run in this process or in one each.
    step_timeout : float, default=None
        Seconds that a step may take; needs "async".
    random_state : int, RandomState instance or None, default=None
        Seed of environments.

    Attributes
    ----------
    value_ : float
        The expected total.
    observation_space_, action_space_ : gymnasium.Space
        Spaces of the tasks.
    adapted_ : AdaptedPolicy
        What the last `adapt` returned.

    Examples
    --------
    >>> from sklmeta.rl import BayesOptimalBanditAgent, BernoulliBandits
    >>> agent = BayesOptimalBanditAgent(n_episodes=10).fit(BernoulliBandits(n_arms=2))
    >>> round(agent.value_, 4)
    6.0218
    """

    value_: float

    def _keep_kind(self, task: EnvTask) -> None:
        self._refuse_unless_bandit()
        self.value_ = bayes_optimal_bandit_value(self._n_arms, self.n_episodes)

    def _online_policy(self, device: torch.device) -> OnlinePolicy:
        return _optimal_policy(self._n_arms, self.n_episodes)


class _OptimalPolicy(BayesOptimalPolicy):
    """Pulls what has the best mean after the last of the pulls that it plans for."""

    def _choose(
        self, counts: ArmCounts, generator: torch.Generator, deterministic: bool
    ) -> Tensor:
        successes, failures = counts
        chosen = ((successes + 1) / (successes + failures + 2)).argmax(-1)
        left = (successes + failures).sum(-1) < self.table.n_pulls
        if left.any():
            chosen[left] = self.table.best_arm(successes[left], failures[left])
        return chosen


@lru_cache(maxsize=8)
def _optimal_policy(n_arms: int, n_pulls: int) -> BayesOptimalPolicy:
    return _OptimalPolicy(n_arms, n_pulls)


class PSRLAgent(_BaselineAgent):
    """Posterior sampling for tabular Markov decision processes.

    At the start of each episode a process is drawn from the posterior, and its optimal
    policy is followed. Priors are those of `TabularMDPs`: Dirichlet(1) transitions,
    normal mean rewards with deviation 1, unit noise.

    Parameters
    ----------
    n_episodes : int, default=10
        Episodes of a trial.
    horizon : int, default=None
        Steps of an episode. None: the tasks' `max_episode_steps`.
    reward_mean : float, default=1.0
        Mean of the prior of mean rewards.
    deterministic : bool, default=False
        Whether to plan for the posterior's mean instead of a draw.
    vectorization : {"sync", "async"}, default="sync"
        Whether environments run in this process or in one each.
    step_timeout : float, default=None
        Seconds that a step may take; needs "async".
    random_state : int, RandomState instance or None, default=None
        Seed of draws and environments.

    Attributes
    ----------
    horizon_ : int
        Steps of an episode.
    observation_space_, action_space_ : gymnasium.Space
        Spaces of the tasks.
    adapted_ : AdaptedPolicy
        What the last `adapt` returned.

    References
    ----------
    Osband et al., *(More) Efficient Reinforcement Learning via Posterior Sampling*,
    2013 (arXiv:1306.0940).

    Examples
    --------
    >>> from sklmeta.rl import PSRLAgent, TabularMDPs
    >>> tasks = TabularMDPs(n_states=3, n_actions=2)
    >>> agent = PSRLAgent(n_episodes=5, random_state=0).fit(tasks)
    >>> agent.score(tasks) > 10
    True
    """

    horizon_: int

    def __init__(
        self,
        *,
        n_episodes: int = 10,
        horizon: int | None = None,
        reward_mean: float = 1.0,
        deterministic: bool = False,
        vectorization: str = "sync",
        step_timeout: float | None = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            n_episodes=n_episodes,
            deterministic=deterministic,
            vectorization=vectorization,
            step_timeout=step_timeout,
            random_state=random_state,
        )
        self.horizon = horizon
        self.reward_mean = reward_mean

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.horizon is not None:
            check_integer("horizon", self.horizon, 1)

    def _keep_kind(self, task: EnvTask) -> None:
        spaces = self.observation_space_, self.action_space_
        if not all(isinstance(space, Discrete) for space in spaces):
            raise ValueError(
                "PSRLAgent needs Discrete observations and actions, got "
                f"{spaces[0]} and {spaces[1]}."
            )
        horizon = self.horizon or task.max_episode_steps
        if horizon is None:
            raise ValueError(
                f"The {task} has no max_episode_steps, so that the length of an "
                "episode is not known. Give PSRLAgent a horizon."
            )
        self.horizon_ = horizon

    def _online_policy(self, device: torch.device) -> OnlinePolicy:
        observation, action = self._codes
        return PSRLPolicy(
            observation.width,
            action.width,
            self.horizon_,
            reward_mean=self.reward_mean,
        )
