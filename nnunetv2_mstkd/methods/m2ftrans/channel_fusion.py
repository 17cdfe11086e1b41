"""M2FTrans' fusion of coarse maps: channels of the decoder look at channels of the modalities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from torch import Tensor, nn

from nnunetv2_mstkd.methods.m2ftrans.attention import attend

_LAYERS = 2
_EXPANSION = 4
_DROPOUT = 0.1


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every voxel of (B, C, ...)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _convolutions(dims: int, channels: int, inner: int) -> nn.Sequential:
    """Convolutions of kernels 1, 3 and 1, each with a norm; the middle one in a group per outer channel."""
    convolution = convert_dim_to_conv_op(dims)
    convolutions = (
        convolution(channels, inner, 1),
        convolution(inner, inner, 3, padding=1, groups=channels),
        convolution(inner, channels, 1),
    )
    for conv in convolutions:
        nn.init.kaiming_normal_(conv.weight)
    enter, mix, leave = convolutions
    return nn.Sequential(
        *(enter, ChannelNorm(inner), nn.GELU()),
        *(mix, ChannelNorm(inner), nn.GELU()),
        *(leave, ChannelNorm(channels)),
    )


class ChannelMLP(nn.Module):
    """GELU(x + convolutions(x)), four times as wide inside."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.convolutions = _convolutions(dims, channels, _EXPANSION * channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.convolutions(x))


class ChannelAttention(nn.Module):
    """Every channel of a map, compared over all voxels, collects channels of the present modalities.

    Args:
        dims: 2 or 3.
        modalities: M.
        channels: C.
    """

    def __init__(self, dims: int, modalities: int, channels: int) -> None:
        super().__init__()
        self.query = _convolutions(dims, channels, channels)
        self.keys = nn.ModuleList(_convolutions(dims, channels, channels) for _ in range(modalities))
        self.values = nn.ModuleList(_convolutions(dims, channels, channels) for _ in range(modalities))
        self.out = _convolutions(dims, channels, channels)

    def forward(self, x: Tensor, stack: Tensor, present: Tensor) -> Tensor:
        """(B, C, ...) from x (B, C, ...), the modalities' maps (B, M, C, ...) and present (B, M) bool."""
        maps = stack.unbind(1)
        keys, values = (
            torch.cat([project(of_one) for project, of_one in zip(projects, maps, strict=True)], dim=1)
            for projects in (self.keys, self.values)
        )
        visible = present[..., None].expand(-1, -1, x.shape[1]).flatten(1)[:, None]
        scale = x[0, 0].numel() ** -0.5
        queries = self.query(x).flatten(2)
        attended, _ = attend(queries, keys.flatten(2), values.flatten(2), scale, visible)
        return self.out(attended.unflatten(2, x.shape[2:]))


class ChannelFusionLayer(nn.Module):
    """Attention of the decoder's map, added to it, and its channel network; the maps' own, shared by all.

    Args:
        dims, modalities, channels: see :class:`ChannelAttention`.
        last: no layer follows that needs the modalities' maps.
    """

    def __init__(self, dims: int, modalities: int, channels: int, last: bool) -> None:
        super().__init__()
        self.attention = ChannelAttention(dims, modalities, channels)
        self.dropout = nn.Dropout(_DROPOUT)
        self.mlp = ChannelMLP(dims, channels)
        self.maps_mlp = None if last else ChannelMLP(dims, channels)

    def forward(self, x: Tensor, stack: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """The map (B, C, ...) and the modalities' maps (B, M, C, ...) for the next layer."""
        x = self.mlp(x + self.dropout(self.attention(x, stack, present)))
        if self.maps_mlp is not None:
            stack = self.maps_mlp(stack.flatten(0, 1)).unflatten(0, stack.shape[:2])
        return x, stack


class ChannelFusion(nn.Module):
    """Two layers that fuse the modalities' maps (B, M, C, ...) into the decoder's (B, C, ...)."""

    def __init__(self, dims: int, modalities: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ChannelFusionLayer(dims, modalities, channels, last=i == _LAYERS - 1) for i in range(_LAYERS)
        )

    def forward(self, x: Tensor, stack: Tensor, present: Tensor) -> Tensor:
        for layer in self.layers:
            x, stack = layer(x, stack, present)
        return x
