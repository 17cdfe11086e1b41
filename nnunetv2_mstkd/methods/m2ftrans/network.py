"""M2FTrans' network (Shi et al., JBHI 28(1), 2024).

Written anew from a description of github.com/Jun-Jie-Shi/M2FTrans, commit 03a0b28, folder M2FTrans_v2. An
encoder per modality; learnt fusion tokens collect what the deepest maps show, and say where in each modality
they looked: all maps are weighed by that. A decoder fuses them level by level, by attention between channels
at the two coarsest levels and by convolutions at the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.foreign_weights import load_foreign
from nnunetv2_mstkd.architectures.fusion import (
    RELEASED_MODALITIES,
    Join,
    ModalityEncoders,
    SegmentationDecoder,
    UnitKind,
    Up,
    bias_where_blank,
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
from nnunetv2_mstkd.methods.m2ftrans.channel_fusion import ChannelFusion
from nnunetv2_mstkd.methods.m2ftrans.transformer import FusionTransformer

_LEVELS = 5
_ATTENDING = 2  # coarsest levels that are fused by attention; never the finest
_LEAST = 2  # voxels per axis of the coarsest map: reflection needs two


class M2FTrans(nn.Module):
    """Segmentation network with a masked fusion transformer between encoders and decoder.

    Which modalities are there is read from the zeros, see :func:`presence`; an absent one has no influence.
    Any patch works: it is padded with zeros to a multiple of the network's stride, outputs are cropped back,
    and fusion tokens and positions are interpolated where it is not ``patch_size``. Convolutions are
    initialised as released (Kaiming normal, fan-in, gain √2), fusion tokens normal, positions zero.

    Args:
        input_channels: modalities.
        num_classes: heads; with labels the background is one of them.
        patch_size: voxels per axis: fusion tokens and positions are made for it.
        strides: of the plan, per stage and axis; the first ``levels`` are taken.
        regions: heads are regions that may overlap: sigmoids instead of a softmax.
        base_features: channels of the finest level; every further level has twice as many.
        mlp_features: hidden width of the transformer's token-wise networks.
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
        base_features: int = 8,
        mlp_features: int = 4096,
        levels: int = _LEVELS,
    ) -> None:
        super().__init__()
        strides = [tuple(int(s) for s in stride) for stride in strides[:levels]]
        dims = len(patch_size)
        if len(strides) < 2 or min(base_features, mlp_features) < 1 or any(len(s) != dims for s in strides):
            raise MSTKDError(
                f"M2FTrans cannot be built with strides {strides}, patch_size {list(patch_size)},"
                f" base_features {base_features} and mlp_features {mlp_features}; give 2 stages or more, a"
                " stride per axis, 1 feature or more"
            )
        kind = UnitKind(dims)
        widths = [base_features * 2**level for level in range(len(strides))]
        self.regions = regions
        self.total_stride = tuple(prod(of_axis) for of_axis in zip(*strides, strict=True))
        grid = [max(-(-n // s), _LEAST) for n, s in zip(patch_size, self.total_stride, strict=True)]
        self.encoders = ModalityEncoders(input_channels, kind, widths, strides)
        self.transformer = FusionTransformer(input_channels, widths[-1], grid, mlp_features)
        self.decoder = FusionDecoder(kind, input_channels, widths, num_classes)
        self.separate_decoder = SegmentationDecoder(kind, widths, num_classes)

    def forward(
        self, x: Tensor, return_taps: Request = False, present: Tensor | None = None
    ) -> Tensor | NetworkTaps:
        """Logits (B, K, *patch), without a nonlinearity.

        Args:
            x: (B, M, *patch); absent modalities are zero.
            return_taps: return :class:`NetworkTaps` with full-resolution logits (B, K, *patch) in ``inner``:
                ``separate``, of every modality on its own, and ``scales``, of every level, finest first.
            present: (B, M) bool, which of the modalities that ``x`` shows the fusion may see; all by default.
                So in the released training: ``separate`` learns from all modalities, whatever the mask hides.

        A sample that shows nothing, and ``separate`` of a channel of zeros, has the head's bias everywhere
        and no gradient, see :func:`bias_where_blank`.
        """
        there = shown(x)
        present = presence(x) if present is None else present & presence(x)
        padded, crop = pad_to_multiple(x, self.total_stride, _LEAST)
        levels = self.encoders(padded)
        inner: dict[str, TensorOrList] = {}
        if wants(return_taps, "separate"):
            separate = separate_segmentations(self.separate_decoder, levels, ~there)
            inner["separate"] = [logits[crop] for logits in separate]
        with_scales = wants(return_taps, "scales")
        of_modalities, fused, weights = self.transformer(levels.pop(), present)
        deepest = list(of_modalities.unbind(1))
        # Taken from the list: where no gradient is asked for, a level's maps make room for its stack.
        stacks = [_weighed(levels.pop(0), present, weights) for _ in range(len(levels))]
        stacks.append(_weighed(deepest, present, weights))
        blank = ~(there & present).any(1)
        logits, scale_logits = self.decoder(stacks, fused, present, blank, with_scales)
        if return_taps is False:
            return logits[crop]
        if with_scales:
            full = (upsampled_logits(maps, padded.shape[2:], self.regions) for maps in scale_logits)
            inner["scales"] = [maps[crop] for maps in full]
        return NetworkTaps(logits[crop], inner)

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the authors' code, in its keys, with or without their ``module.`` in front.

        Raises:
            MSTKDError: keys are missing or unknown, or shapes differ; names the first few.
        """
        load_foreign(self, _released_names(self), state_dict)


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
