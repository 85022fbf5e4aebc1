"""Time and memory of a meta-update as work grows: tasks, rows, inner steps, weights.

    python benchmarks/scaling.py [--plot]

Second-order MAML on sinusoids, the way that `fit` computes meta-updates by default
once it runs. One quantity grows at a time, the others stay at 16 tasks x (10 + 10)
rows, 5 inner steps and a 1-40-40-1 network. Time is processor time, the least of some
repeats, so that a busy machine disturbs it little; memory is the most that torch's
allocator had given out at a time during a meta-update. Inner steps are run with
``checkpoint_steps=True`` as well, and for a convolution net. Writes
``results/scaling.json``; ``--plot`` adds ``scaling.png`` beside it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _report import Benchmark, add_common_options
from torch import nn

from sklmeta.backbones import MLP, ConvNet
from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.memory import predicted_bytes
from sklmeta.engine.updates import EagerUpdate, make_update
from sklmeta.gradient import MAML

WARM_UP = 40  # nets on rows are recorded meanwhile
BUDGET = 0.4  # seconds of repeats of one measurement, and at least 3 repeats
WORSE = 1.15  # growth exponents above are explained


@dataclass(frozen=True)
class Work:
    """What one meta-update has to do."""

    tasks: int = 16
    rows: int = 10
    inner_steps: int = 5
    width: int = 40
    checkpoint_steps: bool = False
    images: bool = False


SWEEPS: dict[str, tuple[str, tuple[int, ...], Work]] = {
    "tasks": ("tasks", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), Work()),
    "rows": ("rows", (5, 10, 20, 40, 80, 160, 320, 640), Work()),
    "inner steps": ("inner_steps", (1, 2, 5, 10, 20), Work()),
    "inner steps, checkpointed": (
        "inner_steps",
        (1, 2, 5, 10, 20),
        Work(checkpoint_steps=True),
    ),
    "weights": ("width", (10, 20, 40, 80, 160, 320), Work()),
    "inner steps, images": (
        "inner_steps",
        (1, 2, 5, 10, 20),
        Work(tasks=2, images=True, rows=5),
    ),
    "inner steps, images, checkpointed": (
        "inner_steps",
        (1, 2, 5, 10, 20),
        Work(tasks=2, images=True, rows=5, checkpoint_steps=True),
    ),
}


def learner_of(work: Work, seed: int) -> MAML:
    """Return MAML for such work."""
    generator = torch.Generator().manual_seed(seed)
    if work.images:
        backbone: nn.Module = ConvNet((1, 28, 28), 32, generator=generator)
        n_features = 32
    else:
        backbone = MLP(1, (work.width, work.width), generator=generator)
        n_features = work.width
    learner = MAML(
        backbone,
        n_features,
        1,
        task_type="regression",
        inner_steps=work.inner_steps,
        checkpoint_steps=work.checkpoint_steps,
        generator=generator,
    )
    return learner.train()


def episodes_of(work: Work, seed: int) -> Episodes:
    """Return a batch of such work."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 28, 28) if work.images else (1,)

    def rows() -> Rows:
        x = torch.randn(work.tasks, work.rows, *shape, generator=generator)
        y = torch.sin(x.flatten(2).sum(2, keepdim=True))
        return Rows(x, y, torch.ones(work.tasks, work.rows, dtype=torch.bool))

    return Episodes(rows(), rows())


def measure(work: Work, seed: int) -> dict[str, Any]:
    """Return time and memory of a meta-update."""
    learner, episodes = learner_of(work, seed), episodes_of(work, seed)
    update = make_update(learner)

    def run() -> None:
        learner.zero_grad(set_to_none=True)
        update(episodes)

    eager = isinstance(update, EagerUpdate) or work.images or work.checkpoint_steps
    for _ in range(2 if eager else WARM_UP):
        run()
    return {
        "seconds": least_time(run),
        "peak_bytes": peak(run),
        "predicted_bytes": predicted(learner, episodes, work),
        "n_weights": sum(p.numel() for p in learner.parameters()),
    }


