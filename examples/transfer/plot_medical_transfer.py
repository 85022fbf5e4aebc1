"""From patients whose records are many to new ones with a few: what transfer is worth.

Twenty-one of the 42 patients of a study of Parkinson's disease are the source: voice
recordings over half a year, each with the score of the disease. The other twenty-one
come with a few recordings each, and their next scores are predicted. A network that is
pre-trained on all source rows knows voices, and not how patients differ: fine-tuning
its last layer has to find that from the few rows. Meta-learners are trained for just
that. Both are drawn beside ridge regression on the few rows alone, with intervals over
patients; where a curve lies above that of ridge regression, transfer hurts.

With ``--medmnist bloodmnist dermamnist`` small medical images are drawn instead, from
the classes of one data set to those of another, which are downloaded first. Shots are
of each class then, curves are accuracies, and Meta-Baseline trains twice as long as the
others, since it has two stages.

Run with `python plot_medical_transfer.py --output FILE`; needs matplotlib and the
parkinsons data (downloaded, or below SKLMETA_DATA), and takes about a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from sklmeta import (
    BayesianLinearNetRegressor,
    FineTuneClassifier,
    FineTuneRegressor,
    HierarchicalLinearRegressor,
    MetaBaselineClassifier,
    PerTaskClassifier,
    PerTaskRegressor,
    ProtoNetClassifier,
    make_meta_pipeline,
)
from sklmeta.datasets import fetch_medmnist, fetch_parkinsons
from sklmeta.model_selection import compare

FEW_ROWS = "ridge regression on the few rows"
FEW_IMAGES = "logistic regression on the few images"


def main(argv=None):
    """Train on the source, adapt to the target, draw; return the scores."""
    options = parse(argv)
    matplotlib.use("Agg")
    torch.set_num_threads(1)  # the nets are small
    if options.medmnist:
        problem = images(*options.medmnist, options.quick)
    else:
        problem = voices(options.quick)
    methods, target, settings, label = problem
    scores = {}
    for n_shot in [2, 5] if options.quick else [2, 5, 10, 20]:
        result = compare(methods, target, n_shot=n_shot, random_state=0, **settings)
        print(f"\n{n_shot} rows\n{result}")
        scores[n_shot] = result.summary()
    draw(scores, label, options.output)
    print(f"Figure: {options.output}")
    return scores


def voices(quick):
    """Return fitted methods, the other patients, how to judge, and what is drawn."""
    patients = fetch_parkinsons()
    order = np.random.RandomState(0).permutation(len(patients))
    source, target = patients[np.sort(order[:21])], patients[np.sort(order[21:])]
    n_updates = 5 if quick else 600
    nets = {"n_shot": (2, 20), "max_iter": n_updates, "random_state": 0}
    methods = {
        "fine-tuning": FineTuneRegressor(normalize_y="task", weight_decay=1.0, **nets),
        "ALPaCA": BayesianLinearNetRegressor(outer_lr=3e-3, noise=0.01, **nets),
        "linear mixed model": HierarchicalLinearRegressor(covariance="diagonal"),
        FEW_ROWS: make_meta_pipeline(StandardScaler(), PerTaskRegressor(Ridge())),
    }
    for meta in methods.values():
        meta.fit(source)
    settings = {
        "metric": "rmse",
        "reference": FEW_ROWS,
        "n_episodes": 2 if quick else 20,
    }
    return methods, target, settings, "error of the score (points)"


def images(source, target, quick):
    """Return the same of medical images."""
    train, new = fetch_medmnist(source), fetch_medmnist(target, subset="test")
    n_way = min(5, len(new))
    nets = {"max_iter": 5 if quick else 300, "random_state": 0}
    episodes = {"n_way": min(5, len(train)), "n_query": 5, "batch_size": 4}
    methods = {
        "fine-tuning": FineTuneClassifier(**nets),
        "Meta-Baseline": MetaBaselineClassifier(
            pretrain_iter=nets["max_iter"], **nets, **episodes
        ),
        "ProtoNet": ProtoNetClassifier(**nets, **episodes),
        FEW_IMAGES: PerTaskClassifier(LogisticRegression(max_iter=300)),
    }
    for meta in methods.values():
        meta.fit(train)
    settings = {
        "n_way": n_way,
        "n_query": 15,
        "small_tasks": "shrink",
        "reference": FEW_IMAGES,
        "n_episodes": 5 if quick else 200,
    }
    return methods, new, settings, "accuracy"


def draw(scores, label, path):
    """Draw a curve with 95 % intervals for each method."""
    figure, ax = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    shots = list(scores)
    for name in scores[shots[0]].index:
        rows = [scores[n].loc[name] for n in shots]
        mean = np.array([row["mean"] for row in rows])
        low, high = ([row[side] for row in rows] for side in ("low", "high"))
        (line,) = ax.plot(shots, mean, marker="o", label=name)
        ax.fill_between(shots, low, high, alpha=0.15, color=line.get_color())
    ax.set(xlabel="rows that are adapted to", ylabel=label, xticks=shots)
    ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(argv):
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("medical_transfer.png"))
    parser.add_argument("--medmnist", nargs=2, metavar=("SOURCE", "TARGET"))
    parser.add_argument("--quick", action="store_true", help="hardly train: for tests")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
