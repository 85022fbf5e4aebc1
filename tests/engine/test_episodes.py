"""Episodes: every rule, checked episode by episode, and every invariance."""

import itertools

import numpy as np
import pytest
import torch

from sklmeta.engine import episodes
from sklmeta.engine.episodes import EpisodeIndex, EpisodeSampler, EpisodeSpec, RowPool
from sklmeta.exceptions import SmallTaskWarning

pytestmark = pytest.mark.filterwarnings("ignore::sklmeta.exceptions.SmallTaskWarning")

SIZES = [12, 7, 2, 30, 9]
CLASS_SIZES = [[4, 6, 3], [5, 5, 5, 5, 5], [2, 9], [8, 1, 8]]
SPAN = itertools.pairwise


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def task_pool(sizes=SIZES, support=None):
    """Return regression tasks whose x is the row number and y the negative of it."""
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    row = torch.arange(float(offsets[-1]))
    return RowPool(
        row[:, None], -row, offsets, names=range(len(sizes)), support=support
    )


def class_tasks(tasks=CLASS_SIZES, support=None, seed=0):
    """Return classification tasks with their rows shuffled."""
    ys = [torch.arange(len(t)).repeat_interleave(torch.tensor(t)) for t in tasks]
    ys = [y[torch.randperm(len(y), generator=rng(seed))] for y in ys]
    offsets = torch.tensor([0, *map(len, ys)]).cumsum(0)
    row = torch.arange(float(offsets[-1]))
    names = range(len(tasks))
    return RowPool(row[:, None], torch.cat(ys), offsets, names=names, support=support)


def class_pool(sizes):
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    row = torch.arange(float(offsets[-1]))
    return RowPool.from_classes(row[:, None], offsets, range(len(sizes)))


def episodes_of(index):
    """Yield task, and the real rows of support and query, as plain Python."""
    for b in range(len(index)):
        support = index.support[b][index.support_mask[b]].tolist()
        query = index.query[b][index.query_mask[b]].tolist()
        yield int(index.task[b]), support, query


def ways_of(index):
    """Yield the rows of every way of every episode: {way: (support, query)}."""
    for b in range(len(index)):
        parts = []
        for name in ("support", "query"):
            mask = getattr(index, f"{name}_mask")[b]
            rows = getattr(index, name)[b][mask]
            way = getattr(index, f"{name}_way")[b][mask]
            parts.append({w: rows[way == w].tolist() for w in way.unique().tolist()})
        yield {way: (parts[0][way], parts[1].get(way, [])) for way in parts[0]}


def equal(a, b):
    """Say whether two sets of episodes hold the same rows, whatever the padding."""
    with_ways = a.n_way is not None
    same = list(episodes_of(a)) == list(episodes_of(b))
    return same and (not with_ways or list(ways_of(a)) == list(ways_of(b)))


def assert_well_padded(index, pool):
    """Real rows come first, padding is rows of the pool, no column is all padding."""
    for rows, mask in [
        (index.support, index.support_mask),
        (index.query, index.query_mask),
    ]:
        assert rows.shape == mask.shape
        assert mask.dtype == torch.bool
        assert rows.dtype == torch.int64
        assert torch.equal(mask, mask.int().cummin(1).values.bool())
        assert mask.any(0).all()
        assert mask[:, 0].all()
        assert rows.min() >= 0 and rows.max() < pool.n_rows


