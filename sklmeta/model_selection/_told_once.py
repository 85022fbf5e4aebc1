"""Warnings of metrics: one for many episodes, instead of one for each."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["gathered", "told_once"]

Texts = dict[tuple[str, type[Warning]], str]
_TEXTS: ContextVar[Texts | None] = ContextVar("what metrics warned of", default=None)


@contextmanager
def told_once(stacklevel: int) -> Iterator[None]:
    """Warn at the end, once for each metric and category, of what was gathered."""
    texts: Texts = {}
    token = _TEXTS.set(texts)
    try:
        yield
    finally:
        _TEXTS.reset(token)
    _tell(texts, stacklevel + 3)  # from within contextlib


@contextmanager
def gathered(metric: str) -> Iterator[None]:
    """Gather what a metric warns of, for `told_once`; in other processes, warn."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    told = _TEXTS.get()
    texts: Texts = {} if told is None else told
    for warning in caught:
        key = metric, warning.category
        texts.setdefault(
            key, f"metric {metric!r}, on one episode or more: {warning.message}"
        )
    if told is None:
        _tell(texts, 4)


def _tell(texts: Texts, stacklevel: int) -> None:
    for (_, category), text in texts.items():
        warnings.warn(text, category, stacklevel=stacklevel)
