"""Plant species never seen, from one leaf each: chosen on training species only.

    SKLMETA_DATA=... python benchmarks/leaves.py

Of the 100 species of `fetch_leaves100`, 70 are learned from and 30 held out, once for
each view of a leaf. Every candidate, a meta-learner with its network, is judged by
folds of the 70 (`GridSearchCV`, `TaskKFold`, `make_episode_scorer`); the best is
trained on all of them and set beside simple methods on the same episodes of the 30.
The choice is then trained and judged again on other divisions of the species. Writes
``results/leaves.json`` after every view.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from _report import Benchmark, add_common_options
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import Tensor, nn

from sklmeta import (
    ANILClassifier,
    ClassPool,
    MatchingNetClassifier,
    MetaPipeline,
    PerTaskClassifier,
    ProtoNetClassifier,
    RelationNetClassifier,
    RidgeNetClassifier,
    SimpleShotClassifier,
    make_meta_pipeline,
)
from sklmeta.datasets import fetch_leaves100
from sklmeta.model_selection import (
    Comparison,
    TaskKFold,
    compare,
    make_episode_scorer,
)

VIEWS = ("margin", "shape", "texture", "all")
FEATURES_OF_A_VIEW = 64
N_TRAINING_SPECIES = 70
WAYS = (20, 5)
OURS = "sklmeta"


class RootScaler(TransformerMixin, BaseEstimator):
    """Square roots, centred, divided by one number for each view.

    Euclidean distances between roots of two histograms are their Hellinger distance.
    """

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn means, and how far a view's columns spread on average."""
        roots = np.sqrt(np.asarray(X, dtype=float))
        self.mean_ = roots.mean(axis=0)
        views = roots.var(axis=0).reshape(-1, FEATURES_OF_A_VIEW)
        spread = np.sqrt(views.mean(axis=1))
        self.scale_ = np.repeat(spread, FEATURES_OF_A_VIEW)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return scaled roots (n_rows, n_features)."""
        return (np.sqrt(np.asarray(X, dtype=float)) - self.mean_) / self.scale_


class Linear(nn.Module):
    """A linear map, at first the identity times a number."""

    def __init__(self, n_features: int, scale: float = 0.3) -> None:
        super().__init__()
        self.change = nn.Linear(n_features, n_features, bias=False)
        nn.init.zeros_(self.change.weight)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, n_features) to as many features."""
        return (x + self.change(x)) * self.scale


class Curves(nn.Module):
    """Each feature beside what a small net, shared by all features, makes of it."""

    def __init__(self, n_features: int, width: int = 16, n_curves: int = 4) -> None:
        super().__init__()
        self.linear = Linear(n_features)
        self.curve = nn.Sequential(
            nn.Linear(1, width), nn.ReLU(), nn.Linear(width, n_curves)
        )
        self.log_weight = nn.Parameter(torch.zeros(n_features, 1))
        with torch.no_grad():
            self.curve[2].weight *= 0.3

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, n_features) to (1 + n_curves) * n_features features."""
        curves = self.curve(x.unsqueeze(-1))
        features = torch.cat([curves, self.linear(x).unsqueeze(-1)], dim=-1)
        return (features * self.log_weight.exp()).flatten(1)


class Beside(nn.Module):
    """What a net makes of a row, beside the row itself, linearly mapped."""

    def __init__(self, n_features: int, **net: Any) -> None:
        super().__init__()
        self.linear = Linear(n_features)
        self.net = wide(n_features, **net)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, n_features) to those features and the net's."""
        return torch.cat([self.linear(x), self.net(x)], dim=1)


def wide(n_features: int, width: int = 256, dropout: float = 0.3) -> nn.Sequential:
    """Return one wide hidden layer, of which dropout takes a part."""
    return nn.Sequential(
        nn.Linear(n_features, width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, 64),
    )


def for_rows(
    module: Callable[..., nn.Module], input_shape: tuple[int, ...], **options: Any
) -> nn.Module:
    """Build a module for rows of a shape."""
    return module(input_shape[0], **options)


def candidates(args: argparse.Namespace) -> dict[str, Any]:
    """Return the meta-learners to choose from, by name."""
    drawn = {"n_way": 20, "n_shot": 1, "n_query": 5, "batch_size": 4}
    drawn |= {"random_state": args.seed, "device": "cpu", "max_iter": args.updates}

    def learned(
        learner: type, backbone: Any, *, columns: bool, **parameters: Any
    ) -> Any:
        if callable(backbone):
            backbone = functools.partial(for_rows, backbone)
        return learner(backbone, normalize_x=columns, **{**drawn, **parameters})

    wider = functools.partial(wide, width=512, dropout=0.5)
    beside = functools.partial(Beside, dropout=0.5)
    found = {
        f"SimpleShot, {transform}": SimpleShotClassifier(transform=transform)
        for transform in ("none", "cl2")
    }
    for columns in (False, True):
        how = ", by column" if columns else ""
        make = functools.partial(learned, columns=columns)
        found |= {
            f"ProtoNet, linear{how}": make(ProtoNetClassifier, Linear, outer_lr=3e-4),
            f"ProtoNet, curves{how}": make(ProtoNetClassifier, Curves),
            f"ProtoNet, net{how}": make(ProtoNetClassifier, wide),
            f"ProtoNet, wider net{how}": make(ProtoNetClassifier, wider),
            f"ProtoNet, net beside row{how}": make(ProtoNetClassifier, beside),
        }
    by_column = functools.partial(learned, columns=True)
    return found | {
        "MatchingNet, net, by column": by_column(
            MatchingNetClassifier, wide, learn_temperature=True
        ),
        "RidgeNet, net, by column": by_column(RidgeNetClassifier, wide),
        "RelationNet, net, by column": by_column(
            RelationNetClassifier, wide, loss="cross_entropy"
        ),
        "ANIL, net, by column": by_column(
            ANILClassifier, wide, head="prototype", inner_steps=1
        ),
    }


