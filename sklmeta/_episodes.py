"""Where the episodes of meta-training, early stopping and scoring come from."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Callable, Iterator, Sequence
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sklmeta._task_rows import representative
from sklmeta.engine.batches import Episodes, similar_sizes
from sklmeta.engine.episodes import EpisodeIndex, EpisodeSampler, EpisodeSpec
from sklmeta.engine.pool import RowPool
from sklmeta.engine.spec import bounds
from sklmeta.tasks import ClassPool, TaskDistribution, TaskSet

__all__ = [
    "batches_of",
    "endless_batches",
    "hold_out",
    "one_pass",
    "representative",
    "sampled_batches",
    "scoring_parts",
    "scoring_seed",
    "task_seed",
]

POOL_EPISODES = 200
HELD_OUT_EPISODES = 100
EPISODES_DRAWN_AT_FIRST = 256
EPISODES_DRAWN_AT_ONCE = 2048
EPISODES_SCORED_AT_ONCE = 256
VALUES_SCORED_AT_ONCE = 2**26  # of features, padding included: 256 MB
VALUES_GATHERED_AT_ONCE = 2**19  # of features: 2 MB
TASKS_SAMPLED_AT_ONCE = 1024
MIN_HELD_OUT_TASKS = 5
DEFAULT_WAYS = 5


def endless_batches(
    sampler: EpisodeSampler, batch_size: int, generator: torch.Generator
) -> Iterator[Episodes]:
    """Yield batches of random tasks for ever.

    The episodes of many updates are drawn in one go, and their rows gathered when due.
    """
    n_together = EPISODES_DRAWN_AT_FIRST
    while True:
        n_batches = max(1, n_together // batch_size)
        index = sampler.draw(n_batches * batch_size, generator)
        yield from batches_of(sampler, index, batch_size)
        n_together = min(2 * n_together, EPISODES_DRAWN_AT_ONCE)


def one_pass(
    sampler: EpisodeSampler, batch_size: int, generator: torch.Generator
) -> Iterator[Episodes]:
    """Yield batches that hold every task once; of a class pool, about every class."""
    n_episodes = len(sampler.task_ids)
    if sampler.pool.is_class_pool:
        widest = bounds(sampler.spec.n_way or DEFAULT_WAYS)[1]
        n_episodes = ceil(len(sampler.pool.names) / widest)
    index = sampler.draw(n_episodes, generator)
    yield from batches_of(sampler, index, batch_size)


def batches_of(
    sampler: EpisodeSampler, index: EpisodeIndex, batch_size: int
) -> Iterator[Episodes]:
    """Yield the episodes of an index, `batch_size` at a time.

    Where all have equal numbers of rows, and few, the rows of many batches are gathered
    in one go.
    """
    together = batch_size * _batches_together(sampler, index, batch_size)
    for start in range(0, len(index), together):
        episodes = sampler.gather(index[start : start + together])
        for first in range(0, len(episodes), batch_size):
            yield episodes[first : first + batch_size]


def _batches_together(
    sampler: EpisodeSampler, index: EpisodeIndex, batch_size: int
) -> int:
    """Return how many batches are gathered in one go."""
    if not (index.support_mask.all() and index.query_mask.all()):
        return 1  # they would be padded to the longest of others
    n_rows = index.support.shape[1] + index.query.shape[1]
    values = n_rows * prod(sampler.pool.input_shape) * batch_size
    return max(1, VALUES_GATHERED_AT_ONCE // max(values, 1))


def sampled_batches(
    distribution: TaskDistribution,
    make_pool: Callable[[TaskSet], RowPool],
    spec: EpisodeSpec,
    batch_size: int,
    generator: torch.Generator,
) -> Iterator[Episodes]:
    """Yield batches of fresh tasks for ever.

    Many updates' tasks are sampled and prepared in one go; each is used once.
    """
    n_batches = max(1, TASKS_SAMPLED_AT_ONCE // batch_size)
    while True:
        seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
        tasks = distribution.sample(n_batches * batch_size, seed)
        sampler = EpisodeSampler(make_pool(tasks), spec)
        yield from batches_of(sampler, sampler.all_tasks(generator), batch_size)


def hold_out(
    tasks: TaskSet | ClassPool,
    fraction: float,
    n_way: Any,
    seed: int,
    reason: str = "early_stopping=True",
) -> tuple[Any, Any]:
    """Split tasks (classes of a pool) into those to train on and those held out.

    Of a pool, classes of each domain are held out for themselves; none of a domain that
    has too few.

    Raises
    ------
    ValueError
        With the arithmetic, if too few remain to train on.
    """
    is_pool = isinstance(tasks, ClassPool)
    least = MIN_HELD_OUT_TASKS
    groups = [np.arange(len(tasks))]
    if is_pool:
        least = bounds(DEFAULT_WAYS if n_way is None else n_way, "n_way")[1]
        groups = _by_domain(tasks.domains)
    n_total = max(map(len, groups))
    n_held = max(ceil(fraction * n_total), least)
    n_left = n_total - n_held
    if n_left < (least if is_pool else 1):
        unit = "classes" if is_pool else "tasks"
        unit += " of the largest domain" * (len(groups) > 1)
        raise ValueError(
            f"{reason} holds out max(ceil({fraction} * {n_total}), "
            f"{least}) = {n_held} of {n_total} {unit}, which leaves {n_left}: too "
            "few to train on. Give more, pass validation_tasks= to fit, or turn it off."
        )
    rng, held = np.random.default_rng(seed), np.zeros(len(tasks), dtype=bool)
    for group in groups:
        n_held = max(ceil(fraction * len(group)), least)
        if len(group) - n_held >= (least if is_pool else 1):
            held[group[rng.permutation(len(group))[:n_held]]] = True
    return tasks[~held], tasks[held]


def _by_domain(domains: NDArray[Any]) -> list[NDArray[np.int64]]:
    """Return the positions of each domain."""
    found: dict[Any, list[int]] = {}
    for position, domain in enumerate(domains.tolist()):
        found.setdefault(domain, []).append(position)
    return [np.array(positions) for positions in found.values()]


def scoring_seed(random_state: Any) -> int:
    """Return the seed of the episodes that `score` judges: 0 unless an int is given."""
    return int(random_state) if isinstance(random_state, numbers.Integral) else 0


def scoring_parts(sampler: EpisodeSampler, seed: int) -> Iterator[EpisodeIndex]:
    """Yield the episodes that `score` judges, as many at a time as memory allows.

    They depend on seed and names alone, and hold all rows of their tasks.
    """
    pool = sampler.pool
    row_values = prod(pool.input_shape)
    if pool.is_class_pool:
        index = sampler.draw(POOL_EPISODES, torch.Generator().manual_seed(seed))
        sizes = index.support_mask.sum(1) + index.query_mask.sum(1)
        for part in similar_sizes(sizes * row_values, VALUES_SCORED_AT_ONCE):
            yield index[part]
        return
    seeds = task_seeds(pool.names, seed)
    sizes = pool.offsets.diff()[sampler.task_ids]
    for part in similar_sizes(sizes * row_values, VALUES_SCORED_AT_ONCE):
        for tasks in part.split(EPISODES_SCORED_AT_ONCE):
            yield sampler.draw_tasks(seeds, sampler.task_ids[tasks])


def task_seeds(names: Sequence[Any], seed: int) -> list[int]:
    """Return each task's seed, a stable hash of `seed` and its name."""
    return [task_seed(name, seed) for name in names]


def task_seed(name: Any, seed: int) -> int:
    """Return a stable hash of a seed and a task's name."""
    digest = hashlib.blake2b(f"{seed}|{name!s}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
