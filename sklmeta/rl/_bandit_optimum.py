r"""What no bandit agent can exceed: the Bayes-optimal value of Bernoulli bandits.

Arms pay 1 with probabilities drawn from U[0, 1], else 0. What is known of an arm after
s successes and f failures is the posterior Beta(s + 1, f + 1), so the counts of all
arms are the state of a Markov decision process, which backward induction solves:

.. math::
    V_n = 0, \qquad V_t(x) = \max_i\; p_i \,[1 + V_{t+1}(x + \text{success of } i)]
    + (1 - p_i)\, V_{t+1}(x + \text{failure of } i), \qquad
    p_i = \frac{s_i + 1}{s_i + f_i + 2}.

Arms are exchangeable, so a state is a multiset of counts. Its key is the sum, modulo
2^64, of a random number for each arm's counts; that no two states share a key is not
left to chance, since the number of states is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import comb
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sklmeta._parameters import check_integer
from sklmeta.engine.byte_counts import as_bytes

__all__ = ["BayesOptimalTable", "bayes_optimal_bandit_value"]

Keys = NDArray[np.int64]
CPU = torch.device("cpu")


def bayes_optimal_bandit_value(
    n_arms: int, n_pulls: int, *, memory_limit: int | str | None = "2GB"
) -> float:
    """Return the most reward that any agent can expect of an unknown bandit.

    The probabilities of its arms are drawn from U[0, 1], and the agent knows that; the
    reward is the sum over all pulls, not discounted.

    Parameters
    ----------
    n_arms : int
        Number of arms.
    n_pulls : int
        Number of pulls.
    memory_limit : int, str or None, default="2GB"
        Bytes that the dynamic program may take; see Notes. None: no limit.

    Returns
    -------
    float
        Exact up to rounding.

    Raises
    ------
    ValueError
        If the dynamic program would take more than `memory_limit`; found out before it
        starts.

    Notes
    -----
    The number of states grows fast: 2 thousand for 5 arms and 10 pulls, 0.2 million
    for 20 pulls, 6 million for 30 pulls, which take about a minute. Arms beyond the
    number of pulls cost nothing.

    References
    ----------
    Bellman, *A Problem in the Sequential Design of Experiments*, Sankhya 16, 1956.

    Examples
    --------
    >>> from sklmeta.rl import bayes_optimal_bandit_value
    >>> round(bayes_optimal_bandit_value(n_arms=5, n_pulls=10), 4)
    6.66
    """
    table = BayesOptimalTable(n_arms, n_pulls, memory_limit=memory_limit)
    nothing = torch.zeros(1, n_arms, dtype=torch.long)
    return float(table.value(nothing, nothing))


class BayesOptimalTable:
    """The best arm and the value to go, for all that can be known of a bandit.

    Parameters
    ----------
    n_arms : int
        Number of arms.
    n_pulls : int
        Number of pulls, those to come and those made.
    memory_limit : int, str or None, default="2GB"
        Bytes that building the table may take. None: no limit.

    Attributes
    ----------
    n_states : int
        Number of states in the table, those in which a pull is left.

    Raises
    ------
    ValueError
        If it would take more than `memory_limit`.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.rl._bandit_optimum import BayesOptimalTable
    >>> table = BayesOptimalTable(n_arms=2, n_pulls=4)
    >>> successes, failures = torch.tensor([[0, 0], [1, 0]]), torch.tensor([[1, 0]] * 2)
    >>> table.best_arm(successes, failures)
    tensor([1, 1])
    """

    def __init__(
        self, n_arms: int, n_pulls: int, *, memory_limit: int | str | None = "2GB"
    ) -> None:
        check_integer("n_arms", n_arms, 1)
        check_integer("n_pulls", n_pulls, 1)
        self.n_arms = n_arms
        self.n_pulls = n_pulls
        # With more arms than pulls some stay untouched whatever one does.
        n_touched = min(n_arms, n_pulls)
        _check_memory(n_touched, n_arms, n_pulls, memory_limit)
        self.n_states = int(_layer_sizes(n_touched, n_pulls).sum())
        arms = _Arms.of(n_pulls)
        solution, seed = None, 0
        while solution is None:
            numbers = _numbers_of_arms(len(arms.mean), seed)
            solution = _solve(arms, numbers, n_touched, n_pulls, self.n_states)
            seed += 1
        stored = _Stored(*map(torch.from_numpy, (numbers, *solution)))
        self._copies = {CPU: stored}  # one for each device in use

    def value(self, successes: Tensor, failures: Tensor) -> Tensor:
        """Return the reward to expect of the pulls that are left.

        Parameters
        ----------
        successes, failures : Tensor of shape (B, n_arms)
            How often each arm paid 1 and 0, in B bandits.

        Returns
        -------
        Tensor of shape (B,)
            In double precision.
        """
        _, found = self._find(successes, failures)
        return self._stored(successes.device).values[found]

    def best_arm(self, successes: Tensor, failures: Tensor) -> Tensor:
        """Return the arm to pull, the first where several are as good.

        Parameters
        ----------
        successes, failures : Tensor of shape (B, n_arms)
            How often each arm paid 1 and 0, in B bandits.

        Returns
        -------
        Tensor of shape (B,)
            Ranks of arms.
        """
        codes, found = self._find(successes, failures)
        best = self._stored(successes.device).best_codes[found]
        return (codes == best[:, None]).int().argmax(1)

    def _find(self, successes: Tensor, failures: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes of the arms (B, A) and where the states are stored (B,)."""
        stored = self._stored(successes.device)
        failures = failures.long()
        pulls = successes.long() + failures
        n_made = int(pulls.sum(1).max())
        if pulls.shape[1] != self.n_arms or n_made >= self.n_pulls:
            raise ValueError(
                f"This table holds what to do before each of n_pulls={self.n_pulls} "
                f"pulls of n_arms={self.n_arms} arms, got a bandit of {pulls.shape[1]} "
                f"arms with {n_made} pulls made. Set n_pulls and n_arms to those of "
                "the trial."
            )
        codes = pulls * (pulls + 1) // 2 + failures
        keys = stored.numbers[codes].sum(1)
        return codes, torch.searchsorted(stored.keys, keys)

    def _stored(self, device: torch.device) -> _Stored:
        if device not in self._copies:
            stored = self._copies[CPU]
            self._copies[device] = _Stored(*(part.to(device) for part in stored))
        return self._copies[device]

    def __getstate__(self) -> dict[str, Any]:
        # Pickles do not ask for the devices that were used.
        return {**self.__dict__, "_copies": {CPU: self._copies[CPU]}}


