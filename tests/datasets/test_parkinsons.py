"""Parkinson's telemonitoring: tasks of a small file, and facts of the real one."""

import numpy as np
import pandas as pd
import pytest

from sklmeta.datasets import fetch_parkinsons, parkinsons

HEADER = (
    "subject#,age,sex,test_time,motor_UPDRS,total_UPDRS,Jitter(%),Jitter(Abs),"
    "Jitter:RAP,Jitter:PPQ5,Jitter:DDP,Shimmer,Shimmer(dB),Shimmer:APQ3,Shimmer:APQ5,"
    "Shimmer:APQ11,Shimmer:DDA,NHR,HNR,RPDE,DFA,PPE"
)
VOICE = HEADER.split(",")[6:]


@pytest.fixture
def small_file(stand_in, monkeypatch):
    """Two patients, each followed twice over the same days, as the file has it."""
    rows = [
        [patient, 60 + patient, patient % 2, day, 10 * patient + day, 20 * patient]
        + [patient + day / 100 + phonation / 1000] * 16
        for patient in (1, 2)
        for phonation in (1, 2)
        for day in (5.5, 6.5, 7.5)
    ]
    lines = [HEADER, *[",".join(map(str, row)) for row in rows]]
    file = stand_in(
        "parkinsons/parkinsons_updrs.data", "\n".join(lines).encode(), parkinsons._FILE
    )
    monkeypatch.setattr(parkinsons, "_FILE", file)
    return stand_in.data_home


def test_a_task_is_a_patient_in_order_of_time(small_file):
    tasks = fetch_parkinsons(data_home=small_file, download_if_missing=False)
    assert tasks.names == (1, 2)
    assert tasks.labels == "shared"
    second = tasks[1]
    assert list(second.X) == [*VOICE, "age", "sex", "test_time"]
    assert second.X["test_time"].tolist() == [5.5, 5.5, 6.5, 6.5, 7.5, 7.5]
    assert second.X["PPE"].tolist()[:2] == [2.056, 2.057]
    assert (second.X["age"] == 62).all()
    assert second.y.tolist() == [40.0] * 6


def test_the_other_target(small_file):
    tasks = fetch_parkinsons(target="motor_UPDRS", data_home=small_file)
    assert tasks[0].y.tolist() == [15.5, 15.5, 16.5, 16.5, 17.5, 17.5]
    assert not {"motor_UPDRS", "total_UPDRS", "subject#"} & set(tasks[0].X)


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match=r"target must be one of .*'motor_UPDRS'.*'x'"):
        fetch_parkinsons(target="x", data_home="/nowhere")


def test_real_patients(real_folder):
    """Counts of the file's description; 28 men and 14 women as in the paper."""
    tasks = fetch_parkinsons(
        data_home=real_folder("parkinsons"), download_if_missing=False
    )
    sizes = [len(task) for task in tasks]
    assert tasks.names == tuple(range(1, 43))
    assert (sum(sizes), min(sizes), max(sizes)) == (5875, 101, 168)
    assert tasks.rows().X.shape == (5875, 19)
    first = tasks[0].X.iloc[0]
    assert first[["age", "sex", "test_time"]].tolist() == [72, 0, 5.6431]
    assert first[["Jitter(%)", "PPE"]].tolist() == [0.00662, 0.16006]
    assert tasks[0].y[0] == 34.398
    y = np.concatenate([task.y for task in tasks])
    assert (y.min(), y.max()) == (7.0, 54.992)
    for task in tasks:
        assert task.X["test_time"].is_monotonic_increasing
        assert task.X[["age", "sex"]].nunique().tolist() == [1, 1]
    women = sum(task.X["sex"].iloc[0] for task in tasks)
    assert (42 - women, women) == (28, 14)


def test_real_rows_are_those_of_the_file(real_folder):
    home = real_folder("parkinsons")
    motor = fetch_parkinsons(
        target="motor_UPDRS", data_home=home, download_if_missing=False
    )
    file = pd.read_csv(home / "parkinsons" / "parkinsons_updrs.data")
    columns = [*motor[0].X, "motor_UPDRS"]
    found = motor.to_frame(target="motor_UPDRS", task="subject#")
    for name, own in found.groupby("subject#"):
        expected = file[file["subject#"] == name][columns]
        assert sorted(map(tuple, own[columns].to_numpy())) == sorted(
            map(tuple, expected.to_numpy())
        )
