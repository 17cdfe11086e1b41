"""RFNet's network (Ding et al., ICCV 2021).

Written anew from a description of github.com/dyh127/RFNet, commit 1e475fa. An encoder per modality; at every
level a small head guesses where the classes are, and modalities are weighed against each other class by
class, within the region of that class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.foreign_weights import load_foreign
from nnunetv2_mstkd.architectures.fusion import (
    Join,
    ModalityEncoders,
    SegmentationDecoder,
    UnitKind,
    Up,
    bias_where_blank,
    probabilities,
    released_names,
    separate_segmentations,
    stack_present,
    unit_trio,
    upsampled_logits,
)
from nnunetv2_mstkd.architectures.presence import presence, shown
from nnunetv2_mstkd.architectures.shapes import pad_to_multiple
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, TensorOrList, wants
from nnunetv2_mstkd.errors import MSTKDError

_LEVELS = 4
_MAP_FEATURES = 16  # hidden channels of the region maps' heads, at every level
_WEIGHT_FEATURES = 128  # hidden width of the networks that weigh modalities
_SMALLEST_REGION = 1e-7  # share of the patch


class RFNet(nn.Module):
    """Segmentation network with region-aware fusion of modalities.

    Which modalities are there is read from the zeros, see :func:`presence`; an absent one has no influence.
    Any patch works: it is padded with zeros to a multiple of the network's stride, outputs are cropped back.
    Convolutions are initialised as released: Kaiming normal, fan-in, gain √2.

    Args:
        input_channels: modalities.
        num_classes: heads; with labels the background is one of them.
        patch_size: voxels per axis; only the number of axes matters here.
        strides: of the plan, per stage and axis; the first ``levels`` are taken.
        regions: heads are regions that may overlap: region maps are sigmoids instead of a softmax.
        base_features: channels of the finest level; every further level has twice as many.
        levels: resolutions; fewer if the plan has fewer.

    Attributes:
        total_stride: per axis.

    Raises:
        MSTKDError: fewer than two stages, or strides and patch of different dimension.
    """

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
        super().__init__()
        strides = [tuple(int(s) for s in stride) for stride in strides[:levels]]
        dims = len(patch_size)
        if len(strides) < 2 or base_features < 2 or any(len(stride) != dims for stride in strides):
            raise MSTKDError(
                f"RFNet cannot be built with strides {strides}, patch_size {list(patch_size)} and "
                f"base_features {base_features}; give 2 stages or more, a stride per axis, 2 features or more"
            )
        kind = UnitKind(dims)
        widths = [base_features * 2**level for level in range(len(strides))]
        self.regions = regions
        self.total_stride = tuple(prod(of_axis) for of_axis in zip(*strides, strict=True))
        self.encoders = ModalityEncoders(input_channels, kind, widths, strides)
        self.decoder = RegionAwareDecoder(kind, input_channels, widths, num_classes, regions)
        self.separate_decoder = SegmentationDecoder(kind, widths, num_classes)

    def forward(
        self, x: Tensor, return_taps: Request = False, present: Tensor | None = None
    ) -> Tensor | NetworkTaps:
        """Logits (B, K, *patch), without a nonlinearity.

        Args:
            x: (B, M, *patch); absent modalities are zero.
            return_taps: return :class:`NetworkTaps` with full-resolution logits (B, K, *patch) in ``inner``:
                ``separate``, of every modality on its own, and ``region_maps``, of every level, finest first.
            present: (B, M) bool, which of the modalities that ``x`` shows the fusion may see; all by default.
                So in the released training: ``separate`` learns from all modalities, whatever the mask hides.

        A sample that shows nothing, and ``separate`` of a channel of zeros, has the head's bias everywhere
        and no gradient, see :func:`bias_where_blank`.
        """
        there = shown(x)
        present = presence(x) if present is None else present & presence(x)
        padded, crop = pad_to_multiple(x, self.total_stride, least=2)  # reflection needs two voxels
        levels = self.encoders(padded)
        inner: dict[str, TensorOrList] = {}
        if wants(return_taps, "separate"):
            separate = separate_segmentations(self.separate_decoder, levels, ~there)
            inner["separate"] = [logits[crop] for logits in separate]
        # Taken from the list: where no gradient is asked for, a level's maps make room for its stack.
        stacks = [stack_present(levels.pop(0), present) for _ in range(len(levels))]
        logits, region_logits = self.decoder(stacks, blank=~(there & present).any(1))
        if return_taps is False:
            return logits[crop]
        if wants(return_taps, "region_maps"):
            full = (upsampled_logits(maps, padded.shape[2:], self.regions) for maps in region_logits)
            inner["region_maps"] = [maps[crop] for maps in full]
        return NetworkTaps(logits[crop], inner)

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the authors' code, in its keys, with or without their ``module.`` in front.

        Raises:
            MSTKDError: keys are missing or unknown, or shapes differ; names the first few.
        """
        load_foreign(self, _released_names(self), state_dict)


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
