"""The discriminator that tells style features of a full input from those of an incomplete one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.foreign_weights import load_foreign

_OFFICIAL_CHANNELS = 128
_OFFICIAL_SIZE = (20, 24, 16)
# A 4-wide kernel with stride 2 leaves an axis at least two positions from here on.
_MIN_STRIDED = 4


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
