"""Drawings turned, mirrored, slightly distorted, and made smaller."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["ORIENTATIONS", "distorted", "resized", "turned"]

ORIENTATIONS = tuple(
    f"{mirror}rot{angle:03d}"
    for mirror in ("", "mirrored/")
    for angle in (0, 90, 180, 270)
)
# Half-widths of the uniform distributions at strength 1.
ANGLE = np.deg2rad(12)
SHEAR = 0.2
LOG_SCALE = 0.15
SHIFT = 6  # of 105 pixels


def turned(images: np.ndarray, orientation: str) -> np.ndarray:
    """Return images (n, side, side) in one of the `ORIENTATIONS`."""
    if orientation.startswith("mirrored/"):
        images = images[:, :, ::-1]
    return np.rot90(images, int(orientation[-3:]) // 90, axes=(1, 2))


def distorted(
    images: np.ndarray, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Return images, each under a random affine map of its own about its centre."""
    centre = (images.shape[1] - 1) / 2
    found = np.empty_like(images)
    for i, image in enumerate(images):
        angle, shear, wider, higher, right, down = strength * rng.uniform(-1, 1, 6)
        cos, sin = np.cos(ANGLE * angle), np.sin(ANGLE * angle)
        inner = np.array([[1, SHEAR * shear], [0, 1]])
        scale = np.diag(np.exp([LOG_SCALE * wider, LOG_SCALE * higher]))
        # Where in the image (x, y) what is shown comes from.
        matrix = np.array([[cos, -sin], [sin, cos]]) @ inner @ scale
        offset = centre - matrix @ [centre, centre]
        offset += SHIFT * np.array([right, down])
        data = [*matrix[0], offset[0], *matrix[1], offset[1]]
        shown = Image.fromarray(image).transform(
            image.shape[::-1],
            Image.Transform.AFFINE,
            data,
            resample=Image.Resampling.BILINEAR,
        )
        found[i] = np.asarray(shown)
    return found


def resized(images: np.ndarray, side: int) -> np.ndarray:
    """Return images (n, side, side), as `fetch_omniglot` makes them smaller."""
    if images.shape[1] == side:
        return images
    size, lanczos = (side, side), Image.Resampling.LANCZOS
    return np.stack(
        [np.asarray(Image.fromarray(image).resize(size, lanczos)) for image in images]
    )