class TestPerTask:
    @pytest.mark.parametrize("n_shot", [1, 5, (2, 8)])
    @pytest.mark.parametrize("n_query", [None, 1, 10, (1, 4)])
    @pytest.mark.parametrize("order", ["random", "first"])
    def test_rules(self, n_shot, n_query, order):
        pool = task_pool()
        spec = EpisodeSpec(n_shot, n_query, support_order=order)
        index = EpisodeSampler(pool, spec).draw(200, rng())
        assert_well_padded(index, pool)
        assert index.support_way is index.query_way is index.n_way is None
        low, high = n_shot if isinstance(n_shot, tuple) else (n_shot, n_shot)
        for task, support, query in episodes_of(index):
            start, size = int(pool.offsets[task]), SIZES[task]
            rows = range(start, start + size)
            assert len({*support, *query}) == len(support) + len(query)
            assert {*support, *query} <= {*rows}
            assert min(low, size - 1) <= len(support) <= min(high, size - 1)
            rest = size - len(support)
            if n_query is None:
                assert len(query) == rest
            else:
                least, most = n_query if isinstance(n_query, tuple) else (n_query,) * 2
                assert min(least, rest) <= len(query) <= min(most, rest)
            if order == "first":
                assert support == list(rows[: len(support)])
                assert min(query) > max(support)

    def test_ranges_are_drawn_uniformly_per_episode(self):
        sampler = EpisodeSampler(task_pool([40] * 10), EpisodeSpec((2, 5), (3, 7)))
        index = sampler.draw(3000, rng())
        shots, queries = index.support_mask.sum(1), index.query_mask.sum(1)
        joint = torch.zeros(4, 5)
        joint.index_put_((shots - 2, queries - 3), torch.ones(3000), accumulate=True)
        # Independent of each other, and uniform: 20 cells of 150.
        assert ((joint - 150) ** 2 / 150).sum() < 19 + 4 * 38**0.5

    def test_rows_are_drawn_uniformly(self):
        sampler = EpisodeSampler(task_pool([20]), EpisodeSpec(5, 5))
        index = sampler.draw(4000, rng())
        for rows in (index.support, index.query):
            counts = torch.bincount(rows.flatten(), minlength=20).float()
            assert ((counts - 1000) ** 2 / 1000).sum() < 19 + 4 * 38**0.5
        # Every position of the support, too: no row prefers to come first.
        first = torch.bincount(index.support[:, 0], minlength=20).float()
        assert ((first - 200) ** 2 / 200).sum() < 19 + 4 * 38**0.5

    def test_pairs_of_rows_are_drawn_uniformly(self):
        sampler = EpisodeSampler(task_pool([6]), EpisodeSpec(2))
        pairs = sampler.draw(3000, rng()).support.sort(1).values
        counts = (pairs[:, 0] * 6 + pairs[:, 1]).unique(return_counts=True)[1].float()
        assert len(counts) == 15
        assert ((counts - 200) ** 2 / 200).sum() < 14 + 4 * 28**0.5