def simple_methods() -> dict[str, Any]:
    """Return what is learned from the support alone, by name."""
    scalers = {
        "": FunctionTransformer(),
        ", scaled": StandardScaler(),
        ", roots": RootScaler(),
    }
    logistic = LogisticRegression(C=10, max_iter=300)
    # With one row of each class, the nearest neighbour is the nearest centroid.
    nearest = {
        f"nearest neighbour{how}": make_meta_pipeline(
            scaler, PerTaskClassifier(KNeighborsClassifier(1))
        )
        for how, scaler in scalers.items()
    }
    return nearest | {
        f"logistic regression{how}": make_meta_pipeline(
            scaler, PerTaskClassifier(logistic)
        )
        for how, scaler in list(scalers.items())[1:]
    }


def divided(pool: ClassPool, seed: int) -> tuple[ClassPool, ClassPool]:
    """Return species to learn from and species held out."""
    order = np.random.RandomState(seed).permutation(len(pool))
    train, test = order[:N_TRAINING_SPECIES], order[N_TRAINING_SPECIES:]
    return pool[np.sort(train)], pool[np.sort(test)]


def chosen(train: ClassPool, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """Return the best candidate, trained on all, and every candidate's folds."""
    named = candidates(args)
    pipeline = MetaPipeline(
        [("roots", RootScaler()), ("learner", ProtoNetClassifier())]
    )
    search = GridSearchCV(
        pipeline,
        {"learner": list(named.values())},
        scoring=make_episode_scorer(
            "accuracy",
            n_way=20,
            n_shot=1,
            n_episodes=args.choosing_episodes,
            random_state=args.seed,
        ),
        cv=TaskKFold(args.folds, shuffle=True, random_state=args.seed),
        error_score="raise",
    ).fit(train)
    folds = [search.cv_results_[f"split{i}_test_score"] for i in range(args.folds)]
    fit_s = search.cv_results_["mean_fit_time"]
    rows = {
        name: {"mean": np.mean(own), "folds": list(own), "fit_s": seconds}
        for name, seconds, *own in zip(named, fit_s, *folds, strict=True)
    }
    name = list(named)[search.best_index_]
    return search.best_estimator_, {"chosen": name, "candidates": rows}


def compared(
    methods: dict[str, Any], train: ClassPool, test: ClassPool, n_way: int, args: Any
) -> Comparison:
    """Judge all methods on the same episodes, against the best of the simple ones."""
    found = compare(
        methods,
        test,
        train_tasks=train,
        n_way=n_way,
        n_shot=1,
        n_episodes=args.episodes,
        random_state=args.seed,
    )
    means = found.summary()["mean"].drop(OURS)
    return replace(found, reference=str(means.idxmax()))


def rows_of(found: Comparison) -> list[dict[str, Any]]:
    """Return the summary as plain rows."""
    return found.summary().reset_index().to_dict("records")


def run_view(view: str, args: argparse.Namespace) -> dict[str, Any]:
    """Choose, train and judge on one view."""
    begin = time.perf_counter()
    pool = fetch_leaves100(view, data_home=args.data_home)
    train, test = divided(pool, args.seed)
    best, choice = chosen(train, args)
    print(f"{view}: {choice['chosen']}, {time.perf_counter() - begin:.0f} s")
    methods = {OURS: best, **simple_methods()}
    judged = []
    for n_way in WAYS:
        found = compared(methods, train, test, n_way, args)
        print(f"{found}\n", flush=True)
        judged.append({"n_way": n_way, "methods": rows_of(found)})
    methods[OURS] = clone(best)
    others = []
    for seed in range(args.seed + 1, args.seed + 1 + args.other_divisions):
        found = compared(methods, *divided(pool, seed), WAYS[0], args)
        others.append({"seed": seed, "methods": rows_of(found)})
        print(f"{view}, division {seed}\n{found.summary().iloc[:, 1:8]}", flush=True)
    seconds = time.perf_counter() - begin
    return {
        **{"view": view, **choice, "judged": judged},
        **{"other_divisions": others, "seconds": seconds},
    }


def main(argv: list[str] | None = None) -> None:
    """Choose and judge for every view, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--views", nargs="+", choices=VIEWS, default=list(VIEWS))
    add("--updates", type=int, default=150, help="meta-updates of each candidate")
    add("--folds", type=int, default=3, help="of the training species")
    add("--choosing-episodes", type=int, default=150, help="of each fold")
    add("--episodes", type=int, default=1000, help="of held-out species")
    add("--other-divisions", type=int, default=3, help="of the species")
    add("--data-home", type=Path, help="default: SKLMETA_DATA")
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark("leaves", args.seed, args.threads, args.output)
    hidden = ("seed", "threads", "output", "data_home")
    parameters = {k: v for k, v in vars(args).items() if k not in hidden}
    rows = []
    for view in args.views:
        rows.append(run_view(view, args))
        benchmark.write(parameters=parameters, results=rows)


if __name__ == "__main__":
    main()
