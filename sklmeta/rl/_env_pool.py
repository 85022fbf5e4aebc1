"""The environments that an agent holds open, and closes in the end."""

from __future__ import annotations

import multiprocessing
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from inspect import signature
from typing import Any, Self

import gymnasium
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from sklmeta.exceptions import EnvTaskError
from sklmeta.rl._batched import BatchedEnvs
from sklmeta.rl._guard import GuardedEnv, Spaces
from sklmeta.rl._simulators import TorchNoise
from sklmeta.rl._vector import WHAT_TO_DO, GymVector, end_processes
from sklmeta.rl.tasks import EnvTask

__all__ = ["EnvPool"]

# Environments of this process that are kept for tasks to come.
N_KEPT = 64
# What runs at once, simulated and not.
N_SIMULATED, N_MADE = 10_000, 64


class EnvPool:
    """Makes environments of tasks, keeps them for the next call, and closes them all.

    Parameters
    ----------
    vectorization : {"sync", "async"}
        Whether environments run in this process or in one each.
    step_timeout : float or None
        Seconds that a step may take, "async" only.
    """

    def __init__(self, vectorization: str, step_timeout: float | None) -> None:
        self.vectorization, self.step_timeout = vectorization, step_timeout
        self._spaces: Spaces | None = None
        self._kept: OrderedDict[tuple[int, int], tuple[EnvTask, GuardedEnv]]
        self._kept = OrderedDict()
        self._processes: tuple[list[EnvTask], Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    @staticmethod
    def simulates(tasks: Sequence[EnvTask]) -> bool:
        """Return whether tasks have one simulator together.

        A subclass may do something else than its parent's simulator: it needs its own.
        """
        first = tasks[0]
        return "simulator" in getattr(first.env_fn, "__dict__", {}) and all(
            task.env_fn is first.env_fn
            and task.max_episode_steps == first.max_episode_steps
            for task in tasks
        )

    @staticmethod
    def parts(tasks: Sequence[EnvTask]) -> Iterator[list[EnvTask]]:
        """Yield as many tasks as run at once."""
        size = N_SIMULATED if EnvPool.simulates(tasks) else N_MADE
        for start in range(0, len(tasks), size):
            yield list(tasks[start : start + size])

    def batched(
        self,
        tasks: Sequence[EnvTask],
        seed: int,
        device: torch.device,
        copies: int = 1,
    ) -> BatchedEnvs:
        """Return the environments of tasks side by side, copies of a task together.

        Raises
        ------
        EnvTaskError
            If an environment fails.
        """
        every = [task for task in tasks for _ in range(copies)]
        if self.simulates(tasks):
            return self._simulator(every, seed, device)
        if self._spaces is None:
            self._spaces = _spaces_of(tasks[0])
        sync = self.vectorization == "sync"
        vector = self._in_this_process(every) if sync else self._in_processes(every)
        names = [task.name for task in every]
        return GymVector(vector, names, seed, device, True, self.step_timeout)

    def spaces_of(self, task: EnvTask) -> Spaces:
        """Return the spaces of a task's environment.

        Raises
        ------
        EnvTaskError
            If it cannot be made.
        """
        if self.simulates([task]):
            envs = self._simulator([task], 0, torch.device("cpu"))
            return envs.observation_space, envs.action_space
        return _spaces_of(task)

    def of_env(self, env: gymnasium.Env, seed: int) -> BatchedEnvs:
        """Return an environment of the user's, who closes it, as a batch of one."""
        spaces = env.observation_space, env.action_space
        guarded = GuardedEnv(lambda: env, spaces, owned=False)
        return GymVector(_Lent([guarded]), [str(env)], seed, torch.device("cpu"), True)

    def close(self) -> None:
        """Close all environments."""
        for _, env in self._kept.values():
            env.close()
        self._kept.clear()
        self._close_processes()

    def _simulator(
        self, tasks: Sequence[EnvTask], seed: int, device: torch.device
    ) -> BatchedEnvs:
        generator = torch.Generator(device).manual_seed(seed)
        make: Any = tasks[0].env_fn
        known = signature(make).parameters.keys()
        if not all(task.kwargs.keys() <= known for task in tasks):
            _refuse_one_of(tasks)
        try:
            return make.simulator(
                [task.kwargs for task in tasks],
                tasks[0].max_episode_steps,
                TorchNoise(generator),
                device,
            )
        except (KeyError, TypeError, ValueError):
            _refuse_one_of(tasks)
            raise

    def _in_this_process(self, tasks: Sequence[EnvTask]) -> _Lent:
        seen: dict[int, int] = {}
        chosen = []
        for task in tasks:
            copy = seen[id(task)] = seen.get(id(task), -1) + 1
            key = (id(task), copy)
            if key not in self._kept:
                self._kept[key] = task, GuardedEnv(task.make_env, self._known_spaces)
            self._kept.move_to_end(key)
            chosen.append(self._kept[key][1])
        while len(self._kept) > max(N_KEPT, len(tasks)):
            _, (_, env) = self._kept.popitem(last=False)
            env.close()
        return _Lent(chosen)

    def _in_processes(self, tasks: Sequence[EnvTask]) -> AsyncVectorEnv:
        if self._processes is not None:
            before, vector = self._processes
            if len(before) == len(tasks) and all(
                a is b for a, b in zip(before, tasks, strict=True)
            ):
                return vector
            self._close_processes()
        makers = [
            partial(GuardedEnv, task.make_env, self._known_spaces) for task in tasks
        ]
        vector = self._started(makers)
        self._processes = list(tasks), vector
        return vector

    def _started(self, makers: Sequence[Callable[[], gymnasium.Env]]) -> AsyncVectorEnv:
        before = multiprocessing.active_children()
        context = _start_method()
        try:
            return AsyncVectorEnv(
                makers, autoreset_mode=AutoresetMode.DISABLED, context=context
            )
        except BaseException as error:
            children = multiprocessing.active_children()
            end_processes(child for child in children if child not in before)
            if not isinstance(error, EOFError | OSError):
                raise
            raise EnvTaskError(
                "A process of vectorization='async' ended while it started. Processes "
                "import the script that starts them: put its code under "
                "if __name__ == '__main__':. If it does so already, an environment "
                "ends the process that makes it: vectorization='sync' shows which."
            ) from error

    @property
    def _known_spaces(self) -> Spaces:
        spaces = self._spaces
        assert spaces is not None
        return spaces

    def _close_processes(self) -> None:
        if self._processes is not None:
            _, vector = self._processes
            self._processes = None
            GymVector(vector, [], 0, torch.device("cpu")).close()


def _start_method() -> str:
    """Return how processes start: by forks of one that has imported what they need."""
    if os.name != "posix":
        return "spawn"
    # Has an effect before the first process only.
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    return "forkserver"


class _Lent(SyncVectorEnv):
    """Environments that others close, also when they are no longer seen in here."""

    def __init__(self, envs: Sequence[gymnasium.Env]) -> None:
        makers: list[Callable[[], gymnasium.Env]] = [
            partial(_same, env) for env in envs
        ]
        super().__init__(makers, autoreset_mode=AutoresetMode.DISABLED)

    def close_extras(self, **settings: Any) -> None:
        """Close nothing."""


def _same(env: gymnasium.Env) -> gymnasium.Env:
    return env


def _refuse_one_of(tasks: Sequence[EnvTask]) -> None:
    """Raise EnvTaskError for the first task that others cannot be simulated with."""
    first = _spaces_of(tasks[0])
    for task in tasks:
        spaces = _spaces_of(task)
        if spaces != first:
            raise EnvTaskError(
                f"The environment of task {task.name!r} has observations and actions "
                f"in {spaces[0]} and {spaces[1]}, that of task {tasks[0].name!r} in "
                f"{first[0]} and {first[1]}. {WHAT_TO_DO}",
                task.name,
            )


def _spaces_of(task: EnvTask) -> Spaces:
    """Return the spaces of a task.

    Raises
    ------
    EnvTaskError
        If its environment cannot be made.
    """
    try:
        env = task.make_env()
    except Exception as error:
        raise EnvTaskError(
            f"The environment of task {task.name!r} failed when it was made: "
            f"{type(error).__name__}: {error}. {WHAT_TO_DO}",
            task.name,
        ) from error
    spaces = env.observation_space, env.action_space
    with suppress(Exception):  # as `GuardedEnv` does
        env.close()
    return spaces
