"""Which episodes are judged: drawn once, from tasks, seed and protocol alone."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklmeta._checks import label_column, sorted_classes
from sklmeta._episodes import POOL_EPISODES, task_seeds
from sklmeta._meta_training import representative
from sklmeta._parameters import check_integer
from sklmeta._pooling import PooledRows
from sklmeta._preparation import local_codes, task_names
from sklmeta.engine.batches import similar_sizes
from sklmeta.engine.episodes import EpisodeIndex, EpisodeSampler, EpisodeSpec, RowPool
from sklmeta.engine.spec import bounds
from sklmeta.model_selection._ragged import Padded, RaggedRows
from sklmeta.tasks import ClassPool, TaskDistribution, TaskSet

__all__ = ["DrawnEpisodes", "EpisodeProtocol", "check_seed"]

# Between the seeds of a task's episodes: an odd number without pattern in its bits.
SEED_STEP = 0x9E3779B97F4A7C15
ROWS_DRAWN_AT_ONCE = 2**24


@dataclass(frozen=True)
class DrawnEpisodes:
    """Episodes of tasks, as row numbers; B episodes.

    Attributes
    ----------
    tasks : TaskSet or ClassPool
        What they were drawn from.
    task : ndarray of shape (B,)
        Position of each episode's task; 0 for a ClassPool.
    number : ndarray of shape (B,)
        Number of the episode among those of its task.
    support, query : RaggedRows
        Rows of each episode, and with local labels the way of each: the rank of its
        label among those of the episode.
    classes : RaggedRows or None
        With local labels, the classes of each episode as positions in `labels`.
    labels : ndarray or None
        With local labels, all labels of the tasks, sorted.
    """

    tasks: TaskSet | ClassPool
    task: NDArray[np.int64]
    number: NDArray[np.int64]
    support: RaggedRows
    query: RaggedRows
    classes: RaggedRows | None = None
    labels: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, episodes: Any) -> Self:
        """Return some of the episodes."""
        return replace(
            self,
            task=self.task[episodes],
            number=self.number[episodes],
            support=self.support[episodes],
            query=self.query[episodes],
            classes=None if self.classes is None else self.classes[episodes],
        )

    def with_tasks(self, tasks: TaskSet | ClassPool) -> Self:
        """Return the same episodes of the same tasks with other features."""
        return replace(self, tasks=tasks)

    @property
    def is_local(self) -> bool:
        """Whether labels mean something only inside their episode."""
        return self.classes is not None

    @property
    def unit(self) -> str:
        """What is independent of each other: "task", or "episode" of a ClassPool."""
        return "episode" if isinstance(self.tasks, ClassPool) else "task"

    @cached_property
    def rows(self) -> PooledRows:
        """Rows of all tasks, which `support` and `query` count in."""
        return self.tasks.rows()

    @cached_property
    def y(self) -> NDArray[Any]:
        """Targets of all rows; labels and single targets with one axis."""
        y = self.rows.y
        return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y

    @property
    def units(self) -> NDArray[np.int64]:
        """Number of the independent unit of each episode, shape (B,)."""
        return self.number if self.unit == "episode" else self.task

    @cached_property
    def names(self) -> list[Any]:
        """Name of each episode's task; of a ClassPool, the episode's classes."""
        if self.unit == "task":
            names = self.tasks.names  # type: ignore[union-attr]
            return [names[t] for t in self.task.tolist()]
        return [tuple(self.classes_of(e).tolist()) for e in range(len(self))]

    @cached_property
    def domains(self) -> NDArray[Any] | None:
        """Domain of each episode, shape (B,); None if the tasks have none."""
        if self.rows.domains is None:
            return None
        if self.unit == "task":
            return self.rows.domains[self.task]
        first = self.support.values[self.support.start]  # of the episode's classes
        place = np.searchsorted(self.rows.offsets, first, side="right") - 1
        return self.rows.domains[place]

    def label(self, episode: int) -> str:
        """Return what messages call an episode."""
        if self.unit == "episode":
            return f"episode {self.number[episode]} of the ClassPool"
        name = f"task {self.names[episode]!r}"
        return f"{name} (episode {self.number[episode]})"

    @property
    def n_way(self) -> NDArray[np.int64]:
        """How many classes each episode has (local labels), shape (B,)."""
        assert self.classes is not None
        return self.classes.size

    def support_rows(self, episode: int) -> NDArray[np.int64]:
        """Return the support rows of one episode."""
        return self.support.of(episode)

    def query_rows(self, episode: int) -> NDArray[np.int64]:
        """Return the query rows of one episode."""
        return self.query.of(episode)

    def all_rows(self) -> Tensor:
        """Return the rows of all episodes, as often as they come."""
        return torch.from_numpy(np.concatenate([self.support.all(), self.query.all()]))

    def classes_of(self, episode: int) -> NDArray[Any]:
        """Return the sorted labels of one episode (local labels)."""
        assert self.classes is not None
        assert self.labels is not None
        return self.labels[self.classes.of(episode)]

    def index(self) -> EpisodeIndex:
        """Return the episodes as padded tensors; ways are ranks of labels."""
        support, support_mask, support_way = self.support.padded()
        query, query_mask, query_way = self.query.padded()
        n_way = None if self.classes is None else torch.from_numpy(self.classes.size)
        return EpisodeIndex(
            torch.from_numpy(self.task),
            support,
            support_mask,
            query,
            query_mask,
            support_way,
            query_way,
            n_way,
        )


@dataclass(frozen=True)
class EpisodeProtocol:
    """How episodes are drawn that meta-learners are judged on.

    Attributes
    ----------
    n_shot, n_query, n_way, support_order, small_tasks
        See `make_episode_scorer`.
    n_episodes : int or None
        Episodes of each task; of a ClassPool, in all. None: 200 in all, at least one
        of each task, and one where nothing is drawn at random.
    random_state : int
        Seed, mixed with each task's name.
    """

    n_shot: Any = 5
    n_query: Any = None
    n_way: Any = None
    n_episodes: int | None = None
    support_order: str = "random"
    small_tasks: str = "shrink"
    random_state: int = 0

    def __post_init__(self) -> None:
        self.spec(per_class=True)
        if self.n_episodes is not None:
            check_integer("n_episodes", self.n_episodes, 1)
        check_seed(self.random_state)

    def spec(self, *, per_class: bool) -> EpisodeSpec:
        """Return the shape of the episodes; refuses values that are none."""
        return EpisodeSpec(
            n_shot=self.n_shot,
            n_query=self.n_query,
            n_way=self.n_way,
            per_class=per_class,
            support_order=self.support_order,  # type: ignore[arg-type]
            small_tasks=self.small_tasks,  # type: ignore[arg-type]
        )

    def draw(
        self, tasks: TaskSet | ClassPool | TaskDistribution, classifies: bool
    ) -> DrawnEpisodes:
        """Draw the episodes; they depend on tasks, seed and protocol alone.

        Parameters
        ----------
        tasks : TaskSet, ClassPool or TaskDistribution
            A TaskDistribution gives 200 tasks.
        classifies : bool
            Whether targets are labels; those of a ClassPool, and of a TaskSet with
            ``labels="local"``, are drawn class by class.

        Returns
        -------
        DrawnEpisodes

        Raises
        ------
        ValueError
            If tasks are too small, naming one of them.
        """
        tasks = representative(tasks, int(self.random_state))
        if isinstance(tasks, ClassPool) and not classifies:
            raise ValueError(
                "A ClassPool holds classes, and numbers are to be predicted. Give a "
                "TaskSet of tasks with numbers as y."
            )
        local = isinstance(tasks, ClassPool) or tasks.labels == "local"
        per_class = classifies and local
        spec = self.spec(per_class=per_class)
        labels = _Labels.of(tasks) if per_class else None
        if labels is not None and self.small_tasks == "raise":
            labels.refuse_small_classes(tasks, bounds(spec.n_shot)[0])
        sampler = EpisodeSampler(_label_pool(tasks, labels), spec)
        return self._drawn(tasks, sampler, labels)

    def _drawn(
        self, tasks: TaskSet | ClassPool, sampler: EpisodeSampler, labels: Any
    ) -> DrawnEpisodes:
        """Draw from a sampler, and collect what it gives in the order of tasks."""
        if isinstance(tasks, ClassPool):
            generator = torch.Generator().manual_seed(int(self.random_state))
            n_episodes = self.n_episodes or POOL_EPISODES
            number = np.arange(n_episodes)
            task = np.zeros(n_episodes, dtype=np.int64)
            parts = [(number, sampler.draw(n_episodes, generator))]
        else:
            n_each = self._episodes_per_task(tasks)
            usable = sampler.task_ids.numpy()
            task, number = (
                np.repeat(usable, n_each),
                np.tile(np.arange(n_each), len(usable)),
            )
            seeds = _mixed(
                task_seeds(tasks.names, int(self.random_state)), task, number
            )
            parts = list(_drawn_parts(sampler, task, seeds))
        return _collected(tasks, task, number, parts, labels)

    def with_episodes(self, tasks: TaskSet) -> EpisodeProtocol:
        """Return the protocol with the number of episodes of each task fixed."""
        return replace(self, n_episodes=self._episodes_per_task(tasks))

    def _episodes_per_task(self, tasks: TaskSet) -> int:
        if self.n_episodes is not None:
            return self.n_episodes
        counts = (self.n_shot, self.n_query, self.n_way)
        ranges = any(isinstance(count, (tuple, list)) for count in counts)
        nothing_random = (
            (self.support_order == "first" or bool(tasks.rows().has_support.all()))
            and self.n_query is None
            and self.n_way is None
            and not ranges
        )
        return 1 if nothing_random else ceil(POOL_EPISODES / len(tasks))


def check_seed(random_state: Any) -> None:
    """Refuse what would draw other episodes for every estimator."""
    if not isinstance(random_state, numbers.Integral):
        raise TypeError(
            "random_state must be an int, so that all estimators are judged on the "
            f"same episodes; got {random_state!r}."
        )


@dataclass(frozen=True)
class _Labels:
    """Labels of all rows as positions among the sorted ones."""

    classes: NDArray[Any]
    codes: NDArray[np.int64]  # (R,)
    own_codes: NDArray[np.int64]  # (R,), classes numbered task by task

    @classmethod
    def of(cls, tasks: TaskSet | ClassPool) -> _Labels:
        rows = tasks.rows()
        y = label_column(rows, task_names(tasks))
        classes, (codes, found) = sorted_classes(y), pd.factorize(y)
        rank = np.searchsorted(classes, found)
        own = codes if isinstance(tasks, ClassPool) else local_codes(y, rows.offsets)
        return cls(classes, rank[codes].astype(np.int64), own)

    def refuse_small_classes(self, tasks: TaskSet | ClassPool, n_shot: int) -> None:
        """Refuse a class with too few rows, by its label."""
        rows = tasks.rows()
        task, codes = np.zeros(len(rows.y), dtype=np.int64), self.codes
        if isinstance(tasks, TaskSet):
            task = np.repeat(np.arange(len(rows)), rows.sizes)
            drawn = ~rows.has_support[task]
            task, codes = task[drawn], codes[drawn]
        pairs, counts = np.unique(np.stack([task, codes]), axis=1, return_counts=True)
        small = counts < n_shot + 1
        if not small.any():
            return
        first = int(small.argmax())
        label = self.classes[pairs[1, first]]
        of_task = ""
        if isinstance(tasks, TaskSet):
            of_task = f" of task {tasks.names[pairs[0, first]]!r}"
        best = ", which no class has" if small.all() else ""
        raise ValueError(
            f"Class {_plain(label)!r}{of_task} has {counts[first]} rows, but "
            f"n_shot={n_shot} and one query row need {n_shot + 1}{best}. Lower n_shot, "
            "leave such classes out, or use small_tasks='shrink' or 'drop'."
        )


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def _label_pool(tasks: TaskSet | ClassPool, labels: _Labels | None) -> RowPool:
    """Return a pool without features: all that drawing episodes needs."""
    rows, names = tasks.rows(), task_names(tasks)
    x = np.zeros((len(rows.y), 0), dtype=np.float32)
    if isinstance(tasks, ClassPool):
        return RowPool.from_classes(x, rows.offsets, names, domains=rows.domains)
    y = np.zeros(len(x), dtype=np.int64) if labels is None else labels.own_codes
    return RowPool.from_tasks(x, y, rows.offsets, names, rows.support)


def _mixed(
    seeds: Sequence[int], task: NDArray[np.int64], number: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return the seed of each episode; the first of a task has the task's own."""
    own = np.array([seed % 2**64 for seed in seeds], dtype=np.uint64)[task]
    return own + number.astype(np.uint64) * np.uint64(SEED_STEP)