class TestPerClass:
    @pytest.mark.parametrize("n_way", [None, 2, (2, 4)])
    @pytest.mark.parametrize("n_shot", [1, 4, (1, 3)])
    @pytest.mark.parametrize("n_query", [None, 2])
    @pytest.mark.parametrize("order", ["random", "first"])
    def test_rules(self, n_way, n_shot, n_query, order):
        pool = class_tasks()
        spec = EpisodeSpec(n_shot, n_query, n_way, per_class=True, support_order=order)
        index = EpisodeSampler(pool, spec).draw(100, rng())
        assert_well_padded(index, pool)
        usable = [sum(n > 1 for n in sizes) for sizes in CLASS_SIZES]
        low, high = n_shot if isinstance(n_shot, tuple) else (n_shot, n_shot)
        for task, n, ways in zip(index.task, index.n_way, ways_of(index), strict=True):
            assert sorted(ways) == list(range(n))
            if n_way is None:
                assert n == usable[task]
            else:
                fewest, most = n_way if isinstance(n_way, tuple) else (n_way, n_way)
                assert min(fewest, usable[task]) <= n <= min(most, usable[task])
            begin, end = pool.offsets[task], pool.offsets[task + 1]
            seen = set()
            for support, query in ways.values():
                label = int(pool.y[support[0]])
                own = (pool.y[begin:end] == label).nonzero()[:, 0] + begin
                assert {*support, *query} <= {*own.tolist()}
                assert len({*support, *query}) == len(support) + len(query)
                assert min(low, len(own) - 1) <= len(support) <= min(high, len(own) - 1)
                rest = len(own) - len(support)
                assert len(query) == (rest if n_query is None else min(n_query, rest))
                if order == "first":
                    assert support == own[: len(support)].tolist()
                    assert min(query) > max(support)
                seen.add(label)
            assert len(seen) == n

    def test_shots_are_equal_for_all_classes_of_an_episode(self):
        sampler = EpisodeSampler(
            class_pool([20] * 8), EpisodeSpec((1, 6), (2, 5), 4, per_class=True)
        )
        for ways in ways_of(sampler.draw(50, rng())):
            assert len({len(support) for support, _ in ways.values()}) == 1
            assert len({len(query) for _, query in ways.values()}) == 1

    @pytest.mark.parametrize(("n_classes", "n_way"), [(3, 3), (5, 5), (9, 5)])
    def test_a_class_pool_has_five_ways_unless_told(self, n_classes, n_way):
        sampler = EpisodeSampler(
            class_pool([4] * n_classes), EpisodeSpec(1, per_class=True)
        )
        assert sampler.draw(3, rng()).n_way.tolist() == [n_way] * 3

    def test_classes_are_drawn_uniformly_in_random_order(self):
        pool = class_pool([3] * 30)
        sampler = EpisodeSampler(pool, EpisodeSpec(1, 1, 5, per_class=True))
        index = sampler.draw(3000, rng())
        classes = pool.y[index.support]  # (B, 5), way by way
        assert torch.equal(index.support_way, torch.arange(5).expand(3000, 5))
        assert all(len(c.unique()) == 5 for c in classes[:50])
        for way in range(5):
            counts = torch.bincount(classes[:, way], minlength=30).float()
            assert ((counts - 100) ** 2 / 100).sum() < 29 + 4 * 58**0.5
        counts = torch.bincount(classes.flatten(), minlength=30).float()
        # Drawn without replacement, so the variance is below Poisson's.
        assert ((counts - 500) ** 2 / 500).sum() < 29 + 4 * 58**0.5

    def test_choices_inside_an_episode_are_independent(self):
        """Shots, the first class and the rows of each way: all joints are uniform."""
        pool = class_pool([4] * 4)
        sampler = EpisodeSampler(pool, EpisodeSpec((1, 2), (1, 2), 2, per_class=True))
        index = sampler.draw(3200, rng())
        second = index.support_mask.sum(1) // 2  # where the second way begins
        first_row = index.support[:, 0]
        second_row = index.support.gather(1, second[:, None])[:, 0]
        shots = second - 1
        queries = index.query_mask.sum(1) // 2 - 1
        joints = {
            "class and row": (pool.y[first_row], 4, first_row % 4, 4),
            "rows of two ways": (first_row % 4, 4, second_row % 4, 4),
            "shots and class": (shots, 2, pool.y[first_row], 4),
            "shots and row": (shots, 2, first_row % 4, 4),
            "queries and class": (queries, 2, pool.y[first_row], 4),
            "queries and row": (queries, 2, second_row % 4, 4),
        }
        for name, (a, n_a, b, n_b) in joints.items():
            cells = n_a * n_b
            counts = torch.bincount(a * n_b + b, minlength=cells).float()
            chi2 = ((counts - 3200 / cells) ** 2 / (3200 / cells)).sum()
            assert chi2 < cells - 1 + 4 * (2 * (cells - 1)) ** 0.5, name

    def test_the_order_of_a_small_tasks_classes_is_uniform(self):
        pool = class_tasks([[4, 4, 4]])
        index = EpisodeSampler(pool, EpisodeSpec(1, 1, per_class=True)).draw(
            1200, rng()
        )
        code = (pool.y[index.support] * torch.tensor([9, 3, 1])).sum(1)
        counts = code.unique(return_counts=True)[1].float()
        assert len(counts) == 6
        assert ((counts - 200) ** 2 / 200).sum() < 5 + 4 * 10**0.5

    def test_queries_are_not_lost_where_ways_are_ragged(self):
        pool = class_tasks([[2, 2], [9, 3, 5]])
        sampler = EpisodeSampler(pool, EpisodeSpec(3, per_class=True))
        index = sampler.all_tasks(rng())
        assert index.support_mask.sum(1).tolist() == [1 + 1, 3 + 2 + 3]
        assert index.query_mask.sum(1).tolist() == [1 + 1, 6 + 1 + 2]
        assert index.support.shape == (2, 8)
        assert index.query.shape == (2, 9)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("order", ["random", "first"])
def test_episodes_drawn_in_parts_are_the_same(monkeypatch, per_class, order):
    pool = class_tasks() if per_class else task_pool()
    spec = EpisodeSpec(2, 3, per_class=per_class, support_order=order)
    sampler = EpisodeSampler(pool, spec)
    whole = sampler.draw(40, rng())
    monkeypatch.setattr(episodes, "ROWS_AT_ONCE", 30)
    parts = sampler.draw(40, rng())
    assert_well_padded(parts, pool)
    assert equal(whole, parts)


