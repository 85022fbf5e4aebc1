"""The example of medical transfer runs, on voices and on generated images."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from sklmeta import ClassPool
from sklmeta.datasets import fetch_parkinsons

SCRIPT = Path(__file__).parents[2] / "examples/transfer/plot_medical_transfer.py"


@pytest.fixture
def example():
    pytest.importorskip("matplotlib", reason="the example draws with sklmeta[plot]")
    return runpy.run_path(str(SCRIPT))


def test_voices(example, tmp_path, capsys):
    try:
        fetch_parkinsons(download_if_missing=False)
    except OSError:
        pytest.skip("needs the parkinsons data")
    path = tmp_path / "new" / "figure.png"
    scores = example["main"](["--quick", "--output", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(scores) == [2, 5]
    assert "fine-tuning" in capsys.readouterr().out


def test_images(example, tmp_path):
    rng = np.random.default_rng(0)

    def fetched(name, subset="train"):
        images = rng.integers(0, 256, (60, 28, 28, 3), dtype=np.uint8)
        return ClassPool(images, np.repeat([f"{name} {i}" for i in range(5)], 12))

    main = example["main"]
    main.__globals__["fetch_medmnist"] = fetched
    path = tmp_path / "figure.png"
    pair = ["--medmnist", "bloodmnist", "dermamnist"]
    scores = main(["--quick", "--output", str(path), *pair])
    assert path.exists()
    assert set(scores[2].index) >= {"ProtoNet", "Meta-Baseline"}
