"""Small tasks: what is drawn from, left out, warned about and refused."""

import warnings

import pytest
import torch

from sklmeta.engine.pool import RowPool
from sklmeta.engine.spec import EpisodeSpec
from sklmeta.engine.units import usable_units
from sklmeta.exceptions import SmallTaskWarning


def task_pool(sizes, support=None):
    """Return a pool of regression tasks named t0, t1, ... with these row counts."""
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    n_rows = int(offsets[-1])
    names = [f"t{i}" for i in range(len(sizes))]
    x, y = torch.zeros(n_rows, 1), torch.zeros(n_rows)
    return RowPool(x, y, offsets, names=names, support=support)


def class_tasks(*tasks, support=None):
    """Return a pool of classification tasks from the row counts of their classes."""
    y = torch.cat(
        [
            torch.arange(len(t)).repeat_interleave(torch.tensor(t, dtype=int))
            for t in tasks
        ]
    )
    offsets = torch.tensor([0, *map(sum, tasks)]).cumsum(0)
    names = [f"t{i}" for i in range(len(tasks))]
    return RowPool(torch.zeros(len(y), 1), y, offsets, names=names, support=support)


def class_pool(sizes):
    """Return a class pool with classes a, b, c, ... of these row counts."""
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return RowPool.from_classes(
        torch.zeros(sum(sizes), 1), offsets, "abcdefgh"[: len(sizes)]
    )


def tasks_of(units):
    return units.task.tolist()


def rows_of(units):
    """Return the rows of each unit as a list of lists."""
    spans = zip(units.start.tolist(), units.size.tolist(), strict=True)
    return [units.rows[start : start + size].tolist() for start, size in spans]


def no_warning(pool, spec):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return usable_units(pool, spec)


class TestUnits:
    def test_a_task_is_a_unit(self):
        units = no_warning(task_pool([2, 3]), EpisodeSpec(1))
        assert tasks_of(units) == [0, 1]
        assert rows_of(units) == [[0, 1], [2, 3, 4]]

    def test_a_class_of_a_task_is_a_unit(self):
        y = torch.tensor([7, 3, 7, 3, 3, 3, 9, 3, 9])
        pool = RowPool(torch.zeros(9, 1), y, [0, 5, 9], names=["a", "b"])
        units = no_warning(pool, EpisodeSpec(1, per_class=True))
        assert tasks_of(units) == [0, 0, 1, 1]
        # Sorted by class, in task order inside a class.
        assert rows_of(units) == [[1, 3, 4], [0, 2], [5, 7], [6, 8]]

    def test_classes_of_a_class_pool(self):
        units = no_warning(class_pool([2, 3]), EpisodeSpec(1, per_class=True))
        assert tasks_of(units) == [0, 0]
        assert rows_of(units) == [[0, 1], [2, 3, 4]]

    def test_only_class_labels_are_drawn_by_class(self):
        with pytest.raises(
            ValueError, match=r"only from class labels; y is torch.float"
        ):
            usable_units(task_pool([5, 5]), EpisodeSpec(1, per_class=True))

    def test_a_class_pool_is_drawn_by_class(self):
        with pytest.raises(
            ValueError, match="class pool are drawn with per_class=True"
        ):
            usable_units(class_pool([5, 5]), EpisodeSpec(1))


