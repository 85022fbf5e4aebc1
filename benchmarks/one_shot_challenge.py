"""Omniglot's one-shot challenge: 20 fixed tasks, each inside one unseen alphabet.

    python benchmarks/one_shot_challenge.py
    python benchmarks/one_shot_challenge.py --validate --max-minutes 5

Errors of the modified Hausdorff distance, which learns nothing, and of a prototypical
network that is meta-trained on the 30 background alphabets alone, until the time is up.
Every training episode draws its ways from one alphabet: one task per alphabet, with
local labels. Its turned alphabets are further tasks, and so are copies of them in which
every drawing is slightly distorted. The 20 runs are looked at once, at the end.

With --validate, five background alphabets are held out of meta-training, and runs of
the same form are made of them: what is chosen here was chosen so. Writes
``results/one_shot_challenge.json``.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _drawings import ORIENTATIONS, distorted, resized, turned
from _report import Benchmark, add_common_options, format_interval, mean_interval
from _time_budget import TimeBudget

from sklmeta import (
    ClassPool,
    ModifiedHausdorffClassifier,
    PerTaskClassifier,
    ProtoNetClassifier,
    Task,
    TaskSet,
)
from sklmeta.backbones import ConvNet
from sklmeta.datasets import fetch_omniglot, fetch_omniglot_runs
from sklmeta.model_selection import evaluate

N_HELD_OUT = 5  # alphabets, with --validate
N_RUN_WAYS = 20


class Training(TimeBudget):
    """Ends meta-training when the time, or the number of updates, is up.

    Time is the processor's: what others do on the machine does not shorten it. The
    weights of the end are kept: no alphabet is left to choose others by.
    """

    def __init__(self, seconds: float, n_most: int) -> None:
        super().__init__(None, {}, seconds, every=float("inf"), schedule="cosine")
        self.n_most = n_most
        self.seconds_taken = 0.0

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        super().on_train_begin(net, **kwargs)
        self.processor_begin = time.process_time()

    @property
    def processor_seconds(self) -> float:
        return time.process_time() - self.processor_begin

    @property
    def elapsed(self) -> float:
        """Seconds, or the same share of them as of the updates, if that is more."""
        by_updates = self.seconds * self.n_updates / self.n_most
        return max(self.processor_seconds, by_updates)

    def look(self, net: Any) -> None:
        """Take the time."""
        self.seconds_taken = self.processor_seconds


def alphabets_of(labels: np.ndarray) -> np.ndarray:
    """Return "Greek" of "Greek/character07"."""
    return np.array([label.partition("/")[0] for label in labels], dtype=object)


def training_tasks(args: argparse.Namespace, pool: ClassPool) -> TaskSet:
    """Return the tasks to meta-train on: alphabets, turned and distorted."""
    rng = np.random.default_rng(args.seed)
    alphabets = alphabets_of(pool.y)
    X, groups = [], []
    for copy in range(1 + args.copies):
        images = pool.X if copy == 0 else distorted(pool.X, args.strength, rng)
        images = resized(images, args.image_size)
        for orientation in ORIENTATIONS[: args.orientations]:
            X.append(turned(images, orientation))
            groups.append(alphabets + f"/{orientation}/{copy}")
    y = np.tile(pool.y, len(X))
    return TaskSet.from_arrays(
        np.concatenate(X), y, np.concatenate(groups), labels="local"
    )


def runs_of(pool: ClassPool, n_runs: int, seed: int) -> TaskSet:
    """Return runs as the challenge has them: 20 characters, two drawers.

    Rows of a class are in the order of their drawers, who drew whole alphabets.
    """
    rng = np.random.default_rng(seed)
    drawings = pool.X.reshape(len(pool), -1, *pool.X.shape[1:])
    alphabets = alphabets_of(pool.classes)
    sizes = {name: (alphabets == name).sum() for name in np.unique(alphabets)}
    names = [name for name, size in sizes.items() if size >= N_RUN_WAYS]
    runs = []
    for number in range(n_runs):
        name = names[number % len(names)]
        own = np.flatnonzero(alphabets == name)
        ways = rng.choice(own, N_RUN_WAYS, replace=False)
        drawers = rng.choice(drawings.shape[1], 2, replace=False)
        X = np.concatenate([drawings[ways, drawer] for drawer in drawers])
        y = np.tile(pool.classes[ways], 2)
        support = np.arange(2 * N_RUN_WAYS) < N_RUN_WAYS
        runs.append(Task(X, y, f"{name}/{number}", support=support))
    return TaskSet(runs, labels="local")


def hold_out_alphabets(pool: ClassPool, seed: int) -> tuple[ClassPool, ClassPool]:
    """Split off alphabets that have enough characters for runs."""
    alphabets = alphabets_of(pool.classes)
    names, sizes = np.unique(alphabets, return_counts=True)
    rng = np.random.default_rng(seed)
    held = rng.choice(names[sizes >= N_RUN_WAYS], N_HELD_OUT, replace=False)
    is_held = np.isin(alphabets, held)
    return pool[~is_held], pool[is_held]


def network(
    input_shape: tuple[int, ...], width: int, n_blocks: int, downsample: str, seed: int
) -> ConvNet:
    """Return the few-shot papers' network with weights drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return ConvNet(
        input_shape, width, n_blocks, downsample=downsample, generator=generator
    )


