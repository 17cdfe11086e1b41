"""mmFormer's network (Zhang et al., MICCAI 2022).

Written anew from a description of github.com/YaoZhang93/mmFormer, commit b18663a. An encoder per modality; at
the deepest level a transformer within every modality, then one over the tokens of all. Absent modalities are
zeros in what is fused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
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
from nnunetv2_mstkd.architectures.fusion_network import FusionNetwork
from nnunetv2_mstkd.architectures.shapes import checked_strides
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mmformer.transformer import HEADS, TransformerLayer

_LEVELS = 5
_LINEAR_INTERPOLATION = {2: "bilinear", 3: "trilinear"}
RELEASED_ORDER, MENDED_ORDER = TOKEN_ORDERS = ("released", "mended")


class MMFormer(FusionNetwork):
    """Segmentation network with transformers within and across modalities.

    Its further tap is ``scales``, of the fused decoder's coarser levels. Positions of tokens are interpolated
    for a patch that is not ``patch_size``. Initialised as released: convolutions Kaiming normal (fan-in, gain
    √2), linear layers as PyTorch does, positions zero.

    Args:
        input_channels: modalities, M.
        num_classes: heads, K; with labels the background is one of them.
        patch_size: voxels per axis; the tables of positions are made for it.
        strides: of the plan, per stage and axis; the first ``levels`` are taken.
        regions: heads are regions that may overlap: ``scales`` upsamples sigmoids instead of a softmax.
        base_features: channels of the finest level; every further level has twice as many.
        token_features: width of a token; a multiple of 8.
        token_order: ``released`` or ``mended``, see :class:`TokenFusion`.
        levels: resolutions; fewer if the plan has fewer.

    Raises:
        MSTKDError: sizes that no network can be built from.
    """

    # Built and saved by the authors' code, but never run.
    unused_keys = re.compile(rf"({'|'.join(RELEASED_MODALITIES)})_decode_conv\.")

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        regions: bool = False,
        base_features: int = 8,
        token_features: int = 512,
        token_order: str = RELEASED_ORDER,
        levels: int = _LEVELS,
    ) -> None:
        strides = checked_strides("MMFormer", strides, patch_size, levels, base_features=base_features)
        super().__init__(strides, regions)
        kind = UnitKind(len(patch_size), norm_first=True)
        widths = [base_features * 2**level for level in range(len(strides))]
        grid = self.coarsest_grid(patch_size)
        self.encoders = ModalityEncoders(input_channels, kind, widths, strides)
        self.token_fusion = TokenFusion(kind, input_channels, widths[-1], token_features, grid, token_order)
        self.decoder = FusionDecoder(kind, input_channels, widths, num_classes)
        self.separate_decoder = SegmentationDecoder(kind, widths, num_classes)

    def fuse(
        self, levels: list[list[Tensor]], present: Tensor, blank: Tensor, with_further: bool
    ) -> tuple[Tensor, list[Tensor]]:
        deepest = self.token_fusion(levels.pop(), present)
        # Taken from the list: where no gradient is asked for, a level's maps make room for its stack.
        skips = [stack_present(levels.pop(0), present).flatten(1, 2) for _ in range(len(levels))]
        logits, coarser = self.decoder([*skips, deepest], blank)
        return logits, self.decoder.scales(coarser, blank) if with_further else []

    def released_names(self) -> dict[str, str]:
        return _released_names(self)


class TokenFusion(nn.Module):
    """Transformers over the deepest maps: first within every modality, then over all tokens.

    Absent modalities' tokens are zeros behind the first transformers; with their positions added they take
    part in the second, as released.

    The second one's tokens (M·N of them, one modality after another) become a map of N cells again, M tokens
    in the channels of each. ``mended`` gives every cell the tokens of its own place, one per modality. The
    released code lays M *neighbouring tokens of one modality* into each cell: the first of M equal parts of
    the map holds what the first modality had everywhere, and so on. Its published numbers, and its weights,
    are of that order.

    Args:
        kind: of the units, for its convolution.
        modalities: M.
        channels: of each modality's map, C.
        token_features: width of a token, D.
        grid: cells per axis that the tables of positions have.
        token_order: ``released`` or ``mended``.
    """

    def __init__(
        self,
        kind: UnitKind,
        modalities: int,
        channels: int,
        token_features: int,
        grid: Sequence[int],
        token_order: str,
    ) -> None:
        super().__init__()
        if token_features < 1 or token_features % HEADS:
            raise MSTKDError(f"token_features is {token_features}; give a multiple of {HEADS}, the heads")
        if token_order not in TOKEN_ORDERS:
            raise MSTKDError(f"token_order is '{token_order}'; give one of {', '.join(TOKEN_ORDERS)}")
        self.token_order = token_order
        self.within = nn.ModuleList(
            ModalityTokens(kind, channels, token_features, grid) for _ in range(modalities)
        )
        self.across = TransformerLayer(token_features)
        self.reduce = kind.conv(modalities * token_features, modalities * channels, kernel_size=1)

    def forward(self, maps: Sequence[Tensor], present: Tensor) -> Tensor:
        """(B, M·C, *grid) from a map (B, C, *grid) per modality and the present ones, (B, M) bool."""
        grid = maps[0].shape[2:]
        found = [of_one(of_its) for of_one, of_its in zip(self.within, maps, strict=True)]
        tokens, positions = zip(*found, strict=True)
        placed = stack_present(tokens, present) + torch.stack(positions, dim=1)
        mixed = self.across(placed.flatten(1, 2))
        if self.token_order == MENDED_ORDER:
            mixed = mixed.unflatten(1, (len(maps), -1)).transpose(1, 2)
        cells = mixed.reshape(mixed.shape[0], prod(grid), -1)
        return self.reduce(cells.transpose(1, 2).unflatten(2, grid))


class ModalityTokens(nn.Module):
    """Deepest map of one modality as tokens that have seen each other.

    Args:
        kind: of the units, for its convolution.
        channels: of the map, C.
        token_features: D.
        grid: cells per axis that the table of positions has.
    """

    def __init__(self, kind: UnitKind, channels: int, token_features: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.embedding = kind.conv(channels, token_features, kernel_size=1)
        self.positions = nn.Parameter(torch.zeros(1, prod(self.grid), token_features))
        self.layer = TransformerLayer(token_features)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D), the last axis fastest, and their positions (1, N, D) of a map (B, C, *grid)."""
        positions = self.positions_on(x.shape[2:])
        return self.layer(self.embedding(x).flatten(2).transpose(1, 2) + positions), positions

    def positions_on(self, grid: Sequence[int]) -> Tensor:
        """Table of positions (1, N, D), interpolated linearly for a grid that is not its own."""
        if tuple(grid) == self.grid:
            return self.positions
        table = self.positions.transpose(1, 2).unflatten(2, self.grid)
        resized = F.interpolate(table, size=tuple(grid), mode=_LINEAR_INTERPOLATION[len(grid)])
        return resized.flatten(2).transpose(1, 2)


