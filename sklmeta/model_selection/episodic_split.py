"""Few-shot episodes as splits of rows, for any scikit-learn classifier or regressor."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.multiclass import type_of_target

from sklmeta._parameters import check_choice, check_integer
from sklmeta._pooling import as_targets
from sklmeta.engine.spec import Count, bounds
from sklmeta.model_selection._protocol import DrawnEpisodes, EpisodeProtocol
from sklmeta.tasks import ClassPool, TaskSet, is_tasks

__all__ = ["EpisodicSplit"]

LARGEST_SEED = 2**31 - 1
NUMBERS_HINT = "If y holds numbers to predict, set labels='shared'."


class EpisodicSplit(BaseCrossValidator):
    """Splits of rows into the support and query rows of few-shot episodes.

    Puts any scikit-learn classifier or regressor under the protocol that few-shot
    learners are judged by: each split trains on an episode's support rows and tests on
    its query rows.

    - Labels without `groups` are one data set of many classes: an episode takes
      `n_way` of them, and rows of each. It sees the very episodes that
      `ClassPool(X, y)` gives with the same `random_state`.
    - With `groups`, each row's task, every episode stays inside one task. All tasks
      come equally often, those of an incomplete last round being drawn at random.
    - For numbers to predict (`y` that holds fractions), rows are drawn whatever their
      target: of all rows without `groups`, else of one task.

    Parameters
    ----------
    n_way : int, (int, int) or None, default=None
        Classes of an episode; a pair is a range that each episode draws from. None:
        min(5, n_classes), and with `groups` all classes of the task. Only where rows
        are drawn class by class.
    n_shot : int or (int, int), default=1
        Support rows: of each class with local labels, of the task otherwise.
    n_query : int, (int, int) or None, default=15
        At most this many query rows, counted as `n_shot` is. None: all other rows.
    n_episodes : int, default=200
        Number of episodes, which is the number of splits.
    labels : {"local", "shared"}, default="local"
        "local" counts rows class by class. "shared" counts them task by task whatever
        their label, for labels that mean the same in every task, and for numbers that
        are whole and so look like labels.
    support_order : {"random", "first"}, default="random"
        "first" takes the first rows as support, and only later ones as query.
    small_tasks : {"raise", "shrink", "drop"}, default="raise"
        Where a class or task has no `n_shot` rows and one more: refuse, use fewer
        support rows, or leave it out.
    random_state : int, RandomState or None, default=None
        Seed of the draws; an int gives the same episodes each time.

    Raises
    ------
    TypeError, ValueError
        If a parameter has a value that is not listed above.

    See Also
    --------
    TaskKFold : Folds of tasks, for estimators that learn across tasks.
    make_episode_scorer : The same protocol as `scoring=` for meta-learners.

    Notes
    -----
    `groups` are handed over by `cross_val_score(..., groups=task_ids)`, or, with
    scikit-learn's metadata routing on, by `params={"groups": task_ids}`.

    Examples
    --------
    Digits told apart from one drawing each, by a classifier that knows nothing else:

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklmeta.model_selection import EpisodicSplit
    >>> X, y = load_digits(return_X_y=True)
    >>> episodes = EpisodicSplit(n_way=5, n_shot=1, n_episodes=20, random_state=0)
    >>> scores = cross_val_score(LogisticRegression(), X, y, cv=episodes)
    >>> scores.shape
    (20,)
    """

    # By default scikit-learn's cross-validators mark `groups` as unused.
    __metadata_request__split: ClassVar[dict[str, bool]] = {"groups": True}

    def __init__(
        self,
        n_way: Count | None = None,
        *,
        n_shot: Count = 1,
        n_query: Count | None = 15,
        n_episodes: int = 200,
        labels: str = "local",
        support_order: str = "random",
        small_tasks: str = "raise",
        random_state: int | RandomState | None = None,
    ):
        check_integer("n_episodes", n_episodes, 1)
        check_choice("labels", labels, ("local", "shared"))
        self.n_way = n_way
        self.n_shot = n_shot
        self.n_query = n_query
        self.n_episodes = n_episodes
        self.labels = labels
        self.support_order = support_order
        self.small_tasks = small_tasks
        self.random_state = random_state
        self._protocol(0, n_episodes)  # checks the rest

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Generate the positions of support and query rows.

        Parameters
        ----------
        X : array-like of shape (n_rows, ...)
            Rows; only their number is used.
        y : array-like of shape (n_rows,) or (n_rows, n_outputs)
            Labels or numbers to predict.
        groups : array-like of shape (n_rows,), default=None
            The task of each row.

        Yields
        ------
        train : ndarray
            Positions of the support rows, class after class.
        test : ndarray
            Positions of the query rows, class after class.

        Raises
        ------
        TypeError
            If X is tasks.
        ValueError
            If `y` is missing, or classes or tasks are too few or too small; the
            message names them.
        """
        if is_tasks(X):
            raise TypeError(
                f"EpisodicSplit splits rows into support and query, got a "
                f"{type(X).__name__} of tasks. Split tasks with TaskKFold and judge "
                "meta-learners with make_episode_scorer; or give rows: "
                "split(X, y, groups=task_ids)."
            )
        if y is None:
            raise ValueError(
                "EpisodicSplit draws rows by what they are labelled, so it needs y: "
                "split(X, y)."
            )
        y = _complete_targets(y)
        check_consistent_length(X, y, groups)
        by_class = self.labels == "local" and not _is_continuous(y)
        tasks, seed = self._tasks(y, groups, by_class), self._seed()
        try:
            drawn, order = self._drawn(tasks, by_class, seed)
        except ValueError as error:
            if by_class and y.dtype.kind in "iuf":
                raise ValueError(f"{error} {NUMBERS_HINT}") from error
            raise
        rows = np.asarray(drawn.rows.X)[:, 0]  # the positions, see _tasks
        for episode in order:
            yield rows[drawn.support_rows(episode)], rows[drawn.query_rows(episode)]

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of episodes.

        Parameters
        ----------
        X : object, default=None
            Ignored.
        y : object, default=None
            Ignored.
        groups : object, default=None
            Ignored.

        Returns
        -------
        n_splits : int
            The number of episodes.
        """
        return self.n_episodes

    def _tasks(
        self, y: NDArray[Any], groups: Any, by_class: bool
    ) -> TaskSet | ClassPool:
        """Return tasks whose only feature is the position of each row."""
        positions = np.arange(len(y))[:, None]
        if groups is not None:
            labels: Any = "local" if by_class else "shared"
            return TaskSet.from_arrays(positions, y, groups, labels=labels)
        if not by_class:
            return TaskSet.from_offsets(positions, y, [0, len(y)])
        pool = ClassPool(positions, y)
        least = 2 if self.n_way is None else bounds(self.n_way)[0]
        if len(pool) < least and self.small_tasks == "raise":
            raise ValueError(
                f"An episode needs at least {least} classes (n_way={self.n_way}), and "
                f"y has {len(pool)}. Lower n_way, or give rows of more classes. "
                + NUMBERS_HINT
            )
        return pool

    def _drawn(
        self, tasks: TaskSet | ClassPool, by_class: bool, seed: int
    ) -> tuple[DrawnEpisodes, NDArray[np.intp]]:
        """Draw enough episodes; also return which to use, in order."""
        if isinstance(tasks, ClassPool):
            drawn = self._protocol(seed, self.n_episodes).draw(tasks, by_class)
            return drawn, np.arange(len(drawn))
        rounds = ceil(self.n_episodes / len(tasks))
        drawn = self._protocol(seed, rounds).draw(tasks, by_class)
        if len(drawn) < self.n_episodes:  # small tasks were left out
            rest: Any = tasks[np.unique(drawn.task)]
            rounds = ceil(self.n_episodes / len(rest))
            drawn = self._protocol(seed, rounds).draw(rest, by_class)
        # Round after round, each in the same random order of the tasks.
        used, task = np.unique(drawn.task, return_inverse=True)
        rank = np.random.RandomState(seed).permutation(len(used))
        return drawn, np.lexsort((rank[task], drawn.number))[: self.n_episodes]

    def _protocol(self, seed: int, n_episodes: int) -> EpisodeProtocol:
        return EpisodeProtocol(
            n_shot=self.n_shot,
            n_query=self.n_query,
            n_way=self.n_way,
            n_episodes=n_episodes,
            support_order=self.support_order,
            small_tasks=self.small_tasks,
            random_state=seed,
        )

    def _seed(self) -> int:
        state = check_random_state(self.random_state)  # refuses what is no seed
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(state.randint(LARGEST_SEED))


def _complete_targets(y: Any) -> NDArray[Any]:
    """Return targets as an array, refusing missing ones."""
    y = as_targets(y, "")
    missing = np.flatnonzero(pd.isna(y).reshape(len(y), -1).any(1))
    if len(missing):
        raise ValueError(
            f"y is missing (NaN or None) in {len(missing)} rows, first in row "
            f"{missing[0]}; drop those rows first."
        )
    return y


def _is_continuous(y: NDArray[Any]) -> bool:
    return type_of_target(y, input_name="y").startswith("continuous")
