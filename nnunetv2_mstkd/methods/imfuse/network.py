"""IM-Fuse's network (MICCAI 2025).

Written anew from a description of github.com/AImageLab-zip/IM-Fuse, commit fbbd48e. An encoder per modality;
at every level but the finest a Mamba block scans the voxels of all modalities, and learnt tokens between them
collect what the modalities know of each voxel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from math import ceil, prod
from operator import mul

from torch import Tensor, nn

from nnunetv2_mstkd.architectures.fusion import (
    RELEASED_MODALITIES,
    Join,
    ModalityEncoders,
    SegmentationDecoder,
    UnitKind,
    Up,
    bias_where_blank,
    released_names,
    stack_present,
    unit_trio,
)
from nnunetv2_mstkd.architectures.fusion_network import LEAST_VOXELS, FusionNetwork
from nnunetv2_mstkd.architectures.shapes import checked_strides
from nnunetv2_mstkd.methods.imfuse.fusion import MambaFusion, StackedFusion, TokenTransformer

_LEVELS = 5
_TOKENS_PER_BASE = 64  # features of a token, in base features: 512 of 8


class IMFuse(FusionNetwork):
    """Segmentation network that fuses modalities by Mamba blocks.

    Its further tap is ``scales``, of the decoder's coarser levels. Learnt tokens and positions are
    interpolated for a patch that is not ``patch_size``. Initialised as released: convolutions Kaiming normal
    with biases of zero, fused tokens N(0, 1), positions zero.

    Args:
        input_channels: modalities.
        num_classes: heads; with labels the background is one of them.
        patch_size: voxels per axis.
        strides: of the plan, per stage and axis; the first ``levels`` are taken.
        regions: heads are regions that may overlap: the scales' probabilities are sigmoids, not a softmax.
        base_features: channels of the finest level; every further level has twice as many, tokens of the
            bottleneck have 64 times as many.
        levels: resolutions; fewer if the plan has fewer.
        first_skip: the finest level is fused too, and joins the decoder (the released class of that name).
        mamba_skip: levels above the bottleneck are fused by Mamba; else their maps are only stacked.
        interleaved: order of the tokens, see :class:`MambaFusion`.

    Raises:
        MSTKDError: fewer than two stages, or strides and patch of different dimension.
    """

    # Never used by the released network or by a variant of it.
    unused_keys = re.compile(rf"mamba_fusion_layers?\.|({'|'.join(RELEASED_MODALITIES)})_decode_conv\.")

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        regions: bool = False,
        base_features: int = 8,
        levels: int = _LEVELS,
        first_skip: bool = False,
        mamba_skip: bool = True,
        interleaved: bool = True,
    ) -> None:
        strides = checked_strides("IMFuse", strides, patch_size, levels, base_features=base_features)
        super().__init__(strides, regions)
        kind = UnitKind(len(patch_size), norm_first=True)
        widths = [base_features * 2**level for level in range(len(strides))]
        tokens, deepest = _TOKENS_PER_BASE * base_features, len(strides) - 1
        grids = _grids(patch_size, strides)
        self.first_fused, self.mamba_skip = 0 if first_skip else 1, mamba_skip
        self.encoders = ModalityEncoders(input_channels, kind, widths, strides)
        self.token_convs = nn.ModuleList(kind.conv(widths[-1], tokens, 1) for _ in range(input_channels))
        self.transformers = nn.ModuleList(TokenTransformer(tokens, grids[-1]) for _ in range(input_channels))
        self.fusions = nn.ModuleDict()  # by level
        for level in range(self.first_fused, deepest):
            skip = MambaFusion(widths[level], grids[level], interleaved) if mamba_skip else StackedFusion()
            self.fusions[str(level)] = skip
        self.fusions[str(deepest)] = MambaFusion(tokens, grids[-1], interleaved)
        self.fused_transformer = TokenTransformer(tokens, grids[-1])
        self.fused_conv = kind.conv(tokens, widths[-1] * input_channels, kernel_size=1)
        per_skip = 1 if mamba_skip else input_channels
        entering = [per_skip * width for width in widths[:-1]] + [input_channels * widths[-1]]
        self.decoder = FusedDecoder(kind, entering, widths, num_classes, self.first_fused)
        self.separate_decoder = SegmentationDecoder(kind, widths, num_classes)
        _zero_biases(self)

    def fuse(
        self, levels: list[list[Tensor]], present: Tensor, blank: Tensor, with_further: bool
    ) -> tuple[Tensor, list[Tensor]]:
        size = levels[0][0].shape[2:]
        logits, scales = self.decoder(self._fused(levels, present), size, blank, with_further)
        return logits, scales

    def _fused(self, levels: list[list[Tensor]], present: Tensor) -> list[Tensor]:
        """One map per fused level, finest first; empties the list of the encoders' maps."""
        *finer, deepest = levels
        levels.clear()
        maps = []
        for level, of_level in enumerate(finer):
            if level >= self.first_fused:
                maps.append(self.fusions[str(level)](stack_present(of_level, present)))
        tokens = [
            transform(embed(of_one))
            for transform, embed, of_one in zip(self.transformers, self.token_convs, deepest, strict=True)
        ]
        fused = self.fusions[str(len(finer))](stack_present(tokens, present))
        return [*maps, self.fused_conv(self.fused_transformer(fused))]

    def released_names(self) -> dict[str, str]:
        return _released_names(self)


