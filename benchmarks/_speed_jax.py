"""The sinusoid update in JAX, for the speed table where JAX is installed.

JAX computes in a thread of its own while the loop draws the next batch, so that it has
a second core where there is one; its operations are kept to one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
)

import jax
import jax.numpy as jnp
import numpy as np
from _speed_sinusoid import INNER_LR, OUTER_LR

Weights = list[Any]
State = tuple[Weights, Weights, Weights, Any]
"""Weights, first and second moments of Adam, and number of steps."""


def initial_state(seed: int) -> State:
    """Return random weights of the 1-40-40-1 network."""
    rng = np.random.default_rng(seed)
    weights: Weights = []
    for n_in, n_out in ((1, 40), (40, 40), (40, 1)):
        bound = n_in**-0.5
        for shape in ((n_in, n_out), (n_out,)):
            drawn = rng.uniform(-bound, bound, shape).astype(np.float32)
            weights.append(jnp.asarray(drawn))
    zeros = [jnp.zeros_like(w) for w in weights]
    return weights, zeros, list(zeros), jnp.zeros((), jnp.int32)


def loss(weights: Weights, x: Any, y: Any) -> Any:
    """Return the mean squared error."""
    w1, b1, w2, b2, w3, b3 = weights
    hidden = jax.nn.relu(jax.nn.relu(x @ w1 + b1) @ w2 + b2)
    return jnp.square(hidden @ w3 + b3 - y).mean()


def adam(weights: Weights, gradients: Weights, state: State) -> State:
    """Return the state after a step of Adam."""
    n_steps = state[3] + 1
    first = [0.9 * m + 0.1 * g for m, g in zip(state[1], gradients, strict=True)]
    second = [
        0.999 * v + 0.001 * g * g for v, g in zip(state[2], gradients, strict=True)
    ]
    one, two = 1 - 0.9**n_steps, 1 - 0.999**n_steps
    moved = [
        w - OUTER_LR * (m / one) / (jnp.sqrt(v / two) + 1e-8)
        for w, m, v in zip(weights, first, second, strict=True)
    ]
    return moved, first, second, n_steps


def compiled_update(
    inner_steps: int, state: State, n_tasks: int, n_support: int, n_query: int
) -> Callable[..., State]:
    """Return the compiled meta-update."""

    def task_loss(weights: Weights, *rows: Any) -> Any:
        for _ in range(inner_steps):
            gradients = jax.grad(loss)(weights, *rows[:2])
            pairs = zip(weights, gradients, strict=True)
            weights = [w - INNER_LR * g for w, g in pairs]
        return loss(weights, *rows[2:])

    def mean_loss(weights: Weights, *rows: Any) -> Any:
        batched = jax.vmap(task_loss, in_axes=(None, 0, 0, 0, 0))
        return batched(weights, *rows).mean()

    def update(state: State, *rows: Any) -> State:
        return adam(state[0], jax.grad(mean_loss)(state[0], *rows), state)

    shapes = [(n_tasks, n, 1) for n in (n_support, n_support, n_query, n_query)]
    examples = [np.zeros(shape, np.float32) for shape in shapes]
    compiled: Callable[..., State] = jax.jit(update).lower(state, *examples).compile()
    return compiled
