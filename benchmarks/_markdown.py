"""Markdown that all sections of RESULTS.md are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _report import format_interval

Record = dict[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def interval(value: dict[str, float], scale: float = 1, digits: int = 2) -> str:
    """Return mean and half width."""
    return format_interval(value, scale, digits).replace("+-", "±")


def origin(record: Record) -> str:
    """Return where, when and how a record was made."""
    machine = record["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores"
    if machine["gpu"]:
        where += f", {machine['gpu']}"
    if machine.get("load_at_start") is not None:
        where += f" (load {machine['load_at_start']} when it began)"
    return (
        f"Seed {record['seed']}, {record['wall_time_s']:,.0f} s in all on "
        f"{_threads(machine)} of {where}; torch "
        f"{machine['torch']}, Python {machine['python']}; {record['date']}."
    )


def where(record: Record) -> str:
    """Return the processor, or the GPU, that a record was made on."""
    machine = record["machine"]
    return machine["gpu"] or f"{machine['cpu']}, {_threads(machine)}"


def _threads(machine: Mapping[str, Any]) -> str:
    n_threads = machine["threads"]
    return f"{n_threads} thread{'s' if n_threads > 1 else ''}"


def bullets(lines: Iterable[str]) -> str:
    """Return a Markdown list."""
    return "".join(f"- {line.rstrip('.')}.\n" for line in lines)
