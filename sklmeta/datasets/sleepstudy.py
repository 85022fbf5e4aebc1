"""Sleep study: reaction times under lack of sleep, one task for each of 18 people."""

from __future__ import annotations

import os

import pandas as pd

from sklmeta.datasets._fetch import DataFile, data_home_path, fetch_file
from sklmeta.tasks import TaskSet

__all__ = ["fetch_sleepstudy"]

_FILE = DataFile(
    url="https://raw.githubusercontent.com/vincentarelbundock/Rdatasets/"
    "1dcc2bf5f955cc1224a3e1307256e1fe86b68dae/csv/lme4/sleepstudy.csv",
    known_hash="sha256:"
    "20922ddc87d538bf2344f73d49000eeb2d7e14934b6191a3e071fefc329942c4",
)


def fetch_sleepstudy(
    *,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
) -> TaskSet:
    """Load the sleep study: regression tasks, one for each of 18 people.

    From the days of short sleep so far, predict a person's reaction time: each task is
    about one straight line, which is what linear mixed models are taught on. The file
    (3 kB) is read from `data_home` where it is there, else downloaded once.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the data; the file is in its folder `sleepstudy`. None means the
        environment variable `SKLMETA_DATA`, or `~/sklmeta_data` where it is not set.
    download_if_missing : bool, default=True
        Whether to download a file that is not there.

    Returns
    -------
    tasks : TaskSet of length 18
        Named by the person's number, 308 to 372; ten rows each, in order of time. `X`
        is a DataFrame with the column `Days`, 0 to 9; `y` the average reaction time of
        that day in milliseconds.

    Raises
    ------
    OSError
        If the file is not there and cannot be downloaded, or holds something else.
        The message says which file to put where.

    See Also
    --------
    fetch_parkinsons : Patients followed over half a year.
    fetch_school : Pupils of many schools.

    Notes
    -----
    From the R package lme4 [2]_ (GPL, version 2 or later), data of [1]_.

    References
    ----------
    .. [1] Belenky, G. et al. (2003). Patterns of performance degradation and
       restoration during sleep restriction and subsequent recovery: a sleep
       dose-response study. Journal of Sleep Research 12(1):1-12.
    .. [2] Bates, D., Mächler, M., Bolker, B. & Walker, S. (2015). Fitting linear
       mixed-effects models using lme4. Journal of Statistical Software 67(1).

    Examples
    --------
    >>> from sklmeta.datasets import fetch_sleepstudy
    >>> fetch_sleepstudy()  # doctest: +SKIP
    TaskSet(18 tasks, 10 rows each, 1 feature)
    """
    folder = data_home_path(data_home) / "sleepstudy"
    path = fetch_file(_FILE, folder, download_if_missing=download_if_missing)
    return TaskSet.from_frame(
        pd.read_csv(path), target="Reaction", task="Subject", features=["Days"]
    )
