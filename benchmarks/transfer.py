"""Transfer against meta-learning: characters, and what they teach of other images.

    SKLMETA_DATA=... python benchmarks/transfer.py [--minutes 4] [--data glyphs]

Every method learns from the 1,200 training characters of Omniglot, each turned by 0,
90, 180 and 270 degrees, for as many minutes. Step sizes of fine-tuning were chosen on
100 characters held out of these. Then all adapt to the same 5-way episodes: of the 423
held-out characters, of scikit-learn's digits, and of two views of leaves whose 64
numbers are taken for pictures of 8 x 8 pixels; small pictures are enlarged. Beside them
are methods that see the support rows alone: the same network from scratch, logistic
regression and class means of pixels. Without Omniglot, ``--data glyphs`` takes 1,200
made-up characters to learn from and 423 others. Writes ``results/transfer.json``.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from _report import Benchmark, add_common_options
from _time_budget import hold_out_characters
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from skorch.callbacks import Callback
from torch import nn

import sklmeta
from sklmeta import ClassPool
from sklmeta.backbones import ConvNet
from sklmeta.datasets import (
    fetch_leaves100,
    fetch_omniglot,
    load_digits_pool,
    make_glyphs,
    resize_images,
)
from sklmeta.model_selection import compare, evaluate

N_VALIDATION = 100
WAYS = 5
SHOTS = (1, 5, 10)
VIEWS = ("margin", "texture")
STEPS = 50  # of the network from scratch
SCRATCH = "the network from scratch"
GRIDS: dict[str, list[dict[str, Any]]] = {
    SCRATCH: [{"inner_lr": lr} for lr in (3e-4, 1e-3, 3e-3)],
    "fine-tuning": [
        {"inner_lr": lr, "weight_decay": decay}
        for lr in (3e-3, 1e-2, 3e-2)
        for decay in (0.0, 1e-2)
    ],
    "fine-tuning, cosine head": [{"inner_lr": lr} for lr in (1e-3, 1e-2, 3e-2)],
}


class TimesUp(Callback):
    """Ends training after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.end = time.perf_counter() + self.seconds
        self.n_updates = 0

    def on_batch_end(self, net: Any, **kwargs: Any) -> None:
        self.n_updates += 1
        if self.n_updates > 1 and time.perf_counter() > self.end:
            raise KeyboardInterrupt  # how skorch's callbacks end training


def network(shape: tuple[int, ...], seed: int) -> nn.Module:
    """Return MAML's network for Omniglot, strided."""
    generator = torch.Generator().manual_seed(seed)
    return ConvNet(shape, 64, downsample="stride", generator=generator)


def characters(data: str, seed: int) -> tuple[ClassPool, ClassPool]:
    """Return characters to learn from, and others."""
    if data == "omniglot":
        return fetch_omniglot()
    glyphs = make_glyphs(1623, random_state=seed)
    pool = ClassPool(glyphs.X, np.array([f"glyph {label:04}" for label in glyphs.y]))
    return pool[:1200], pool[1200:]


def methods(args: argparse.Namespace) -> dict[str, Any]:
    """Return unfitted methods by name; half of the time is for pre-training, if any."""
    backbone = functools.partial(network, seed=args.seed)
    seconds = 60 * args.minutes

    def options(share: float = 1.0, **more: Any) -> dict[str, Any]:
        common = {
            "callbacks": [("time", TimesUp(share * seconds))],
            "max_iter": 10**9,
            "random_state": args.seed,
            "device": "cpu",
        }
        return {**common, **more}

    episodes = {"n_way": WAYS, "n_shot": (1, 5), "n_query": 5}
    pretrained = {"pretrain_iter": args.pretrain_iter}
    scratch = options(max_iter=0, layers="all", inner_steps=STEPS)
    return {
        "ProtoNet": sklmeta.ProtoNetClassifier(
            backbone, **options(n_way=20, n_shot=(1, 5), n_query=5, batch_size=1)
        ),
        "MAML": sklmeta.MAMLClassifier(
            backbone, inner_lr=0.1, inner_steps=1, **options(**episodes)
        ),
        "fine-tuning": sklmeta.FineTuneClassifier(backbone, **options()),
        "fine-tuning, cosine head": sklmeta.FineTuneClassifier(
            backbone, head="cosine", **options()
        ),
        "Meta-Baseline": sklmeta.MetaBaselineClassifier(
            backbone, **pretrained, **options(0.5, **episodes, batch_size=4)
        ),
        "meta-transfer": sklmeta.MetaTransferClassifier(
            backbone, head="prototype", **pretrained, **options(0.5, **episodes)
        ),
        SCRATCH: sklmeta.FineTuneClassifier(backbone, **scratch),
        "logistic regression on pixels": sklmeta.PerTaskClassifier(
            LogisticRegression(max_iter=300)
        ),
        "class means of pixels": sklmeta.SimpleShotClassifier(transform="none"),
    }


