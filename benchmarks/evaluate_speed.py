"""What judging costs: `evaluate` against bare torch on the same episodes.

A fitted ProtoNet is judged on 5-way 5-shot episodes with 15 query rows a way. Bare
forms of the same computation, without any of sklmeta's code:

- *batches*: a loop over batches of episodes, each embedding its support and query rows;
  the best of several batch sizes counts;
- *rows once*: every row in use is embedded once, then all episodes are compared. This
  is what `evaluate` does, too.
- *rows once, drawing*: the same, and the episodes are drawn while the clock runs, by
  the shortest way there is in torch: random keys for all rows of a class, and topk.

The other bare forms get their episodes as tensors, drawn before the clock starts;
`evaluate` draws them itself and returns the score of every episode. All take turns.

    python benchmarks/evaluate_speed.py

writes ``benchmarks/results/evaluate_speed.json``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from _report import Benchmark, add_common_options
from torch import Tensor, nn
from torch.nn.functional import one_hot

from sklmeta import ClassPool, ProtoNetClassifier
from sklmeta.datasets import fetch_omniglot, load_digits_pool
from sklmeta.model_selection import evaluate
from sklmeta.model_selection._protocol import EpisodeProtocol

WAYS, SHOTS, QUERY = 5, 5, 15
BATCH_SIZES = (1, 2, 4, 16, 64)
ROWS_AT_ONCE = (64, 256, 1024)


@dataclass(frozen=True)
class Bare:
    """A network and episodes as tensors; E episodes."""

    backbone: nn.Module
    images: Tensor  # (R, C, H, W)
    support: Tensor  # (E, S)
    support_way: Tensor
    query: Tensor  # (E, Q)
    query_way: Tensor
    rows_of: Tensor  # (C, rows of the largest class), padded
    class_size: Tensor  # (C,)

    def in_batches(self, size: int) -> Tensor:
        """Return the accuracy of each episode, embedding each batch's rows."""
        found = []
        for start in range(0, len(self.support), size):
            part = slice(start, start + size)
            rows = torch.cat([self.support[part], self.query[part]], 1)
            features = self.backbone(self.images[rows.flatten()])
            features = features.unflatten(0, rows.shape)
            n_support = self.support.shape[1]
            found.append(
                self.accuracy(features[:, :n_support], features[:, n_support:], part)
            )
        return torch.cat(found)

    def rows_once(self, size: int) -> Tensor:
        """Return the accuracy of each episode, embedding each row once."""
        features = torch.cat([self.backbone(x) for x in self.images.split(size)])
        every = slice(None)
        return self.accuracy(features[self.support], features[self.query], every)

    def drawing_and_rows_once(self, size: int) -> Tensor:
        """Draw episodes, then return the accuracy of each."""
        ways = torch.rand(len(self.support), len(self.rows_of)).topk(WAYS).indices
        keys = torch.rand(*ways.shape, self.rows_of.shape[1])
        positions = torch.arange(keys.shape[-1])
        keys.masked_fill_(positions >= self.class_size[ways].unsqueeze(-1), -1.0)
        order = keys.topk(SHOTS + QUERY).indices
        rows = self.rows_of[ways].gather(2, order)
        way = torch.arange(WAYS)[:, None].expand(rows.shape)
        support, query = rows[..., :SHOTS].flatten(1), rows[..., SHOTS:].flatten(1)
        drawn = replace(
            self,
            support=support,
            support_way=way[..., :SHOTS].flatten(1),
            query=query,
            query_way=way[..., SHOTS:].flatten(1),
        )
        return drawn.rows_once(size)

    def accuracy(self, support: Tensor, query: Tensor, part: slice) -> Tensor:
        """Compare query rows with class means."""
        member = one_hot(self.support_way[part], WAYS).to(support.dtype)
        prototypes = member.mT @ support / member.sum(1).unsqueeze(-1)
        nearest = torch.cdist(query, prototypes).argmin(-1)
        return (nearest == self.query_way[part]).double().mean(1)


def pools(name: str, data_home: Any) -> tuple[ClassPool, ClassPool]:
    """Return classes to train on and classes to judge on."""
    if name == "digits":
        pool = load_digits_pool()
        return pool[:5], pool[5:]
    return fetch_omniglot(data_home=data_home)


