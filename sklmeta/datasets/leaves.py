"""One hundred plant species leaves: 16 leaves of each species, in three views."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from sklmeta._parameters import check_choice
from sklmeta.datasets._fetch import DataFile, data_home_path, fetch_file
from sklmeta.tasks import ClassPool

__all__ = ["fetch_leaves100"]

_ORIGIN = (
    "https://raw.githubusercontent.com/acwhite211/MVMT_MapReduce/"
    "5ef813ddd32a66b22b52fe9f0ea596699ecf9acb/100_leaves_plant_species/"
)
_FILES = {
    "margin": DataFile(
        url=_ORIGIN + "data_Mar_64.txt",
        known_hash="sha256:"
        "7579a980f20f9cb6cccbf4b670ca87da9f7059f1b4c361cbc5c4d3f214a012b3",
    ),
    "shape": DataFile(
        url=_ORIGIN + "data_Sha_64.txt",
        known_hash="sha256:"
        "889a44fe1232650abd29328b79f29725cef6efa0258c11bf1faeba1d203f3feb",
    ),
    "texture": DataFile(
        url=_ORIGIN + "data_Tex_64.txt",
        known_hash="sha256:"
        "ebfd038ea9332157856eb141ffcc1d171422a42a0115bccda180bf36e2b65c29",
    ),
}
_VIEWS = (*_FILES, "all")
# The first leaf of this species has no texture: its rows there are leaves 1 to 15.
_INCOMPLETE_SPECIES = "Acer Campestre"


def fetch_leaves100(
    view: str = "margin",
    *,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
) -> ClassPool:
    """Load leaves of 100 plant species as a pool of classes.

    Few-shot classification of rows: tell species apart that were never seen, from a
    few leaves each. The files (2.6 MB) are read from `data_home` where they are there,
    else downloaded once.

    Parameters
    ----------
    view : {"margin", "shape", "texture", "all"}, default="margin"
        Which 64 features describe a leaf: fine details of its margin (a histogram),
        the distances of its outline from its centre, or its texture (a histogram).
        "all" joins the three, 192 columns.
    data_home : str or path-like, default=None
        Folder of the data; the files are in its folder `leaves100`. None means the
        environment variable `SKLMETA_DATA`, or `~/sklmeta_data` where it is not set.
    download_if_missing : bool, default=True
        Whether to download a file that is not there.

    Returns
    -------
    pool : ClassPool of length 100
        Species in alphabetical order, 16 leaves each, 1,600 in all; y holds names such
        as "Acer Campestre". With "texture" and "all" that species has 15 leaves. `X`
        is a DataFrame of the columns `margin1` to `margin64`, `shape1` and so on,
        without units.

    Raises
    ------
    OSError
        If a file is not there and cannot be downloaded, or holds something else. The
        message says which file to put where.
    ValueError
        If `view` is none of the four.

    See Also
    --------
    fetch_omniglot : Images, 1,623 classes.
    load_digits_pool : Ten classes, without a download.

    Notes
    -----
    UCI machine learning repository, data set 241, licence CC BY 4.0 [1]_. Downloads
    come from a copy whose checksums are fixed. The file of shapes lists the species in
    another order than the other two; within a species all three list the leaves in the
    same order, but for the first leaf of Acer Campestre, which has no texture.

    References
    ----------
    .. [1] Mallah, C., Cope, J. & Orwell, J. (2013). Plant leaf classification using
       probabilistic integration of shape, texture and margin features. Signal
       Processing, Pattern Recognition and Applications.

    Examples
    --------
    >>> from sklmeta.datasets import fetch_leaves100
    >>> fetch_leaves100()  # doctest: +SKIP
    ClassPool(100 classes, 16 rows each, rows of shape (64,))
    """
    check_choice("view", view, _VIEWS)
    folder = data_home_path(data_home) / "leaves100"
    views = [
        _read_view(
            fetch_file(_FILES[name], folder, download_if_missing=download_if_missing),
            name,
        )
        for name in (_FILES if view == "all" else [view])
    ]
    # One row for every leaf that has all the views, by species and then by leaf.
    X = pd.concat(views, axis=1, join="inner").sort_index()
    species = X.index.get_level_values("species").to_numpy(dtype=object)
    return ClassPool(X.reset_index(drop=True), species)


def _read_view(path: Path, name: str) -> pd.DataFrame:
    """Read one view, indexed by species and the leaf's number within it."""
    table = pd.read_csv(path, header=None, index_col=0)
    table.columns = pd.Index([f"{name}{i}" for i in range(1, table.shape[1] + 1)])
    species = table.index.to_numpy()
    leaf = table.groupby(level=0).cumcount().to_numpy()
    if name == "texture":
        leaf = leaf + (species == _INCOMPLETE_SPECIES)
    keys = pd.MultiIndex.from_arrays([species, leaf], names=["species", "leaf"])
    return table.set_index(keys)
