"""The one-shot runs: tasks with a given support, on a small archive and the real."""

import io
import zipfile

import numpy as np
import pytest

from sklmeta import ModifiedHausdorffClassifier, PerTaskClassifier
from sklmeta.datasets import fetch_omniglot, fetch_omniglot_runs, omniglot_runs
from sklmeta.model_selection import evaluate

image_module = pytest.importorskip("PIL.Image", reason="the drawings need Pillow")

N_RUNS, N_CHARACTERS = 2, 3


@pytest.fixture
def small_runs(stand_in, monkeypatch):
    """Two runs of three characters each; returns every drawing by its name."""
    rng = np.random.default_rng(0)
    drawings, buffer = {}, io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for run in range(1, N_RUNS + 1):
            shown = 1 + rng.permutation(N_CHARACTERS)
            lines = []
            for item, character in enumerate(shown, 1):
                lines.append(
                    f"run{run:02d}/test/item{item:02d}.png "
                    f"run{run:02d}/training/class{character:02d}.png\n"
                )
            for name in " ".join(lines).split():
                drawings[name] = draw_strokes(rng)
                png = io.BytesIO()
                image = image_module.fromarray(255 - drawings[name]).convert("1")
                image.save(png, format="PNG")
                archive.writestr(name, png.getvalue())
            archive.writestr(f"run{run:02d}/class_labels.txt", "".join(lines))
    file = stand_in("omniglot/all_runs.zip", buffer.getvalue(), omniglot_runs._RUNS)
    monkeypatch.setattr(omniglot_runs, "_RUNS", file)
    monkeypatch.setattr(omniglot_runs, "_N_RUNS", N_RUNS)
    return stand_in.data_home, drawings


def draw_strokes(rng):
    drawing = np.zeros((105, 105), dtype=np.uint8)
    for top, left in rng.integers(5, 60, size=(3, 2)):
        drawing[top : top + 3, left : left + 40] = 255
        drawing[top : top + 30, left : left + 3] = 255
    return drawing


def test_runs_are_tasks_with_a_given_support(small_runs):
    data_home, drawings = small_runs
    tasks = fetch_omniglot_runs(image_size=None, data_home=data_home)
    assert tasks.labels == "local"
    assert [task.name for task in tasks] == ["run01", "run02"]
    for task in tasks:
        assert task.X.dtype == np.uint8
        assert task.support.tolist() == [True] * 3 + [False] * 3
        assert task.y[:3].tolist() == ["class01", "class02", "class03"]
        assert sorted(task.y[3:]) == ["class01", "class02", "class03"]
        items = [f"training/{label}" for label in task.y[:3]]
        items += [f"test/item{i:02d}" for i in (1, 2, 3)]
        for row, item in zip(task.X, items, strict=True):
            np.testing.assert_array_equal(row, drawings[f"{task.name}/{item}.png"])


def test_labels_are_those_of_the_authors_table(small_runs):
    data_home, _ = small_runs
    for task in fetch_omniglot_runs(data_home=data_home):
        with zipfile.ZipFile(data_home / "omniglot" / "all_runs.zip") as archive:
            text = archive.read(f"{task.name}/class_labels.txt").decode()
        expected = [line.split("/")[-1][:7] for line in text.splitlines()]
        assert task.y[3:].tolist() == expected
        assert task.X.shape == (6, 28, 28)


def test_the_given_support_is_what_is_adapted_to(small_runs):
    data_home, _ = small_runs
    tasks = fetch_omniglot_runs(data_home=data_home)
    model = ModifiedHausdorffClassifier()
    meta = PerTaskClassifier(model).fit(tasks[:1])
    accuracy = [
        model.fit(t.X[t.support], t.y[t.support]).score(t.X[~t.support], t.y[3:])
        for t in tasks[1:]
    ]
    for seed in (0, 1):
        found = evaluate(meta, tasks[1:], random_state=seed).scores["score"]
        np.testing.assert_allclose(found, accuracy)


def test_another_archive_is_refused(small_runs):
    data_home, _ = small_runs
    path = data_home / "omniglot" / "all_runs.zip"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(OSError, match=r"all_runs\.zip has the sha256 .* is expected"):
        fetch_omniglot_runs(data_home=data_home)


def test_a_missing_archive_says_what_to_put_where(tmp_path):
    with pytest.raises(OSError, match=r"fetch https.*all_runs\.zip on another machine"):
        fetch_omniglot_runs(data_home=tmp_path, download_if_missing=False)


def test_size_is_checked_before_any_file_is_read():
    with pytest.raises(ValueError, match=r"image_size must be an int.*got 0"):
        fetch_omniglot_runs(image_size=0, data_home="/nowhere")


@pytest.fixture(scope="module")
def real_home(data_home):
    if not (data_home / "omniglot" / "all_runs.zip").is_file():
        pytest.skip(f"{data_home} has no omniglot/all_runs.zip")
    return data_home


def test_real_runs(real_home):
    tasks = fetch_omniglot_runs(data_home=real_home)
    assert len(tasks) == 20
    for task in tasks:
        assert task.X.shape == (40, 28, 28)
        assert task.support.tolist() == [True] * 20 + [False] * 20
        assert len(set(task.y[:20])) == 20
        assert set(task.y[:20]) == set(task.y[20:])


def test_real_runs_are_of_the_evaluation_alphabets(real_home):
    """Every drawing is among the held-out ones, a run's inside one alphabet."""
    options = {"split": "background", "rotations": "none", "image_size": None}
    _, evaluation = fetch_omniglot(data_home=real_home, **options)
    alphabet_of = {
        drawing.tobytes(): label.partition("/")[0]
        for drawing, label in zip(evaluation.X, evaluation.y, strict=True)
    }
    for task in fetch_omniglot_runs(image_size=None, data_home=real_home):
        assert len({alphabet_of[drawing.tobytes()] for drawing in task.X}) == 1
