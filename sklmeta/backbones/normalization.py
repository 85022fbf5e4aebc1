r"""Batch normalisation that meta-learning can rely on.

.. math:: y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta

with :math:`\mu, \sigma^2` the statistics of the batch, of running averages, or of other
rows: a few-shot model normalises its query rows with what its support rows showed. The
layer is that of [1]_; which statistics it takes is chosen from outside, by contexts.

References
----------
.. [1] S. Ioffe, C. Szegedy, "Batch normalization: accelerating deep network training by
   reducing internal covariate shift", 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sklmeta.backbones.freezing import is_fixed
from sklmeta.backbones.task_batch_norm import Statistics, TaskBatchNorm

__all__ = [
    "TaskBatchNorm",
    "batch_statistics",
    "convert_batch_norm",
    "given_statistics",
    "mixes_rows",
    "recorded_statistics",
    "uses_batch_statistics",
]

_TORCH_BATCH_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
)


@contextmanager
def batch_statistics(module: nn.Module, record: bool = False) -> Iterator[None]:
    """Let every `TaskBatchNorm` of a module use the batch's statistics.

    Running averages are neither used nor moved, whatever mode the module is in; but
    for fixed layers (see `sklmeta.backbones.freezing`), which keep to theirs here and
    in all functions of this file. Works inside `torch.vmap` and `torch.func.grad`. Like
    `torch.func.functional_call`, it changes the module for its duration: two threads
    must not share one.

    Parameters
    ----------
    module : torch.nn.Module
        The module whose layers are meant, itself included.
    record : bool, default=False
        Whether to keep the statistics of each layer's last pass, with their graph, for
        `recorded_statistics`. They are dropped at the end.

    Examples
    --------
    Rows to predict, normalised by what the support rows showed:

    >>> import torch
    >>> from sklmeta.backbones.normalization import (
    ...     TaskBatchNorm,
    ...     batch_statistics,
    ...     given_statistics,
    ...     recorded_statistics,
    ... )
    >>> layer = TaskBatchNorm(1)
    >>> support, query = torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0]])
    >>> with batch_statistics(layer, record=True):
    ...     _ = layer(support)
    ...     statistics = recorded_statistics(layer)
    >>> with given_statistics(layer, statistics):
    ...     layer(query).item()
    0.0
    """
    layers, mode = _task_layers(module), "record" if record else "batch"
    with _mode(layers, dict.fromkeys(layers, (mode, None))):
        yield


def recorded_statistics(module: nn.Module) -> dict[str, Statistics]:
    """Return the statistics of each layer's last pass in `batch_statistics`.

    Parameters
    ----------
    module : torch.nn.Module
        The module that `batch_statistics(module, record=True)` was entered with.

    Returns
    -------
    dict of str to tuple of Tensor
        Mean and biased variance, each of shape (C,), with their graph, by the name of
        the layer. Layers that have not run are left out.

    Raises
    ------
    RuntimeError
        Outside `batch_statistics(module, record=True)`.
    """
    layers = _task_layers(module)
    if layers and not any(layer._mode == "record" for layer in layers.values()):
        raise RuntimeError(
            "Statistics are recorded only inside batch_statistics(module, record=True);"
            " read them before it ends."
        )
    return {
        name: layer._statistics
        for name, layer in layers.items()
        if layer._mode == "record" and layer._statistics is not None
    }


@contextmanager
def given_statistics(
    module: nn.Module, stats: Mapping[str, Statistics]
) -> Iterator[None]:
    """Let every `TaskBatchNorm` of a module normalise with given statistics.

    Gradients of every order flow into them. Running averages are neither used nor
    moved. Works inside `torch.vmap` and `torch.func.grad`, where the statistics may be
    one task's; as with `batch_statistics`, two threads must not share the module.

    Parameters
    ----------
    module : torch.nn.Module
        The module whose layers are meant, itself included.
    stats : mapping of str to tuple of Tensor
        Mean and biased variance of each layer, as `recorded_statistics` returns them.
        A layer without any must not run.

    Raises
    ------
    ValueError
        If a name is not that of a `TaskBatchNorm` of the module.
    """
    layers = _task_layers(module)
    unknown = [name for name in stats if name not in layers]
    if unknown:
        raise ValueError(
            f"Got statistics for {unknown}, but the TaskBatchNorm layers of this "
            f"module are {list(layers)}. Record them with the same module."
        )
    with _mode(layers, {name: ("given", stats.get(name)) for name in layers}):
        yield


@contextmanager
def _mode(
    layers: Mapping[str, TaskBatchNorm],
    modes: Mapping[str, tuple[str, Statistics | None]],
) -> Iterator[None]:
    """Set the mode of layers by name, and put back the previous one at the end."""
    previous = {name: (x._mode, x._statistics) for name, x in layers.items()}
    try:
        for name, layer in layers.items():
            layer._mode, layer._statistics = modes[name]
        yield
    finally:
        for name, layer in layers.items():
            layer._mode, layer._statistics = previous[name]


def _task_layers(module: nn.Module) -> dict[str, TaskBatchNorm]:
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, TaskBatchNorm) and not is_fixed(layer)
    }


def uses_batch_statistics(module: nn.Module) -> bool:
    """Say whether a module holds batch normalisation, ours or torch's.

    Parameters
    ----------
    module : torch.nn.Module
        The module to look through, itself included.

    Returns
    -------
    bool
        True if what it does with a row may depend on other rows.
    """
    return bool(_unfixed_norms(module))


def mixes_rows(module: nn.Module) -> bool:
    """Say whether a module, as it is now, normalises by the batch that comes in.

    So in training mode, and in layers without running averages.
    """
    layers = _unfixed_norms(module)
    return any(layer.training or layer.running_mean is None for layer in layers)


def _unfixed_norms(module: nn.Module) -> list[TaskBatchNorm | _BatchNorm]:
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, TaskBatchNorm | _BatchNorm) and not is_fixed(layer)
    ]


def convert_batch_norm(module: nn.Module) -> nn.Module:
    """Replace torch's batch normalisation by `TaskBatchNorm`, in place.

    Parameters
    ----------
    module : torch.nn.Module
        The module to change. Its new layers hold the same parameters and buffers under
        the same names, so state dicts and optimizers stay good.

    Returns
    -------
    torch.nn.Module
        The module; a new one where it was itself a batch normalisation.

    Raises
    ------
    ValueError
        If a layer is lazy, or of a subclass of torch's (which may do more than
        normalise).
    """
    replacements: dict[nn.Module, TaskBatchNorm] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm):
            replacements[layer] = _converted(layer, name or "the module itself")
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child in replacements:
                parent._modules[name] = replacements[child]
    return replacements.get(module, module)


def _converted(layer: _BatchNorm, name: str) -> TaskBatchNorm:
    if type(layer) not in _TORCH_BATCH_NORMS:
        raise ValueError(
            f"Cannot convert {name}, a {type(layer).__name__}: only torch's own "
            "BatchNorm1d, 2d, 3d and SyncBatchNorm are known to do nothing else. Run "
            "lazy layers once before; in your own modules, use "
            "sklmeta.backbones.normalization.TaskBatchNorm."
        )
    new = TaskBatchNorm(
        layer.num_features,
        layer.eps,
        layer.momentum,
        layer.affine,
        layer.track_running_stats,
    )
    new._parameters.update(layer._parameters)
    new._buffers.update(layer._buffers)
    return new.train(layer.training)