class _Stored(NamedTuple):
    """The table on one device; S states, in the order of their keys."""

    numbers: Tensor  # (n_codes,) int64, what arms add to a key
    keys: Tensor  # (S,) int64
    values: Tensor  # (S,) float64
    best_codes: Tensor  # (S,) int32, counts of the arm to pull


class _Arms(NamedTuple):
    """What an arm's counts mean, by their code m (m + 1) / 2 + f, m being s + f."""

    pulls: NDArray[np.int32]  # m
    mean: NDArray[np.float64]  # of Beta(s + 1, f + 1)

    @classmethod
    def of(cls, n_pulls: int) -> _Arms:
        pulls = np.repeat(np.arange(n_pulls), np.arange(n_pulls) + 1)
        failures = np.arange(len(pulls)) - pulls * (pulls + 1) // 2
        return cls(pulls.astype(np.int32), (pulls - failures + 1) / (pulls + 2))


class _Layer(NamedTuple):
    """The S states after some number of pulls, in the order of their keys."""

    codes: NDArray[np.int32]  # (S, A), in no particular order along A
    keys: Keys  # (S,)


def _numbers_of_arms(n_codes: int, seed: int) -> Keys:
    limits = np.iinfo(np.int64)
    numbers = np.random.default_rng(seed).integers(
        limits.min, limits.max, size=n_codes, dtype=np.int64
    )
    numbers[0] = 0  # so that untouched arms do not count
    return numbers


def _solve(
    arms: _Arms, numbers: Keys, n_arms: int, n_pulls: int, n_states: int
) -> tuple[Keys, NDArray[np.float64], NDArray[np.int32]] | None:
    """Return keys, values and codes of the best arms, or None if states share keys."""

    def after_pulls(layer: _Layer) -> Keys:
        """Return the keys of what each pull of each arm leads to, (2, S, A)."""
        success = layer.codes + arms.pulls[layer.codes] + 1  # code of (s + 1, f)
        rest = layer.keys[:, None] - numbers[layer.codes]
        return np.stack([rest + numbers[success], rest + numbers[success + 1]])

    layers = [_Layer(np.zeros((1, n_arms), np.int32), np.zeros(1, np.int64))]
    while len(layers) < n_pulls:
        layers.append(_next_layer(layers[-1], after_pulls(layers[-1]), arms))
    keys = np.concatenate([layer.keys for layer in layers])
    # Every key belongs to a state, so as many keys as states are a key for each.
    if len(np.unique(keys)) != n_states:
        return None
    values, best_codes = _backward(layers, after_pulls, arms)
    order = keys.argsort()
    return keys[order], values[order], best_codes[order]


