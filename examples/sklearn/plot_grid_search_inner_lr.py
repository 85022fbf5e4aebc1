"""How far should one step of adaptation go? A grid search over tasks, in two forms.

A table of sales with a column that says which shop becomes a set of tasks. A pipeline
scales its numbers, encodes its text and meta-trains MAML; GridSearchCV tunes the inner
step size and the number of inner steps on shops that were held out whole. The winner
adapts to a shop that opened last week. The same search on the plain table, with the
shops as `groups`, finds the same.

Run with `python plot_grid_search_inner_lr.py --output FILE`; needs matplotlib, takes
less than a minute on one core, and downloads nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import sklearn
import torch
from matplotlib import pyplot as plt
from sklearn.compose import make_column_transformer
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklmeta import MAMLRegressor, TaskSet, make_meta_pipeline
from sklmeta.model_selection import TaskKFold

NUMBERS, TEXT = ["price", "degrees"], ["weekday"]


def main(argv=None):
    """Search in both forms, adapt to a new shop, draw; return the best parameters."""
    options = parse(argv)
    matplotlib.use("Agg")
    torch.set_num_threads(1)  # the nets are small
    sales = make_sales(n_shops=30 if options.quick else 101)
    *_, newest = sales["shop"].unique()
    known, new = sales[sales["shop"] != newest], sales[sales["shop"] == newest]

    tasks = TaskSet.from_frame(known, target="units", task="shop")
    print(tasks)
    on_tasks = make_search(options.quick).fit(tasks)
    print("On a TaskSet:  ", on_tasks.best_params_)

    with sklearn.config_context(enable_metadata_routing=True):
        in_long_format = make_search(options.quick)
        X, y = known[NUMBERS + TEXT], known["units"]
        in_long_format.fit(X, y, groups=known["shop"])
    print("In long format:", in_long_format.best_params_)
    assert in_long_format.best_params_ == on_tasks.best_params_

    print_forecast(on_tasks.best_estimator_, new)
    draw(pd.DataFrame(on_tasks.cv_results_), options.output)
    return on_tasks.best_params_


def make_search(quick):
    """Return a search over how to adapt, in a pipeline that takes numbers and text."""
    columns = make_column_transformer(
        (StandardScaler(), NUMBERS), (OneHotEncoder(), TEXT)
    )
    learner = MAMLRegressor(
        outer_lr=5e-3, max_iter=10 if quick else 100, random_state=0
    )
    rates = [0.01, 0.1] if quick else [0.001, 0.003, 0.01, 0.03, 0.1]
    grid = {"mamlregressor__inner_lr": rates, "mamlregressor__inner_steps": [1, 3]}
    return GridSearchCV(
        make_meta_pipeline(columns, learner), grid, cv=TaskKFold(3), error_score="raise"
    )


def make_sales(n_shops, n_days=14, seed=0):
    """Return sales of ice cream: every shop has customers of its own."""
    rng = np.random.default_rng(seed)
    n_rows = n_shops * n_days
    day = np.tile(np.arange(n_days), n_shops)
    sales = pd.DataFrame(
        {
            "shop": np.repeat([f"shop {i}" for i in range(n_shops)], n_days),
            "price": rng.uniform(1, 3, n_rows),
            "degrees": rng.uniform(10, 35, n_rows),
            "weekday": np.array(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])[
                day % 7
            ],
        }
    )

    def of_shop(low, high):
        return np.repeat(rng.uniform(low, high, n_shops), n_days)

    # From a temperature of the shop's own on, people stay at home.
    too_hot = np.clip(sales["degrees"] - of_shop(18, 32), 0, None)
    sales["units"] = (
        of_shop(60, 140)
        - of_shop(5, 25) * sales["price"]
        + of_shop(1, 4) * sales["degrees"]
        - 8 * too_hot
        + of_shop(-10, 40) * sales["weekday"].isin(["Sat", "Sun"])
        + rng.normal(0, 3, n_rows)
    )
    return sales


def print_forecast(pipeline, new):
    """Adapt to the first week of a shop and predict the second."""
    week, next_week = new[:7], new[7:]
    model = pipeline.adapt(week[NUMBERS + TEXT], week["units"])
    forecast = next_week.assign(forecast=model.predict(next_week[NUMBERS + TEXT]))
    name = new["shop"].iloc[0]
    print(f"\n{name}, new, adapted to seven days; the seven days after:")
    shown = forecast[["weekday", "price", "degrees", "units", "forecast"]]
    print(shown.round(1).to_string(index=False))


def draw(results, path):
    """Draw the score of held-out shops against the inner learning rate."""
    figure, ax = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for n_steps, part in results.groupby("param_mamlregressor__inner_steps"):
        rates = part["param_mamlregressor__inner_lr"].astype(float)
        mean, sd = part["mean_test_score"], part["std_test_score"]
        steps = "1 inner step" if n_steps == 1 else f"{n_steps} inner steps"
        (line,) = ax.plot(rates, mean, marker="o", label=steps)
        ax.fill_between(rates, mean - sd, mean + sd, color=line.get_color(), alpha=0.15)
    ax.set(
        xscale="log",
        xlabel="inner learning rate",
        ylabel="score on held-out shops\n(1: perfect, 0: their own means)",
        title="How far to adapt to five days of a new shop",
    )
    figure.legend(
        title="mean and sd over 3 folds of shops", ncols=2, loc="outside lower center"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"\nFigure: {path}")


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("grid_search_inner_lr.png"),
        help="file of the figure (default: %(default)s)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to see that it runs"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
