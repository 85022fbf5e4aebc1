"""The one-shot challenge on Omniglot: 20 fixed tasks, each inside one alphabet.

The data's authors judge learners, and people, on these: one drawing of each of 20
characters by one person, and the same 20 characters drawn by another.
"""

from __future__ import annotations

import os
import zipfile

import numpy as np

from sklmeta.datasets._drawings import (
    check_image_size,
    read_drawing,
    require_pillow,
)
from sklmeta.datasets._fetch import DataFile, data_home_path, fetch_file
from sklmeta.tasks import Task, TaskSet

__all__ = ["fetch_omniglot_runs"]

_RUNS = DataFile(
    url="https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
    "one-shot-classification/all_runs.zip",
    known_hash="sha256:"
    "437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
)
_N_RUNS = 20


def fetch_omniglot_runs(
    *,
    image_size: int | None = 28,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
) -> TaskSet:
    """Load the 20 runs of Omniglot's one-shot challenge as tasks.

    Each run has 20 characters of one alphabet, among the 20 evaluation alphabets. One
    person's drawing of each is the support, fixed by the task's mask; another person's
    drawings of the same 20 characters are the query. Learners are meta-trained on the
    30 background alphabets, `fetch_omniglot(split="background")`, and accuracy over
    the 400 query drawings is compared [1]_. The archive (0.4 MB) is read from
    `data_home` where it is there, else downloaded once. Needs Pillow
    (`pip install sklmeta[images]`).

    Parameters
    ----------
    image_size : int or None, default=28
        Side of the images in pixels, resized with Lanczos' filter. None keeps the
        original 105.
    data_home : str or path-like, default=None
        Folder of the data; the archive is in its folder `omniglot`. None means the
        environment variable `SKLMETA_DATA`, or `~/sklmeta_data` where it is not set.
    download_if_missing : bool, default=True
        Whether to download an archive that is not there.

    Returns
    -------
    tasks : TaskSet of length 20
        Tasks named "run01" to "run20", with local labels "class01" to "class20". Each
        has 40 rows of shape (image_size, image_size), uint8, ink 255 on 0: the 20
        support rows, then the 20 query rows in the order of the archive.

    Raises
    ------
    OSError
        If the archive is not there and cannot be downloaded, or holds something else.
        The message says which file to put where.
    ImportError
        If Pillow is not installed.
    ValueError
        If `image_size` is no number of pixels.

    See Also
    --------
    fetch_omniglot : All characters, to meta-train on.
    sklmeta.ModifiedHausdorffClassifier : The authors' yardstick; 38.8 % errors with
        ``image_size=None``, more on smaller images.

    References
    ----------
    .. [1] Lake, B. M., Salakhutdinov, R. & Tenenbaum, J. B. (2015). Human-level
       concept learning through probabilistic program induction. Science
       350(6266):1332-1338. https://github.com/brendenlake/omniglot (MIT licence)

    Examples
    --------
    >>> from sklmeta.datasets import fetch_omniglot_runs
    >>> tasks = fetch_omniglot_runs()  # doctest: +SKIP
    >>> len(tasks), tasks[0].X.shape, tasks[0].support.sum()  # doctest: +SKIP
    (20, (40, 28, 28), 20)
    """
    check_image_size(image_size)
    require_pillow("fetch_omniglot_runs")
    folder = data_home_path(data_home) / "omniglot"
    path = fetch_file(_RUNS, folder, download_if_missing=download_if_missing)
    names = [f"run{number:02d}" for number in range(1, _N_RUNS + 1)]
    with zipfile.ZipFile(path) as archive:
        runs = [_read_run(archive, name, image_size) for name in names]
    return TaskSet(runs, labels="local")


def _read_run(archive: zipfile.ZipFile, run: str, image_size: int | None) -> Task:
    """Read one run: its class_labels.txt says which drawing shows which character.

    Lines are `run01/test/item01.png run01/training/class08.png`.
    """
    lines = archive.read(f"{run}/class_labels.txt").decode().splitlines()
    character_of = dict(line.split() for line in lines if line.strip())
    support, query = sorted(character_of.values()), sorted(character_of)
    shown = support + [character_of[item] for item in query]
    X = np.stack(
        [read_drawing(archive.read(name), image_size) for name in support + query]
    )
    y = np.array([_stem(name) for name in shown], dtype=object)
    return Task(X, y, run, support=np.arange(len(y)) < len(support))


def _stem(member: str) -> str:
    """Return "class08" of "run01/training/class08.png"."""
    return member.rsplit("/", 1)[1].removesuffix(".png")
