"""RFNet's network (Ding et al., ICCV 2021).

Written anew from a description of github.com/dyh127/RFNet, commit 1e475fa. An encoder per modality; at every
level a small head guesses where the classes are, and modalities are weighed against each other class by
class, within the region of that class.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.fusion import (
    Join,
    ModalityEncoders,
    SegmentationDecoder,
    UnitKind,
    Up,
    bias_where_blank,
    probabilities,
    released_names,
    stack_present,
    unit_trio,
)
from nnunetv2_mstkd.architectures.fusion_network import FusionNetwork
from nnunetv2_mstkd.architectures.shapes import checked_strides

_LEVELS = 4
_MAP_FEATURES = 16  # hidden channels of the region maps' heads, at every level
_WEIGHT_FEATURES = 128  # hidden width of the networks that weigh modalities
_SMALLEST_REGION = 1e-7  # share of the patch


class RFNet(FusionNetwork):
    """Segmentation network with region-aware fusion of modalities.

    Its further tap is ``region_maps``, of every level. Convolutions are initialised as released: Kaiming
    normal, fan-in, gain √2.

    Args:
        input_channels: modalities.
        num_classes: heads; with labels the background is one of them.
        patch_size: voxels per axis; only the number of axes matters here.
        strides: of the plan, per stage and axis; the first ``levels`` are taken.
        regions: heads are regions that may overlap: region maps are sigmoids instead of a softmax.
        base_features: channels of the finest level; every further level has twice as many.
        levels: resolutions; fewer if the plan has fewer.

    Raises:
        MSTKDError: fewer than two stages, or strides and patch of different dimension.
    """

    further_tap = "region_maps"

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        regions: bool = False,
        base_features: int = 16,
        levels: int = _LEVELS,
    ) -> None:
        strides = checked_strides("RFNet", strides, patch_size, levels, least=2, base_features=base_features)
        super().__init__(strides, regions)
        kind = UnitKind(len(patch_size))
        widths = [base_features * 2**level for level in range(len(strides))]
        self.encoders = ModalityEncoders(input_channels, kind, widths, strides)
        self.decoder = RegionAwareDecoder(kind, input_channels, widths, num_classes, regions)
        self.separate_decoder = SegmentationDecoder(kind, widths, num_classes)

    def fuse(
        self, levels: list[list[Tensor]], present: Tensor, blank: Tensor, with_further: bool
    ) -> tuple[Tensor, list[Tensor]]:
        # Taken from the list: where no gradient is asked for, a level's maps make room for its stack.
        stacks = [stack_present(levels.pop(0), present) for _ in range(len(levels))]
        logits, region_logits = self.decoder(stacks, blank)
        return logits, region_logits

    def released_names(self) -> dict[str, str]:
        return _released_names(self)


class RegionAwareDecoder(nn.Module):
    """Decoder over the stacked maps of all modalities, which it fuses anew at every level.

    Args:
        kind: of the units.
        modalities: M.
        widths: channels per level.
        num_classes: K.
        regions: region maps are sigmoids.
    """

    def __init__(
        self, kind: UnitKind, modalities: int, widths: Sequence[int], num_classes: int, regions: bool
    ) -> None:
        super().__init__()
        self.regions = regions
        self.region_heads = nn.ModuleList(
            RegionHead(kind, modalities, width, num_classes, guided=width != widths[-1]) for width in widths
        )
        self.fusions = nn.ModuleList(
            RegionAwareFusion(kind, modalities, width, num_classes) for width in widths
        )
        self.ups = nn.ModuleList(Up(kind, coarse, fine) for fine, coarse in pairwise(widths))
        self.joins = nn.ModuleList(Join(kind, 2 * width, width) for width in widths[:-1])
        self.head = kind.conv(widths[0], num_classes, kernel_size=1)

    def forward(self, stacks: Sequence[Tensor], blank: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K, ...), and those of the region maps at every level's resolution, finest first.

        Args:
            stacks: (B, M, C, ...) per level, absent modalities zero.
            blank: (B,) bool, samples in which nothing is to be seen.
        """
        *finer, coarsest = stacks
        region_logits = [self.region_heads[-1](coarsest, None, blank)]
        x = self._fused(len(finer), coarsest, region_logits[0])
        for level, stack in reversed(list(enumerate(finer))):
            x = self.ups[level](x, stack.shape[3:])
            region_logits.insert(0, self.region_heads[level](stack, x, blank))
            x = self.joins[level](self._fused(level, stack, region_logits[0]), x)
        return bias_where_blank(self.head(x), self.head, blank), region_logits

    def _fused(self, level: int, stack: Tensor, region_logits: Tensor) -> Tensor:
        # The maps learn from their own loss alone.
        maps = probabilities(region_logits.detach(), self.regions)
        return self.fusions[level](stack, maps)


