"""scikit-learn's `random_state` as a NumPy generator, away from the global state."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator, RandomState

__all__ = ["RandomStateLike", "as_generator"]

RandomStateLike = int | np.integer | RandomState | Generator | None


def as_generator(random_state: RandomStateLike) -> Generator:
    """Return a generator for a seed, a generator, a RandomState or None.

    An int always gives the same draws, None fresh ones. A generator is used as it is
    and a `RandomState` seeds a new one, so that both move on from call to call.
    """
    if isinstance(random_state, RandomState):
        return np.random.default_rng(random_state.randint(2**31, size=4))
    return np.random.default_rng(random_state)
