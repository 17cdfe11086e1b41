"""Convolutional decoder: additive skip connections, one segmentation head per stage."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nnunetv2_mstkd.architectures.blocks import Layers, ResidualBlock
from nnunetv2_mstkd.architectures.upsampling import repeat_nearest


class DecoderStage(nn.Module):
    """1×1 convolution to the skip's channels, nearest upsampling to its size, sum, residual block."""

    def __init__(self, layers: Layers, in_channels: int, channels: int, kernel_size: Sequence[int]) -> None:
        super().__init__()
        self.reduce = layers.conv(in_channels, channels, kernel_size=1)
        self.block = ResidualBlock(layers, channels, kernel_size)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        # Channels are reduced first: at low resolution that costs an eighth.
        upsampled = repeat_nearest(self.reduce(x), skip.shape[2:])
        return self.block(upsampled.add_(skip))  # in place, as in the residual block


class Decoder(nn.Module):
    """Decoder of MST-KDNet (``up4conva`` to ``up1conv`` in its released code), with deep supervision.

    Heads are in the order of computation (lowest resolution first) as in dynamic_network_architectures, and
    exist whether or not deep supervision is on, so that weights always load.

    Args:
        layers: what to build it from.
        features: channels per encoder stage.
        kernel_sizes: per encoder stage and axis.
        num_classes: channels of the logits.
        n_heads: segmentation heads, on the stages of highest resolution.
        deep_supervision: return every head's logits; may be set later.
    """

    def __init__(
        self,
        layers: Layers,
        features: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        num_classes: int,
        n_heads: int,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.deep_supervision = deep_supervision
        upwards = range(len(features) - 2, -1, -1)
        self.stages = nn.ModuleList(
            DecoderStage(layers, features[s + 1], features[s], kernel_sizes[s]) for s in upwards
        )
        self.seg_layers = nn.ModuleList(
            layers.conv_op(features[s], num_classes, kernel_size=1) for s in upwards[-n_heads:]
        )
        if not deep_supervision:
            # They would get no gradient, and DDP waits for every parameter that asks for one.
            self.seg_layers[:-1].requires_grad_(False)

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> Tensor | list[Tensor]:
        """Logits (B, K, ...) from the bottleneck (B, C, ...) and skips, highest resolution first.

        Returns:
            Logits at full resolution; with deep supervision a list of every head's, full resolution first.
        """
        features = []
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = stage(x, skip)
            features.append(x)
        if not self.deep_supervision:
            return self.seg_layers[-1](x)
        headed = features[-len(self.seg_layers) :]
        return [head(f) for head, f in zip(self.seg_layers, headed, strict=True)][::-1]
