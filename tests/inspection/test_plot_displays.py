"""The example of all displays, in a few seconds."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "inspection" / "plot_displays.py"


def test_five_pictures_are_saved(tmp_path, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    paths = main(["--quick", "--output", str(tmp_path / "new")])
    assert sorted(path.stem for path in paths) == [
        "adaptation",
        "episode",
        "inner_steps",
        "shots",
        "training",
    ]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    with pytest.raises(SystemExit):
        main(["--colour"])
