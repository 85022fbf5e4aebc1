"""A search over tasks on a Dask cluster, and the same without one.

The folds and candidates of scikit-learn's searches are shared out by joblib, so that
the whole difference is one `with`. A cluster of two processes on this machine stands
for a real one, whose address `--address` takes. The results agree to the last bit:
episodes and first weights depend on `random_state`, workers compute with one thread.

    pip install dask distributed
    python dask_search.py

takes a minute or two on two cores, and downloads nothing.

With Ray, `pip install ray`, the lines in `on_the_cluster` are these, and find the same:

    import ray
    from ray.util.joblib import register_ray

    register_ray()
    ray.init(num_cpus=2)  # or address="auto": a cluster that is already running
    with parallel_config("ray", n_jobs=-1):
        search.fit(tasks)

Where the tasks hold much data, `parallel_config("dask", scatter=[tasks])` sends them to
each worker once, instead of with every fit.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack

import numpy as np
from distributed import Client, LocalCluster
from joblib import parallel_config
from sklearn.model_selection import RandomizedSearchCV
from sklearn.preprocessing import StandardScaler

from sklmeta import MAMLRegressor, make_meta_pipeline
from sklmeta.datasets import make_sinusoids
from sklmeta.model_selection import TaskKFold
from sklmeta.utils import torch_threads


def main(argv=None):
    """Search on the cluster and without; compare."""
    options = parse(argv)
    tasks = make_sinusoids(60 if options.quick else 240, random_state=0)
    start = time.perf_counter()
    shared_out = on_the_cluster(make_search(options), tasks, options.address)
    seconds = time.perf_counter() - start
    print(f"on the cluster:  {seconds:.1f} s, {shared_out.best_params_}")

    start = time.perf_counter()
    with torch_threads(1):  # as many as workers have
        alone = make_search(options).fit(tasks)
    seconds = time.perf_counter() - start
    print(f"in this process: {seconds:.1f} s, {alone.best_params_}")
    assert_same(shared_out.cv_results_, alone.cv_results_)
    print("All scores are equal to the last bit.")
    return alone.best_params_


def make_search(options):
    """Return a random search over the inner loop; folds are of whole tasks."""
    learner = MAMLRegressor(
        max_iter=5 if options.quick else 300, random_state=0, device="cpu"
    )
    return RandomizedSearchCV(
        make_meta_pipeline(StandardScaler(), learner),
        {
            "mamlregressor__inner_lr": [0.001, 0.003, 0.01, 0.03, 0.1],
            "mamlregressor__inner_steps": [1, 2, 5],
        },
        n_iter=2 if options.quick else 6,
        cv=TaskKFold(3),
        random_state=0,
        error_score="raise",
    )


def on_the_cluster(search, tasks, address=None):
    """Fit a search on a cluster: by default, two processes of one thread each here."""
    with ExitStack() as stack:
        if address is None:
            local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
            address = stack.enter_context(LocalCluster(**local))
        stack.enter_context(Client(address))
        with parallel_config("dask"):
            return search.fit(tasks)


def assert_same(results, others):
    """Compare all that two searches found, but for the times."""
    assert results["params"] == others["params"]
    for name, values in results.items():
        if name != "params" and not name.endswith("_time"):
            np.testing.assert_array_equal(values, others[name], name)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few updates, for a test")
    parser.add_argument("--address", help="of a cluster's scheduler; default: none")
    return parser.parse_args(argv)


if __name__ == "__main__":  # workers start by importing this file
    main()