class TestFixedSupport:
    MASK = torch.zeros(sum(SIZES), dtype=torch.bool)
    MASK[[1, 4, 11]] = True  # task 0
    MASK[21 + 29] = True  # the last row of task 3

    @pytest.mark.parametrize("order", ["random", "first"])
    @pytest.mark.parametrize("n_query", [None, 4])
    def test_per_task(self, order, n_query):
        pool = task_pool(support=self.MASK)
        sampler = EpisodeSampler(pool, EpisodeSpec(2, n_query, support_order=order))
        queries = set()
        for task, support, query in episodes_of(sampler.draw(200, rng())):
            if task == 0:
                assert support == [1, 4, 11]
                assert len(query) == (9 if n_query is None else 4)
                assert not {*query} & {*support}
                queries |= {*query}
            elif task == 3:
                assert support == [50]
            else:
                assert len(support) == min(2, SIZES[task] - 1)
                if order == "first":
                    assert support[0] == int(pool.offsets[task])
        assert queries == {*range(12)} - {1, 4, 11}

    def test_per_class(self):
        y = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1])
        mask = torch.zeros(14, dtype=torch.bool)
        mask[[2, 1, 5]] = True
        pool = RowPool(y[:, None].float(), y, [0, 8, 14], names="ab", support=mask)
        sampler = EpisodeSampler(pool, EpisodeSpec(2, per_class=True))
        for ways in ways_of(sampler.draw(20, rng())):
            for support, query in ways.values():
                if min(support) < 8:
                    assert support in ([2], [1, 5])
                    assert len(query) == {2: 3, 1: 2}[support[0]]
                else:
                    assert (len(support), len(query)) == (2, 1)


class TestSmallTasks:
    def test_one_warning_that_points_at_the_caller(self):
        with pytest.warns(SmallTaskWarning) as record:
            EpisodeSampler(task_pool([9, 3, 1]), EpisodeSpec(5))
        assert [w.filename for w in record] == [__file__]

    def test_shrink_keeps_one_query_row(self):
        sampler = EpisodeSampler(task_pool([9, 3, 1]), EpisodeSpec(5))
        index = sampler.draw_tasks([0, 0, 0])
        assert index.task.tolist() == [0, 1]
        assert index.support_mask.sum(1).tolist() == [5, 2]
        assert index.query_mask.sum(1).tolist() == [4, 1]

    def test_drop_draws_from_the_others_alone(self):
        spec = EpisodeSpec(2, 1, (2, 4), per_class=True, small_tasks="drop")
        pool = class_tasks([[2, 3, 3], [3, 3, 2, 4], [2, 3]])
        index = EpisodeSampler(pool, spec).draw(60, rng())
        assert {*index.task.tolist()} == {0, 1}
        assert (index.n_way[index.task == 0] == 2).all()
        assert {*index.n_way[index.task == 1].tolist()} == {2, 3}
        assert (index.support_mask.sum(1) == 2 * index.n_way).all()

    def test_policies_agree_where_no_task_is_small(self):
        specs = [EpisodeSpec(2, small_tasks=p) for p in ("shrink", "drop", "raise")]
        a, b, c = (EpisodeSampler(task_pool([5, 9]), s).draw(4, rng()) for s in specs)
        assert equal(a, b) and equal(b, c)


class TestDraw:
    def test_every_task_comes_once_before_any_comes_twice(self):
        sampler = EpisodeSampler(task_pool([3] * 7), EpisodeSpec(1))
        index = sampler.draw(17, rng())
        rounds = [index.task[:7], index.task[7:14], index.task[14:]]
        assert [len(r.unique()) for r in rounds] == [7, 7, 3]
        assert not torch.equal(rounds[0], rounds[1])
        assert len(sampler.draw(5, rng()).task.unique()) == 5

    def test_tasks_are_drawn_uniformly(self):
        sampler = EpisodeSampler(task_pool([3] * 10), EpisodeSpec(1))
        generator = rng()
        tasks = torch.cat([sampler.draw(3, generator).task for _ in range(400)])
        counts = torch.bincount(tasks, minlength=10).float()
        assert ((counts - 120) ** 2 / 120).sum() < 9 + 4 * 18**0.5

    def test_unusable_tasks_are_not_drawn(self):
        sampler = EpisodeSampler(task_pool([5, 1, 5, 0]), EpisodeSpec(1))
        assert sampler.task_ids.tolist() == [0, 2]
        assert {*sampler.draw(20, rng()).task.tolist()} == {0, 2}
        assert sampler.all_tasks(rng()).task.tolist() == [0, 2]

    def test_same_generator_state_same_episodes(self):
        sampler = EpisodeSampler(class_tasks(), EpisodeSpec((1, 3), 2, per_class=True))
        assert equal(sampler.draw(9, rng(3)), sampler.draw(9, rng(3)))
        assert not equal(sampler.draw(9, rng(3)), sampler.draw(9, rng(4)))
        generator = rng(3)
        first = sampler.draw(9, generator)
        assert not equal(first, sampler.draw(9, generator))

    @pytest.mark.parametrize("per_class", [False, True])
    def test_the_global_generators_are_untouched(self, per_class):
        torch_state = torch.get_rng_state()
        numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
        sampler = EpisodeSampler(class_tasks(), EpisodeSpec(1, per_class=per_class))
        sampler.gather(sampler.draw(9, rng()))
        sampler.draw_tasks(range(4))
        sampler.all_tasks(rng())
        assert torch.equal(torch.get_rng_state(), torch_state)
        assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002

    @pytest.mark.parametrize("n_episodes", [0, -1])
    def test_refuses_no_episodes(self, n_episodes):
        sampler = EpisodeSampler(task_pool(), EpisodeSpec(1))
        with pytest.raises(ValueError, match="n_episodes must be at least 1"):
            sampler.draw(n_episodes, rng())


