"""Benchmarks of probability-based meta-learners run, and become sections."""

import json

import numpy as np
import pytest

import sklmeta
from sklmeta import TaskSet
from sklmeta.datasets import make_sinusoids


def run(module, folder, *options):
    """Run a benchmark into a folder; return the records in it."""
    module.main([*map(str, options), "--threads", "1", "--output", str(folder)])
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def rendered(script, folder):
    """Return RESULTS.md of the records in a folder."""
    script("report").main(["--results", str(folder)])
    return (folder.parent / "RESULTS.md").read_text()


@pytest.mark.parametrize("model", ["cnp", "anp", "tnpd"])
def test_neural_processes(script, tmp_path, capsys, model):
    options = [model, "--updates", 3, "--warm", 1, "--test-batches", 2]
    (record,) = run(script("neural_processes"), tmp_path / "results", *options)
    found = record["results"]["log_likelihood"]
    assert all(np.isfinite(found[kernel]["mean"]) for kernel in ("rbf", "matern52"))
    assert "| 0% |" in rendered(script, tmp_path / "results")


def test_batches_share_their_numbers_of_rows(script):
    batches = script("neural_processes")
    tasks = batches.Batches().sample(3 * batches.BATCH, 0)
    for start in range(0, len(tasks), batches.BATCH):
        own = tasks[start : start + batches.BATCH]
        (n_context,) = {int(task.support.sum()) for task in own}
        (n_rows,) = {len(task) for task in own}
        assert 3 <= n_context <= n_rows - 3
        assert n_rows < 50


def test_log_likelihoods_are_those_of_predictions(script):
    """The density of a model without a latent variable, task by task."""
    module = script("neural_processes")
    args = module.parse(["cnp", "--updates", "2", "--warm", "1"])
    meta = module.make_meta(args).fit(module.Batches())
    tasks = module.Batches().sample(module.BATCH, 0)
    expected = []
    for task in tasks:
        known = task.support
        model = meta.adapt(task.X[known], task.y[known])
        mean, std = model.predict(task.X[~known], return_std=True)
        z = (task.y[~known] - mean) / std
        expected.append(np.mean(-0.5 * z**2 - np.log(std) - 0.5 * np.log(2 * np.pi)))
    (found,) = module.log_likelihoods(meta.learner_, tasks)
    assert found == pytest.approx(np.mean(expected), abs=1e-5)


