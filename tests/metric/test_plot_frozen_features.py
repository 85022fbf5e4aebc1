"""The example of feature rows runs, and shows what it claims."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/metric/plot_frozen_features.py"


@pytest.fixture(scope="module")
def example():
    pytest.importorskip("matplotlib", reason="the example draws with sklmeta[plot]")
    return runpy.run_path(str(EXAMPLE))


def test_a_figure_and_what_each_method_learned(example, tmp_path, capsys):
    figure = tmp_path / "new" / "figure.png"
    display = example["main"](["--quick", "--output", str(figure)])
    assert figure.read_bytes().startswith(b"\x89PNG")
    found = dict(
        re.findall(r"^(\S.*?) +learns (.*?) +\d", capsys.readouterr().out, re.M)
    )
    assert list(found) == display.names
    assert found["class means"] == "nothing"
    assert found["SimpleShot"] == "the mean row"
    assert "temperature" in found["attention by cosine"]
    assert "alpha" in found["ridge regression"]
    assert (display.mean[:, 1] > display.mean[:, 0]).all()  # more rows are better
