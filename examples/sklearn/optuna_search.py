"""Optuna tunes MAML's inner loop, and gives up trials that fall behind.

A trial meta-trains on some tasks. Two callbacks of skorch go along: one lowers the
learning rate as training goes on, the other tells Optuna the loss on held-out tasks
after every epoch, so that a trial behind the others is given up. What counts in the end
is a scorer with fixed episodes, the same for all trials. The winner then meets the
default parameters on tasks that neither has seen.

    pip install optuna
    python optuna_search.py

takes less than a minute on one core, and downloads nothing.
"""

from __future__ import annotations

import argparse

import optuna
import torch
from skorch.callbacks import Callback, LRScheduler

from sklmeta import MAMLRegressor
from sklmeta.datasets import make_sinusoids
from sklmeta.model_selection import compare, make_episode_scorer

EPOCHS = 6


class ReportToTrial(Callback):
    """Tells a trial how it does on held-out tasks, and ends it if it is given up."""

    def __init__(self, trial):
        self.trial = trial

    def on_epoch_end(self, net, **kwargs):
        # The study maximises, so a trial is judged by the loss with a minus.
        self.trial.report(-net.history[-1, "valid_loss"], step=len(net.history))
        if self.trial.should_prune():
            raise optuna.TrialPruned  # which fit raises, changing nothing else


def main(argv=None):
    """Tune, then compare the winner with the defaults; return study and comparison."""
    options = parse(argv)
    torch.set_num_threads(1)  # the nets are small
    tasks = make_sinusoids(90 if options.quick else 450, random_state=0)
    n = len(tasks) // 3
    train, held_out, new = tasks[:n], tasks[n : 2 * n], tasks[2 * n :]
    scorer = make_episode_scorer("neg_root_mean_squared_error", n_shot=5)

    def objective(trial):
        meta = make_meta(options, ReportToTrial(trial)).set_params(
            inner_lr=trial.suggest_float("inner_lr", 1e-3, 0.2, log=True),
            inner_steps=trial.suggest_int("inner_steps", 1, 5),
        )
        meta.fit(train, validation_tasks=held_out)
        return scorer(meta, held_out)

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=3),
    )
    study.optimize(objective, n_trials=6 if options.quick else 16)
    print(table(study.trials))

    tuned = make_meta(options).set_params(**study.best_params)
    methods = {"tuned": tuned, "default": make_meta(options)}
    comparison = compare(methods, new, train_tasks=train)
    print(comparison)
    return study, comparison


def make_meta(options, *callbacks):
    """Return a meta-learner that trains at a falling rate."""
    max_iter = 12 if options.quick else 360
    schedule = LRScheduler("CosineAnnealingLR", T_max=max_iter, step_every="batch")
    return MAMLRegressor(
        outer_lr=3e-3,
        max_iter=max_iter,
        eval_every=max_iter // EPOCHS,
        callbacks=[schedule, *callbacks],
        random_state=0,
        device="cpu",
    )


def table(trials):
    """Return a line for each trial, and after how many epochs it was given up."""
    lines = [
        f"{'trial':>5} {'inner_lr':>9} {'inner_steps':>12}  error on held-out tasks"
    ]
    for trial in trials:
        if trial.state == optuna.trial.TrialState.PRUNED:
            result = f"given up after {trial.last_step} of {EPOCHS} epochs"
        else:
            result = f"{-trial.value:.3f}"
        rate, steps = trial.params["inner_lr"], trial.params["inner_steps"]
        lines.append(f"{trial.number:>5} {rate:>9.4f} {steps:>12}  {result}")
    return "\n".join(lines)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few updates, for a test")
    return parser.parse_args(argv)


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    main()
