"""The layer of batch normalisation; `sklmeta.backbones.normalization` says what it is.

Which statistics it takes is chosen from outside, by the contexts there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklmeta.backbones.fused import (
    fused_batch_norm,
    moments,
    per_channel,
    transforms_active,
)
from sklmeta.backbones.fused_block import extremes, normalised_blocks

__all__ = ["Statistics", "TaskBatchNorm"]

Statistics = tuple[Tensor, Tensor]

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
        if torch.is_autocast_enabled(x.device.type):
            x = x.float()  # as autocast itself has it for other normalisations
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
        if x.device.type != "cpu" or transforms_active():
            return self._one_after_another(x, pool)
        weight, bias = self.weight, self.bias
        if self._mode == "given" or (self._mode == "plain" and self._is_averaged):
            return self._one_after_another(extremes(x, weight) if pool else x, False)
        if self._mode == "plain" or weight is None or bias is None:
            return self._one_after_another(x, pool)
        if not _fits_kernel(x, weight):
            return self._one_after_another(x, pool)
        y, mean, var = normalised_blocks(x, weight, bias, self.eps, pool=pool)
        if self._mode == "record":
            self._statistics = mean, var
        return y

    def _one_after_another(self, x: Tensor, pool: bool) -> Tensor:
        x = self(x)
        return (F.max_pool2d(x, 2) if pool else x).relu()

    @property
    def _is_averaged(self) -> bool:
        """Whether running averages are what rows are normalised by."""
        return self.running_mean is not None and not self.training

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


def _fits_kernel(x: Tensor, weight: Tensor) -> bool:
    """Say whether the fused layer for CPUs takes such a batch."""
    precise = x.dtype in (torch.float32, torch.float64) and x.dtype == weight.dtype
    return precise and x.device.type == "cpu" and x.numel() > 0