class TestShrink:
    def test_enough_rows_are_silent(self):
        assert tasks_of(no_warning(task_pool([4, 9]), EpisodeSpec((3, 8)))) == [0, 1]

    def test_small_tasks_stay(self):
        with pytest.warns(
            SmallTaskWarning, match=r"^2 of 4 tasks have fewer than 6 rows"
        ):
            units = usable_units(task_pool([6, 5, 2, 9]), EpisodeSpec(5))
        assert tasks_of(units) == [0, 1, 2, 3]

    def test_tasks_without_an_episode_are_left_out(self):
        with pytest.warns(SmallTaskWarning, match=r"3 of 4 .*left out altogether: 2"):
            units = usable_units(task_pool([1, 4, 0, 9]), EpisodeSpec(5))
        assert tasks_of(units) == [1, 3]

    def test_one_row_classes_are_never_drawn(self):
        with pytest.warns(SmallTaskWarning, match=r"^2 of 3 tasks .* in some class"):
            units = usable_units(
                class_tasks([3, 1, 4], [5, 5], [9, 1]), EpisodeSpec(1, per_class=True)
            )
        assert tasks_of(units) == [0, 0, 1, 1]
        assert units.size.tolist() == [3, 4, 5, 5]

    def test_fewer_ways_than_asked(self):
        spec = EpisodeSpec(1, n_way=3, per_class=True)
        with pytest.warns(
            SmallTaskWarning, match=r"1 of 2 .*or fewer than 3 larger classes"
        ):
            units = usable_units(class_tasks([2, 2], [2, 2, 2]), spec)
        assert tasks_of(units) == [0, 0, 1, 1, 1]

    def test_a_class_pool_counts_classes(self):
        spec = EpisodeSpec(5, n_way=5, per_class=True)
        with pytest.warns(SmallTaskWarning) as record:
            units = usable_units(class_pool([6, 4, 1, 9]), spec)
        assert str(record[0].message).startswith(
            "2 of 4 classes have fewer than 6 rows (n_shot=5 and one query row), and 3 "
            "classes are too few for n_way=5. "
        )
        assert str(record[0].message).endswith("classes left out altogether: 1.")
        assert units.size.tolist() == [6, 4, 9]

    def test_nothing_left(self):
        match = "1 support \\+ 1 query = 2 rows, and the largest of 2 tasks has 1"
        with pytest.raises(ValueError, match=match):
            usable_units(task_pool([1, 1]), EpisodeSpec(5))

    def test_no_two_classes_left(self):
        match = "2 classes of 1 .* the best of 2 tasks has 1 such classes"
        with pytest.raises(ValueError, match=match):
            usable_units(class_tasks([9], [5, 1]), EpisodeSpec(5, per_class=True))


class TestDrop:
    def test_small_tasks_are_left_out(self):
        match = "^2 of 4 .*small_tasks='drop'.*left out altogether: 2"
        with pytest.warns(SmallTaskWarning, match=match) as record:
            units = usable_units(
                task_pool([6, 5, 2, 9]), EpisodeSpec(5, small_tasks="drop")
            )
        assert tasks_of(units) == [0, 3]
        assert len(record) == 1

    def test_the_lower_end_of_a_range_counts(self):
        spec = EpisodeSpec((2, 8), small_tasks="drop")
        with pytest.warns(
            SmallTaskWarning, match="1 of 3 tasks have fewer than 3 rows"
        ):
            assert tasks_of(usable_units(task_pool([3, 2, 9]), spec)) == [0, 2]

    def test_small_classes_then_tasks_with_too_few_others(self):
        spec = EpisodeSpec(2, n_way=2, per_class=True, small_tasks="drop")
        with pytest.warns(SmallTaskWarning, match=r"2 of 3 .*left out altogether: 1"):
            units = usable_units(class_tasks([3, 2, 3], [2, 3], [4, 4]), spec)
        assert tasks_of(units) == [0, 0, 2, 2]
        assert units.size.tolist() == [3, 3, 4, 4]

    def test_nothing_left(self):
        match = (
            "5 support \\+ 1 query = 6 rows, and the largest of 2 tasks has 4.*lower"
        )
        with pytest.raises(ValueError, match=match):
            usable_units(task_pool([4, 3]), EpisodeSpec(5, small_tasks="drop"))

    def test_class_pool_with_too_few_classes(self):
        spec = EpisodeSpec(2, n_way=3, per_class=True, small_tasks="drop")
        match = (
            "3 classes of 2 .* 3 rows each, and the class pool has 2 such classes of 4"
        )
        with pytest.raises(ValueError, match=match):
            usable_units(class_pool([3, 2, 3, 1]), spec)


