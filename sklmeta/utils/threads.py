"""How many threads torch computes with, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sklmeta._parameters import check_integer

__all__ = ["torch_threads"]


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Let torch compute with a number of threads, and with as many as before after.

    For searches whose workers are threads of this process: each would otherwise start
    as many threads of its own as the machine has cores. Worker *processes* need no
    help. joblib's default ones share the cores (``cores // n_jobs`` threads each, or
    what ``parallel_config(inner_max_num_threads=)`` says), those of a Dask or Ray
    cluster compute with one thread.

    Parameters
    ----------
    n_threads : int
        Threads of one operation. 1 suits small nets, whatever the machine.

    Raises
    ------
    TypeError, ValueError
        If `n_threads` is not an integer of at least 1.

    Notes
    -----
    torch keeps the number for the whole process: threads that are started inside the
    block have it, those that have computed before keep theirs. With equal numbers the
    same `random_state` gives the same result to the last bit on every backend; with
    others, sums are taken in another order.

    Examples
    --------
    >>> from joblib import parallel_config
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklmeta import MAMLRegressor
    >>> from sklmeta.datasets import make_sinusoids
    >>> from sklmeta.model_selection import TaskKFold
    >>> from sklmeta.utils import torch_threads
    >>> search = GridSearchCV(
    ...     MAMLRegressor(max_iter=5, random_state=0),
    ...     {"inner_lr": [0.01, 0.1]},
    ...     cv=TaskKFold(2),
    ...     error_score="raise",
    ... )
    >>> with torch_threads(1), parallel_config("threading", n_jobs=2):
    ...     search = search.fit(make_sinusoids(20, random_state=0))
    >>> len(search.cv_results_["params"])
    2
    """
    check_integer("n_threads", n_threads, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
