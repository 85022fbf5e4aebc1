"""Numbers of bytes are read, shown, and asked of the device."""

import numpy as np
import pytest
import torch

from sklmeta.engine.byte_counts import as_bytes, free_bytes, shown_bytes


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        *((None, None), (5, 5), ("5", 5), ("4GB", 4 * 10**9), ("4 gb", 4 * 10**9)),
        *(
            (np.int64(7), 7),
            ("1.5kB", 1500),
            ("2MiB", 2**21),
            ("1T", 10**12),
            ("7 B", 7),
        ),
    ],
)
def test_bytes_are_read(limit, expected):
    assert as_bytes(limit) == expected


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(999, "999 B"), (1000, "1 kB"), (2.5e9, "2.5 GB"), (3e12, "3 TB")],
)
def test_bytes_are_shown(n_bytes, text):
    assert shown_bytes(n_bytes) == text


def test_free_memory():
    free = free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20
    assert free_bytes(torch.device("meta")) is None
