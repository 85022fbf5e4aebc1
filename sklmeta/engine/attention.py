r"""Attention as its formula says, for nets whose gradients are differentiated.

.. math:: \mathrm{softmax}\!\left(\frac{Q K^\top}{\sqrt{d}} + M\right) V

Torch's fused kernels have no second derivatives, and those for inference not even
first ones. Inside `plain_attention` a thread computes the formula instead.
"""

from __future__ import annotations

import inspect
import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["plain_attention"]


def plain_attention() -> AbstractContextManager[Any]:
    """Return the context in which attention has derivatives of every order.

    It reaches `torch.nn.MultiheadAttention`, transformer layers, and modules that call
    `torch.nn.functional.scaled_dot_product_attention`, in this thread alone.

    Examples
    --------
    >>> import torch
    >>> from torch.nn import functional as F
    >>> from sklmeta.engine.attention import plain_attention
    >>> q = torch.ones(1, 1, 2, 4, requires_grad=True)
    >>> with plain_attention():
    ...     y = F.scaled_dot_product_attention(q, q, q)
    >>> (g,) = torch.autograd.grad(y.square().sum(), q, create_graph=True)
    >>> torch.autograd.grad(g.sum(), q)[0].shape
    torch.Size([1, 1, 2, 4])
    """
    return _PlainAttention()


class _PlainAttention(TorchFunctionMode):
    """Replaces torch's function; torch's layers avoid their own kernels under it."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return _multi_head(*args, **kwargs)
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


def _multi_head(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """Call torch's function in the way that makes the attention weights, by formula."""
    bound = _SIGNATURE.bind(*args, **kwargs)
    wanted = bound.arguments.get("need_weights", True)
    bound.arguments["need_weights"] = True
    output, weights = F.multi_head_attention_forward(*bound.args, **bound.kwargs)
    return output, weights if wanted else None


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute what `torch.nn.functional.scaled_dot_product_attention` does."""
    if enable_gqa:
        key, value = (
            t.repeat_interleave(query.shape[-3] // t.shape[-3], -3)
            for t in (key, value)
        )
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.mT * scale
    if is_causal:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device)
        scores = scores.masked_fill(ones.triu(1), -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return F.dropout(torch.softmax(scores, -1), dropout_p, dropout_p > 0) @ value
