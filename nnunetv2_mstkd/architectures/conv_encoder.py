"""Convolutional encoder: strided convolutions, each followed by residual blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from nnunetv2_mstkd.architectures.blocks import Layers, residual_blocks
from nnunetv2_mstkd.architectures.without_gradients import in_fastest_layout


class EncoderFeatures(NamedTuple):
    """What the encoder hands on.

    Attributes:
        skips: output of every stage but the last, highest resolution first.
        second_last: output of the second-last stage's strided convolution, before its residual blocks.
        encoded: output of the last stage's strided convolution, (B, features[-1], *bottleneck).
    """

    skips: list[Tensor]
    second_last: Tensor
    encoded: Tensor


class EncoderStage(nn.Module):
    """One resolution: ``conv`` (strided; the stem in the first stage), then residual ``blocks``."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        n_blocks: int,
    ) -> None:
        super().__init__()
        self.conv = layers.conv(in_channels, channels, kernel_size, stride)
        self.blocks = residual_blocks(layers, n_blocks, channels, kernel_size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the convolution, and of the blocks behind it."""
        encoded = in_fastest_layout(self.conv(x))
        return encoded, self.blocks(encoded)


class Encoder(nn.Module):
    """Encoder of MST-KDNet (``conv1a`` to ``ds3`` in its released code).

    An axis of n voxels becomes ceil(n / stride). The last stage is its convolution alone: the tokens come
    between that and its residual blocks, so those belong to the network.

    Args:
        layers: what to build it from.
        input_channels: modalities.
        features: channels per stage.
        kernel_sizes: per stage and axis.
        strides: per stage and axis.
        n_blocks: residual blocks per stage but the last.
    """

    def __init__(
        self,
        layers: Layers,
        input_channels: int,
        features: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        n_blocks: Sequence[int],
    ) -> None:
        super().__init__()
        self.conv_op = layers.conv_op
        self.input_channels = input_channels
        self.output_channels = list(features)
        self.kernel_sizes = [list(k) for k in kernel_sizes]
        self.strides = [list(s) for s in strides]
        incoming = [input_channels, *features[:-1]]
        self.stages = nn.ModuleList(
            EncoderStage(layers, *of_stage)
            for of_stage in zip(incoming, features, kernel_sizes, strides, [*n_blocks, 0], strict=True)
        )

    def forward(self, x: Tensor) -> EncoderFeatures:
        skips: list[Tensor] = []
        encoded = x
        for stage in self.stages:
            # Where the input was too small for it, the first maps may not be.
            second_last = encoded
            encoded, x = stage(x)
            skips.append(x)
        return EncoderFeatures(skips[:-1], second_last, encoded)
