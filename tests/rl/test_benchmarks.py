"""The benchmarks of agents run from end to end, in small."""

import json

import pytest


def run(module, folder, *options):
    """Run a benchmark into a folder; return its record."""
    module.main([*map(str, options), "--threads", "1", "--output", str(folder)])
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


@pytest.fixture
def report(script):
    return script("report")


def test_bandits(script, tmp_path, report):
    small = ["--minutes", 0.001, "--trials", 10, "--updates", 1, "--tests", 100]
    record = run(script("rl_bandits"), tmp_path, "--arms", 3, "--pulls", 4, *small)
    results = record["results"]
    names = [row["agent"] for row in results["totals"]]
    assert names == ["random", "Thompson sampling", "UCB1", "RL^2", "Bayes-optimal"]
    assert results["totals"][3]["difference"]["mean"] == 0
    assert 2 < results["optimal_value"] < 4
    text = report.render(tmp_path)
    assert "3 arms, 4 pulls" in text and "Bayes-optimal" in text


def test_processes(script, tmp_path, report):
    small = ["--minutes", 0.001, "--trials", 4, "--updates", 1, "--tests", 8]
    record = run(script("rl_mdps"), tmp_path, "--episodes", 2, *small)
    assert [row["agent"] for row in record["results"]["totals"]][-1] == "RL^2"
    assert "2 episodes" in report.render(tmp_path)


def test_points(script, tmp_path, report):
    small = ["--minutes", 0.001, "--updates", 1, "--tests", 4]
    few = ["--goals", 2, "--episodes", 2]
    record = run(script("rl_points"), tmp_path, "promp", *small, *few)
    assert len(record["results"]["returns"]) == 4
    assert record["results"]["improvement"][0] == pytest.approx(0)
    assert "ProMP" in report.render(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_metaworld(script, tmp_path, report):
    pytest.importorskip("packaging")
    pytest.importorskip("metaworld")
    benchmark = script("rl_metaworld")
    every = benchmark.metaworld_tasks

    def few(*arguments, **keywords):
        return every(*arguments, **keywords)[:2]

    benchmark.metaworld_tasks = few
    small = ["--minutes", 0.001, "--updates", 1, "--horizon", 3, "--looked-at", 1]
    few_goals = ["--trials", 2, "--official-envs", 1, "--official-episodes", 1]
    benchmark.official = lambda *arguments: {"success": 0.5, "return": 1.0}
    record = run(benchmark, tmp_path, *small, *few_goals)
    assert [row["episode"] for row in record["results"]["rl2"]] == [1, 2, 3]
    assert "reach-v3" in report.render(tmp_path)
