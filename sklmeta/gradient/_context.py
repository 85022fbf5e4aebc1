"""Whether a network can adapt by context parameters at all, found out by trying."""

from __future__ import annotations

import copy

import torch

from sklmeta.engine.batches import Rows
from sklmeta.gradient.network import GradientLearner

__all__ = ["CONTEXT", "refuse_idle_context"]

CONTEXT = "backbone.context"
"""What the context is called among a task's weights."""

N_DRAWS = 3
N_ROWS = 8
ROUNDING = 1e-10  # of gradients in double precision


def refuse_idle_context(
    learner: GradientLearner, n_features: int, n_context: int
) -> None:
    """Refuse a backbone whose support loss does not depend on the context.

    It is tried out on random rows, with weights moved at random: special first weights,
    such as zeros, do no harm.

    Parameters
    ----------
    learner : GradientLearner
        On the CPU; it is left as it is.
    n_features : int
        Features of a row, without the context.
    n_context : int
        Number of context parameters.

    Raises
    ------
    ValueError
        If the gradient by the context is zero, up to rounding.
    """
    generator = torch.Generator().manual_seed(0)
    probe = copy.deepcopy(learner).double().eval()
    support = _random_rows(probe, n_features, generator)
    context = {CONTEXT: support.x.new_zeros(1, n_context)}
    for _ in range(N_DRAWS):
        with torch.no_grad():
            for weight in probe.parameters():
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise.to(weight), alpha=0.1)
        gradients = probe.support_gradients(
            context, support, probe.ways(support), create_graph=False
        )
        if not gradients[CONTEXT].abs().max() <= ROUNDING:
            return
    raise ValueError(
        "The context has no effect on the support loss with this backbone, which could "
        "never adapt. So it is where the last inputs are ignored, and where batch "
        "normalisation comes before any activation: it subtracts what is the same in "
        "all rows of a task. Put an activation in between, or use torch.nn.LayerNorm. "
        "With head='prototype' it is also so without any activation at all."
    )


def _random_rows(
    learner: GradientLearner, n_features: int, generator: torch.Generator
) -> Rows:
    """Return rows of one task that the learner could meet."""
    n_outputs = learner.n_outputs or 2
    x = torch.rand(1, N_ROWS, n_features, generator=generator).double()
    y = torch.arange(N_ROWS).unsqueeze(0) % n_outputs
    if learner.task_type == "regression":
        y = torch.randn(1, N_ROWS, n_outputs, generator=generator).double()
    n_way = None if learner.n_outputs else torch.tensor([n_outputs])
    return Rows(x, y, torch.ones(1, N_ROWS, dtype=torch.bool), n_way)
