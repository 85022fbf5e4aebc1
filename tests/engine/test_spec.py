"""EpisodeSpec: what it accepts, keeps and refuses."""

import numpy as np
import pytest

from sklmeta.engine.spec import EpisodeSpec, bounds


def test_counts_are_kept_as_plain_python():
    spec = EpisodeSpec(
        n_shot=np.int64(5), n_query=[3, np.int32(4)], n_way=(2, 2), per_class=True
    )
    assert (spec.n_shot, spec.n_query, spec.n_way) == (5, (3, 4), (2, 2))
    assert type(spec.n_shot) is int
    assert {type(v) for v in spec.n_query} == {int}
    assert bounds(spec.n_shot) == (5, 5)
    assert bounds(spec.n_query) == (3, 4)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(np.int64(3), (3, 3)), ([2, np.int32(5)], (2, 5)), ((2, 5), (2, 5))],
)
def test_bounds_of_counts_as_users_give_them(count, expected):
    found = bounds(count)
    assert found == expected
    assert [type(v) for v in found] == [int, int]


@pytest.mark.parametrize("count", ["many", None, 2.5, True, (1, 2, 3), [1, 2.0]])
def test_bounds_of_no_count(count):
    with pytest.raises(TypeError, match=r"^n_shot must be an int or a .*, got"):
        bounds(count, "n_shot")


def test_equal_specs_are_equal_and_frozen():
    spec = EpisodeSpec(5)
    assert spec == EpisodeSpec(5, small_tasks="shrink")
    with pytest.raises(AttributeError):
        spec.n_shot = 3


@pytest.mark.parametrize("value", ["5", 5.0, True, None, (1, 2, 3), (1, 2.0), (1,)])
def test_n_shot_type(value):
    with pytest.raises(TypeError, match=r"n_shot must be an int or a"):
        EpisodeSpec(n_shot=value)


@pytest.mark.parametrize("name", ["n_query", "n_way"])
def test_optional_counts_type(name):
    with pytest.raises(TypeError, match=f"{name} must be .* or None, got 'many'"):
        EpisodeSpec(5, per_class=True, **{name: "many"})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n_shot": 0}, "n_shot must be at least 1.* got 0"),
        ({"n_shot": (3, 2)}, "n_shot .* low <= high .* got \\(3, 2\\)"),
        ({"n_shot": (0, 2)}, "n_shot must be at least 1"),
        ({"n_shot": 1, "n_query": 0}, "n_query must be at least 1"),
        ({"n_shot": 1, "n_way": 1, "per_class": True}, "n_way must be at least 2"),
        ({"n_shot": 1, "n_way": 5}, "n_way=5 draws classes.*labels=.local."),
        ({"n_shot": 1, "support_order": "last"}, "support_order must be .*'last'"),
        ({"n_shot": 1, "small_tasks": "ignore"}, "small_tasks must be .*'ignore'"),
        ({"n_shot": 1, "small_tasks": np.array(["drop"] * 2)}, "small_tasks must be"),
    ],
)
def test_refusals(arguments, match):
    with pytest.raises(ValueError, match=match):
        EpisodeSpec(**arguments)