def _drawn_parts(
    sampler: EpisodeSampler, task: NDArray[np.int64], seeds: NDArray[np.uint64]
) -> Iterator[tuple[NDArray[np.int64], EpisodeIndex]]:
    """Yield episodes with their positions, tasks of similar sizes together."""
    sizes = sampler.pool.offsets.diff()[torch.from_numpy(task)]
    for part in similar_sizes(sizes, ROWS_DRAWN_AT_ONCE):
        own = part.numpy()
        index = sampler.draw_each(torch.from_numpy(task[own]), seeds[own].tolist())
        yield own, index


def _collected(
    tasks: TaskSet | ClassPool,
    task: NDArray[np.int64],
    number: NDArray[np.int64],
    parts: Sequence[tuple[NDArray[np.int64], EpisodeIndex]],
    labels: _Labels | None,
) -> DrawnEpisodes:
    """Lay parts of episodes end to end, ways in the order of their labels."""
    support: list[Padded] = []
    query: list[Padded] = []
    classes: list[Padded] = []
    for where, index in parts:
        rank = None
        if labels is not None:
            codes, real, rank = _ranked_ways(index, labels.codes)
            classes.append((where, codes, real, None))
        support.append(
            _padded(where, index.support, index.support_mask, index.support_way, rank)
        )
        query.append(
            _padded(where, index.query, index.query_mask, index.query_way, rank)
        )
    return DrawnEpisodes(
        tasks,
        task,
        number,
        RaggedRows.of_padded(support),
        RaggedRows.of_padded(query),
        None if labels is None else RaggedRows.of_padded(classes),
        None if labels is None else labels.classes,
    )


def _padded(
    where: NDArray[np.int64],
    rows: Tensor,
    mask: Tensor,
    way: Tensor | None,
    rank: NDArray[np.int64] | None,
) -> Padded:
    """Return rows of episodes as arrays, ways as ranks of their labels."""
    ranks = None
    if way is not None and rank is not None:
        ranks = np.take_along_axis(rank, way.numpy(), 1)
    return where, rows.numpy(), mask.numpy(), ranks


def _ranked_ways(
    index: EpisodeIndex, codes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Return each episode's labels in order, which are real, and each way's rank.

    All (B, N).
    """
    assert index.n_way is not None
    assert index.support_way is not None
    ways, mask = index.support_way.numpy(), index.support_mask.numpy()
    of_way = np.full((len(index), int(index.n_way.max())), np.iinfo(np.int64).max)
    episode = np.broadcast_to(np.arange(len(index))[:, None], ways.shape)
    of_way[episode[mask], ways[mask]] = codes[index.support.numpy()[mask]]
    order = of_way.argsort(axis=1, kind="stable")
    real = np.arange(of_way.shape[1]) < index.n_way.numpy()[:, None]
    return np.take_along_axis(of_way, order, 1), real, order.argsort(axis=1)
