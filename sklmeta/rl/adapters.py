"""Agents and trials behind the interfaces of other libraries."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sklmeta._parameters import check_integer
from sklmeta.rl._recurrent_policy import RecurrentState
from sklmeta.rl._sources import TaskSource, task_source
from sklmeta.rl._spaces import SpaceCode, space_code
from sklmeta.rl.base import CPU
from sklmeta.rl.rl2 import RL2Agent

__all__ = ["RL2TrialWrapper", "StableBaselinesPolicy"]


class RL2TrialWrapper(gymnasium.Wrapper):
    """Trials as episodes: with it, any recurrent policy optimiser is RL^2.

    An episode of the wrapper is a trial of several episodes of the environment. Its
    observation is a row of numbers: the environment's observation (one-hot where it is
    Discrete), the last action (one-hot, or in units of its limits), its reward, and 1
    where a further episode of the trial begins. A trial ends as terminated: nothing
    follows it.

    Parameters
    ----------
    env : gymnasium.Env
        The environment; a new trial begins with its `reset`. `of_tasks` makes one that
        draws a task for each trial.
    n_episodes : int, default=10
        Episodes of a trial.

    Raises
    ------
    ValueError
        If its spaces are neither Discrete nor a Box.

    See Also
    --------
    RL2Agent : RL^2 with a recurrent policy of its own.
    StableBaselinesPolicy : An `RL2Agent` that acts in such an environment.

    Examples
    --------
    >>> from sklmeta.rl import BernoulliBandits, RL2TrialWrapper
    >>> env = RL2TrialWrapper.of_tasks(BernoulliBandits(n_arms=3), n_episodes=2)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape
    (6,)
    >>> observation, reward, terminated, truncated, info = env.step(1)
    >>> observation[2], observation[5], terminated
    (np.float32(1.0), np.float32(1.0), False)
    """

    def __init__(self, env: gymnasium.Env, n_episodes: int = 10) -> None:
        check_integer("n_episodes", n_episodes, 1)
        super().__init__(env)
        self.n_episodes = n_episodes
        self._observation_code = space_code(env.observation_space, "observation")
        self._action_code = space_code(env.action_space, "action")
        width = self._observation_code.width + self._action_code.width + 2
        self.observation_space = Box(-np.inf, np.inf, (width,), np.float32)
        self._n_ended = 0

    @classmethod
    def of_tasks(
        cls, tasks: Any, n_episodes: int = 10, random_state: Any = None
    ) -> RL2TrialWrapper:
        """Return trials in environments that are drawn from many tasks.

        Parameters
        ----------
        tasks : list of EnvTask, callables, gymnasium ids or specs, or a distribution
            Where trials take place.
        n_episodes : int, default=10
            Episodes of a trial.
        random_state : int, RandomState instance or None, default=None
            Seed of the tasks.

        Returns
        -------
        RL2TrialWrapper
            The environment.
        """
        source = task_source(tasks, check_random_state(random_state))
        return cls(_DrawnTaskEnv(source), n_episodes)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a trial."""
        self._n_ended = 0
        if isinstance(self.env, _DrawnTaskEnv):
            self.env.draw()
        observation, info = self.env.reset(seed=seed, options=options)
        nothing = np.zeros(self._action_code.width + 2, dtype=np.float32)
        return np.concatenate([self._coded(observation), nothing]), info

    def step(
        self, action: Any
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Step; where an episode ends, the next one of the trial begins."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        ended = terminated or truncated
        self._n_ended += ended
        is_over = self._n_ended >= self.n_episodes
        if ended and not is_over:
            observation, _ = self.env.reset()
        taken = self._action_code.from_env(np.asarray(action)[None])
        parts = (
            self._coded(observation),
            self._action_code.unit(taken)[0].numpy(),
            [float(reward), float(ended)],
        )
        row = np.concatenate(parts, dtype=np.float32)
        return row, float(reward), is_over, False, info

    def _coded(self, observation: Any) -> NDArray[np.float32]:
        values = self._observation_code.from_env(np.asarray(observation)[None])
        return self._observation_code.code(values)[0].numpy()


class _DrawnTaskEnv(gymnasium.Env):
    """An environment of a task that `draw` changes."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, source: TaskSource) -> None:
        self._source = source
        self._env = source.draw(1)[0].make_env()
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space

    def draw(self) -> None:
        self._env.close()
        self._env = self._source.draw(1)[0].make_env()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        # Environments of other tasks have seeds of their own.
        own = int(self.np_random.integers(2**31)) if seed is not None else None
        return self._env.reset(seed=own, options=options)

    def step(self, action: Any) -> Any:
        return self._env.step(action)

    def close(self) -> None:
        self._env.close()


class StableBaselinesPolicy:
    """A fitted RL^2 agent with the `predict` of stable-baselines3's policies.

    It acts in environments wrapped by `RL2TrialWrapper`, several at a time; what it
    knows of each trial is the `state` that `predict` takes and returns, so that
    stable-baselines3's ``evaluate_policy`` and the like work.

    Parameters
    ----------
    agent : RL2Agent
        A fitted agent.

    Raises
    ------
    TypeError
        If it is another kind of agent.
    NotFittedError
        If it is not fitted.
    """

    def __init__(self, agent: RL2Agent) -> None:
        if not isinstance(agent, RL2Agent):
            raise TypeError(
                f"StableBaselinesPolicy is for RL2Agent, got {type(agent).__name__}. "
                "Policies adapted by gradients keep no state: call the predict of what "
                "adapt returns."
            )
        check_is_fitted(agent)
        self._policy: Any = agent._online_policy(CPU)
        self._observation, self._action = agent._codes
        self._generator = torch.Generator().manual_seed(0)

    def predict(
        self,
        observation: ArrayLike,
        state: tuple[NDArray[np.float32], ...] | None = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[np.float32], ...]]:
        """Choose actions.

        Parameters
        ----------
        observation : array-like of shape (n_envs, width) or (width,)
            Rows of `RL2TrialWrapper`.
        state : tuple of one ndarray of shape (n_envs, hidden_size), default=None
            What the last call returned. None: trials begin.
        episode_start : array-like of shape (n_envs,), default=None
            Where a trial begins.
        deterministic : bool, default=False
            Whether to take the likeliest action.

        Returns
        -------
        actions : ndarray of shape (n_envs, *action_shape) or action_shape
            What environments take.
        state : tuple of one ndarray of shape (n_envs, hidden_size)
            For the next call.

        Raises
        ------
        ValueError
            If rows have another width.
        """
        rows = np.asarray(observation, dtype=np.float32)
        single = rows.ndim == 1
        rows = np.atleast_2d(rows)
        code, read = split_rows(rows, self._observation, self._action)
        hidden = self._hidden(state, episode_start, len(rows))
        decision = self._policy.act_coded(
            read._replace(hidden=hidden), code, self._generator, deterministic
        )
        actions = self._action.to_env(decision.action)
        return (actions[0] if single else actions), (decision.state.hidden.numpy(),)

    def _hidden(
        self, state: Any, episode_start: ArrayLike | None, n_envs: int
    ) -> torch.Tensor:
        if state is None:
            return self._policy.initial(n_envs, CPU).hidden
        hidden = torch.as_tensor(state[0])
        if episode_start is None:
            return hidden
        starts = torch.as_tensor(np.asarray(episode_start, dtype=bool))
        return hidden.masked_fill(starts[:, None], 0.0)


def split_rows(
    rows: NDArray[np.float32], observation: SpaceCode, action: SpaceCode
) -> tuple[torch.Tensor, RecurrentState]:
    """Return codes of observations (B, width), and what rows say of the step before.

    The hidden state of the result is empty.

    Raises
    ------
    ValueError
        If rows have another width.
    """
    width = observation.width + action.width + 2
    if rows.shape[1] != width:
        raise ValueError(
            f"Rows must have {width} numbers: {observation.width} of the observation, "
            f"{action.width} of the last action, its reward and 1 where an episode "
            f"begins; got {rows.shape[1]}. Wrap the environment in RL2TrialWrapper."
        )
    tensor = torch.as_tensor(rows)
    parts = [observation.width, action.width, 1, 1]
    code, last, reward, begins = tensor.split(parts, dim=1)
    empty = torch.zeros(len(rows), 0)
    return code, RecurrentState(empty, last, reward[:, 0], begins[:, 0])