def test_learning_rates_rise_and_fall(script):
    schedule = script("neural_processes").schedule
    rates = [schedule(update, 100, 10) for update in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[-1] < 1e-3


def test_sinusoids_by_deep_kernels(script, tmp_path, capsys):
    options = ["--updates", 3, "--test-tasks", 4, "--test-rows", 12]
    options += ["--methods", "spectral", "ALPaCA"]
    (record,) = run(script("sinusoid_deep_kernel"), tmp_path / "results", *options)
    spectral, alpaca = record["results"]
    assert "minus_spectral" not in spectral
    difference = alpaca["minus_spectral"]["out"]["mean"]
    errors = [row["mean_squared_error"]["out"]["mean"] for row in (spectral, alpaca)]
    assert difference == pytest.approx(errors[1] - errors[0], abs=1e-4)
    assert "| spectral kernel |" in rendered(script, tmp_path / "results")


def test_which_one(script, tmp_path, monkeypatch, capsys):
    which_one = script("which_one")
    monkeypatch.setattr(which_one, "N_TASKS", 20)
    full = which_one.methods
    known = ("ridge per task", "linear mixed model")
    monkeypatch.setattr(
        which_one, "methods", lambda seed: {name: full(seed)[name] for name in known}
    )
    (record,) = run(which_one, tmp_path / "results")
    rows = {row["method"]: row for row in record["results"]["offsets"]}
    assert rows["linear mixed model"]["mean"] < rows["ridge per task"]["mean"]
    assert "tasks differ by an offset" in rendered(script, tmp_path / "results")


def test_calibration(script, tmp_path, monkeypatch, capsys):
    calibration = script("calibration")
    monkeypatch.setattr(calibration, "N_TRAINING", 60)
    monkeypatch.setattr(calibration, "N_TEST", 20)
    full = calibration.methods

    def quick(kind, seed):
        found = full(kind, seed)
        known = {"linear mixed model", "ALPaCA"} & set(found)
        return {
            name: found[name].set_params(max_iter=3)
            if hasattr(found[name], "max_iter")
            else found[name]
            for name in sorted(known)
        }

    monkeypatch.setattr(calibration, "methods", quick)
    (record,) = run(calibration, tmp_path / "results")
    linear = record["results"]["linear"]
    assert set(linear["linear mixed model"]) == {"raw"}
    assert set(linear["ALPaCA"]) == {"raw", "calibrated"}
    for shot in ("5", "10"):  # 20 tasks of 30 rows and more: within 3 % of 90 %
        coverage = linear["linear mixed model"]["raw"][shot]["coverage"]["mean"]
        assert coverage == pytest.approx(0.9, abs=0.03)
    assert "Intervals of 90 %" in rendered(script, tmp_path / "results")


@pytest.mark.parametrize("kind", ["linear", "Gaussian process"])
def test_calibration_is_of_different_methods(script, kind):
    found = script("calibration").methods(kind, 0).values()
    described = [(type(one), str(one.get_params())) for one in found]
    assert len(set(described)) == len(described)


@pytest.fixture
def grouped(script, monkeypatch):
    """The benchmark of grouped tables, on a few sine waves with an offset each."""
    module = script("grouped")
    waves = make_sinusoids(24, n_samples=16, random_state=0)
    rng = np.random.default_rng(0)
    tasks = TaskSet([(task.X, task.y + 9 * rng.normal()) for task in waves])
    monkeypatch.setitem(module.DATA, "school", lambda: tasks)
    return module


def test_grouped_tables(script, grouped, tmp_path, capsys):
    methods = ["ridge per task", "linear mixed model", "pooled ridge"]
    options = ["school", "--splits", 2, "--methods", *methods]
    records = run(grouped, tmp_path / "results", *options)
    by_name = {r["results"]["method"]: r["results"]["splits"] for r in records}
    assert set(by_name) == set(methods)
    assert all(split["parameters"] for split in by_name["linear mixed model"])
    assert "nlpd" in by_name["linear mixed model"][0]["errors"]
    text = rendered(script, tmp_path / "results")
    assert "Grouped tables: school" in text
    # No method is better than the mixed model here, or one is: the verdict follows.
    least = [script("_grouped_section")._least(by_name, shot) for shot in ("5", "10")]
    own = [
        np.mean([np.mean(s["errors"]["rmse"][shot]) for s in by_name[methods[1]]])
        for shot in ("5", "10")
    ]
    gains = 1 - np.array(least) / own
    assert ("a mixed model is enough" in text) == bool((gains < 0.01).all())


def test_records_of_other_divisions_are_not_compared(script, grouped, tmp_path):
    folder = tmp_path / "results"
    run(grouped, folder, "school", "--splits", 2, "--methods", "linear mixed model")
    run(grouped, folder, "school", "--splits", 1, "--methods", "pooled ridge")
    with pytest.raises(ValueError, match="other divisions"):
        rendered(script, folder)


def test_every_regressor_is_judged(script):
    judged = set()
    for method in script("_grouped_methods").METHODS.values():
        estimator, _ = method(0)
        steps = getattr(estimator, "steps", [("", estimator)])
        judged.add(type(steps[-1][1]).__name__)
    # Few-shot regressors are what `adapt` returns.
    expected = {name for name in sklmeta.__all__ if name.endswith("Regressor")}
    assert judged == expected - {"FewShotRegressor"}


def test_divisions_keep_tasks_apart(grouped):
    tasks = grouped.DATA["school"]()
    train, test = grouped.divided(tasks, 3, 0.7)
    assert len(train) == 16
    assert not set(train.names) & set(test.names)
    assert set(train.names) | set(test.names) == set(tasks.names)


def test_parameters_are_chosen_on_training_tasks(grouped, monkeypatch):
    seen = []

    class Spy(grouped.GridSearchCV):
        def fit(self, tasks, **more):
            seen.append(set(tasks.names))
            return super().fit(tasks, **more)

    monkeypatch.setattr(grouped, "GridSearchCV", Spy)
    args = grouped.parse(["school", "--splits", "2"])
    tasks = grouped.DATA["school"]()
    found = grouped.run("pooled ridge", tasks, args)
    for names, split in zip(seen, found["splits"], strict=True):
        assert not names & set(split["tasks"])