class TestDrawTasks:
    SPECS = (
        EpisodeSpec((2, 4), (1, 5)),
        EpisodeSpec(2, support_order="first", n_query=2),
        EpisodeSpec((1, 2), 3, (2, 4), per_class=True),
        EpisodeSpec(1, per_class=True),
    )

    @pytest.mark.parametrize("spec", SPECS)
    @pytest.mark.parametrize("kept", [[1], [3, 1], [2, 0, 3, 1]])
    def test_an_episode_depends_on_its_own_task_and_seed_alone(self, spec, kept):
        """Draw from all tasks, and from a pool of some in another order."""
        pool, seeds = class_tasks(), [11, -5, 2**63 + 7, 0]
        spans = [range(a, b) for a, b in SPAN(pool.offsets.tolist())]
        rows = torch.tensor([row for task in kept for row in spans[task]])
        sizes = torch.tensor([0, *(len(spans[task]) for task in kept)])
        few = RowPool(pool.x[rows], pool.y[rows], sizes.cumsum(0), names=kept)
        every = EpisodeSampler(pool, spec).draw_tasks(seeds)
        some = EpisodeSampler(few, spec).draw_tasks([seeds[task] for task in kept])
        assert every.task.tolist() == [0, 1, 2, 3]
        moved = EpisodeIndex(
            torch.tensor(kept),
            rows[some.support],
            some.support_mask,
            rows[some.query],
            some.query_mask,
            some.support_way,
            some.query_way,
            some.n_way,
        )
        assert equal(moved, every[torch.tensor(kept)])

    @pytest.mark.parametrize("spec", SPECS)
    def test_drawn_and_seeded_episodes_are_the_same_kind(self, spec):
        """`draw` gives what `draw_tasks` gives for the seeds it drew."""
        sampler = EpisodeSampler(class_tasks(), spec)
        generator = rng(8)
        seeds = torch.empty(4, dtype=torch.int64).random_(generator=generator)
        assert equal(sampler.all_tasks(rng(8)), sampler.draw_tasks(seeds))

    def test_seeds_may_be_named_or_of_any_integer_kind(self):
        pool = task_pool([9, 9])
        sampler = EpisodeSampler(pool, EpisodeSpec(3))
        expected = sampler.draw_tasks([2**64 - 1, 4])
        assert equal(sampler.draw_tasks({1: 4, 0: -1, "other": 5}), expected)
        assert equal(sampler.draw_tasks(np.array([2**64 - 1, 4], np.uint64)), expected)
        assert equal(sampler.draw_tasks(np.array([-1, 4], np.int32)), expected)
        assert equal(sampler.draw_tasks(torch.tensor([-1, 4])), expected)
        assert not equal(sampler.draw_tasks([1, 4]), expected)

    @pytest.mark.parametrize("step", [1, 2**32, 0x9E3779B97F4A7C15])
    def test_related_seeds_give_unrelated_episodes(self, step):
        sampler = EpisodeSampler(task_pool([20] * 1000), EpisodeSpec(1))
        index = sampler.draw_tasks([i * step for i in range(1000)])
        first = index.support[:, 0] - 20 * torch.arange(1000)
        change = (first[1:] - first[:-1]) % 20
        counts = torch.bincount(change, minlength=20).float()
        assert ((counts - 999 / 20) ** 2 / (999 / 20)).sum() < 19 + 4 * 38**0.5

    def test_one_episode_for_each_pair_of_task_and_seed(self):
        sampler = EpisodeSampler(task_pool(), EpisodeSpec(n_shot=(1, 3), n_query=2))
        tasks, seeds = torch.tensor([3, 0, 3]), [7, 2**64 - 1, 8]
        index = sampler.draw_each(tasks, seeds)
        for i, (task, seed) in enumerate(zip(tasks.tolist(), seeds, strict=True)):
            of_all = [seed] * sampler.pool.n_tasks
            alone = sampler.draw_tasks(of_all, torch.tensor([task]))
            assert equal(index[i : i + 1], alone)

    def test_rows_in_use(self):
        index = EpisodeSampler(task_pool(), EpisodeSpec(n_shot=2)).all_tasks(rng())
        assert sorted(index.rows().tolist()) == list(range(task_pool().n_rows))

    def test_some_tasks_in_any_order(self):
        sampler = EpisodeSampler(task_pool([9, 1, 5, 7]), EpisodeSpec(3))
        every = sampler.draw_tasks([5, 6, 7, 8])
        assert every.task.tolist() == [0, 2, 3]
        some = sampler.draw_tasks([5, 6, 7, 8], torch.tensor([3, 0]))
        assert equal(some, every[torch.tensor([2, 0])])
        with pytest.raises(ValueError, match="task_ids must be among the usable"):
            sampler.draw_tasks([5, 6, 7, 8], torch.tensor([1]))

    def test_refusals(self):
        sampler = EpisodeSampler(task_pool([9, 9]), EpisodeSpec(3))
        with pytest.raises(ValueError, match="got 3 seeds for 2 tasks"):
            sampler.draw_tasks([1, 2, 3])
        with pytest.raises(ValueError, match="seeds has none for task 1"):
            sampler.draw_tasks({0: 4})
        with pytest.raises(TypeError, match="float"):
            sampler.draw_tasks([1.5, 2.5])


