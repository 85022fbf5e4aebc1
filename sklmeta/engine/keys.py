"""Random numbers as a function of a seed and a position, for whole tensors at once.

SplitMix64 [1]_ is a bijection of 64-bit integers that passes the usual batteries of
tests when fed a counter. Number `i` of a seed does not depend on how many are asked
for, which sequential generators cannot offer for ragged batches.

References
----------
.. [1] G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number
   generators", OOPSLA 2014.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

__all__ = ["LAST", "random_keys", "stream"]

LAST = 2**63 - 1
"""The largest key: sorts behind every other."""

# What a processor's cache holds: three times as fast as millions in one go.
_KEYS_AT_ONCE = 2**15

# The constants of SplitMix64 as the signed integers that torch computes with.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


def stream(seeds: Tensor) -> Tensor:
    """Scatter seeds, so that neighbouring seeds give unrelated numbers.

    Parameters
    ----------
    seeds : Tensor of int64
        Any integers.

    Returns
    -------
    Tensor of int64, of the shape of `seeds`
        The starting points for `random_keys`.
    """
    return _mix(seeds + _GAMMA)


def random_keys(streams: Tensor, position: Tensor) -> Tensor:
    """Return the random numbers at some positions of some streams.

    Parameters
    ----------
    streams : Tensor of int64
        From `stream`.
    position : Tensor of int64, broadcast against `streams`
        Which number of the stream.

    Returns
    -------
    Tensor of int64, of the broadcast shape
        Uniform on [0, 2**63).
    """
    steps = position * _GAMMA
    shape = torch.broadcast_shapes(streams.shape, steps.shape)
    n_together = max(1, _KEYS_AT_ONCE // max(1, prod(shape[1:])))
    if steps.dim() == len(shape) or shape[0] <= n_together:
        return _mix(streams + steps).bitwise_and_(LAST)
    keys = torch.empty(shape, dtype=torch.int64)
    for part, own in zip(
        keys.split(n_together), streams.split(n_together), strict=True
    ):
        torch.bitwise_and(_mix(own + steps), LAST, out=part)
    return keys


def _mix(z: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser; int64 products wrap around as they must."""
    z = _xorshift(z, 30).mul_(_MULTIPLIERS[0])
    z = _xorshift(z, 27).mul_(_MULTIPLIERS[1])
    return _xorshift(z, 31)


def _xorshift(z: Tensor, bits: int) -> Tensor:
    # The mask makes torch's arithmetic shift a logical one.
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1).bitwise_xor_(z)
