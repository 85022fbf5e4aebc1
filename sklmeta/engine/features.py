"""Pools of features that a module makes of rows when they are first taken."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sklmeta.engine.byte_counts import free_bytes
from sklmeta.engine.inference import features_of
from sklmeta.engine.pool import RowPool

__all__ = ["FeaturePool"]

SHARE = 0.5  # of the free memory that features may take


class FeaturePool(RowPool):
    """Rows of many tasks as the features that a module makes of them.

    A row passes the module when it is first taken, and never again; the rows are
    dropped when all have. Where the features of all rows would take more than half of
    the memory that is free, none are kept.

    Parameters
    ----------
    pool : RowPool
        The rows.
    embed : nn.Module
        Maps rows (n, *F) to features (n, n_features), each by itself; on the device of
        the rows, in evaluation mode.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.engine.features import FeaturePool
    >>> from sklmeta.engine.pool import RowPool
    >>> rows = RowPool(torch.ones(4, 3), torch.rand(4), [0, 4], names=["a"])
    >>> features = FeaturePool(rows, torch.nn.Linear(3, 2))
    >>> features.take(torch.tensor([[0, 1], [1, 0]])).shape
    torch.Size([2, 2, 2])
    """

    def __init__(self, pool: RowPool, embed: nn.Module) -> None:
        self._rows: RowPool | None = pool
        self._embed = embed
        first = torch.zeros(1, dtype=torch.int64)
        features = features_of(embed, pool, first)
        self._keeps = _fits(pool.n_rows, features)
        x = features.expand(pool.n_rows, -1)
        super().__init__(
            x.clone() if self._keeps else x,
            pool.y,
            pool.offsets,
            names=pool.names,
            support=pool.support,
            is_class_pool=pool.is_class_pool,
            domains=pool.domain_of_each(),
        )
        self._is_known = torch.zeros(pool.n_rows, dtype=torch.bool)
        self._is_known[first] = True

    def take(self, index: Tensor) -> Tensor:
        """Return the features of some rows.

        Parameters
        ----------
        index : Tensor of int64, any shape
            Rows of the pool.

        Returns
        -------
        Tensor of shape (*index.shape, n_features)
        """
        if self._rows is None:
            return super().take(index)
        rows = index.flatten().cpu()
        if not self._keeps:
            used, places = rows.unique(return_inverse=True)
            features = features_of(self._embed, self._rows, used)
            return features[places.to(self.device)].unflatten(0, index.shape)
        missing = rows[~self._is_known[rows]].unique()
        if len(missing):
            features = features_of(self._embed, self._rows, missing)
            self.x.index_copy_(0, missing.to(self.device), features)
            self._is_known[missing] = True
        if self._is_known.all():
            self._rows = None
        return super().take(index)


def _fits(n_rows: int, features: Tensor) -> bool:
    """Whether the features of all rows leave memory for what is done with them."""
    free = free_bytes(features.device)
    return free is None or n_rows * features.nbytes <= SHARE * free
