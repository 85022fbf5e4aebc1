"""Whether a user's module can be meta-trained, and how: tried out before training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sklmeta.backbones.initialization import cuda_devices

__all__ = ["no_trace"]


@contextmanager
def no_trace(module: nn.Module) -> Iterator[None]:
    """Put buffers and torch's global generators back as they were at the end."""
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    with torch.random.fork_rng(devices=cuda_devices()):
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in buffers.items():
                    module.get_buffer(name).copy_(value)
