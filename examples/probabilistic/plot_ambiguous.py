"""Where few rows leave open what a task is, probabilistic methods draw every answer.

Five noisy rows in a narrow range may be of a line or of a sine wave, and rows whose two
attributes agree say nothing on which of them tells the classes apart. MAML adapts one
network, which is one answer or something between them. Probabilistic MAML and the
latent neural process draw many: some are lines and some waves, some go by one attribute
and some by the other. The best of 20 draws is far nearer to the truth than MAML is.

Run with `python plot_ambiguous.py --output FOLDER`; needs matplotlib, takes about half
a minute of one core, and downloads nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch

from sklmeta import (
    MAMLClassifier,
    MAMLRegressor,
    NeuralProcessClassifier,
    NeuralProcessRegressor,
    ProbabilisticMAMLClassifier,
    ProbabilisticMAMLRegressor,
)
from sklmeta.backbones import MLP
from sklmeta.datasets import AmbiguousAttributes, SinusoidsOrLines
from sklmeta.engine.batches import Rows

WAVES = SinusoidsOrLines(support_range=(-1, 1))
ATTRIBUTES = AmbiguousAttributes()
N_DRAWS = 20
GRID = np.linspace(-5, 5, 101, dtype=np.float32)
# Trained on one draw of its latent variable, a neural process may leave it unused.
LATENT = {"latent": True, "n_train_samples": 8, "hidden_size": 64, "outer_lr": 2e-3}
FIRST, SECOND, SINGLE = "tab:orange", "tab:blue", "black"  # of two explanations


def main(argv=None):
    """Meta-train on both problems, draw, measure; return the path of the picture."""
    options = parse(argv)
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    torch.set_num_threads(1)  # the nets are small
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
    common = {"max_iter": 5 if options.quick else 600, "random_state": 0}
    n_new = 3 if options.quick else 100
    for column, (name, meta) in enumerate(regressors(common).items()):
        meta.fit(WAVES)
        print(f"sinusoid or line, {name}: {measure_waves(meta, n_new)}")
        draw_waves(axes[0, column], name, meta)
    for column, (name, meta) in enumerate(classifiers(common).items()):
        meta.fit(ATTRIBUTES)
        print(f"two attributes, {name}: {measure_attributes(meta, n_new)}")
        draw_boundaries(axes[1, column], name, meta)
    label(axes)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "ambiguous.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(path)
    return path


def backbone(input_shape):
    return MLP(input_shape[0], (40, 40), generator=torch.Generator().manual_seed(0))


def regressors(common):
    steps = {"inner_lr": 0.1, "inner_steps": 5, "outer_lr": 3e-3, **common}
    return {
        "MAML": MAMLRegressor(backbone, **steps),
        "probabilistic MAML": ProbabilisticMAMLRegressor(backbone, **steps),
        "latent neural process": NeuralProcessRegressor(**LATENT, **common),
    }


def classifiers(common):
    common = {"normalize_x": False, **common}
    steps = {"inner_lr": 0.3, "inner_steps": 5, "outer_lr": 5e-3, **common}
    return {
        "MAML": MAMLClassifier(backbone, **steps),
        "probabilistic MAML": ProbabilisticMAMLClassifier(backbone, **steps),
        "latent neural process": NeuralProcessClassifier(**LATENT, **common),
    }


# Sinusoid or line ----------------------------------------------------------------


def drawn_functions(meta, X_support, y_support, X):
    """Return functions of a task at rows, (draws, rows); MAML has one."""
    model = meta.adapt(X_support, y_support)
    if isinstance(meta, MAMLRegressor):
        return model.predict(X)[None]
    return model.sample_y(X, N_DRAWS, noise=False).T


def is_line(functions):
    """Return whether functions on the grid are nearer to a line than to a wave."""
    kinds = [GRID, np.ones_like(GRID)], [np.sin(GRID), np.cos(GRID)]
    rest = []
    for terms in kinds:
        design = np.column_stack(terms).astype(float)
        fitted = functions @ design @ np.linalg.pinv(design)
        rest.append(np.square(functions - fitted).mean(1))
    return rest[0] < rest[1]


def measure_waves(meta, n_tasks):
    """Say how new tasks are answered."""
    lines, best = [], []
    for task in WAVES.sample(n_tasks, random_state=1):
        support = task.X[task.support], task.y[task.support]
        X = np.concatenate([GRID[:, None], task.X[~task.support]])
        functions = drawn_functions(meta, *support, X)
        lines.append(is_line(functions[:, : len(GRID)]).mean())
        errors = functions[:, len(GRID) :] - task.y[~task.support]
        best.append(np.sqrt(np.square(errors).mean(1)).min())
    both = np.mean([0.05 <= share <= 0.95 for share in lines])
    error = np.mean(best)
    return f"lines and waves for {both:.0%} of tasks, best draw's error {error:.2f}"


def draw_waves(ax, name, meta):
    """Draw the functions of rows that a line and a wave fit equally well."""
    slope, rng = 1.5, np.random.default_rng(0)
    line, wave = slope * GRID, slope * np.sin(GRID)
    x = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    y = slope * (x + np.sin(x))[:, 0] / 2 + 0.1 * rng.standard_normal(5)
    functions = drawn_functions(meta, x, y.astype(np.float32), GRID[:, None])
    for function, as_line in zip(functions, is_line(functions), strict=True):
        ax.plot(GRID, function, alpha=0.8, **style(as_line, len(functions)))
    for explanation in (line, wave):
        ax.plot(GRID, explanation, color="0.4", linestyle=":", linewidth=1.8)
    ax.plot(x, y, "o", color="black", markersize=5, zorder=3)
    ax.set(title=name, ylim=(-9, 9), xlim=(-5, 5))


# Two attributes ------------------------------------------------------------------


def class_1(meta, X_support, y_support, X):
    """Return each network's probability of class 1 at rows, (draws, rows)."""
    learner = meta.learner_  # rows are not normalised: the learner takes them as is
    x, y, query = (torch.from_numpy(part)[None] for part in (X_support, y_support, X))
    with torch.no_grad():
        state = learner.adapt(Rows(x, y, torch.ones(y.shape, dtype=torch.bool)))
        if isinstance(meta, MAMLClassifier):
            logits = learner.predict(state, query)
        else:
            generator = torch.Generator().manual_seed(0)
            logits = learner.draw(state, query, N_DRAWS, generator)[0]
    return logits.double().softmax(-1)[..., 1].numpy()


