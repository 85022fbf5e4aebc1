"""Episodes of domains: one domain an episode, drawn as often as its weight says."""

import numpy as np
import pytest
import torch

from sklmeta.engine.episodes import EpisodeSampler, EpisodeSpec
from sklmeta.engine.pool import RowPool
from sklmeta.exceptions import SmallTaskWarning

N = 4000


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def task_pool(domains, n_rows=3):
    n = len(domains)
    x = torch.arange(float(n * n_rows))
    offsets = torch.arange(n + 1) * n_rows
    return RowPool(x[:, None], x, offsets, names=range(n), domains=domains)


def class_pool(domains, sizes=None):
    offsets = np.cumsum([0, *(sizes or [4] * len(domains))])
    x = torch.arange(float(offsets[-1]))[:, None]
    return RowPool.from_classes(x, offsets, range(len(domains)), domains=domains)


def domains_of(pool, index):
    """Return the domains of the classes of each episode's real rows."""
    parts = ((index.support, index.support_mask), (index.query, index.query_mask))
    return [
        {
            pool.domain_names[int(pool.domain[pool.y[row]])]
            for rows, mask in parts
            for row in rows[b][mask[b]]
        }
        for b in range(len(index))
    ]


def shares_of(pool, index):
    """Return how many episodes are of each domain, as shares."""
    found = pool.domain[index.task] if not pool.is_class_pool else index.task
    counts = found.bincount(minlength=len(pool.domain_names)) / len(index)
    return dict(zip(pool.domain_names, counts.tolist(), strict=True))


TASKS = task_pool(["a", "b", "a", "a", "c", "a"])
CLASSES = class_pool(["a", "b", "a", "a", "b", "a", "a", "a"])
PER_CLASS = EpisodeSpec(1, 2, 2, per_class=True)


def test_pools_know_their_domains():
    assert TASKS.domain_names == ("a", "b", "c")
    assert TASKS.domain.tolist() == [0, 1, 0, 0, 2, 0]
    assert (TASKS.n_tasks, CLASSES.n_tasks) == (6, 2)
    assert CLASSES.with_features(CLASSES.x).domain.tolist() == CLASSES.domain.tolist()
    assert (
        CLASSES.task_of_rows().tolist() == CLASSES.domain.repeat_interleave(4).tolist()
    )
    with pytest.raises(ValueError, match="got 1 domains for 2 names"):
        RowPool(TASKS.x[:2], TASKS.y[:2], [0, 1, 2], names="ab", domains="a")


def test_an_episode_takes_all_its_classes_from_one_domain():
    index = EpisodeSampler(CLASSES, PER_CLASS).draw(60, rng())
    found = domains_of(CLASSES, index)
    assert all(len(domains) == 1 for domains in found)
    assert {"a", "b"} == set.union(*found)
    assert [next(iter(one)) for one in found] == [
        CLASSES.domain_names[t] for t in index.task.tolist()
    ]
    assert (index.n_way == 2).all()


def test_classes_are_as_likely_as_each_other_by_default():
    index = EpisodeSampler(CLASSES, PER_CLASS).draw(N, rng())
    assert shares_of(CLASSES, index)["a"] == pytest.approx(6 / 8, abs=0.03)


@pytest.mark.parametrize("pool", [TASKS, CLASSES], ids=["tasks", "classes"])
def test_equal_weights(pool):
    spec = PER_CLASS if pool.is_class_pool else EpisodeSpec(1)
    index = EpisodeSampler(pool, spec, "equal").draw(N, rng())
    expected = 1 / len(pool.domain_names)
    assert shares_of(pool, index) == pytest.approx(
        dict.fromkeys(pool.domain_names, expected), abs=0.03
    )


@pytest.mark.parametrize("pool", [TASKS, CLASSES], ids=["tasks", "classes"])
def test_weights_are_shares_up_to_a_factor(pool):
    spec = PER_CLASS if pool.is_class_pool else EpisodeSpec(1)
    weights = {"a": 2, "b": 6, "c": 0}
    index = EpisodeSampler(pool, spec, weights).draw(N, rng())
    shares = shares_of(pool, index)
    assert shares.pop("c", 0) == 0
    assert shares == pytest.approx({"a": 0.25, "b": 0.75}, abs=0.03)


