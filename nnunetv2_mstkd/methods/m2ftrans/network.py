"""M2FTrans' network (Shi et al., JBHI 28(1), 2024).

Written anew from a description of github.com/Jun-Jie-Shi/M2FTrans, commit 03a0b28, folder M2FTrans_v2. An
encoder per modality; learnt fusion tokens collect what the deepest maps show, and say where in each modality
they looked: all maps are weighed by that. A decoder fuses them level by level, by attention between channels
at the two coarsest levels and by convolutions at the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

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
from nnunetv2_mstkd.methods.m2ftrans.channel_fusion import ChannelFusion
from nnunetv2_mstkd.methods.m2ftrans.transformer import FusionTransformer

_LEVELS = 5
_ATTENDING = 2  # coarsest levels that are fused by attention; never the finest


class M2FTrans(FusionNetwork):
    """Segmentation network with a masked fusion transformer between encoders and decoder.

    Its further tap is ``scales``, of every level. Fusion tokens and positions are interpolated for a patch
    that is not ``patch_size``. Convolutions are initialised as released (Kaiming normal, fan-in, gain √2),
    fusion tokens normal, positions zero.

    Args:
        input_channels: modalities.
        num_classes: heads; with labels the background is one of them.
        patch_size: voxels per axis: fusion tokens and positions are made for it.
        strides: of the plan, per stage and axis; the first ``levels`` are taken.
        regions: heads are regions that may overlap: sigmoids instead of a softmax.
        base_features: channels of the finest level; every further level has twice as many.
        mlp_features: hidden width of the transformer's token-wise networks.
        levels: resolutions; fewer if the plan has fewer.

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
        base_features: int = 8,
        mlp_features: int = 4096,
        levels: int = _LEVELS,
    ) -> None:
        features = {"base_features": base_features, "mlp_features": mlp_features}
        strides = checked_strides("M2FTrans", strides, patch_size, levels, **features)
        super().__init__(strides, regions)
        kind = UnitKind(len(patch_size))
        widths = [base_features * 2**level for level in range(len(strides))]
        grid = self.coarsest_grid(patch_size)
        self.encoders = ModalityEncoders(input_channels, kind, widths, strides)
        self.transformer = FusionTransformer(input_channels, widths[-1], grid, mlp_features)
        self.decoder = FusionDecoder(kind, input_channels, widths, num_classes)
        self.separate_decoder = SegmentationDecoder(kind, widths, num_classes)

    def fuse(
        self, levels: list[list[Tensor]], present: Tensor, blank: Tensor, with_further: bool
    ) -> tuple[Tensor, list[Tensor]]:
        of_modalities, fused, weights = self.transformer(levels.pop(), present)
        deepest = list(of_modalities.unbind(1))
        # Taken from the list: where no gradient is asked for, a level's maps make room for its stack.
        stacks = [_weighed(levels.pop(0), present, weights) for _ in range(len(levels))]
        stacks.append(_weighed(deepest, present, weights))
        logits, scale_logits = self.decoder(stacks, fused, present, blank, with_further)
        return logits, scale_logits

    def released_names(self) -> dict[str, str]:
        return _released_names(self)


def _weighed(maps: Sequence[Tensor], present: Tensor, weights: Tensor) -> Tensor:
    """Maps (B, C, ...) of M modalities times the nearest weights of (B, M, *grid): (B, M, C, ...)."""
    stack = stack_present(maps, present)
    weights = F.interpolate(weights, size=stack.shape[3:], mode="nearest")
    return stack.mul_(weights.to(stack.dtype).unsqueeze(2))  # in place: the stack is new and large


