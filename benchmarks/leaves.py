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
from collections.abc import Callable, Sequence
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
    PLDAClassifier,
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
    """Square roots, centred, divided by one number for each view or each column.

    Euclidean distances between roots of two histograms are their Hellinger distance.
    """

    def __init__(self, by: str = "view") -> None:
        self.by = by

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn means, and how far columns, or a view's columns on average, spread."""
        roots = np.sqrt(np.asarray(X, dtype=float))
        self.mean_, variance = roots.mean(axis=0), roots.var(axis=0)
        if self.by == "view":
            views = variance.reshape(-1, FEATURES_OF_A_VIEW).mean(axis=1)
            variance = np.repeat(views, FEATURES_OF_A_VIEW)
        self.scale_ = np.sqrt(np.where(variance > 0, variance, 1.0))
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

    def __init__(self, n_features: int, width: int = 8, n_curves: int = 3) -> None:
        super().__init__()
        self.linear = Linear(n_features)
        self.curve = nn.Sequential(
            nn.Linear(1, width), nn.ReLU(), nn.Linear(width, n_curves)
        )
        self.log_weight = nn.Parameter(torch.zeros(n_features, 1))
        self.out_features = n_features * (1 + n_curves)
        with torch.no_grad():
            self.curve[2].weight *= 0.3

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, n_features) to features (n, out_features)."""
        curves = self.curve(x.unsqueeze(-1))
        features = torch.cat([curves, self.linear(x).unsqueeze(-1)], dim=-1)
        return (features * self.log_weight.exp()).flatten(1)


class CurvesAndNet(nn.Module):
    """Curves of single features, beside what a net makes of all of them."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.curves = Curves(n_features)
        self.net = wide(self.curves.out_features, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, n_features) to the features of both."""
        curves = self.curves(x)
        return torch.cat([curves, self.net(curves)], dim=1)


class SideBySide(nn.Module):
    """The features of several nets."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        """Map rows (n, n_features) to the features of all nets."""
        return torch.cat([net(x) for net in self.nets], dim=1)


class Ensemble(SimpleShotClassifier):
    """Class means in the joint features of ProtoNets that differ in their seeds."""

    def __init__(self, member: Any = None, n_members: int = 3) -> None:
        super().__init__(transform="none", device="cpu")
        self.member = member
        self.n_members = n_members

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Train the members, and keep their backbones."""
        members = [
            clone(self.member).set_params(random_state=seed).fit(X, y, groups=groups)
            for seed in range(self.n_members)
        ]
        self.backbone = SideBySide([own.learner_.backbone for own in members])
        return super().fit(X, y, groups=groups)


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


def candidates(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the meta-learners to choose from, by what rows are scaled by and name."""
    given = {"n_way": 20, "n_shot": 1, "n_query": 5, "batch_size": 4}
    given |= {"max_iter": args.updates, "normalize_x": False}
    given |= {"random_state": args.seed, "device": "cpu"}

    def learned(learner: type, module: Any, **parameters: Any) -> Any:
        backbone = functools.partial(for_rows, module)
        return learner(backbone, **{**given, **parameters})

    curves_and_net = learned(ProtoNetClassifier, CurvesAndNet)
    wider = functools.partial(wide, width=512, dropout=0.5)
    wider_net = learned(ProtoNetClassifier, wider)
    either = {
        "SimpleShot, rows as they are": SimpleShotClassifier(transform="none"),
        "SimpleShot, rows of length one": SimpleShotClassifier(transform="cl2"),
        **{
            f"PLDA, shrinkage {share:g}": PLDAClassifier(shrinkage=share)
            for share in (0.1, 0.3, 0.5)
        },
        "ProtoNet, linear": learned(ProtoNetClassifier, Linear, outer_lr=3e-4),
        "ProtoNet, net": learned(ProtoNetClassifier, wide),
    }
    return {
        "view": {
            **either,
            "ProtoNet, curves": learned(ProtoNetClassifier, Curves),
            "ProtoNet, curves and net": curves_and_net,
            "3 ProtoNets, curves and net": Ensemble(curves_and_net),
        },
        "column": {
            **either,
            "ProtoNet, wider net": wider_net,
            "3 ProtoNets, wider net": Ensemble(wider_net),
            "MatchingNet, net": learned(
                MatchingNetClassifier, wide, learn_temperature=True
            ),
            "RidgeNet, net": learned(RidgeNetClassifier, wide),
            "RelationNet, net": learned(
                RelationNetClassifier, wide, loss="cross_entropy"
            ),
            "ANIL, net": learned(ANILClassifier, wide, head="prototype", inner_steps=1),
        },
    }


def simple_methods() -> dict[str, Any]:
    """Return what is learned from the support alone, by name."""
    scalers = {
        "": FunctionTransformer(),
        ", scaled": StandardScaler(),
        ", roots": RootScaler(),
    }
    logistic = LogisticRegression(C=10, max_iter=200)
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
    by_scaling = candidates(args)
    search = GridSearchCV(
        MetaPipeline([("roots", RootScaler()), ("learner", ProtoNetClassifier())]),
        [
            {"roots": [RootScaler(by)], "learner": list(named.values())}
            for by, named in by_scaling.items()
        ],
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
    names = [f"{name}; by {by}" for by, named in by_scaling.items() for name in named]
    rows = {
        name: {"mean": np.mean(own), "folds": list(own)}
        for name, *own in zip(names, *folds, strict=True)
    }
    name = names[search.best_index_]
    return search.best_estimator_, {"chosen": name, "candidates": rows}


def compared(
    methods: dict[str, Any],
    pools: tuple[ClassPool, ClassPool],
    n_way: int,
    n_episodes: int,
    seed: int,
) -> Comparison:
    """Judge all methods on the same episodes, against the best of the simple ones."""
    found = compare(
        methods,
        pools[1],
        train_tasks=pools[0],
        n_way=n_way,
        n_shot=1,
        n_episodes=n_episodes,
        random_state=seed,
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
        found = compared(methods, (train, test), n_way, args.episodes, args.seed)
        print(f"{found}\n", flush=True)
        judged.append({"n_way": n_way, "methods": rows_of(found)})
    methods[OURS] = clone(best)
    others = []
    for seed in range(args.seed + 1, args.seed + 1 + args.other_divisions):
        found = compared(
            methods, divided(pool, seed), WAYS[0], args.other_episodes, args.seed
        )
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
    add("--updates", type=int, default=120, help="meta-updates of each candidate")
    add("--folds", type=int, default=3, help="of the training species")
    add("--choosing-episodes", type=int, default=150, help="of each fold")
    add("--episodes", type=int, default=1000, help="of held-out species")
    add("--other-episodes", type=int, default=300, help="of each other division")
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
