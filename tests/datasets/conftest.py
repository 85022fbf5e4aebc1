"""Small files in the layout of the real ones, put in their place."""

import hashlib
import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from sklmeta.datasets import omniglot
from sklmeta.datasets._fetch import Archive, content_hash

ALPHABETS = {
    "images_background": ("Greek", "Latin"),
    "images_evaluation": ("Tibetan",),
}
N_CHARACTERS = 2  # of each alphabet
N_DRAWERS = 20


@dataclass(frozen=True)
class SmallOmniglot:
    """The folder that would be `data_home`, and every drawing by its member's name."""

    data_home: Path
    drawings: dict[str, np.ndarray]

    def drawings_of(self, character):
        """Return the (20, 105, 105) drawings of "Greek/character01", ink 255."""
        names = sorted(name for name in self.drawings if f"/{character}/" in name)
        return np.stack([self.drawings[name] for name in names])


def png_bytes(drawing):
    """Encode a drawing as Omniglot has it: one bit a pixel, ink black on white."""
    image_module = pytest.importorskip("PIL.Image", reason="needs Pillow")
    buffer = io.BytesIO()
    image_module.fromarray(255 - drawing).convert("1").save(buffer, format="PNG")
    return buffer.getvalue()


def write_zip(path, members):
    """Write members, with what other packers add: folders and macOS's leftovers."""
    with zipfile.ZipFile(path, "w") as archive:
        for folder in sorted({name.rsplit("/", 1)[0] + "/" for name in members}):
            archive.writestr(folder, b"")
        archive.writestr("__MACOSX/images_background/._0001_01.png", b"no image")
        for name, content in members.items():
            archive.writestr(name, content)


def small_archive(path, url, members):
    write_zip(path, members)
    with zipfile.ZipFile(path) as archive:
        content = content_hash(archive)
    return Archive(url, known_hash="md5:0", n_images=len(members), content=content)


@pytest.fixture
def small_omniglot(tmp_path, monkeypatch):
    """Six characters of three alphabets; the random split trains on four."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "omniglot"
    folder.mkdir()
    drawings = {}
    for archive_name, alphabets in ALPHABETS.items():
        names = [
            f"{archive_name}/{alphabet}/character{character + 1:02d}/"
            f"{character + 1:04d}_{drawer + 1:02d}.png"
            for alphabet in alphabets
            for character in range(N_CHARACTERS)
            for drawer in range(N_DRAWERS)
        ]
        made = {name: draw_blob(rng) for name in rng.permutation(names)}
        path = folder / f"{archive_name}.zip"
        archive = small_archive(
            path,
            f"http://127.0.0.1:9/{path.name}",
            {str(name): png_bytes(drawing) for name, drawing in made.items()},
        )
        monkeypatch.setattr(omniglot, "_" + archive_name.split("_")[1].upper(), archive)
        drawings.update(made)
    monkeypatch.setattr(omniglot, "_N_RANDOM_TRAIN", 4)
    return SmallOmniglot(tmp_path, drawings)


def draw_blob(rng):
    """Draw a random rectangle, which no quarter turn maps to itself."""
    drawing = np.zeros((105, 105), dtype=np.uint8)
    top, left = rng.integers(2, 40, size=2)
    drawing[top : top + 12, left : left + 30] = 255
    return drawing


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Write a small file where a loader looks, known by its own checksum."""

    def write(path, content, file):
        path = tmp_path / path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        known_hash = "sha256:" + hashlib.sha256(content).hexdigest()
        return replace(file, known_hash=known_hash)

    write.data_home = tmp_path
    return write


@pytest.fixture
def real_folder(data_home):
    """Return the folder of real data, skipping where it lacks what is asked for."""

    def look_up(name):
        if not (data_home / name).is_dir():
            pytest.skip(f"real data needed: {data_home} has no folder {name}")
        return data_home

    return look_up
