"""Meta-training of agents within a time budget, with a curve of what they earn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _report import mean_interval

from sklmeta.rl import BaseAgent, EnvTask

__all__ = ["meta_train", "returns_by_task", "trial_totals"]


def meta_train(
    agent: Any,
    tasks: Any,
    minutes: float,
    updates: int,
    judge: Callable[[Any], dict[str, float]],
    last_lr: float | None = None,
) -> list[dict[str, float]]:
    """Meta-train in rounds of updates until the time is up; return a row for each.

    Time is that of one core, as the process has used it: the machines are shared.
    Judging does not count; a round that would end too late is not begun. With
    `last_lr`, the step size goes there from the agent's in equal steps of time.
    """
    first_lr = getattr(agent, "lr", None)
    agent.set_params(warm_start=True, max_iter=updates)
    spent, curve, slowest = 0.0, [], 0.0
    while not curve or spent + slowest < 60 * minutes:
        if last_lr is not None and first_lr is not None:
            share = spent / (60 * minutes)
            agent.set_params(lr=first_lr + share * (last_lr - first_lr))
        start = time.process_time()
        agent.fit(tasks)
        seconds = time.process_time() - start
        spent, slowest = spent + seconds, max(slowest, seconds)
        row = {
            "seconds": spent,
            "updates": agent.n_iter_,
            "env_steps": agent.n_env_steps_,
            **judge(agent),
        }
        curve.append(row)
        shown = ", ".join(f"{key} {value:,.5g}" for key, value in row.items())
        print(shown, flush=True)
    return curve


def returns_by_task(
    agent: BaseAgent, tasks: Sequence[EnvTask], n_episodes: int | None = None
) -> np.ndarray:
    """Return the returns along adaptation, (n_tasks, points)."""
    frame = agent.adaptation_curve(tasks, n_episodes)
    return frame["return"].to_numpy().reshape(len(tasks), -1)


def trial_totals(
    agents: dict[str, BaseAgent], tasks: Sequence[EnvTask], reference: str
) -> list[dict[str, Any]]:
    """Return totals of trials, and their differences to a reference agent's."""
    totals = {
        name: returns_by_task(agent, tasks).sum(1) for name, agent in agents.items()
    }
    return [
        {
            "agent": name,
            **mean_interval(total),
            "difference": mean_interval(total - totals[reference]),
        }
        for name, total in totals.items()
    ]
