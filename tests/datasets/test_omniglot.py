"""Omniglot: splits, rotations and images, on small archives and on the real ones."""

import builtins
import os
import time
import zipfile

import numpy as np
import pytest

from sklmeta.datasets import fetch_omniglot
from sklmeta.datasets._fetch import data_home_path
from sklmeta.tasks import ClassPool

pytest.importorskip("PIL.Image", reason="Omniglot's images need Pillow")

BACKGROUND = [
    "Greek/character01",
    "Greek/character02",
    "Latin/character01",
    "Latin/character02",
]
EVALUATION = ["Tibetan/character01", "Tibetan/character02"]


def rows_of(pool, label):
    return pool.X[pool.y == label]


def test_background_split_follows_the_alphabets(small_omniglot):
    train, test = fetch_omniglot(
        split="background", rotations="none", data_home=small_omniglot.data_home
    )
    assert isinstance(train, ClassPool)
    assert isinstance(test, ClassPool)
    assert train.classes.tolist() == BACKGROUND
    assert test.classes.tolist() == EVALUATION
    assert train.X.shape == (80, 28, 28)
    assert test.X.shape == (40, 28, 28)
    assert train.X.dtype == np.uint8


def test_original_size_is_the_drawing_bit_by_bit(small_omniglot):
    train, test = fetch_omniglot(
        split="background",
        rotations="none",
        image_size=None,
        data_home=small_omniglot.data_home,
    )
    for pool in (train, test):
        for label in pool.classes:
            np.testing.assert_array_equal(
                rows_of(pool, label), small_omniglot.drawings_of(label)
            )


def test_resizing_keeps_the_ink_where_it_is(small_omniglot):
    options = {"split": "background", "data_home": small_omniglot.data_home}
    train, _ = fetch_omniglot(image_size=15, **options)
    original, _ = fetch_omniglot(image_size=None, **options)
    assert train.X.shape[1:] == (15, 15)
    means = original.X.reshape(-1, 15, 7, 15, 7).mean(axis=(2, 4))
    # Lanczos' filter looks beyond its 7 x 7 pixels, so edges differ, areas do not.
    assert np.abs(train.X - means).mean() < 5
    assert np.corrcoef(train.X.ravel(), means.ravel())[0, 1] > 0.98


def test_random_split_is_a_partition_drawn_by_random_state(small_omniglot):
    def split(random_state):
        train, test = fetch_omniglot(
            rotations="none",
            random_state=random_state,
            data_home=small_omniglot.data_home,
        )
        assert len(train) == 4
        assert sorted([*train.classes, *test.classes]) == BACKGROUND + EVALUATION
        return tuple(train.classes)

    assert split(0) == split(0) == split(np.random.default_rng(0))
    assert len({split(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("rotations", "n_train", "n_test"),
    [("none", 4, 2), ("train", 16, 2), ("all", 16, 8)],
)
def test_rotations_make_new_classes(small_omniglot, rotations, n_train, n_test):
    train, test = fetch_omniglot(
        rotations=rotations, data_home=small_omniglot.data_home
    )
    assert (len(train), len(test)) == (n_train, n_test)
    for pool in (train, test):
        assert len(pool.X) == 20 * len(pool)
        for label in pool.classes:
            upright, _, turn = label.partition("/rot")
            np.testing.assert_array_equal(
                rows_of(pool, label),
                np.rot90(rows_of(pool, upright), int(turn or 0) // 90, axes=(1, 2)),
            )
    # No character is on both sides, turned or not.
    upright = [
        {label.partition("/rot")[0] for label in p.classes} for p in (train, test)
    ]
    assert upright[0].isdisjoint(upright[1])


def test_a_rotated_class_is_another_class(small_omniglot):
    train, _ = fetch_omniglot(data_home=small_omniglot.data_home)
    label = next(label for label in train.classes if "rot" not in label)
    assert not np.array_equal(rows_of(train, label), rows_of(train, label + "/rot180"))


def test_reading_writes_nothing(small_omniglot):
    folder = small_omniglot.data_home
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    fetch_omniglot(data_home=folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_data_home_comes_from_the_environment(small_omniglot, monkeypatch):
    monkeypatch.setenv("SKLMETA_DATA", str(small_omniglot.data_home))
    train, _ = fetch_omniglot()
    assert len(train) == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "lake"}, "split must be one of .*'background'.*, got 'lake'"),
        ({"rotations": True}, "rotations must be one of .*'none'.*, got True"),
        ({"image_size": 0}, "image_size must be an int of at least 1.*got 0"),
        ({"image_size": 28.0}, "image_size must be an int of at least 1.*got 28.0"),
        ({"image_size": True}, "image_size must be an int of at least 1.*got True"),
    ],
)
def test_unknown_options_are_refused_before_any_file_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        fetch_omniglot(data_home="/nowhere", **options)


def test_missing_pillow_names_the_remedy(small_omniglot, monkeypatch):
    real_import = builtins.__import__

    def import_without_pillow(name, *args, **kwargs):
        if name.startswith("PIL"):
            raise ModuleNotFoundError(f"No module named {name!r}")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_without_pillow)
    with pytest.raises(ImportError, match=r"pip install sklmeta\[images\]"):
        fetch_omniglot(data_home=small_omniglot.data_home)


def test_another_drawing_in_the_archive_is_refused(small_omniglot):
    path = small_omniglot.data_home / "omniglot" / "images_background.zip"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = "images_background/Greek/character01/0001_01.png"
    members[name] += b" "  # still decodes, to the same drawing
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(OSError, match="images that are not the expected ones"):
        fetch_omniglot(data_home=small_omniglot.data_home)


# The real archives, where they are.


@pytest.fixture(scope="module")
def real_omniglot():
    folder = data_home_path() / "omniglot"
    names = ("images_background.zip", "images_evaluation.zip")
    if not all((folder / name).is_file() for name in names):
        pytest.skip(
            f"Omniglot's archives are not in {os.fspath(folder)} (set SKLMETA_DATA)"
        )
    start = time.process_time()
    pools = fetch_omniglot(download_if_missing=False)
    return pools, time.process_time() - start


def test_real_random_split(real_omniglot):
    (train, test), _ = real_omniglot
    assert (len(train), len(test)) == (4800, 423)
    assert train.X.shape == (96_000, 28, 28)
    assert test.X.shape == (8_460, 28, 28)
    counts = np.unique(train.y, return_counts=True)[1]
    assert (counts == 20).all()
    upright = {label.partition("/rot")[0] for label in train.classes}
    assert len(upright) == 1200
    assert len(upright | set(test.classes)) == 1623


def test_real_drawings_are_thin_ink_on_empty_paper(real_omniglot):
    (_, test), _ = real_omniglot
    assert 10 < test.X.mean() < 40
    assert (test.X.max(axis=(1, 2)) > 100).all()
    assert np.median(test.X) == 0


def test_real_load_takes_seconds(real_omniglot):
    _, seconds = real_omniglot
    assert seconds < 15  # of processor time; about 5 on an idle core


def test_real_classes_can_be_told_apart(real_omniglot):
    """The nearest drawing is of the same character far more often than by chance."""
    (_, test), _ = real_omniglot
    rows = test.X[: 200 * 20].reshape(200, 20, -1).astype(float)
    support, query = rows[:, 0], rows[:, 1]
    distances = ((query[:, None] - support[None]) ** 2).sum(axis=2)
    accuracy = (distances.argmin(axis=1) == np.arange(200)).mean()
    assert accuracy > 0.05  # pixels reach 0.095, chance is 0.005
