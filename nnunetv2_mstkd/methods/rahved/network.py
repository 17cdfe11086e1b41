"""RA-HVED's network: a variational encoder per modality, fused by a product of experts at every level.

Written anew from a description of github.com/ssjx10/RA-HVED, commit 23a1543 ("Region-of-interest attentive
heteromodal variational encoder-decoder for segmentation with missing modalities").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from dynamic_network_architectures.building_blocks.helper import (
    convert_dim_to_conv_op,
    get_matching_pool_op,
)
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.foreign_weights import load_foreign
from nnunetv2_mstkd.architectures.presence import shown
from nnunetv2_mstkd.architectures.shapes import checked_strides
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, wants
from nnunetv2_mstkd.methods.rahved.attention import RegionAttention
from nnunetv2_mstkd.methods.rahved.layers import (
    DoubleConv,
    FirstLevel,
    NormActivation,
    NormedConv,
    make_conv,
    upsample,
)
from nnunetv2_mstkd.methods.rahved.posterior import drawn, product_of_experts

RECONSTRUCTION = "reconstruction"
_LEVELS = 4
# An axis is halved once more for the latent if it has so many voxels at that level.
_SMALLEST_HALVED = 4
_LATENT_SHARE = 4  # channels of a level per channel of its latent
Size = tuple[int, ...]


class RAHVED(nn.Module):
    """Heteromodal variational encoder-decoder with attention to the region of interest.

    ::

        modality ─ encoder ─ Gaussians per level ─┐
        modality ─ encoder ─ Gaussians per level ─┼─ product ─ sample ─ expand ─ skips ─┬─ decoder ─ logits
            ⋮                     unit prior ─────┘                                     └─ a decoder per
                                                                                   modality ─ reconstruction

    Nothing else leads from the encoders to the decoders: everything passes the latents. In training mode they
    are sampled, with noise from torch's generator; in eval mode they are the product's mean.

    Which modalities are there is read from the zeros; an absent one is no expert of the product and has no
    influence. A patch that is zero everywhere leaves the prior alone, as in the
    released code. Any patch works: strided layers round up, upsampled maps are cropped to the size of the
    level.

    Taps: ``reconstruction`` (B, M, *patch), all modalities, absent ones too; its decoders, three fifths of
    the whole computation, run only if it is asked for. ``posterior_means`` and ``posterior_log_variances``,
    of the product: one (B, C, *latent) per level, finest first, in float32.

    Args:
        input_channels: modalities, M.
        num_classes: heads.
        patch_size: voxels per axis; decides which axes of a latent are halved.
        strides: of the plan, per stage and axis; the first ``levels`` are taken.
        base_features: channels of the finest level; every further level has twice as many.
        levels: resolutions; fewer if the plan has fewer.
        dropout: of whole channels of an encoder's first maps.

    Raises:
        MSTKDError: a value that no network can be built from.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        base_features: int = 16,
        levels: int = _LEVELS,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        dims = len(patch_size)
        self.strides = checked_strides(
            "RA-HVED", strides, patch_size, levels, least=2, base_features=base_features
        )
        widths = [base_features * 2**level for level in range(len(self.strides))]
        self.latent_strides = [
            tuple(2 if n >= _SMALLEST_HALVED else 1 for n in size) for size in self._sizes(patch_size)
        ]
        self.encoders = nn.ModuleList(
            ModalityEncoder(dims, widths, self.strides, self.latent_strides, dropout)
            for _ in range(input_channels)
        )
        self.fusions = nn.ModuleList(
            Fusion(dims, width, stride) for width, stride in zip(widths, self.latent_strides, strict=True)
        )
        self.decoder = SegmentationDecoder(dims, widths, self.strides, num_classes)
        self.reconstruction_decoders = nn.ModuleList(
            ReconstructionDecoder(dims, widths, self.strides) for _ in range(input_channels)
        )

    def forward(self, x: Tensor, return_taps: Request = False) -> Tensor | NetworkTaps:
        """Logits (B, K, *patch) without a nonlinearity, and on request what training looks at.

        Args:
            x: (B, M, *patch); absent modalities are zero.
            return_taps: return :class:`NetworkTaps`, of everything (``True``) or of the taps named.
        """
        channels = x.split(1, dim=1)
        encoded = [encoder(channel) for encoder, channel in zip(self.encoders, channels, strict=True)]
        present, even = shown(x), _is_even(x)
        means, log_variances, skips = [], [], []
        for level, size in enumerate(self._sizes(x.shape[2:])):
            # Of an even image every norm's gradient is rounding noise times 300, level after level.
            experts = _without_gradient(torch.stack([maps[level] for maps in encoded], dim=1), even)
            expert_means, expert_log_variances = experts.chunk(2, dim=2)
            mean, log_variance = product_of_experts(expert_means, expert_log_variances, present)
            latent = drawn(mean, log_variance) if self.training else mean
            means.append(mean)
            log_variances.append(log_variance)
            skips.append(self.fusions[level](latent, size))
        logits = self.decoder(skips)
        if return_taps is False:
            return logits
        inner: dict[str, Tensor | list[Tensor]] = {
            "posterior_means": means,
            "posterior_log_variances": log_variances,
        }
        if wants(return_taps, RECONSTRUCTION):
            images = [decoder(skips) for decoder in self.reconstruction_decoders]
            inner[RECONSTRUCTION] = torch.cat(images, dim=1)
        return NetworkTaps(logits, inner)

    def _sizes(self, size: Sequence[int]) -> list[Size]:
        """Voxels per axis of every level."""

        def strided(finer: Size, stride: Size) -> Size:
            return tuple(-(-n // s) for n, s in zip(finer, stride, strict=True))

        return list(accumulate(self.strides[1:], strided, initial=tuple(size)))

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the authors' code, in its keys, with or without a ``module.`` in front.

        Raises:
            MSTKDError: keys are missing or unknown, or shapes differ; names the first few.
        """
        load_foreign(self, released_names(self), state_dict)


class ModalityEncoder(nn.Module):
    """Encoder of one modality: (B, 1, ...) → per level a Gaussian, mean and log-variance side by side.

    Args:
        dims: 2 or 3.
        widths: channels per level.
        strides: per level and axis; max-pooling.
        latent_strides: of each level's Gaussian, per axis.
        dropout: probability of a channel of the first maps.
    """

    def __init__(
        self,
        dims: int,
        widths: Sequence[int],
        strides: Sequence[Size],
        latent_strides: Sequence[Size],
        dropout: float,
    ) -> None:
        super().__init__()
        pool = get_matching_pool_op(convert_dim_to_conv_op(dims), pool_type="max")
        self.pools = nn.ModuleList(pool(stride, stride, ceil_mode=True) for stride in strides[1:])
        self.levels = nn.ModuleList([FirstLevel(dims, widths[0], dropout)])
        # The first convolution of a level has half of its channels: as many as the level before.
        self.levels.extend(DoubleConv(dims, before, before, width) for before, width in pairwise(widths))
        self.posteriors = nn.ModuleList(
            NormedConv(dims, width, 2 * latent_channels(width), stride, overwrite=True)
            for width, stride in zip(widths, latent_strides, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Per level (B, 2·C, ...), finest first."""
        x = self.levels[0](image)
        gaussians = []
        for pool, level, posterior in zip(self.pools, self.levels[1:], self.posteriors, strict=False):
            pooled = pool(x)
            gaussians.append(posterior(x))  # overwrites x
            x = level(pooled)
        return [*gaussians, self.posteriors[-1](x)]


class Fusion(nn.Module):
    """Latent of one level → its skip: expanded to the level's channels, upsampled, smoothed each on its own.

    Args:
        dims: 2 or 3.
        channels: of the level.
        stride: from the latent to the level, per axis.
    """

    def __init__(self, dims: int, channels: int, stride: Size) -> None:
        super().__init__()
        self.stride = stride
        latent = latent_channels(channels)
        self.expand = nn.Sequential(
            make_conv(dims, latent, channels, kernel_size=1, bias=False),
            NormActivation(dims, channels, overwrite=True),
        )
        self.smooth = nn.Sequential(
            make_conv(dims, channels, channels, groups=channels, bias=False),
            NormActivation(dims, channels, overwrite=True),
        )

    def forward(self, latent: Tensor, size: Size) -> Tensor:
        return self.smooth(upsample(self.expand(latent), self.stride, size))


class SegmentationDecoder(nn.Module):
    """Skips, finest first → logits (B, K, ...); attends to the region of interest at every step.

    Args:
        dims: 2 or 3.
        widths: channels per level.
        strides: per level and axis.
        num_classes: K.
    """

    def __init__(self, dims: int, widths: Sequence[int], strides: Sequence[Size], num_classes: int) -> None:
        super().__init__()
        self.strides = strides
        self.steps = _decoder_steps(dims, widths)
        self.attention = nn.ModuleList(RegionAttention(dims) for _ in self.steps)
        self.head = make_conv(dims, widths[0], num_classes, kernel_size=1)

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        *finer, x = skips
        upwards = zip(reversed(finer), reversed(self.strides), self.attention, self.steps, strict=False)
        for skip, stride, attend, step in upwards:
            x = step(attend(upsample(x, stride, skip.shape[2:]), skip))
        return self.head(x)


class ReconstructionDecoder(nn.Module):
    """Skips, finest first → the image of one modality (B, 1, ...); only training needs it.

    Args:
        dims: 2 or 3.
        widths: channels per level.
        strides: per level and axis.
    """

    def __init__(self, dims: int, widths: Sequence[int], strides: Sequence[Size]) -> None:
        super().__init__()
        self.strides = strides
        self.steps = _decoder_steps(dims, widths)
        self.head = make_conv(dims, widths[0], 1, kernel_size=1)

    def forward(self, skips: Sequence[Tensor]) -> Tensor:
        *finer, x = skips
        for skip, stride, step in zip(reversed(finer), reversed(self.strides), self.steps, strict=False):
            x = step(torch.cat((skip, upsample(x, stride, skip.shape[2:])), dim=1))
        return self.head(x)


def _decoder_steps(dims: int, widths: Sequence[int]) -> nn.ModuleList:
    """From joined maps to those of the finer level, coarsest first."""
    pairs = zip(reversed(widths[:-1]), reversed(widths[1:]), strict=True)
    return nn.ModuleList(
        DoubleConv(dims, fine + coarse, fine, fine, overwrite=True) for fine, coarse in pairs
    )


def latent_channels(channels: int) -> int:
    """Channels of the latent of a level with ``channels``."""
    return max(channels // _LATENT_SHARE, 1)


def _is_even(x: Tensor) -> Tensor:
    """Channels (B, M) bool of ``x`` (B, M, ...) that have one value everywhere."""
    voxels = x.flatten(2)
    return (voxels == voxels[..., :1]).all(2)


def _without_gradient(x: Tensor, where: Tensor) -> Tensor:
    """``x`` (B, M, C, ...), with exactly zero gradient where ``where`` (B, M) bool."""
    return torch.where(where.view(*where.shape, *[1] * (x.ndim - 2)), x.detach(), x)


def released(patch_size: Sequence[int] = (112, 112, 112), input_channels: int = 4) -> RAHVED:
    """The published network, 5,915,285 parameters, in eval mode.

    Channels are T1c, T1, T2, FLAIR; heads are whole tumour, tumour core, enhancing tumour.
    """
    dims = len(patch_size)
    strides = [[1] * dims] + [[2] * dims] * (_LEVELS - 1)
    return RAHVED(input_channels, 3, patch_size=patch_size, strides=strides).eval()


_RELEASED = {
    r"^encoders\.(\d+)\.levels\.0\.stem\.conv": r"init_blocks.\1.0",
    r"^(encoders\.\d+\.levels\.0\.first)\.": r"\1.conv.",
    r"^encoders\.(\d+)\.posteriors\.(\d+)": r"DRBs.\2.\1.0",
    r"^encoders\.(\d+)\.levels\.(\d+)": r"encoders.\2.\1.basic_module.0",
    r"^fusions\.(\d+)\.expand\.0": r"VU_blocks.\1.0.conv",
    r"^fusions\.(\d+)\.smooth\.0": r"conv_blocks.\1.conv",
    r"^decoder\.steps\.(\d+)": r"decoders.\1.basic_module",
    r"^decoder\.attention\.(\d+)": r"decoders.\1.atten_module",
    r"\bskip_gate\.look": "enc_spatial",
    r"\bskip_gate\.join": "enc_spatial2",
    r"\bdecoder_gate\.look": "seg_spatial",
    r"\bdecoder_gate\.join": "seg_spatial2",
    r"^decoder\.head": "final_conv",
    r"^reconstruction_decoders\.(\d+)\.steps\.(\d+)": r"rdecoder.multi_decoders.\1.\2.basic_module",
    r"^reconstruction_decoders\.(\d+)\.head": r"rdecoder.finals.\1",
    r"\bfirst\b": "SingleConv1",
    r"\bsecond\b": "SingleConv2",
}


def released_names(network: RAHVED) -> dict[str, str]:
    """Key in our state dict → key in the authors' checkpoints."""
    names = {}
    for key in network.state_dict():
        name = key
        for pattern, replacement in _RELEASED.items():
            name = re.sub(pattern, replacement, name)
        names[key] = name
    return names
