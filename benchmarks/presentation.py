"""Omniglot row by row: accuracy at the 1st, 2nd, ... presentation of a character.

    python benchmarks/presentation.py --method mann
    python benchmarks/presentation.py --method lstm
    python benchmarks/presentation.py --method mann --long-only --tag _long

The protocol of memory-augmented networks (Santoro et al. 2016): 5 characters, 10
drawings of each in random order, 20 x 20 pixels without convolutions; each drawing is
predicted before its label is shown. Methods: the memory-augmented network (mann) and
an LSTM (lstm), both with 200 units.

Meta-trains on 1,100 of the 1,200 training characters, each turned by 0, 90, 180 and 270
degrees, until the time is up: minutes of processor time on one thread, which others on
the machine do not shorten. The other 100 characters choose the weights that are kept.
The 423 held-out characters are looked at once, at the end. Writes
``results/presentation_<method>.json``.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _report import Benchmark, add_common_options
from _time_budget import hold_out_characters
from skorch.callbacks import Callback, GradientNormClipping

from sklmeta import ClassPool, MANNClassifier, RecurrentNetClassifier
from sklmeta.datasets import fetch_omniglot
from sklmeta.model_selection import presentation_accuracy

ESTIMATORS = {"mann": MANNClassifier, "lstm": RecurrentNetClassifier}
# Shares of the time, and support and query rows per class of training episodes: short
# ones first, in which binding a row to its label is quickest to learn.
PHASES = ((0.3, 1, 9), (0.3, 3, 7), (0.4, 9, 1))


@dataclass
class Clock(Callback):
    """Ends a fit at a mark of processor time, and sets the outer learning rate by it.

    The processor time of fits alone counts, of one after another.
    """

    seconds: float
    spent: float = 0.0
    mark: float = 0.0
    begin: float = field(default=0.0, init=False)

    @property
    def elapsed(self) -> float:
        return self.spent + time.process_time() - self.begin

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.begin = time.process_time()

    def on_batch_end(self, net: Any, training: bool = True, **kwargs: Any) -> None:
        share = min(self.elapsed / self.seconds, 1)
        for group in net.optimizer_.param_groups:
            group["lr"] = net.lr * (1 + math.cos(math.pi * share)) / 2
        if self.elapsed > self.mark:
            raise KeyboardInterrupt  # how skorch's callbacks end training

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self.spent = self.elapsed


def make_meta(args: argparse.Namespace, clock: Clock) -> Any:
    """Return the unfitted estimator that the options ask for."""
    clipping = GradientNormClipping(args.clip)
    return ESTIMATORS[args.method](
        n_way=args.ways,
        outer_lr=args.outer_lr,
        batch_size=args.batch_size,
        max_iter=10**9,
        callbacks=[("clipping", clipping), ("clock", clock)],
        warm_start=True,
        device="cpu",
        random_state=args.seed,
    )


def meta_train(
    args: argparse.Namespace, train: ClassPool
) -> tuple[Any, list[dict[str, Any]]]:
    """Meta-train within the time; return the estimator and its validation curve."""
    train, validation = hold_out_characters(train, args.n_validation, args.seed)
    clock = Clock(60 * args.minutes)
    meta = make_meta(args, clock)
    curve: list[dict[str, Any]] = []
    best = None
    while clock.spent < clock.seconds:
        _, n_shot, n_query = phase_at(clock.spent / clock.seconds, phases_of(args))
        meta.set_params(n_shot=n_shot, n_query=n_query)
        clock.mark = min(clock.spent + 60 * args.look_minutes, clock.seconds)
        try:
            meta.fit(train)
        except KeyboardInterrupt:
            if clock.spent < clock.mark:
                raise
        found = judge(args, meta, validation, args.validation_episodes, args.seed)
        curve.append(
            {
                "seconds": round(clock.spent, 1),
                "updates": meta.n_iter_,
                "shots": n_shot,
                "accuracies": found["mean"].tolist(),
            }
        )
        tell(curve[-1])
        if sum(found["mean"]) >= max(sum(point["accuracies"]) for point in curve):
            best = copy.deepcopy(meta.learner_.state_dict())
    meta.learner_.load_state_dict(best)
    return meta, curve


def phases_of(args: argparse.Namespace) -> tuple[tuple[float, int, int], ...]:
    """Return the phases of meta-training: only the last one if long_only."""
    return ((1.0, *PHASES[-1][1:]),) if args.long_only else PHASES


def phase_at(
    share: float, phases: tuple[tuple[float, int, int], ...]
) -> tuple[float, int, int]:
    """Return the phase that meta-training is in after a share of its time."""
    end = 0.0
    for phase in phases:
        end += phase[0]
        if share < end - 1e-6:
            return phase
    return phases[-1]


def judge(
    args: argparse.Namespace, meta: Any, pool: ClassPool, n_episodes: int, seed: int
) -> Any:
    """Return accuracy by presentation."""
    return presentation_accuracy(
        meta,
        pool,
        n_way=args.ways,
        n_presentations=args.presentations,
        n_episodes=n_episodes,
        random_state=seed,
    )


def tell(point: dict[str, Any]) -> None:
    """Print a point of the validation curve."""
    shown = " ".join(f"{100 * value:.1f}" for value in point["accuracies"])
    print(
        f"{point['seconds']:>8.0f} s {point['updates']:>7} updates  {shown} % by "
        "presentation of validation characters",
        flush=True,
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--method", choices=list(ESTIMATORS), required=True)
    add("--minutes", type=float, default=25, help="of processor time, one thread")
    add("--ways", type=int, default=5)
    add("--presentations", type=int, default=10)
    add("--outer-lr", type=float, default=2e-3)
    add("--batch-size", type=int, default=32)
    add("--clip", type=float, default=10.0, help="norm of the meta-gradient")
    add("--n-validation", type=int, default=100, help="characters held out to validate")
    add("--validation-episodes", type=int, default=200)
    add("--look-minutes", type=float, default=1.25, help="between validations")
    add("--long-only", action="store_true", help="long episodes from the start")
    add("--test-episodes", type=int, default=1000)
    add("--image-size", type=int, default=20)
    add("--data-home", type=Path, help="default: SKLMETA_DATA")
    add("--tag", default="", help="added to the result's name, for experiments")
    add_common_options(parser, threads=1)
    return parser.parse_args(argv)


def deviations(args: argparse.Namespace) -> list[str]:
    """Return in which ways this is not the paper's experiment."""
    phases = ", then ".join(
        f"{share:.0%} of the time on {shots} and {queries}"
        for share, shots, queries in phases_of(args)
    )
    found = [
        f"{args.minutes:g} minutes of meta-training, not the paper's 100,000 episodes",
        f"Adam at {args.outer_lr:g} falling to 0 by a cosine, {args.batch_size} "
        f"episodes a meta-update, gradients clipped at norm {args.clip:g}; the paper: "
        "RMSProp at 1e-4",
        "training episodes of support rows, read and predicted one after another, and "
        "query rows, each predicted from what they leave behind: per class, "
        f"{phases}; the paper: sequences of 10",
        f"{args.n_validation} of the 1,200 training characters held out, to choose the "
        "weights by accuracy over all presentations; no random shifts or rotations "
        "by other angles",
    ]
    if args.method == "mann":
        found.append("a learned strength of keys, which start at 10 (sklmeta.memory)")
    return found


def main(argv: list[str] | None = None) -> None:
    """Meta-train, test, print and write the record."""
    args = parse(argv)
    name = f"presentation_{args.method}{args.tag}"
    benchmark = Benchmark(name, args.seed, args.threads, args.output)
    train, held_out = fetch_omniglot(
        image_size=args.image_size, data_home=args.data_home
    )
    meta, curve = meta_train(args, train)
    found = judge(args, meta, held_out, args.test_episodes, args.seed + 1)
    print((100 * found[["mean", "low", "high"]]).round(1))
    hidden = ("seed", "threads", "output", "data_home", "tag")
    benchmark.write(
        parameters={k: v for k, v in vars(args).items() if k not in hidden},
        deviations=deviations(args),
        results={
            "accuracy": {
                str(presentation): {
                    "mean": row["mean"],
                    "low": row["low"],
                    "high": row["high"],
                    "n": int(row["n_episodes"]),
                }
                for presentation, row in found.iterrows()
            },
            "training_s": curve[-1]["seconds"],
            "n_updates": curve[-1]["updates"],
            "validation_curve": curve,
        },
    )


if __name__ == "__main__":
    main()
