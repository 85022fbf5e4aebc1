"""MedMNIST: small medical images of many kinds, each kind a data set of few classes.

Domains to adapt to: tissue under the microscope, skin, retinas, blood cells, organs in
slices, in one form and one size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sklmeta._parameters import check_choice
from sklmeta.datasets._fetch import DataFile, data_home_path, fetch_file
from sklmeta.tasks import ClassPool

__all__ = ["fetch_medmnist"]

# Version 3 of the files, and their checksums, as the data's own package has them.
_ORIGIN = "https://zenodo.org/records/10519652/files/"
_SIZES = (28, 64, 128, 224)
_SUBSETS = ("train", "val", "test")
_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)


@dataclass(frozen=True)
class _DataSet:
    """Names of the classes 0, 1, ..., and checksums of the files of `_SIZES`."""

    classes: tuple[str, ...]
    md5: tuple[str, ...]


_DATA_SETS = {
    "pathmnist": _DataSet(
        classes=(
            "adipose",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
        md5=(
            "a8b06965200029087d5bd730944a56c1",
            "55aa9c1e0525abe5a6b9d8343a507616",
            "ac42d08fb904d92c244187169d1fd1d9",
            "2c51a510bcdc9cf8ddb2af93af1eadec",
        ),
    ),
    "dermamnist": _DataSet(
        classes=(
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
        md5=(
            "0744692d530f8e62ec473284d019b0c7",
            "b70a2f5635c6199aeaa28c31d7202e1f",
            "2defd784463fa5243564e855ed717de1",
            "8974907d8e169bef5f5b96bc506ae45d",
        ),
    ),
    "octmnist": _DataSet(
        classes=(
            "choroidal neovascularization",
            "diabetic macular edema",
            "drusen",
            "normal",
        ),
        md5=(
            "c68d92d5b585d8d81f7112f81e2d0842",
            "e229e9440236b774d9f0dfef9d07bdaf",
            "0a97e76651ace45c5d943ee3f65b63ae",
            "abc493b6d529d5de7569faaef2773ba3",
        ),
    ),
    "pneumoniamnist": _DataSet(
        classes=(
            "normal",
            "pneumonia",
        ),
        md5=(
            "28209eda62fecd6e6a2d98b1501bb15f",
            "8f4eceb4ccffa70c672198ea285246c6",
            "05b46931834c231683c68f40c47b2971",
            "d6a3c71de1b945ea11211b03746c1fe1",
        ),
    ),
    "retinamnist": _DataSet(
        classes=(
            "0",
            "1",
            "2",
            "3",
            "4",
        ),
        md5=(
            "bd4c0672f1bba3e3a89f0e4e876791e4",
            "afda852cc34dcda56f86ad2b2457dbcc",
            "e48e916a24454daf90583d4e6efb1a18",
            "eae7e3b6f3fcbda4ae613ebdcbe35348",
        ),
    ),
    "breastmnist": _DataSet(
        classes=(
            "malignant",
            "normal, benign",
        ),
        md5=(
            "750601b1f35ba3300ea97c75c52ff8f6",
            "742edef2a1fd1524b2efff4bd7ba9364",
            "363e4b3f8d712e9b5de15470a2aaadf1",
            "b56378a6eefa9fed602bb16d192d4c8b",
        ),
    ),
    "bloodmnist": _DataSet(
        classes=(
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
        md5=(
            "7053d0359d879ad8a5505303e11de1dc",
            "2b94928a2ae4916078ca51e05b6b800b",
            "adace1e0ed228fccda1f39692059dd4c",
            "b718ff6835fcbdb22ba9eacccd7b2601",
        ),
    ),
    "tissuemnist": _DataSet(
        classes=(
            "Collecting Duct, Connecting Tubule",
            "Distal Convoluted Tubule",
            "Glomerular endothelial cells",
            "Interstitial endothelial cells",
            "Leukocytes",
            "Podocytes",
            "Proximal Tubule Segments",
            "Thick Ascending Limb",
        ),
        md5=(
            "ebe78ee8b05294063de985d821c1c34b",
            "123ece2eba09d0aa5d698fda57103344",
            "61b955355d7425a89687b06cca3ce0c2",
            "b077128c4a949f0a4eb01517f9037b9c",
        ),
    ),
    "organamnist": _DataSet(
        classes=_ORGANS,
        md5=(
            "68e3f8846a6bd62f0c9bf841c0d9eacc",
            "2dcccc29b88e6da5a01161ef20cda288",
            "eeae80d0a227a8d099027e1b3cfd3b60",
            "50747347e05c87dd3aaf92c49f9f3170",
        ),
    ),
    "organcmnist": _DataSet(
        classes=_ORGANS,
        md5=(
            "b9ceb9546e10131b32923c5bbeaea2b1",
            "3ce34a8724ea6f548e6db4744d03b6a9",
            "773c1f009daa3fe5d9a2a201b2a7ed94",
            "050f5e875dc056f6768abf94ec9995d1",
        ),
    ),
    "organsmnist": _DataSet(
        classes=_ORGANS,
        md5=(
            "9ab87b696fb54e2a387ebe992d6ed5f1",
            "53a6d115339d874c25e309a994ff46d3",
            "ded0c5fa01a95dc4978b956f613e9b8e",
            "b354719e553fbbb2513d5533f52a4cb1",
        ),
    ),
}
_IN_COLOUR = ("pathmnist", "dermamnist", "retinamnist", "bloodmnist")


def fetch_medmnist(
    name: str,
    size: int = 28,
    *,
    subset: str = "train",
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
) -> ClassPool:
    """Load one of MedMNIST's data sets of medical images as a pool of classes.

    Each has 2 to 11 classes and 780 to 236,386 images. The file is read from
    `data_home` where it is there, else downloaded once: 0.6 to 252 MB of pixels at 28
    pixels a side, 64 times as many at 224.

    Parameters
    ----------
    name : {"pathmnist", "dermamnist", "octmnist", "pneumoniamnist", "retinamnist", \
            "breastmnist", "bloodmnist", "tissuemnist", "organamnist", \
            "organcmnist", "organsmnist"}
        Which data set.
    size : {28, 64, 128, 224}, default=28
        Side of the images in pixels.
    subset : {"train", "val", "test", "all"}, default="train"
        Which of the data set's own parts; "all" joins the three.
    data_home : str or path-like, default=None
        Folder of the data; the files are in its folder `medmnist`. None means the
        environment variable `SKLMETA_DATA`, or `~/sklmeta_data` where it is not set.
    download_if_missing : bool, default=True
        Whether to download a file that is not there.

    Returns
    -------
    pool : ClassPool
        X of shape (n_rows, size, size), or (n_rows, size, size, 3) of "pathmnist",
        "dermamnist", "retinamnist" and "bloodmnist", uint8; y holds names of classes
        such as "melanoma" (of "retinamnist", grades "0" to "4"). Rows are ordered by
        class, classes as the data set numbers them; within a class they are in the
        file's order, training rows first.

    Raises
    ------
    OSError
        If the file is not there and cannot be downloaded, or holds something else.
        The message says which file to put where.
    ValueError
        If a parameter has a value that is not listed above: "chestmnist" has several
        labels an image, and the three-dimensional data sets no images.

    See Also
    --------
    fetch_omniglot : 1,623 classes of 20 images each.
    load_digits_pool : Ten classes, without a download.

    Notes
    -----
    Licence CC BY 4.0; of "dermamnist", CC BY-NC 4.0. Not meant for clinical use.

    References
    ----------
    .. [1] Yang, J., Shi, R., Wei, D., Liu, Z., Zhao, L., Ke, B., Pfister, H. & Ni, B.
       (2023). MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D
       biomedical image classification. Scientific Data 10:41. arXiv:2110.14795

    Examples
    --------
    >>> from sklmeta.datasets import fetch_medmnist
    >>> fetch_medmnist("breastmnist", subset="all")  # doctest: +SKIP
    ClassPool(2 classes, 210 to 570 rows each, rows of shape (28, 28))
    """
    _check_name(name)
    check_choice("size", size, _SIZES)
    check_choice("subset", subset, (*_SUBSETS, "all"))
    folder = data_home_path(data_home) / "medmnist"
    file = _data_file(name, size)
    path = fetch_file(file, folder, download_if_missing=download_if_missing)
    subsets = _SUBSETS if subset == "all" else (subset,)
    images, labels = _read(path, name, size, subsets)
    order = np.argsort(labels, kind="stable")
    # Objects, not fixed-width strings: the rows of a class share one label.
    names = np.array(_DATA_SETS[name].classes, dtype=object)
    return ClassPool(images[order], names[labels[order]])


def _check_name(name: Any) -> None:
    """Refuse data sets that there are not, and those that make no pool of images."""
    if name == "chestmnist":
        raise ValueError(
            "name='chestmnist' has any number of 14 findings for each image, and a "
            "ClassPool one class for each row. Choose a data set with one label an "
            f"image: {list(_DATA_SETS)}."
        )
    if isinstance(name, str) and name.endswith("mnist3d"):
        raise ValueError(
            f"name={name!r} holds volumes, not images. Choose a two-dimensional data "
            f"set: {list(_DATA_SETS)}."
        )
    check_choice("name", name, _DATA_SETS)


def _data_file(name: str, size: int) -> DataFile:
    suffix = "" if size == _SIZES[0] else f"_{size}"
    md5 = _DATA_SETS[name].md5[_SIZES.index(size)]
    return DataFile(f"{_ORIGIN}{name}{suffix}.npz?download=1", f"md5:{md5}")


def _read(
    path: Path, name: str, size: int, subsets: tuple[str, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.integer[Any]]]:
    """Read the images and class numbers, (rows,), of some parts of a file."""
    with np.load(path) as file:
        wanted = [f"{part}_{kind}" for part in subsets for kind in ("images", "labels")]
        missing = [key for key in wanted if key not in file]
        if missing:
            raise OSError(
                f"{path} has no arrays {missing}, only {list(file)}. "
                f"{name} of MedMNIST has them; fetch the file again."
            )
        parts = [_read_part(file, part, path, name, size) for part in subsets]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _read_part(
    file: Mapping[str, Any], part: str, path: Path, name: str, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.integer[Any]]]:
    """Read one part, and refuse what is not in the form of the data set."""
    images, labels = file[f"{part}_images"], file[f"{part}_labels"]
    shape = (len(labels), size, size) + ((3,) if name in _IN_COLOUR else ())
    if images.shape != shape or images.dtype != np.uint8:
        raise OSError(
            f"{path}: {part}_images is {images.dtype} of shape {images.shape}, "
            f"expected uint8 of shape {shape} for {len(labels)} labels of {name}."
        )
    n_classes = len(_DATA_SETS[name].classes)
    if labels.shape != (len(labels), 1) or not np.isin(labels, range(n_classes)).all():
        raise OSError(
            f"{path}: {part}_labels has shape {labels.shape} and the values "
            f"{np.unique(labels).tolist()[:20]}, expected shape ({len(labels)}, 1) and "
            f"values from 0 to {n_classes - 1}, the classes of {name}."
        )
    return images, labels[:, 0]