class FusionDecoder(nn.Module):
    """Decoder over maps with the channels of all modalities, which it mixes at every level.

    Args:
        kind: of the units.
        modalities: M.
        widths: channels per level and modality.
        num_classes: K.
    """

    def __init__(self, kind: UnitKind, modalities: int, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        zero_padded = replace(kind, padding_mode="zeros")
        self.fusions = nn.ModuleList(
            unit_trio(zero_padded, modalities * width, width, width) for width in widths
        )
        self.ups = nn.ModuleList(Up(kind, coarse, fine) for fine, coarse in pairwise(widths))
        self.joins = nn.ModuleList(Join(kind, 2 * width, width) for width in widths[:-1])
        self.head = kind.conv(widths[0], num_classes, kernel_size=1)
        # Of all levels but the finest.
        self.scale_heads = nn.ModuleList(kind.conv(width, num_classes, kernel_size=1) for width in widths[1:])

    def forward(self, maps: Sequence[Tensor], blank: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K, ...), and the decoded maps (B, C, ...) of the coarser levels, finest first.

        Args:
            maps: (B, M·C, ...) per level.
            blank: (B,) bool, samples in which nothing is to be seen.
        """
        *finer, coarsest = maps
        decoded = [self.fusions[-1](coarsest)]
        for level, skip in reversed(list(enumerate(finer))):
            up = self.ups[level](decoded[0], skip.shape[2:])
            decoded.insert(0, self.joins[level](self.fusions[level](skip), up))
        finest, *coarser = decoded
        return bias_where_blank(self.head(finest), self.head, blank), coarser

    def scales(self, coarser: Sequence[Tensor], blank: Tensor) -> list[Tensor]:
        """Logits (B, K, ...) of the coarser levels, each at its own resolution."""
        pairs = zip(self.scale_heads, coarser, strict=True)
        return [bias_where_blank(head(decoded), head, blank) for head, decoded in pairs]


def released(
    patch_size: Sequence[int] = (128, 128, 128), input_channels: int = 4, token_order: str = RELEASED_ORDER
) -> MMFormer:
    """The published network, 36,391,760 parameters, in eval mode.

    Channels are FLAIR, T1c, T1, T2; heads are background, necrosis, oedema, enhancing tumour. The authors'
    checkpoints hold 262,656 more that no output depends on.
    """
    dims = len(patch_size)
    strides = [[1] * dims] + [[2] * dims] * (_LEVELS - 1)
    return MMFormer(input_channels, 4, patch_size=patch_size, strides=strides, token_order=token_order).eval()


def _released_names(network: MMFormer) -> dict[str, str]:
    own = {"positions$": "pos", r"embedding\.": "encode_conv.", r"layer\.": "transformer."}
    others = {
        rf"^token_fusion\.within\.{m}\.{ours}": f"{modality}_{theirs}"
        for m, modality in enumerate(RELEASED_MODALITIES)
        for ours, theirs in own.items()
    }
    others |= {
        r"^token_fusion\.across\.": "multimodal_transformer.",
        r"^token_fusion\.reduce\.": "multimodal_decode_conv.",
        r"\battention_norm\.": "cross_attention_list.0.fn.norm.",
        r"\battention\.": "cross_attention_list.0.fn.fn.",
        r"\bqueries_keys_values\.": "qkv.",
        r"\.fn\.out\.": ".fn.proj.",
        r"\bmlp_norm\.": "cross_ffn_list.0.fn.norm.",
        r"\bmlp\.": "cross_ffn_list.0.fn.fn.net.",
        r"^decoder\.": "decoder_fuse.",
        **{rf"\bfusions\.{level}\.": f"RFM{level + 1}.fusion_layer." for level in range(_LEVELS)},
        **{rf"\bscale_heads\.{i}\.": f"seg_d{i + 1}." for i in range(_LEVELS - 1)},
    }
    return released_names(network, others)
