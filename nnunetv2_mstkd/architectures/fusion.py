"""Parts of networks that have an encoder per modality and fuse what the present ones found.

RFNet (ICCV 2021), mmFormer (MICCAI 2022), M2FTrans (JBHI 2024) and IM-Fuse (MICCAI 2025) descend from one
another: encoders and decoders are the same but for the order inside a unit and for padding. Levels are
counted from 0, the finest; lists of levels start there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_instancenorm,
)
from torch import Tensor, nn

_SLOPE = 0.2
_LINEAR_INTERPOLATION = {4: "bilinear", 5: "trilinear"}  # by the number of a tensor's axes
# Upsampled probabilities keep this distance from 0 and 1, so that logarithms and gradients are finite. Much
# closer to 1 float32 has no numbers.
_MARGIN = 1e-7
# Modalities as the released checkpoints of all four call them, in their order of channels.
RELEASED_MODALITIES = ("flair", "t1ce", "t1", "t2")
_RELEASED_UNITS = {"first": "c1", "second": "c2", "third": "c3", "unit": "c1", "merge": "c2", "out": "out"}


@dataclass(frozen=True)
class UnitKind:
    """What a network's units look like; makes them.

    Attributes:
        dims: 2 or 3.
        norm_first: norm, activation, convolution (mmFormer, IM-Fuse) instead of convolution, norm, activation
            (RFNet, M2FTrans).
        padding_mode: of 3×3×3 convolutions, ``reflect`` or ``zeros``.
    """

    dims: int
    norm_first: bool = False
    padding_mode: str = "reflect"

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int | Sequence[int] = 1
    ) -> nn.Module:
        """Plain convolution that maps an axis of n voxels to ceil(n / stride); kernel size 1 or 3.

        Weights are drawn as in all four releases: Kaiming normal, fan-in, gain √2; biases are PyTorch's.
        """
        strides = stride if isinstance(stride, int) else tuple(int(s) for s in stride)
        # Without padding any mode is zeros; PyTorch would copy the map for the others.
        mode = self.padding_mode if kernel_size > 1 else "zeros"
        conv = convert_dim_to_conv_op(self.dims)(
            in_channels, out_channels, kernel_size, strides, (kernel_size - 1) // 2, padding_mode=mode
        )
        nn.init.kaiming_normal_(conv.weight)
        return conv

    def unit(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int | Sequence[int] = 1
    ) -> ConvUnit:
        """Convolution with norm and activation."""
        return ConvUnit(self, in_channels, out_channels, kernel_size, stride)

    def norm(self, channels: int) -> nn.Module:
        """Instance norm without weights."""
        return get_matching_instancenorm(dimension=self.dims)(channels)


class ConvUnit(nn.Module):
    """Convolution, instance norm, leaky ReLU (0.2), in the order of ``kind``: (B, C, ...) → (B, C', ...)."""

    def __init__(
        self,
        kind: UnitKind,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.norm_first = kind.norm_first
        self.conv = kind.conv(in_channels, out_channels, kernel_size, stride)
        self.norm = kind.norm(in_channels if kind.norm_first else out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            return self.conv(self._activated(x))
        return self._activated(self.conv(x))

    def _activated(self, x: Tensor) -> Tensor:
        # In place: the norm's gradient needs its input alone.
        return F.leaky_relu_(self.norm(x), _SLOPE)


def unit_trio(kind: UnitKind, in_channels: int, inner_channels: int, out_channels: int) -> nn.Sequential:
    """Units with kernels 1, 3 and 1, which all four networks mix maps of several modalities with."""
    return nn.Sequential(
        kind.unit(in_channels, inner_channels, kernel_size=1),
        kind.unit(inner_channels, inner_channels),
        kind.unit(inner_channels, out_channels, kernel_size=1),
    )


class EncoderLevel(nn.Module):
    """One resolution: y + third(second(y)) with y = first(x), strided; nothing behind the sum."""

    def __init__(
        self,
        kind: UnitKind,
        in_channels: int,
        channels: int,
        stride: int | Sequence[int],
        plain_first: bool = False,
    ) -> None:
        super().__init__()
        first = kind.conv if plain_first else kind.unit
        self.first = first(in_channels, channels, stride=stride)
        self.second = kind.unit(channels, channels)
        self.third = kind.unit(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return y + self.third(self.second(y))


class ModalityEncoder(nn.Module):
    """Encoder of one modality: (B, 1, ...) → a map (B, widths[level], ...) per level.

    With units that norm first, the very first convolution is plain: it sees the image as it is.

    Args:
        kind: of the units.
        widths: channels per level.
        strides: per level and axis.
    """

    def __init__(self, kind: UnitKind, widths: Sequence[int], strides: Sequence[Sequence[int]]) -> None:
        super().__init__()
        entering = [1, *widths[:-1]]
        self.levels = nn.ModuleList(
            EncoderLevel(kind, *sizes, plain_first=kind.norm_first and level == 0)
            for level, sizes in enumerate(zip(entering, widths, strides, strict=True))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


class ModalityEncoders(nn.ModuleList):
    """An encoder per modality, weights not shared: (B, M, ...) → per level a list with a map per modality."""

    def __init__(
        self, modalities: int, kind: UnitKind, widths: Sequence[int], strides: Sequence[Sequence[int]]
    ) -> None:
        super().__init__(ModalityEncoder(kind, widths, strides) for _ in range(modalities))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        found = [encoder(channel) for encoder, channel in zip(self, x.split(1, dim=1), strict=True)]
        return [list(maps) for maps in zip(*found, strict=True)]


def stack_present(maps: Sequence[Tensor], present: Tensor) -> Tensor:
    """Stack M maps (B, C, ...) to (B, M, C, ...), with exact zeros for absent modalities.

    No gradient reaches what was absent. ``flatten(1, 2)`` gives channels with the modality as slower index.

    Args:
        maps: of every modality.
        present: (B, M) bool.
    """
    stack = torch.stack(tuple(maps), dim=1)
    absent = ~present.view(*present.shape, *[1] * (stack.ndim - 2))
    return stack.masked_fill_(absent, 0)  # in place: the stack is new, and the largest map there is


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, ...) interpolated linearly to ``size``, corners aligned."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = _LINEAR_INTERPOLATION[x.ndim]
    return F.interpolate(x, size=tuple(size), mode=mode, align_corners=True)


class Up(nn.Module):
    """One level up: linear upsampling, then a unit that reduces the channels."""

    def __init__(self, kind: UnitKind, in_channels: int, channels: int) -> None:
        super().__init__()
        self.unit = kind.unit(in_channels, channels)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, in_channels, ...) → (B, channels, *size)."""
        return self.unit(upsample(x, size))


class Join(nn.Module):
    """Maps of one level become one, by units of kernels 3 and 1.

    Args:
        kind: of the units.
        in_channels: of all maps together.
        channels: of the result.
    """

    def __init__(self, kind: UnitKind, in_channels: int, channels: int) -> None:
        super().__init__()
        self.merge = kind.unit(in_channels, channels)
        self.out = kind.unit(channels, channels, kernel_size=1)

    def forward(self, *maps: Tensor) -> Tensor:
        """(B, channels, ...); the maps' order is that of the merging convolution's channels."""
        return self.out(self.merge(torch.cat(maps, dim=1)))


class SegmentationDecoder(nn.Module):
    """Decoder of one modality's own maps to logits; all modalities share it, and only training needs it.

    The upsampled map comes first where it is joined with the encoder's.

    Args:
        kind: of the units.
        widths: channels per level.
        num_classes: channels of the logits.
    """

    def __init__(self, kind: UnitKind, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.ups = nn.ModuleList(Up(kind, coarse, fine) for fine, coarse in pairwise(widths))
        self.joins = nn.ModuleList(Join(kind, 2 * width, width) for width in widths[:-1])
        self.head = kind.conv(widths[0], num_classes, kernel_size=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, ...) from a map (B, C, ...) per level."""
        *skips, x = maps
        for level, skip in reversed(list(enumerate(skips))):
            x = self.joins[level](self.ups[level](x, skip.shape[2:]), skip)
        return self.head(x)


def separate_segmentations(
    decoder: SegmentationDecoder, levels: Sequence[Sequence[Tensor]], blank: Tensor
) -> list[Tensor]:
    """Every modality segmented on its own: logits (B, K, ...) per modality.

    Args:
        decoder: shared by the modalities.
        levels: per level a list with a map (B, C, ...) per modality, not masked.
        blank: (B, M) bool, channels of zeros; see :func:`bias_where_blank`.
    """
    logits = [decoder(maps) for maps in zip(*levels, strict=True)]
    return [bias_where_blank(of_one, decoder.head, blank[:, m]) for m, of_one in enumerate(logits)]


def bias_where_blank(logits: Tensor, head: nn.Module, blank: Tensor) -> Tensor:
    """Put a head's bias, without gradient, in the place of its logits where a sample shows nothing.

    An image without contrast is rounding noise to an instance norm, which blows it up, and its gradient, some
    300 times, unit after unit: logits would be arbitrary and gradients soon infinite. In exact arithmetic,
    units that norm last turn it into zeros, of which a head leaves its bias.

    Args:
        logits: (B, K, ...), of ``head``.
        head: a convolution with bias.
        blank: (B,) bool.
    """
    voxel = [1] * (logits.ndim - 2)
    assert isinstance(head.bias, Tensor), "a head has a bias"
    bias = head.bias.detach().to(logits.dtype).view(1, -1, *voxel)
    return torch.where(blank.view(-1, 1, *voxel), bias, logits)


def probabilities(logits: Tensor, regions: bool) -> Tensor:
    """(B, K, ...) in float32: a sigmoid per channel for regions, a softmax over channels for labels."""
    return logits.float().sigmoid() if regions else logits.float().softmax(dim=1)


def upsampled_logits(logits: Tensor, size: Sequence[int], regions: bool) -> Tensor:
    """Logits (B, K, *size), in float32, whose probabilities are the upsampled ones of ``logits`` (B, K, ...).

    The released codes upsample probabilities, in one step: the sigmoid (regions) or softmax (labels) of what
    comes back is that, to 1e-7.
    """
    if tuple(logits.shape[2:]) == tuple(size):
        return logits.float()
    upsampled = upsample(probabilities(logits, regions), size).clamp(_MARGIN, 1 - _MARGIN)
    return upsampled.logit() if regions else upsampled.log()


def released_names(
    network: nn.Module, others: Mapping[str, str | Callable[[re.Match[str]], str]]
) -> dict[str, str]:
    """Key in our state dict → key in the authors' checkpoints.

    Knows what all four releases name alike: ``encoders`` (:class:`ModalityEncoders`), ``separate_decoder``
    (:class:`SegmentationDecoder`), and in every decoder its ``ups``, ``joins`` and ``head``.

    Args:
        network: with the released number of modalities; others get names that no checkpoint has.
        others: what else is to be replaced: pattern → replacement, applied one after another.
    """
    renames = {
        r"^encoders\.(\d+)\.levels\.(\d)\.(\w+)": _released_encoder_unit,
        r"\b(?:ups|joins)\.(\d)\.(\w+)": lambda found: f"d{int(found[1]) + 1}_{_RELEASED_UNITS[found[2]]}",
        r"\bhead\b": "seg_layer",
        r"^separate_decoder\b": "decoder_sep",
        **others,
    }
    names = {}
    for key in network.state_dict():
        name = key
        for pattern, replacement in renames.items():
            name = re.sub(pattern, replacement, name)
        names[key] = name
    return names


def _released_encoder_unit(found: re.Match[str]) -> str:
    modality = dict(enumerate(RELEASED_MODALITIES)).get(int(found[1]), f"modality{found[1]}")
    return f"{modality}_encoder.e{int(found[2]) + 1}_{_RELEASED_UNITS[found[3]]}"
