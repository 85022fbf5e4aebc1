"""Simulated tasks beside real ones: a source of both, in given proportions.

Few real tasks make a meta-learner overfit; simulated ones are as many as are asked for,
and never quite like the real ones. Meta-training on both lets the former say what tasks
are like, and the latter what functions there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from sklmeta._parameters import check_fraction
from sklmeta.datasets._random import RandomStateLike, as_generator
from sklmeta.datasets.sinusoids import check_count
from sklmeta.tasks import ClassPool, TaskDistribution, TaskSet, as_tasks

__all__ = ["MixedTasks"]


@dataclass(frozen=True)
class MixedTasks(TaskDistribution):
    """Distribution of tasks that come from several sources, real or simulated.

    Parameters
    ----------
    sources : sequence of TaskSet or TaskDistribution
        Where tasks come from; lists of tasks count as a TaskSet. Those of a TaskSet
        come in random order, none of them twice before all have come once in a call.
    weights : sequence of float, default=None
        Share of each source, up to a factor; None: all the same.

    Raises
    ------
    TypeError
        If a source is a ClassPool, or is none at all.
    ValueError
        If there is no source, TaskSets among them differ in features, targets or
        labels, or weights do not fit them.

    See Also
    --------
    GaussianProcessTasks : Simulated regression tasks.
    Sinusoids : The same of sine waves.
    TaskSet.from_domains : Real tasks from several sources, as one TaskSet.

    Notes
    -----
    Rows of all sources have the same features and targets, in the same units: simulated
    targets are best scaled as real ones are, or targets are put in units of their own
    task, ``normalize_y="task"``. Where real rows are a DataFrame, simulated ones get
    its columns.

    Tasks lose their names, so nothing can warn where one is scored that was
    meta-trained on. Keep real tasks for testing out of `sources`. Early stopping and
    ``calibrate=`` do hold some real tasks of each source out, by `hold_out`.

    Where all tasks are real and few enough to be held in memory, better join them by
    ``TaskSet.from_domains``, and weigh sources by ``domain_weights=`` of the
    meta-learner: names, splitters and warnings of leakage go on to work, and scores are
    told by domain. `MixedTasks` is for sources that draw tasks, as simulators do.

    Examples
    --------
    >>> from sklmeta.datasets import GaussianProcessTasks, MixedTasks, make_sinusoids
    >>> real = make_sinusoids(10, n_samples=20, random_state=0)
    >>> mixed = MixedTasks([real, GaussianProcessTasks(n_samples=30)], weights=[1, 3])
    >>> mixed.sample(100, random_state=0)
    TaskSet(100 tasks, 20 to 30 rows, 1 feature)
    """

    sources: Sequence[Any]
    weights: Sequence[float] | None = None

    _alike: ClassVar[bool] = False  # of an instance: whether sources were compared

    def __post_init__(self) -> None:
        """Refuse what no task can be drawn from."""
        if not isinstance(self.sources, (list, tuple)) or isinstance(
            self.sources, TaskSet
        ):
            raise TypeError(
                "sources must be a list of TaskSets and TaskDistributions, got "
                f"{type(self.sources).__name__}."
            )
        if not self.sources:
            raise ValueError(
                "sources must hold at least one source of tasks, got none."
            )
        sources = tuple(map(_as_source, range(len(self.sources)), self.sources))
        object.__setattr__(self, "sources", sources)
        object.__setattr__(self, "weights", self._checked_weights())
        real = {i: one for i, one in enumerate(sources) if isinstance(one, TaskSet)}
        _check_alike(real, self._columns())
        object.__setattr__(self, "_alike", len(real) == len(sources))

    def sample(self, n_tasks: int, random_state: RandomStateLike = None) -> TaskSet:
        """Draw tasks, in random order.

        Parameters
        ----------
        n_tasks : int
            How many tasks.
        random_state : int, RandomState, Generator or None, default=None
            An int gives the same tasks each time; a generator moves on.

        Returns
        -------
        tasks : TaskSet of length n_tasks
            Tasks without names; fixed support masks and domains are kept.

        Raises
        ------
        TypeError
            If a source does not draw a TaskSet.
        ValueError
            If `n_tasks` is below 1, or sources differ in features, targets or labels.
        """
        check_count("n_tasks", n_tasks)
        self._check_simulated()
        rng = as_generator(random_state)
        weights = np.asarray(self.weights)
        counts = rng.multinomial(n_tasks, weights / weights.sum())
        drawn = [
            _drawn(source, int(count), rng)
            for source, count in zip(self.sources, counts, strict=True)
            if count
        ]
        columns = self._columns()
        mixed, *others = (_unnamed(tasks, columns) for tasks in drawn)
        for tasks in others:
            mixed = mixed + tasks
        order: Any = rng.permutation(n_tasks)
        return mixed[order]

    def hold_out(
        self, fraction: float = 0.1, random_state: RandomStateLike = None
    ) -> tuple[MixedTasks, MixedTasks]:
        """Divide real tasks into those to train on and those held out.

        Meta-learners do this for early stopping and ``calibrate=``. Sources that draw
        fresh tasks are in both parts; one with a method `hold_out` of its own is
        divided by it.

        Parameters
        ----------
        fraction : float, default=0.1
            Share of the tasks of each TaskSet that is held out: one at least, and one
            at least is left.
        random_state : int, RandomState, Generator or None, default=None
            An int gives the same parts each time.

        Returns
        -------
        train, held_out : MixedTasks
            With the same weights, and without a common real task; one that several
            sources hold is in the same part of each.

        Raises
        ------
        ValueError
            If a source holds a single task, or `fraction` is not between 0 and 1.

        Examples
        --------
        >>> from sklmeta.datasets import MixedTasks, make_sinusoids
        >>> mixed = MixedTasks([make_sinusoids(10, random_state=0)])
        >>> train, held_out = mixed.hold_out(0.2, random_state=0)
        >>> len(train.sources[0]), len(held_out.sources[0])
        (8, 2)
        """
        check_fraction("fraction", fraction)
        rng = as_generator(random_state)
        held: set[int] = set()
        real = list(self._real_sources())
        for name, tasks in real:
            held |= _chosen(name, tasks, fraction, held, rng)
        for name, tasks in real:
            if all(id(task) in held for task in tasks):
                raise ValueError(
                    f"All tasks of {name} are held out, as it shares them with other "
                    "sources: none is left to train on. Give sources without common "
                    "tasks, or another random_state; or pass validation_tasks= to fit."
                )
        return self._divided(held, fraction, rng)

    def _real_sources(self, prefix: str = "") -> Iterator[tuple[str, TaskSet]]:
        """Yield all TaskSets, those of nested mixtures too, with what to call them."""
        for position, source in enumerate(self.sources):
            name = f"{prefix}sources[{position}]"
            if isinstance(source, TaskSet):
                yield name, source
            elif isinstance(source, MixedTasks):
                yield from source._real_sources(f"{name}.")

    def _divided(
        self, held: set[int], fraction: float, rng: Generator
    ) -> tuple[MixedTasks, MixedTasks]:
        parts = []
        for source in self.sources:
            if isinstance(source, TaskSet):
                is_held = np.array([id(task) in held for task in source])
                parts.append((source[~is_held], source[is_held]))
            elif isinstance(source, MixedTasks):
                parts.append(source._divided(held, fraction, rng))
            elif hasattr(source, "hold_out"):
                parts.append(source.hold_out(fraction, int(rng.integers(2**31))))
            else:
                parts.append((source, source))
        train, held_out = zip(*parts, strict=True)
        return replace(self, sources=train), replace(self, sources=held_out)

    def _checked_weights(self) -> tuple[float, ...]:
        n_sources = len(self.sources)
        if self.weights is None:
            return (1.0,) * n_sources
        try:
            weights = np.asarray(self.weights)
        except ValueError:  # sequences of several lengths
            weights = np.empty(0)
        fits = weights.shape == (n_sources,) and weights.dtype.kind in "biuf"
        if not fits or (weights < 0).any() or not 0 < weights.sum() < np.inf:
            raise ValueError(
                f"weights must be {n_sources} finite numbers >= 0, one for each source "
                f"and not all 0; got {self.weights!r}."
            )
        return tuple(weights.astype(float).tolist())

    def _columns(self) -> Any:
        """Return the columns of the first real rows that are a DataFrame, if any."""
        return next((c for c in map(_columns, self.sources) if c is not None), None)

    def _check_simulated(self) -> None:
        """Compare all sources, once: what distributions draw is not known before."""
        if self._alike:
            return
        drawn = {
            i: source if isinstance(source, TaskSet) else source.sample(2, 0)
            for i, source in enumerate(self.sources)
        }
        _check_alike(drawn, self._columns())
        object.__setattr__(self, "_alike", True)


def _as_source(position: int, source: Any) -> TaskSet | TaskDistribution:
    """Return a source as the class that it counts as."""
    try:
        tasks = as_tasks(source)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"sources[{position}]: {error}") from error
    if isinstance(tasks, ClassPool):
        raise TypeError(
            f"sources[{position}] is a ClassPool, whose items are classes; "
            "expected a TaskSet or a TaskDistribution. Give tasks, such as "
            "TaskSet(tasks, labels='local')."
        )
    return tasks


def _check_alike(sources: dict[int, Any], columns: Any) -> None:
    """Refuse sources whose tasks cannot be in one set, by position."""
    seen: dict[str, tuple[int, Any]] = {}
    for position, tasks in sources.items():
        if not isinstance(tasks, TaskSet):
            raise TypeError(
                f"sources[{position}] draws a {type(tasks).__name__}; expected a "
                "TaskSet of its method sample(n_tasks, random_state)."
            )
        for what, value in _traits(tasks, columns).items():
            first, other = seen.setdefault(what, (position, value))
            if value != other:
                raise ValueError(
                    f"sources[{first}] and sources[{position}] differ: {what} {other} "
                    f"and {value}. All sources need the same features, targets and "
                    "labels; regression targets that are ints count as numbers once "
                    "they are given as floats."
                )


def _traits(tasks: TaskSet, columns: Any) -> dict[str, Any]:
    """Return what sources must agree in, as far as it is known."""
    rows = _unnamed(tasks[:1], columns).rows()
    traits = {
        "rows of shape": rows.row_shape,
        "rows in a": type(rows.X).__name__,
        "targets of shape": ("n", *rows.y.shape[1:]),
    }
    if isinstance(rows.X, pd.DataFrame):
        traits["columns"] = list(rows.X.columns)
    kind = _kind_of_targets(tasks.rows().y)
    if kind is not None:
        traits["targets that are"] = kind
    traits["labels"] = tasks.labels
    return traits


def _kind_of_targets(y: NDArray[Any]) -> str | None:
    """Tell regression from classification; None: whole numbers as floats are either."""
    if y.dtype.kind == "f":
        return "numbers" if (y != np.floor(y)).any() else None
    if y.dtype.kind == "O" and not isinstance(y.flat[0], str):
        return None
    return "class labels"


def _chosen(
    name: str, tasks: TaskSet, fraction: float, held: set[int], rng: Generator
) -> set[int]:
    """Return which tasks of a source are held out besides those that are already.

    Slices of a TaskSet share its Task objects, which tell common tasks of sources.
    """
    distinct = list(dict.fromkeys(id(task) for task in tasks))
    if len(distinct) < 2:
        raise ValueError(
            f"{name} holds a single task, which cannot be held out and trained on. "
            "Give it at least two, or pass validation_tasks= to fit."
        )
    n_held = min(ceil(fraction * len(distinct)), len(distinct) - 1)
    free = [task for task in distinct if task not in held]
    n_more = max(n_held - (len(distinct) - len(free)), 0)
    return {free[i] for i in rng.permutation(len(free))[:n_more].tolist()}


def _drawn(source: Any, count: int, rng: Generator) -> Any:
    """Draw tasks from one source."""
    if not isinstance(source, TaskSet):
        return source.sample(count, int(rng.integers(2**31)))
    rounds = -(-count // len(source))
    order = [rng.permutation(len(source)) for _ in range(rounds)]
    return source[np.concatenate(order)[:count]]


def _columns(source: Any) -> Any:
    """Return the columns of real rows that are a DataFrame, else None."""
    X = source.rows().X if isinstance(source, TaskSet) else None
    return X.columns if isinstance(X, pd.DataFrame) else None


def _unnamed(tasks: TaskSet, columns: Any) -> TaskSet:
    """Return tasks without names, in a DataFrame if there are columns that fit."""
    rows = tasks.rows()
    X = rows.X
    fits = isinstance(X, np.ndarray) and X.ndim == 2 and columns is not None
    if fits and X.shape[1] == len(columns):
        X = pd.DataFrame(X, columns=columns)
    support: NDArray[np.bool_] | None = rows.support
    labels: Any = tasks.labels
    return TaskSet.from_offsets(
        X,
        rows.y,
        rows.offsets,
        labels=labels,
        support=support,
        domains=rows.domains,
    )