def meta_train(
    args: argparse.Namespace, pool: ClassPool
) -> tuple[ProtoNetClassifier, Training]:
    """Meta-train on alphabets until the budget is spent."""
    tasks = training_tasks(args, pool)
    training = Training(60 * args.max_minutes, args.max_updates)
    backbone = functools.partial(
        network,
        width=args.width,
        n_blocks=args.n_blocks,
        downsample=args.downsample,
        seed=args.seed,
    )
    meta = ProtoNetClassifier(
        backbone,
        metric=args.metric,
        n_way=args.train_ways,
        n_shot=1,
        n_query=args.n_query,
        batch_size=1,
        outer_lr=args.outer_lr,
        max_iter=args.max_updates,
        callbacks=[("training", training)],
        device="cpu",
        random_state=args.seed,
    )
    try:
        meta.fit(tasks)
    except KeyboardInterrupt:
        if not training.is_over:
            raise
    return meta, training


def averaged_errors(
    args: argparse.Namespace, meta: ProtoNetClassifier, runs: TaskSet
) -> np.ndarray:
    """Return each run's error, drawings seen with slightly distorted copies.

    Those of a support drawing are more support rows of its class; probabilities of a
    query drawing are averaged over its own. No query drawing has a say on another.
    """
    rng = np.random.default_rng(args.seed)
    errors = []
    for task in runs:
        views = [task.X]
        views += [distorted(task.X, args.view_strength, rng) for _ in range(args.views)]
        views = [resized(view, args.image_size) for view in views]
        support = np.concatenate([view[task.support] for view in views])
        model = meta.adapt(support, np.tile(task.y[task.support], len(views)))
        proba = sum(model.predict_proba(view[~task.support]) for view in views)
        found = model.classes_[np.argmax(proba, axis=1)]
        errors.append(np.mean(found != task.y[~task.support]))
    return np.array(errors)


def plain_errors(
    args: argparse.Namespace, meta: ProtoNetClassifier, runs: TaskSet
) -> np.ndarray:
    """Return each run's error, drawings seen as they are."""
    small = [
        Task(resized(t.X, args.image_size), t.y, t.name, support=t.support)
        for t in runs
    ]
    scores = evaluate(meta, TaskSet(small, labels="local")).scores["score"]
    return 1 - scores.to_numpy()


def hausdorff_errors(runs: TaskSet) -> np.ndarray:
    """Return each run's error by the modified Hausdorff distance."""
    meta = PerTaskClassifier(ModifiedHausdorffClassifier())
    # Learns nothing from tasks but what their rows look like.
    meta.fit(TaskSet([(runs[0].X, runs[0].y)], labels="local"))
    return 1 - evaluate(meta, runs).scores["score"].to_numpy()