def by_first(p, X):
    """Return the share of rows whose attributes differ that go by the first."""
    differ = X[:, 0] * X[:, 1] < 0
    return ((p > 0.5) == (X[:, 0] > 0))[:, differ].mean(1)


def measure_attributes(meta, n_tasks):
    """Say how new tasks are answered."""
    both, best = [], []
    for task in AmbiguousAttributes(n_samples=104).sample(n_tasks, random_state=1):
        support, (X, y) = task.support, (task.X[~task.support], task.y[~task.support])
        p = class_1(meta, task.X[support], task.y[support], X)
        both.append(0.05 <= np.mean(by_first(p, X) > 0.5) <= 0.95)
        best.append(((p > 0.5) != y).mean(1).min())
    share, error = np.mean(both), np.mean(best)
    return f"both for {share:.0%} of tasks, best draw's error {error:.1%}"


def draw_boundaries(ax, name, meta):
    """Draw where each network is undecided, over the mean probability of class 1."""
    task = ATTRIBUTES.sample(1, random_state=4)[0]
    axis = np.linspace(-1, 1, 81, dtype=np.float32)
    first, second = np.meshgrid(axis, axis)
    X = np.column_stack([first.ravel(), second.ravel()])
    rows, labels = task.X[task.support], task.y[task.support]
    p = class_1(meta, rows, labels, X)
    mean = p.mean(0).reshape(first.shape)
    ax.contourf(first, second, mean, np.linspace(0, 1, 11), cmap="Greys", alpha=0.4)
    for one, share in zip(p, by_first(p, X), strict=True):
        own, grid = style(share > 0.5, len(p)), one.reshape(first.shape)
        ax.contour(
            *(first, second, grid, [0.5]),
            colors=own["color"],
            linewidths=own["linewidth"],
        )
    for klass, marker in ((0, "s"), (1, "o")):
        own = rows[labels == klass]
        ax.plot(*own.T, marker, color="white", markeredgecolor="black", markersize=8)
    ax.set(title=name, aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])


def style(is_first, n_drawn):
    """Return how a draw looks; a single network is no draw."""
    if n_drawn == 1:
        return {"color": SINGLE, "linewidth": 2.5}
    return {"color": FIRST if is_first else SECOND, "linewidth": 1.2}


def label(axes):
    from matplotlib.lines import Line2D

    looks = (SINGLE, "-"), (FIRST, "-"), (SECOND, "-"), ("0.4", ":")
    lines = [Line2D([], [], color=own, linestyle=dash) for own, dash in looks]
    names = ["the one network", "nearer to a line", "nearer to a wave", "explanations"]
    axes[0, 0].legend(lines, names, fontsize=8, loc="upper left", frameon=False)
    names = ["the one network", "goes by attribute 1", "goes by attribute 2"]
    axes[1, 0].legend(lines[:3], names, fontsize=8, loc="upper left", framealpha=0.9)
    axes[0, 0].set_ylabel("y")
    axes[1, 0].set_ylabel("attribute 2")
    for ax in axes[0]:
        ax.set_xlabel("x")
    for ax in axes[1]:
        ax.set_xlabel("attribute 1")


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
