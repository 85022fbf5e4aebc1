"""Searches whose fits are shared out: equal results everywhere, threads that share."""

import functools
import os
import runpy
import threading
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
import torch
from joblib import parallel_config
from scipy.stats import loguniform
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sklmeta import (
    FewShotRegressor,
    MAMLClassifier,
    MAMLRegressor,
    PerTaskRegressor,
    PooledRegressor,
    ProtoNetClassifier,
    TaskSet,
    make_meta_pipeline,
)
from sklmeta.backbones import ConvNet
from sklmeta.datasets import load_digits_pool, make_sinusoids
from sklmeta.model_selection import (
    TaskKFold,
    TaskShuffleSplit,
    compare,
    make_episode_scorer,
)
from sklmeta.utils import torch_threads

EXAMPLES = Path(__file__).parents[1] / "examples/sklearn"
WAVES = make_sinusoids(24, random_state=0)
DIGITS = load_digits_pool()
QUICK = {"max_iter": 3, "batch_size": 4, "random_state": 0, "device": "cpu"}


def sides(n_tasks=16):
    """Return tasks of shared labels: on which side of the task's own plane rows are."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_tasks, 20, 3))
    y = np.where(
        np.einsum("trf,tf->tr", X, rng.normal(size=(n_tasks, 3))) > 0, "b", "a"
    )
    return TaskSet(list(zip(X, y, strict=True)))


def own_factory():
    """Return a backbone that draws from torch's global generator, as users' do.

    A function inside another one, so that workers get it by value.
    """

    def factory(input_shape):
        return nn.Sequential(nn.Linear(input_shape[0], 8), nn.Tanh())

    return factory


def search_of(name, n_jobs=None):
    """Return an unfitted search and what its fit takes."""
    common = {"n_jobs": n_jobs, "error_score": "raise", "return_train_score": True}
    rates = {"inner_lr": [0.01, 0.1]}
    if name == "regressor":
        meta = MAMLRegressor(own_factory(), **QUICK)
        return GridSearchCV(meta, rates, cv=TaskKFold(2), **common), (WAVES,)
    if name == "random search":
        drawn = {"inner_lr": loguniform(0.01, 0.1), "inner_steps": [1, 2]}
        scoring = make_episode_scorer(["rmse", "r2"], n_shot=3, n_episodes=2)
        search = RandomizedSearchCV(
            MAMLRegressor(normalize_y="task", **QUICK),
            drawn,
            n_iter=2,
            cv=TaskShuffleSplit(2, random_state=0),
            scoring=scoring,
            refit="rmse",
            random_state=0,
            **common,
        )
        return search, (WAVES,)
    if name == "images":
        small = functools.partial(ConvNet, width=4, n_blocks=2)
        meta = ProtoNetClassifier(small, n_way=3, n_shot=1, n_query=3, **QUICK)
        scoring = make_episode_scorer("neg_log_loss", n_shot=1, n_query=5, n_episodes=5)
        grid = {"metric": ["sqeuclidean", "cosine"]}
        cv = TaskKFold(2)
        return GridSearchCV(meta, grid, cv=cv, scoring=scoring, **common), (DIGITS,)
    assert name == "pipeline"
    pipeline = make_meta_pipeline(StandardScaler(), MAMLClassifier(**QUICK))
    grid = {"standardscaler__with_mean": [True, False]}
    grid |= {f"mamlclassifier__{key}": values for key, values in rates.items()}
    return GridSearchCV(pipeline, grid, cv=TaskKFold(2), **common), (sides(),)


SEARCHES = ["regressor", "random search", "images", "pipeline"]


def long_format_search(n_jobs=None):
    """Return a fitted search of a stock pipeline over rows with `groups`."""
    rows = WAVES.rows()
    search = GridSearchCV(
        make_pipeline(StandardScaler(), MAMLRegressor(**QUICK)),
        {"mamlregressor__inner_lr": [0.01, 0.1]},
        cv=TaskKFold(2),
        scoring=make_episode_scorer(n_shot=3),
        n_jobs=n_jobs,
        error_score="raise",
    )
    with sklearn.config_context(enable_metadata_routing=True):
        return search.fit(rows.X, rows.y, groups=np.repeat(WAVES.names, 20))


@functools.cache
def alone(name):
    """Return the fitted search that one process did, on one thread."""
    if name == "long format":
        return long_format_search()
    search, data = search_of(name)
    return search.fit(*data)


def assert_same_search(found, expected):
    """Compare all that was found, but for the times, to the last bit."""
    results = {k: v for k, v in found.cv_results_.items() if not k.endswith("_time")}
    assert results.pop("params") == expected.cv_results_["params"]
    for key, values in results.items():
        np.testing.assert_array_equal(values, expected.cv_results_[key], key)
    assert found.best_params_ == expected.best_params_
    one, other = (
        search.best_estimator_[-1]
        if hasattr(search.best_estimator_, "steps")
        else search.best_estimator_
        for search in (found, expected)
    )
    for weight, same in zip(
        one.learner_.parameters(), other.learner_.parameters(), strict=True
    ):
        assert torch.equal(weight, same)


@pytest.fixture(scope="module")
def dask_cluster():
    distributed = pytest.importorskip(
        "distributed", reason="pip install dask distributed"
    )
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster):
        yield cluster


@pytest.fixture(params=["loky", "threading", "dask"])
def backend(request):
    """Run a test with two workers of each kind, of one torch thread each."""
    if request.param == "dask":
        request.getfixturevalue("dask_cluster")
    # Threads of this process have its number of threads, which conftest.py sets to 1.
    options = {"inner_max_num_threads": 1} if request.param == "loky" else {}
    with parallel_config(request.param, n_jobs=2, **options):
        yield request.param


# Equal results ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_find_the_same_on_every_backend(backend, name):
    search, data = search_of(name, n_jobs=2)
    assert_same_search(search.fit(*data), alone(name))


def test_long_format_is_the_same_on_every_backend(backend):
    assert_same_search(long_format_search(n_jobs=2), alone("long format"))


def test_few_shot_estimators_are_the_same_on_every_backend(backend):
    meta, task = alone("regressor").best_estimator_, WAVES[0]
    found, expected = (
        cross_val_score(
            FewShotRegressor(meta), task.X, task.y, cv=4, n_jobs=n, error_score="raise"
        )
        for n in (2, 1)
    )
    np.testing.assert_array_equal(found, expected)


def test_comparisons_are_the_same_on_every_backend(backend):
    methods = {
        "MAML": MAMLRegressor(**QUICK),
        "per task": PerTaskRegressor(),
        "pooled": PooledRegressor(),
    }
    found, expected = (
        compare(methods, WAVES, cv=TaskKFold(2), n_shot=3, n_episodes=2, n_jobs=n)
        for n in (2, 1)
    )
    assert found.scores.equals(expected.scores)


def test_example_on_a_cluster_finds_the_same(dask_cluster, capsys):
    example = runpy.run_path(str(EXAMPLES / "dask_search.py"))
    best = example["main"](["--quick", "--address", dask_cluster.scheduler_address])
    assert capsys.readouterr().out.count(str(best)) == 2


# Nothing leaks ------------------------------------------------------------------------


def global_state():
    return (
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),  # noqa: NPY002
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        sklearn.get_config(),
    )


def test_threads_leave_global_state_alone():
    before = global_state()
    with parallel_config("threading", n_jobs=4):
        search, data = search_of("regressor", n_jobs=4)
        search.fit(*data)
    assert global_state() == before


def seen_by_scorer(estimator, X, y=None):
    """Return what a worker's thread would compute and score with."""
    routing = sklearn.get_config()["enable_metadata_routing"]
    return {"routing": routing, "gradients": torch.is_grad_enabled()}


