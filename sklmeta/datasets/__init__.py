"""Few-shot problems to try things on: made, shipped with scikit-learn, or fetched."""

from sklmeta.datasets.digits import load_digits_pool
from sklmeta.datasets.omniglot import fetch_omniglot
from sklmeta.datasets.sinusoids import Sinusoids, make_sinusoids

__all__ = ["Sinusoids", "fetch_omniglot", "load_digits_pool", "make_sinusoids"]
