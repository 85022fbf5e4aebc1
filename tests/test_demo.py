"""The demo runs end to end with tiny settings, and reports honestly."""

import re
import sys
from pathlib import Path

import numpy as np
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


@pytest.fixture(scope="module")
def report(demo):
    """Return the module of intervals and the table."""
    return sys.modules["demo_report"]


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
        assert re.search(rf"^  {method}.* \d+\.\d\d ± \d+\.\d\d", table, re.MULTILINE)
    assert str(figure) in end and "README.md" in end


def test_unknown_data_is_refused(demo, capsys):
    with pytest.raises(SystemExit):
        demo.main(["--data", "faces"])
    assert "choose from" in capsys.readouterr().err


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_a_loss_is_shown_as_one(report, lower_is_better):
    few, many = np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.1, 7.0])
    good, bad = (few, many) if lower_is_better else (many, few)
    table = report.format_table(
        [
            report.Problem(
                "problem",
                [
                    report.Result("meta", bad, True),
                    report.Result("base", good, False),
                    report.Result("weaker base", bad, False),
                ],
                lower_is_better=lower_is_better,
            )
        ]
    )
    rows = table.splitlines()[3:]
    assert rows[0].split()[0] == "base"  # best first
    meta = next(row for row in rows if row.split()[0] == "meta")
    assert meta.endswith("worse by 4.03 ± 0.07")


def test_equal_methods_are_not_told_apart(report):
    scores = np.array([1.0, 2.0, 3.0])
    problem = report.Problem(
        "problem",
        [
            report.Result("meta", scores + np.array([0.1, -0.1, 0.05]), True),
            report.Result("base", scores, False),
        ],
    )
    assert "no clear difference" in report.format_table([problem])


def test_interval_covers_the_mean_about_95_times_in_100(report):
    samples = np.random.default_rng(0).normal(3, 2, size=(2000, 100))
    means, margins = zip(*map(report.mean_and_margin, samples), strict=True)
    covered = np.mean(np.abs(np.array(means) - 3) <= margins)
    assert 0.93 < covered < 0.97


def test_support_and_query_rows_of_an_episode_do_not_overlap(demo):
    images = sys.modules["demo_images"]
    pool = images.load_digits_pool()[5:]
    rng = np.random.default_rng(0)
    supports, queries, truths = images.draw_episodes(pool, 5, 3, rng)
    for (X, y), new, truth in zip(supports, queries, truths, strict=True):
        assert np.bincount(y)[5:].tolist() == [5] * 5
        assert np.bincount(truth)[5:].tolist() == [images.N_QUERY] * 5
        together = np.concatenate([X, new]).reshape(len(X) + len(new), -1)
        assert len(np.unique(together, axis=0)) == len(together)
