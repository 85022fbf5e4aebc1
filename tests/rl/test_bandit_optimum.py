"""The dynamic program of Bernoulli bandits, against a recursion and known values."""

import pickle
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from sklmeta.rl import _bandit_optimum
from sklmeta.rl._bandit_optimum import BayesOptimalTable, bayes_optimal_bandit_value


@cache
def gains(state, n_left):
    """Return what each arm's pull and optimal ones after it expect: the definition."""
    expected = []
    for i, (s, f) in enumerate(state):
        p = (s + 1) / (s + f + 2)
        won = (*state[:i], (s + 1, f), *state[i + 1 :])
        lost = (*state[:i], (s, f + 1), *state[i + 1 :])
        expected.append(p * (1 + to_go(won, n_left - 1)))
        expected[-1] += (1 - p) * to_go(lost, n_left - 1)
    return expected


def to_go(state, n_left):
    return max(gains(state, n_left)) if n_left else 0.0


def states(n_arms, n_pulls):
    """Return the counts of all bandits in which a pull is left."""
    counts = product(range(n_pulls), repeat=2 * n_arms)
    return np.array([c for c in counts if sum(c) < n_pulls]).reshape(-1, n_arms, 2)


@pytest.mark.parametrize(
    ("n_arms", "n_pulls", "value"),
    [(2, 10, 6.0218), (5, 10, 6.6600), (10, 10, 6.7140), (5, 20, 14.2873)],
)
def test_known_values(n_arms, n_pulls, value):
    assert bayes_optimal_bandit_value(n_arms, n_pulls) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(("n_arms", "n_pulls"), [(1, 5), (2, 1), (2, 5), (3, 4)])
def test_every_state_agrees_with_the_recursion(n_arms, n_pulls):
    table = BayesOptimalTable(n_arms, n_pulls)
    counts = states(n_arms, n_pulls)
    successes, failures = map(torch.from_numpy, (counts[..., 0], counts[..., 1]))
    values = table.value(successes, failures)
    best = table.best_arm(successes, failures)
    for state, value, arm in zip(counts, values, best, strict=True):
        key = tuple(map(tuple, state.tolist()))
        expected = gains(key, n_pulls - state.sum())
        assert value == pytest.approx(max(expected), abs=1e-12)
        assert expected[arm] == pytest.approx(max(expected), abs=1e-12)
    multisets = {tuple(sorted(map(tuple, state.tolist()))) for state in counts}
    assert table.n_states == len(multisets)


def test_permuted_arms_have_the_same_value_and_the_best_is_the_same_arm():
    table = BayesOptimalTable(4, 12)
    generator = torch.Generator().manual_seed(0)
    successes = torch.randint(2, (200, 4), generator=generator)
    failures = torch.randint(2, (200, 4), generator=generator)
    best = table.best_arm(successes, failures)[:, None]
    order = torch.tensor([2, 0, 3, 1])
    permuted = successes[:, order], failures[:, order]
    assert torch.equal(table.value(*permuted), table.value(successes, failures))
    best_permuted = table.best_arm(*permuted)[:, None]
    for before, after in zip((successes, failures), permuted, strict=True):
        assert torch.equal(after.gather(1, best_permuted), before.gather(1, best))


def test_the_first_of_equal_arms_is_pulled():
    nothing = torch.zeros(1, 3)
    assert BayesOptimalTable(3, 3).best_arm(nothing, nothing).tolist() == [0]


def test_a_pickled_table_is_the_same_and_on_the_cpu():
    table = BayesOptimalTable(3, 5)
    table._stored(torch.device("meta"))
    again = pickle.loads(pickle.dumps(table))
    assert list(again._copies) == [torch.device("cpu")]
    successes, failures = torch.tensor([[1, 0, 2]]), torch.tensor([[0, 1, 0]])
    assert again.value(successes, failures) == table.value(successes, failures)


def test_arms_beyond_the_pulls_are_worth_nothing_and_cost_nothing():
    value = bayes_optimal_bandit_value(6, 6)
    assert bayes_optimal_bandit_value(500, 6) == pytest.approx(value, abs=1e-12)
    assert BayesOptimalTable(500, 6).n_states == BayesOptimalTable(6, 6).n_states


def test_states_that_share_a_key_are_found_out(monkeypatch):
    draw = _bandit_optimum._numbers_of_arms
    seeds = []

    def colliding_at_first(n_codes, seed):
        seeds.append(seed)
        return draw(n_codes, seed) if seed else np.arange(n_codes)

    monkeypatch.setattr(_bandit_optimum, "_numbers_of_arms", colliding_at_first)
    assert bayes_optimal_bandit_value(2, 10) == pytest.approx(6.0218, abs=5e-5)
    assert seeds == [0, 1]


@pytest.mark.parametrize(
    ("n_arms", "n_pulls"), [(5, 100), (1, 10**9), (10**4, 10**4), (10**6, 40)]
)
def test_too_large_a_table_is_refused_before_it_is_built(n_arms, n_pulls, monkeypatch):
    monkeypatch.setattr(_bandit_optimum, "_solve", None)
    with pytest.raises(ValueError, match=r"states.* GB .*Use fewer pulls or arms"):
        bayes_optimal_bandit_value(n_arms, n_pulls)


def test_memory_limit_decides():
    with pytest.raises(ValueError, match=r"has 1\.95e\+03 states and would take"):
        bayes_optimal_bandit_value(5, 10, memory_limit="300kB")
    for enough in ("10MB", None):
        assert bayes_optimal_bandit_value(5, 10, memory_limit=enough) > 6.65


@pytest.mark.parametrize(("n_arms", "n_pulls"), [(0, 5), (5, 0)])
def test_numbers_below_one_are_refused(n_arms, n_pulls):
    with pytest.raises(ValueError, match=r"== 0, must be >= 1"):
        bayes_optimal_bandit_value(n_arms, n_pulls)


def test_bandits_that_the_table_does_not_hold_are_refused():
    table = BayesOptimalTable(2, 3)
    with pytest.raises(ValueError, match="bandit of 2 arms with 3 pulls made"):
        table.value(torch.tensor([[0, 0], [1, 2]]), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="bandit of 3 arms with 0 pulls made"):
        table.best_arm(torch.zeros(1, 3), torch.zeros(1, 3))
