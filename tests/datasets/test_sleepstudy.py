"""The sleep study: tasks of a small file, and exact numbers of the real one."""

import numpy as np
import pytest

from sklmeta.datasets import fetch_sleepstudy, sleepstudy


def test_a_task_is_a_person(stand_in, monkeypatch):
    content = b"rownames,Reaction,Days,Subject\n1,250.5,0,7\n2,260.5,1,7\n3,300,0,9\n"
    file = stand_in("sleepstudy/sleepstudy.csv", content, sleepstudy._FILE)
    monkeypatch.setattr(sleepstudy, "_FILE", file)
    tasks = fetch_sleepstudy(data_home=stand_in.data_home, download_if_missing=False)
    assert tasks.names == (7, 9)
    assert list(tasks[0].X) == ["Days"]
    assert tasks[0].X["Days"].tolist() == [0, 1]
    assert tasks[0].y.tolist() == [250.5, 260.5]


def test_real_lines(real_folder):
    """Bates et al. (2015): fixed effects 251.405 and 10.467.

    The data are balanced, so the fixed effects are the means of the least-squares
    lines of the people.
    """
    tasks = fetch_sleepstudy(
        data_home=real_folder("sleepstudy"), download_if_missing=False
    )
    assert len(tasks) == 18
    assert all(task.X["Days"].tolist() == list(range(10)) for task in tasks)
    assert (tasks.names[0], tasks.names[-1]) == (308, 372)
    assert tasks[0].y[:2].tolist() == [249.56, 258.7047]
    lines = [np.polyfit(task.X["Days"], task.y, deg=1) for task in tasks]
    slope, intercept = np.mean(lines, axis=0)
    assert intercept == pytest.approx(251.405, abs=5e-4)
    assert slope == pytest.approx(10.467, abs=5e-4)
