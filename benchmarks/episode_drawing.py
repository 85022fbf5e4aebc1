"""Episodes drawn per second: 5-way 1-shot, 15 queries a way, on one thread.

The pool has the size of Omniglot's background set with rotations: 4,800 classes of 20
grey images of 28 x 28, as uint8. *Indices* is the drawing alone; *gathered* also takes
the images out of the pool as floats in [0, 1], ready for a backbone.

    python benchmarks/episode_drawing.py

writes ``benchmarks/results/episode_drawing.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec, RowPool

RESULTS = Path(__file__).parent / "results" / "episode_drawing.json"
N_CLASSES, N_ROWS, SIDE = 4_800, 20, 28
SPEC = EpisodeSpec(n_shot=1, n_query=15, n_way=5, per_class=True)
BATCH_SIZES = (1, 16, 64, 256)


def cpu_model() -> str:
    """Return the processor's name as the operating system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def make_sampler(seed: int) -> tuple[EpisodeSampler, torch.Generator]:
    """Return a sampler over noise images, and the generator that made them."""
    generator = torch.Generator().manual_seed(seed)
    n_rows = N_CLASSES * N_ROWS
    images = torch.randint(
        256, (n_rows, SIDE, SIDE, 1), dtype=torch.uint8, generator=generator
    )
    offsets = torch.arange(0, n_rows + 1, N_ROWS)
    pool = RowPool.from_classes(images, offsets, names=range(N_CLASSES))
    return EpisodeSampler(pool, SPEC), generator


def episodes_per_second(
    sampler: EpisodeSampler,
    generator: torch.Generator,
    batch_size: int,
    seconds: float,
    *,
    gather: bool,
) -> dict[str, float]:
    """Draw for `seconds`; return the rate over all batches and of the median one."""
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 20 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        index = sampler.draw(batch_size, generator)
        if gather:
            sampler.gather(index)
        times.append(time.perf_counter() - start)
    times = times[5:]  # the first ones warm up
    return {
        "mean": round(batch_size * len(times) / sum(times)),
        "median": round(batch_size / statistics.median(times)),
    }


def run(seed: int, seconds: float) -> dict:
    """Measure every batch size, with and without images; return the record."""
    torch.set_num_threads(1)
    begin = time.perf_counter()
    sampler, generator = make_sampler(seed)
    rows = []
    for batch_size in BATCH_SIZES:
        row: dict = {"batch_size": batch_size}
        for kind in ("indices", "gathered"):
            row[kind] = episodes_per_second(
                sampler, generator, batch_size, seconds, gather=kind == "gathered"
            )
        rows.append(row)
    return {
        "benchmark": "episode_drawing",
        "task": (
            f"5-way 1-shot 15-query from {N_CLASSES} classes x {N_ROWS} uint8 images "
            f"of {SIDE} x {SIDE}"
        ),
        "unit": "episodes per second",
        "seed": seed,
        "results": rows,
        "machine": {
            "cpu": cpu_model(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "torch": torch.__version__,
        "python": platform.python_version(),
        "wall_time_s": round(time.perf_counter() - begin, 1),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> None:
    """Print the table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    record = run(arguments.seed, arguments.seconds)
    print(f"{record['task']}; {record['machine']['cpu']}, one thread")
    print(
        f"{'batch':>6} {'indices/s':>12} {'gathered/s':>12}   (mean over all batches)"
    )
    for row in record["results"]:
        indices, gathered = row["indices"]["mean"], row["gathered"]["mean"]
        print(f"{row['batch_size']:>6} {indices:>12,} {gathered:>12,}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
