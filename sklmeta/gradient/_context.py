"""What CAVIA needs besides: docs of its parameters, and whether a net can adapt."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from sklmeta._parameters import filled_in
from sklmeta.backbones.build import feature_size
from sklmeta.backbones.film import FiLM, Modulated
from sklmeta.engine.batches import Rows
from sklmeta.gradient._estimator import with_gradient_parameters
from sklmeta.gradient.network import GradientLearner

__all__ = [
    "CONTEXT",
    "film_layers",
    "refuse_idle_context",
    "refuse_unused_film",
    "with_context_parameters",
]

CONTEXT = "backbone.context"
"""What the context is called among a task's weights."""

CONTEXT_PARAMETERS = """\
backbone : torch.nn.Module, callable, "identity" or None, default=None
    Maps rows to features: a module to copy, a function that returns one for the
    shape of a row ((n_features,), or (channels, height, width) for images), or None
    for an MLP (rows) or a four-block convolution net (images).
    For rows of a table it must take `n_context` inputs more than there are
    features, the last ones; a function is called with that shape. In nets on images
    the context scales and shifts channels, by a `sklmeta.backbones.FiLM` layer that
    is put behind one of the normalisations, unless the module has some.

n_context : int, default=5
    Number of context parameters. The paper takes 5 for sine waves and 100 for
    images.

inner_lr : float, default=1.0
    Step size of the inner loop. Read when adapting.

inner_steps : int, default=1
    Gradient steps of the inner loop, in meta-training and when adapting; change it
    after `fit` to adapt further, or to 0 for the predictions before adaptation.

first_order : bool, default=False
    Leave out second derivatives.
"""

Class = TypeVar("Class", bound=type)

N_DRAWS = 3
N_ROWS = 8
ROUNDING = 1e-10  # of gradients in double precision


def with_context_parameters(cls: Class) -> Class:
    """Write CAVIA's and all shared parameters into a class docstring.

    Like `with_gradient_parameters`, in place of ``<context parameters>`` too.
    """
    return with_gradient_parameters(
        filled_in(cls, {"<context parameters>": CONTEXT_PARAMETERS})
    )


def refuse_idle_context(
    learner: GradientLearner, n_features: int, n_context: int
) -> None:
    """Refuse a backbone whose support loss does not depend on the context.

    It is tried out on random rows, with weights moved at random: special first weights,
    such as zeros, do no harm. A backbone that fails on such rows is let pass: what is
    wrong with it, if anything, is said when it is tried out on rows of tasks.

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
    probe = copy.deepcopy(learner).double().eval()
    try:
        idle = _is_idle(probe, n_features, n_context)
    except Exception:  # whatever it is, trying the net out tells more of it
        return
    if not idle:
        return
    raise ValueError(
        "The context has no effect on the support loss with this backbone, which could "
        "never adapt. So it is where the last inputs are ignored, and where batch "
        "normalisation comes before any activation: it subtracts what is the same in "
        "all rows of a task. Put an activation in between, or use torch.nn.LayerNorm. "
        "With head='prototype' it is also so without any activation at all."
    )


def _is_idle(probe: GradientLearner, n_features: int, n_context: int) -> bool:
    """Whether the gradient by the context is zero; moves the probe's weights."""
    generator = torch.Generator().manual_seed(0)
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
            return False
    return True


def film_layers(backbone: nn.Module, n_context: int) -> list[str]:
    """Return the names of a net's FiLM layers.

    Raises
    ------
    ValueError
        If one takes another number of context parameters.
    """
    names = []
    for name, layer in backbone.named_modules():
        if not isinstance(layer, FiLM):
            continue
        if len(layer.context) != n_context:
            raise ValueError(
                f"The backbone's FiLM {name!r} takes {len(layer.context)} context "
                f"parameters, but n_context={n_context}. Make the two equal."
            )
        names.append(name)
    return names


def refuse_unused_film(backbone: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Refuse a backbone whose forward runs none of its FiLM layers.

    Raises
    ------
    ValueError
        Naming the layer that a FiLM layer stands behind.
    """
    used = []
    films = {n: m for n, m in backbone.named_modules() if isinstance(m, FiLM)}
    handles = [
        film.register_forward_hook(lambda *_: used.append(True))
        for film in films.values()
    ]
    try:
        feature_size(backbone, input_shape)
    finally:
        for handle in handles:
            handle.remove()
    if used:
        return
    first = next(iter(films))
    behind = first.rpartition(".")[0]
    if not isinstance(backbone.get_submodule(behind), Modulated):
        raise ValueError(
            f"The backbone's forward never calls its FiLM layer {first!r}: the "
            "context would have no effect."
        )
    raise ValueError(
        f"The context modulates what comes behind {behind!r}, a layer that the "
        "backbone's forward never calls: the context would have no effect. Call the "
        "layer, rather than a function with its weights, or put a "
        "sklmeta.backbones.FiLM layer of your own where forward calls it."
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
