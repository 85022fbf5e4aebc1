"""What an episode is made of: shots, ways, queries, and what to do with small tasks."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

__all__ = ["EpisodeSpec"]

Count: TypeAlias = int | tuple[int, int]


@dataclass(frozen=True)
class EpisodeSpec:
    """Shape of the episodes drawn from a pool of tasks.

    Parameters
    ----------
    n_shot : int or (int, int)
        Support rows: per class if `per_class`, else per task. A pair is an inclusive
        range from which each episode draws its own number.
    n_query : int, (int, int) or None, default=None
        At most this many query rows, counted as `n_shot` is. None: all other rows.
    n_way : int, (int, int) or None, default=None
        Classes of an episode, drawn at random from the task's; only with `per_class`.
        None: all classes of the task, and min(5, n_classes) of a class pool.
    per_class : bool, default=False
        Whether episodes are drawn class by class, for labels that mean something only
        inside their task.
    support_order : {"random", "first"}, default="random"
        "first": the support is the first `n_shot` rows, and only rows after it are
        query (per class with `per_class`). Fixed support rows win over it.
    small_tasks : {"shrink", "drop", "raise"}, default="shrink"
        What to do where `n_shot` leaves no query row, or where classes are missing for
        `n_way`: use smaller supports and fewer ways, leave such tasks (and classes)
        out, or refuse.

    Raises
    ------
    TypeError, ValueError
        Naming the parameter, what was got and what is expected.

    Examples
    --------
    >>> from sklmeta.engine.episodes import EpisodeSpec
    >>> EpisodeSpec(n_shot=(5, 10), n_query=10).n_shot
    (5, 10)
    """

    n_shot: Count
    n_query: Count | None = None
    n_way: Count | None = None
    per_class: bool = False
    support_order: Literal["random", "first"] = "random"
    small_tasks: Literal["shrink", "drop", "raise"] = "shrink"

    def __post_init__(self) -> None:
        """Check every value, and keep counts as plain int or tuple."""
        counts = {
            "n_shot": _checked_count("n_shot", self.n_shot, 1),
            "n_query": _checked_count("n_query", self.n_query, 1, optional=True),
            "n_way": _checked_count("n_way", self.n_way, 2, optional=True),
        }
        for name, value in counts.items():
            object.__setattr__(self, name, value)
        if self.n_way is not None and not self.per_class:
            raise ValueError(
                f"n_way={self.n_way} draws classes, for labels that mean something "
                "inside their task only: a ClassPool, or TaskSet(tasks, "
                "labels='local'). Leave n_way=None for shared labels and regression."
            )
        _check_choice("support_order", self.support_order, ("random", "first"))
        _check_choice("small_tasks", self.small_tasks, ("shrink", "drop", "raise"))


def bounds(
    count: Any, name: str = "A count", *, or_none: bool = False
) -> tuple[int, int]:
    """Return a count, as users give it, as its lowest and highest value.

    Raises
    ------
    TypeError
        If it is neither an integer nor a pair of them; `or_none` says that None is
        taken elsewhere.
    """
    pair = count if isinstance(count, (tuple, list)) else (count, count)
    if len(pair) != 2 or not all(map(_is_int, pair)):
        choices = "an int or a (low, high) pair of ints" + or_none * " or None"
        raise TypeError(f"{name} must be {choices}, got {count!r}.")
    return int(pair[0]), int(pair[1])


def _checked_count(
    name: str, value: Any, least: int, *, optional: bool = False
) -> Count | None:
    if value is None and optional:
        return None
    low, high = bounds(value, name, or_none=optional)
    if not least <= low <= high:
        raise ValueError(
            f"{name} must be at least {least}, and low <= high in a (low, high) "
            f"range; got {value!r}."
        )
    return (low, high) if isinstance(value, (tuple, list)) else low


def _is_int(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}."
        )
