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

from torch import Tensor

__all__ = ["LAST", "random_keys", "stream"]

LAST = 2**63 - 1
"""The largest key: sorts behind every other."""

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
    return _mix(streams + position * _GAMMA).bitwise_and_(LAST)


def _mix(z: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser; int64 products wrap around as they must."""
    z = _xorshift(z, 30).mul_(_MULTIPLIERS[0])
    z = _xorshift(z, 27).mul_(_MULTIPLIERS[1])
    return _xorshift(z, 31)


def _xorshift(z: Tensor, bits: int) -> Tensor:
    # The mask makes torch's arithmetic shift a logical one.
    return (z >> bits).bitwise_and_(2 ** (64 - bits) - 1).bitwise_xor_(z)
