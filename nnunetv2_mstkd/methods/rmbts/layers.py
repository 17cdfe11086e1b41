"""Layers of RMBTS (network_ops of the released code): reflection everywhere, its own initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_instancenorm,
)
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.upsampling import repeat_nearest

_SLOPE = 0.2
_NORM_EPS = 1e-6
_ADAPTIVE_NORM_EPS = 1e-5
_KERNEL_SPREAD = 0.01
# A normal distribution cut off at two standard deviations keeps this share of its own.
_CUT_OFF = 2
_SPREAD_LEFT = 0.87962566


def conv(
    dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
) -> nn.Module:
    """Convolution that reflects its input by (kernel - 1) // 2 voxels at both ends of every axis.

    Args:
        dims: 2 or 3.
        in_channels, out_channels, kernel_size, stride: as PyTorch has them.
    """
    per_axis = (kernel_size,) * dims if isinstance(kernel_size, int) else tuple(kernel_size)
    strides = stride if isinstance(stride, int) else tuple(stride)
    padding = tuple((k - 1) // 2 for k in per_axis)
    # Without padding any mode is zeros; PyTorch would copy the map for the others.
    mode = "reflect" if any(padding) else "zeros"
    layer = convert_dim_to_conv_op(dims)(
        in_channels, out_channels, per_axis, strides, padding, padding_mode=mode
    )
    _truncated_normal(layer.weight, _KERNEL_SPREAD)
    # As released: no initialiser is named for biases, and TensorFlow falls back to Glorot's for a vector.
    bound = sqrt(3 / out_channels)
    nn.init.uniform_(layer.bias, -bound, bound)
    return layer


def dense(in_features: int, out_features: int) -> nn.Linear:
    """Dense layer with He's initialisation (variance 2 / fan-in, cut off) and biases of 0."""
    layer = nn.Linear(in_features, out_features)
    _truncated_normal(layer.weight, sqrt(2 / in_features) / _SPREAD_LEFT)
    nn.init.zeros_(layer.bias)
    return layer


class NormedConv(nn.Module):
    """Convolution and instance norm with gain and shift: (B, C, ...) → (B, C', ...)."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        self.conv = conv(dims, in_channels, out_channels, kernel_size, stride)
        self.norm = get_matching_instancenorm(dimension=dims)(out_channels, eps=_NORM_EPS, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class ConvUnit(NormedConv):
    """Convolution, instance norm, leaky ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        # In place: the norm's gradient needs its input alone.
        return F.leaky_relu_(super().forward(x), _SLOPE)


def repeat_voxels(x: Tensor, stride: Sequence[int]) -> Tensor:
    """(B, C, ...) with every voxel repeated ``stride`` times along each axis."""
    if all(s == 1 for s in stride):
        return x
    return repeat_nearest(x, [n * s for n, s in zip(x.shape[2:], stride, strict=True)])


def adaptive_norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Instance norm with each sample's own gain and shift (AdaIN), in float32.

    Args:
        x: (B, C, ...).
        gain: (B, C).
        shift: (B, C).
    """
    voxel = [1] * (x.ndim - 2)
    normed = F.instance_norm(x.float(), eps=_ADAPTIVE_NORM_EPS)
    return normed * gain.unflatten(1, (-1, *voxel)) + shift.unflatten(1, (-1, *voxel))


def _truncated_normal(weight: Tensor, spread: float) -> None:
    nn.init.trunc_normal_(weight, std=spread, a=-_CUT_OFF * spread, b=_CUT_OFF * spread)