def trained(name: str, meta: Any, train: ClassPool, validation: ClassPool) -> float:
    """Train a method in place, choose its step sizes; return seconds of training."""
    start = time.perf_counter()
    try:
        meta.fit(train)
    except KeyboardInterrupt:
        if getattr(meta, "n_iter_", 0) < 2:
            raise
    seconds = time.perf_counter() - start
    scores = []
    for candidate in GRIDS.get(name, []):
        meta.set_params(**candidate)
        result = evaluate(
            meta, validation, n_way=WAYS, n_shot=5, n_query=15, n_episodes=40
        )
        scores.append(float(result.scores["score"].mean()))
    if scores:
        meta.set_params(**GRIDS[name][int(np.argmax(scores))])
    return seconds


def enlarged(X: Any) -> Any:
    """Return 8 x 8 pictures, at most 1, as 28 x 28 pictures of bytes."""
    pictures = np.asarray(X, dtype=float).reshape(-1, 8, 8)
    pictures = (255 * pictures / pictures.max()).astype(np.uint8)
    return resize_images(pictures, 28)


def targets(held_out: ClassPool) -> dict[str, ClassPool]:
    """Return what the methods adapt to."""
    digits = load_digits_pool()
    found = {"characters": held_out, "digits": ClassPool(enlarged(digits.X), digits.y)}
    for view in VIEWS:
        leaves = fetch_leaves100(view)
        found[f"leaves, {view}"] = ClassPool(enlarged(leaves.X), leaves.y)
    return found


def summarised(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a comparison's table as rows of plain values."""
    return [
        {
            key: value.item() if hasattr(value, "item") else value
            for key, value in r.items()
        }
        for r in table.to_dict("records")
    ]


def run(args: argparse.Namespace, report: Callable[[str], None]) -> dict[str, Any]:
    """Train all methods, then compare them on every target and number of rows."""
    train, held_out = characters(args.data, args.seed)
    train, validation = hold_out_characters(train, N_VALIDATION, args.seed)
    chosen = methods(args)
    seconds, parameters = {}, {}
    for name, meta in chosen.items():
        seconds[name] = trained(name, meta, train, validation)
        grid = GRIDS.get(name, [{}])[0]
        parameters[name] = {key: getattr(meta, key) for key in grid}
        report(f"{name}: {seconds[name]:.0f} s, {parameters[name]}")
    found: dict[str, Any] = {}
    for target, pool in targets(held_out).items():
        for n_shot in SHOTS:
            result = compare(
                chosen,
                pool,
                n_way=WAYS,
                n_shot=n_shot,
                n_query=15 if n_shot < 10 else 10,
                n_episodes=args.episodes,
                reference=SCRATCH,
                random_state=args.seed,
            )
            report(f"{target}, {n_shot} rows a class\n{result}")
            found.setdefault(target, {})[str(n_shot)] = summarised(
                result.summary().reset_index()
            )
    return {"seconds": seconds, "parameters": parameters, "scores": found}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("omniglot", "glyphs"), default="omniglot")
    parser.add_argument("--minutes", type=float, default=4, help="of training, each")
    parser.add_argument("--pretrain-iter", type=int, default=3000)
    parser.add_argument("--episodes", type=int, default=200)
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train, compare, print and write the record."""
    args = parse(argv)
    warnings.simplefilter("ignore", ConvergenceWarning)
    benchmark = Benchmark("transfer", args.seed, args.threads, args.output)
    benchmark.write(
        parameters={
            key: vars(args)[key]
            for key in ("data", "minutes", "episodes", "pretrain_iter")
        },
        results=run(args, functools.partial(print, flush=True)),
    )


if __name__ == "__main__":
    main()
