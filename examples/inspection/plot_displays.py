"""Five pictures of meta-learning, each made in one call.

What a display shows is computed on copies: the fitted meta-learners stay as they are.

Run with `python plot_displays.py --output FOLDER`; needs matplotlib, takes less than a
minute, and downloads nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import torch
from sklearn.svm import SVR

from sklmeta import (
    MAMLRegressor,
    PerTaskRegressor,
    PooledRegressor,
    ProtoNetClassifier,
)
from sklmeta.backbones import ConvNet
from sklmeta.datasets import Sinusoids, load_digits_pool, make_sinusoids
from sklmeta.inspection import (
    AdaptationDisplay,
    EpisodeDisplay,
    ParameterCurveDisplay,
    ShotCurveDisplay,
    TrainingCurveDisplay,
)


def main(argv=None):
    """Meta-train on waves and on digits, and save the pictures; return their paths."""
    options = parse(argv)
    matplotlib.use("Agg")
    torch.set_num_threads(1)  # the nets are small
    displays = {**on_waves(options.quick), **on_digits(options.quick)}
    options.output.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, display in displays.items():
        paths.append(options.output / f"{name}.png")
        display.figure_.savefig(paths[-1], dpi=150)
        print(paths[-1])
    return paths


def on_waves(quick):
    """Regression: every task is a sine wave, of which a few points are known."""
    train = make_sinusoids(100, random_state=0)
    test = make_sinusoids(20 if quick else 200, n_samples=40, random_state=1)
    maml = MAMLRegressor(
        n_shot=10,
        outer_lr=3e-3,
        max_iter=20 if quick else 500,
        eval_every=10 if quick else 25,
        random_state=0,
    ).fit(Sinusoids(), validation_tasks=make_sinusoids(100, random_state=2))
    methods = {
        "MAML": maml,
        "a model per task": PerTaskRegressor(SVR(C=100)).fit(train),
        "one model for all": PooledRegressor(SVR(C=100)).fit(train),
    }
    return {
        # Was meta-training long enough, and does it generalise?
        "training": TrainingCurveDisplay.from_estimator(maml, name="MAML"),
        # How many rows of a new task are needed, and until where is it worth it?
        "shots": ShotCurveDisplay.from_estimators(
            methods, test, n_shots=[1, 2, 5, 10, 20], n_query=20, n_episodes=1
        ),
        # Would more steps on those rows be better than those of meta-training?
        "inner_steps": ParameterCurveDisplay.from_estimator(
            maml, test, n_shot=10, name="MAML"
        ),
        # What does adapting do to the predictions?
        "adaptation": AdaptationDisplay.from_estimator(maml, test[3], n_shot=10),
    }


def on_digits(quick):
    """Classification: digits 5 to 9 from two images each, having learned on 0 to 4."""
    pool = load_digits_pool()
    protonet = ProtoNetClassifier(
        one_block, n_way=3, max_iter=5 if quick else 100, random_state=0
    ).fit(pool[:5])
    # Which images does it get wrong, and what does it take them for?
    episode = EpisodeDisplay.from_estimator(protonet, pool[5:], n_shot=2, n_query=8)
    return {"episode": episode}


def one_block(input_shape):
    """Return a backbone for 8 x 8 pixels, which four blocks would halve to one."""
    return ConvNet(input_shape, n_blocks=1)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(),
        help="folder of the pictures (default: the current one)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to see that it runs"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
