"""First part of the demo: sine waves from five points each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from demo_report import with_progress
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor

from sklmeta import MAMLRegressor, PerTaskRegressor, PooledRegressor
from sklmeta.datasets import make_sinusoids
from sklmeta.model_selection import (
    Comparison,
    TaskKFold,
    compare,
    make_episode_scorer,
)

N_SHOT = 5
STEPS = 10
LENGTH_SCALES = (0.5, 1.0, 1.5, 2.0, 3.0)
INK, BLUE, ORANGE, GREEN, GREY = "#222222", "#0072B2", "#D55E00", "#009E73", "#8A8A8A"


@dataclass(frozen=True)
class Size:
    """How much to compute."""

    n_train: int = 2000
    n_test: int = 600
    max_iter: int = 4000
    pooled_epochs: int = 30


QUICK = Size(n_train=50, n_test=20, max_iter=40, pooled_epochs=2)


def run(size: Size, folder: Path) -> tuple[dict[str, Comparison], Path]:
    """Train on waves, judge on others, and draw one of them."""
    train = make_sinusoids(size.n_train, n_samples=20, random_state=0)
    test = make_sinusoids(size.n_test, n_samples=N_SHOT + 50, random_state=2026)
    print(f"Sine waves: {len(train):,} to learn from, {len(test):,} others to judge on")

    # Step sizes and steps were chosen on waves drawn with other seeds.
    meta = MAMLRegressor(
        n_shot=N_SHOT,
        inner_lr=0.05,
        inner_steps=1,
        outer_lr=3e-3,
        max_iter=size.max_iter,
        random_state=0,
    )
    with_progress(meta, "MAML meta-trains").fit(train)
    meta.set_params(inner_steps=STEPS)  # more steps on a new wave than in training
    print("  the others are fitted, and all judged on the same points", flush=True)
    pooled = fit_pooled(train, size.pooled_epochs)
    process = tune_process(train[:100])
    found = compare(
        {
            f"MAML, {STEPS} steps on the 5 points": meta,
            "one network for all waves": pooled,
            "Gaussian process on the 5 points": process,
        },
        test,
        metric="mse",
        n_shot=N_SHOT,
        n_episodes=1,
        support_order="first",
    )
    figure = draw(meta, process, pooled, test[shown_task(test)], folder)
    return {f"Sine waves never seen, {N_SHOT} points": found}, figure


def fit_pooled(train, n_epochs):
    """Return one network that learned all rows of all waves as one data set."""
    network = MLPRegressor(
        hidden_layer_sizes=(64, 64),
        learning_rate_init=3e-3,
        max_iter=n_epochs,
        early_stopping=n_epochs > 2,
        random_state=0,
    )
    with warnings.catch_warnings():
        # It has long stopped improving when its epochs end.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return PooledRegressor(network).fit(train)


def tune_process(tasks):
    """Return a Gaussian process with the length scale that suits training waves best.

    Its usual fit by marginal likelihood does worse: five points say little about
    smoothness.
    """
    search = GridSearchCV(
        PerTaskRegressor(GaussianProcessRegressor(RBF(), alpha=1e-4, optimizer=None)),
        {"estimator__kernel__length_scale": LENGTH_SCALES},
        scoring=make_episode_scorer("mse", n_shot=N_SHOT),
        cv=TaskKFold(2),
        error_score="raise",
    )
    return search.fit(tasks).best_estimator_


def shown_task(tasks):
    """Return a large wave whose points lie in one half, apart from each other.

    Picked by the points alone, before any prediction.
    """
    supports = np.sort([task.X[:N_SHOT, 0] for task in tasks])  # (T, S)
    in_one_half = (supports[:, -1] < 0) | (supports[:, 0] > 0)
    apart = np.diff(supports).min(axis=1) > 0.2
    height = np.array([np.ptp(task.y) for task in tasks])
    return int(np.argmax(height * (1 + (in_one_half & apart))))


def draw(meta, process, pooled, task, folder):
    """Save the figure of one unseen wave before and after adaptation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    X, y = task.X[:N_SHOT], task.y[:N_SHOT]
    before = meta.set_params(inner_steps=0).adapt(X, y)
    one_step = meta.set_params(inner_steps=1).adapt(X, y)
    adapted = meta.set_params(inner_steps=STEPS).adapt(X, y)
    network = pooled.adapt(X, y)
    panels = {
        "MAML adapts to five points of a new wave": [
            (before, "before adapting", {"color": BLUE, "ls": "--", "lw": 1.6}),
            (one_step, "after 1 step", {"color": BLUE, "alpha": 0.5, "lw": 1.6}),
            (adapted, f"after {STEPS} steps", {"color": BLUE, "lw": 2.4}),
        ],
        "Without meta-learning": [
            (process.adapt(X, y), "Gaussian process", {"color": ORANGE, "lw": 2.4}),
            (network, "one network for all waves", {"color": GREEN, "lw": 2.4}),
        ],
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="tight")
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        draw_panel(ax, curves, task, title)
    axes[0].set_ylabel("y")
    path = folder / "sinusoid_adaptation.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def draw_panel(ax, curves, task, title):
    grid = np.linspace(-5, 5, 400, dtype=np.float32)[:, None]
    true = {"color": GREY, "lw": 6, "alpha": 0.35, "solid_capstyle": "butt"}
    ax.plot(grid, true_wave(task, grid), label="the true wave", **true)
    for model, label, style in curves:
        ax.plot(grid, model.predict(grid), label=label, **style)
    ax.plot(task.X[:N_SHOT], task.y[:N_SHOT], "o", color=INK, ms=7, label="five points")
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="x", xlim=(-5, 5), title=title)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14), "handlelength": 1.6}
    ax.legend(ncols=3, columnspacing=1.2, frameon=False, fontsize=9, **place)


def true_wave(task, grid):
    """Return the wave that goes through all rows of a task, which have no noise."""
    parts = np.column_stack([np.sin(task.X), np.cos(task.X)])
    weights = np.linalg.lstsq(parts, task.y, rcond=None)[0]
    return np.column_stack([np.sin(grid), np.cos(grid)]) @ weights