class TestIndexAndGather:
    def test_slices_are_padded_to_their_own_longest(self):
        index = EpisodeSampler(class_tasks(), EpisodeSpec(2, per_class=True)).draw(
            9, rng()
        )
        for part in (slice(0, 1), slice(3, 8), torch.tensor([8, 2])):
            some = index[part]
            assert_well_padded(some, class_tasks())
            positions = torch.arange(9)[part]
            everything = list(zip(episodes_of(index), ways_of(index), strict=True))
            expected = [everything[i] for i in positions]
            assert list(zip(episodes_of(some), ways_of(some), strict=True)) == expected
            assert torch.equal(some.n_way, index.n_way[part])
        assert len(index[:0]) == 0

    def test_gather_per_task(self):
        pool = task_pool()
        sampler = EpisodeSampler(pool, EpisodeSpec((2, 4), 3))
        index = sampler.draw(8, rng())
        episodes = sampler.gather(index)
        for rows, which, mask in [
            (episodes.support, index.support, index.support_mask),
            (episodes.query, index.query, index.query_mask),
        ]:
            assert torch.equal(rows.x, which[..., None].float())
            assert torch.equal(rows.y, -which.float())
            assert torch.equal(rows.mask, mask)
            assert rows.n_way is None

    def test_gather_several_outputs(self):
        y = torch.rand(9, 2)
        pool = RowPool(torch.rand(9, 3), y, [0, 4, 9], names="ab")
        sampler = EpisodeSampler(pool, EpisodeSpec(2))
        index = sampler.draw(2, rng())
        assert torch.equal(sampler.gather(index).query.y, y[index.query])

    def test_gather_per_class_gives_ways(self):
        pool = class_tasks()
        sampler = EpisodeSampler(pool, EpisodeSpec(2, 3, per_class=True))
        index = sampler.draw(8, rng())
        episodes = sampler.gather(index)
        assert torch.equal(episodes.support.y, index.support_way)
        assert torch.equal(episodes.query.y, index.query_way)
        assert torch.equal(episodes.query.n_way, index.n_way)
        assert torch.equal(episodes.query.x[..., 0], index.query.float())

    def test_gather_images(self):
        images = torch.arange(6 * 2 * 3).reshape(6, 2, 3, 1).to(torch.uint8)
        pool = RowPool.from_classes(images, [0, 3, 6], "ab")
        sampler = EpisodeSampler(pool, EpisodeSpec(1, 2, per_class=True))
        index = sampler.draw(4, rng())
        query = sampler.gather(index).query.x
        assert query.shape == (4, 4, 1, 2, 3)
        assert torch.equal(query, images[index.query].movedim(-1, 2) / 255)
