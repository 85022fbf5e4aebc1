"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each.

The few-shot benchmark with many classes and few rows: a meta-learner sees some of the
characters, and is judged on telling apart characters that it has never seen.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from sklmeta._parameters import check_choice
from sklmeta.datasets._drawings import (
    check_image_size,
    read_drawing,
    require_pillow,
)
from sklmeta.datasets._fetch import (
    Archive,
    data_home_path,
    fetch_file,
    image_members,
)
from sklmeta.datasets._random import RandomStateLike, as_generator
from sklmeta.tasks import ClassPool

__all__ = ["fetch_omniglot"]

_ORIGIN = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
# Checksums of the files at their origin as torchvision has them (its Omniglot class).
_BACKGROUND = Archive(
    url=_ORIGIN + "images_background.zip",
    known_hash="md5:68d2efa1b9178cc56df9314c21c6e718",
    n_images=964 * 20,
    content="c529e32627de7cfa3fd2ae993b800fa590be526594bbb9bef2a58f8a1b7d1524",
)
_EVALUATION = Archive(
    url=_ORIGIN + "images_evaluation.zip",
    known_hash="md5:6b91aef0f799c5bb55b94e3f2daec811",
    n_images=659 * 20,
    content="421f0125de89cad566ce1e7ed0f97f6e8c68dc2a5c05e3aacce9f36133e29697",
)
_N_RANDOM_TRAIN = 1200
_N_DRAWERS = 20
_SPLITS = ("random", "background")
_ROTATIONS = ("train", "all", "none")


def fetch_omniglot(
    *,
    split: str = "random",
    rotations: str = "train",
    image_size: int | None = 28,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    random_state: RandomStateLike = 0,
) -> tuple[ClassPool, ClassPool]:
    r"""Load Omniglot as two pools of classes: to meta-train on, and held out.

    Each class is one character, drawn once by each of 20 people. The archives (14 MB)
    are read from `data_home` where they are there, else downloaded once; nothing else
    is written. Reading takes a few seconds and needs Pillow
    (`pip install sklmeta[images]`).

    Parameters
    ----------
    split : {"random", "background"}, default="random"
        "random" draws 1,200 of the 1,623 characters to train on and holds out the
        other 423, as most few-shot papers do [2]_. "background" trains on the 964
        characters of the 30 background alphabets and holds out the 659 of the 20
        evaluation alphabets, as the data's authors do [1]_: harder, since whole
        alphabets are new.
    rotations : {"train", "all", "none"}, default="train"
        Of which pool the characters, turned by 90, 180 and 270 degrees, become
        further classes (four times as many): of the training pool, of both, of none.
    image_size : int or None, default=28
        Side of the images in pixels, resized with Lanczos' filter. None keeps the
        original 105.
    data_home : str or path-like, default=None
        Folder of the data; the archives are in its folder `omniglot`. None means the
        environment variable `SKLMETA_DATA`, or `~/sklmeta_data` where it is not set.
    download_if_missing : bool, default=True
        Whether to download an archive that is not there.
    random_state : int, RandomState, Generator or None, default=0
        Draws the characters of `split="random"`; the default always gives the same.

    Returns
    -------
    train : ClassPool
        Classes to meta-train on: X of shape (n_rows, image_size, image_size), uint8,
        ink 255 on 0; y holds labels such as `"Greek/character07"`, or
        `"Greek/character07/rot090"` where turned (counter-clockwise). Rows are
        ordered by class, then by drawer.
    test : ClassPool
        Held-out classes in the same form.

    Raises
    ------
    OSError
        If an archive is not there and cannot be downloaded, or holds something else.
        The message says which file to put where.
    ImportError
        If Pillow is not installed.
    ValueError
        If a parameter has a value that is not listed above.

    See Also
    --------
    fetch_omniglot_runs : Twenty fixed one-shot tasks of the evaluation alphabets.

    References
    ----------
    .. [1] Lake, B. M., Salakhutdinov, R. & Tenenbaum, J. B. (2015). Human-level
       concept learning through probabilistic program induction. Science
       350(6266):1332-1338. https://github.com/brendenlake/omniglot (MIT licence)
    .. [2] Vinyals, O., Blundell, C., Lillicrap, T., Kavukcuoglu, K. & Wierstra, D.
       (2016). Matching networks for one shot learning. NeurIPS. arXiv:1606.04080

    Examples
    --------
    >>> from sklmeta.datasets import fetch_omniglot
    >>> train, test = fetch_omniglot()  # doctest: +SKIP
    >>> len(train), len(test), train.X.shape  # doctest: +SKIP
    (4800, 423, (96000, 28, 28))
    """
    check_choice("split", split, _SPLITS)
    check_choice("rotations", rotations, _ROTATIONS)
    check_image_size(image_size)
    require_pillow("fetch_omniglot")
    folder = data_home_path(data_home) / "omniglot"
    paths = [
        fetch_file(archive, folder, download_if_missing=download_if_missing)
        for archive in (_BACKGROUND, _EVALUATION)
    ]
    (background, background_names), (evaluation, evaluation_names) = (
        _read_characters(path, image_size) for path in paths
    )
    images = np.concatenate([background, evaluation])
    names = background_names + evaluation_names
    if split == "random":
        order = as_generator(random_state).permutation(len(names))
        train, test = order[:_N_RANDOM_TRAIN], order[_N_RANDOM_TRAIN:]
    else:
        train, test = np.split(np.arange(len(names)), [len(background_names)])
    return (
        _class_pool(images, names, np.sort(train), rotate=rotations != "none"),
        _class_pool(images, names, np.sort(test), rotate=rotations == "all"),
    )


def _class_pool(
    images: np.ndarray, names: list[str], characters: np.ndarray, *, rotate: bool
) -> ClassPool:
    """Make a pool of some characters, with their rotations as further classes."""
    turns = range(4) if rotate else range(1)
    kept = images[characters]
    # np.rot90 turns a square as a view; concatenate makes the one copy.
    X = np.concatenate([np.rot90(kept, k, axes=(2, 3)) for k in turns])
    labels = [
        names[c] + (f"/rot{90 * k:03d}" if k else "") for k in turns for c in characters
    ]
    # Objects, not fixed-width strings: the 20 rows of a class share one label.
    y = np.repeat(np.array(labels, dtype=object), images.shape[1])
    return ClassPool(X.reshape(-1, *images.shape[2:]), y)


def _read_characters(
    path: Path, image_size: int | None
) -> tuple[np.ndarray, list[str]]:
    """Read an archive: images (characters, drawers, side, side) and characters' names.

    Members are named `images_background/Greek/character07/0394_01.png`.
    """
    with zipfile.ZipFile(path) as archive:
        members = image_members(archive)
        images = np.stack(
            [read_drawing(archive.read(member), image_size) for member in members]
        )
    folders = [
        member.filename.split("/", 1)[1].rsplit("/", 1)[0]
        for member in members[::_N_DRAWERS]
    ]
    return images.reshape(-1, _N_DRAWERS, *images.shape[1:]), folders
