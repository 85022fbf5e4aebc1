"""Errors that say where they happened."""

from __future__ import annotations

__all__ = ["renamed"]


def renamed(error: Exception, where: str) -> Exception:
    """Return an error of the same kind whose message begins with where it was."""
    try:
        return type(error)(f"{where}: {error}")
    except TypeError:  # made of something else than a message
        return RuntimeError(f"{where}: {type(error).__name__}: {error}")
