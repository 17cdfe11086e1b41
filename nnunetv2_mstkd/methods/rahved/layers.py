"""Layers that RA-HVED's network is made of."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_instancenorm,
)
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_mstkd.architectures.without_gradients import in_fastest_layout, normalised

_SLOPE = 0.01
_LINEAR = {4: "bilinear", 5: "trilinear"}  # by the number of a tensor's axes


def make_conv(
    dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    stride: int | Sequence[int] = 1,
    groups: int = 1,
    bias: bool = True,
) -> _ConvNd:
    """Convolution that maps an axis of n voxels to ceil(n / stride); the kernel size is odd.

    Initialised as released: weights Kaiming normal (fan-in, gain √2), biases standard normal.
    """
    stride = stride if isinstance(stride, int) else tuple(int(s) for s in stride)
    conv_op = convert_dim_to_conv_op(dims)
    conv = conv_op(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias)
    return initialised(conv)


def initialised(conv: _ConvNd) -> _ConvNd:
    """The convolution with the released initial weights: Kaiming normal (fan-in, gain √2), biases N(0, 1)."""
    nn.init.kaiming_normal_(conv.weight)
    if conv.bias is not None:
        nn.init.normal_(conv.bias)
    return conv


class NormActivation(nn.Module):
    """Instance norm without weights, then leaky ReLU (0.01): (B, C, ...) → the same.

    Args:
        dims: 2 or 3.
        channels: C.
        overwrite: what comes in may be overwritten where no gradient is asked for.
    """

    def __init__(self, dims: int, channels: int, overwrite: bool = False) -> None:
        super().__init__()
        self.norm = get_matching_instancenorm(dimension=dims)(channels)
        self.overwrite = overwrite

    def forward(self, x: Tensor) -> Tensor:
        if prod(x.shape[2:]) == 1:
            return x - x  # PyTorch refuses to norm a single voxel, which differs from its mean by nothing
        # In place: the norm's gradient needs its input alone.
        return F.leaky_relu_(normalised(self.norm, x, overwrite=self.overwrite), _SLOPE)


class NormedConv(nn.Module):
    """Norm, activation, 3×3×3 convolution: (B, C, ...) → (B, C', ceil(n / stride), ...)."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        stride: int | Sequence[int] = 1,
        overwrite: bool = False,
    ) -> None:
        super().__init__()
        self.prepare = NormActivation(dims, in_channels, overwrite)
        self.conv = make_conv(dims, in_channels, out_channels, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(in_fastest_layout(self.prepare(x)))


class DoubleConv(nn.Module):
    """Two :class:`NormedConv`: (B, C, ...) → (B, C', ...).

    Args:
        dims: 2 or 3.
        in_channels: C.
        inner_channels: between the two.
        out_channels: C'.
        overwrite: what comes in may be overwritten where no gradient is asked for.
    """

    def __init__(
        self, dims: int, in_channels: int, inner_channels: int, out_channels: int, overwrite: bool = False
    ) -> None:
        super().__init__()
        self.first = NormedConv(dims, in_channels, inner_channels, overwrite=overwrite)
        self.second = NormedConv(dims, inner_channels, out_channels, overwrite=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Stem(nn.Module):
    """Image of one modality → C maps, normalised and activated: (B, 1, ...) → (B, C, ...).

    As released: a 1×1×1 convolution, dropout of whole maps, norm, activation. The convolution sees one
    channel, so before the norm a map is w·x + b, and behind it (x - mean) · w / √(w²·variance + eps): the
    norm takes b away, and of w all but its sign and what eps leaves. That is what is computed, without the
    maps before the norm, and without the digits that b costs.

    Args:
        dims: 2 or 3.
        channels: C.
        dropout: probability of a map.
    """

    def __init__(self, dims: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.conv = make_conv(dims, 1, channels, kernel_size=1)
        self.norm = get_matching_instancenorm(dimension=dims)(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Tensor) -> Tensor:
        image = image.to(torch.promote_types(image.dtype, torch.float32))  # a variance is beyond 16 bits
        axes = tuple(range(2, image.ndim))
        variance, mean = torch.var_mean(image, axes, correction=0, keepdim=True)
        weight = self.conv.weight.view(1, -1, *[1] * len(axes))
        assert self.conv.bias is not None
        # Without influence, but DDP waits for its gradient.
        weight = weight + 0 * self.conv.bias.view_as(weight)
        weight = weight * self.dropout(torch.ones_like(weight).expand(len(image), *weight.shape[1:]))
        scale = weight / (weight.square() * variance + self.norm.eps).sqrt()
        return F.leaky_relu_((image - mean) * scale, _SLOPE)


class FirstLevel(nn.Module):
    """Finest level of an encoder: image (B, 1, ...) → (B, C, ...), by a stem and two convolutions.

    Args:
        dims: 2 or 3.
        channels: C.
        dropout: probability of a map of the stem.
    """

    def __init__(self, dims: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.stem = Stem(dims, channels, dropout)
        self.first = make_conv(dims, channels, channels)
        self.second = NormedConv(dims, channels, channels, overwrite=True)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(self.first(in_fastest_layout(self.stem(image))))


def upsample(x: Tensor, stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """(B, C, ...) interpolated linearly by ``stride`` (corners not aligned), cropped at the end to ``size``.

    The crop undoes the rounding up of strided layers: voxels stay where they were.
    """
    if any(s > 1 for s in stride):
        x = F.interpolate(in_fastest_layout(x), scale_factor=[float(s) for s in stride], mode=_LINEAR[x.ndim])
    x = in_fastest_layout(x)  # a map that was too small for it may be large enough now
    for axis, n in enumerate(size, start=2):
        x = x.narrow(axis, 0, n)
    return x
