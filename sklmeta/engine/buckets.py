"""Episodes of a few shapes instead of many: rows padded to the next power of two.

A compiled program is made for one shape. Ragged tasks come in as many shapes as there
are batches, and in a handful once they are padded; learners leave padding out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sklmeta.engine.batches import Episodes, Rows

__all__ = ["Buckets"]

# Batches of other shapes than before, until they are taken for ragged.
_EXCEPTIONS = 2


class Buckets:
    """Pads batches, as soon as they have turned out to be of many shapes."""

    def __init__(self) -> None:
        self._seen: set[tuple[torch.Size, torch.Size]] = set()

    def __call__(self, episodes: Episodes) -> Episodes:
        """Return the episodes, padded or as they are."""
        if len(self._seen) <= _EXCEPTIONS:
            shapes = episodes.support.x.shape, episodes.query.x.shape
            self._seen.add(shapes)
        if len(self._seen) <= _EXCEPTIONS:
            return episodes
        return Episodes(_padded(episodes.support), _padded(episodes.query))


def _padded(rows: Rows) -> Rows:
    n_rows = rows.mask.shape[1]
    n_more = (1 << (n_rows - 1).bit_length()) - n_rows
    if not n_more:
        return rows
    x, y = (_extended(tensor, n_more) for tensor in (rows.x, rows.y))
    return Rows(x, y, F.pad(rows.mask, [0, n_more]), rows.n_way)


def _extended(tensor: Tensor, n_more: int) -> Tensor:
    """Return a tensor (T, S, ...) with its last row `n_more` times more.

    Zeros are no rows that a backbone must be able to take: x / norm(x), log(x).
    """
    last = tensor[:, -1:]
    return torch.cat([tensor, last.expand(-1, n_more, *last.shape[2:])], 1)
