"""Small pictures of environments, drawn with numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["blank", "disc", "grid"]

SIDE = 128
Color = tuple[int, int, int]


def blank() -> NDArray[np.uint8]:
    """Return a white picture (side, side, 3)."""
    return np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)


def disc(
    picture: NDArray[np.uint8], center: ArrayLike, radius: float, color: Color
) -> None:
    """Draw a disc; `center` and `radius` in units of half the picture's side."""
    x, y = np.asarray(center, dtype=float)
    grid = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    inside = (grid[None, :] - x) ** 2 + (-grid[:, None] - y) ** 2 <= radius**2
    picture[inside] = color


def grid(colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return cells (rows, columns, 3) as a picture, each a square of whole pixels."""
    pixels = max(1, SIDE // max(colors.shape[:2]))
    return colors.repeat(pixels, 0).repeat(pixels, 1)
