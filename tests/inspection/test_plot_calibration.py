"""The example of calibration, in a few seconds."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "inspection" / "plot_calibration.py"


def test_one_picture_is_saved(tmp_path, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    path = main(["--quick", "--output", str(tmp_path / "new")])
    assert path == tmp_path / "new" / "calibration.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "nlpd: calibrated" in printed
    assert printed.rstrip().endswith(str(path))
    with pytest.raises(SystemExit):
        main(["--colour"])