def least_time(run: Callable[[], None]) -> float:
    """Return the least processor time of some runs."""
    times: list[float] = []
    while len(times) < 3 or (sum(times) < BUDGET and len(times) < 200):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def peak(run: Callable[[], None]) -> int:
    """Return the most bytes that torch's allocator had given out at a time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run()
    events = [
        event
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())


def predicted(learner: MAML, episodes: Episodes, work: Work) -> int:
    """Return what `memory_limit` reckons with; convolutions go task by task."""
    return predicted_bytes(learner, episodes[:1] if work.images else episodes)


def sweep(name: str, seed: int, largest: float) -> list[dict[str, Any]]:
    """Return a row for each size, of which none is above `largest`."""
    parameter, values, base = SWEEPS[name]
    rows = []
    for value in values:
        if value > largest:
            break
        work = replace(base, **{parameter: value})
        row = {"sweep": name, "value": value, **asdict(work), **measure(work, seed)}
        if rows:
            row["exponent"] = exponent(rows[-1], row, "seconds")
            row["memory_exponent"] = exponent(rows[-1], row, "peak_bytes")
        rows.append(row)
        print(
            f"{name:>34} {value:>5} {1e3 * row['seconds']:>9.2f} ms "
            f"{row['peak_bytes'] / 1e6:>8.2f} MB (predicted "
            f"{row['predicted_bytes'] / 1e6:>8.2f}) exponent "
            f"{row.get('exponent', math.nan):>5.2f}",
            flush=True,
        )
    return rows


def exponent(one: dict[str, Any], other: dict[str, Any], what: str) -> float:
    """Return the power of the size that something grows with between two rows."""
    by = "n_weights" if one["sweep"] == "weights" else "value"
    return math.log(other[what] / one[what]) / math.log(other[by] / one[by])


def caches() -> dict[str, int]:
    """Return the sizes of the processor's caches in bytes, as Linux tells them."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text().strip() for name in ("level", "type", "size")
        )
        number = re.fullmatch(r"(\d+)K", size)
        if kind != "Instruction" and number is not None:
            found[f"L{level}"] = int(number[1]) * 1024
    return found


def explanations(rows: Sequence[dict[str, Any]], sizes: dict[str, int]) -> list[str]:
    """Return why time grows faster than in proportion, where it does."""
    return list(_explained(rows, sizes))


def _explained(rows: Sequence[dict[str, Any]], sizes: dict[str, int]) -> Iterator[str]:
    for before, row in itertools.pairwise(rows):
        if before["sweep"] != row["sweep"] or row["exponent"] <= WORSE:
            continue
        passed = [
            f"{name} cache ({size / 2**20:.3g} MiB)"
            for name, size in sizes.items()
            if before["peak_bytes"] <= size < row["peak_bytes"]
        ]
        if row["memory_exponent"] > WORSE:
            why = f"memory grows with the power {row['memory_exponent']:.2f} there"
        elif passed:
            why = f"its tensors no longer fit in the {' and the '.join(passed)}"
        else:
            inside = [n for n, size in sizes.items() if row["peak_bytes"] <= size]
            where = f"within the {inside[0]} cache" if inside else "beyond all caches"
            why = f"no cache is passed (tensors are {where}): more work per call"
        ratio = row["seconds"] / row["value"] / (before["seconds"] / before["value"])
        yield (
            f"{row['sweep']}, {before['value']} to {row['value']}: power "
            f"{row['exponent']:.2f}, {ratio:.2f} times the time for each. Peak memory "
            f"{before['peak_bytes'] / 1e6:.2f} to {row['peak_bytes'] / 1e6:.2f} MB: "
            f"{why}"
        )


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw time and memory of every sweep on logarithmic axes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name in dict.fromkeys(row["sweep"] for row in rows):
        own = [row for row in rows if row["sweep"] == name]
        sizes = [row["n_weights" if name == "weights" else "value"] for row in own]
        sizes = [size / sizes[0] for size in sizes]
        axes[0].loglog(sizes, [1e3 * row["seconds"] for row in own], "o-", label=name)
        axes[1].loglog(sizes, [row["peak_bytes"] / 1e6 for row in own], "o-")
    for ax, label in zip(axes, ("milliseconds", "peak memory in MB"), strict=True):
        ax.set(xlabel="times the smallest size", ylabel=f"{label}, a meta-update")
        ax.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"drawn in {path}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", action="store_true", help="draw the sweeps as well")
    parser.add_argument(
        "--largest", type=float, default=math.inf, help="size of a sweep, to be quick"
    )
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, print, explain and write the record."""
    args = parse(argv)
    benchmark = Benchmark("scaling", args.seed, args.threads, args.output)
    rows = [row for name in SWEEPS for row in sweep(name, args.seed, args.largest)]
    sizes = caches()
    reasons = explanations(rows, sizes)
    print("\n".join(reasons))
    benchmark.write(
        parameters={
            "base": asdict(Work()),
            "caches": sizes,
            "explained_above": WORSE,
        },
        results={"rows": rows, "explanations": reasons},
    )
    if args.plot:
        plot(rows, args.output / "scaling.png")


if __name__ == "__main__":
    main()
