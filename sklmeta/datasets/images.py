"""Images of another size: what joins data sets of several sizes, or fits a backbone."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["resize_images"]

IMAGES_AT_ONCE = 4096


def resize_images(X: ArrayLike | Tensor, size: Any) -> NDArray[Any] | Tensor:
    """Resize images by bilinear interpolation, which averages where they get smaller.

    Parameters
    ----------
    X : array-like or Tensor of shape (n_images, height, width) or \
            (n_images, height, width, channels)
        Images, uint8 or floating.
    size : int or (int, int)
        The new height and width in pixels; an int is both.

    Returns
    -------
    resized : ndarray or Tensor of shape (n_images, new_height, new_width[, channels])
        Of the type of `X`; uint8 is rounded. Images of that size already are returned
        as they are.

    Raises
    ------
    ValueError
        If X does not hold images, is empty or of another type, or `size` is none.

    See Also
    --------
    sklmeta.ClassPool.from_domains : Joins images of several data sets.

    Examples
    --------
    >>> from sklmeta import ClassPool
    >>> from sklmeta.datasets import load_digits_pool, resize_images
    >>> digits = load_digits_pool()
    >>> ClassPool(resize_images(digits.X, 28), digits.y)
    ClassPool(10 classes, 174 to 183 rows each, rows of shape (28, 28))
    """
    images = X.detach() if isinstance(X, Tensor) else np.asarray(X)
    shape = _checked_size(size)
    is_number = str(images.dtype).removeprefix("torch.").startswith(("uint8", "float"))
    if images.ndim not in (3, 4) or 0 in images.shape or not is_number:
        raise ValueError(
            f"X has shape {tuple(images.shape)} and type {images.dtype}, expected "
            "uint8 or floating images (n_images, height, width[, channels]). Flat rows "
            "become images by X.reshape(len(X), height, width)."
        )
    if tuple(images.shape[1:3]) == shape:
        return images
    if isinstance(images, Tensor):
        return torch.cat([_resized(part, shape) for part in _parts(images)])
    images = np.array(images, order="C")  # torch refuses some strides, and read-only
    parts = _parts(torch.from_numpy(images))
    return np.concatenate([_resized(part, shape).numpy() for part in parts])


def _checked_size(size: Any) -> tuple[int, int]:
    is_side = isinstance(size, numbers.Integral) and not isinstance(size, bool)
    pair = (size, size) if is_side else size
    if not isinstance(pair, (tuple, list)) or not (
        len(pair) == 2
        and all(isinstance(n, numbers.Integral) and int(n) > 0 for n in pair)
    ):
        raise ValueError(
            f"size must be a number of pixels, or (height, width), got {size!r}."
        )
    return int(pair[0]), int(pair[1])


def _parts(images: Tensor) -> tuple[Tensor, ...]:
    return images.split(IMAGES_AT_ONCE)


def _resized(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Resize some images (n, H, W) or (n, H, W, C)."""
    x = images[..., None] if images.ndim == 3 else images
    x = x.movedim(-1, 1)  # (n, C, H, W)
    x = x if x.dtype == torch.float64 else x.float()
    x = interpolate(x, shape, mode="bilinear", align_corners=False, antialias=True)
    if images.dtype == torch.uint8:
        x = x.round_().clamp_(0, 255)
    x = x.movedim(1, -1).to(images.dtype).contiguous()
    return x[..., 0] if images.ndim == 3 else x
