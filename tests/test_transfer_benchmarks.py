"""The benchmarks of transfer run from end to end on made-up characters."""

import json

import numpy as np
import pytest

from sklmeta import ClassPool
from sklmeta.backbones import ConvNet
from sklmeta.datasets import make_glyphs


def run(module, folder, *options):
    """Run a benchmark into a folder; return its record."""
    module.main([*map(str, options), "--threads", "1", "--output", str(folder)])
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def glyphs(n_classes, seed, prefix):
    pool = make_glyphs(n_classes, 20, random_state=seed)
    return ClassPool(pool.X, np.array([f"{prefix}{label}" for label in pool.y]))


@pytest.fixture
def characters():
    return glyphs(30, 0, "train/"), glyphs(12, 1, "new/")


def test_transfer(script, tmp_path, monkeypatch, characters, capsys):
    transfer = script("transfer")
    monkeypatch.setattr(transfer, "fetch_omniglot", lambda: characters)
    monkeypatch.setattr(transfer, "N_VALIDATION", 6)
    monkeypatch.setattr(transfer, "VIEWS", ())
    monkeypatch.setattr(transfer, "SHOTS", (1, 2))
    monkeypatch.setattr(transfer, "STEPS", 2)
    monkeypatch.setattr(
        transfer, "network", lambda shape, seed: ConvNet(shape, 4, downsample="stride")
    )
    options = ["--minutes", 0.001, "--pretrain-iter", 2, "--episodes", 2]
    record = run(transfer, tmp_path / "results", *options)
    scores = record["results"]["scores"]
    assert list(scores) == ["characters", "digits"]
    assert {len(rows) for own in scores.values() for rows in own.values()} == {9}
    script("report").main(["--results", str(tmp_path / "results")])
    text = (tmp_path / "RESULTS.md").read_text()
    assert "### Of digits" in text
    assert "| MAML | " in text
    pytest.importorskip("matplotlib", reason="curves are drawn with sklmeta[plot]")
    figure = tmp_path / "curves.png"
    record_path = tmp_path / "results" / "transfer.json"
    script("plot_transfer").main(
        ["--record", str(record_path), "--output", str(figure)]
    )
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_speed(script, tmp_path, monkeypatch, capsys):
    speed = script("transfer_speed")
    pool = glyphs(120, 0, "train/")
    monkeypatch.setattr(speed, "fetch_omniglot", lambda: (pool, None))
    monkeypatch.setattr(speed, "N_CHARACTERS", 10)
    options = ["--episodes", 6, "--repeats", 2]
    record = run(speed, tmp_path / "results", *options)
    assert record["results"]["adapt_ms"]["median"] > 0
    script("report").main(["--results", str(tmp_path / "results")])
    assert "`transfer_speed.py`" in (tmp_path / "RESULTS.md").read_text()
