"""The contract of agents: fit on environments, adapt to a new one, act in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from sklmeta._episodes import scoring_seed, task_seed
from sklmeta._parameters import check_choice, check_integer, check_positive, shown
from sklmeta.rl._env_pool import EnvPool
from sklmeta.rl._online import OnlinePolicy
from sklmeta.rl._spaces import SpaceCode, space_code
from sklmeta.rl.policies import AdaptedPolicy
from sklmeta.rl.tasks import EnvTask, EnvTaskDistribution, as_env_tasks

__all__ = ["BaseAgent"]

CPU = torch.device("cpu")

# Tasks of a distribution that are drawn to score.
N_SCORED_TASKS = 200


class BaseAgent(BaseEstimator):
    """Base of all agents: their verbs, whatever the algorithm.

    Subclasses add `fit`, which calls `_keep_spaces`, and say how they adapt:
    `_unadapted`, `_adapt_in` and `_curves_in`.
    """

    # Parameters of all agents, declared for those who read.
    n_episodes: int
    deterministic: bool
    vectorization: str
    step_timeout: float | None
    random_state: Any

    observation_space_: gymnasium.Space
    action_space_: gymnasium.Space
    # What the axis of `adaptation_curve` counts, and its first value.
    _curve_axis: ClassVar[tuple[str, int]] = ("episode", 1)

    # What subclasses say ---------------------------------------------------------

    def _check_parameters(self) -> None:
        """Raise TypeError or ValueError if a parameter is not usable."""
        check_integer("n_episodes", self.n_episodes, 1)
        check_choice("deterministic", self.deterministic, [True, False])
        check_choice("vectorization", self.vectorization, ["sync", "async"])
        if self.step_timeout is not None:
            check_positive("step_timeout", self.step_timeout)
            if self.vectorization == "sync":
                raise ValueError(
                    "step_timeout has an effect with vectorization='async' only: an "
                    "environment of this process cannot be interrupted."
                )

    def _unadapted(self) -> tuple[OnlinePolicy, Any]:
        """Return the policy and its state in an environment of which nothing is known.

        Both on the CPU, for one trial.
        """
        raise NotImplementedError

    def _adapt_in(
        self, envs: Any, copies: int, n_episodes: int, generator: torch.Generator
    ) -> tuple[OnlinePolicy, Any, Tensor]:
        """Adapt in T environments, `copies` of each side by side.

        Returns the policy, its state, and the returns of all episodes (T, n).
        """
        raise NotImplementedError

    def _judged_in(
        self, envs: Any, copies: int, n_episodes: int, generator: torch.Generator
    ) -> Tensor:
        """Return the returns that `score` averages, (T, n)."""
        return self._adapt_in(envs, copies, n_episodes, generator)[2]

    def _curves_in(
        self, envs: Any, copies: int, n_episodes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return return and success along adaptation, (T, n)."""
        raise NotImplementedError

    def _n_copies(self, tasks: Sequence[EnvTask], n_episodes: int) -> int:
        """Return how many environments of a task are run side by side."""
        return 1

    # What is learned -------------------------------------------------------------

    @property
    def _codes(self) -> tuple[SpaceCode, SpaceCode]:
        return (
            space_code(self.observation_space_, "observation"),
            space_code(self.action_space_, "action"),
        )

    def _keep_spaces(self, task: EnvTask) -> None:
        """Set the spaces of a task; forget what was adapted before."""
        with self._pool() as pool:
            spaces = pool.spaces_of(task)
        self.observation_space_, self.action_space_ = spaces
        _ = self._codes  # refuses spaces that no net reads
        self.__dict__.pop("adapted_", None)

    def _pool(self) -> EnvPool:
        return EnvPool(self.vectorization, self.step_timeout)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "observation_space_")

    # Adapting and acting ---------------------------------------------------------

    def adapt(self, env: Any = None, n_episodes: int | None = None) -> AdaptedPolicy:
        """Adapt to an environment by acting in it.

        Parameters
        ----------
        env : EnvTask, gymnasium.Env, callable, gymnasium id or EnvSpec, default=None
            The environment. One that the caller made is not closed. None: nothing is
            known of it.
        n_episodes : int, default=None
            Episodes to act in it. None: the agent's `n_episodes`.

        Returns
        -------
        AdaptedPolicy
            The policy for this environment, independent of what is done to this agent
            later; also kept as `adapted_`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        ValueError
            If the spaces of the environment are not those of meta-training.
        EnvTaskError
            If the environment fails.
        """
        check_is_fitted(self)
        self._check_parameters()
        n_episodes = self._count(n_episodes)
        seed = scoring_seed(self.random_state)
        if env is None:
            policy, state = self._unadapted()
            returns: NDArray[Any] = np.zeros(0)
        else:
            policy, state, returns = self._adapted_to(env, n_episodes, seed)
        self.adapted_ = AdaptedPolicy(
            policy, state, *self._codes, seed, self.deterministic, returns
        )
        return self.adapted_

    def _adapted_to(
        self, env: Any, n_episodes: int, seed: int
    ) -> tuple[OnlinePolicy, Any, NDArray[Any]]:
        with self._pool() as pool:
            if isinstance(env, gymnasium.Env):
                copies, envs = 1, pool.of_env(env, seed)
            else:
                task = _only_task(env)
                seed = task_seed(task.name, seed)
                copies = self._n_copies([task], n_episodes)
                envs = pool.batched([task], seed, CPU, copies)
            self._refuse_other_spaces(envs)
            generator = torch.Generator().manual_seed(seed)
            policy, state, returns = self._adapt_in(envs, copies, n_episodes, generator)
        return policy, state, returns[0].numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the likeliest action for each observation, in the adapted environment.

        Parameters
        ----------
        X : array-like of shape (n_observations, *observation_shape)
            Observations.

        Returns
        -------
        ndarray of shape (n_observations, *action_shape)
            Actions, as the environment takes them. Nothing is remembered.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().predict(X)

    def act(self, observation: ArrayLike, deterministic: bool | None = None) -> Any:
        """Choose the next action in the environment that was adapted to last.

        Parameters
        ----------
        observation : array-like of shape observation_shape
            What the environment gave last.
        deterministic : bool, default=None
            Whether to take the likeliest action. None: as the agent says.

        Returns
        -------
        int or ndarray of shape action_shape
            What ``env.step`` takes.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        return self._last_adapted().act(observation, deterministic)

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
            Not used.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        self._last_adapted().observe(observation, reward, terminated, truncated)

    def begin_episode(self) -> None:
        """Say that the environment was reset: an episode of the same trial begins.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        self._last_adapted().begin_episode()

    def reset(self) -> None:
        """Forget what happened since adaptation.

        Raises
        ------
        NotFittedError
            Before `adapt`.
        """
        self._last_adapted().reset()

    # Judging ---------------------------------------------------------------------

    def score(self, X: Any, y: None = None) -> float:
        """Return the mean return of an episode, over the trials of many environments.

        Agents that learn by acting are judged by all episodes of a trial, the first
        ones included; those that adapt by gradients by what they do after adaptation.

        Parameters
        ----------
        X : list of EnvTask, callables, gymnasium ids or specs, or a distribution
            Environments in any form; of a distribution, 200 are drawn.
        y : None
            Ignored; scikit-learn passes it.

        Returns
        -------
        float
            Mean return of an episode, undiscounted.

        Raises
        ------
        NotFittedError
            Before `fit`.
        EnvTaskError
            If an environment fails.
        """
        check_is_fitted(self)
        self._check_parameters()
        returns = [
            self._judged_in(*where).cpu()
            for _, where in self._in_parts(X, self.n_episodes)
        ]
        return float(torch.cat(returns).mean())

    def adaptation_curve(self, X: Any, n_episodes: int | None = None) -> pd.DataFrame:
        """Return what is earned along adaptation, in each of many environments.

        Parameters
        ----------
        X : list of EnvTask, callables, gymnasium ids or specs, or a distribution
            Environments in any form; of a distribution, 200 are drawn.
        n_episodes : int, default=None
            Episodes of a trial; of agents that adapt by gradients, episodes at each
            step. None: the agent's.

        Returns
        -------
        DataFrame
            A row for each environment and episode (or gradient step): columns `task`,
            `group`, `episode` (or `gradient_step`), `return` and, where environments
            say so, `success`.

        Raises
        ------
        NotFittedError
            Before `fit`.
        EnvTaskError
            If an environment fails.
        """
        check_is_fitted(self)
        self._check_parameters()
        n_episodes = self._count(n_episodes)
        frames = [
            self._curve_frame(tasks, *self._curves_in(*where))
            for tasks, where in self._in_parts(X, n_episodes)
        ]
        return pd.concat(frames, ignore_index=True)

    def _curve_frame(
        self, tasks: Sequence[EnvTask], returns: Tensor, success: Tensor
    ) -> pd.DataFrame:
        axis, first = self._curve_axis
        n_points = returns.shape[1]
        columns = {
            "task": np.repeat(_objects([task.name for task in tasks]), n_points),
            "group": np.repeat(_objects([task.group for task in tasks]), n_points),
            axis: np.tile(np.arange(first, first + n_points), len(tasks)),
            "return": returns.flatten().cpu().numpy(),
        }
        if not success.isnan().all():
            columns["success"] = success.flatten().cpu().numpy()
        return pd.DataFrame(columns)

    def _in_parts(
        self, X: Any, n_episodes: int
    ) -> Iterator[tuple[list[EnvTask], tuple[Any, int, int, torch.Generator]]]:
        """Yield tasks and where to act in them, as many as run at once."""
        seed = scoring_seed(self.random_state)
        if isinstance(X, EnvTaskDistribution) and not isinstance(X, type):
            X = X.sample(N_SCORED_TASKS, random_state=seed)
        device = self._device()
        generator = torch.Generator(device).manual_seed(seed)
        with self._pool() as pool:
            for part in EnvPool.parts(as_env_tasks(X)):
                copies = self._n_copies(part, n_episodes)
                envs = pool.batched(part, seed, device, copies)
                self._refuse_other_spaces(envs)
                yield part, (envs, copies, n_episodes, generator)
                seed += 1

    def _device(self) -> torch.device:
        return CPU

    def _count(self, n_episodes: int | None) -> int:
        if n_episodes is None:
            return self.n_episodes
        check_integer("n_episodes", n_episodes, 1)
        return n_episodes

    def _refuse_other_spaces(self, envs: Any) -> None:
        self._refuse_spaces(envs.observation_space, envs.action_space)

    def _refuse_spaces(
        self, observation: gymnasium.Space, action: gymnasium.Space
    ) -> None:
        for name, ours, theirs in (
            ("observation", self.observation_space_, observation),
            ("action", self.action_space_, action),
        ):
            if ours != theirs:
                raise ValueError(
                    f"The {name} space of the environment is {theirs}, and this "
                    f"{type(self).__name__} was fitted on {ours}. Fit it on tasks of "
                    "this kind, or wrap the environment."
                )

    def _last_adapted(self) -> AdaptedPolicy:
        check_is_fitted(self)
        if not hasattr(self, "adapted_"):
            raise NotFittedError(
                f"This {type(self).__name__} is not adapted to an environment yet. "
                "Call adapt(env) first, or adapt() to act in one of which nothing is "
                "known."
            )
        return self.adapted_


def _only_task(env: Any) -> EnvTask:
    """Return the task to adapt to.

    Raises
    ------
    TypeError
        If it is a distribution of tasks.
    ValueError
        If there are several.
    """
    if isinstance(env, EnvTaskDistribution) and not isinstance(env, type):
        raise TypeError(
            f"adapt takes one environment, got a distribution, {shown(env)}. Draw a "
            "task: adapt(tasks.sample(1)[0])."
        )
    tasks = as_env_tasks(env)
    if len(tasks) > 1:
        raise ValueError(
            f"adapt takes one environment, got {len(tasks)}. Adapt to each in turn, or "
            "judge the agent on all: score(tasks), adaptation_curve(tasks)."
        )
    return tasks[0]


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
