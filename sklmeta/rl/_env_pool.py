"""The environments that an agent holds open, and closes in the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch

from sklmeta.rl._batched import BatchedEnvs
from sklmeta.rl._simulators import TorchNoise
from sklmeta.rl.tasks import EnvTask

__all__ = ["EnvPool"]


class EnvPool:
    def __init__(self, vectorization: str, step_timeout: float | None) -> None:
        self.vectorization, self.step_timeout = vectorization, step_timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    @staticmethod
    def parts(tasks: Sequence[EnvTask]) -> Iterator[list[EnvTask]]:
        for start in range(0, len(tasks), 10_000):
            yield list(tasks[start : start + 10_000])

    @staticmethod
    def simulates(tasks: Sequence[EnvTask]) -> bool:
        return True

    def batched(
        self,
        tasks: Sequence[EnvTask],
        seed: int,
        device: torch.device,
        copies: int = 1,
    ) -> BatchedEnvs:
        tasks = [task for task in tasks for _ in range(copies)]
        first = tasks[0]
        generator = torch.Generator(device).manual_seed(seed)
        return first.env_fn.simulator(
            [task.kwargs for task in tasks],
            first.max_episode_steps,
            TorchNoise(generator),
            device,
        )
