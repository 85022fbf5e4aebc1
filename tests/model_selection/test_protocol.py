"""Episodes that methods are judged on: functions of tasks, seed and protocol alone."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest

from sklmeta import ClassPool, SmallTaskWarning, Task, TaskSet
from sklmeta.datasets import Sinusoids
from sklmeta.model_selection import _protocol
from sklmeta.model_selection._protocol import EpisodeProtocol

SIZES = (12, 9, 15, 7)


def tasks_of(sizes=SIZES, labels="shared", names=None, seed=0, n_classes=2):
    """Tasks whose rows all differ, with labels of every class in each."""
    rng = np.random.default_rng(seed)
    pairs = []
    for t, size in enumerate(sizes):
        y = rng.permutation(np.arange(size) % n_classes)
        X = np.column_stack([np.full(size, t), np.arange(size)]).astype(float)
        pairs.append((X, np.array(["no", "yes", "maybe", "never"])[y]))
    names = names or [f"task{t}" for t in range(len(sizes))]
    tasks = [Task(X, y, name) for (X, y), name in zip(pairs, names, strict=True)]
    return TaskSet(tasks, labels=labels)


def pool_of(n_classes=7, n_rows=8):
    y = np.repeat([f"class{c}" for c in range(n_classes)], n_rows)
    X = np.arange(len(y), dtype=float).reshape(-1, 1)
    order = np.random.default_rng(0).permutation(len(y))
    return ClassPool(X[order], y[order])


def contents(drawn, episode):
    """Return the rows of an episode, whatever their numbers."""
    X = np.asarray(drawn.rows.X)
    return (
        X[drawn.support_rows(episode)].tolist(),
        X[drawn.query_rows(episode)].tolist(),
    )


def by_name(drawn):
    keys = zip(drawn.names, drawn.number.tolist(), strict=True)
    return {key: contents(drawn, e) for e, key in enumerate(keys)}


class TestShape:
    def test_per_task(self):
        drawn = EpisodeProtocol(n_shot=3, n_episodes=5).draw(tasks_of(), True)
        assert len(drawn) == 5 * len(SIZES)
        assert not drawn.is_local and drawn.unit == "task"
        for e, task in enumerate(drawn.task):
            support, query = drawn.support_rows(e), drawn.query_rows(e)
            own = np.arange(*drawn.rows.offsets[task : task + 2])
            assert len(support) == 3
            assert sorted([*support, *query]) == own.tolist()

    @pytest.mark.parametrize("n_way", [None, 2, (2, 4)])
    def test_per_class(self, n_way):
        tasks = tasks_of(labels="local", n_classes=4, sizes=(20, 24))
        protocol = EpisodeProtocol(n_shot=2, n_query=1, n_way=n_way, n_episodes=20)
        drawn = protocol.draw(tasks, True)
        assert drawn.is_local
        low, high = {None: (4, 4), 2: (2, 2), (2, 4): (2, 4)}[n_way]
        assert (drawn.n_way.min(), drawn.n_way.max()) == (low, high)
        for e in range(len(drawn)):
            classes, n = drawn.classes_of(e), drawn.n_way[e]
            for rows, shots in ((drawn.support_rows(e), 2), (drawn.query_rows(e), 1)):
                labels, counts = np.unique(drawn.y[rows], return_counts=True)
                assert labels.tolist() == classes.tolist()
                assert counts.tolist() == [shots] * n

    def test_ways_are_ranks_of_labels(self):
        drawn = EpisodeProtocol(n_shot=2, n_way=(2, 5)).draw(pool_of(), True)
        index = drawn.index()
        assert drawn.unit == "episode" and len(drawn) == 200
        for e in range(len(drawn)):
            for part in ("support", "query"):
                mask = getattr(index, f"{part}_mask")[e]
                rows = getattr(index, part)[e][mask].numpy()
                ways = getattr(index, f"{part}_way")[e][mask].numpy()
                assert (drawn.classes_of(e)[ways] == drawn.y[rows]).all()
            assert drawn.names[e] == tuple(drawn.classes_of(e))
            assert int(index.n_way[e]) == len(drawn.classes_of(e))

    def test_number_of_episodes(self):
        def count(tasks, classifies=True, **protocol):
            return len(EpisodeProtocol(**protocol).draw(tasks, classifies))

        assert count(tasks_of()) == 50 * 4
        assert count(tasks_of(), n_episodes=3) == 3 * 4
        assert count(pool_of()) == 200
        assert count(pool_of(), n_episodes=7) == 7
        assert count(Sinusoids(), False) == 200

    def test_one_episode_where_nothing_is_random(self):
        """The first rows, or fixed support rows, are the same in every episode."""
        tasks = tasks_of()
        fixed = TaskSet(
            [Task(t.X, t.y, t.name, support=np.arange(len(t)) < 3) for t in tasks]
        )
        first = EpisodeProtocol(support_order="first")
        assert len(first.draw(tasks, True)) == len(tasks)
        assert len(EpisodeProtocol().draw(fixed, True)) == len(tasks)
        some = EpisodeProtocol(support_order="first", n_query=1)
        assert len(some.draw(tasks, True)) > len(tasks)

    def test_ragged_tasks_are_drawn_in_parts(self, monkeypatch):
        tasks = tasks_of(sizes=(5, 40, 6, 33, 7), labels="local")
        protocol = EpisodeProtocol(n_shot=1, n_episodes=3)
        whole = by_name(protocol.draw(tasks, True))
        monkeypatch.setattr(_protocol, "ROWS_DRAWN_AT_ONCE", 40)
        assert by_name(protocol.draw(tasks, True)) == whole


class TestDependsOn:
    @pytest.mark.parametrize("labels", ["shared", "local"])
    def test_not_on_other_tasks_or_their_order(self, labels):
        tasks = tasks_of(labels=labels)
        protocol = EpisodeProtocol(n_shot=2, n_episodes=4)
        every = by_name(protocol.draw(tasks, True))
        for some in ([3, 1, 0, 2], [2], [0, 3]):
            part = by_name(protocol.draw(tasks[some], True))
            assert part == {key: every[key] for key in part}

    def test_the_seed_and_the_name(self):
        tasks = tasks_of()
        protocol = EpisodeProtocol(n_shot=2, n_episodes=2)
        one = by_name(protocol.draw(tasks, True))
        assert by_name(protocol.draw(tasks, True)) == one
        other = EpisodeProtocol(n_shot=2, n_episodes=2, random_state=1)
        assert by_name(other.draw(tasks, True)) != one
        renamed = by_name(protocol.draw(tasks_of(names=list("abcd")), True))
        assert list(renamed.values()) != list(one.values())

    def test_episodes_of_a_task_differ(self):
        drawn = EpisodeProtocol(n_shot=2, n_episodes=6).draw(tasks_of((20,)), True)
        supports = {tuple(sorted(drawn.support_rows(e))) for e in range(6)}
        assert len(supports) == 6

    def test_more_episodes_keep_the_first(self):
        few = by_name(EpisodeProtocol(n_episodes=2).draw(tasks_of(), True))
        many = by_name(EpisodeProtocol(n_episodes=5).draw(tasks_of(), True))
        assert few == {key: many[key] for key in few}

    def test_not_on_the_kind_of_target_or_container(self):
        tasks = tasks_of()
        numbers = TaskSet([Task(t.X, np.arange(len(t)), t.name) for t in tasks])
        frames = TaskSet([Task(pd.DataFrame(t.X), t.y, t.name) for t in tasks])
        protocol = EpisodeProtocol(n_shot=2, n_episodes=2)
        one = by_name(protocol.draw(tasks, True))
        assert by_name(protocol.draw(numbers, False)) == one
        assert by_name(protocol.draw(frames, True)) == one

    def test_the_global_generators_are_untouched(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        EpisodeProtocol().draw(pool_of(), True)
        assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


class TestSubsets:
    def test_some_episodes(self):
        drawn = EpisodeProtocol(n_shot=1, n_episodes=9).draw(pool_of(), True)
        part = drawn[3:6]
        assert len(part) == 3
        for e in range(3):
            assert contents(part, e) == contents(drawn, e + 3)
            assert part.label(e) == f"episode {e + 3} of the ClassPool"
        rows = sorted(part.all_rows().tolist())
        own = [part.support_rows(e) for e in range(3)]
        own += [part.query_rows(e) for e in range(3)]
        assert rows == sorted(np.concatenate(own).tolist())

    def test_pickle(self):
        drawn = EpisodeProtocol(n_shot=1).draw(tasks_of(labels="local"), True)
        copied = pickle.loads(pickle.dumps(drawn[5:9]))
        assert [contents(copied, e) for e in range(4)] == [
            contents(drawn, e) for e in range(5, 9)
        ]
        assert copied.names == drawn.names[5:9]

    def test_labels_name_task_and_episode(self):
        drawn = EpisodeProtocol(n_episodes=2).draw(tasks_of(), True)
        assert drawn.label(3) == "task 'task1' (episode 1)"


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "error", "message"),
        [
            ({"n_shot": 0}, ValueError, "n_shot must be at least 1"),
            ({"n_shot": 1.5}, TypeError, "n_shot must be an int"),
            ({"n_episodes": 0}, ValueError, "n_episodes == 0, must be >= 1"),
            ({"n_episodes": True}, TypeError, "n_episodes must be an integer"),
            ({"support_order": "last"}, ValueError, "support_order must be one of"),
            ({"small_tasks": "keep"}, ValueError, "small_tasks must be one of"),
            ({"random_state": None}, TypeError, "random_state must be an int"),
            ({"n_way": 1}, ValueError, "n_way must be at least 2"),
        ],
    )
    def test_values(self, values, error, message):
        with pytest.raises(error, match=message):
            EpisodeProtocol(**values)

    def test_ways_of_shared_labels(self):
        with pytest.raises(ValueError, match="n_way=3 draws classes"):
            EpisodeProtocol(n_way=3).draw(tasks_of(), True)

    def test_a_class_pool_of_numbers(self):
        with pytest.raises(ValueError, match="numbers are to be predicted"):
            EpisodeProtocol().draw(pool_of(), False)

    def test_more_shots_than_any_class_has(self):
        protocol = EpisodeProtocol(n_shot=8, small_tasks="raise")
        message = r"Class 'class0' has 8 rows, but n_shot=8 .* which no class has"
        with pytest.raises(ValueError, match=message):
            protocol.draw(pool_of(), True)

    def test_more_shots_than_one_class_has(self):
        X, y = np.zeros((9, 1)), np.array(["a"] * 6 + ["b"] * 3)
        protocol = EpisodeProtocol(n_shot=3, small_tasks="raise")
        with pytest.raises(ValueError, match=r"Class 'b' has 3 rows, but n_shot=3"):
            protocol.draw(ClassPool(X, y), True)
        tasks = TaskSet([Task(X, y, "first"), Task(X, y[::-1], "x")], labels="local")
        with pytest.raises(ValueError, match=r"Class 'b' of task 'first' has 3 rows"):
            protocol.draw(tasks, True)
        EpisodeProtocol(n_shot=2, small_tasks="raise").draw(tasks, True)

    def test_more_shots_than_a_task_has(self):
        protocol = EpisodeProtocol(n_shot=8, small_tasks="raise")
        with pytest.raises(ValueError, match=r"Task 'task3' has 7 rows, but n_shot=8"):
            protocol.draw(tasks_of(), True)

    def test_small_classes_shrink_with_one_warning(self):
        with pytest.warns(SmallTaskWarning, match="7 of 7 classes have fewer") as seen:
            drawn = EpisodeProtocol(n_shot=50, n_episodes=3).draw(pool_of(), True)
        assert len(seen) == 1
        assert (drawn.query.size == drawn.n_way).all()  # a query row of each class

    def test_dropped_tasks_have_no_episodes(self):
        protocol = EpisodeProtocol(n_shot=8, n_episodes=2, small_tasks="drop")
        with pytest.warns(SmallTaskWarning):
            drawn = protocol.draw(tasks_of(), True)
        assert set(drawn.names) == {"task0", "task1", "task2"}

    def test_labels_of_several_types(self):
        y = np.array(["a", 1] * 4, dtype=object)
        tasks = TaskSet([(np.zeros((8, 1)), y)], labels="local")
        with pytest.raises(ValueError, match="Labels of different types"):
            EpisodeProtocol(n_shot=1).draw(tasks, True)

    def test_nothing_is_warned_of_otherwise(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawn = EpisodeProtocol(n_shot=2).draw(tasks_of(), True)
        assert drawn.support.size.tolist() == [2] * len(drawn)