class TestRaise:
    def test_enough_rows_pass(self):
        spec = EpisodeSpec(5, small_tasks="raise")
        assert tasks_of(no_warning(task_pool([6, 9]), spec)) == [0, 1]

    def test_names_the_first_small_task(self):
        match = (
            "Task 't1' has 5 rows, but n_shot=5 and one query row need 6. Lower n_shot"
        )
        with pytest.raises(ValueError, match=match):
            usable_units(task_pool([6, 5, 2]), EpisodeSpec(5, small_tasks="raise"))

    def test_names_the_task_of_a_small_class(self):
        spec = EpisodeSpec(2, per_class=True, small_tasks="raise")
        with pytest.raises(
            ValueError, match="A class of task 't1' has 2 rows, but n_sho"
        ):
            usable_units(class_tasks([3, 3], [3, 2]), spec)

    def test_names_the_small_class_of_a_pool(self):
        spec = EpisodeSpec(2, per_class=True, small_tasks="raise")
        with pytest.raises(ValueError, match="Class 'b' has 2 rows"):
            usable_units(class_pool([3, 2, 1]), spec)

    @pytest.mark.parametrize("n_way", [3, (3, 4)])
    def test_too_few_classes(self, n_way):
        spec = EpisodeSpec(1, n_way=n_way, per_class=True, small_tasks="raise")
        with pytest.raises(ValueError, match=r"Task 't1' has 2 classes, .* at least 3"):
            usable_units(class_tasks([3, 3, 3], [3, 2]), spec)
        with pytest.raises(
            ValueError, match=r"The class pool has 2 classes, .* least 3"
        ):
            usable_units(class_pool([3, 3]), spec)

    def test_empty_task(self):
        spec = EpisodeSpec(1, per_class=True, small_tasks="raise")
        with pytest.raises(ValueError, match="Task 't1' has 0 classes"):
            usable_units(class_tasks([3, 3], []), spec)


class TestFixedSupport:
    def test_a_mask_wins_over_n_shot(self):
        # Two rows would be too few for n_shot=5; one support and one query row do.
        pool = task_pool([2, 6], support=[True, False, *[False] * 6])
        units = no_warning(pool, EpisodeSpec(5, small_tasks="raise"))
        assert units.n_fixed.tolist() == [1, 0]

    @pytest.mark.parametrize("policy", ["shrink", "drop"])
    def test_no_query_row_left(self, policy):
        pool = task_pool([3, 9], support=[True] * 3 + [False] * 9)
        spec = EpisodeSpec(2, small_tasks=policy)
        match = "1 of 2 .* or no row besides their fixed support.*altogether: 1"
        with pytest.warns(SmallTaskWarning, match=match):
            assert tasks_of(usable_units(pool, spec)) == [1]

    def test_refusal(self):
        pool = task_pool([3, 9], support=[True] * 3 + [False] * 9)
        with pytest.raises(
            ValueError, match="Task 't0' has 3 rows, 3 of them fixed supp"
        ):
            usable_units(pool, EpisodeSpec(2, small_tasks="raise"))

    def test_nothing_left(self):
        pool = task_pool([3], support=[True] * 3)
        with pytest.raises(
            ValueError, match="has 3, where fixed support leaves no query"
        ):
            usable_units(pool, EpisodeSpec(2))

    def test_classes_need_fixed_rows_and_others(self):
        # Classes of 3 rows: one fixed, none fixed, all fixed, two fixed.
        mask = [True, False, False] + [False] * 3 + [True] * 3 + [True, True, False]
        pool = class_tasks([3, 3, 3, 3], support=mask)
        with pytest.warns(SmallTaskWarning, match="1 of 1 tasks"):
            units = usable_units(pool, EpisodeSpec(1, per_class=True))
        assert rows_of(units) == [[0, 1, 2], [9, 10, 11]]
        assert units.n_fixed.tolist() == [1, 2]
