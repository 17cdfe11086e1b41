"""What RMBTS learns with beside the segmentation: each image again, from its style and the common content."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.methods.rmbts.layers import adaptive_norm, conv, dense, repeat_voxels

_RESIDUAL_BLOCKS = 4
_LAYER_NORM_EPS = 1e-12


class Reconstructed(NamedTuple):
    """Images from style and content, M of them.

    Attributes:
        reconstructions: (B, M, ...).
        styles: codes (B, M, F).
        gains: of every adaptive norm of the modality's decoder (B, M, C); "mu" in the released code.
        shifts: likewise; "sigma" there.
    """

    reconstructions: Tensor
    styles: Tensor
    gains: Tensor
    shifts: Tensor


class Reconstruction(nn.Module):
    """A style encoder and an image decoder per modality.

    The last convolution is one for all modalities, as in the released code, where it stands outside the
    decoder's scope.

    Args:
        dims: 2 or 3.
        modalities: M.
        widths: channels of the content per level; the content decoded is the last.
        strides: per level and axis.
        style_features: length F of a style code.
    """

    def __init__(
        self,
        dims: int,
        modalities: int,
        widths: Sequence[int],
        strides: Sequence[Sequence[int]],
        style_features: int,
    ) -> None:
        super().__init__()
        self.style_encoders = nn.ModuleList(
            StyleEncoder(dims, widths, strides, style_features) for _ in range(modalities)
        )
        self.decoders = nn.ModuleList(
            ImageDecoder(dims, widths, strides, style_features) for _ in range(modalities)
        )
        self.head = conv(dims, widths[0], 1, kernel_size=7)

    def forward(self, x: Tensor, content: Tensor) -> Reconstructed:
        """All images again.

        Args:
            x: images (B, M, ...).
            content: fused features (B, C, ...) of the coarsest level.
        """
        each = []
        for image, encode, decode in zip(x.split(1, dim=1), self.style_encoders, self.decoders, strict=True):
            style = encode(image)
            features, gain, shift = decode(content, style)
            each.append((self.head(features), style, gain, shift))
        images, *codes = zip(*each, strict=True)
        return Reconstructed(torch.cat(images, dim=1), *(torch.stack(of_all, dim=1) for of_all in codes))


class StyleEncoder(nn.Module):
    """Style code (B, F) of one modality's image (B, 1, ...): convolutions without norm, mean over space.

    It goes one step coarser than the content encoder, with the stride of the last level.
    """

    def __init__(
        self, dims: int, content_widths: Sequence[int], strides: Sequence[Sequence[int]], features: int
    ) -> None:
        super().__init__()
        steps = [*strides[1:], [min(s, 2) for s in strides[-1]]]
        widths = [min(2 * content_widths[0] * 2**i, content_widths[-1]) for i in range(len(strides) + 1)]
        first = conv(dims, 1, widths[0], kernel_size=7)
        # Kernels of 4 where an axis is halved, of 3 where it is kept: n voxels become floor(n / stride).
        others = (
            conv(dims, *channels, [s + 2 for s in step], step)
            for channels, step in zip(pairwise(widths), steps, strict=True)
        )
        self.convs = nn.ModuleList([first, *others])
        self.code = conv(dims, widths[-1], features, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for layer in self.convs:
            x = layer(x).relu_()
        return self.code(x.flatten(2).mean(2).unflatten(1, (-1, *[1] * (x.ndim - 2)))).flatten(1)


class Modulation(nn.Module):
    """Gain and shift, (B, C) each, from a style code (B, F).

    In float32: the divergence's gradient is 1 / shift, which is beyond 16 bits.
    """

    def __init__(self, style_features: int, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            dense(style_features, channels), nn.ReLU(), dense(channels, channels), nn.ReLU()
        )
        self.gain = dense(channels, channels)
        self.shift = dense(channels, channels)

    def forward(self, style: Tensor) -> tuple[Tensor, Tensor]:
        device = "cpu" if style.is_meta else style.device.type  # tensors without storage know no autocast
        with torch.autocast(device, enabled=False):
            hidden = self.hidden(style.float())
            return self.gain(hidden), self.shift(hidden)


class AdaptiveBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), both norms with the gain and shift given: (B, C, ...)."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.first = conv(dims, channels, channels)
        self.second = conv(dims, channels, channels)

    def forward(self, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        y = adaptive_norm(self.first(x), gain, shift).relu_()
        return x + adaptive_norm(self.second(y), gain, shift)


class ImageDecoder(nn.Module):
    """Features (B, C_0, ...) of one modality's image from content (B, C_last, ...) and style code (B, F)."""

    def __init__(
        self, dims: int, widths: Sequence[int], strides: Sequence[Sequence[int]], style_features: int
    ) -> None:
        super().__init__()
        self.modulation = Modulation(style_features, widths[-1])
        self.blocks = nn.ModuleList(AdaptiveBlock(dims, widths[-1]) for _ in range(_RESIDUAL_BLOCKS))
        self.steps = nn.ModuleList(
            ImageStep(dims, coarse, fine, stride)
            for (fine, coarse), stride in zip(pairwise(widths), strides[1:], strict=True)
        )

    def forward(self, content: Tensor, style: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features, gain and shift."""
        gain, shift = self.modulation(style)
        x = content
        for block in self.blocks:
            x = block(x, gain, shift)
        for step in reversed(self.steps):
            x = step(x)
        return x, gain, shift


class ImageStep(nn.Module):
    """One level up: repeated voxels, 5×5×5 convolution, layer norm over channels and space, ReLU."""

    def __init__(self, dims: int, in_channels: int, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.conv = conv(dims, in_channels, channels, kernel_size=5)
        self.norm = nn.GroupNorm(1, channels, eps=_LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(repeat_voxels(x, self.stride))).relu_()
