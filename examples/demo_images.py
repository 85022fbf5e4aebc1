"""Second part of the demo: images of classes that were never seen before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from demo_report import with_progress
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from sklmeta import (
    ClassPool,
    MAMLClassifier,
    PerTaskClassifier,
    ProtoNetClassifier,
)
from sklmeta.backbones import ConvNet
from sklmeta.datasets import fetch_omniglot, load_digits_pool
from sklmeta.model_selection import Comparison, compare

SHOTS = (1, 5)
N_WAY = 5
N_QUERY = 10  # for each class


@dataclass(frozen=True)
class Images:
    """Classes to learn from, others to judge on, and how long to train."""

    name: str
    train: ClassPool
    test: ClassPool
    backbone: Callable
    n_episodes: int
    maml: dict[str, Any]
    maml_steps: int  # when adapting to classes never seen
    protonet: dict[str, Any]


def load(data: str, quick: bool = False) -> Images:
    """Return the images to run on: "digits" (no download) or "omniglot"."""
    images = {"digits": digits, "omniglot": omniglot}[data](quick)
    print(
        f"{images.name}: {len(images.train):,} classes to learn from, "
        f"{len(images.test):,} others to judge on"
    )
    return images


def digits(quick: bool) -> Images:
    pool = load_digits_pool()
    return Images(
        name="Handwritten digits",
        # A turned digit is a new class: 0 to 4 make 20 classes to learn from.
        train=with_rotations(pool[:5]),
        test=pool[5:],
        backbone=shallow,
        n_episodes=10 if quick else 300,
        # Chosen by holding out some of the digits 0 to 4.
        maml={"inner_lr": 0.02, "inner_steps": 3, "max_iter": 4 if quick else 100},
        maml_steps=20,
        protonet={"max_iter": 4 if quick else 400},
    )


def omniglot(quick: bool) -> Images:
    train, test = fetch_omniglot()
    return Images(
        name="Omniglot characters",
        train=train,
        test=test,
        backbone=strided,
        n_episodes=10 if quick else 200,
        # Chosen by holding out 100 of the characters to learn from.
        maml={"inner_lr": 0.4, "inner_steps": 1, "max_iter": 4 if quick else 600},
        maml_steps=1,
        protonet={"max_iter": 4 if quick else 800},
    )


def shallow(input_shape):
    """One block: 8 x 8 pixels halved four times would leave one."""
    return ConvNet(input_shape, n_blocks=1)


def strided(input_shape):
    """Four blocks with strides instead of pooling: cheaper, nearly as good."""
    return ConvNet(input_shape, downsample="stride")


def with_rotations(pool: ClassPool) -> ClassPool:
    """Add every class turned by 90, 180 and 270 degrees, as classes of their own."""
    turned = [np.rot90(pool.X, k, axes=(1, 2)) for k in range(4)]
    labels = [f"{label} turned {90 * k}" for k in range(4) for label in pool.y]
    return ClassPool(np.concatenate(turned), labels)


def run(images: Images) -> dict[str, Comparison]:
    """Meta-train each method once, for all shots, and judge them at each."""
    shared = {"n_way": N_WAY, "n_shot": SHOTS, "n_query": N_QUERY, "batch_size": 4}
    shared |= {"backbone": images.backbone, "random_state": 0}
    maml = MAMLClassifier(**shared, **images.maml)
    protonet = ProtoNetClassifier(**shared, **images.protonet)
    with_progress(maml, "MAML meta-trains").fit(images.train)
    with_progress(protonet, "prototypical network meta-trains").fit(images.train)
    maml.set_params(inner_steps=images.maml_steps)
    methods = {
        "MAML": maml,
        "prototypical network": protonet,
        "nearest neighbour on the pixels": PerTaskClassifier(KNeighborsClassifier(1)),
        "logistic regression on the pixels": PerTaskClassifier(
            LogisticRegression(max_iter=1000)
        ),
    }
    print("  all methods are judged on the same images", flush=True)
    return {title(images, n): judge(images, methods, n) for n in SHOTS}


def title(images: Images, n_shot: int) -> str:
    plural = "s" if n_shot > 1 else ""
    return f"{images.name} never seen, {N_WAY}-way, {n_shot} image{plural} of each"


def judge(images: Images, methods: dict[str, Any], n_shot: int) -> Comparison:
    """Score all methods on the same episodes of the classes never seen."""
    return compare(
        methods,
        images.test,
        train_tasks=images.train,  # for the baselines, which learn nothing from them
        n_way=N_WAY,
        n_shot=n_shot,
        n_query=N_QUERY,
        n_episodes=images.n_episodes,
    )
