"""Which head MAML starts from with local labels: the table that chooses the default.

    python benchmarks/heads.py

Every head, with one and with five inner steps, on Omniglot 5-way 1-shot and 5-shot and
on a ragged problem: plant species (64 measures of the leaf's margin) grouped at random
into tasks of 2 to 10 species and 3 to 60 leaves. All heads of a row take equally many
meta-updates from the same first weights of the backbone. The inner learning rate is
chosen for each head by itself, on classes that it is not judged on; the classes of all
test sets used elsewhere (423 characters, 30 species) are not looked at. The ragged
problem is adapted to 12 ways, too, after training on at most 10. Writes
``results/heads.json`` after every row of problems; what an interrupted run with the
same options has written is kept, so that it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _report import Benchmark, add_common_options, format_interval, mean_interval
from omniglot import hold_out_characters, strided_or_pooled

from sklmeta import ClassPool, MAMLClassifier, TaskSet
from sklmeta.datasets import fetch_leaves100, fetch_omniglot
from sklmeta.exceptions import SmallTaskWarning
from sklmeta.model_selection import evaluate

HEADS = ("fixed", "shared", "prototype")
MORE_WAYS = 12
SPECIES = {"train": 44, "choose": 10, "judge": 16}  # of 70; 30 stay unseen


@dataclass(frozen=True)
class Problem:
    """What is trained on, chosen by and judged on; and how.

    Attributes
    ----------
    train, choose, judge : TaskSet or ClassPool
        With no class in common.
    episodes : dict
        Which episodes are judged, as `evaluate` takes them.
    parameters : dict
        Of the estimator.
    inner_lr : dict of int to sequence of float
        By inner steps, the learning rates to choose from.
    more_ways : TaskSet or None
        Tasks with more classes than any of meta-training.
    """

    name: str
    train: TaskSet | ClassPool
    choose: TaskSet | ClassPool
    judge: TaskSet | ClassPool
    episodes: dict[str, Any]
    parameters: dict[str, Any]
    inner_lr: dict[int, Sequence[float]]
    more_ways: TaskSet | None = None

    def trained(self, head: str, steps: int, inner_lr: float, seed: int) -> Any:
        """Return MAML meta-trained with a head."""
        meta = MAMLClassifier(
            head=head,
            inner_steps=steps,
            inner_lr=inner_lr,
            random_state=seed,
            device="cpu",
            **self.parameters,
        )
        backbone = self.parameters.get("backbone")
        if backbone is not None:
            meta.set_params(backbone=functools.partial(backbone, seed=seed))
        return quiet(meta.fit, self.train)

    def accuracies(self, meta: Any, tasks: Any) -> np.ndarray:
        """Return each episode's accuracy."""
        return quiet(evaluate, meta, tasks, **self.episodes).scores["score"].to_numpy()


def quiet(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call without the warning that some tasks are small, which they are meant to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SmallTaskWarning)
        return function(*args, **options)


def omniglot_problems(args: argparse.Namespace) -> list[Problem]:
    """Return 5-way problems of characters that the test set does not hold."""
    train, _ = fetch_omniglot(data_home=args.data_home)
    train, validation = hold_out_characters(train, args.n_validation, seed=0)
    half = len(validation) // 2
    return [
        Problem(
            name=f"Omniglot 5-way {n_shot}-shot",
            train=train,
            choose=validation[:half],
            judge=validation[half:],
            episodes={
                **{"n_way": 5, "n_shot": n_shot, "n_query": 15},
                "n_episodes": args.episodes,
            },
            parameters={
                "backbone": functools.partial(
                    strided_or_pooled, downsample="stride", width=args.width
                ),
                **{"n_way": 5, "n_shot": n_shot, "n_query": 5, "batch_size": 4},
                "max_iter": args.updates,
            },
            inner_lr={1: (0.1, 0.4), 5: (0.05, 0.2)},
        )
        for n_shot in (1, 5)
    ]


def ragged_problem(args: argparse.Namespace) -> Problem:
    """Return tasks of 2 to 10 species and 3 to 60 leaves."""
    pool = fetch_leaves100("margin", data_home=args.data_home)
    order = np.random.default_rng(0).permutation(len(pool))
    ends = np.cumsum([0, *SPECIES.values()])
    parts = {
        name: pool[np.sort(order[start:end])]
        for name, start, end in zip(SPECIES, ends, ends[1:], strict=False)
    }
    return Problem(
        name="leaves, ragged",
        train=ragged_tasks(parts["train"], 400, seed=1),
        choose=ragged_tasks(parts["choose"], args.tasks, seed=2),
        judge=ragged_tasks(parts["judge"], args.tasks, seed=3),
        episodes={"n_shot": (1, 5), "n_query": None, "n_episodes": 1},
        parameters={"n_shot": (1, 5), "max_iter": args.ragged_updates},
        inner_lr=dict.fromkeys((1, 5), (0.01, 0.05, 0.2, 0.8)),
        more_ways=ragged_tasks(
            parts["judge"], args.tasks, seed=4, n_ways=(MORE_WAYS, MORE_WAYS)
        ),
    )


