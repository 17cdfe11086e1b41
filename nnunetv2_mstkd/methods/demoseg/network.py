"""DeMoSeg's network (Yang et al., BIBM 2024).

Written anew from a description of github.com/kk42yy/DeMoSeg, commit 73cd4bb. Every modality has a stem whose
channels are blocks, one for each modality: what it shows itself, and what it lends to the others. The first
stage of nnU-Net's U-Net is put together from one block per modality; an absent one's is borrowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_convtransp,
)
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.blocks import Layers
from nnunetv2_mstkd.architectures.lenders import best_present, lender_table, lenders_by_name
from nnunetv2_mstkd.architectures.presence import presence
from nnunetv2_mstkd.architectures.shapes import checked_strides
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, TensorOrList, wants
from nnunetv2_mstkd.architectures.without_gradients import no_gradients
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.demoseg.blocks import (
    CHANNEL_ORDERS,
    RELEASED_ORDER,
    ShuffledBlock,
    conv_norm_nonlin,
)

EXPRESSED = "expressed"
RELEASED_MODALITIES = ("t1n", "t1c", "t2w", "t2f")
_RELEASED_STAGES = 6
_MOST_FEATURES = 320
_NORMS = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class DeMoSeg(nn.Module):
    """nnU-Net's U-Net behind stems that lend features to each other.

    ::

        modality k ─ conv, norm ─ shuffled block ─ M blocks: one for itself, one for each other
        first stage = for each m: block for m of m itself, or of the first of m's lenders that is there

    Which modalities are there is read from the zeros, see :func:`presence`; an absent one has no influence:
    no block of its stem is taken. Nothing else in the network knows what is absent. Any patch works: a stride
    maps n voxels to ceil(n / stride), the decoder goes back to the size of its skip.

    Its tap is ``expressed``: of each modality (B, M, c, ...), its blocks behind the stem's first norm.

    Args:
        input_channels: modalities, M.
        num_classes: heads, K; with labels the background is one of them.
        patch_size: voxels per axis; only the number of axes matters here.
        strides: of the plan, per stage and axis.
        kernel_sizes: likewise; 3 everywhere by default.
        base_features: channels of the first stage, rounded up to a multiple of M; every further stage has
            twice as many, 320 at most.
        modalities: names in channel order; without them no lender is preferred by its name.
        lenders: see :func:`lenders_by_name`.
        channel_order: of every :class:`ShuffledBlock`, ``released`` or ``fixed``.
        deep_supervision: ``forward`` returns the logits of every decoder stage; may be set later at
            ``decoder.deep_supervision``.

    Raises:
        MSTKDError: sizes that no network can be built from, or names that are not there.
    """

    lenders: Tensor

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        kernel_sizes: Sequence[Sequence[int]] | None = None,
        base_features: int = 32,
        modalities: Sequence[str] | None = None,
        lenders: Mapping[str, Sequence[str]] | None = None,
        channel_order: str = RELEASED_ORDER,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        strides = checked_strides("DeMoSeg", strides, patch_size, len(strides), base_features=base_features)
        if channel_order not in CHANNEL_ORDERS:
            raise MSTKDError(f"channel_order is '{channel_order}'; give one of {', '.join(CHANNEL_ORDERS)}")
        dims = len(patch_size)
        layers = Layers(
            convert_dim_to_conv_op(dims), _NORMS[dims], {"affine": True}, nn.LeakyReLU, {"inplace": True}
        )
        kernels = kernel_sizes or [[3] * dims] * len(strides)
        widths = [min(base_features * 2**stage, _MOST_FEATURES) for stage in range(len(strides))]
        widths[0] = -(-widths[0] // input_channels) * input_channels
        table = _table(input_channels, modalities, lenders)
        self.register_buffer("lenders", table, persistent=False)
        self.stems = nn.ModuleList(
            Stem(layers, input_channels, widths[0], kernels[0], strides[0], channel_order)
            for _ in range(input_channels)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                conv_norm_nonlin(layers, widths[s - 1], widths[s], kernels[s], strides[s]),
                ShuffledBlock(layers, widths[s], kernels[s], channel_order),
            )
            for s in range(1, len(strides))
        )
        self.decoder = Decoder(layers, widths, kernels, strides, num_classes, channel_order, deep_supervision)
        self.apply(InitWeights_He(1e-2))

    def forward(self, x: Tensor, return_taps: Request = False) -> TensorOrList | NetworkTaps:
        """Logits (B, K, *patch) without a nonlinearity; with deep supervision a list, finest first.

        Args:
            x: (B, M, *patch); absent modalities are zero.
            return_taps: return :class:`NetworkTaps`.
        """
        there = presence(x)
        needed = [True] * len(self.stems)
        if no_gradients() and return_taps is False and not x.is_meta:
            needed = there.any(0).tolist()
        stems = {m: stem for m, (stem, runs) in enumerate(zip(self.stems, needed, strict=True)) if runs}
        shows = {m: stem(x[:, m : m + 1]) for m, stem in stems.items()}
        blocks = {m: of_one for m, (_, of_one) in shows.items()}
        skips = [assemble(blocks, best_present(self.lenders, there))]
        for stage in self.stages:
            skips.append(stage(skips[-1]))
        logits = self.decoder(skips)
        if return_taps is False:
            return logits
        inner: dict[str, TensorOrList] = {}
        if wants(return_taps, EXPRESSED):
            inner[EXPRESSED] = [expressed for expressed, _ in shows.values()]
        return NetworkTaps(logits, inner)


def assemble(blocks: Mapping[int, Tensor], lender: Tensor) -> Tensor:
    """One block per modality, each from its lender: (B, M·c, ...).

    Args:
        blocks: by lender, (B, M, c, ...): its block for each modality.
        lender: channel (B, M) that each modality's block comes from; all of them are in ``blocks``.
    """
    (_, chosen), *others = blocks.items()
    for k, of_lender in others:
        chosen = torch.where((lender == k).view(*lender.shape, *[1] * (chosen.ndim - 2)), of_lender, chosen)
    return chosen.flatten(1, 2)


class Stem(nn.Module):
    """Turns one modality into blocks, one for each modality, in the order of the channels.

    Args:
        layers: what to build it from.
        modalities: M.
        channels: of all blocks, a multiple of M.
        kernel_size, stride: of the first convolution, per axis.
        channel_order: see :class:`ShuffledBlock`.
    """

    def __init__(
        self,
        layers: Layers,
        modalities: int,
        channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        channel_order: str,
    ) -> None:
        super().__init__()
        self.modalities = modalities
        self.first = conv_norm_nonlin(layers, 1, channels, kernel_size, stride)
        self.shuffled = ShuffledBlock(layers, channels, kernel_size, channel_order)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Blocks (B, M, c, ...) of the modality (B, 1, ...), behind the first norm and at the end."""
        first = self.first(x)
        blocks = (self.modalities, -1)
        return first.unflatten(1, blocks), self.shuffled(first).unflatten(1, blocks)


