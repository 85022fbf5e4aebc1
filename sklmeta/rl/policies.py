"""What `adapt` returns: a policy for one environment, with a state of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from sklmeta.rl._online import Decision, Experience, OnlinePolicy
from sklmeta.rl._spaces import SpaceCode

__all__ = ["AdaptedPolicy"]


class AdaptedPolicy:
    """A policy adapted to one environment.

    Made by the agents' `adapt`. It shares the agent's immutable weights and owns its
    state: later calls of the agent's methods do not change it, nor it the agent.

    Parameters
    ----------
    policy : OnlinePolicy
        The agent's policy.
    state : pytree of tensors
        What it knows after adaptation, of one trial.
    observation, action : SpaceCode
        How both are coded.
    seed : int
        Seed of the actions that are drawn.
    deterministic : bool
        Whether `act` takes the likeliest action rather than drawing one.
    returns : array-like of shape (n_episodes,)
        Returns of the episodes of adaptation, in order.

    Attributes
    ----------
    returns_ : ndarray of shape (n_episodes,)
        Returns of the episodes of adaptation, in order.

    Examples
    --------
    The control loop of a trial of two more episodes:

    >>> from sklmeta.rl import BernoulliBandits, ThompsonSamplingAgent
    >>> bandits = BernoulliBandits(n_arms=3)
    >>> agent = ThompsonSamplingAgent(random_state=0).fit(bandits)
    >>> task = bandits.sample(1, random_state=1)[0]
    >>> policy = agent.adapt(task, n_episodes=20)
    >>> env = task.make_env()
    >>> for _ in range(2):
    ...     observation, info = env.reset()
    ...     policy.begin_episode()
    ...     ended = False
    ...     while not ended:
    ...         action = policy.act(observation)
    ...         observation, reward, terminated, truncated, info = env.step(action)
    ...         policy.observe(observation, reward, terminated, truncated)
    ...         ended = terminated or truncated
    """

    def __init__(
        self,
        policy: OnlinePolicy,
        state: Any,
        observation: SpaceCode,
        action: SpaceCode,
        seed: int,
        deterministic: bool,
        returns: ArrayLike,
    ) -> None:
        self._policy = policy
        self._adapted_state = state
        self._observation, self._action = observation, action
        self._seed, self._deterministic = seed, deterministic
        self.returns_ = np.asarray(returns)
        self._state: Any = None
        self._pending: tuple[Tensor, Decision] | None = None
        self.reset()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest action for each observation; nothing is remembered.

        Each is taken for the first of a new episode after adaptation.

        Parameters
        ----------
        X : array-like of shape (n_observations, *observation_shape)
            Observations.

        Returns
        -------
        ndarray of shape (n_observations, *action_shape)
            Actions, as the environment takes them.

        Raises
        ------
        ValueError
            If `X` has another shape, or numbers that are not finite.
        """
        rows = self._observations(X)
        state = self._adapted_state
        if len(self.returns_):  # the first episode of all needs no word
            mask = torch.ones(1, dtype=torch.bool)
            state = self._policy.begin_episode(state, mask, self._fresh_generator())
        states = tree_map(lambda t: t.expand(len(rows), *t.shape[1:]), state)
        decision = self._policy.act(
            states, rows, self._fresh_generator(), deterministic=True
        )
        return self._action.to_env(decision.action)

    def act(self, observation: ArrayLike, deterministic: bool | None = None) -> Any:
        """Choose the next action of the episode that goes on.

        Parameters
        ----------
        observation : array-like of shape observation_shape
            What the environment gave last.
        deterministic : bool, default=None
            Whether to take the likeliest action. None: as the agent says.

        Returns
        -------
        int or ndarray of shape action_shape
            What ``env.step`` takes. Tell `observe` what comes of it.

        Raises
        ------
        ValueError
            If the observation has another shape, or numbers that are not finite.
        """
        row = self._observation.row(observation)
        chosen = self._deterministic if deterministic is None else deterministic
        decision = self._policy.act(self._state, row, self._generator, chosen)
        self._state = decision.state
        self._pending = (row, decision)
        action = self._action.to_env(decision.action)[0]
        return int(action) if self._action.is_discrete else action

    def observe(
        self,
        observation: ArrayLike,
        reward: float,
        terminated: bool,
        truncated: bool,
        info: Any = None,
    ) -> None:
        """Take in what came of the last action: what ``env.step`` returned.

        Parameters
        ----------
        observation : array-like of shape observation_shape
            The next observation.
        reward : float
            The reward.
        terminated, truncated : bool
            Whether the episode ended.
        info : dict, default=None
            Not used; takes the last entry of what ``env.step`` returns.

        Raises
        ------
        RuntimeError
            If no action has been chosen since the last call.
        ValueError
            If the observation does not fit, or the reward is no finite number.
        """
        if self._pending is None:
            raise RuntimeError(
                "observe says what came of an action, and none was chosen since it was "
                "called last. Call act(observation) first."
            )
        row, decision = self._pending
        experience = Experience(
            row,
            decision.action,
            torch.tensor([_finite(reward)]),
            self._observation.row(observation),
            torch.tensor([bool(terminated)]),
            torch.tensor([bool(truncated)]),
        )
        self._state = self._policy.observe(self._state, experience)
        self._pending = None
        self._acted = True

    def begin_episode(self) -> None:
        """Say that the environment was reset: an episode of the same trial begins."""
        if self._acted:
            mask = torch.ones(1, dtype=torch.bool)
            self._state = self._policy.begin_episode(self._state, mask, self._generator)
        self._acted, self._pending = False, None

    def reset(self) -> None:
        """Forget what happened since adaptation."""
        self._generator = self._fresh_generator()
        self._state = self._adapted_state
        self._pending = None
        # Whether the state knows of an episode after which another one can begin.
        self._acted = len(self.returns_) > 0

    def _fresh_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed)

    def _observations(self, X: ArrayLike) -> Tensor:
        """Return observations as a tensor (n, *observation).

        Raises
        ------
        ValueError
            Naming the shape or the value that does not fit.
        """
        return self._observation.rows(X)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_generator"] = self._generator.get_state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._generator = torch.Generator()
        self._generator.set_state(state["_generator"])


def _finite(reward: float) -> float:
    try:
        value = float(reward)
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value):
        raise ValueError(f"The reward must be a finite number, got {reward!r}.")
    return value
