"""Feature rows that are there already: only how they are compared is left to learn.

Whoever has features of a pretrained network, or a table of measurements, needs no
network here: ``backbone="identity"`` takes rows as they are. `fit` then learns what a
method must and nothing else: class means need nothing, SimpleShot the mean row, a
softmax over cosines its temperature, ridge regression its penalty and its temperature.
Which comparison is best depends on how many rows of a class there are: SimpleShot with
few, ridge regression with many.

Run with `python plot_frozen_features.py --output FILE`; needs matplotlib, takes less
than a minute on one core, and downloads nothing.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits

from sklmeta import (
    ClassPool,
    MatchingNetClassifier,
    ProtoNetClassifier,
    RidgeNetClassifier,
    SimpleShotClassifier,
)
from sklmeta.inspection import ShotCurveDisplay


def main(argv=None):
    """Fit on the digits 0 to 4, judge on 5 to 9, draw; return the display."""
    options = parse(argv)
    matplotlib.use("Agg")
    torch.set_num_threads(1)  # there is little to compute
    # Any rows would do; the 64 pixels of a digit stand for features of a network.
    pool = ClassPool(*load_digits(return_X_y=True))
    known, new = pool[:5], pool[5:]
    methods = {}
    for name, learner in make_methods(options.quick).items():
        start = time.perf_counter()
        methods[name] = learner.fit(known)
        seconds = time.perf_counter() - start
        print(f"{name:<20} learns {what_was_learned(learner):<46} {seconds:.2f} s")
    display = ShotCurveDisplay.from_estimators(
        methods,
        new,
        n_shots=[1, 5] if options.quick else [1, 2, 5, 10, 20],
        n_query=15,
        n_episodes=10 if options.quick else 300,
    )
    display.ax_.set(xlabel="images of each digit never seen")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    display.figure_.savefig(options.output, dpi=150)
    plt.close(display.figure_)
    print(f"Figure: {options.output}")
    return display


def make_methods(quick):
    """Return four ways to compare feature rows, none of which trains a network."""
    given = {"backbone": "identity", "random_state": 0}
    drawn = {"n_shot": (1, 10), "max_iter": 5 if quick else 100, "outer_lr": 0.03}
    return {
        "class means": ProtoNetClassifier(**given),
        "SimpleShot": SimpleShotClassifier(**given),
        "attention by cosine": MatchingNetClassifier(
            learn_temperature=True, **given, **drawn
        ),
        "ridge regression": RidgeNetClassifier(**given, **drawn),
    }


def what_was_learned(learner):
    """Name what a fitted meta-learner knows of the classes of its training."""
    if hasattr(learner, "mean_feature_"):
        return "the mean row"
    names = [name for name, _ in learner.learner_.named_parameters()]
    return ", ".join(names) or "nothing"


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("frozen_features.png"),
        help="file of the figure (default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to see that it runs"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