class RegionHead(nn.Module):
    """Guesses the classes of one level: logits (B, K, ...) at its resolution.

    Args:
        kind: of the units.
        modalities: M.
        channels: C, of each modality's map.
        num_classes: K.
        guided: the decoder's map (B, C, ...) takes part; at the coarsest level there is none.
    """

    def __init__(
        self, kind: UnitKind, modalities: int, channels: int, num_classes: int, guided: bool
    ) -> None:
        super().__init__()
        self.embedding = unit_trio(kind, modalities * channels, max(channels // 4, 1), channels)
        self.classify = nn.Sequential(
            kind.unit(2 * channels if guided else channels, _MAP_FEATURES, kernel_size=1),
            kind.conv(_MAP_FEATURES, num_classes, kernel_size=1),
        )

    def forward(self, stack: Tensor, decoded: Tensor | None, blank: Tensor) -> Tensor:
        embedded = self.embedding(stack.flatten(1, 2))
        logits = self.classify(embedded if decoded is None else torch.cat((decoded, embedded), dim=1))
        return bias_where_blank(logits, self.classify[-1], blank)


class RegionAwareFusion(nn.Module):
    """Weighs modalities against each other within every region: (B, M, C, ...) → (B, C, ...).

    For region r with map P_r, and Y_m the map of modality m::

        w_rm = network_r(means of all Y over the region, size of the region)      from 0 to 1
        G_r = P_r · Σ_m w_rm · Y_m

    Half of the result's channels come from all G_r, the other half from all Y_m directly. The released code
    computes Y_m · P_r for all m and r, and from them both means and sums; here these products never exist.

    Args:
        kind: of the units.
        modalities: M.
        channels: C.
        num_classes: regions, K.
    """

    def __init__(self, kind: UnitKind, modalities: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.modality_weights = nn.ModuleList(
            nn.Sequential(
                kind.conv(modalities * channels + 1, _WEIGHT_FEATURES, kernel_size=1),
                nn.LeakyReLU(0.2),
                kind.conv(_WEIGHT_FEATURES, modalities, kernel_size=1),
                nn.Sigmoid(),
            )
            for _ in range(num_classes)
        )
        half = channels // 2
        self.region_fusion = unit_trio(kind, num_classes * channels, channels, half)
        self.shortcut = unit_trio(kind, modalities * channels, channels, channels - half)

    def forward(self, stack: Tensor, maps: Tensor) -> Tensor:
        """Fused map (B, C, ...) from maps (B, M, C, ...) and region maps (B, K, ...) without gradient."""
        descriptors = _descriptors(stack, maps)
        voxel = [1] * (maps.ndim - 2)
        weights = torch.stack(
            [
                weigh(of_region.unflatten(1, (-1, *voxel))).flatten(1)
                for weigh, of_region in zip(self.modality_weights, descriptors.unbind(1), strict=True)
            ],
            dim=1,
        )
        weighed = (weights @ stack.flatten(2)).unflatten(2, stack.shape[2:])
        # In place: a new tensor, which no gradient needs as it was, and K maps large.
        regions = weighed.mul_(maps.to(weighed.dtype).unsqueeze(2)).flatten(1, 2)
        return torch.cat((self.region_fusion(regions), self.shortcut(stack.flatten(1, 2))), dim=1)


def _descriptors(stack: Tensor, maps: Tensor) -> Tensor:
    """Mean of every channel within every region, and the region's share of the patch: (B, K, M·C + 1)."""
    device = "cpu" if stack.is_meta else stack.device.type  # tensors without storage know no autocast
    # Sums over a patch and shares of 1e-7 are beyond 16 bits.
    with torch.autocast(device, enabled=False):
        regions = maps.float().flatten(2)
        sizes = regions.mean(2, keepdim=True) + _SMALLEST_REGION
        sums = regions @ stack.float().flatten(1, 2).flatten(2).transpose(1, 2)
        return torch.cat((sums / regions.shape[2] / sizes, sizes), dim=2)


def released(patch_size: Sequence[int] = (80, 80, 80), input_channels: int = 4) -> RFNet:
    """The published network, 8,984,960 parameters, in eval mode.

    Channels are FLAIR, T1c, T1, T2; heads are background, necrosis, oedema, enhancing tumour.
    """
    dims = len(patch_size)
    strides = [[1] * dims] + [[2] * dims] * (_LEVELS - 1)
    return RFNet(input_channels, 4, patch_size=patch_size, strides=strides).eval()


def _released_names(network: RFNet) -> dict[str, str]:
    levels = range(_LEVELS)
    others = {
        r"^decoder\.": "decoder_fuse.",
        **{rf"\bregion_heads\.{level}\.": f"prm_generator{level + 1}." for level in levels},
        **{rf"\bfusions\.{level}\.": f"RFM{level + 1}." for level in levels},
        r"\bembedding\.": "embedding_layer.",
        r"\bclassify\.": "prm_layer.",
        r"\bmodality_weights\.(\d+)\.": r"modal_fusion.\1.weight_layer.",
        r"\bregion_fusion\.": "region_fusion.fusion_layer.",
        r"\bshortcut\.": "short_cut.",
    }
    return released_names(network, others)