class FusionDecoder(nn.Module):
    """Decoder over the weighed maps of all modalities, which it fuses anew at every level.

    Args:
        kind: of the units.
        modalities: M.
        widths: channels per level.
        num_classes: K.
    """

    def __init__(self, kind: UnitKind, modalities: int, widths: Sequence[int], num_classes: int) -> None:
        super().__init__()
        finer = range(max(len(widths) - _ATTENDING, 1))
        self.fusions = nn.ModuleList(
            ConvFusion(kind, modalities, width)
            if level in finer
            else ChannelFusion(kind.dims, modalities, width)
            for level, width in enumerate(widths)
        )
        self.ups = nn.ModuleList(Up(kind, coarse, fine) for fine, coarse in pairwise(widths))
        self.joins = nn.ModuleList(Join(kind, 2 * width, width) for width in widths)
        self.scale_heads = nn.ModuleList(
            ScaleHead(kind, width, hidden=widths[0], num_classes=num_classes) for width in widths
        )
        self.head = kind.conv(widths[0], num_classes, kernel_size=1)

    def forward(
        self, stacks: Sequence[Tensor], fused: Tensor, present: Tensor, blank: Tensor, with_scales: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K, ...), and those of every level at its resolution, finest first, if asked for.

        Args:
            stacks: (B, M, C, ...) per level, absent modalities zero.
            fused: (B, C, ...), map of the fusion tokens.
            present: (B, M) bool.
            blank: (B,) bool, samples in which nothing is to be seen.
            with_scales: compute the logits of the levels.
        """
        x = fused
        scale_logits: list[Tensor] = []
        for level in reversed(range(len(stacks))):
            if level < len(self.ups):
                x = self.ups[level](x, stacks[level].shape[3:])
            if with_scales:
                scale_logits.insert(0, self.scale_heads[level](x, blank))
            x = self.joins[level](self.fusions[level](x, stacks[level], present), x)
        return bias_where_blank(self.head(x), self.head, blank), scale_logits


class ScaleHead(nn.Module):
    """Segments one level of the decoder: (B, C, ...) → logits (B, K, ...)."""

    def __init__(self, kind: UnitKind, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.unit = kind.unit(channels, hidden, kernel_size=1)
        self.classify = kind.conv(hidden, num_classes, kernel_size=1)

    def forward(self, x: Tensor, blank: Tensor) -> Tensor:
        return bias_where_blank(self.classify(self.unit(x)), self.classify, blank)


class ConvFusion(nn.Module):
    """Fuses the modalities' maps (B, M, C, ...) into one (B, C, ...) by convolutions."""

    def __init__(self, kind: UnitKind, modalities: int, channels: int) -> None:
        super().__init__()
        self.units = unit_trio(kind, modalities * channels, channels, channels)

    def forward(self, x: Tensor, stack: Tensor, present: Tensor) -> Tensor:
        """Takes the arguments of :class:`ChannelFusion`; needs the maps alone."""
        return self.units(stack.flatten(1, 2))


def released(patch_size: Sequence[int] = (128, 128, 128), input_channels: int = 4) -> M2FTrans:
    """The published network (v2), 13,489,820 parameters at its patch, in eval mode.

    Channels are FLAIR, T1c, T1, T2; heads are background, necrosis, oedema, enhancing tumour.
    """
    dims = len(patch_size)
    strides = [[1] * dims] + [[2] * dims] * (_LEVELS - 1)
    return M2FTrans(input_channels, 4, patch_size=patch_size, strides=strides).eval()


# Places in a sequence of three convolutions with norms.
_PROJECTION = dict(zip("013467", ("conv1", "norm1", "conv2", "norm2", "conv3", "norm3"), strict=True))
_NETWORK = dict(zip("013467", ("pwconv1", "norm1", "dwconv", "norm2", "pwconv2", "norm3"), strict=True))
_MLP = {"0": "norm", "1": "fn.net.0", "4": "fn.net.3"}


def _released_names(network: M2FTrans) -> dict[str, str]:
    bottleneck = r"^transformer\.layers\.(\d)\."
    attention = "Bottleneck.trans_bottle.cross_attention_list"
    others: dict[str, str | Callable[[re.Match[str]], str]] = {
        r"^transformer\.positions$": "pos",
        r"^transformer\.fusion_tokens$": "fusion",
        bottleneck + r"attention\.norm\.": rf"{attention}.\1.fn.norm.",
        bottleneck + r"attention\.qkv\.": rf"{attention}.\1.fn.fn.qkv.",
        bottleneck + r"attention\.out\.": rf"{attention}.\1.fn.fn.proj.",
        bottleneck + r"mlp\.(\d)\.": (
            lambda found: f"Bottleneck.trans_bottle.cross_ffn_list.{found[1]}.fn.{_MLP[found[2]]}."
        ),
        r"^decoder\.": "decoder_fusion.",
        r"\bscale_heads\.(\d)\.": lambda found: f"prm_fusion{int(found[1]) + 1}.prm_layer.",
        r"\bprm_layer\.unit\.": "prm_layer.0.",
        r"\bprm_layer\.classify\.": "prm_layer.1.",
        r"\bfusions\.(\d)\.units\.": lambda found: f"RFM{int(found[1]) + 1}.fusion_layer.",
        r"\bfusions\.(\d)\.layers\.": lambda found: f"CT{int(found[1]) + 1}.layers.",
        r"\b(mlp|maps_mlp)\.convolutions\.(\d)\.": _released_network,
        r"\battention\.(query|keys|values|out)(?:\.(\d+))?\.(\d)\.(?=weight|bias)": _released_projection,
    }
    return released_names(network, others)


def _released_network(found: re.Match[str]) -> str:
    return f"{'ffn1' if found[1] == 'mlp' else 'ffn2'}.{_NETWORK[found[2]]}."


def _released_projection(found: re.Match[str]) -> str:
    name = {"query": "query_map", "keys": "key_map_", "values": "value_map_", "out": "out_project"}[found[1]]
    if found[2] is not None:
        name += dict(enumerate(RELEASED_MODALITIES)).get(int(found[2]), f"modality{found[2]}")
    return f"cross_attn.{name}.{_PROJECTION[found[3]]}."