def bare_form(meta: ProtoNetClassifier, pool: ClassPool, episodes: int) -> Bare:
    """Return the same network and episodes, for bare torch."""
    protocol = EpisodeProtocol(SHOTS, QUERY, WAYS, episodes)
    index = protocol.draw(pool, True).index()
    images = torch.from_numpy(np.asarray(pool.X)).float().div(255)
    images = images.reshape(len(images), *images.shape[1:3], -1).movedim(-1, 1)
    used = index.rows().unique()
    place = torch.zeros(len(images), dtype=torch.int64)
    place[used] = torch.arange(len(used))
    sizes = pool.rows().sizes
    starts = pool.rows().offsets[:-1, None]
    rows_of = torch.from_numpy(starts + np.arange(sizes.max()) % sizes[:, None])
    return Bare(
        meta.learner_.backbone,
        images[used].contiguous(memory_format=torch.channels_last),
        place[index.support],
        index.support_way,
        place[index.query],
        index.query_way,
        place[rows_of],
        torch.from_numpy(sizes),
    )


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    """Return how long a run took, and the mean accuracy that it gave."""
    start = time.perf_counter()
    accuracy = run()
    return time.perf_counter() - start, float(accuracy)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return medians and ratios on one data set."""
    train, test = pools(name, args.data_home)
    episodes = args.episodes if name == "digits" else args.omniglot_episodes
    meta = ProtoNetClassifier(max_iter=args.updates, random_state=args.seed)
    meta.fit(train)
    bare = bare_form(meta, test, episodes)
    counts = {"n_shot": SHOTS, "n_query": QUERY, "n_way": WAYS, "n_episodes": episodes}
    runs: dict[str, Callable[[], Any]] = {
        "evaluate": lambda: evaluate(meta, test, **counts).scores["score"].mean(),
        **{
            f"batches of {n}": lambda n=n: bare.in_batches(n).mean()
            for n in BATCH_SIZES
        },
        **{
            f"rows once, {n}": lambda n=n: bare.rows_once(n).mean()
            for n in ROWS_AT_ONCE
        },
        **{
            f"drawing, rows once, {n}": lambda n=n: bare.drawing_and_rows_once(n).mean()
            for n in ROWS_AT_ONCE
        },
    }
    times: dict[str, list[float]] = {run: [] for run in runs}
    accuracies = {}
    with torch.inference_mode():
        for _ in range(args.repeats + 1):
            for run, function in runs.items():
                took, accuracies[run] = seconds(function)
                times[run].append(took)
    median = {run: statistics.median(own[1:]) for run, own in times.items()}
    bars = {
        kind: min((run for run in runs if run.startswith(kind)), key=median.__getitem__)
        for kind in ("batches", "drawing, rows once", "rows once")
    }
    of_same_episodes = [
        accuracy for run, accuracy in accuracies.items() if "drawing" not in run
    ]
    return {
        "data": name,
        "episodes": episodes,
        "rows": len(bare.images),
        "evaluate_s": median["evaluate"],
        "bare": {
            kind: {
                "form": best,
                "s": median[best],
                "ratio": median["evaluate"] / median[best],
                "ratios": sorted(
                    a / b for a, b in zip(times["evaluate"], times[best], strict=True)
                )[:: max(1, args.repeats)],
            }
            for kind, best in bars.items()
        },
        "largest_difference": float(np.ptp(of_same_episodes)),
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--omniglot-episodes", type=int, default=200)
    parser.add_argument("--updates", type=int, default=50, help="of meta-training")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", nargs="+", default=["digits", "omniglot"])
    parser.add_argument("--data-home", default=None)
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write the record."""
    args = parse(argv)
    benchmark = Benchmark("evaluate_speed", args.seed, args.threads, args.output)
    rows = []
    for name in args.data:
        row = measure(name, args)
        rows.append(row)
        print(f"{name}: {row['episodes']} episodes, {row['evaluate_s']:.3f} s")
        for own in row["bare"].values():
            print(f"  {own['form']}: {own['s']:.3f} s, ratio {own['ratio']:.2f}")
    benchmark.write(
        parameters={
            "ways": WAYS,
            "shots": SHOTS,
            "query_rows_per_class": QUERY,
            "updates": args.updates,
            "repeats": args.repeats,
        },
        results=rows,
    )


if __name__ == "__main__":
    main()
