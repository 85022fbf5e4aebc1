"""Kernels of GPyTorch as kernels of deep kernel learners.

GPyTorch is not imported: its kernels are told by what they have.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from sklmeta.closed_form._kernels import Kernel

__all__ = ["GPyTorchKernel", "is_gpytorch_kernel"]

# Evaluating a kernel takes its `active_dims` away for a moment, and changes settings
# that are global.
_LOCK = threading.RLock()


class GPyTorchKernel(Kernel):
    """A kernel of GPyTorch, evaluated to dense matrices.

    Parameters
    ----------
    kernel : gpytorch.kernels.Kernel
        Its parameters are those of all tasks; priors on them count for nothing.

    Raises
    ------
    ValueError
        If the kernel has a `batch_shape`.
    """

    def __init__(self, kernel: Any) -> None:
        super().__init__()
        if len(kernel.batch_shape):
            raise ValueError(
                f"kernel has batch_shape {tuple(kernel.batch_shape)}: tasks share one "
                "kernel. Leave batch_shape out."
            )
        self.kernel = kernel

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return covariances (T, S, Q)."""
        with _LOCK:
            return self.kernel(a, b).to_dense()

    def diagonal(self, a: Tensor) -> Tensor:
        """Return the variances (T, S)."""
        with _LOCK:
            found = self.kernel(a, diag=True)
        dense = found if torch.is_tensor(found) else found.to_dense()
        return dense.expand(a.shape[:2])


def is_gpytorch_kernel(made: Any) -> bool:
    """Whether this is a torch module with the methods of GPyTorch's kernels."""
    names = ("batch_shape", "covar_dist", "num_outputs_per_input")
    return isinstance(made, nn.Module) and all(hasattr(made, name) for name in names)
