"""resize_images: means of blocks, types, containers, and what it refuses."""

import numpy as np
import pytest
import torch

from sklmeta.datasets import images, load_digits_pool, resize_images

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3, 8, 12), (3, 8, 12, 2)])
def test_constant_images_stay_constant(shape):
    X = np.full(shape, 7, dtype=np.uint8)
    for size in (4, (16, 5)):
        resized = resize_images(X, size)
        assert resized.dtype == np.uint8
        height, width = (size, size) if isinstance(size, int) else size
        assert resized.shape == (3, height, width, *shape[3:])
        assert (resized == 7).all()


def test_twice_as_large_interpolates_between_centres_of_pixels():
    resized = resize_images(np.array([[[0.0, 4.0], [0.0, 4.0]]]), (2, 4))
    np.testing.assert_allclose(resized[0, 0], [0, 1, 3, 4])


def test_smaller_images_average_all_pixels():
    X = np.zeros((1, 8, 8))
    X[0, 3, 3] = 1.0  # plain bilinear interpolation would not see it
    assert (resize_images(X, 2) > 0).all()


def test_channels_are_resized_each_for_itself():
    X = RNG.random((2, 6, 6, 3))
    resized = resize_images(X, (9, 4))
    for channel in range(3):
        alone = resize_images(X[..., channel], (9, 4))
        np.testing.assert_allclose(resized[..., channel], alone)


def test_uint8_is_rounded_not_cut():
    X = RNG.integers(256, size=(4, 8, 8), dtype=np.uint8)
    exact = resize_images(X.astype(np.float64), 11)
    assert np.abs(resize_images(X, 11) - exact).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float64])
def test_tensors_stay_tensors(dtype):
    X = (torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) * 9).to(dtype)
    resized = resize_images(X, 6)
    assert resized.dtype == dtype
    same = resize_images(X.numpy(), 6)
    np.testing.assert_array_equal(resized.numpy(), same)


def test_views_that_torch_does_not_take():
    X = RNG.random((3, 4, 4))
    flipped = X[::-1]
    flipped.flags.writeable = False
    resized = resize_images(flipped, 5)
    np.testing.assert_array_equal(resized[::-1], resize_images(X, 5))


def test_parts_make_no_difference(monkeypatch):
    X = load_digits_pool().X[:50]
    whole = resize_images(X, 28)
    monkeypatch.setattr(images, "IMAGES_AT_ONCE", 7)
    np.testing.assert_array_equal(resize_images(X, 28), whole)


def test_images_of_that_size_are_not_touched():
    X = np.zeros((2, 5, 4), dtype=np.uint8)
    assert resize_images(X, (5, 4)) is X


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((3, 64)), r"shape \(3, 64\).*X\.reshape"),
        (np.zeros((0, 8, 8)), r"shape \(0, 8, 8\)"),
        (np.zeros((3, 8, 8), dtype=np.int64), "type int64, expected uint8"),
        (torch.zeros((3, 8, 8), dtype=torch.int64), r"type torch\.int64"),
        (np.full((3, 8, 8), "ink"), "type <U3"),
    ],
)
def test_refused_images(X, message):
    with pytest.raises(ValueError, match=message):
        resize_images(X, 4)


@pytest.mark.parametrize("size", [0, -1, 2.5, (3, 0), (3, 4, 5), "28", None])
def test_refused_sizes(size):
    with pytest.raises(ValueError, match="size must be a number of pixels"):
        resize_images(np.zeros((1, 4, 4)), size)
