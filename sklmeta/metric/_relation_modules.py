"""Modules that score how well rows match classes, by the features of both.

Their first layer is linear in features of class and row side by side, which makes it a
sum of two: one for every class and one for every row, added for each pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sklmeta.backbones.initialization import make_conv, make_linear, new_generator
from sklmeta.backbones.normalization import TaskBatchNorm

__all__ = ["ConvRelation", "DenseRelation", "make_relation"]

N_HIDDEN = 8  # units before the score, behind convolutions


def make_relation(
    shape: Sequence[int], width: int, generator: torch.Generator | None
) -> ConvRelation | DenseRelation:
    """Return the module for features that are a vector, or an image of three sides."""
    generator = new_generator() if generator is None else generator
    kind = DenseRelation if len(shape) == 1 else ConvRelation
    return kind(shape, width, generator)


class _Relation(nn.Module):
    """Scores pairs of a class and a row.

    `values_per_pair` come out of the first layer.
    """

    values_per_pair: int

    def forward(self, classes: Tensor, rows: Tensor) -> Tensor:
        """Return logits of scores.

        Parameters
        ----------
        classes : Tensor of shape (..., N, n_features)
        rows : Tensor of shape (..., Q, n_features)

        Returns
        -------
        Tensor of shape (..., Q, N)
        """
        own, others = self.of_rows(rows), self.of_classes(classes)
        n_lead = rows.dim() - 1
        pairs = own.unsqueeze(n_lead) + others.unsqueeze(n_lead - 1)
        logits = self.of_pairs(pairs.flatten(0, n_lead))
        return logits.view(pairs.shape[: n_lead + 1])

    def of_classes(self, features: Tensor) -> Tensor:
        """Return the share of classes in the first layer."""
        raise NotImplementedError

    def of_rows(self, features: Tensor) -> Tensor:
        """Return the share of rows in the first layer."""
        raise NotImplementedError

    def of_pairs(self, pairs: Tensor) -> Tensor:
        """Return a logit (n, 1) for what the first layer makes of pairs (n, ...)."""
        raise NotImplementedError


class DenseRelation(_Relation):
    """Two hidden layers on vectors.

    Parameters
    ----------
    shape : sequence of int of shape (1,)
        Number of features of a row.
    width : int
        Hidden units of each layer.
    generator : torch.Generator
        Where the weights are drawn from.
    """

    def __init__(
        self, shape: Sequence[int], width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        (n_features,) = shape
        self.first = make_linear(2 * n_features, width, generator=generator)
        self.second = make_linear(width, width, generator=generator)
        self.score = make_linear(width, 1, generator=generator)
        self.values_per_pair = width

    def of_classes(self, features: Tensor) -> Tensor:
        """Return the share of classes, (..., N, width)."""
        return features @ self.first.weight[:, : features.shape[-1]].T

    def of_rows(self, features: Tensor) -> Tensor:
        """Return the share of rows, (..., Q, width)."""
        weight = self.first.weight[:, features.shape[-1] :]
        return features @ weight.T + self.first.bias

    def of_pairs(self, pairs: Tensor) -> Tensor:
        """Return a logit (n, 1) for what the first layer makes of pairs (n, width)."""
        return self.score(self.second(pairs.relu()).relu())


class ConvRelation(_Relation):
    """Two blocks of convolution and two dense layers on images, as in the paper.

    Parameters
    ----------
    shape : sequence of int of shape (3,)
        Channels, height and width of an image.
    width : int
        Filters of each block.
    generator : torch.Generator
        Where the weights are drawn from.
    """

    def __init__(
        self, shape: Sequence[int], width: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels, *sides = shape
        self.map_shape = tuple(shape)
        # Both halves of one convolution on 2 C channels, normalised together.
        self.first_of_classes = make_conv(
            channels, width, bias=False, generator=generator
        )
        self.first_of_rows = make_conv(channels, width, bias=False, generator=generator)
        self.first_norm = TaskBatchNorm(width)
        self.second = make_conv(width, width, bias=False, generator=generator)
        self.second_norm = TaskBatchNorm(width)
        self.values_per_pair = width * sides[0] * sides[1]
        self.halves = []
        for _ in range(2):
            self.halves.append(min(sides) >= 2)
            sides = [side // 2 if self.halves[-1] else side for side in sides]
        n_pixels = width * sides[0] * sides[1]
        self.hidden = make_linear(n_pixels, N_HIDDEN, generator=generator)
        self.score = make_linear(N_HIDDEN, 1, generator=generator)

    def of_classes(self, features: Tensor) -> Tensor:
        """Return the share of classes, (..., N, width, H, W)."""
        return self._convolved(self.first_of_classes, features)

    def of_rows(self, features: Tensor) -> Tensor:
        """Return the share of rows, (..., Q, width, H, W)."""
        return self._convolved(self.first_of_rows, features)

    def of_pairs(self, pairs: Tensor) -> Tensor:
        """Return a logit (n, 1) for what the first layer makes of pairs."""
        x = self.first_norm.pooled_and_cut(pairs, pool=self.halves[0])
        x = self.second_norm.pooled_and_cut(self.second(x), pool=self.halves[1])
        return self.score(self.hidden(x.flatten(1)).relu())

    def _convolved(self, layer: nn.Module, features: Tensor) -> Tensor:
        images = features.reshape(-1, *self.map_shape)
        return layer(images).unflatten(0, features.shape[:-1])
