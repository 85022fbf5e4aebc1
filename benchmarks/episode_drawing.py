"""Episodes drawn per second: 5-way 1-shot, 15 queries a way, on one thread.

The pool has the size of Omniglot's background set with rotations: 4,800 classes of 20
grey images of 28 x 28, as uint8. *Indices* is the drawing alone; *gathered* also takes
the images out of the pool as floats in [0, 1], ready for a backbone.

    python benchmarks/episode_drawing.py

writes ``benchmarks/results/episode_drawing.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from _report import Benchmark, add_common_options

from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec, RowPool

N_CLASSES, N_ROWS, SIDE = 4_800, 20, 28
SPEC = EpisodeSpec(n_shot=1, n_query=15, n_way=5, per_class=True)
BATCH_SIZES = (1, 16, 64, 256)


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


def measure(seed: int, seconds: float) -> list[dict[str, Any]]:
    """Measure every batch size, with and without images."""
    sampler, generator = make_sampler(seed)
    rows = []
    for batch_size in BATCH_SIZES:
        row: dict[str, Any] = {"batch_size": batch_size}
        for kind in ("indices", "gathered"):
            row[kind] = episodes_per_second(
                sampler, generator, batch_size, seconds, gather=kind == "gathered"
            )
        rows.append(row)
    return rows


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the record."""
    args = parse(argv)
    benchmark = Benchmark("episode_drawing", args.seed, args.threads, args.output)
    rows = measure(args.seed, args.seconds)
    print(f"{'batch':>6} {'indices/s':>12} {'gathered/s':>12}  (mean over all batches)")
    for row in rows:
        indices, gathered = row["indices"]["mean"], row["gathered"]["mean"]
        print(f"{row['batch_size']:>6} {indices:>12,} {gathered:>12,}")
    benchmark.write(
        parameters={
            "classes": N_CLASSES,
            "rows_per_class": N_ROWS,
            "image": [SIDE, SIDE],
            "ways": SPEC.n_way,
            "shots": SPEC.n_shot,
            "query_rows_per_class": SPEC.n_query,
            "seconds_per_figure": args.seconds,
        },
        results=rows,
    )


if __name__ == "__main__":
    main()
