"""Rows, episodes, and the parts they are handed over in."""

import pytest
import torch

from sklmeta.engine.batches import Episodes, Rows, similar_sizes

SUPPORT_COUNTS, QUERY_COUNTS = [3, 2, 3, 1, 3], [4, 4, 2, 4, 4]


def ragged(counts, n_way=None):
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    x = torch.arange(mask.numel() * 2.0).reshape(*mask.shape, 2)
    return Rows(x, torch.zeros(mask.shape, dtype=torch.int64), mask, n_way)


@pytest.fixture
def episodes():
    return Episodes(ragged(SUPPORT_COUNTS, torch.arange(2, 7)), ragged(QUERY_COUNTS))


@pytest.mark.parametrize("equal_rows", [False, True])
@pytest.mark.parametrize("size", [None, 1, 2, 7])
def test_parts_hold_every_task_once(episodes, size, equal_rows):
    seen = []
    for tasks, part in episodes.indexed_parts(size, equal_rows=equal_rows):
        seen += tasks.tolist()
        assert len(part) == len(tasks) <= (size or len(episodes))
        own = episodes[tasks]
        for rows, expected in ((part.support, own.support), (part.query, own.query)):
            assert torch.equal(rows.x[rows.mask], expected.x[expected.mask])
            assert torch.equal(rows.y[rows.mask], expected.y[expected.mask])
        assert torch.equal(part.support.n_way, own.support.n_way)
        if equal_rows:
            assert part.support.mask.all() and part.query.mask.all()
    assert sorted(seen) == list(range(len(episodes)))


def test_parts_are_the_parts_of_indexed_parts(episodes):
    parts = list(episodes.parts(2, equal_rows=True))
    indexed = [part for _, part in episodes.indexed_parts(2, equal_rows=True)]
    assert len(parts) == len(indexed)
    for part, other in zip(parts, indexed, strict=True):
        assert torch.equal(part.support.x, other.support.x)


def test_equal_tasks_go_together(episodes):
    sizes = [len(part) for part in episodes.parts(None, equal_rows=True)]
    assert sorted(sizes) == [1, 1, 1, 2]  # only tasks 0 and 4 have (3, 4) rows


def test_full_episodes_are_handed_over_as_they_are():
    whole = Episodes(ragged([3, 3]), ragged([2, 2]))
    for equal_rows in (False, True):
        (part,) = whole.parts(None, equal_rows=equal_rows)
        assert part.support.x is whole.support.x


@pytest.mark.parametrize("size", [None, 1])
def test_parts_of_images_keep_their_memory_layout(size):
    pixels = torch.rand(4, 3, 6, 6, 2).movedim(-1, -3)
    mask = torch.ones(4, 3, dtype=torch.bool)
    rows = Rows(pixels, torch.zeros(4, 3, dtype=torch.int64), mask)
    for part in Episodes(rows, rows).parts(size, equal_rows=True):
        assert part.support.x[0].is_contiguous(memory_format=torch.channels_last)


def test_trimming_keeps_what_some_task_needs():
    rows = ragged([2, 1, 3])[:2]
    trimmed = rows.trimmed()
    assert trimmed.x.shape == (2, 2, 2) and trimmed.mask.sum() == 3
    assert trimmed.trimmed() is trimmed


def test_to_moves_everything(episodes):
    moved = episodes.support.to("meta")
    tensors = (moved.x, moved.y, moved.mask, moved.n_way)
    assert all(t.device.type == "meta" for t in tensors)
    assert episodes.query.to("meta").n_way is None


def test_padding_holds_no_ways_of_another_part():
    # Tasks of 2 and 4 ways in one batch: the first is padded with rows of ways 2 and 3.
    y = torch.arange(4).expand(2, 4).clone()
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    rows = Rows(torch.rand(2, 4, 3), y, mask, torch.tensor([2, 4]))
    for part in Episodes(rows, rows).parts(1, equal_rows=False):
        assert part.support.y.max() < part.support.n_way.max()
        assert part.query.y.max() < part.query.n_way.max()


def test_items_stay_together_where_they_fit():
    (part,) = similar_sizes(torch.tensor([5, 1, 3]), limit=15)
    assert part.tolist() == [0, 1, 2]


@pytest.mark.parametrize("limit", [1, 7, 40, 1000])
def test_parts_are_small_and_of_similar_sizes(limit):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 60, (50,), generator=generator)
    sizes[7] = 10_000
    parts = similar_sizes(sizes, limit)
    assert sorted(torch.cat(parts).tolist()) == list(range(50))
    for part in parts:
        own = sizes[part]
        assert part.tolist() == sorted(part.tolist())
        assert len(part) == 1 or len(part) * own.max() <= limit
        assert own.max() < 2 * own.min()
