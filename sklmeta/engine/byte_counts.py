"""Numbers of bytes: as users write and read them, and how many are free."""

from __future__ import annotations

import os
import re
import sys
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

__all__ = ["as_bytes", "free_bytes", "shown_bytes"]

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY_UNITS = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def as_bytes(limit: Any) -> int | None:
    """Return a limit such as ``"4GB"`` in bytes.

    Parameters
    ----------
    limit : int, str or None
        Bytes; or a number with a unit: B, kB, MB, GB, TB, or KiB, MiB, GiB, TiB.

    Returns
    -------
    int or None
        None where that was given.

    Raises
    ------
    TypeError, ValueError
        If it is something else, or not above 0.

    Examples
    --------
    >>> from sklmeta.engine.byte_counts import as_bytes
    >>> as_bytes("1.5 GB")
    1500000000
    >>> as_bytes("2MiB")
    2097152
    """
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, Integral | str):
        raise TypeError(
            "memory_limit must be a number of bytes, a string such as '4GB', or None; "
            f"got {limit!r}."
        )
    n_bytes = _parsed(limit) if isinstance(limit, str) else int(limit)
    if n_bytes is None or n_bytes < 1:
        raise ValueError(
            "memory_limit must be a number of bytes above 0, or a string such as "
            f"'500MB' or '4GiB'; got {limit!r}."
        )
    return n_bytes


def _parsed(text: str) -> int | None:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*?)B?\s*", text, re.IGNORECASE)
    factor = None if found is None else (UNITS | BINARY_UNITS).get(found[2].upper())
    return None if found is None or factor is None else int(float(found[1]) * factor)


def shown_bytes(n_bytes: float) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> from sklmeta.engine.byte_counts import shown_bytes
    >>> shown_bytes(2_340_000)
    '2.34 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


# What is free -----------------------------------------------------------------------


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that are free on a device, None where nobody tells."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device)
        return free + cached - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    found = [n for n in (_free_of_system(), _free_of_group()) if n is not None]
    return min(found, default=None)


def _free_of_system() -> int | None:
    if sys.platform != "linux":
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text("/proc/meminfo"))
    return None if found is None else int(found[1]) * 1024


def _free_of_group() -> int | None:
    """Return what the container's control group leaves, None without a bound."""
    folder = "/sys/fs/cgroup"
    names = ("memory.max", "memory.current", "memory.stat")
    most, used, stat = (_text(f"{folder}/{name}") for name in names)
    if not (most.strip().isdigit() and used.strip().isdigit()):
        return None
    cached = re.search(r"^inactive_file (\d+)", stat, re.MULTILINE)
    return int(most) - int(used) + (0 if cached is None else int(cached[1]))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
