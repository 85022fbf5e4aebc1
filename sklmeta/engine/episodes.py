"""Episodes: which rows of which task are support, and which are query.

An episode is a function of its task's own rows, the `EpisodeSpec` and one integer seed:
`EpisodeSampler.draw` only picks tasks and seeds at random. No episode depends on which
others are drawn beside it.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sklmeta.engine.batches import Episodes, Rows, similar_sizes
from sklmeta.engine.keys import LAST, random_keys, stream
from sklmeta.engine.pool import RowPool
from sklmeta.engine.spec import Count, EpisodeSpec, bounds
from sklmeta.engine.units import Units, usable_units

__all__ = [
    "EpisodeIndex",
    "EpisodeSampler",
    "EpisodeSpec",
    "RowPool",
    "gather",
    "row_weights",
]

# Positions of a stream: its slots of 2**32 numbers serve the counts of the episode,
# the choice of classes, and then the choice of rows way by way.
_SLOT = 2**32
_COUNTS, _CLASSES, _ROWS = 0, 1, 2

# Rows put in random order at once, padding included: some 100 MB of work space.
ROWS_AT_ONCE = 2**22


@dataclass(frozen=True)
class EpisodeIndex:
    """Episodes as row numbers of a pool, padded to the longest; B episodes.

    Attributes
    ----------
    task : Tensor of shape (B,)
        Which task of the pool each episode is from.
    support : Tensor of shape (B, S)
        Support rows; where masked, some other row of the pool.
    support_mask : Tensor of bool, shape (B, S)
        True where a row is real. Real rows come first.
    query : Tensor of shape (B, Q)
        Query rows.
    query_mask : Tensor of bool, shape (B, Q)
        True where a row is real.
    support_way, query_way : Tensor of shape (B, S) and (B, Q), or None
        Way 0..n_way-1 of each row; None unless drawn class by class.
    n_way : Tensor of shape (B,) or None
        Number of ways.
    """

    task: Tensor
    support: Tensor
    support_mask: Tensor
    query: Tensor
    query_mask: Tensor
    support_way: Tensor | None = None
    query_way: Tensor | None = None
    n_way: Tensor | None = None

    def __len__(self) -> int:
        return len(self.task)

    def rows(self) -> Tensor:
        """Return all rows in use, as often as they are."""
        return torch.cat([self.support[self.support_mask], self.query[self.query_mask]])

    def __getitem__(self, episodes: slice | Tensor) -> EpisodeIndex:
        """Return some of the episodes, padded to the longest among them."""
        parts: dict[str, Any] = {"task": self.task[episodes]}
        for name in ("support", "query"):
            mask = getattr(self, f"{name}_mask")[episodes]
            width = int(mask.sum(1).max()) if len(mask) else mask.shape[1]
            parts[f"{name}_mask"] = mask[:, :width]
            for part in (name, f"{name}_way"):
                value = getattr(self, part)
                parts[part] = None if value is None else value[episodes, :width]
        n_way = None if self.n_way is None else self.n_way[episodes]
        return EpisodeIndex(**parts, n_way=n_way)


class EpisodeSampler:
    """Draws episodes from a pool of tasks.

    Parameters
    ----------
    pool : RowPool
        The tasks' rows.
    spec : EpisodeSpec
        What an episode is made of. `small_tasks` is applied here, once.
    domain_weights : "equal" or mapping of domain to weight, default=None
        How often `draw` takes a task of each domain of the pool. None: every task, or
        every class of a class pool, is as likely as any other.

    Attributes
    ----------
    task_ids : Tensor of shape (n_usable,)
        The tasks of the pool that episodes are drawn from; the domains of a class pool
        that has several.

    Raises
    ------
    ValueError
        If a task is small and ``spec.small_tasks="raise"``, if no task can make an
        episode, if no usable task is of a domain with a weight, or if `per_class` meets
        targets that are no class indices.

    Warns
    -----
    SmallTaskWarning
        Once, if some tasks (classes of a class pool) are small.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec, RowPool
    >>> pool = RowPool(torch.rand(9, 3), torch.rand(9), [0, 4, 9], names=["a", "b"])
    >>> sampler = EpisodeSampler(pool, EpisodeSpec(n_shot=2))
    >>> index = sampler.draw(2, torch.Generator().manual_seed(0))
    >>> episodes = sampler.gather(index)
    >>> episodes.support.x.shape, episodes.query.x.shape
    (torch.Size([2, 2, 3]), torch.Size([2, 3, 3]))
    """

    def __init__(
        self,
        pool: RowPool,
        spec: EpisodeSpec,
        domain_weights: str | Mapping[Hashable, float] | None = None,
    ) -> None:
        self.pool = pool
        self.spec = spec
        self._domain_weights = domain_weights
        self._of_units(usable_units(pool, spec))

    def _of_units(self, units: Units) -> None:
        """Draw from these units."""
        self._units = units
        # Usable units of each task: how many, and where they begin.
        self._n_units = units.task.bincount(minlength=self.pool.n_tasks)
        self._first_unit = self._n_units.cumsum(0) - self._n_units
        self.task_ids = self._n_units.nonzero()[:, 0]
        weights = self._domain_weights
        self._shares = _domain_shares(self.pool, self._n_units, weights)

    def among(
        self, *, tasks: Tensor | None = None, classes: Tensor | None = None
    ) -> EpisodeSampler:
        """Return a sampler of the same pool that draws from some of it.

        Parameters
        ----------
        tasks : Tensor of int, default=None
            Tasks of the pool.
        classes : Tensor of int, default=None
            Classes of a class pool, by position.

        Returns
        -------
        EpisodeSampler
            Of those that were usable. It draws as one that was made of them does.
        """
        keep = torch.ones(len(self._units.task), dtype=torch.bool)
        if tasks is not None:
            keep &= torch.isin(self._units.task, tasks)
        if classes is not None:
            first_rows = self._units.rows[self._units.start]
            keep &= torch.isin(self.pool.y.cpu()[first_rows], classes)
        own = copy.copy(self)
        own._of_units(self._units.where(keep))
        return own

    def draw(self, n_episodes: int, generator: torch.Generator) -> EpisodeIndex:
        """Draw episodes of random tasks.

        No task comes twice before every usable task (of its domain, where domains are
        weighed) has come once.

        Parameters
        ----------
        n_episodes : int
            How many episodes.
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        EpisodeIndex
            Of length `n_episodes`.

        Raises
        ------
        ValueError
            If `n_episodes` is below 1.
        """
        if n_episodes < 1:
            raise ValueError(f"n_episodes must be at least 1, got {n_episodes}.")
        tasks = self._random_tasks(n_episodes, generator)
        return self._episodes(tasks, _random_seeds(n_episodes, generator))

    def all_tasks(self, generator: torch.Generator) -> EpisodeIndex:
        """Draw one episode of every usable task, in task order.

        Parameters
        ----------
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        EpisodeIndex
            Of length ``len(task_ids)``.
        """
        seeds = _random_seeds(len(self.task_ids), generator)
        return self._episodes(self.task_ids, seeds)

    def draw_tasks(
        self,
        seeds: Mapping[Hashable, int] | Sequence[int] | np.ndarray | Tensor,
        task_ids: Tensor | None = None,
    ) -> EpisodeIndex:
        """Draw the episode that belongs to each usable task's seed, in task order.

        Parameters
        ----------
        seeds : sequence of int, length n_tasks, or mapping of task names to int
            One seed for every task of the pool, usable or not.
        task_ids : Tensor of shape (B,), default=None
            Some usable tasks, in any order; None: all of them. Many tasks of very
            different sizes take less memory in groups of similar size.

        Returns
        -------
        EpisodeIndex
            One episode per task. It depends on the task's rows and seed alone: not on
            the other tasks, nor on their order.

        Raises
        ------
        ValueError
            If a task has no seed, or is not usable.
        """
        if task_ids is None:
            task_ids = self.task_ids
        elif not bool(torch.isin(task_ids, self.task_ids).all()):
            raise ValueError("task_ids must be among the usable ones, .task_ids.")
        return self._episodes(task_ids, self._seeds(seeds)[task_ids])

    def draw_each(self, task_ids: Tensor, seeds: Sequence[int]) -> EpisodeIndex:
        """Draw one episode for each pair of a task and a seed.

        Parameters
        ----------
        task_ids : Tensor of shape (B,)
            Usable tasks, in any order and as often as wanted.
        seeds : sequence of int, length B
            The seed of each episode.

        Returns
        -------
        EpisodeIndex
            The episodes that `draw_tasks` draws for the same tasks and seeds.
        """
        return self._episodes(task_ids, _wrapped(seeds))

    def gather(self, index: EpisodeIndex) -> Episodes:
        """Return the rows of episodes, on the pool's device.

        Parameters
        ----------
        index : EpisodeIndex
            Episodes of this sampler's pool.

        Returns
        -------
        Episodes
            `y` holds ways where episodes are drawn class by class, else the pool's.
        """
        return gather(self.pool, index)

    def _random_tasks(self, n_episodes: int, generator: torch.Generator) -> Tensor:
        """Draw the task of each episode; its domain first, where these are weighed."""
        if self._shares is None:
            return _in_rounds(self.task_ids, n_episodes, generator)
        domain_of_task = _domain_of_tasks(self.pool)[self.task_ids]
        domain = self._shares.multinomial(n_episodes, True, generator=generator)
        tasks = torch.empty_like(domain)
        for number in domain.unique().tolist():
            episodes = domain == number
            own = self.task_ids[domain_of_task == number]
            tasks[episodes] = _in_rounds(own, int(episodes.sum()), generator)
        return tasks

    def _episodes(self, tasks: Tensor, seeds: Tensor) -> EpisodeIndex:
        """Draw one episode for each task and seed."""
        streams = stream(seeds)[:, None]  # (B, 1)
        units, way_mask = self._draw_units(tasks, streams)
        n_support, n_query = self._row_counts(streams, units, way_mask)
        rows = self._draw_rows(streams, units, n_support, n_query)  # (B, N, rows)

        columns = torch.arange(rows.shape[2])
        support = rows[:, :, : int(n_support.max())]
        after = columns[: int(n_query.max())] + n_support[:, :, None]
        query = rows.gather(2, after.clamp_(max=rows.shape[2] - 1))
        support_mask = columns[: support.shape[2]] < n_support[:, :, None]
        query_mask = columns[: query.shape[2]] < n_query[:, :, None]

        support, support_mask, support_way = _join_ways(support, support_mask)
        query, query_mask, query_way = _join_ways(query, query_mask)
        if not self.spec.per_class:
            return EpisodeIndex(tasks, support, support_mask, query, query_mask)
        return EpisodeIndex(
            tasks,
            support,
            support_mask,
            query,
            query_mask,
            support_way,
            query_way,
            way_mask.sum(1),
        )

    def _draw_units(self, tasks: Tensor, streams: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the units of each episode, in random order; (B, N) and their mask."""
        first, available = self._first_unit[tasks], self._n_units[tasks]
        if not self.spec.per_class:
            # Every task is one unit.
            return first[:, None], torch.ones(len(tasks), 1, dtype=torch.bool)
        n_way = available.clone()
        if self.spec.n_way is not None:
            n_way = torch.minimum(self._count(self.spec.n_way, streams, 2)[:, 0], n_way)
        elif self.pool.is_class_pool:
            n_way.clamp_(max=5)
        position = torch.arange(int(available.max()))
        keys = random_keys(streams, position + _CLASSES * _SLOT)
        keys.masked_fill_(position >= available[:, None], LAST)
        order = keys.topk(int(n_way.max()), largest=False).indices  # (B, N)
        way_mask = position[: order.shape[1]] < n_way[:, None]
        order = torch.minimum(order, available[:, None] - 1)
        return first[:, None] + order, way_mask

    def _row_counts(
        self, streams: Tensor, units: Tensor, way_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return how many support and query rows each unit gives; (B, N) each."""
        size = self._units.size[units]
        n_support = torch.minimum(self._count(self.spec.n_shot, streams, 0), size - 1)
        if self._units.fixed is not None:
            n_fixed = self._units.n_fixed[units]
            n_support = torch.where(n_fixed > 0, n_fixed, n_support)
        n_query = size - n_support
        if self.spec.n_query is not None:
            n_query = torch.minimum(self._count(self.spec.n_query, streams, 1), n_query)
        return n_support * way_mask, n_query * way_mask

    def _draw_rows(
        self, streams: Tensor, units: Tensor, n_support: Tensor, n_query: Tensor
    ) -> Tensor:
        """Order each unit's rows at random, support first; (B, N, rows)."""
        sizes = self._units.size[units].amax(1) * units.shape[1]
        parts = similar_sizes(sizes, ROWS_AT_ONCE)
        if len(parts) == 1:
            return self._rows_in_order(streams, units, n_support, n_query)
        rows = units.new_zeros(*units.shape, int((n_support + n_query).max()))
        for part in parts:
            own = self._rows_in_order(
                streams[part], units[part], n_support[part], n_query[part]
            )
            rows[part, :, : own.shape[2]] = own
        return rows

    def _rows_in_order(
        self, streams: Tensor, units: Tensor, n_support: Tensor, n_query: Tensor
    ) -> Tensor:
        start, size = self._units.start[units], self._units.size[units]
        position = torch.arange(int(size.max()))
        slots = (torch.arange(units.shape[1]) + _ROWS) * _SLOT
        keys = random_keys(streams[:, :, None], slots[:, None] + position)
        size = size[:, :, None]
        keys.masked_fill_(position >= size, LAST)
        chosen = self._given_support(units, start, position, size, n_support)
        if chosen is not None:
            # Negative keys: in front of all random ones, in task order.
            keys = torch.where(chosen, position - len(position), keys)
        needed = int((n_support + n_query).max())
        order = keys.topk(needed, largest=False).indices
        return self._units.rows[start[:, :, None] + torch.minimum(order, size - 1)]

    def _given_support(
        self,
        units: Tensor,
        start: Tensor,
        position: Tensor,
        size: Tensor,
        n_support: Tensor,
    ) -> Tensor | None:
        """Say which rows are support by rule, not by chance; (B, N, rows) or None."""
        chosen = None
        if self.spec.support_order == "first":
            chosen = position < n_support[:, :, None]
        if self._units.fixed is not None:
            rows = start[:, :, None] + torch.minimum(position, size - 1)
            fixed = self._units.fixed[rows] & (position < size)
            if chosen is not None:
                # Fixed support rows win over the first rows.
                chosen = chosen & (self._units.n_fixed[units] == 0)[:, :, None]
                fixed = fixed | chosen
            chosen = fixed
        return chosen

    def _count(self, count: Count, streams: Tensor, which: int) -> Tensor:
        """Draw a number within its bounds for each episode; (B, 1)."""
        low, high = bounds(count)
        if low == high:
            return torch.full_like(streams, low)
        position = torch.full((1,), _COUNTS * _SLOT + which)
        return random_keys(streams, position).remainder_(high - low + 1).add_(low)

    def _seeds(self, seeds: Any) -> Tensor:
        """Return one seed per task of the pool, wrapped into int64; (n_tasks,)."""
        if isinstance(seeds, Mapping):
            missing = [name for name in self.pool.names if name not in seeds]
            if missing:
                raise ValueError(f"seeds has none for task {missing[0]!r}.")
            seeds = [seeds[name] for name in self.pool.names]
        if len(seeds) != self.pool.n_tasks:
            raise ValueError(
                f"got {len(seeds)} seeds for {self.pool.n_tasks} tasks; give one seed "
                "for every task of the pool."
            )
        return _wrapped(seeds)


def gather(pool: RowPool, index: EpisodeIndex) -> Episodes:
    """Return the rows of episodes of a pool, on its device.

    `y` holds ways where episodes are drawn class by class, else the pool's.
    """
    device = pool.device
    n_way = None if index.n_way is None else index.n_way.to(device)

    def rows(which: Tensor, mask: Tensor, way: Tensor | None) -> Rows:
        which = which.to(device)
        y = pool.y[which] if way is None else way.to(device)
        return Rows(pool.take(which), y, mask.to(device), n_way)

    return Episodes(
        support=rows(index.support, index.support_mask, index.support_way),
        query=rows(index.query, index.query_mask, index.query_way),
    )


def _wrapped(seeds: Any) -> Tensor:
    """Return integers of any size as int64."""
    wrapped = [operator.index(seed) % 2**64 for seed in seeds]
    return torch.from_numpy(np.array(wrapped, dtype=np.uint64).view(np.int64))


def _domain_of_tasks(pool: RowPool) -> Tensor:
    """Return the number of each task's domain; tasks of a class pool are domains."""
    assert pool.domain is not None
    return torch.arange(pool.n_tasks) if pool.is_class_pool else pool.domain


def _domain_shares(
    pool: RowPool, n_units: Tensor, weights: str | Mapping[Hashable, float] | None
) -> Tensor | None:
    """Return how likely each domain is, up to a factor; (D,).

    None: each task is as likely, so that it takes no look at its domain.
    """
    if weights is None:
        is_one = not pool.is_class_pool or int((n_units > 0).sum()) == 1
        return None if is_one else n_units.double()
    if pool.domain is None:
        raise ValueError("domain_weights weigh the domains of a pool, which has none.")
    shares = torch.ones(len(pool.domain_names), dtype=torch.float64)
    if not isinstance(weights, str):
        listed = [weights.get(name, 0.0) for name in pool.domain_names]
        shares = torch.tensor(listed, dtype=torch.float64)
    usable = _domain_of_tasks(pool)[n_units > 0].bincount(minlength=len(shares)) > 0
    if not bool((shares * usable).any()):
        names = [name for name, s in zip(pool.domain_names, shares, strict=True) if s]
        raise ValueError(
            "domain_weights leave nothing to draw from: no task of the domains with a "
            f"weight above 0, {names}, can make an episode. Give other weights, tasks "
            "with more rows, or small_tasks='shrink'."
        )
    return shares * usable


def row_weights(
    pool: RowPool, weights: str | Mapping[Hashable, float] | None
) -> Tensor | None:
    """Return how likely each row is drawn, up to a factor, by weights of domains, (R,).

    Parameters
    ----------
    pool : RowPool
        Rows of tasks, or classes, of several domains.
    weights : "equal" or mapping of domain to weight, default=None
        Of domains; None gives None: all rows are as likely.

    Returns
    -------
    Tensor of shape (R,) or None

    Raises
    ------
    ValueError
        If no row has a weight above 0.
    """
    if weights is None:
        return None
    if pool.domain is None or not pool.is_class_pool:
        n_rows = pool.offsets.diff().cpu()  # of each task
        shares = _domain_shares(pool, n_rows, weights)
        assert shares is not None and pool.domain is not None
        domain = pool.domain.repeat_interleave(n_rows)
    else:
        domain = pool.domain[pool.y.cpu()]  # classes have the domains
        n_rows = domain.bincount(minlength=pool.n_tasks)
        shares = _domain_shares(pool, n_rows, weights)
        assert shares is not None
    return (shares / domain.bincount(minlength=len(shares)).clamp(min=1))[domain]


def _in_rounds(tasks: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return `n` of the tasks, none twice before every one of them has come once."""
    rounds = -(-n // len(tasks))
    keys = torch.empty(rounds, len(tasks), dtype=torch.int64)
    keys.random_(generator=generator)
    order = keys.topk(min(len(tasks), n)).indices.flatten()[:n]
    return tasks[order]


def _random_seeds(n_episodes: int, generator: torch.Generator) -> Tensor:
    return torch.empty(n_episodes, dtype=torch.int64).random_(generator=generator)


def _join_ways(rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay the ways of each episode end to end, real rows first.

    Parameters
    ----------
    rows : Tensor of shape (B, N, S)
        Rows, way by way.
    mask : Tensor of bool, shape (B, N, S)
        Which of them are real.

    Returns
    -------
    rows, mask, way : Tensor of shape (B, at most N * S)
        The rows, which are real, and the way of each; 0 where a row is padding, which
        every task has.
    """
    n_way = rows.shape[1]
    way = torch.arange(n_way)[:, None].expand(rows.shape)
    rows, mask, way = rows.flatten(1), mask.flatten(1), way.flatten(1)
    if n_way == 1 or bool(mask.all()):
        return rows, mask, way
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    order = order[:, : int(mask.sum(1).max())]
    mask = mask.gather(1, order)
    return rows.gather(1, order), mask, way.gather(1, order).masked_fill_(~mask, 0)
