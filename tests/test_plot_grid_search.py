"""The example of a grid search over tasks runs, and both forms find the same."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples/sklearn/plot_grid_search_inner_lr.py"


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("matplotlib", reason="the example draws with sklmeta[plot]")
    return runpy.run_path(str(EXAMPLE))


def test_both_forms_find_the_same_parameters(example, tmp_path, capsys):
    figure = tmp_path / "new" / "figure.png"
    best = example["main"](["--quick", "--output", str(figure)])
    assert figure.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    found = re.findall(r"^(?:On a TaskSet|In long format): +(.*)$", printed, re.M)
    assert found == [str(best)] * 2
    assert set(best) == {"mamlregressor__inner_lr", "mamlregressor__inner_steps"}
    # The seven days after the week that was adapted to, each with its forecast.
    assert len(re.findall(r"^ +(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) ", printed, re.M)) == 7


def test_shops_differ(example):
    """What adapting is for: no two shops sell alike."""
    sales = example["make_sales"](n_shops=5)
    assert sales.groupby("shop").size().tolist() == [14] * 5
    assert sales["units"].groupby(sales["shop"]).mean().std() > 10
    assert sales.equals(example["make_sales"](n_shops=5))
