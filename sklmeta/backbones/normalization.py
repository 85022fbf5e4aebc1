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

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from sklmeta.backbones.fused import (
    fused_batch_norm,
    moments,
    per_channel,
    transforms_active,
)
from sklmeta.backbones.fused_block import extremes, normalised_blocks

__all__ = [
    "TaskBatchNorm",
    "batch_statistics",
    "convert_batch_norm",
    "given_statistics",
    "mixes_rows",
    "recorded_statistics",
    "uses_batch_statistics",
]

Statistics = tuple[Tensor, Tensor]

_TORCH_BATCH_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
)

_CAPTURED = (
    "A TaskBatchNorm in training mode moves its running averages, which torch.func "
    "allows only where they are arguments of the function. Call the module inside "
    "sklmeta.backbones.normalization.batch_statistics(module) to leave them alone."
)


class TaskBatchNorm(nn.Module):
    """Batch normalisation whose statistics can come from the rows of a task.

    By itself it is `torch.nn.BatchNorm1d`, `2d` and `3d` in one: in training mode it
    uses the batch's statistics and moves its running averages, in evaluation mode it
    uses those, and a state dict of one can be loaded by the other. Unlike them, it has
    right second-order gradients under `torch.func`, and takes a batch with a single
    value per channel (of variance zero, which moves the running mean only).
    `batch_statistics` and `given_statistics` choose other statistics for a while.

    Parameters
    ----------
    num_features : int
        Number of channels, C.
    eps : float, default=1e-5
        Added to the variance.
    momentum : float or None, default=0.1
        Weight of the newest batch in the running averages; None takes the plain
        average over all batches.
    affine : bool, default=True
        Whether to learn a weight and a bias per channel.
    track_running_stats : bool, default=True
        Whether to keep running averages; without, the batch's statistics are used in
        evaluation mode, too.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.backbones.normalization import TaskBatchNorm
    >>> layer = TaskBatchNorm(3)
    >>> layer(torch.arange(6.0).reshape(2, 3)).detach()
    tensor([[-1.0000, -1.0000, -1.0000],
            [ 1.0000,  1.0000,  1.0000]])
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        ones, zeros = torch.ones(num_features), torch.zeros(num_features)
        tracked = track_running_stats
        self.register_parameter("weight", nn.Parameter(ones) if affine else None)
        self.register_parameter("bias", nn.Parameter(zeros) if affine else None)
        self.register_buffer("running_mean", zeros.clone() if tracked else None)
        self.register_buffer("running_var", ones.clone() if tracked else None)
        self.register_buffer(
            "num_batches_tracked", torch.tensor(0) if tracked else None
        )
        # Set by the contexts: "plain", "batch", "record" or "given".
        self._mode = "plain"
        self._statistics: Statistics | None = None

    def extra_repr(self) -> str:
        """Return what the layer's repr shows, as torch's layers do."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, track_running_stats={self.track_running_stats}"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a batch (n, C, ...) channel by channel."""
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f"Expected a batch of shape (n, {self.num_features}, ...), "
                f"got {tuple(x.shape)}."
            )
        if self._mode == "record":
            return self._record(x)
        if self._mode == "given":
            return self._apply_given(x)
        if self._mode == "batch" or self.running_mean is None:
            return self._apply_batch(x)
        if not self.training:
            return self._apply_running(x)
        try:
            return self._apply_batch_and_track(x)
        except RuntimeError as error:
            if transforms_active():
                error.add_note(_CAPTURED)
            raise

    def pooled_and_cut(self, x: Tensor, *, pool: bool) -> Tensor:
        """Normalise images, halve them by maxima if asked to, and cut below 0."""
        weight, bias, batch = self.weight, self.bias, self._mode in ("batch", "record")
        on_cpu = x.device.type == "cpu" and not transforms_active()
        if on_cpu and batch and weight is not None and _fits_kernel(x, weight):
            y, *statistics = normalised_blocks(x, weight, bias, self.eps, pool=pool)
            if self._mode == "record":
                self._statistics = statistics[0], statistics[1]
            return y
        if pool and on_cpu and (self._mode == "given" or not (batch or self.training)):
            return self(extremes(x, weight)).relu()
        x = self(x)
        return (F.max_pool2d(x, 2) if pool else x).relu()

    def _apply_batch(self, x: Tensor) -> Tensor:
        """Normalise with the batch's statistics, whose averages stay as they are."""
        if transforms_active():
            return self._normalise(x, *moments(x))
        weight, bias = self.weight, self.bias
        if weight is None or bias is None or not _fits_kernel(x, weight):
            return self._torch_batch_norm(x, weight, bias, training=True)
        return fused_batch_norm(x, weight, bias, self.eps)

    def _apply_batch_and_track(self, x: Tensor) -> Tensor:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        averages = self.running_mean, self.running_var
        if x.numel() == self.num_features:
            # The unbiased variance of one value is 0 / 0: no news of the variance.
            assert self.running_mean is not None
            self.running_mean.lerp_(x.detach().flatten(), momentum)
            return self._apply_batch(x)
        if transforms_active():
            y = self._torch_batch_norm(x, None, None, averages, True, momentum)
            return self._scale(y)
        return self._torch_batch_norm(
            x, self.weight, self.bias, averages, True, momentum
        )

    def _apply_running(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        assert mean is not None and var is not None
        if transforms_active():
            return self._normalise(x, mean, var)
        return self._torch_batch_norm(x, self.weight, self.bias, (mean, var))

    def _record(self, x: Tensor) -> Tensor:
        self._statistics = moments(x)
        if transforms_active():
            return self._normalise(x, *self._statistics)
        return self._apply_batch(x)

    def _apply_given(self, x: Tensor) -> Tensor:
        if self._statistics is None:
            raise RuntimeError(
                "given_statistics was entered without statistics for a TaskBatchNorm "
                "that now runs. Record them on a pass that runs the same layers."
            )
        return self._normalise(x, *self._statistics)

    def _torch_batch_norm(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        averages: tuple[Tensor | None, Tensor | None] = (None, None),
        training: bool = False,
        momentum: float = 0.0,
    ) -> Tensor:
        # Not torch.nn.functional's, which refuses a single value per channel.
        cudnn = torch.backends.cudnn.enabled
        return torch.batch_norm(
            x, weight, bias, *averages, training, momentum, self.eps, cudnn
        )

    def _normalise(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Normalise with any statistics, differentiably in them to every order."""
        centred = x - per_channel(mean, x)
        return self._scale(centred, torch.rsqrt(var + self.eps))

    def _scale(self, y: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        """Multiply by the weight, and by `scale` per channel; add the bias."""
        if self.weight is None or self.bias is None:
            return y * per_channel(torch.as_tensor(scale), y)
        return y * per_channel(scale * self.weight, y) + per_channel(self.bias, y)


def is_hooked(layer: nn.Module) -> bool:
    return bool(
        layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    )


def _fits_kernel(x: Tensor, weight: Tensor) -> bool:
    """Say whether the fused layer for CPUs takes such a batch."""
    precise = x.dtype in (torch.float32, torch.float64) and x.dtype == weight.dtype
    return precise and x.device.type == "cpu" and x.numel() > 0


@contextmanager
def batch_statistics(module: nn.Module, record: bool = False) -> Iterator[None]:
    """Let every `TaskBatchNorm` of a module use the batch's statistics.

    Running averages are neither used nor moved, whatever mode the module is in. Works
    inside `torch.vmap` and `torch.func.grad`. Like `torch.func.functional_call`, it
    changes the module for its duration: two threads must not share one.

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
    mode = "record" if record else "batch"
    with _mode(module, dict.fromkeys(_task_layers(module), (mode, None))):
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
    with _mode(module, {name: ("given", stats.get(name)) for name in layers}):
        yield


@contextmanager
def _mode(
    module: nn.Module, modes: Mapping[str, tuple[str, Statistics | None]]
) -> Iterator[None]:
    """Set the mode of layers by name, and put back the previous one at the end."""
    layers = _task_layers(module)
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
        if isinstance(layer, TaskBatchNorm)
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
    kinds = (TaskBatchNorm, _BatchNorm)
    return any(isinstance(layer, kinds) for layer in module.modules())


def mixes_rows(module: nn.Module) -> bool:
    """Say whether a module, as it is now, normalises by the batch that comes in.

    So in training mode, and in layers without running averages.
    """
    kinds = (TaskBatchNorm, _BatchNorm)
    layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
    return any(layer.training or layer.running_mean is None for layer in layers)


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
