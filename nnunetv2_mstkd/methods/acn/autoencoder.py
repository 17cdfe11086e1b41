"""ACN's variational branch: describes an image by a few numbers and reconstructs it from them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.blocks import Layers, ResidualBlock
from nnunetv2_mstkd.architectures.upsampling import repeat_nearest

_INTERPOLATION = {2: "bilinear", 3: "trilinear"}
_CODE_SHARE = 4  # bottleneck channels per number of the code


class Reconstruction(NamedTuple):
    """What the branch gives.

    Attributes:
        image: (B, M, *patch).
        mean: of the code, (B, D).
        log_variance: of the code, (B, D).
    """

    image: Tensor
    mean: Tensor
    log_variance: Tensor


class VariationalAutoencoder(nn.Module):
    """Myronenko's reconstruction branch as ACN has it (``vae_branch`` in its released code).

    The bottleneck is pooled to a code of D = C / 4 normally distributed numbers. A linear layer makes a grid
    of half the bottleneck's size of it, which grows to the image stage by stage. The code is sampled in
    training, and its mean in evaluation (released: sampled always).

    Args:
        layers: what to build it from.
        widths: channels of the U-Net's stages, finest first; C is the last.
        bottleneck_size: voxels per axis in training. The linear layer's weights belong to this size; for
            another the grid is interpolated.
        output_channels: of the reconstruction.
    """

    def __init__(
        self, layers: Layers, widths: Sequence[int], bottleneck_size: Sequence[int], output_channels: int
    ) -> None:
        super().__init__()
        channels, code = widths[-1], widths[-1] // _CODE_SHARE
        self.grid = _half(bottleneck_size)
        self.hidden = nn.Sequential(
            layers.norm(channels), layers.activation(), layers.conv(channels, 2 * code)
        )
        self.mean = nn.Linear(code, code)
        self.log_variance = nn.Linear(code, code)
        self.dense = nn.Linear(code, channels * prod(self.grid))
        self.enter = layers.conv(channels, channels, kernel_size=1)
        self.stages = nn.ModuleList(_GrowingStage(layers, *pair) for pair in pairwise(reversed(widths)))
        self.head = layers.conv(widths[0], output_channels, kernel_size=1)

    def forward(self, bottleneck: Tensor, sizes: Sequence[Sequence[int]]) -> Reconstruction:
        """Describe and reconstruct.

        Args:
            bottleneck: (B, C, *bottleneck).
            sizes: voxels per axis of the finer stages, finest first: the skips'.
        """
        mean, log_variance = self.describe(bottleneck)
        code = _sampled(mean, log_variance) if self.training else mean
        return Reconstruction(self.reconstruct(code, [*sizes, bottleneck.shape[2:]]), mean, log_variance)

    def describe(self, bottleneck: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code, each (B, D), in float32 at least."""
        hidden = self.hidden(bottleneck).flatten(2).mean(2)
        of_mean, of_variance = hidden.chunk(2, dim=1)
        return _at_least_float32(self.mean(of_mean)), _at_least_float32(self.log_variance(of_variance))

    def reconstruct(self, code: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
        """Image (B, M, *sizes[0]) from a code (B, D).

        Args:
            code: (B, D).
            sizes: voxels per axis of all stages, finest first, the bottleneck last.
        """
        x = self.dense(code).relu().unflatten(1, (-1, *self.grid))
        wanted = _half(sizes[-1])
        if wanted != self.grid:
            x = F.interpolate(x, size=wanted, mode=_INTERPOLATION[len(wanted)], align_corners=False)
        x = repeat_nearest(self.enter(x), sizes[-1])
        for stage, size in zip(self.stages, reversed(sizes[:-1]), strict=True):
            x = stage(x, size)
        return self.head(x)


class _GrowingStage(nn.Module):
    """Convolution, nearest upsampling, residual block."""

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = layers.conv(in_channels, channels)
        self.block = ResidualBlock(layers, channels)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return self.block(repeat_nearest(self.conv(x), size))


def _half(size: Sequence[int]) -> tuple[int, ...]:
    return tuple(ceil(n / 2) for n in size)


def _sampled(mean: Tensor, log_variance: Tensor) -> Tensor:
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
