"""School: exam scores of pupils in 139 London schools, one task per school."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
from scipy.io import loadmat

from sklmeta.datasets._fetch import DataFile, data_home_path, fetch_file
from sklmeta.tasks import TaskSet

__all__ = ["fetch_school"]

_FILE = DataFile(
    url="https://raw.githubusercontent.com/jiayuzhou/MALSAR/"
    "fb9751594983df020ddc4f7e4a40520ee7c37989/data/school.mat",
    known_hash="sha256:"
    "57fb3238fdd03a9aa17276e2ce18d9bbb5d128c3261e794fe6233b58b6909068",
)
# The file does not name its columns. That they are these blocks, each but the two
# percentages adding up to one, is read off the values.
_BLOCKS = {
    "year": 3,
    "percent_free_meals": 1,
    "percent_top_band": 1,
    "gender": 2,
    "verbal_band": 3,
    "ethnic_group": 11,
    "school_gender": 3,
    "school_denomination": 3,
}


def fetch_school(
    *,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
) -> TaskSet:
    """Load the school data: regression tasks, one for each of 139 schools.

    From what is known of a pupil and a school, predict the pupil's exam score. Much
    used in multi-task learning; schools differ by little more than their level, which
    simple methods learn too. The file (45 kB) is read from `data_home` where it is
    there, else downloaded once.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the data; the file is in its folder `school`. None means the
        environment variable `SKLMETA_DATA`, or `~/sklmeta_data` where it is not set.
    download_if_missing : bool, default=True
        Whether to download a file that is not there.

    Returns
    -------
    tasks : TaskSet of length 139
        Named 0 to 138 in the file's order; 22 to 251 pupils each, 15,362 in all. `y`
        is the exam score in points, 1 to 70. `X` is a DataFrame of 27 columns, 0 or 1
        unless said otherwise: the year of the exam (`year_1` to `year_3`); the
        percentages, 0 to 100, of the school's pupils eligible for free meals and in
        the top band of verbal reasoning; the pupil's gender (2 columns), band of
        verbal reasoning (3) and ethnic group (11); the school's gender (3) and
        denomination (3). Categories are numbered in the order of the columns.

    Raises
    ------
    OSError
        If the file is not there and cannot be downloaded, or holds something else.
        The message says which file to put where.

    See Also
    --------
    fetch_parkinsons : Tasks that differ by more than their level.
    fetch_sleepstudy : Eighteen straight lines.

    Notes
    -----
    Examination records of the Inner London Education Authority, 1985 to 1987 [1]_, as
    they come with MALSAR [3]_ (GPL-2; the data have no licence text of their own). Its
    last column, a constant 1 for the intercept, is dropped.

    References
    ----------
    .. [1] Goldstein, H. (1991). Multilevel modelling of survey data. The Statistician
       40(2):235-244.
    .. [2] Argyriou, A., Evgeniou, T. & Pontil, M. (2008). Convex multi-task feature
       learning. Machine Learning 73(3):243-272.
    .. [3] Zhou, J., Chen, J. & Ye, J. (2011). MALSAR: multi-task learning via
       structural regularization. Arizona State University.

    Examples
    --------
    >>> from sklmeta.datasets import fetch_school
    >>> fetch_school()  # doctest: +SKIP
    TaskSet(139 tasks, 22 to 251 rows, 27 features)
    """
    folder = data_home_path(data_home) / "school"
    path = fetch_file(_FILE, folder, download_if_missing=download_if_missing)
    file = loadmat(path)
    schools, scores = file["X"].ravel(), file["Y"].ravel()  # a matrix for each school
    offsets = np.cumsum([0, *map(len, schools)])
    X = pd.DataFrame(
        np.concatenate(schools)[:, :-1].astype(float), columns=_column_names()
    )
    y = np.concatenate(scores).ravel().astype(float)
    return TaskSet.from_offsets(X, y, offsets, names=range(len(schools)))


def _column_names() -> list[str]:
    return [
        block if width == 1 else f"{block}_{category + 1}"
        for block, width in _BLOCKS.items()
        for category in range(width)
    ]
