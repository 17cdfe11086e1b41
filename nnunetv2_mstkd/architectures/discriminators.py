"""Discriminators that tell what a full input gives from what an incomplete one gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.foreign_weights import load_foreign

_OFFICIAL_CHANNELS = 128
_OFFICIAL_SIZE = (20, 24, 16)
# A 4-wide kernel with stride 2 leaves an axis at least two positions from here on.
_MIN_STRIDED = 4
_UNSTRIDED_KERNEL = 3


class StyleDiscriminator(nn.Module):
    """Strided convolutions with LeakyReLU, then one over all that is left, as MST-KDNet's.

    Up to three strided convolutions (kernel 4, stride 2, width doubling), as long as an axis is large enough;
    an axis that is not keeps its size (kernel 3, stride 1).

    Args:
        input_channels: of the style features.
        spatial_size: their voxels per axis, 2D or 3D.
        base_features: width of the first convolution.
        strided_layers: strided convolutions at most.
        negative_slope: of the LeakyReLU.
    """

    def __init__(
        self,
        input_channels: int,
        spatial_size: Sequence[int],
        base_features: int = 64,
        strided_layers: int = 3,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        conv_op = convert_dim_to_conv_op(len(spatial_size))
        size, channels = list(spatial_size), input_channels
        layers: list[nn.Module] = []
        for layer in range(strided_layers):
            strided = [n >= _MIN_STRIDED for n in size]
            if not any(strided):
                break
            kernel, stride = [4 if s else 3 for s in strided], [2 if s else 1 for s in strided]
            width = base_features * 2**layer
            layers += [
                conv_op(channels, width, kernel, stride, padding=1),
                nn.LeakyReLU(negative_slope, inplace=True),
            ]
            size = [n // 2 if s else n for n, s in zip(size, strided, strict=True)]
            channels = width
        self.layers = nn.Sequential(*layers, conv_op(channels, 1, size))

    @classmethod
    def official(cls) -> StyleDiscriminator:
        """The published discriminator: 3,149,249 parameters, for style features (B, 128, 20, 24, 16)."""
        return cls(_OFFICIAL_CHANNELS, _OFFICIAL_SIZE)

    def forward(self, style: Tensor) -> Tensor:
        """One logit per sample: (B, C, *spatial_size) → (B, 1, 1, 1, 1), in 2D (B, 1, 1, 1)."""
        return self.layers(style)

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the authors' discriminator, in its keys.

        Raises:
            MSTKDError: keys or shapes differ; names them.
        """
        load_foreign(self, {key: key.removeprefix("layers.") for key in self.state_dict()}, state_dict)


def judged(discriminator: nn.Module, features: Tensor) -> Tensor:
    """What a discriminator makes of features, in float32; gradients reach the features, never its weights."""
    features = features.float()
    parameters = {name: p.detach() for name, p in discriminator.named_parameters()}
    with torch.autocast(features.device.type, enabled=False):
        return torch.func.functional_call(discriminator, parameters, (features,))


class PatchDiscriminator(nn.Module):
    """Convolutions with LeakyReLU between them that judge an input part by part, as both of ACN's.

    An axis of which one voxel is left keeps it (kernel 3, stride 1).

    Args:
        input_channels: of the maps to judge.
        spatial_size: their voxels per axis, 2D or 3D; larger ones can be judged too.
        widths: output channels of every convolution but the last, which gives the logits.
        strides: of every convolution, so one more than ``widths``.
        kernel_size: 3, or 4 if all strides are 2.
        negative_slope: of the LeakyReLU.
    """

    def __init__(
        self,
        input_channels: int,
        spatial_size: Sequence[int],
        widths: Sequence[int],
        strides: Sequence[int],
        kernel_size: int,
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        conv_op = convert_dim_to_conv_op(len(spatial_size))
        size, channels = list(spatial_size), input_channels
        layers: list[nn.Module] = []
        for width, stride in zip((*widths, 1), strides, strict=True):
            kernels = [kernel_size if n > 1 else _UNSTRIDED_KERNEL for n in size]
            steps = [stride if n > 1 else 1 for n in size]
            layers += [
                conv_op(channels, width, kernels, steps, padding=1),
                nn.LeakyReLU(negative_slope, inplace=True),
            ]
            size = [(n + 2 - k) // s + 1 for n, k, s in zip(size, kernels, steps, strict=True)]
            channels = width
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """A map of logits (B, 1, ...) from (B, C, ...)."""
        return self.layers(x)

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the authors' discriminator, in its keys.

        Raises:
            MSTKDError: keys or shapes differ; names them.
        """
        load_foreign(self, {key: key.removeprefix("layers.") for key in self.state_dict()}, state_dict)
