"""What is said of rows that a backbone is not made for."""

import pytest
import torch
from torch import nn

from sklmeta.backbones.build import feature_size
from sklmeta.backbones.shapes import shape_hint


def images(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *layers)


@pytest.mark.parametrize(
    ("module", "shape", "parts"),
    [
        (
            nn.Sequential(nn.ReLU(), nn.Linear(5, 2)),
            (3,),
            ["'1' (Linear)", "(5,)", "(3,)", "torch.nn.Linear(3, 5)"],
        ),
        (
            images(nn.Flatten()),
            (1, 8, 9),
            ["'0' (Conv2d)", "(3, height, width)", "(1, 8, 9)"],
        ),
        (images(nn.Flatten()), (1, 8, 9), ["np.repeat(X.reshape(len(X), 8, 9, 1), 3"]),
        (nn.Conv2d(1, 2, 3), (3, 8, 8), ["(1, height, width)", "X.mean(-1)"]),
        (nn.Conv2d(4, 2, 3), (3, 8, 8), ["torch.nn.Conv2d(3, 4, 1)"]),
        (images(), (192,), ["(3, height, width)", "(192,)", "image_shape="]),
        (
            images(nn.Flatten(), nn.Linear(4 * 30 * 30, 2)),
            (3, 28, 28),
            ["'3' (Linear)", "3600", "2704", "(28, 28)", "Upsample", "AdaptiveAvgPool"],
        ),
        (images(nn.AvgPool2d(9), nn.Flatten()), (3, 8, 8), ["too small", "Resize"]),
        (nn.Linear(192, 2), (3, 8, 8), ["(192,)", "(3, 8, 8)", "torch.nn.Flatten()"]),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(784, 2)),
            (1, 8, 8),
            ["(784,)", "(1, 8, 8), 64 values", "Resize"],
        ),
    ],
)
def test_both_shapes_and_a_remedy(module, shape, parts):
    with pytest.raises(ValueError, match="fails on a batch of shape") as caught:
        feature_size(module, shape)
    for part in parts:
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, Exception)


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        raise RuntimeError("of another kind")


@pytest.mark.parametrize("module", [Failing(), nn.LayerNorm(4), nn.Bilinear(2, 2, 2)])
def test_nothing_is_claimed_where_layers_do_not_tell(module):
    assert shape_hint(module, torch.zeros(2, 3)) == ""
    with pytest.raises(ValueError, match=r"two rows of shape \(3,\)\. \w+Error: "):
        feature_size(module, (3,))


def test_shapes_of_no_table_and_no_image_are_left_alone():
    assert shape_hint(nn.Linear(4, 2), torch.zeros(2, 3, 5)) == ""
