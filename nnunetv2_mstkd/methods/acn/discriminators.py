"""ACN's two discriminators: one for entropy maps of the segmentation, one for bottleneck features."""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2_mstkd.architectures.discriminators import PatchDiscriminator


def entropy_discriminator(
    num_classes: int, patch_size: Sequence[int], base_features: int = 64
) -> PatchDiscriminator:
    """Judges entropy maps (B, K, *patch), see :func:`entropy_map`; 11,060,161 parameters as released.

    Five strided convolutions. Released name: ``d_main``.

    Args:
        num_classes: K, heads of the segmentation.
        patch_size: voxels per axis.
        base_features: width of the first convolution; the next three double it.
    """
    widths = [base_features * 2**layer for layer in range(4)]
    return PatchDiscriminator(num_classes, patch_size, widths, strides=[2] * 5, kernel_size=4)


def feature_discriminator(channels: int, bottleneck_size: Sequence[int]) -> PatchDiscriminator:
    """Judges bottleneck features (B, C, *bottleneck); 4,438,273 parameters as released (``d_feature``).

    Args:
        channels: C, ``bottleneck_channels`` of the network.
        bottleneck_size: voxels per axis.
    """
    widths = [2 * channels, 4 * channels]
    return PatchDiscriminator(channels, bottleneck_size, widths, strides=[1, 1, 2], kernel_size=3)
