"""Splitters over tasks, so that a fold never shares a task with its training set.

Every splitter here works on the *units* of its input, which are never cut: the tasks of
a `TaskSet` or a list, the classes of a `ClassPool`, the groups of rows in long format.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.model_selection import (
    BaseCrossValidator,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
)

from sklmeta._parameters import check_choice, check_integer
from sklmeta.model_selection._units import Units, units_of
from sklmeta.tasks import ClassPool

__all__ = ["LeaveOneTaskOut", "TaskKFold", "TaskShuffleSplit"]

_FAMILIES = ("stratify", "together")
Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


class TaskSplitter(BaseCrossValidator):
    """What all splitters over tasks share; they say how to fold units."""

    # By default scikit-learn's cross-validators mark `groups` as unused.
    __metadata_request__split: ClassVar[dict[str, bool]] = {"groups": True}
    n_splits: int
    families = "stratify"

    @abstractmethod
    def _unit_folds(self, units: Units) -> Iterator[Fold]:
        """Generate the numbers of training and test units."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[Fold]:
        """Generate the positions of training and test items.

        Parameters
        ----------
        X : TaskSet, ClassPool, list of tasks or array-like of shape (n_rows, ...)
            Tasks, or rows in long format.
        y : array-like, default=None
            Ignored.
        groups : array-like of shape (n_items,), default=None
            The task of each row, needed in long format; with tasks as X, a family
            label for each task.

        Yields
        ------
        train : ndarray
            Positions of the training tasks, or of their rows in long format.
        test : ndarray
            Positions of the test tasks, or of their rows.

        Raises
        ------
        TypeError
            If X is a TaskDistribution, which has no items.
        ValueError
            If there are too few tasks, rows come without `groups`, `groups` has
            another length than X, a fold of a ClassPool would have one class, or
            ``families="together"`` comes without families or without tasks as X.
        """
        units = units_of(X, groups, self.families)
        for fold in self._unit_folds(units):
            train, test = (np.flatnonzero(np.isin(units.of_item, own)) for own in fold)
            if isinstance(X, ClassPool) and min(len(train), len(test)) < 2:
                raise ValueError(_one_class(self, len(X)))
            yield train, test

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds.

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
            The number of folds.
        """
        return self.n_splits


class TaskKFold(TaskSplitter):
    """K folds of whole tasks.

    Works on every form of tasks: the items of a `TaskSet` or a list of tasks, the
    classes of a `ClassPool`, and in long format the `groups`, in order of their first
    appearance. The same tasks make the same folds in every form. With tasks as X,
    `groups` are family labels of the tasks.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=False
        Whether to shuffle the tasks before they are cut into folds.
    random_state : int, RandomState or None, default=None
        Seed of the shuffling; only with `shuffle=True`.
    families : {"stratify", "together"}, default="stratify"
        What family labels are for: every fold gets its share of each family, as
        scikit-learn's `StratifiedKFold` deals out classes; or a family is never cut,
        to judge on families that are new, which needs tasks as X and `groups`.

    Raises
    ------
    ValueError
        If `n_splits` is below 2, `random_state` is given without `shuffle`, or
        `families` is none of the two.

    See Also
    --------
    TaskShuffleSplit : Random splits of tasks.
    LeaveOneTaskOut : As many folds as tasks.
    EpisodicSplit : Splits of rows into support and query.
    sklearn.model_selection.KFold : Folds of rows.

    Notes
    -----
    In long format scikit-learn's searches hand `groups` to the splitter and to the
    meta-learner only after `sklearn.set_config(enable_metadata_routing=True)`.

    Examples
    --------
    >>> from sklmeta.model_selection import TaskKFold
    >>> stores = ["Lyon", "Lyon", "Nice", "Nice", "Lyon"]
    >>> for train, test in TaskKFold(2).split([[0]] * 5, groups=stores):
    ...     print(train, test)
    [2 3] [0 1 4]
    [0 1 4] [2 3]
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = False,
        random_state: int | RandomState | None = None,
        families: str = "stratify",
    ):
        KFold(n_splits, shuffle=shuffle, random_state=random_state)  # checks them
        check_choice("families", families, _FAMILIES)
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state
        self.families = families

    def _unit_folds(self, units: Units) -> Iterator[Fold]:
        if len(units) < self.n_splits:
            raise ValueError(
                f"Cannot make n_splits={self.n_splits} folds of {len(units)} "
                f"{units.what}; lower n_splits or give more {units.what}."
            )
        settings = {"shuffle": self.shuffle, "random_state": self.random_state}
        rows = np.zeros(len(units))
        if units.families is None:
            yield from KFold(self.n_splits, **settings).split(rows)
            return
        self._check_families(units.families, units.names)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class in y")
            folds = StratifiedKFold(self.n_splits, **settings)
            stratified = list(folds.split(rows, units.families))
        yield from stratified

    def _check_families(self, families: NDArray[np.intp], names: list[Any]) -> None:
        """Say in our words which families are too small to be dealt out."""
        sizes = np.bincount(families)
        if sizes.max() < self.n_splits:
            raise ValueError(
                f"Cannot give each of n_splits={self.n_splits} folds its share of any "
                f"family: the largest, {names[sizes.argmax()]!r}, has {sizes.max()} "
                "tasks. Lower n_splits, set families='together', or leave groups out."
            )
        if sizes.min() < self.n_splits:
            warnings.warn(
                f"Family {names[sizes.argmin()]!r} has only {sizes.min()} tasks, fewer "
                f"than n_splits={self.n_splits}: some folds have none of it.",
                stacklevel=2,
            )


