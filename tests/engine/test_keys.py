"""The counter-based random numbers, against plain Python integers."""

import pytest
import torch

from sklmeta.engine.keys import LAST, random_keys, stream


def split_mix(state):
    """Return SplitMix64's output for a state, in Python's integers."""
    z = state % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


GAMMA = 0x9E3779B97F4A7C15


def test_published_sequence():
    # The first outputs for seed 1234567, as listed by Rosetta Code.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [split_mix(1234567 + i * GAMMA) for i in (1, 2, 3)] == expected
    keys = random_keys(torch.tensor(1234567), torch.arange(1, 4))
    assert keys.tolist() == [value % 2**63 for value in expected]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 987654321])
def test_matches_python_integers(seed):
    positions = torch.tensor([0, 1, 2, 2**32, 7 * 2**32 + 5])
    streams = stream(torch.tensor(seed))
    assert int(streams) % 2**64 == split_mix(seed + GAMMA)
    state = split_mix(seed + GAMMA)
    expected = [split_mix(state + int(i) * GAMMA) % 2**63 for i in positions]
    assert random_keys(streams, positions).tolist() == expected


def test_uniform_and_unrelated_between_neighbouring_seeds():
    keys = random_keys(stream(torch.arange(2000))[:, None], torch.arange(20))
    u = keys.double() / LAST
    assert u.min() >= 0
    assert u.max() <= 1
    counts = torch.histc(u.float(), bins=50, min=0, max=1)
    chi2 = ((counts - 800) ** 2 / 800).sum()
    assert chi2 < 49 + 4 * (2 * 49) ** 0.5
    for a, b in [(u[:-1], u[1:]), (u[:, :-1], u[:, 1:])]:
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(correlation) < 4 / a.numel() ** 0.5


def test_inputs_are_not_changed():
    seeds, positions = torch.arange(5), torch.arange(5)
    random_keys(stream(seeds), positions)
    assert seeds.tolist() == positions.tolist() == list(range(5))


def test_many_are_what_each_stream_gives_alone():
    streams = stream(torch.arange(70))[:, None, None]
    positions = (torch.arange(3) * 2**32)[:, None] + torch.arange(400)
    together = random_keys(streams, positions)
    assert together.shape == (70, 3, 400)  # more than are made in one go
    alone = [random_keys(own, positions) for own in streams]
    assert torch.equal(together, torch.stack(alone))
