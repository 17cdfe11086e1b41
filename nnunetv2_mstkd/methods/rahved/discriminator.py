"""The discriminator that tells a full pass's segmentation and images from those with modalities missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_instancenorm,
)
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_mstkd.architectures.foreign_weights import load_foreign
from nnunetv2_mstkd.methods.rahved.layers import initialised

_SLOPE = 0.2
_WIDEST = 8  # times the first width
# A kernel of 4 leaves an axis two positions at least from here on.
_SMALLEST = 4


class PassDiscriminator(nn.Module):
    """Four convolutions with leaky ReLU, all but the first normalised and strided, and one that judges.

    Kernels are 4 wide, strides 2 and widths doubling, as released; an axis that is too short keeps its size
    (kernel 3, stride 1). What it judges: :func:`~nnunetv2_mstkd.methods.rahved.losses.discriminator_input`.

    Args:
        input_channels: classes without background, and modalities.
        patch_size: voxels per axis, 2D or 3D.
        base_features: width of the first convolution.
        strided_layers: strided convolutions.
    """

    def __init__(
        self,
        input_channels: int,
        patch_size: Sequence[int],
        base_features: int = 64,
        strided_layers: int = 3,
    ) -> None:
        super().__init__()
        dims = len(patch_size)
        norm_op = get_matching_instancenorm(dimension=dims)
        size, channels = list(patch_size), input_channels
        self.layers = nn.ModuleList()
        for layer in range(1 + strided_layers):
            width = base_features * min(2**layer, _WIDEST)
            conv, size = _conv(channels, width, size, stride=2 if layer else 1, smallest=_SMALLEST)
            norm = [norm_op(width)] if layer else []
            self.layers.append(nn.Sequential(conv, *norm, nn.LeakyReLU(_SLOPE, inplace=True)))
            channels = width
        self.judge, _ = _conv(channels, 1, size, stride=1, smallest=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One number per place, 1 for full and 0 for missing: (B, C, *patch) → (B, 1, ...), not activated."""
        for layer in self.layers:
            x = layer(x)
        return self.judge(x)

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load weights in the keys of the authors' code, which never saves them.

        Raises:
            MSTKDError: keys or shapes differ; names them.
        """
        names = {key: key.replace("layers.", "disc.").replace("judge.", "last.") for key in self.state_dict()}
        load_foreign(self, names, state_dict)


def _conv(
    in_channels: int, out_channels: int, size: Sequence[int], stride: int, smallest: int, bias: bool = True
) -> tuple[_ConvNd, list[int]]:
    """A convolution, and the size that it leaves; padded by one, axes below ``smallest`` keep theirs."""
    long = [n >= smallest for n in size]
    kernels, strides = [4 if it else 3 for it in long], [stride if it else 1 for it in long]
    conv = convert_dim_to_conv_op(len(size))(in_channels, out_channels, kernels, strides, 1, bias=bias)
    left = [(n - 2) // stride + 1 if it else n for n, it in zip(size, long, strict=True)]
    return initialised(conv), left
