"""The layers that a network is made of, and the pre-activation residual block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamic_network_architectures.building_blocks.helper import (
    convert_conv_op_to_dim,
    get_matching_convtransp,
    maybe_convert_scalar_to_list,
)
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.without_gradients import normalised
from nnunetv2_mstkd.errors import MSTKDError


@dataclass(frozen=True)
class Layers:
    """Which convolution, norm and nonlinearity a network uses; makes them.

    Attributes:
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        norm_op: any norm whose first argument is the number of channels, or ``nn.GroupNorm``.
        norm_op_kwargs: its keyword arguments (``num_groups`` for GroupNorm).
        nonlin: class of the nonlinearity.
        nonlin_kwargs: its keyword arguments.
        conv_bias: bias of the convolutions.
    """

    conv_op: type[nn.Module]
    norm_op: type[nn.Module]
    norm_op_kwargs: Mapping[str, Any] = field(default_factory=dict)
    nonlin: type[nn.Module] = nn.LeakyReLU
    nonlin_kwargs: Mapping[str, Any] = field(default_factory=dict)
    conv_bias: bool = True

    def __post_init__(self) -> None:
        if self.norm_op is None:
            # An in-place nonlinearity would then overwrite the input that a residual block adds.
            raise MSTKDError(
                "norm_op is None; MSTKDNet needs a norm layer, name one in the plans' arch_kwargs"
            )

    @property
    def dims(self) -> int:
        """2 or 3."""
        return convert_conv_op_to_dim(self.conv_op)

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
    ) -> nn.Module:
        """Convolution that maps an axis of n voxels to ceil(n / stride); kernel sizes are odd."""
        kernel = [int(k) for k in maybe_convert_scalar_to_list(self.conv_op, kernel_size)]
        strides = [int(s) for s in maybe_convert_scalar_to_list(self.conv_op, stride)]
        padding = [(k - 1) // 2 for k in kernel]
        return self.conv_op(in_channels, out_channels, kernel, strides, padding, bias=self.conv_bias)

    def transposed(self, in_channels: int, out_channels: int, stride: int | Sequence[int]) -> nn.Module:
        """Transposed convolution that maps an axis of n voxels to n · stride, without overlap."""
        strides = [int(s) for s in maybe_convert_scalar_to_list(self.conv_op, stride)]
        transposed_op = get_matching_convtransp(self.conv_op)
        return transposed_op(in_channels, out_channels, strides, strides, bias=self.conv_bias)

    def norm(self, channels: int) -> nn.Module:
        """Norm layer for ``channels`` channels."""
        if issubclass(self.norm_op, nn.GroupNorm):
            return self.norm_op(num_channels=channels, **self.norm_op_kwargs)
        return self.norm_op(channels, **self.norm_op_kwargs)

    def activation(self) -> nn.Module:
        """Nonlinearity."""
        return self.nonlin(**self.nonlin_kwargs)


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x))))): (B, C, ...) → (B, C, ...).

    Pre-activation residual block of MST-KDNet and of its ancestor SMU-Net (``conv1b`` in its released code).
    """

    def __init__(self, layers: Layers, channels: int, kernel_size: int | Sequence[int] = 3) -> None:
        super().__init__()
        self.norm1 = layers.norm(channels)
        self.conv1 = layers.conv(channels, channels, kernel_size)
        self.norm2 = layers.norm(channels)
        self.conv2 = layers.conv(channels, channels, kernel_size)
        self.nonlin = layers.activation()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(self.nonlin(normalised(self.norm1, x)))
        # In place: no gradient needs a convolution's output, and a new map costs memory and time.
        return self.conv2(self.nonlin(normalised(self.norm2, inner, overwrite=True))).add_(x)


def residual_blocks(
    layers: Layers, number: int, channels: int, kernel_size: int | Sequence[int]
) -> nn.Sequential:
    """``number`` residual blocks in a row; none is the identity."""
    return nn.Sequential(*(ResidualBlock(layers, channels, kernel_size) for _ in range(number)))
