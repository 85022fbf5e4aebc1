"""Scores by domain: the column of evaluate and compare, and summaries of each."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from sklmeta import (
    ClassPool,
    PerTaskRegressor,
    PooledRegressor,
    SimpleShotClassifier,
    TaskSet,
)
from sklmeta.datasets import load_digits_pool
from sklmeta.model_selection import compare, evaluate
from sklmeta.model_selection._episode_tasks import episode_tasks
from sklmeta.model_selection._protocol import EpisodeProtocol


def lines(n_tasks, noise):
    rng = np.random.default_rng(n_tasks)
    x = rng.normal(size=(n_tasks, 12))
    y = x * rng.normal(size=(n_tasks, 1)) + noise * rng.normal(size=x.shape)
    return TaskSet.from_offsets(
        x.reshape(-1, 1), y.ravel(), np.arange(n_tasks + 1) * 12
    )


TASKS = TaskSet.from_domains({"quiet": lines(5, 0.0), "noisy": lines(6, 1.0)})
DIGITS = load_digits_pool()
FLAT = ClassPool(DIGITS.X.reshape(-1, 64), DIGITS.y)
POOL = ClassPool.from_domains({"low": FLAT[:4], "high": FLAT[4:]})
META = PerTaskRegressor(LinearRegression()).fit(TASKS)


def test_evaluate_tells_the_domain_of_each_task():
    scores = evaluate(META, TASKS, metric=["rmse", "mae"], n_episodes=2).scores
    assert list(scores.columns) == ["domain", "task", "episode", "metric", "score"]
    expected = TASKS.summary()["domain"]
    assert (scores["domain"] == scores["task"].map(expected)).all()
    assert len(scores) == 11 * 2 * 2


def test_summaries_of_each_domain():
    result = evaluate(META, TASKS, n_episodes=2)
    table = result.by_domain()
    assert table.index.tolist() == [("quiet", "rmse"), ("noisy", "rmse")]
    assert table.index.names == ["domain", "metric"]
    assert table["n_tasks"].tolist() == [5, 6]
    assert table["mean"].iloc[0] < 1e-6 < 0.5 < table["mean"].iloc[1]
    quiet = evaluate(META, TASKS[:5], n_episodes=2).summary()
    pd.testing.assert_frame_equal(table.loc["quiet"], quiet)


def test_tasks_without_domains_have_no_column():
    plain = lines(4, 0.1)
    result = evaluate(META, plain, n_episodes=1)
    assert list(result.scores.columns) == ["task", "episode", "metric", "score"]
    with pytest.raises(ValueError, match="judged have no domains"):
        result.by_domain()
    some = evaluate(META, TASKS[:2] + plain, n_episodes=1)
    assert some.scores["domain"].isna().tolist() == [False] * 2 + [True] * 4
    assert some.by_domain()["n_tasks"].tolist() == [2, 4]


def test_compare_tells_domains_over_folds():
    methods = {
        "own": PerTaskRegressor(LinearRegression()),
        "pooled": PooledRegressor(Ridge()),
    }
    result = compare(methods, TASKS, cv=3, n_episodes=2)
    assert list(result.scores.columns)[:4] == ["method", "fold", "domain", "task"]
    table = result.by_domain()
    assert table.index.tolist() == [
        (domain, method) for domain in ("quiet", "noisy") for method in methods
    ]
    assert table["n_tasks"].tolist() == [5, 5, 6, 6]
    assert table.loc[("quiet", "own"), "win_rate"] == 1
    assert np.isnan(table.loc[("quiet", "pooled"), "difference"])


def test_episodes_of_a_pool_are_of_one_domain():
    meta = SimpleShotClassifier("identity").fit(POOL)
    result = evaluate(meta, POOL, n_way=3, n_shot=1, n_query=5, n_episodes=60)
    own = [{name.split("/")[0] for name in names} for names in result.scores["task"]]
    assert own == [{domain} for domain in result.scores["domain"]]
    assert set(result.scores["domain"]) == {"low", "high"}
    assert result.by_domain()["n_episodes"].sum() == 60


def test_episodes_as_tasks_keep_the_domain():
    drawn = EpisodeProtocol(n_way=2, n_episodes=20).draw(POOL[::-1], True)
    tasks = episode_tasks(drawn)
    first = [str(task.y[0]).split("/")[0] for task in tasks]
    assert tasks.domains.tolist() == first == drawn.domains.tolist()
    assert drawn[3:5].domains.tolist() == first[3:5]
