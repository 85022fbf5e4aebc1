"""The demo runs end to end with tiny settings, and reports honestly."""

import re
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
MODULES = ("demo", "demo_images", "demo_report", "demo_sinusoids")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def demo():
    """Import the demo as `python examples/demo.py` would find it."""
    pytest.importorskip("matplotlib", reason="the demo draws with sklmeta[plot]")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import demo

        yield demo
    for name in MODULES:
        sys.modules.pop(name, None)


def test_ends_with_table_figure_and_where_to_go(demo, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    figure = demo.main(["--quick", "--folder", str(folder)])
    printed = capsys.readouterr().out
    assert figure.read_bytes().startswith(PNG)
    assert re.search(r"MAML meta-trains +\.+ \d+ s", printed)
    table, end = printed.split("Figure of one wave")
    for problem in ("Sine waves", "1 image of each", "5 images of each"):
        assert problem in table
    for method in (
        "MAML",
        "prototypical network",
        "Gaussian process",
        "one network",
        "logistic regression",
        "nearest neighbour",
    ):
        row = rf"^{method}.* \d+\.\d+ +\[\d+\.\d+, \d+\.\d+\]"
        assert re.search(row, table, re.MULTILINE)
    assert str(figure) in end and "README.md" in end


def test_unknown_data_is_refused(demo, capsys):
    with pytest.raises(SystemExit):
        demo.main(["--data", "faces"])
    assert "choose from" in capsys.readouterr().err
