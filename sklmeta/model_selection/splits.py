"""Splitters over tasks, so that a fold never shares a task with its training set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.model_selection import BaseCrossValidator, KFold

from sklmeta._pooling import group_codes
from sklmeta.tasks import TaskDistribution, is_tasks

__all__ = ["TaskKFold"]


class TaskKFold(BaseCrossValidator):
    """K folds of whole tasks.

    Works on every form of tasks: the items of a `TaskSet` or a list of tasks, the
    classes of a `ClassPool`, and in long format the `groups`, in order of their first
    appearance. The same tasks make the same folds in every form. With tasks as X,
    `groups` are families of tasks that stay together.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=False
        Whether to shuffle the tasks before they are cut into folds.
    random_state : int, RandomState or None, default=None
        Seed of the shuffling; only with `shuffle=True`.

    Raises
    ------
    ValueError
        If `n_splits` is below 2, or `random_state` is given without `shuffle`.

    See Also
    --------
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

    # By default scikit-learn's cross-validators mark `groups` as unused.
    __metadata_request__split: ClassVar[dict[str, bool]] = {"groups": True}

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = False,
        random_state: int | RandomState | None = None,
    ):
        KFold(n_splits, shuffle=shuffle, random_state=random_state)  # checks them
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
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
            If there are fewer tasks than folds, or rows come without `groups`.
        """
        unit_of_item = _units(X, groups)
        n_units = int(unit_of_item.max(initial=-1)) + 1
        if n_units < self.n_splits:
            raise ValueError(
                f"Cannot make n_splits={self.n_splits} folds of {n_units} tasks; lower "
                "n_splits or give more tasks."
            )
        folds = KFold(
            self.n_splits, shuffle=self.shuffle, random_state=self.random_state
        )
        for _, test in folds.split(np.zeros(n_units)):
            is_test = np.isin(unit_of_item, test)
            yield np.flatnonzero(~is_test), np.flatnonzero(is_test)

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


def _units(X: Any, groups: Any) -> NDArray[np.intp]:
    """Return for each item the number of its task or group, which is never cut."""
    if isinstance(X, TaskDistribution):
        raise TypeError(
            f"A {type(X).__name__} draws fresh tasks whenever asked, so there is "
            "nothing to split. Draw some to be split: X.sample(n_tasks, random_state)."
        )
    n_items = X.shape[0] if hasattr(X, "shape") else len(X)
    if groups is not None:
        return group_codes(groups, n_items)[0]
    if not is_tasks(X):
        raise ValueError(
            f"Splitting the rows of a {type(X).__name__} into folds of tasks needs "
            "groups, the task of each row. Inside scikit-learn's searches, call "
            "sklearn.set_config(enable_metadata_routing=True) and "
            "fit(X, y, groups=task_ids); or give a TaskSet or a ClassPool as X."
        )
    return np.arange(n_items)
