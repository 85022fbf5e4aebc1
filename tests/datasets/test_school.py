"""The school data: tasks of a small file, and facts of the real one."""

import io

import numpy as np
import pytest
from scipy.io import savemat

from sklmeta.datasets import fetch_school, school


@pytest.fixture
def small_file(stand_in, monkeypatch):
    """Two schools of three and five pupils, with the constant last column."""
    rng = np.random.default_rng(0)
    X, Y = np.empty((1, 2), dtype=object), np.empty((1, 2), dtype=object)
    for place, n_pupils in enumerate((3, 5)):
        X[0, place] = rng.integers(2, size=(n_pupils, 28)).astype(np.uint8)
        X[0, place][:, -1] = 1
        Y[0, place] = rng.integers(1, 70, size=(n_pupils, 1)).astype(np.uint8)
    buffer = io.BytesIO()
    savemat(buffer, {"X": X, "Y": Y})
    file = stand_in("school/school.mat", buffer.getvalue(), school._FILE)
    monkeypatch.setattr(school, "_FILE", file)
    return stand_in.data_home, X, Y


def test_a_task_is_a_school(small_file):
    data_home, X, Y = small_file
    tasks = fetch_school(data_home=data_home, download_if_missing=False)
    assert tasks.names == (0, 1)
    assert [len(task) for task in tasks] == [3, 5]
    for task, rows, scores in zip(tasks, X[0], Y[0], strict=True):
        np.testing.assert_array_equal(task.X.to_numpy(), rows[:, :27])
        np.testing.assert_array_equal(task.y, scores[:, 0])
        assert task.y.dtype == float


def test_real_schools(real_folder):
    """139 schools, 15,362 pupils: Argyriou, Evgeniou & Pontil (2008)."""
    tasks = fetch_school(data_home=real_folder("school"), download_if_missing=False)
    sizes = [len(task) for task in tasks]
    assert (len(sizes), sum(sizes), min(sizes), max(sizes)) == (139, 15362, 22, 251)
    assert tasks[0].y[:5].tolist() == [17, 5, 16, 12, 7]
    ones = tasks[0].X.iloc[0].to_numpy().nonzero()[0]
    assert ones.tolist() == [0, 3, 4, 6, 9, 10, 21, 24]
    X, y = tasks.rows().X, tasks.rows().y
    assert X.shape == (15362, 27)
    assert (X.nunique() > 1).all()  # the constant column is gone
    assert (y.min(), y.max()) == (1, 70)


def test_real_columns_are_what_their_names_say(real_folder):
    tasks = fetch_school(data_home=real_folder("school"), download_if_missing=False)
    X = tasks.rows().X
    for block in ("year", "gender", "ethnic_group", "school_gender"):
        assert (X.filter(regex=rf"^{block}_\d+$").sum(axis=1) == 1).all()
    assert (X.filter(regex="^school_denomination_").sum(axis=1) == 1).all()
    bands = X.filter(regex="^verbal_band_").sum(axis=1)
    assert (bands == 0).sum() == 15  # pupils without a band
    assert bands.max() == 1
    percent = X[["percent_free_meals", "percent_top_band"]]
    assert percent.min().min() > 0
    assert percent.max().max() <= 100
    same_school = [column for column in X if column.startswith("school_")]
    assert all((task.X[same_school].nunique() == 1).all() for task in tasks)
    # Schools of one gender have pupils of one gender.
    girls = X["school_gender_3"] == 1
    assert (X.loc[girls, "gender_1"] == 1).all()
