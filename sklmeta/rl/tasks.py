"""Environment tasks: what agents meta-train on and adapt to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import gymnasium
from gymnasium.envs.registration import EnvSpec

from sklmeta._parameters import check_integer, shown

__all__ = ["EnvTask", "EnvTaskDistribution", "as_env_tasks"]


@dataclass(frozen=True, eq=False)
class EnvTask:
    """One environment to act in: the reinforcement-learning form of a task.

    Parameters
    ----------
    env_fn : callable, str or gymnasium EnvSpec
        What makes the environment: an environment class or a function, called with
        `kwargs`; or a gymnasium id or spec, given to ``gymnasium.make`` with `kwargs`.
        Lambdas work, but do not pickle: name a function where work is spread over
        processes.
    kwargs : mapping, default={}
        What makes this task different from others, such as ``{"goal": (0.3, -0.1)}``.
    name : hashable, default=None
        Shown in tables and errors. None: its position in the list.
    group : hashable, default=None
        Family of tasks, for splitters such as ``GroupKFold``.
    max_episode_steps : int, default=None
        Steps after which an episode is truncated. None: what the environment does.

    Examples
    --------
    >>> from sklmeta.rl import EnvTask
    >>> task = EnvTask("CartPole-v1", name="cart", max_episode_steps=50)
    >>> env = task.make_env()
    >>> env.action_space
    Discrete(2)
    """

    env_fn: Callable[..., gymnasium.Env] | str | EnvSpec
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    name: Hashable = None
    group: Hashable = None
    max_episode_steps: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.env_fn) and not isinstance(self.env_fn, str | EnvSpec):
            raise TypeError(
                f"env_fn must be callable, a gymnasium id or an EnvSpec, got "
                f"{shown(self.env_fn)}."
            )
        if not isinstance(self.kwargs, Mapping):
            raise TypeError(
                "kwargs must be a mapping of names to values, got "
                f"{shown(self.kwargs)}."
            )
        if self.max_episode_steps is not None:
            check_integer("max_episode_steps", self.max_episode_steps, 1)

    def make_env(self, **extra: Any) -> gymnasium.Env:
        """Return a new environment of this task.

        Parameters
        ----------
        **extra
            More keyword arguments for `env_fn`, such as ``render_mode="rgb_array"``.

        Returns
        -------
        gymnasium.Env
            The caller closes it.

        Raises
        ------
        TypeError
            If `env_fn` returns something else.
        """
        arguments = {**self.kwargs, **extra}
        if isinstance(self.env_fn, str | EnvSpec):
            return gymnasium.make(
                self.env_fn, max_episode_steps=self.max_episode_steps, **arguments
            )
        env = self.env_fn(**arguments)
        if not isinstance(env, gymnasium.Env):
            raise TypeError(
                f"{self} must make a gymnasium.Env, but its env_fn returned "
                f"{shown(env)}. Environments of the old gym package need a wrapper."
            )
        if self.max_episode_steps is not None:
            env = gymnasium.wrappers.TimeLimit(env, self.max_episode_steps)
        return env

    def __str__(self) -> str:
        return f"environment task {self.name!r}"


@runtime_checkable
class EnvTaskDistribution(Protocol):
    """Anything that draws environment tasks; `fit` then sees fresh ones each update."""

    def sample(self, n_tasks: int, random_state: Any = None) -> list[EnvTask]:
        """Return `n_tasks` new tasks."""
        ...


def as_env_tasks(tasks: Any) -> list[EnvTask]:
    """Return environment tasks in any form as a list of EnvTask, each with a name.

    Parameters
    ----------
    tasks : EnvTask, callable, gymnasium id or EnvSpec, or an iterable of these
        Callables are called without arguments.

    Returns
    -------
    list of EnvTask
        Those without a name get their position.

    Raises
    ------
    TypeError
        If an entry is none of these; the message says which.
    ValueError
        If there are none.
    """
    single = isinstance(tasks, EnvTask | str | EnvSpec) or callable(tasks)
    if not single and not isinstance(tasks, Iterable):
        raise TypeError(
            "Environment tasks must be a list of EnvTask, callables, gymnasium ids or "
            f"specs, or a distribution with sample(n_tasks, random_state); got "
            f"{shown(tasks)}."
        )
    given = [tasks] if single else list(tasks)
    if not given:
        raise ValueError("There are no environment tasks: the list is empty.")
    return [_as_env_task(task, place) for place, task in enumerate(given)]


def _as_env_task(task: Any, place: int) -> EnvTask:
    if isinstance(task, EnvTask):
        return task if task.name is not None else replace(task, name=place)
    if isinstance(task, EnvSpec):
        return EnvTask(task, name=task.id)
    if isinstance(task, str):
        return EnvTask(task, name=task)
    if isinstance(task, gymnasium.Env):
        raise TypeError(
            f"Entry {place} is an environment, {task}. Tasks make environments of "
            "their own: give the class, a function or EnvTask(env_fn, kwargs)."
        )
    if callable(task):
        return EnvTask(task, name=place)
    raise TypeError(
        f"Entry {place} of the environment tasks must be an EnvTask, a callable, a "
        f"gymnasium id or an EnvSpec, got {shown(task)}."
    )