def test_no_task_of_a_domain_comes_twice_before_all_have_come():
    index = EpisodeSampler(TASKS, EpisodeSpec(1), {"a": 1, "b": 1}).draw(300, rng())
    of_a = [task for task in index.task.tolist() if TASKS.domain[task] == 0]
    counts = np.bincount(of_a, minlength=6)[[0, 2, 3, 5]]
    assert counts.max() - counts.min() <= 1
    assert counts.sum() < 300


def test_weights_draw_the_same_again_and_domains_in_random_order():
    sampler = EpisodeSampler(TASKS, EpisodeSpec(1), "equal")
    first, again = sampler.draw(60, rng()), sampler.draw(60, rng())
    assert torch.equal(first.task, again.task)
    assert torch.equal(first.support, again.support)
    domains = TASKS.domain[first.task]
    assert len(domains[1:][domains[1:] != domains[:-1]]) > 10


@pytest.mark.parametrize("domains", [None, ["a"] * 8])
def test_one_domain_draws_as_none_did(domains):
    pool = class_pool([None] * 8) if domains is None else class_pool(domains)
    plain = RowPool.from_classes(pool.x, np.arange(0, 33, 4), range(8))
    drawn = EpisodeSampler(pool, PER_CLASS).draw(50, rng())
    same = EpisodeSampler(plain, PER_CLASS).draw(50, rng())
    for name in ("task", "support", "query", "support_way", "n_way"):
        assert torch.equal(getattr(drawn, name), getattr(same, name))


def test_domains_alone_do_not_change_the_tasks_that_are_drawn():
    plain = RowPool(TASKS.x, TASKS.y, TASKS.offsets, names=TASKS.names)
    drawn = EpisodeSampler(TASKS, EpisodeSpec(1)).draw(50, rng())
    same = EpisodeSampler(plain, EpisodeSpec(1)).draw(50, rng())
    assert torch.equal(drawn.task, same.task)
    assert torch.equal(drawn.support, same.support)


def test_a_domain_with_too_few_classes_has_fewer_ways():
    pool = class_pool(list("aaaaabb"))
    spec = EpisodeSpec(1, 1, 4, per_class=True)
    with pytest.warns(SmallTaskWarning, match=r"2 classes in 1 of 2 domains are too"):
        index = EpisodeSampler(pool, spec, "equal").draw(100, rng())
    assert {(int(t), int(n)) for t, n in zip(index.task, index.n_way, strict=True)} == {
        (0, 4),
        (1, 2),
    }


def test_a_domain_with_one_class_is_left_out():
    pool = class_pool(list("aaab"))
    with pytest.warns(SmallTaskWarning, match="1 classes in 1 of 2 domains"):
        sampler = EpisodeSampler(pool, PER_CLASS, {"a": 1, "b": 9})
    assert set(sampler.draw(50, rng()).task.tolist()) == {0}


def test_weights_that_leave_nothing_to_draw_from():
    pool = class_pool(list("aaab"))
    with (
        pytest.warns(SmallTaskWarning),
        pytest.raises(ValueError, match=r"weight above 0, \['b'\], can make an ep"),
    ):
        EpisodeSampler(pool, PER_CLASS, {"b": 1})


def test_refusals_name_the_domain():
    pool = class_pool(list("aaab"))
    spec = EpisodeSpec(1, 1, 2, per_class=True, small_tasks="raise")
    with pytest.raises(ValueError, match="Domain 'b' has 1 classes, but an episode"):
        EpisodeSampler(pool, spec)
    with pytest.raises(ValueError, match="best domain of the class pool has 3 such"):
        EpisodeSampler(pool, EpisodeSpec(1, 1, 4, per_class=True, small_tasks="drop"))
    plain = RowPool.from_classes(torch.zeros(8, 1), [0, 4, 8], "ab")
    with pytest.raises(ValueError, match="domains of a pool, which has none"):
        EpisodeSampler(plain, PER_CLASS, "equal")