def deviations(args: argparse.Namespace) -> list[str]:
    """Return in which ways this is not ProtoNet's paper, and what was chosen how."""
    return [
        f"{args.max_minutes:g} minutes of meta-training (processor time), its "
        f"learning rate falling from {args.outer_lr:g} to 0 by a cosine of the time; "
        "the last weights are kept",
        f"episodes of {args.train_ways} characters of one alphabet, one support and "
        f"{args.n_query} query drawing(s) of each; the paper's have 60 of all",
        f"alphabets in {args.orientations} orientations (turned; from 5 on mirrored), "
        f"and {args.copies} copies of them whose drawings are distorted by random "
        "affine maps, are tasks of their own",
        f"averaged: support drawings with {args.views} slightly distorted copies, and "
        "probabilities of a query drawing averaged over its own; each query drawing by "
        "itself",
        "pooling against strides, query drawings, learning rate and averaging were "
        "chosen on runs of five of the 30 background alphabets, held out of short "
        "meta-trainings (--validate); the final one has all 30. Distortions, width and "
        "image size are as first set",
        *args.note,
    ]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--max-minutes", type=float, default=25, help="of processor time")
    add("--max-updates", type=int, default=10**9)
    add("--validate", action="store_true", help="judge on background alphabets")
    add("--validation-runs", type=int, default=400)
    add("--split", type=int, default=0, help="which alphabets to validate on")
    add("--image-size", type=int, default=28)
    add("--orientations", type=int, default=4, help="4: quarter turns; 8: mirrored too")
    add("--copies", type=int, default=3, help="distorted copies of each alphabet")
    add("--strength", type=float, default=1.0, help="of the distortions")
    add("--views", type=int, default=8, help="distorted copies when testing")
    add("--view-strength", type=float, default=0.5)
    add("--train-ways", type=int, default=20)
    add("--n-query", type=int, default=1, help="query rows per class in training")
    add("--metric", choices=("sqeuclidean", "cosine"), default="sqeuclidean")
    add("--width", type=int, default=64)
    add("--n-blocks", type=int, default=4)
    add("--downsample", choices=("pool", "stride"), default="pool")
    add("--outer-lr", type=float, default=3e-3)
    add("--data-home", type=Path, help="default: SKLMETA_DATA")
    add("--note", action="append", default=[], help="what else the record is to say")
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Meta-train, judge, print and write the record."""
    args = parse(argv)
    benchmark = Benchmark("one_shot_challenge", args.seed, args.threads, args.output)
    background, _ = fetch_omniglot(
        split="background", rotations="none", image_size=None, data_home=args.data_home
    )
    if args.validate:
        background, held_out = hold_out_alphabets(background, args.split)
        runs = runs_of(held_out, args.validation_runs, args.split)
    meta, training = meta_train(args, background)
    seconds = training.seconds_taken
    print(f"{training.n_updates} meta-updates in {seconds / 60:.1f} processor minutes")
    if not args.validate:
        runs = fetch_omniglot_runs(image_size=None, data_home=args.data_home)
    errors = {"ProtoNet": plain_errors(args, meta, runs)}
    if args.views:
        errors["ProtoNet, averaged"] = averaged_errors(args, meta, runs)
    if not args.validate:
        errors["modified Hausdorff"] = hausdorff_errors(runs)
    means = {name: mean_interval(own) for name, own in errors.items()}
    for name, mean in means.items():
        print(f"{name}: {format_interval(mean, 100)} % errors over {mean['n']} runs")
    if args.validate:
        return
    hidden = ("seed", "threads", "output", "data_home", "validate", "split", "note")
    benchmark.write(
        parameters={k: v for k, v in vars(args).items() if k not in hidden},
        deviations=deviations(args),
        results={
            "error": means,
            "by_run": {name: own.tolist() for name, own in errors.items()},
            "training_s": seconds,
            "n_updates": training.n_updates,
        },
    )


if __name__ == "__main__":
    main()
