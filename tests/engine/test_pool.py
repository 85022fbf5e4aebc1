"""RowPool: storage, scaling, layout, and what it refuses."""

import numpy as np
import pytest
import torch

from sklmeta.engine.pool import RowPool


def test_take_gives_the_rows():
    x = torch.rand(6, 3)
    pool = RowPool.from_tasks(x, torch.rand(6), [0, 2, 6], ["a", "b"])
    index = torch.tensor([[5, 0, 0], [2, 3, 4]])
    assert torch.equal(pool.take(index), x[index])
    assert pool.take(index).dtype == torch.float32
    assert pool.input_shape == (3,)
    assert (pool.n_tasks, pool.n_rows) == (2, 6)


@pytest.mark.parametrize("shape", [(), (2,), (4, 5)])
def test_take_other_shapes(shape):
    x = torch.rand(6, *shape)
    pool = RowPool(x, torch.rand(6), [0, 6], names=["a"])
    assert torch.equal(pool.take(torch.tensor([[1, 3]])), x[[1, 3]][None])
    assert pool.input_shape == shape


def test_uint8_images_are_scaled_and_channels_first():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    images[0, 0, 0] = [0, 128, 255]
    pool = RowPool.from_tasks(images, np.arange(4), [0, 4], ["a"])
    index = torch.tensor([[0, 2], [3, 3]])
    taken = pool.take(index)
    assert pool.input_shape == (3, 5, 6) == taken.shape[2:]
    expected = images[index.numpy()].transpose(0, 1, 4, 2, 3).astype(np.float32) / 255
    np.testing.assert_array_equal(taken.numpy(), expected)
    assert taken[0, 0, :, 0, 0].tolist() == pytest.approx([0, 128 / 255, 1])
    flat = taken.flatten(0, 1)
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert pool.x.dtype == torch.uint8


def test_float_images_are_not_scaled():
    images = torch.rand(4, 5, 6, 1) * 9
    pool = RowPool(images, torch.arange(4), [0, 4], names=["a"])
    taken = pool.take(torch.tensor([2]))
    assert torch.equal(taken, images[2].permute(2, 0, 1)[None])


def test_rows_are_not_copied_unless_they_must_be():
    x = np.random.default_rng(0).random((4, 2), dtype=np.float32)
    pool = RowPool.from_tasks(x, np.zeros(4, dtype=np.float32), [0, 4], ["a"])
    assert np.shares_memory(pool.x.numpy(), x)
    x.setflags(write=False)
    frozen = RowPool.from_tasks(x[::-1], np.zeros(4, np.float32), [0, 4], ["a"])
    np.testing.assert_array_equal(frozen.x.numpy(), x[::-1])


@pytest.mark.filterwarnings("error")
def test_read_only_masks():
    mask = np.array([True, False])
    mask.setflags(write=False)
    pool = RowPool.from_tasks(torch.rand(2, 3), torch.rand(2), [0, 2], ["a"], mask)
    assert pool.support.tolist() == [True, False]


def test_class_pool():
    x = torch.rand(7, 2)
    pool = RowPool.from_classes(x, [0, 3, 5, 7], ["a", "b", "c"])
    assert pool.is_class_pool
    assert pool.n_tasks == 1
    assert pool.offsets.tolist() == [0, 7]
    assert pool.y.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert pool.names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"x": torch.ones(4, 2, dtype=torch.int64)}, TypeError, "x must be floating"),
        ({"x": torch.ones(4, 2, dtype=torch.uint8)}, TypeError, "Cast other rows"),
        ({"y": torch.ones(4, dtype=torch.int32)}, TypeError, "int64 or floating"),
        ({"y": torch.ones(3)}, ValueError, "4 rows and y has 3"),
        ({"offsets": [0, 3]}, ValueError, "from 0 to the number of rows, 4"),
        ({"offsets": [1, 4]}, ValueError, "from 0 to the number of rows, 4"),
        ({"offsets": [0, 3, 2, 4]}, ValueError, "from 0 to the number of rows, 4"),
        ({"offsets": [0]}, ValueError, "n_tasks \\+ 1"),
        ({"names": ["a", "b"]}, ValueError, "2 names for 1 tasks"),
        ({"support": [True]}, ValueError, "support must be of shape \\(4,\\)"),
    ],
)
def test_refusals(changes, error, match):
    arguments = {
        "x": torch.rand(4, 2),
        "y": torch.rand(4),
        "offsets": [0, 4],
        "names": ["a"],
        "support": None,
    }
    with pytest.raises(error, match=match):
        RowPool.from_tasks(**(arguments | changes))


@pytest.mark.parametrize(
    ("offsets", "names", "match"),
    [
        ([0, 3], ["a"], "number of rows, 4"),
        ([0, 3, 2, 4], ["a", "b", "c"], "number of rows, 4"),
        ([0, 4], ["a", "b"], "2 names for 1 classes"),
    ],
)
def test_class_pool_refusals(offsets, names, match):
    with pytest.raises(ValueError, match=match):
        RowPool.from_classes(torch.rand(4, 2), offsets, names)
