"""Where the environment tasks of each meta-update come from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import RandomState

from sklmeta._parameters import shown
from sklmeta.rl.tasks import EnvTask, EnvTaskDistribution, as_env_tasks

__all__ = ["TaskSource", "task_source"]


class TaskSource:
    """Gives the tasks of one meta-update after another."""

    def draw(self, n_tasks: int) -> list[EnvTask]:
        """Return `n_tasks` tasks."""
        raise NotImplementedError

    def drop(self, name: Any) -> bool:
        """Give a task no longer; return whether any are left."""
        raise NotImplementedError


class _Listed(TaskSource):
    """A list of tasks, gone through in a new order each round."""

    def __init__(self, tasks: list[EnvTask], rng: RandomState) -> None:
        self.tasks, self.rng = tasks, rng
        self.waiting: list[EnvTask] = []

    def draw(self, n_tasks: int) -> list[EnvTask]:
        while len(self.waiting) < n_tasks:
            order = self.rng.permutation(len(self.tasks))
            self.waiting.extend(self.tasks[i] for i in order)
        drawn, self.waiting = self.waiting[:n_tasks], self.waiting[n_tasks:]
        return drawn

    def drop(self, name: Any) -> bool:
        self.tasks = [task for task in self.tasks if task.name != name]
        self.waiting = [task for task in self.waiting if task.name != name]
        return bool(self.tasks)


class _Sampled(TaskSource):
    """Fresh tasks of a distribution."""

    def __init__(self, distribution: EnvTaskDistribution, rng: RandomState) -> None:
        self.distribution, self.rng = distribution, rng

    def draw(self, n_tasks: int) -> list[EnvTask]:
        seed = int(self.rng.randint(np.iinfo(np.int32).max))
        drawn = self.distribution.sample(n_tasks, random_state=seed)
        tasks = as_env_tasks(drawn)
        if len(tasks) != n_tasks:
            raise ValueError(
                f"sample({n_tasks}) of {shown(self.distribution)} returned "
                f"{len(tasks)} tasks, expected {n_tasks}."
            )
        return tasks

    def drop(self, name: Any) -> bool:
        return True


def task_source(tasks: Any, rng: RandomState) -> TaskSource:
    """Return the source of a distribution, or of tasks in any form.

    Raises
    ------
    TypeError, ValueError
        If they are no environment tasks.
    """
    if isinstance(tasks, EnvTaskDistribution) and not isinstance(tasks, type):
        return _Sampled(tasks, rng)
    return _Listed(as_env_tasks(tasks), rng)