def ragged_tasks(
    pool: ClassPool,
    n_tasks: int,
    seed: int,
    *,
    n_ways: tuple[int, int] = (2, 10),
    n_rows: tuple[int, int] = (3, 60),
) -> TaskSet:
    """Group classes at random into tasks of random sizes, with labels of their own."""
    rng = np.random.default_rng(seed)
    X, y = np.asarray(pool.X), np.asarray(pool.y)
    tasks = []
    for _ in range(n_tasks):
        k = rng.integers(n_ways[0], n_ways[1] + 1)
        classes = rng.choice(pool.classes, k, replace=False)
        rows = rng.permutation(np.flatnonzero(np.isin(y, classes)))
        # A leaf of each class first: no class goes missing, however few the rows.
        firsts = np.unique(y[rows], return_index=True)[1]
        rest = np.delete(rows, firsts)
        n = int(rng.integers(max(n_rows[0], k), n_rows[1] + 1))
        rows = np.sort(np.concatenate([rows[firsts], rest[: max(0, n - k)]]))
        codes = rng.permutation(k)[np.searchsorted(np.sort(classes), y[rows])]
        tasks.append((X[rows], codes))
    return TaskSet(tasks, labels="local")


def compared(problem: Problem, steps: int, n_seeds: int) -> list[dict[str, Any]]:
    """Return a row for each head: its accuracy, and the difference to "shared"."""
    scores, rows = {}, []
    for head in HEADS:
        begin = time.perf_counter()
        tried = {}
        for inner_lr in problem.inner_lr[steps]:
            meta = problem.trained(head, steps, inner_lr, seed=0)
            tried[inner_lr] = problem.accuracies(meta, problem.choose).mean(), meta
        inner_lr = max(tried, key=lambda lr: tried[lr][0])
        metas = [tried[inner_lr][1]]
        metas += [problem.trained(head, steps, inner_lr, s) for s in range(1, n_seeds)]
        by_seed = [problem.accuracies(meta, problem.judge) for meta in metas]
        scores[head] = np.mean(by_seed, axis=0)
        row = {
            **{"problem": problem.name, "inner_steps": steps, "head": head},
            "inner_lr": inner_lr,
            "choosing": {lr: float(mean) for lr, (mean, _) in tried.items()},
            "accuracy": mean_interval(scores[head]),
            "by_seed": [float(own.mean()) for own in by_seed],
            "more_ways": more_ways(problem, metas),
            "seconds": time.perf_counter() - begin,
        }
        rows.append(row)
        print(
            f"{problem.name}, {steps} steps, {head}: inner_lr {inner_lr:g}, "
            f"{format_interval(row['accuracy'], 100)} %, "
            f"{row['seconds']:.0f} s",
            flush=True,
        )
    for row in rows:
        row["difference"] = mean_interval(scores[row["head"]] - scores["shared"])
    return rows


def more_ways(problem: Problem, metas: Sequence[Any]) -> Any:
    """Return accuracy with more ways than in meta-training, or that it is refused."""
    if problem.more_ways is None:
        return None
    try:
        found = [problem.accuracies(meta, problem.more_ways) for meta in metas]
    except ValueError:
        return "refused"
    return mean_interval(np.mean(found, axis=0))


def main(argv: list[str] | None = None) -> None:
    """Compare the heads, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--updates", type=int, default=200, help="meta-updates on Omniglot")
    add("--ragged-updates", type=int, default=500)
    add("--width", type=int, default=32, help="filters of the convolutions")
    add("--n-validation", type=int, default=100, help="characters to choose and judge")
    add("--episodes", type=int, default=300, help="judged, of Omniglot")
    add("--tasks", type=int, default=300, help="judged, of the ragged problem")
    add("--n-seeds", type=int, default=2, help="meta-trainings of each row")
    add("--steps", type=int, nargs="+", default=[1, 5], help="inner steps")
    add("--data-home", type=Path, help="default: SKLMETA_DATA")
    add_common_options(parser)
    args = parser.parse_args(argv)
    benchmark = Benchmark("heads", args.seed, args.threads, args.output)
    hidden = ("seed", "threads", "output", "data_home")
    parameters = {k: v for k, v in vars(args).items() if k not in hidden}
    rows = gone_on_from(benchmark, parameters)
    done = {(row["problem"], row["inner_steps"]) for row in rows}
    for problem in (ragged_problem(args), *omniglot_problems(args)):
        for steps in args.steps:
            if (problem.name, steps) not in done:
                rows += compared(problem, steps, args.n_seeds)
                benchmark.write(parameters=parameters, results=rows)


def gone_on_from(benchmark: Benchmark, parameters: dict[str, Any]) -> list[Any]:
    """Return the rows of an interrupted run, whose time counts as well."""
    path = benchmark.output / f"{benchmark.name}.json"
    if not path.exists():
        return []
    record = json.loads(path.read_text())
    same = record["parameters"] == parameters and record["seed"] == benchmark.seed
    if not same:
        return []
    benchmark.start -= record["wall_time_s"]
    return record["results"]


if __name__ == "__main__":
    main()
