"""Adapting and predicting without gradients, for any number of tasks.

Tables are predicted in double precision: single-precision matrix products depend on
how many rows they are given, and a row's prediction must not.
"""

from __future__ import annotations

import copy
import threading
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sklmeta.engine.batches import Episodes, Rows
from sklmeta.engine.learner import Learner, State, WeightsId
from sklmeta.engine.mapping import shares_out_tasks, tasks_per_pass
from sklmeta.engine.pool import RowPool
from sklmeta.engine.threads import in_threads, replicas

__all__ = [
    "adapt",
    "adapt_and_predict",
    "draw_rows",
    "embedded",
    "features_of",
    "is_on",
    "moved_to",
    "on_cpu",
    "predict",
    "predict_rows",
    "run_episodes",
    "streamed",
]

ROWS_PER_BLOCK = 512
# Rows and weights of tasks that are adapted at once: what a processor's caches hold,
# measured fastest from 2**19 to 2**21; a GPU wants more to do.
VALUES_PER_PASS = 2**20
VALUES_PER_PASS_ON_GPU = 2**24
ROWS_EMBEDDED_AT_ONCE = 128
# More than passes are likely to take for each value of rows and weights.
BYTES_PER_VALUE = 512
BYTES_PER_PIXEL = 16384

# Copies of learners, and what the weights were when they were made.
_cpu_copies: WeakKeyDictionary[WeightsId, tuple[Any, Learner]] = WeakKeyDictionary()
_doubles: WeakKeyDictionary[WeightsId, tuple[Any, Learner]] = WeakKeyDictionary()
_locks: WeakKeyDictionary[WeightsId, threading.RLock] = WeakKeyDictionary()
_guard = threading.Lock()


def _lock_of(learner: Learner) -> threading.RLock:
    """Return the lock of the learner's weights.

    Functional calls swap a module's weights while they run, so that two threads must
    not use one module at the same time. Views made by `with_options` share modules.
    """
    with _guard:
        return _locks.setdefault(learner.weights_id, threading.RLock())


def is_on(learner: Learner, device: torch.device) -> bool:
    """Whether the learner's weights are on `device`."""
    weight = next(learner.parameters(), None)
    if weight is None:
        return True
    same_type = weight.device.type == device.type
    return same_type and device.index in (None, weight.device.index)


def moved_to(learner: Learner, device: torch.device) -> Learner:
    """Return the learner, its weights moved to `device` if they are elsewhere.

    Weights that are there are not touched: another thread may be using them. While one
    thread moves them, others wait.
    """
    with _lock_of(learner):
        return learner if is_on(learner, device) else learner.to(device)


def on_cpu(learner: Learner) -> Learner:
    """Return the learner if it is on the CPU, else a copy that is.

    The copy is kept for as long as the weights stay as they are: what is pickled
    together then stores it once.
    """
    cpu = torch.device("cpu")
    with _lock_of(learner):
        if is_on(learner, cpu):
            return learner
        version = _version(learner)
        known, copied = _cpu_copies.get(learner.weights_id, (None, learner))
        if known != version or not is_on(copied, cpu):
            copied = copy.deepcopy(learner).cpu()
            _cpu_copies[learner.weights_id] = version, copied
        return copied


def _in_double(learner: Learner) -> Learner:
    """Return a double-precision copy of the learner with the learner's options.

    The copy is kept for as long as the weights stay as they are.
    """
    with _lock_of(learner):  # or the weights copied may be some task's
        version = _version(learner)
        known, double = _doubles.get(learner.weights_id, (None, learner))
        if known != version:
            double = copy.deepcopy(learner).double()
            _doubles[learner.weights_id] = version, double
    names = (*learner.adaptation_options, *learner.view_options)
    options = {name: getattr(learner, name) for name in names}
    view = double.with_options(**options)
    view.budget = learner.budget
    return view


def _version(learner: Learner) -> tuple[Any, ...]:
    """Return what differs after a learner's weights or mode have changed."""
    tensors = [*learner.parameters(), *learner.buffers()]
    return learner.training, tuple((t.data_ptr(), t._version) for t in tensors)


def adapt(learner: Learner, support: Rows) -> State:
    """Adapt without keeping a graph."""
    with _lock_of(learner), torch.no_grad():
        return learner.adapt(support)


