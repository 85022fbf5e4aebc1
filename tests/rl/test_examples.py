"""The examples run from end to end."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples/rl"


def example(name):
    pytest.importorskip("matplotlib", reason="the example draws with sklmeta[plot]")
    return runpy.run_path(str(FOLDER / name))["main"]


def test_point_navigation(tmp_path, capsys):
    path = tmp_path / "new" / "figure.png"
    before, after = example("plot_point_navigation.py")(
        ["--quick", "--output", str(path)]
    )
    assert path.read_bytes().startswith(b"\x89PNG")
    assert before < 0 and after < 0
    assert "unseen goals" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_reach(tmp_path, capsys, monkeypatch):
    pytest.importorskip("packaging")
    pytest.importorskip("metaworld")
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    path = tmp_path / "reach.png"
    options = ["--minutes", "0", "--updates", "1", "--horizon", "3", "--goals", "2"]
    display = example("plot_reach.py")([*options, "--output", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert display.mean.shape == (2, 3)
    out = capsys.readouterr().out
    assert "Video: " in out or "No video: " in out
