"""Every regressor of the library on real grouped tables, chosen on training tasks.

    SKLMETA_DATA=... python benchmarks/grouped.py parkinsons
        [--methods "linear mixed model" ...] [--splits 5] [--fraction 0.7]

Tasks are divided 70 to 30 at random, several times. On the training tasks of each
division `GridSearchCV` chooses every method's parameters by folds of whole tasks; the
others are predicted from 5 and 10 rows, by 20 draws of these rows which are the same
for all methods. Writes ``results/grouped_<data>_<method>.json`` with the errors of each
task, so that methods can be compared in pairs, whenever they were run.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
from _grouped_methods import METHODS, NEEDS, SHORT_NAMES
from _report import Benchmark, add_common_options
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklmeta import TaskSet
from sklmeta.datasets import fetch_parkinsons, fetch_school
from sklmeta.model_selection import TaskKFold, evaluate, make_episode_scorer

DATA = {
    "parkinsons": fetch_parkinsons,
    "parkinsons-motor": lambda: fetch_parkinsons(target="motor_UPDRS"),
    "school": fetch_school,
}
SHOTS = (5, 10)
DRAWS = 20


def divided(tasks: TaskSet, split: int, fraction: float) -> tuple[TaskSet, TaskSet]:
    """Return training and test tasks of one division."""
    order = np.random.RandomState(split).permutation(len(tasks))
    n_train = int(fraction * len(tasks))
    return tasks[np.sort(order[:n_train])], tasks[np.sort(order[n_train:])]


def chosen(name: str, train: TaskSet, split: int) -> tuple[Any, dict[str, Any], int]:
    """Return a fitted method, the parameters chosen, and how many candidates failed.

    All by training tasks.
    """
    estimator, grid = METHODS[name](split)
    if not grid:
        return estimator.fit(train), {}, 0
    search = GridSearchCV(
        estimator,
        grid,
        scoring=make_episode_scorer("rmse", n_shot=(5, 10), n_episodes=5),
        cv=TaskKFold(3, shuffle=True, random_state=split),
        error_score=np.nan,  # a candidate that diverges loses
    ).fit(train)
    n_failed = int(np.isnan(search.cv_results_["mean_test_score"]).sum())
    return search.best_estimator_, search.best_params_, n_failed


def has_std(estimator: Any) -> bool:
    """Whether a fitted method gives standard deviations."""
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    return bool(last.__sklmeta_tags__().gives_std)


def calibrated(estimator: Any, train: TaskSet) -> Any:
    """Return the method fitted again with a scale of held-out training tasks, or None.

    None for those that have no such parameter.
    """
    names = [name for name in estimator.get_params() if name.endswith("calibrate")]
    if not names:
        return None
    again = clone(estimator).set_params(**{names[0]: True})
    last = names[0].removesuffix("calibrate")
    return again.set_params(**{f"{last}validation_fraction": 0.2}).fit(train)


def errors(
    estimator: Any, tasks: TaskSet, metrics: list[str], seed: int
) -> dict[str, dict[str, list[float]]]:
    """Return the mean over draws of each test task, by metric and number of rows."""
    found: dict[str, dict[str, list[float]]] = {metric: {} for metric in metrics}
    for n_shot in SHOTS:
        scores = evaluate(
            estimator,
            tasks,
            metric=metrics,
            n_shot=n_shot,
            n_episodes=DRAWS,
            random_state=seed,
        ).scores
        for metric, own in scores.groupby("metric", sort=False):
            means = own.groupby("task", sort=False)["score"].mean()
            found[metric][str(n_shot)] = means.loc[list(tasks.names)].tolist()
    return found


def run(name: str, tasks: TaskSet, args: argparse.Namespace) -> dict[str, Any]:
    """Return what one method did on every division."""
    splits = []
    for split in range(args.splits):
        train, test = divided(tasks, split, args.fraction)
        start = time.process_time()
        estimator, parameters, n_failed = chosen(name, train, split)
        seconds = time.process_time() - start
        metrics = ["rmse"]
        if has_std(estimator):
            metrics += ["nlpd", "coverage", "interval_width"]
        record: dict[str, Any] = {
            "tasks": list(test.names),
            "parameters": {key: str(value) for key, value in parameters.items()},
            "candidates_failed": n_failed,
            "training_s": seconds,
            "errors": errors(estimator, test, metrics, args.seed),
        }
        again = calibrated(estimator, train) if len(metrics) > 1 else None
        if again is not None:
            record["calibrated"] = errors(again, test, metrics, args.seed)
        means = {k: np.mean(v) for k, v in record["errors"]["rmse"].items()}
        print(
            f"{name}, split {split}: {means} {parameters} {seconds:.0f} s", flush=True
        )
        splits.append(record)
    return {"method": name, "splits": splits}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--fraction", type=float, default=0.7)
    add_common_options(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Judge the methods one after the other; one record each."""
    args = parse(argv)
    for category in (ConvergenceWarning, FitFailedWarning, RuntimeWarning):
        warnings.simplefilter("ignore", category)
    # Mixed models say for every fold that its tasks are fewer than coefficients.
    warnings.filterwarnings("ignore", message=".*fewer than.*random coefficients")
    warnings.filterwarnings("ignore", message="One or more of the test scores")
    tasks = DATA[args.data]()
    known = tasks.to_frame().columns
    for name in args.methods:
        if name in NEEDS and NEEDS[name] not in known:
            continue
        title = f"grouped_{args.data}_{SHORT_NAMES[name]}"
        benchmark = Benchmark(title, args.seed, args.threads, args.output)
        benchmark.write(
            parameters={
                "data": args.data,
                "training_share": args.fraction,
                "draws": DRAWS,
                "tasks": len(tasks),
            },
            results=run(name, tasks, args),
        )


if __name__ == "__main__":
    main()