@pytest.mark.parametrize("routing", [False, True])
def test_settings_of_the_caller_hold_in_threads(routing):
    """Meta-training switches routing off for itself alone."""
    search = GridSearchCV(
        MAMLRegressor(**QUICK),
        {"inner_lr": [0.01, 0.1]},
        cv=TaskKFold(3),
        scoring=seen_by_scorer,
        refit=False,
        n_jobs=3,
    )
    config = sklearn.config_context(enable_metadata_routing=routing)
    with config, parallel_config("threading"):
        search.fit(WAVES)
    assert set(search.cv_results_["mean_test_routing"]) == {routing}
    assert set(search.cv_results_["mean_test_gradients"]) == {True}


def test_two_searches_at_once_find_what_each_finds_alone():
    found = {}

    def run(name):
        if name == "long format":
            found[name] = long_format_search()
        else:
            search, data = search_of(name)
            found[name] = search.fit(*data)

    names = ["regressor", "long format", "pipeline"]
    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert_same_search(found[name], alone(name))


# Threads of torch ---------------------------------------------------------------------


def n_threads(estimator, X, y=None):
    import torch  # workers get this function by value

    return torch.get_num_threads()


def threads_of_workers(**options):
    """Return how many threads torch has in the workers of a search."""
    scoring = functools.partial(n_threads)
    search = GridSearchCV(
        PooledRegressor(),
        {"n_shot": [3, 4]},
        cv=TaskKFold(2),
        scoring=scoring,
        n_jobs=2,
    )
    with parallel_config(n_jobs=2, **options):
        search.fit(WAVES)
    values = [search.cv_results_[f"split{fold}_test_score"] for fold in (0, 1)]
    return set(np.concatenate(values).astype(int).tolist())


def test_processes_share_the_cores():
    share = max(1, joblib.cpu_count() // 2)
    allowed = max(share, int(os.environ.get("OMP_NUM_THREADS", 1)))
    assert max(threads_of_workers(backend="loky")) <= allowed
    assert threads_of_workers(backend="loky", inner_max_num_threads=1) == {1}


def test_threads_share_the_cores_where_they_are_told_to():
    with torch_threads(3):
        assert threads_of_workers(backend="threading") == {3}  # six on two workers
        with torch_threads(1):
            assert threads_of_workers(backend="threading") == {1}
        assert torch.get_num_threads() == 3


def test_workers_of_a_dask_cluster_have_one_thread(dask_cluster):
    assert threads_of_workers(backend="dask") == {1}


def test_number_of_threads_is_put_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 2):
        assert torch.get_num_threads() == before + 2
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("n_threads", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_wrong_numbers_of_threads_are_refused(n_threads, error):
    with pytest.raises(error, match="n_threads"), torch_threads(n_threads):
        pass
