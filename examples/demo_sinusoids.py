"""First part of the demo: sine waves from five points each."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from demo_report import Problem, Result, with_progress
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.neural_network import MLPRegressor

from sklmeta import MAMLRegressor
from sklmeta.datasets import make_sinusoids

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


def run(size: Size, folder: Path) -> tuple[Problem, Path]:
    """Train on waves, judge on others, and draw one of them."""
    train = make_sinusoids(size.n_train, n_samples=20, random_state=0)
    test = make_sinusoids(size.n_test, n_samples=N_SHOT + 50, random_state=1)
    print(f"Sine waves: {len(train):,} to learn from, {len(test):,} others to judge on")

    # All choices were made on training waves: none of the waves in `test` was looked at.
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
    pooled = fit_pooled(train, size.pooled_epochs)
    process = tune_process(train[:100])

    supports = [(task.X[:N_SHOT], task.y[:N_SHOT]) for task in test]
    queries = [task.X[N_SHOT:] for task in test]
    predictions = {
        f"MAML, {STEPS} steps on the 5 points": meta.predict_tasks(supports, queries),
        "Gaussian process on the 5 points": [
            process.fit(X, y).predict(new)
            for (X, y), new in zip(supports, queries, strict=True)
        ],
        "one network for all waves": [pooled.predict(new) for new in queries],
    }
    results = [
        Result(method, squared_errors(test, predicted), method.startswith("MAML"))
        for method, predicted in predictions.items()
    ]
    title = (
        f"Sine waves never seen, {N_SHOT} points: mean squared error (lower is better)"
    )
    figure = draw(meta, process, pooled, test[shown_task(test)], folder)
    return Problem(title, results, lower_is_better=True), figure


def fit_pooled(train, n_epochs):
    """Return one network that learned all rows of all waves as one data set."""
    rows = train.rows()
    pooled = MLPRegressor(
        hidden_layer_sizes=(64, 64),
        learning_rate_init=3e-3,
        max_iter=n_epochs,
        early_stopping=n_epochs > 2,
        random_state=0,
    )
    with warnings.catch_warnings():
        # It has long stopped improving when its epochs end.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return pooled.fit(rows.X, rows.y)


def tune_process(tasks):
    """Return a Gaussian process with the length scale that suits training waves best.

    Its usual fit by marginal likelihood does worse: five points say little about
    smoothness.
    """
    processes = [
        GaussianProcessRegressor(RBF(scale), alpha=1e-4, optimizer=None)
        for scale in LENGTH_SCALES
    ]
    errors = [np.mean([process_error(p, task) for task in tasks]) for p in processes]
    return processes[int(np.argmin(errors))]


def process_error(process, task):
    process.fit(task.X[:N_SHOT], task.y[:N_SHOT])
    return np.mean((process.predict(task.X[N_SHOT:]) - task.y[N_SHOT:]) ** 2)


def squared_errors(tasks, predictions):
    """Return each task's mean squared error on the rows after the support, (T,)."""
    pairs = zip(tasks, predictions, strict=True)
    return np.array([np.mean((p - task.y[N_SHOT:]) ** 2) for task, p in pairs])


def shown_task(tasks):
    """Return the wave that shows most: large, its points all in one half.

    Picked by the points alone, before any prediction.
    """
    spread = [np.ptp(task.X[:N_SHOT]) for task in tasks]
    height = [np.ptp(task.y) for task in tasks]
    return int(np.argmax(np.array(height) - np.array(spread)))


def draw(meta, process, pooled, task, folder):
    """Save the figure of one unseen wave before and after adaptation."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    X, y = task.X[:N_SHOT], task.y[:N_SHOT]
    grid = np.linspace(-5, 5, 400, dtype=np.float32)[:, None]
    order = np.argsort(task.X[:, 0])
    models = {
        # A step of no length leaves the meta-learned weights as they are.
        "before": meta.set_params(inner_steps=1, inner_lr=1e-12).adapt(X, y),
        "step": meta.set_params(inner_lr=0.05).adapt(X, y),
        "steps": meta.set_params(inner_steps=STEPS).adapt(X, y),
    }
    curves = {name: model.predict(grid) for name, model in models.items()}

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="tight")
    for ax in axes:
        ax.plot(task.X[order, 0], task.y[order], color=GREY, lw=5, alpha=0.35)
        ax.plot(X[:, 0], y, "o", color=INK, ms=8, zorder=5)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(xlabel="x", xlim=(-5, 5))
    left, right = axes
    left.plot(grid, curves["before"], "--", color=BLUE, lw=1.8, label="before adapting")
    left.plot(grid, curves["step"], color=BLUE, lw=1.5, alpha=0.5, label="after 1 step")
    left.plot(grid, curves["steps"], color=BLUE, lw=2.5, label=f"after {STEPS} steps")
    left.set(ylabel="y", title="MAML adapts to five points of a new wave")
    right.plot(
        grid,
        process.fit(X, y).predict(grid),
        color=ORANGE,
        lw=2,
        label="Gaussian process, five points only",
    )
    right.plot(
        grid, pooled.predict(grid), color=GREEN, lw=2, label="one network for all waves"
    )
    right.set(title="Without meta-learning")
    for ax in axes:
        ax.plot([], [], color=GREY, lw=5, alpha=0.35, label="the true wave")
        ax.legend(frameon=False, fontsize=9, loc="best")
    path = folder / "sinusoid_adaptation.png"
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
