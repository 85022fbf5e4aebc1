"""Rows of one drawn episode, in the container of the tasks."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from sklmeta._pooling import take_rows
from sklmeta.model_selection._protocol import DrawnEpisodes

__all__ = ["episode_rows"]

Rows = tuple[Any, NDArray[Any]]


def episode_rows(drawn: DrawnEpisodes, episode: int) -> tuple[Rows, Rows]:
    """Return the support rows (X, y) and the query rows (X, y) of one episode."""
    if not 0 <= episode < len(drawn):
        raise ValueError(
            f"episode={episode} is not among the {len(drawn)} episodes drawn; give one "
            f"of 0 to {len(drawn) - 1}."
        )
    rows = (drawn.support_rows(episode), drawn.query_rows(episode))
    X, y = drawn.rows.X, drawn.y
    support, query = ((take_rows(X, own), y[own]) for own in rows)
    return support, query
