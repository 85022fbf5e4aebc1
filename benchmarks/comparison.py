"""Meta-learners against pooled models and models per task, one `compare` call each.

    SKLMETA_DATA=... python benchmarks/comparison.py [digits] [parkinsons]

Digits: episodes of the digits 5 to 9, learned on 0 to 4 (and those turned, which are
classes of their own). Parkinsons: 29 of the 42 patients are learned from, the disease's
score of the other 13 is predicted from 5 or 10 recordings. Parameters were chosen by
folds of the training classes and patients. Writes ``results/comparison_<data>.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from _report import Benchmark, add_common_options
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from sklmeta import (
    ClassPool,
    MAMLClassifier,
    MAMLRegressor,
    PerTaskClassifier,
    PerTaskRegressor,
    PooledClassifier,
    PooledRegressor,
    ProtoNetClassifier,
    make_meta_pipeline,
)
from sklmeta.backbones import ConvNet
from sklmeta.datasets import fetch_parkinsons, load_digits_pool
from sklmeta.model_selection import (
    Comparison,
    TaskKFold,
    compare,
    make_episode_scorer,
)

N_TRAINING_PATIENTS = 29


def shallow(input_shape: tuple[int, ...]) -> ConvNet:
    """One block: 8 x 8 pixels halved four times would leave one."""
    return ConvNet(input_shape, n_blocks=1)


def with_rotations(pool: ClassPool) -> ClassPool:
    """Add every class turned by 90, 180 and 270 degrees, as classes of their own."""
    turned = [np.rot90(pool.X, k, axes=(1, 2)) for k in range(4)]
    labels = [f"{label} turned {90 * k}" for k in range(4) for label in pool.y]
    return ClassPool(np.concatenate(turned), labels)


def digits(args: argparse.Namespace) -> Callable[[int], Comparison]:
    """Return the comparison on digits, for a number of shots."""
    pool = load_digits_pool()
    drawn = {"n_way": 5, "n_shot": (1, 5), "n_query": 10, "batch_size": 4}
    drawn |= {"backbone": shallow, "random_state": args.seed, "device": "cpu"}
    learners = {
        "MAML": MAMLClassifier(inner_lr=0.02, inner_steps=3, max_iter=100, **drawn),
        "ProtoNet": ProtoNetClassifier(max_iter=400, **drawn),
        "pooled: logistic regression": PooledClassifier(
            LogisticRegression(max_iter=1000)
        ),
        "per task: nearest neighbour": PerTaskClassifier(KNeighborsClassifier(1)),
        "per task: logistic regression": PerTaskClassifier(
            LogisticRegression(max_iter=1000)
        ),
    }
    train = with_rotations(pool[:5])
    for learner in learners.values():
        learner.fit(train)
    learners["MAML"].set_params(inner_steps=20)  # more than in training

    def judged(n_shot: int) -> Comparison:
        return compare(
            learners,
            pool[5:],
            n_way=5,
            n_shot=n_shot,
            n_query=10,
            n_episodes=args.episodes,
            random_state=args.seed,
        )

    return judged


def parkinsons(args: argparse.Namespace) -> Callable[[int], Comparison]:
    """Return the comparison on patients, for a number of recordings to adapt to."""
    patients = fetch_parkinsons()
    order = np.random.RandomState(args.seed).permutation(len(patients))
    train = patients[np.sort(order[:N_TRAINING_PATIENTS])]
    test = patients[np.sort(order[N_TRAINING_PATIENTS:])]
    only_time = make_column_transformer((StandardScaler(), ["test_time"]))
    learners = {
        "MAML": make_meta_pipeline(
            # Voice measures have long tails, where steps of one size go astray.
            QuantileTransformer(
                n_quantiles=200, output_distribution="normal", random_state=args.seed
            ),
            MAMLRegressor(
                normalize_y="task",
                inner_lr=0.05,
                n_shot=(5, 10),
                random_state=args.seed,
                device="cpu",
            ),
        ).fit(train),
        "MAML, all defaults": MAMLRegressor(random_state=args.seed, device="cpu").fit(
            train
        ),
        "pooled: ridge": make_meta_pipeline(
            StandardScaler(), PooledRegressor(Ridge())
        ).fit(train),
        "pooled: gradient boosting": PooledRegressor(
            HistGradientBoostingRegressor(random_state=args.seed)
        ).fit(train),
        "per task: ridge on time alone": tuned_ridge(only_time, train),
        "per task: ridge": tuned_ridge(StandardScaler(), train),
    }

    def judged(n_shot: int) -> Comparison:
        return compare(
            learners, test, n_shot=n_shot, n_episodes=20, random_state=args.seed
        )

    return judged


def tuned_ridge(scaler: Any, train: Any) -> Any:
    """Return ridge regression per task, its penalty chosen on training patients."""
    search = GridSearchCV(
        make_meta_pipeline(scaler, PerTaskRegressor(Ridge())),
        {"pertaskregressor__estimator__alpha": [0.01, 0.1, 0.3, 1.0, 3.0, 10.0]},
        scoring=make_episode_scorer("rmse", n_shot=(5, 10), n_episodes=10),
        cv=TaskKFold(3),
        error_score="raise",
    )
    return search.fit(train).best_estimator_


PROBLEMS = {"digits": (digits, (1, 5)), "parkinsons": (parkinsons, (5, 10))}
IN_WORDS = {
    "digits": "Five classes never seen (the digits 5 to 9), learned on 0 to 4 and "
    "those turned; 10 query images of each class.",
    "parkinsons": "The total UPDRS score of 13 patients, learned on 29 others; means "
    "over 20 draws of the recordings adapted to.",
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", default=[], help="digits, parkinsons")
    parser.add_argument("--episodes", type=int, default=1000, help="of digits")
    add_common_options(parser)
    args = parser.parse_args(argv)
    unknown = set(args.data) - set(PROBLEMS)
    if unknown:
        parser.error(f"no such data: {', '.join(sorted(unknown))}")
    return args


def rows_of(found: Comparison) -> list[dict[str, Any]]:
    """Return the summary as plain rows."""
    return found.summary().reset_index().to_dict("records")


def main(argv: list[str] | None = None) -> None:
    """Compare, print and write one record for each data set."""
    args = parse(argv)
    for data in args.data or PROBLEMS:
        benchmark = Benchmark(
            f"comparison_{data}", args.seed, args.threads, args.output
        )
        prepare, shots = PROBLEMS[data]
        start = time.perf_counter()
        judged = prepare(args)
        training_s = time.perf_counter() - start
        results = []
        for n_shot in shots:
            found = judged(n_shot)
            print(f"{data}, n_shot={n_shot}\n{found}\n", flush=True)
            results.append({"n_shot": n_shot, "methods": rows_of(found)})
        benchmark.write(
            parameters={"problem": IN_WORDS[data], "episodes": args.episodes},
            results={"training_s": training_s, "shots": results},
        )


if __name__ == "__main__":
    main()
