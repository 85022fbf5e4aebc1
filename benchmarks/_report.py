"""What all benchmarks share: machine, intervals, and results as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import ArrayLike
from scipy import stats

from sklmeta._parameters import resolve_device

RESULTS = Path(__file__).parent / "results"


def cpu_model() -> str:
    """Return the processor's name as the operating system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """Return what decides how fast this machine is, and nothing that names it."""
    on_gpu = device.startswith("cuda")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }


def mean_interval(values: ArrayLike, level: float = 0.95) -> dict[str, float]:
    """Return the mean of values, one per task or episode, and its t interval."""
    values = np.asarray(values, dtype=float)
    mean, n = float(values.mean()), len(values)
    half = float("nan")
    if n > 1:
        standard_error = values.std(ddof=1) / n**0.5
        half = float(stats.t.ppf((1 + level) / 2, n - 1) * standard_error)
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def format_interval(
    interval: dict[str, float], scale: float = 1, digits: int = 2
) -> str:
    """Return an interval as text, such as ``98.76 +- 0.12``."""
    half = (interval["high"] - interval["low"]) / 2
    return f"{interval['mean'] * scale:.{digits}f} +- {half * scale:.{digits}f}"


def add_device_option(parser: argparse.ArgumentParser, default: str = "auto") -> None:
    """Add the option of benchmarks that can run on a GPU, too."""
    parser.add_argument(
        "--device",
        type=lambda name: str(resolve_device(name)),
        default=default,
        help='"cpu", "cuda", or "auto": a GPU where there is one',
    )
    parser.add_argument(
        "--note", action="append", default=[], help="what else the record is to say"
    )


def add_common_options(parser: argparse.ArgumentParser, threads: int = 1) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=threads, help="of torch")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="folder of the JSON results"
    )


@dataclass
class Benchmark:
    """A run of a benchmark: starts the clock, writes the record.

    The record of a run on a GPU has a name of its own, which ends in ``_gpu``.
    """

    name: str
    seed: int
    threads: int
    output: Path = RESULTS
    device: str = "cpu"
    start: float = field(default_factory=time.perf_counter)
    load: float | None = None

    def __post_init__(self) -> None:
        """Compute with the threads that are going to be reported."""
        torch.set_num_threads(self.threads)
        if self.device.startswith("cuda"):
            self.name += "_gpu"
        if hasattr(os, "getloadavg"):
            # How busy others keep the machine decides how far to trust a time.
            self.load = round(os.getloadavg()[0], 1)

    def write(
        self, *, parameters: dict[str, Any], results: Any, deviations: Any = ()
    ) -> Path:
        """Write ``<output>/<name>.json`` and say where."""
        record = {
            "benchmark": self.name,
            "seed": self.seed,
            "date": datetime.now(UTC).date().isoformat(),
            "wall_time_s": round(time.perf_counter() - self.start, 1),
            "machine": {**describe_machine(self.device), "load_at_start": self.load},
            "parameters": parameters,
            "deviations": list(deviations),
            "results": results,
        }
        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / f"{self.name}.json"
        text = json.dumps(_rounded(record), indent=2, allow_nan=False)
        path.write_text(text + "\n")
        print(f"{record['wall_time_s']} s in all; written to {path}")
        return path


def _rounded(value: Any) -> Any:
    """Return JSON values with six significant digits, NaN as null."""
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
