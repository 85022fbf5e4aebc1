r"""The Bayes-optimal value of Bernoulli bandits, by dynamic programming.

With s successes and f failures of an arm and a uniform prior, the next pull pays with
probability :math:`(s + 1) / (s + f + 2)`. The best expected total of the remaining n
pulls is

.. math::

    V_n(x) = \max_a\; p_a (1 + V_{n-1}(x + \text{success}_a))
    + (1 - p_a) V_{n-1}(x + \text{failure}_a), \qquad V_0 = 0,

over counts x of all arms. Arms can be exchanged, so that states are sorted counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from sklmeta._parameters import check_integer

__all__ = ["BanditTable", "bandit_table", "bayes_optimal_bandit_value"]

# States of one layer, beyond which the tables take gigabytes.
MOST_STATES = 5_000_000


def bayes_optimal_bandit_value(n_arms: int, n_pulls: int) -> float:
    """Return the largest expected number of payments of a bandit's pulls.

    The mean over bandits whose arms pay with probabilities from U[0, 1]: no policy
    earns more in expectation.

    Parameters
    ----------
    n_arms : int
        Arms of the bandit.
    n_pulls : int
        Pulls in all.

    Returns
    -------
    float
        Between ``n_pulls / 2`` and `n_pulls`.

    Raises
    ------
    ValueError
        If the dynamic program has too many states.

    Examples
    --------
    >>> from sklmeta.rl import bayes_optimal_bandit_value
    >>> round(bayes_optimal_bandit_value(n_arms=2, n_pulls=10), 4)
    6.0218
    """
    return bandit_table(n_arms, n_pulls).value


@dataclass(frozen=True, eq=False)
class BanditTable:
    """The optimal policy of bandits.

    An arm's counts have a code, ``t (t + 1) / 2 + s`` after t pulls with s successes;
    a state is the sorted codes of all arms, as one integer.
    """

    n_arms: int
    n_pulls: int
    value: float
    # For each number of pulls made: the states in order, and the code of the arm to
    # pull in each.
    states: tuple[NDArray[np.int64], ...]
    choices: tuple[NDArray[np.int64], ...]

    def best_arms(
        self, successes: NDArray[np.int64], failures: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return which arm to pull (B,) for counts (B, n_arms).

        Every row must have as many pulls.
        """
        codes = _codes(successes, failures)
        n_made = int((successes[0] + failures[0]).sum())
        keys = _keys(np.sort(codes, axis=1), self.n_pulls)
        place = np.searchsorted(self.states[n_made], keys)
        wanted = self.choices[n_made][place]
        return (codes == wanted[:, None]).argmax(1)


@lru_cache(maxsize=8)
def bandit_table(n_arms: int, n_pulls: int) -> BanditTable:
    """Return the optimal policy of bandits with uniform priors.

    Raises
    ------
    TypeError, ValueError
        If a number is not an integer of at least 1, or there are too many states.
    """
    check_integer("n_arms", n_arms, 1)
    check_integer("n_pulls", n_pulls, 1)
    _refuse_many_states(n_arms, n_pulls)
    layers = [np.zeros((1, n_arms), dtype=np.int64)]
    for _ in range(n_pulls - 1):
        layers.append(_following(layers[-1], n_pulls))
    following = np.zeros(len(_following(layers[-1], n_pulls)))
    keys_after = _keys(_following(layers[-1], n_pulls), n_pulls)
    states, choices = [], []
    for layer in reversed(layers):
        value, choice = _best(layer, keys_after, following, n_pulls)
        keys_after, following = _keys(layer, n_pulls), value
        states.append(keys_after)
        choices.append(choice)
    return BanditTable(
        n_arms,
        n_pulls,
        float(following[0]),
        tuple(reversed(states)),
        tuple(reversed(choices)),
    )


def _refuse_many_states(n_arms: int, n_pulls: int) -> None:
    # Counts of the last layer, fewer than the ordered ones divided by all orders.
    n_states = _n_multisets(n_arms, n_pulls)
    too_wide = n_arms * np.log2(_n_codes(n_pulls)) >= 63
    if n_states > MOST_STATES or too_wide:
        raise ValueError(
            f"The dynamic program of {n_arms} arms and {n_pulls} pulls has about "
            f"{n_states:.1e} states, more than {MOST_STATES:.0e}. Take fewer pulls or "
            "arms; ThompsonSamplingAgent and UCB1Agent have no such limit."
        )


def _n_multisets(n_arms: int, n_pulls: int) -> float:
    """Return about how many sorted states the last layer has."""
    # Coefficient of x^n in prod_t (1 - x^t)^-(t + 1), at most n_arms parts: the number
    # of multisets of pulled arms, by a small dynamic program over their codes.
    ways = np.zeros((n_arms + 1, n_pulls + 1))
    ways[0, 0] = 1
    for pulls in range(1, n_pulls + 1):
        for _ in range(pulls + 1):
            for arms in range(1, n_arms + 1):
                ways[arms, pulls:] += ways[arms - 1, : n_pulls + 1 - pulls]
    return float(ways[:, n_pulls].sum())


def _n_codes(n_pulls: int) -> int:
    return comb(n_pulls + 2, 2)


def _codes(
    successes: NDArray[np.int64], failures: NDArray[np.int64]
) -> NDArray[np.int64]:
    pulls = successes + failures
    return pulls * (pulls + 1) // 2 + successes


def _pulls(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often arms of some codes were pulled."""
    return ((np.sqrt(8.0 * codes + 1) - 1) // 2).astype(np.int64)


def _keys(states: NDArray[np.int64], n_pulls: int) -> NDArray[np.int64]:
    """Return sorted states (B, n_arms) as integers."""
    base = np.int64(_n_codes(n_pulls))
    key = np.zeros(len(states), dtype=np.int64)
    for column in states.T:
        key = key * base + column
    return key


def _children(
    states: NDArray[np.int64], arm: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted states after a success and after a failure of an arm."""
    code = states[:, arm]
    pulls = _pulls(code)
    children = []
    for step in (pulls + 2, pulls + 1):  # to the codes of (s + 1, f) and (s, f + 1)
        child = states.copy()
        child[:, arm] = code + step
        children.append(np.sort(child, axis=1))
    return children[0], children[1]


def _following(states: NDArray[np.int64], n_pulls: int) -> NDArray[np.int64]:
    """Return all states after one more pull, in the order of their keys."""
    found = [c for arm in range(states.shape[1]) for c in _children(states, arm)]
    every = np.concatenate(found)
    _, first = np.unique(_keys(every, n_pulls), return_index=True)
    return every[first]


def _best(
    states: NDArray[np.int64],
    keys_after: NDArray[np.int64],
    value_after: NDArray[np.float64],
    n_pulls: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the value of states and the code of the arm to pull in each."""
    value = np.full(len(states), -np.inf)
    choice = np.zeros(len(states), dtype=np.int64)
    for arm in range(states.shape[1]):
        code = states[:, arm]
        pulls = _pulls(code)
        successes = code - pulls * (pulls + 1) // 2
        p = (successes + 1) / (pulls + 2)
        paid, not_paid = (
            value_after[np.searchsorted(keys_after, _keys(child, n_pulls))]
            for child in _children(states, arm)
        )
        gain = p * (1 + paid) + (1 - p) * not_paid
        better = gain > value + 1e-12
        value = np.where(better, gain, value)
        choice = np.where(better, code, choice)
    return value, choice
