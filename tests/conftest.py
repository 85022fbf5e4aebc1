"""What every test shares."""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

# The suite's tensors are small, and pytest-xdist already keeps every core busy.
torch.set_num_threads(1)


def pytest_configure(config):
    """Hide GPUs from all but the tests marked gpu: numbers are compared to the last
    digits, as a CPU gives them every time.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def data_home():
    """Folder of real data, from SKLMETA_DATA; tests that need it skip without."""
    folder = os.environ.get("SKLMETA_DATA")
    if not folder:
        pytest.skip("real data needed: set SKLMETA_DATA to the folder that holds them")
    if not Path(folder).is_dir():
        pytest.skip(f"real data needed: SKLMETA_DATA={folder} is not a folder")
    return Path(folder)


@pytest.fixture(autouse=True)
def _same_draws():
    """Seed the global generators of torch and numpy: layers made in tests, and what
    `random_state=None` draws, do not depend on the order or the process of the tests.
    """
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002


@pytest.fixture
def script(monkeypatch):
    """Import a benchmark as `python benchmarks/<name>.py` would."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    return importlib.import_module
