"""What a fold of tasks is made of: tasks, classes, or families that stay together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklmeta._pooling import group_codes
from sklmeta.tasks import ClassPool, TaskDistribution, is_domains, is_tasks

__all__ = ["Units", "units_of"]


@dataclass(frozen=True)
class Units:
    """What folds are made of: tasks, or families of tasks that stay together.

    Attributes
    ----------
    of_item : ndarray of shape (n_items,)
        Number of the unit that each item (task, class or row) belongs to.
    what : str
        What they are called in messages.
    families : ndarray of shape (n_units,), or None
        Number of each unit's family, of which every fold is to get its share.
    names : list
        Names of the families.
    """

    of_item: NDArray[np.intp]
    what: str = "tasks"
    families: NDArray[np.intp] | None = None
    names: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return int(self.of_item.max(initial=-1)) + 1


def units_of(X: Any, groups: Any, families: str) -> Units:
    """Return what folds are made of, and which items belong to each."""
    if isinstance(X, TaskDistribution):
        raise TypeError(
            f"A {type(X).__name__} draws fresh tasks whenever asked, so there is "
            "nothing to split. Draw some to be split: X.sample(n_tasks, random_state)."
        )
    if is_domains(X):
        raise TypeError(
            f"A {type(X).__name__} of domains could be split into folds of domains or "
            "of their tasks. Join it: ClassPool.from_domains or TaskSet.from_domains "
            "of a dict. TaskKFold(families='together') with groups=tasks.domains then "
            "keeps domains whole."
        )
    n_items = X.shape[0] if hasattr(X, "shape") else len(X)
    if not is_tasks(X):
        if groups is None:
            raise ValueError(
                f"Splitting the rows of a {type(X).__name__} into folds of tasks needs "
                "groups, the task of each row. Inside scikit-learn's searches, call "
                "sklearn.set_config(enable_metadata_routing=True) and "
                "fit(X, y, groups=task_ids); or give a TaskSet or a ClassPool as X."
            )
        if families == "together":
            raise ValueError(
                "families='together' splits tasks by their families, and with rows as "
                "X groups are the task of each row. Give tasks as X, such as "
                "TaskSet.from_arrays(X, y, groups), and their families as groups."
            )
        return Units(group_codes(groups, n_items)[0])
    what = "classes" if isinstance(X, ClassPool) else "tasks"
    if groups is None:
        if families == "together":
            raise ValueError(
                "families='together' keeps families whole, which groups= tells, and "
                f"there are none. Give groups, a family label for each of the {what}, "
                "or leave families out."
            )
        return Units(np.arange(n_items), what)
    if np.shape(groups) != (n_items,):
        raise ValueError(
            f"groups has shape {np.shape(groups)}, expected ({n_items},): with tasks "
            "as X, groups are family labels, one for each task. Leave them out if the "
            "tasks have no families."
        )
    codes, names = group_codes(groups, n_items)
    if families == "together":
        return Units(codes, f"families of {what}")
    return Units(np.arange(n_items), what, codes, names)
