"""Parkinson's telemonitoring: voice recordings of 42 patients, one task per patient."""

from __future__ import annotations

import os

import pandas as pd

from sklmeta._parameters import check_choice
from sklmeta.datasets._fetch import DataFile, data_home_path, fetch_file
from sklmeta.tasks import TaskSet

__all__ = ["fetch_parkinsons"]

_FILE = DataFile(
    url="https://raw.githubusercontent.com/behnazrzf/Parkinson-s_Telemonitoring/"
    "f603774b38bfc967f20b4752bec4b6f872917d98/data/parkinsons_updrs.data",
    known_hash="sha256:"
    "f2c7d5025dec4e92e7feae367a5f7ccf58789a10ac6b54bdf15976c599f9dd39",
)
_TARGETS = ("total_UPDRS", "motor_UPDRS")
_PATIENT = "subject#"
_CONTEXT = ["age", "sex", "test_time"]


def fetch_parkinsons(
    *,
    target: str = "total_UPDRS",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
) -> TaskSet:
    """Load Parkinson's telemonitoring: regression tasks, one for each of 42 patients.

    From measures of a voice recording, predict how severe a patient's disease is.
    Patients differ far more from each other than one patient's recordings do, so a
    few visits to a clinician (the support rows) tell most. The file (0.9 MB) is read
    from `data_home` where it is there, else downloaded once.

    Parameters
    ----------
    target : {"total_UPDRS", "motor_UPDRS"}, default="total_UPDRS"
        Score on the Unified Parkinson's Disease Rating Scale: in all (0 to 176
        points), or of its motor section (0 to 108 points); higher is worse. The scores
        between a patient's visits were linearly interpolated.
    data_home : str or path-like, default=None
        Folder of the data; the file is in its folder `parkinsons`. None means the
        environment variable `SKLMETA_DATA`, or `~/sklmeta_data` where it is not set.
    download_if_missing : bool, default=True
        Whether to download a file that is not there.

    Returns
    -------
    tasks : TaskSet of length 42
        Named by the patient's number, 1 to 42; 101 to 168 rows each, 5,875 in all,
        ordered by time. `X` is a DataFrame of 19 columns: 16 voice measures (jitter:
        variation of the frequency, in percent, seconds or as a ratio; shimmer:
        variation of the amplitude, as a ratio or in dB; noise to harmonics, `NHR` as a
        ratio and `HNR` in dB; `RPDE`, `DFA` and `PPE` without unit), then `age` in
        years, `sex` (0 male, 1 female) and `test_time` in days since recruitment
        (recordings from before it are negative).

    Raises
    ------
    OSError
        If the file is not there and cannot be downloaded, or holds something else.
        The message says which file to put where.
    ValueError
        If `target` is none of the two.

    See Also
    --------
    fetch_school : Tasks that differ by little more than their level.
    fetch_sleepstudy : Eighteen straight lines.

    Notes
    -----
    UCI machine learning repository, data set 189, licence CC BY 4.0 [1]_. Downloads
    come from a copy whose checksum is fixed. `age` and `sex` are constant within a
    patient.

    References
    ----------
    .. [1] Tsanas, A., Little, M. A., McSharry, P. E. & Ramig, L. O. (2010). Accurate
       telemonitoring of Parkinson's disease progression by noninvasive speech tests.
       IEEE Transactions on Biomedical Engineering 57(4):884-893.

    Examples
    --------
    >>> from sklmeta.datasets import fetch_parkinsons
    >>> fetch_parkinsons()  # doctest: +SKIP
    TaskSet(42 tasks, 101 to 168 rows, 19 features)
    """
    check_choice("target", target, _TARGETS)
    folder = data_home_path(data_home) / "parkinsons"
    path = fetch_file(_FILE, folder, download_if_missing=download_if_missing)
    frame = pd.read_csv(path)
    # The file repeats each patient's period six times, once for each phonation.
    frame = frame.sort_values([_PATIENT, "test_time"], kind="stable", ignore_index=True)
    others = {_PATIENT, *_CONTEXT, *_TARGETS}
    voice = [column for column in frame if column not in others]
    return TaskSet.from_frame(
        frame, target=target, task=_PATIENT, features=voice + _CONTEXT
    )
