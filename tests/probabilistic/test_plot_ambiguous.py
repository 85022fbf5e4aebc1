"""The example of ambiguous supports, in a few seconds."""

import runpy
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples/probabilistic/plot_ambiguous.py"


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("matplotlib", reason="the example draws with sklmeta[plot]")
    return runpy.run_path(str(SCRIPT))


def test_one_picture_and_what_was_measured(example, tmp_path, capsys):
    path = example["main"](["--quick", "--output", str(tmp_path / "new")])
    assert path == tmp_path / "new" / "ambiguous.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for problem in ("sinusoid or line", "two attributes"):
        for name in ("MAML", "probabilistic MAML", "latent neural process"):
            assert f"{problem}, {name}: " in printed
    # One network is never of both kinds.
    assert "sinusoid or line, MAML: lines and waves for 0% of tasks" in printed
    assert "two attributes, MAML: both for 0% of tasks" in printed
    assert printed.rstrip().endswith(str(path))


def test_lines_and_waves_are_told_apart(example):
    x = example["GRID"]
    functions = np.stack([2 * x - 1, 3 * np.sin(x - 1), 0.1 * x, 0.5 * np.cos(x)])
    assert example["is_line"](functions).tolist() == [True, False, True, False]


def test_attributes_are_told_apart(example):
    X = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    p = 0.5 + 0.4 * np.sign(X.T)
    np.testing.assert_array_equal(example["by_first"](p, X), [1, 0])


def test_unknown_options_are_refused(example):
    with pytest.raises(SystemExit):
        example["main"](["--colour"])
