"""Few-shot problems to try things on: made, shipped with scikit-learn, or fetched."""

from sklmeta.datasets.ambiguous import AmbiguousAttributes, SinusoidsOrLines
from sklmeta.datasets.digits import load_digits_pool
from sklmeta.datasets.gaussian_processes import (
    GaussianProcessTasks,
    make_gaussian_process_tasks,
)
from sklmeta.datasets.glyphs import Glyphs, make_glyphs
from sklmeta.datasets.images import resize_images
from sklmeta.datasets.leaves import fetch_leaves100
from sklmeta.datasets.medmnist import fetch_medmnist
from sklmeta.datasets.mixing import MixedTasks
from sklmeta.datasets.omniglot import fetch_omniglot
from sklmeta.datasets.omniglot_runs import fetch_omniglot_runs
from sklmeta.datasets.parkinsons import fetch_parkinsons
from sklmeta.datasets.school import fetch_school
from sklmeta.datasets.sinusoids import Sinusoids, make_sinusoids
from sklmeta.datasets.sleepstudy import fetch_sleepstudy

__all__ = [
    "AmbiguousAttributes",
    "GaussianProcessTasks",
    "Glyphs",
    "MixedTasks",
    "Sinusoids",
    "SinusoidsOrLines",
    "fetch_leaves100",
    "fetch_medmnist",
    "fetch_omniglot",
    "fetch_omniglot_runs",
    "fetch_parkinsons",
    "fetch_school",
    "fetch_sleepstudy",
    "load_digits_pool",
    "make_gaussian_process_tasks",
    "make_glyphs",
    "make_sinusoids",
    "resize_images",
]