class DecoderStage(nn.Module):
    """Upsamples, puts the skip beside it, and mixes both."""

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        channels: int,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        channel_order: str,
    ) -> None:
        super().__init__()
        transposed = get_matching_convtransp(layers.conv_op)
        self.up = transposed(in_channels, channels, stride, stride, bias=False)
        self.mix = nn.Sequential(
            conv_norm_nonlin(layers, 2 * channels, channels, kernel_size),
            ShuffledBlock(layers, channels, kernel_size, channel_order),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = self.up(x)[(..., *(slice(0, n) for n in skip.shape[2:]))]
        return self.mix(torch.cat((up, skip), dim=1))


class Decoder(nn.Module):
    """nnU-Net's decoder, its second blocks shuffled, with a head at every resolution but the lowest.

    Args:
        layers: what to build it from.
        widths, kernel_sizes, strides: per stage of the encoder.
        num_classes: K.
        channel_order: see :class:`ShuffledBlock`.
        deep_supervision: return every head's logits; may be set later.
    """

    def __init__(
        self,
        layers: Layers,
        widths: Sequence[int],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        num_classes: int,
        channel_order: str,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        finer = range(len(widths) - 1)
        self.stages = nn.ModuleList(
            DecoderStage(layers, widths[s + 1], widths[s], kernel_sizes[s], strides[s + 1], channel_order)
            for s in finer
        )
        self.heads = nn.ModuleList(
            layers.conv_op(widths[s], num_classes, kernel_size=1, bias=False) for s in finer
        )
        if not deep_supervision:
            # They would get no gradient, and DDP waits for every parameter that asks for one.
            self.heads[1:].requires_grad_(False)

    def forward(self, skips: Sequence[Tensor]) -> TensorOrList:
        """Logits (B, K, ...) from the maps of all stages, finest first; or those of every head."""
        *finer, x = skips
        decoded: list[Tensor] = []
        for stage, skip in zip(reversed(self.stages), reversed(finer), strict=True):
            x = stage(x, skip)
            decoded.insert(0, x)
        if not self.deep_supervision:
            return self.heads[0](x)
        return [head(of_stage) for head, of_stage in zip(self.heads, decoded, strict=True)]


def _table(
    channels: int, modalities: Sequence[str] | None, lenders: Mapping[str, Sequence[str]] | None
) -> Tensor:
    names = list(modalities or [f"channel {channel}" for channel in range(channels)])
    if len(names) != channels:
        raise MSTKDError(
            f"the setting 'modalities' of the plans names {', '.join(names)}, but the data set has {channels}"
            " channels; leave it out, training writes it"
        )
    return lender_table(names, lenders_by_name(names, lenders))


def released(patch_size: Sequence[int] = (128, 128, 128), input_channels: int = 4) -> DeMoSeg:
    """The published network, 31,527,192 parameters at four classes, in eval mode.

    Channels are T1, T1c, T2, FLAIR; heads are background, necrosis, oedema, enhancing tumour.
    """
    dims = len(patch_size)
    strides = [[1] * dims] + [[2] * dims] * (_RELEASED_STAGES - 1)
    names = RELEASED_MODALITIES if input_channels == len(RELEASED_MODALITIES) else None
    return DeMoSeg(input_channels, 4, patch_size=patch_size, strides=strides, modalities=names).eval()
