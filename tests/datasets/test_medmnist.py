"""MedMNIST: pools of small files in the form of the real ones, and refusals."""

import hashlib
import io
import re
from dataclasses import replace

import numpy as np
import pooch
import pytest

from sklmeta.datasets import fetch_medmnist, medmnist
from sklmeta.tasks import ClassPool

PARTS = {"train": 12, "val": 5, "test": 7}


def small_arrays(name, size=28):
    """Return {array's name: array}, with random pixels and every class once or more."""
    rng = np.random.default_rng(0)
    channels = (3,) if name in medmnist._IN_COLOUR else ()
    n_classes = len(medmnist._DATA_SETS[name].classes)
    arrays = {}
    for part, n_rows in PARTS.items():
        shape = (n_rows, size, size, *channels)
        labels = rng.permutation(np.arange(n_rows) % n_classes)
        arrays[f"{part}_images"] = rng.integers(256, size=shape, dtype=np.uint8)
        arrays[f"{part}_labels"] = labels.astype(np.uint8)[:, None]
    return arrays


def npz_bytes(arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put arrays where the loader looks, known by their own checksum."""

    def write(name, arrays, size=28):
        content = npz_bytes(arrays)
        path = tmp_path / "medmnist" / medmnist._data_file(name, size).file_name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        know(name, content, monkeypatch)
        return path

    return write


def know(name, content, monkeypatch):
    md5 = (hashlib.md5(content).hexdigest(),) * 4
    described = replace(medmnist._DATA_SETS[name], md5=md5)
    monkeypatch.setitem(medmnist._DATA_SETS, name, described)


@pytest.mark.parametrize("name", ["breastmnist", "bloodmnist", "organsmnist"])
@pytest.mark.parametrize("subset", PARTS)
def test_a_class_is_a_label_of_the_file(tmp_path, install, name, subset):
    arrays = small_arrays(name)
    install(name, arrays)
    pool = fetch_medmnist(name, subset=subset, data_home=tmp_path)
    assert isinstance(pool, ClassPool)
    assert pool.X.dtype == np.uint8
    labels = arrays[f"{subset}_labels"][:, 0]
    names = medmnist._DATA_SETS[name].classes
    assert pool.classes.tolist() == [names[label] for label in np.unique(labels)]
    for label in np.unique(labels):
        np.testing.assert_array_equal(
            pool.X[pool.y == names[label]],
            arrays[f"{subset}_images"][labels == label],
        )


def test_all_joins_the_parts(tmp_path, install):
    arrays = small_arrays("dermamnist")
    install("dermamnist", arrays)
    pool = fetch_medmnist("dermamnist", subset="all", data_home=tmp_path)
    assert pool.X.shape == (24, 28, 28, 3)
    assert len(pool) == 7
    labels = np.concatenate([arrays[f"{part}_labels"][:, 0] for part in PARTS])
    images = np.concatenate([arrays[f"{part}_images"] for part in PARTS])
    np.testing.assert_array_equal(pool.X[pool.y == "melanoma"], images[labels == 4])


def test_other_sizes_are_other_files(tmp_path, install):
    path = install("octmnist", small_arrays("octmnist", 64), 64)
    assert path.name == "octmnist_64.npz"
    pool = fetch_medmnist("octmnist", 64, data_home=tmp_path)
    assert pool.X.shape == (12, 64, 64)


def test_a_missing_file_is_downloaded_from_its_origin(tmp_path, monkeypatch):
    content = npz_bytes(small_arrays("retinamnist"))
    know("retinamnist", content, monkeypatch)
    asked = []

    def retrieve(url, known_hash, fname, path, **options):
        asked.append((url, known_hash))
        path.mkdir(parents=True)
        (path / fname).write_bytes(content)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    pool = fetch_medmnist("retinamnist", data_home=tmp_path)
    assert pool.classes.tolist() == ["0", "1", "2", "3", "4"]
    origin = "https://zenodo.org/records/10519652/files/retinamnist.npz?download=1"
    assert asked == [(origin, "md5:" + hashlib.md5(content).hexdigest())]
    assert (tmp_path / "medmnist" / "retinamnist.npz").is_file()
    fetch_medmnist("retinamnist", data_home=tmp_path)
    assert len(asked) == 1


def test_no_download_where_it_is_forbidden(tmp_path):
    with pytest.raises(OSError, match="is not there and download_if_missing=F") as info:
        fetch_medmnist("breastmnist", data_home=tmp_path, download_if_missing=False)
    path = tmp_path / "medmnist" / "breastmnist.npz"
    assert f"on another machine and put it at {path}, or" in str(info.value)


def test_another_file_is_refused(tmp_path, install):
    path = install("breastmnist", small_arrays("breastmnist"))
    path.write_bytes(npz_bytes(small_arrays("octmnist")))
    message = r"has the md5 \w{32} where \w{32} is expected. Move it away"
    with pytest.raises(OSError, match=message):
        fetch_medmnist("breastmnist", data_home=tmp_path)


def without(arrays, name):
    return {key: array for key, array in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda arrays: without(arrays, "val_labels"),
            r"has no arrays \['val_labels'\], only \['train_images'",
        ),
        (
            lambda arrays: arrays | {"val_images": arrays["val_images"][:, :9]},
            r"val_images is uint8 of shape \(5, 9, 28\), expected uint8 of shape "
            r"\(5, 28, 28\) for 5 labels of octmnist",
        ),
        (
            lambda arrays: arrays | {"val_images": arrays["val_images"] / 255},
            "val_images is float64 of shape",
        ),
        (
            lambda arrays: arrays | {"val_images": arrays["val_images"][1:]},
            r"of shape \(4, 28, 28\), expected uint8 of shape \(5, 28, 28\)",
        ),
        (
            lambda arrays: arrays | {"val_labels": arrays["val_labels"] + np.uint8(1)},
            r"the values \[1, 2, 3, 4\], expected .* 0 to 3, the classes of octmnist",
        ),
        (
            lambda arrays: arrays | {"val_labels": np.zeros((5, 2), dtype=np.uint8)},
            r"val_labels has shape \(5, 2\) .*, expected shape \(5, 1\)",
        ),
    ],
)
def test_other_arrays_are_refused(tmp_path, install, change, message):
    install("octmnist", change(small_arrays("octmnist")))
    with pytest.raises(OSError, match=message):
        fetch_medmnist("octmnist", subset="all", data_home=tmp_path)
    # Only what is asked for is read.
    assert len(fetch_medmnist("octmnist", subset="train", data_home=tmp_path)) == 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("chestmnist", {}, "'chestmnist' has any number of 14 findings for each image"),
        ("organmnist3d", {}, "'organmnist3d' holds volumes, not images"),
        ("mnist", {}, r"name must be one of \['pathmnist'.*, got 'mnist'"),
        (["pathmnist"], {}, "name must be one of"),
        (
            "pathmnist",
            {"size": 32},
            r"size must be one of \[28, 64, 128, 224\], got 32",
        ),
        ("pathmnist", {"subset": "valid"}, "subset must be one of .*, got 'valid'"),
    ],
)
def test_unknown_options_are_refused_before_any_file_is_read(name, options, message):
    with pytest.raises(ValueError, match=message):
        fetch_medmnist(name, data_home="/nowhere", **options)


def test_origins_are_fixed():
    """All of one record, each known by a checksum of its own."""
    files = [
        medmnist._data_file(name, size)
        for name in medmnist._DATA_SETS
        for size in medmnist._SIZES
    ]
    assert len({file.known_hash for file in files}) == len(files) == 44
    for file in files:
        assert re.fullmatch("md5:[0-9a-f]{32}", file.known_hash)
        assert file.url == medmnist._ORIGIN + file.file_name + "?download=1"
