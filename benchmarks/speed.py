"""Speed of meta-training: MAML on sinusoids and on images, ways side by side.

    python benchmarks/speed.py

Nets on rows: meta-updates per second through `fit`, against loops written with torch,
learn2learn and JAX, where these are installed (`_speed_sinusoid.py`); on one thread.
Convolutions: tasks per second against a loop written with torch (`_speed_conv.py`); on
all cores. All ways take turns in one process; medians. Writes
``results/speed_sinusoid.json`` and ``results/speed_convolution.json``.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import _speed_conv
import _speed_sinusoid
from _report import Benchmark, add_common_options, add_device_option


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=3000, help="per run of fit")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--only", choices=("sinusoid", "convolution"), help="leave out the other half"
    )
    parser.add_argument("--ways", nargs="+", help="of the sinusoid table; all")
    parser.add_argument("--conv-threads", type=int, default=os.cpu_count() or 1)
    add_device_option(parser, default="cpu")
    add_common_options(parser)
    return parser.parse_args(argv)


def show_sinusoid(row: dict[str, Any]) -> None:
    """Print a row of the sinusoid table."""
    bar = _speed_sinusoid.BARS.get(row["way"], {}).get(row["inner_steps"])
    print(
        f"{row['tasks']:>10} {row['inner_steps']:>2} steps {row['way']:>20} "
        f"{row['updates_per_s']:>8.1f} updates/s {row['ratio']:>6.2f} x plain loop"
        + (f", asked for {bar:g}" if bar else "")
        + (f"; compiled in {row['compile_s']:.1f} s" if row["compile_s"] else ""),
        flush=True,
    )


def show_convolution(row: dict[str, Any]) -> None:
    """Print a row of the convolution table."""
    print(
        f"{row['images']:>7} images {row['way']:>28} {row['threads']} threads "
        f"{row['tasks_per_s']:>7.2f} tasks/s {row['ratio']:>5.2f} x plain loop",
        flush=True,
    )


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the records."""
    args = parse(argv)
    if args.only != "convolution":
        benchmark = Benchmark(
            "speed_sinusoid", args.seed, args.threads, args.output, args.device
        )
        parameters = {
            "updates_per_fit": args.updates,
            "updates_per_loop": max(args.updates // 20, 1),
            "repeats": args.repeats,
        }
        found = _speed_sinusoid.rows(args, show_sinusoid)
        benchmark.write(parameters=parameters, results=found, deviations=args.note)
    if args.only != "sinusoid" and args.device == "cpu":
        benchmark = Benchmark(
            "speed_convolution", args.seed, args.conv_threads, args.output
        )
        together = argparse.Namespace(**{**vars(args), "threads": args.conv_threads})
        found = _speed_conv.rows(together)
        for row in found:
            show_convolution(row)
        parameters = {"repeats": args.repeats, "conv_threads": args.conv_threads}
        benchmark.write(parameters=parameters, results=found, deviations=args.note)


if __name__ == "__main__":
    main()
