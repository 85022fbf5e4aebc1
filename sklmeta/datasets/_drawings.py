"""Omniglot's drawings: PNG files of one bit a pixel, read as ink on empty paper."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_image_size", "read_drawing", "require_pillow"]


def read_drawing(png: bytes, image_size: int | None) -> NDArray[np.uint8]:
    """Decode one drawing as uint8 of shape (side, side), ink 255 on 0."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as file:
        # The files have one bit a pixel; Pillow only blends pixels of grey images.
        image = file.convert("L")
    if image_size is not None:
        image = image.resize((image_size, image_size), Image.Resampling.LANCZOS)
    return 255 - np.asarray(image)


def check_image_size(image_size: Any) -> None:
    """Refuse what is neither a number of pixels nor None."""
    if image_size is None:
        return
    is_integer = isinstance(image_size, (int, np.integer))
    if not is_integer or isinstance(image_size, bool) or image_size < 1:
        raise ValueError(
            f"image_size must be an int of at least 1, or None for the original "
            f"105 pixels, got {image_size!r}."
        )


def require_pillow(loader: str) -> None:
    """Refuse to go on without Pillow, in the name of a loader."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{loader} reads PNG images with Pillow, which is not installed: "
            "pip install sklmeta[images] (or: pip install pillow)."
        ) from error
