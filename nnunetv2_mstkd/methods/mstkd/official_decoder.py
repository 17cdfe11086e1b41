"""From tapped tokens back to bottleneck features: the published decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_batchnorm
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nnunetv2_mstkd.architectures.blocks import Layers
from nnunetv2_mstkd.architectures.merged_convolutions import MergedUpsampling
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.transformer import TokenSettings

_TAPS = 4
_PATCH = 4


class ConvUnit(nn.Sequential):
    """Convolutions, BatchNorm, ReLU."""

    def __init__(self, layers: Layers, *convolutions: nn.Module) -> None:
        norm = get_matching_batchnorm(layers.conv_op)(convolutions[-1].out_channels)
        super().__init__(*convolutions, norm, nn.ReLU(inplace=True))


class LiftUnit(ConvUnit):
    """Transposed convolution, convolution, BatchNorm, ReLU: twice the resolution."""

    def __init__(self, layers: Layers, in_channels: int, channels: int) -> None:
        super().__init__(layers, layers.transposed(in_channels, channels, 2), layers.conv(channels, channels))
        self._upsample = MergedUpsampling()

    def forward(self, x: Tensor) -> Tensor:
        up, conv, norm, nonlin = self
        assert isinstance(up, _ConvTransposeNd)
        assert isinstance(conv, _ConvNd)
        return nonlin(norm(self._upsample(up, conv, x)))

    def train(self, mode: bool = True) -> LiftUnit:
        self._upsample.forget()  # no memory for it while the weights change
        return super().train(mode)


class OfficialTokenDecoder(nn.Module):
    """The convolutional decoder of MST-KDNet's UNETR block, widths and detour included.

    Each tap is lifted by transposed convolutions, concatenated with the deeper ones, fused and upsampled;
    the shallowest reaches twice the bottleneck's resolution and comes back by two strided convolutions and a
    transposed one. Last, the bottleneck features themselves join.

    Args:
        layers: gives the kind of convolution; the norm is BatchNorm.
        channels: of bottleneck and output.
        settings: of the tokens; four taps and patches of 4.

    Raises:
        MSTKDError: other taps or patches.
    """

    def __init__(self, layers: Layers, channels: int, settings: TokenSettings) -> None:
        super().__init__()
        if len(settings.taps) != _TAPS or set(settings.patch_size) != {_PATCH}:
            raise MSTKDError(
                f"the official token decoder needs four token_taps and token_patch_size 4, not "
                f"{list(settings.taps)} and {list(settings.patch_size)}; use the preset nnunet"
            )

        def lift(*widths: int) -> nn.Sequential:
            steps = zip((settings.features, *widths), widths, strict=False)
            return nn.Sequential(*(LiftUnit(layers, i, o) for i, o in steps))

        def conv(in_channels: int, out_channels: int, stride: int = 1) -> ConvUnit:
            return ConvUnit(layers, layers.conv(in_channels, out_channels, stride=stride))

        up = layers.transposed
        self.lift = nn.ModuleList([lift(512, 256, 128), lift(512, 256), lift(512)])
        self.fuse = nn.ModuleList(
            [
                nn.Sequential(conv(256, 128, stride=2), conv(128, 128, stride=2), up(128, 64, 2)),
                nn.Sequential(conv(512, 256), conv(256, 256), up(256, 128, 2)),
                nn.Sequential(conv(1024, 512), conv(512, 512), conv(512, 512), up(512, 256, 2)),
                up(settings.features, 512, 2),
            ]
        )
        self.lift_input = nn.Sequential(conv(channels, 32), conv(32, 64))
        self.fuse_input = nn.Sequential(conv(128, 64), conv(64, 64), layers.conv(64, channels, 1))

    def forward(self, states: Sequence[Tensor], encoded: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Bottleneck features (B, C, ...) and the decoded z3, z6, z9, z12.

        Their channels are 64, 128, 256 and 512, their resolutions 1, 2, 1 and 1/2 of the bottleneck's.

        Args:
            states: hidden states (B, D, *grid), shallow first.
            encoded: (B, C, ...) the features that became tokens, every axis a multiple of 4.
        """
        z12 = self.fuse[3](states[3])
        z9 = self.fuse[2](torch.cat((self.lift[2](states[2]), z12), dim=1))
        z6 = self.fuse[1](torch.cat((self.lift[1](states[1]), z9), dim=1))
        z3 = self.fuse[0](torch.cat((self.lift[0](states[0]), z6), dim=1))
        output = self.fuse_input(torch.cat((self.lift_input(encoded), z3), dim=1))
        return output, [z3, z6, z9, z12]