def predict(learner: Learner, state: State, x: Tensor) -> Tensor:
    """Return outputs (T, Q, N) for x (T, Q, *F), in blocks of query rows.

    With `transductive` learners the whole query batch is one block, since its
    statistics matter.
    """
    if x.dim() == 3 and not learner.sees_features:  # rows of a table: (T, Q, F)
        learner = _in_double(learner)
        state = pytree.tree_map(_to_double, state)
        x = x.double()
    blocks = x.split(_block_size(learner, x.shape[1]), dim=1)
    with _lock_of(learner), torch.no_grad():
        return torch.cat([learner.predict(state, block) for block in blocks], dim=1)


def embedded(learner: Learner, pool: RowPool, rows: Tensor) -> tuple[Learner, RowPool]:
    """Map rows to features once, where learners allow it and rows come repeatedly.

    Parameters
    ----------
    learner : Learner
    pool : RowPool
    rows : Tensor of int64
        The rows of the pool that are going to be used, as often as they are.

    Returns
    -------
    learner, pool
        The learner on features, and the pool with features of the rows in use; those
        that were given where nothing is gained, or learners need the rows themselves.
    """
    used = rows.unique()
    if learner.on_features() is None or len(used) == len(rows):
        return learner, pool
    return _with_features(learner, pool, used)


def streamed(learner: Learner, pool: RowPool) -> tuple[Learner, RowPool]:
    """Map many images to features block by block, where learners allow it.

    As floats all images of a large support take four times their memory, and their
    activations hundreds of times.

    Returns
    -------
    learner, pool
        The learner on features, and the pool with features; those that were given
        where rows are few, numbers of a table, or needed themselves.
    """
    few = pool.n_rows <= ROWS_PER_BLOCK or len(pool.input_shape) == 1
    if few or learner.on_features() is None:
        return learner, pool
    return _with_features(learner, pool, torch.arange(pool.n_rows))


def _with_features(
    learner: Learner, pool: RowPool, used: Tensor
) -> tuple[Learner, RowPool]:
    """Return the learner on features, and the pool with features of the used rows."""
    is_table = len(pool.input_shape) == 1
    parts = (_in_double(learner) if is_table else learner).on_features()
    assert parts is not None
    embed, on_features = parts
    on_features.sees_features = True
    with _lock_of(learner):
        features = features_of(embed, pool, used, double=is_table)
    x = features.new_zeros(pool.n_rows, features.shape[1])
    return on_features, pool.with_features(
        x.index_copy_(0, used.to(x.device), features)
    )


def features_of(
    embed: nn.Module, pool: RowPool, rows: Tensor, *, double: bool = False
) -> Tensor:
    """Return the features (n, n_features) that a module makes of rows of a pool.

    Rows pass the module block by block, without gradients.
    """
    blocks = []
    with torch.no_grad():
        for block in rows.split(ROWS_EMBEDDED_AT_ONCE):
            x = pool.take(block)
            blocks.append(embed(x.double() if double else x))
    return torch.cat(blocks)


def predict_rows(learner: Learner, state: State, pool: RowPool) -> Tensor:
    """Return outputs (Q, N) of one adapted task for all rows of a pool, on the CPU.

    Rows leave the pool block by block, since images grow fourfold as floats.
    """
    rows = torch.arange(pool.n_rows)[None]
    outputs = [
        predict(learner, state, pool.take(block)).cpu()
        for block in rows.split(_block_size(learner, pool.n_rows), dim=1)
    ]
    return torch.cat(outputs, dim=1)[0]


def draw_rows(
    learner: Any, state: State, pool: RowPool, n_samples: int, seed: int, noise: bool
) -> Tensor:
    """Return joint draws (n_samples, Q, n_outputs) for all rows of a pool, on the CPU.

    Calibrated: what deviates from the mean is multiplied as standard deviations are.
    """
    x = pool.take(torch.arange(pool.n_rows)[None])
    if x.dim() == 3 and not learner.sees_features:
        learner, x = _in_double(learner), x.double()
        state = pytree.tree_map(_to_double, state)
    generator = torch.Generator().manual_seed(seed)
    with _lock_of(learner), torch.no_grad():
        mean = learner.predict(state, x).unsqueeze(1)
        draws = learner.draw(state, x, n_samples, generator, noise)
        return (mean + learner.calibration * (draws - mean)).cpu()[0]


