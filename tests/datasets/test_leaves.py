"""Leaves of 100 species: pairing of the views on small files, and the real ones."""

import numpy as np
import pytest

from sklmeta.datasets import fetch_leaves100, leaves

SPECIES = ["Acer Campestre", "Betula Pendula", "Quercus x Turneri"]
OTHER_ORDER = ["Betula Pendula", "Quercus x Turneri", "Acer Campestre"]
N_LEAVES = 4


def view_of(order, first_leaf, view):
    """Write a view whose numbers tell species, leaf and view: 203.1 and so on."""
    lines = [
        ",".join([name, *[f"{100 * SPECIES.index(name) + leaf}.{view}"] * 2])
        for name in order
        for leaf in range(first_leaf.get(name, 0), N_LEAVES)
    ]
    return "\n".join(lines).encode()


@pytest.fixture
def small_files(stand_in, monkeypatch):
    """Return the folder of views that list the species in different orders."""
    contents = {
        "margin": view_of(SPECIES, {}, 1),
        "shape": view_of(OTHER_ORDER, {}, 2),
        "texture": view_of(SPECIES, {"Acer Campestre": 1}, 3),
    }
    for view, content in contents.items():
        file = leaves._FILES[view]
        file = stand_in(f"leaves100/{file.file_name}", content, file)
        monkeypatch.setitem(leaves._FILES, view, file)
    return stand_in.data_home


@pytest.mark.parametrize(("view", "digit"), [("margin", 0.1), ("shape", 0.2)])
def test_a_class_is_a_species(small_files, view, digit):
    pool = fetch_leaves100(view, data_home=small_files, download_if_missing=False)
    assert pool.classes.tolist() == SPECIES
    assert list(pool.X) == [f"{view}1", f"{view}2"]
    numbers = [
        100 * species + leaf + digit for species in range(3) for leaf in range(4)
    ]
    assert pool.X[f"{view}1"].tolist() == numbers
    assert pool.y.tolist() == np.repeat(SPECIES, N_LEAVES).tolist()


def test_views_are_paired_by_species_and_leaf(small_files):
    texture = fetch_leaves100("texture", data_home=small_files)
    pool = fetch_leaves100("all", data_home=small_files)
    assert len(texture.y) == len(pool.y) == 3 * N_LEAVES - 1
    assert [len(pool[i].y) for i in range(3)] == [3, 4, 4]
    assert list(pool.X)[::2] == ["margin1", "shape1", "texture1"]
    whole = np.floor(pool.X.to_numpy())
    assert (whole == whole[:, :1]).all()
    assert whole[:4, 0].tolist() == [1, 2, 3, 100]
    np.testing.assert_array_equal(pool.X[["texture1", "texture2"]], texture.X)


def test_an_unknown_view_is_refused():
    with pytest.raises(ValueError, match=r"view must be one of .*'all'.*got 'colour'"):
        fetch_leaves100("colour", data_home="/nowhere")


@pytest.fixture
def load(real_folder):
    home = real_folder("leaves100")
    return lambda view: fetch_leaves100(view, data_home=home, download_if_missing=False)


@pytest.mark.parametrize(
    ("view", "n_rows", "first"),
    [
        ("margin", 1600, 0.003906),
        ("shape", 1600, None),
        ("texture", 1599, 0.025391),
        ("all", 1599, 0.005859),
    ],
)
def test_real_leaves(load, view, n_rows, first):
    pool = load(view)
    assert len(pool) == 100
    assert pool.classes[[0, -1]].tolist() == ["Acer Campestre", "Zelkova Serrata"]
    assert pool.X.shape == (n_rows, 192 if view == "all" else 64)
    counts = [len(pool[i].y) for i in range(100)]
    assert counts == [16 - 1600 + n_rows] + [16] * 99
    assert not pool.X.isna().any().any()
    if first is not None:
        assert pool.X.iloc[0, 0] == first


def test_real_views_are_joined_unchanged(load):
    pool = load("all")
    for view in ("margin", "shape", "texture"):
        own = load(view)
        # Without the first leaf of all, where the view has it.
        rows = own.X.iloc[len(own.X) - len(pool.X) :]
        np.testing.assert_array_equal(pool.X.filter(regex=f"^{view}"), rows)


@pytest.mark.parametrize("view", ["shape", "texture"])
def test_real_views_show_the_same_leaf(load, view):
    """Deviations from the species' mean go together as in no other pairing."""
    pool = load("all")[1:]

    def deviations(name):
        values = pool.X.filter(regex=f"^{name}").to_numpy().reshape(99, 16, 64)
        values = values - values.mean(axis=1, keepdims=True)
        return values / values.std(axis=(0, 1)).clip(1e-12)

    def association(a, b):
        products = a.reshape(-1, 64).T @ b.reshape(-1, 64) / (99 * 16)
        return (products**2).sum()

    margin, other = deviations("margin"), deviations(view)
    rng = np.random.default_rng(0)
    by_chance = [
        association(margin, np.stack([own[rng.permutation(16)] for own in other]))
        for _ in range(20)
    ]
    assert association(margin, other) > 1.1 * max(by_chance)
