"""The default backbone for images: the four-block network of the few-shot papers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sklmeta.backbones.initialization import make_conv, new_generator
from sklmeta.backbones.normalization import TaskBatchNorm

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """Blocks of 3x3 convolution, batch normalisation, halving and ReLU [1]_ [2]_.

    Parameters
    ----------
    input_shape : tuple of int of shape (3,)
        Channels, height and width of an image.
    width : int, default=64
        Number of filters of each block.
    n_blocks : int, default=4
        Number of blocks.
    downsample : {"pool", "stride"}, default="pool"
        How a block halves its images: 2x2 max-pooling, or a convolution of stride 2,
        which takes about a quarter of the operations. Images one pixel high or wide
        are halved no further, so that four blocks also fit 8x8 images.
    n_halvings : int, default=None
        How many of the first blocks halve their images; None for all.
    generator : torch.Generator, default=None
        Where the weights are drawn from, by the distribution of `torch.nn.Conv2d`;
        None draws different ones every time. The global generator is left alone.

    Attributes
    ----------
    out_features : int
        Number of features that come out.
    map_shape : tuple of int of shape (3,)
        Channels, height and width of the image whose pixels the features are.

    Raises
    ------
    ValueError
        If `input_shape` is no image's, a count is below 1 (`n_halvings`: 0), or
        `downsample` unknown.

    Notes
    -----
    Convolutions have no bias: normalisation would subtract it again. The ReLU comes
    after the pooling, with the same values and gradients as before it, on a quarter of
    the pixels. What remains of the image is flattened; MAML's code averages it instead
    for Omniglot with strides.

    References
    ----------
    .. [1] O. Vinyals et al., "Matching networks for one shot learning", 2016,
       arXiv:1606.04080.
    .. [2] C. Finn, P. Abbeel, S. Levine, "Model-agnostic meta-learning for fast
       adaptation of deep networks", 2017, arXiv:1703.03400.

    Examples
    --------
    >>> import torch
    >>> from sklmeta.backbones import ConvNet
    >>> backbone = ConvNet((1, 28, 28), generator=torch.Generator().manual_seed(0))
    >>> backbone(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 64])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        width: int = 64,
        n_blocks: int = 4,
        downsample: str = "pool",
        *,
        n_halvings: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        n_halvings = n_blocks if n_halvings is None else n_halvings
        _check_parameters(input_shape, width, n_blocks, downsample, n_halvings)
        generator = new_generator() if generator is None else generator
        channels, *sides = input_shape
        blocks = []
        for block in range(n_blocks):
            halve = block < n_halvings and min(sides) >= 2
            blocks.append(_block(channels, width, downsample, halve, generator))
            if halve:
                # A padded filter of stride 2 also visits the last column of odd sides.
                sides = [(s + (downsample == "stride")) // 2 for s in sides]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.map_shape = (width, sides[0], sides[1])
        self.out_features = width * sides[0] * sides[1]

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, C, H, W) to features (n, out_features)."""
        return self.blocks(x).flatten(1)


def _block(
    n_in: int, n_out: int, downsample: str, halve: bool, generator: torch.Generator
) -> nn.Sequential:
    stride = 2 if halve and downsample == "stride" else 1
    conv = make_conv(n_in, n_out, stride=stride, bias=False, generator=generator)
    layers: list[nn.Module] = [conv, TaskBatchNorm(n_out)]
    if halve and downsample == "pool":
        layers.append(nn.MaxPool2d(2))
    return _Block(*layers, nn.ReLU())


class _Block(nn.Sequential):
    """A block whose layers after the convolution are one operation where they can."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, C, H, W) to images."""
        if not self._is_plain():
            return super().forward(x)
        conv, norm, *pooling = list(self)[:-1]
        assert isinstance(norm, TaskBatchNorm)
        return norm.pooled_and_cut(conv(x), pool=bool(pooling))

    def _is_plain(self) -> bool:
        """Say whether the layers after the convolution are those of the start."""
        kinds = [type(layer) for layer in self][1:]
        return kinds in _FUSED and not any(_is_hooked(layer) for layer in self)


def _is_hooked(layer: nn.Module) -> bool:
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks
    return any(hooks) or "forward" in vars(layer)


_FUSED = ([TaskBatchNorm, nn.MaxPool2d, nn.ReLU], [TaskBatchNorm, nn.ReLU])


def _check_parameters(
    input_shape: Sequence[int],
    width: int,
    n_blocks: int,
    downsample: str,
    n_halvings: int,
) -> None:
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(
            "ConvNet takes images of shape (channels, height, width), got input_shape="
            f"{tuple(input_shape)!r}."
        )
    if width < 1 or n_blocks < 1:
        raise ValueError(
            "ConvNet needs at least one filter and one block, got "
            f"width={width!r} and n_blocks={n_blocks!r}."
        )
    if n_halvings < 0:
        raise ValueError(f"n_halvings must be 0 or more, got {n_halvings!r}.")
    if downsample not in ("pool", "stride"):
        raise ValueError(f"downsample must be 'pool' or 'stride', got {downsample!r}.")