class TaskShuffleSplit(TaskSplitter):
    """Random splits of whole tasks into training and test tasks.

    Works on every form of tasks, as `TaskKFold` does; the test tasks of several splits
    may overlap. Positions are ascending within each split.

    Parameters
    ----------
    n_splits : int, default=10
        Number of splits, at least 1.
    test_size : float or int, default=None
        Share of the tasks to test on (rounded up), or their number. None: all that
        are not trained on; 0.1 if `train_size` is None too.
    train_size : float or int, default=None
        Share of the tasks to train on (rounded down), or their number. None: all that
        are not tested on.
    random_state : int, RandomState or None, default=None
        Seed of the draws; an int gives the same splits each time.
    families : {"stratify", "together"}, default="stratify"
        What family labels are for (`groups` with tasks as X): every split gets its
        share of each family; or a family is never cut, and the sizes count families
        (needs `groups`).

    Raises
    ------
    TypeError, ValueError
        If `n_splits` is no int of at least 1, or `families` is none of the two. The
        sizes are checked when splitting.

    See Also
    --------
    TaskKFold : Folds whose test tasks do not overlap.
    sklearn.model_selection.ShuffleSplit : Random splits of rows.

    Examples
    --------
    >>> from sklmeta.datasets import make_sinusoids
    >>> from sklmeta.model_selection import TaskShuffleSplit
    >>> tasks = make_sinusoids(n_tasks=6, random_state=0)
    >>> splitter = TaskShuffleSplit(2, test_size=2, random_state=0)
    >>> for train, test in splitter.split(tasks):
    ...     print(train, test)
    [0 1 3 4] [2 5]
    [0 2 4 5] [1 3]
    """

    def __init__(
        self,
        n_splits: int = 10,
        *,
        test_size: float | int | None = None,
        train_size: float | int | None = None,
        random_state: int | RandomState | None = None,
        families: str = "stratify",
    ):
        check_integer("n_splits", n_splits, 1)
        check_choice("families", families, _FAMILIES)
        self.n_splits = n_splits
        self.test_size = test_size
        self.train_size = train_size
        self.random_state = random_state
        self.families = families

    def _unit_folds(self, units: Units) -> Iterator[Fold]:
        kind = ShuffleSplit if units.families is None else StratifiedShuffleSplit
        splits = kind(
            self.n_splits,
            test_size=self.test_size,
            train_size=self.train_size,
            random_state=self.random_state,
        )
        if units.families is not None:
            self._check_families(units.families, units.names)
        try:
            folds = list(splits.split(np.zeros(len(units)), units.families))
        except ValueError as error:
            by = "" if units.families is None else " by their families"
            raise ValueError(
                f"Cannot split {len(units)} {units.what}{by}: {error}"
            ) from error
        yield from folds

    def _check_families(self, families: NDArray[np.intp], names: list[Any]) -> None:
        """Say in our words which family cannot be on both sides."""
        sizes = np.bincount(families)
        if sizes.min() < 2:
            raise ValueError(
                f"Family {names[sizes.argmin()]!r} has one task, which cannot be "
                "trained on and tested on alike. Give it another family, set "
                "families='together', or leave groups out."
            )


class LeaveOneTaskOut(TaskSplitter):
    """As many folds as tasks, each with one task to test on.

    Works on a `TaskSet`, a list of tasks and in long format, where `groups` are the
    tasks. A `ClassPool` is refused: one class alone cannot be told from another, so
    use `TaskKFold` there with two classes or more in each fold.

    See Also
    --------
    TaskKFold : Fewer folds, which is far quicker.
    sklearn.model_selection.LeaveOneGroupOut : With tasks as X and family labels as
        groups, leaves out one family at a time.

    Notes
    -----
    With tasks as X, family labels (`groups`) make no difference.

    Examples
    --------
    >>> from sklmeta.model_selection import LeaveOneTaskOut
    >>> stores = ["Lyon", "Lyon", "Nice", "Nice", "Lyon"]
    >>> splitter = LeaveOneTaskOut()
    >>> splitter.get_n_splits([[0]] * 5, groups=stores)
    2
    >>> for train, test in splitter.split([[0]] * 5, groups=stores):
    ...     print(train, test)
    [2 3] [0 1 4]
    [0 1 4] [2 3]
    """

    def _unit_folds(self, units: Units) -> Iterator[Fold]:
        if len(units) < 2:
            raise ValueError(
                f"Cannot leave one task out of {len(units)}; give at least 2 tasks."
            )
        yield from KFold(len(units)).split(np.zeros(len(units)))

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds, which is the number of tasks.

        Parameters
        ----------
        X : TaskSet, list of tasks or array-like of shape (n_rows, ...), default=None
            Tasks, or rows in long format; needed.
        y : object, default=None
            Ignored.
        groups : array-like of shape (n_items,), default=None
            The task of each row, needed in long format.

        Returns
        -------
        n_splits : int
            The number of tasks.

        Raises
        ------
        ValueError
            If neither tasks nor groups are given.
        """
        if X is None and groups is None:
            raise ValueError(
                "The number of folds is the number of tasks, so X (tasks), or X and "
                "groups (rows and the task of each), must be given."
            )
        return len(units_of(groups if X is None else X, groups, self.families))


def _one_class(splitter: TaskSplitter, n_classes: int) -> str:
    return (
        f"{type(splitter).__name__} puts one of {n_classes} classes alone into a "
        "fold, where nothing can be told from it: episodes need two classes at least. "
        "Use TaskKFold with fewer folds, or TaskShuffleSplit with a larger test_size."
    )