def _block_size(learner: Learner, n_rows: int) -> int:
    """Return how many query rows go together: all, where each matters to others."""
    whole = learner.transductive and learner.needs_equal_rows
    return max(n_rows, 1) if whole else ROWS_PER_BLOCK


def _to_double(leaf: Any) -> Any:
    floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.double() if floating else leaf


def run_episodes(learner: Learner, episodes: Episodes) -> Tensor:
    """Adapt to every episode's support and predict its query rows.

    Returns
    -------
    Tensor of shape (T, Q, N) or (T, Q, n_outputs)
        On the CPU; rows beyond a task's own query rows hold NaN.
    """
    outputs: Tensor | None = None

    def compute(worker: Learner, item: tuple[Tensor, Episodes]) -> tuple[Tensor, ...]:
        tasks, part = item
        state = adapt(worker, part.support)
        return tasks, predict(worker, state, part.query.x).cpu()

    def place(result: tuple[Tensor, ...]) -> None:
        nonlocal outputs
        tasks, found = result
        n_query, n_ways = found.shape[1:]
        if outputs is None:
            shape = len(episodes), episodes.query.x.shape[1], n_ways
            outputs = found.new_full(shape, torch.nan)
        outputs = _widened(outputs, n_ways)
        outputs[tasks, :n_query, :n_ways] = found
        if n_ways < outputs.shape[2]:
            outputs[tasks, :n_query, n_ways:] = -torch.inf

    size, equal = _tasks_at_once(learner, episodes), learner.needs_equal_rows
    parts = episodes.indexed_parts(size, equal_rows=equal)
    workers = _workers(learner, episodes) if size == 1 else []
    if workers:
        in_threads(compute, workers, list(parts), place)
    else:
        for item in parts:
            place(compute(learner, item))
    assert outputs is not None
    return outputs


def _workers(learner: Learner, episodes: Episodes) -> list[Learner]:
    """Return copies of the learner that share tasks out; none where one is as fast."""
    n_threads = min(torch.get_num_threads(), len(episodes))
    device = episodes.support.x.device
    if n_threads == 1 or learner.training or not shares_out_tasks(learner, device):
        return []
    with _lock_of(learner):  # or the weights copied may be some task's
        return replicas(learner, n_threads)


def _widened(outputs: Tensor, n_ways: int) -> Tensor:
    """Return `outputs` with room for `n_ways`, absent ways -inf."""
    missing = n_ways - outputs.shape[2]
    if missing <= 0:
        return outputs
    return torch.nn.functional.pad(outputs, (0, missing), value=-torch.inf)


def _tasks_at_once(learner: Learner, episodes: Episodes) -> int:
    """Return how many tasks fit one pass."""
    x, query = episodes.support.x, episodes.query.x
    if tasks_per_pass(learner, x.device) == 1:
        return 1
    per_task = (x.shape[1] + query.shape[1]) * x[0, 0].numel()
    weights = sum(p.numel() for p in learner.parameters())
    at_once = VALUES_PER_PASS if x.device.type == "cpu" else VALUES_PER_PASS_ON_GPU
    size = max(1, at_once // max(per_task + weights, 1))
    n_values = min(size, len(episodes)) * (per_task + weights)
    return min(size, _fitting(learner, episodes, n_values) or size)


def _fitting(learner: Learner, episodes: Episodes, n_values: int) -> int | None:
    """Return how many tasks the learner's memory budget allows; None for any number."""
    budget = learner.budget
    if budget is None:
        return None
    limit, _ = budget.bounds(episodes.support.x.device)
    is_table = episodes.support.x.dim() == 3
    likely = n_values * (BYTES_PER_VALUE if is_table else BYTES_PER_PIXEL)
    if limit is None or likely <= limit:
        return None  # measured only where it may matter
    return budget.n_tasks(learner, episodes)


def adapt_and_predict(learner: Learner, episodes: Episodes) -> Tensor:
    """Adapt to episodes and return the outputs for their query rows."""
    return predict(learner, adapt(learner, episodes.support), episodes.query.x)
