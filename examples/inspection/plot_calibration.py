"""One number, fitted on held-out tasks, makes stated uncertainty true on new tasks.

Meta-trained on few tasks, Bayesian regression on learned features states intervals that
hold almost all targets, far more than they are meant to; a deep kernel classifier is
much surer of its labels than it is right. With ``calibrate=True`` some of the tasks are
held out of meta-training, and tell by what to multiply standard deviations, or divide
logits. Predicted labels and means are not made better: there are fewer tasks to learn
from.

Run with `python plot_calibration.py --output FOLDER`; needs matplotlib, takes less than
a minute, and downloads nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch

from sklmeta import BayesianLinearNetRegressor, DeepKernelClassifier, TaskSet
from sklmeta.datasets import make_sinusoids
from sklmeta.inspection import IntervalCoverageDisplay, ReliabilityDisplay
from sklmeta.model_selection import compare

PROTOCOL = {"n_shot": 5, "n_episodes": 1}


def main(argv=None):
    """Meta-train on few tasks, with and without calibration; return the picture."""
    options = parse(argv)
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    torch.set_num_threads(1)  # the nets are small
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    waves = make_sinusoids(30, noise=0.3, random_state=0)
    n_new = 50 if options.quick else 400
    new_waves = make_sinusoids(n_new, 30, noise=0.3, random_state=1)
    regressors = both(BayesianLinearNetRegressor, waves, options.quick)
    IntervalCoverageDisplay.from_estimators(
        regressors, new_waves, ax=left, marker="o", **PROTOCOL
    )
    clouds = make_clouds(40, seed=0)
    new_clouds = make_clouds(n_new, seed=1)
    classifiers = both(DeepKernelClassifier, clouds, options.quick)
    ReliabilityDisplay.from_estimators(
        classifiers, new_clouds, ax=right, marker="o", **PROTOCOL
    )
    # What is it worth, and what does it cost?
    print(compare(regressors, new_waves, metric=["nlpd", "rmse"], **PROTOCOL))
    print(compare(classifiers, new_clouds, metric=["log_loss", "accuracy"], **PROTOCOL))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "calibration.png"
    figure.savefig(path, dpi=150)
    print(path)
    return path


def both(kind, tasks, quick):
    """Return a meta-learner as it is trained, and one with a fitted factor."""
    common = {"n_query": 10, "max_iter": 10 if quick else 300, "random_state": 0}
    calibrated = kind(calibrate=True, validation_fraction=0.3, **common)
    return {
        "as trained": kind(**common).fit(tasks),
        "calibrated": calibrated.fit(tasks),
    }


def make_clouds(n_tasks, seed, n_rows=15):
    """Return tasks of three overlapping clouds, with other centres in every task."""
    rng = np.random.default_rng(seed)
    y = np.tile(np.arange(3), n_rows)
    centres = rng.normal(size=(n_tasks, 3, 2))
    X = centres[:, y] + 0.7 * rng.normal(size=(n_tasks, len(y), 2))
    return TaskSet([(own, y) for own in X], labels="local")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(),
        help="folder of the picture (default: the current one)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to see that it runs"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