class FusedDecoder(nn.Module):
    """Decoder over the fused maps; the finest level has no skip, unless it is fused.

    Args:
        kind: of the units; those that mix a level's map pad with zeros.
        entering: channels of the fused map, per level.
        widths: channels per level.
        num_classes: K.
        first_fused: the finest level that has a fused map.
    """

    def __init__(
        self,
        kind: UnitKind,
        entering: Sequence[int],
        widths: Sequence[int],
        num_classes: int,
        first_fused: int,
    ) -> None:
        super().__init__()
        self.first_fused = first_fused
        padded_by_zeros = UnitKind(kind.dims, kind.norm_first, padding_mode="zeros")
        self.mixes = nn.ModuleDict(
            {
                str(level): unit_trio(padded_by_zeros, entering[level], widths[level], widths[level])
                for level in range(first_fused, len(widths))
            }
        )
        self.ups = nn.ModuleList(Up(kind, coarse, fine) for fine, coarse in pairwise(widths))
        self.joins = nn.ModuleList(
            Join(kind, 2 * width if level >= first_fused else width, width)
            for level, width in enumerate(widths[:-1])
        )
        self.head = kind.conv(widths[0], num_classes, kernel_size=1)
        self.scale_heads = nn.ModuleList(kind.conv(width, num_classes, kernel_size=1) for width in widths[1:])

    def forward(
        self, fused: Sequence[Tensor], size: Sequence[int], blank: Tensor, with_scales: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K, *size), and those of the coarser levels, finest first, if asked for.

        Args:
            fused: a map per fused level, finest first.
            size: of the finest level.
            blank: (B,) bool, samples in which nothing is to be seen.
            with_scales: give the coarser levels' logits.
        """
        by_level = dict(enumerate(fused, start=self.first_fused))
        mixed = {level: self.mixes[str(level)](of_level) for level, of_level in by_level.items()}
        coarsest = len(self.ups)
        x = mixed.pop(coarsest)
        maps: list[Tensor] = []
        for level in reversed(range(coarsest)):
            maps.insert(0, x)
            skips = [mixed.pop(level)] if level in mixed else []
            x = self.ups[level](x, skips[0].shape[2:] if skips else size)
            x = self.joins[level](*skips, x)
        logits = bias_where_blank(self.head(x), self.head, blank)
        if not with_scales:
            return logits, []
        heads = zip(self.scale_heads, maps, strict=True)
        return logits, [bias_where_blank(head(of_level), head, blank) for head, of_level in heads]


def released(patch_size: Sequence[int] = (128, 128, 128), input_channels: int = 4, **variant: bool) -> IMFuse:
    """The published network, 44,384,776 parameters without the layer it never uses, in eval mode.

    Channels are FLAIR, T1c, T1, T2; heads are background, necrosis, oedema, enhancing tumour.

    Args:
        patch_size: of the learnt tokens and positions.
        input_channels: modalities.
        variant: of the released code: ``first_skip``, ``mamba_skip``, ``interleaved``.
    """
    dims = len(patch_size)
    strides = [[1] * dims] + [[2] * dims] * (_LEVELS - 1)
    return IMFuse(input_channels, 4, patch_size=patch_size, strides=strides, **variant).eval()


def _grids(patch_size: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Voxels per axis of every level's maps, for a patch of the plan after padding."""
    by_axis = []
    for size, of_axis in zip(patch_size, zip(*strides, strict=True), strict=True):
        total = prod(of_axis)
        padded = max(ceil(size / total), LEAST_VOXELS) * total
        by_axis.append([padded // so_far for so_far in accumulate(of_axis, mul)])
    return list(zip(*by_axis, strict=True))


def _zero_biases(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.bias is not None:
            nn.init.zeros_(module.bias)


def _released_names(network: IMFuse) -> dict[str, str]:
    # Without Mamba in the skips the released code builds a layer for every level, and uses the last.
    first_layer = network.first_fused if network.mamba_skip else 0

    def layer(found: re.Match[str]) -> str:
        return f"mamba_fusion_layers.{int(found[1]) - first_layer}."

    def of_modality(name: str) -> Callable[[re.Match[str]], str]:
        modalities = dict(enumerate(RELEASED_MODALITIES))
        return lambda found: f"{modalities.get(int(found[1]), f'modality{found[1]}')}_{name}"

    block = "mamba_layer.mamba."
    others: dict[str, str | Callable[[re.Match[str]], str]] = {
        r"^decoder\.": "decoder_fuse.",
        r"\bscale_heads\.(\d)\b": lambda found: f"seg_d{int(found[1]) + 1}",
        r"\bmixes\.(\d)\.": lambda found: f"RFM{int(found[1]) + 1}.fusion_layer.",
        r"^token_convs\.(\d+)": of_modality("encode_conv"),
        r"^fused_conv\b": "multimodal_decode_conv",
        r"^transformers\.(\d+)\.positions": of_modality("pos"),
        r"^fused_transformer\.positions": "fused_pos",
        r"^transformers\.(\d+)": of_modality("transformer"),
        r"^fused_transformer\b": "multimodal_transformer",
        r"\battention_norm\b": "cross_attention_list.0.fn.norm",
        r"\bquery_key_value\b": "cross_attention_list.0.fn.fn.qkv",
        r"\bprojection\b": "cross_attention_list.0.fn.fn.proj",
        r"\bmlp_norm\b": "cross_ffn_list.0.fn.norm",
        r"\bmlp\b": "cross_ffn_list.0.fn.fn.net",
        r"^fusions\.(\d)\.": layer,
        r"\bscan_norm\b": f"{block}norm1",
        r"\bmix_norm\b": f"{block}norm2",
        r"\bmix\b": f"{block}head",
        r"(?<=\d\.)mamba\.": f"{block}mamba.",
    }
    return released_names(network, others)
