"""The default scores of meta-learners, summed up over batches of episodes."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklmeta import _episodes
from sklmeta._checks import diverged, finite_rows, refuse_more_ways
from sklmeta._parameters import resolve_device
from sklmeta._row_episodes import scoring_spec
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.episodes import EpisodeIndex, EpisodeSampler, gather
from sklmeta.engine.inference import embedded, run_episodes
from sklmeta.engine.learner import Learner
from sklmeta.engine.pool import RowPool
from sklmeta.engine.targets import TaskTargets
from sklmeta.tasks import ClassPool, TaskSet

__all__ = ["MeanAccuracy", "PooledR2", "episode_outputs", "score_tasks"]


def score_tasks(
    meta: Any,
    tasks: TaskSet | ClassPool,
    seed: int,
    total: MeanAccuracy | PooledR2,
) -> None:
    """Adapt a fitted torch learner to episodes of tasks, and sum up its scores.

    Raises
    ------
    MetaTrainingError
        Naming the task, if adapting to it diverges.
    """
    preparation = meta._preparation
    pool = preparation.pool(tasks, resolve_device(meta.device))
    sampler = EpisodeSampler(pool, scoring_spec(meta, preparation))
    learner, parts = meta._configured_learner(), _episodes.scoring_parts(sampler, seed)
    if pool.is_class_pool:
        parts = iter(drawn := list(parts))
        learner, pool = embedded(learner, pool, torch.cat([p.rows() for p in drawn]))
    for index in parts:
        name = partial(_named, pool, index)
        refuse_more_ways(meta, learner, index.n_way, name)
        episodes = gather(pool, index)
        outputs = episode_outputs(learner, episodes, preparation.task_targets)
        bad = ~finite_rows(outputs, meta._classifies) & episodes.query.mask.cpu()
        if bad.any():
            raise diverged(meta, name(int(bad.any(1).int().argmax())))
        total.add(outputs, episodes.query)


def _named(pool: RowPool, index: EpisodeIndex, episode: int) -> str:
    """Return what messages call an episode."""
    if pool.is_class_pool:
        return "an episode"
    return f"task {pool.names[int(index.task[episode])]!r}"


def episode_outputs(
    learner: Learner, episodes: Episodes, targets: TaskTargets | None
) -> Tensor:
    """Adapt and predict, in the units of the episodes' targets.

    Standard deviations that a learner's view gives behind means have these units too.
    """
    if targets is None:
        return run_episodes(learner, episodes)
    level, spread = targets.scale(episodes.support)
    outputs = run_episodes(learner, targets.standardise(episodes))
    level, spread = level.cpu(), spread.cpu()
    if not getattr(learner, "gives_std", False):
        return outputs * spread + level
    mean, std = outputs.chunk(2, dim=-1)
    return torch.cat([mean * spread + level, std * spread], -1)


class MeanAccuracy:
    """Accuracy on each task's query rows, averaged over tasks."""

    def __init__(self) -> None:
        self.tasks: list[Tensor] = []

    def add(self, outputs: Tensor, query: Rows) -> None:
        """Add episodes: outputs (T, Q, N) on the CPU and what they should be."""
        mask = query.mask.cpu()
        right = (outputs.nan_to_num().argmax(-1) == query.y.cpu()) & mask
        self.tasks.append(right.sum(1).double() / mask.sum(1))

    def add_task(self, predictions: NDArray[Any], y: NDArray[Any]) -> None:
        """Add one episode: labels of its query rows (Q,), predicted and true."""
        self.tasks.append(torch.tensor([np.mean(predictions == y)]))

    def value(self) -> float:
        """Return the mean over all tasks added."""
        return float(torch.cat(self.tasks).mean())


class PooledR2:
    """1 - SSE / sum of squares about each task's own query mean, pooled over tasks."""

    def __init__(self) -> None:
        self.errors: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        self.n_tasks = 0
        self.n_skipped = 0

    def add(self, outputs: Tensor, query: Rows) -> None:
        """Add episodes: outputs (T, Q, n_outputs) on the CPU and what they should be.

        Tasks with one query row are left out: their mean is that row.
        """
        mask = query.mask.cpu()
        enough = mask.sum(1) > 1
        self.n_tasks += int(enough.sum())
        self.n_skipped += int((~enough).sum())
        y, real = query.y.cpu()[enough].double(), mask[enough].unsqueeze(-1)
        outputs = torch.where(real, outputs[enough].double(), 0.0)
        y = torch.where(real, y, 0.0)
        mean = y.sum(1, keepdim=True) / real.sum(1, keepdim=True)
        self.errors = self.errors + ((outputs - y) * real).square().sum((0, 1))
        self.squares = self.squares + ((y - mean) * real).square().sum((0, 1))

    def add_task(self, predictions: NDArray[Any], y: NDArray[Any]) -> None:
        """Add one episode: its query targets (Q, n_outputs), predicted and true."""
        outputs = torch.from_numpy(np.asarray(predictions, dtype=np.float64))
        query = torch.from_numpy(np.asarray(y, dtype=np.float64))[None]
        mask = torch.ones(query.shape[:2], dtype=torch.bool)
        self.add(outputs.reshape(query.shape), Rows(query, query, mask))

    def value(self) -> float:
        """Return the score, averaged over outputs."""
        if not self.n_tasks:
            raise ValueError(
                f"All {self.n_skipped} scored tasks have only one query row, which "
                "says nothing about the fit inside a task. Lower n_shot, or give tasks "
                "more rows."
            )
        if self.n_skipped:
            warnings.warn(
                f"{self.n_skipped} tasks with only one query row are left out of the "
                "score.",
                UserWarning,
                stacklevel=3,
            )
        squares = torch.as_tensor(self.squares)
        if (squares <= 0).any():
            raise ValueError(
                "The scored tasks' targets do not vary inside any task, so there is no "
                "variance to explain. Score with another metric."
            )
        return float((1 - torch.as_tensor(self.errors) / squares).mean())