def _next_layer(layer: _Layer, keys_after: Keys, arms: _Arms) -> _Layer:
    keys, first = np.unique(keys_after.ravel(), return_index=True)
    failed, state, arm = np.unravel_index(first, keys_after.shape)
    codes = layer.codes[state]
    pulled = codes[np.arange(len(keys)), arm]
    codes[np.arange(len(keys)), arm] += arms.pulls[pulled] + 1 + failed.astype(np.int32)
    return _Layer(codes, keys)


def _backward(
    layers: list[_Layer], after_pulls: Callable[[_Layer], Keys], arms: _Arms
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return the values and the best arms' codes of all states, layer after layer."""
    values: list[NDArray[np.float64]] = []
    best_codes = []
    for layer, following in zip(layers[::-1], [None, *layers[:0:-1]], strict=True):
        mean = arms.mean[layer.codes]  # (S, A)
        gains = mean
        if following is not None:
            to_go = values[-1][np.searchsorted(following.keys, after_pulls(layer))]
            gains = mean * (1 + to_go[0]) + (1 - mean) * to_go[1]
        values.append(gains.max(1))
        best_codes.append(layer.codes[np.arange(len(gains)), gains.argmax(1)])
    return np.concatenate(values[::-1]), np.concatenate(best_codes[::-1])


def _layer_sizes(n_arms: int, n_pulls: int) -> NDArray[np.float64]:
    """Return how many states there are after 0, ..., n_pulls - 1 pulls.

    An arm after m pulls is in one of m + 1 states, so these are the coefficients of
    ``x^t y^n_arms`` in the product over m of ``(1 - y x^m)^-(m + 1)``.
    """
    sizes = np.zeros((n_arms + 1, n_pulls))  # by the number of arms and of pulls
    sizes[0, 0] = 1
    for m in range(n_pulls):
        more = sizes.copy()
        for c in range(1, n_arms + 1):  # arms that were pulled m times
            if m * c >= n_pulls:
                break
            # c arms, each in one of m + 1 states, in no order
            more[c:, m * c :] += comb(m + c, c) * sizes[:-c, : n_pulls - m * c]
        sizes = more
    return sizes[n_arms]


def _ever_larger(n_arms: int, n_pulls: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield numbers of arms up to `n_arms`, and the sizes of their layers.

    Fewer arms have fewer states, and are counted faster: what is far too large shows
    before it costs anything.
    """
    # After t pulls one arm is in one of t + 1 states.
    yield 1, np.arange(1.0, min(n_pulls, 1_000_000) + 1)
    counted = 1
    while counted < n_arms:
        counted = min(2 * counted, n_arms)
        yield counted, _layer_sizes(counted, n_pulls)


def _check_memory(
    n_touched: int, n_arms: int, n_pulls: int, memory_limit: int | str | None
) -> None:
    """Raise ValueError unless a table fits into a limit."""
    limit = as_bytes(memory_limit)
    if limit is None:
        return
    for counted, sizes in _ever_larger(n_touched, n_pulls):
        n_bytes = _bytes_of_build(sizes, counted)
        if n_bytes > limit:
            or_more = "" if counted == n_touched else " or more"
            raise ValueError(
                f"The dynamic program of n_arms={n_arms} and n_pulls={n_pulls} has "
                f"{sizes.sum():.3g} states{or_more} and would take {n_bytes / 1e9:.3g} "
                f"GB of memory{or_more}, above memory_limit={memory_limit!r}. Use "
                "fewer pulls or arms, or raise memory_limit."
            )


def _bytes_of_build(sizes: NDArray[np.float64], n_arms: int) -> float:
    """Return about what building a table takes, from its layers' sizes.

    Every state takes its codes, key, value and best arm; the most that is needed
    besides are keys after all pulls of the layer before the last, and their sorting.
    """
    widest = sizes[-2] if len(sizes) > 1 else 1
    return sizes.sum() * (4 * n_arms + 56) + widest * 2 * n_arms * 40
